//! The core's executor: the engine, its disk, and the way to the shards.

use std::{
    cell::Cell,
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::atomic::Ordering,
    task::Poll,
    time::Duration,
};

use net::io::{Acceptor, Listener, peer_door};
use storage::io::GlommioDisk;

use super::{
    MAILBOX_CAPACITY, Ready, ShardSeed, Shared, StartError, builder, corruption, die, die_of_damage, identity,
    mailbox::{Receiver, Sender, mailbox},
    now_ns, options,
    pause::{Turn, breathe, with_points},
    peers::Peers,
    quiet::Quiet,
    roster::RosterWriter,
    shard_loop, unix_ms,
};
use crate::{
    api::FromCore,
    bell::Bell,
    config::features::INITIAL_CORRUPT_CHECK,
    latest::Slot,
    member::{Engine, Event, MemberInfo, Outgrown, Outputs, Published, Reply, Roster, View},
};

/// A shard whose mailbox holds this many messages gets no more blocks: it reads history instead.
const LAG_MESSAGES: usize = 4096;
/// The shortest sleep of the ticker.
const TICK_MIN: Duration = Duration::from_millis(1);
/// The longest.
const TICK_MAX: Duration = Duration::from_millis(100);
/// So long the core may spin for a write of the log when there is nothing else to do. A disk that takes longer is waited
/// for asleep.
const LONE_WRITE_PATIENCE: Duration = Duration::from_micros(300);
/// No view is held for longer, but by what reads a whole state.
const VIEW_MAX: Duration = Duration::from_secs(1);
/// A stopping core gives the tree this long to take everything in.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The way to one shard.
struct ToShard {
    sender: Sender<FromCore>,
    wants_blocks: std::sync::Arc<std::sync::atomic::AtomicBool>,
    /// Last revision withheld from it.
    lagged: Option<i64>,
    replies: Vec<Reply>,
}

struct Core {
    shared: Shared,
    engine: Engine,
    disk: GlommioDisk,
    slot: Slot<View>,
    inbox: Receiver<Event>,
    peers: Peers,
    roster: RosterWriter,
    shards: Vec<ToShard>,
    bell: Bell,
    deadline_ns: Rc<Cell<u64>>,
    /// How many events the last turn took.
    taken: usize,
    quiet: Quiet,
    /// When a member that stops no longer waits for another to lead; none before the stop.
    resigned_ns: Option<u64>,
}

/// Boots the member, starts the shards, serves until told to stop.
pub async fn run(mut shared: Shared, alone: bool, peer_listeners: Vec<Listener>, ready: Ready) {
    // What comes in while there is no leader yet is for the turns after that, too.
    let mut events = Vec::new();
    let (mut core, _acceptor) = match boot(&mut shared).await {
        Ok((mut core, seeds)) => match start_shards(&shared, alone, seeds) {
            Ok(intakes) => {
                // Other members are let in at once: without them there may be no leader.
                let door = peer_door(intakes.clone(), shared.connections_max, core.peers.door());
                let acceptor = match Acceptor::start(peer_listeners, vec![door], usize::MAX) {
                    Ok(acceptor) => acceptor,
                    Err(error) => return drop(ready.send(Err(StartError::Executor(error.to_string())))),
                };
                // Clients are let in once the member can answer.
                core.elect(&mut events).await;
                if ready.send(Ok(intakes)).is_err() {
                    return;
                }
                (core, acceptor)
            }
            Err(error) => return drop(ready.send(Err(error))),
        },
        Err(error) => return drop(ready.send(Err(error))),
    };
    core.serve(events).await;
}

async fn boot(shared: &mut Shared) -> Result<(Core, Vec<ShardSeed>), StartError> {
    let path = shared.config.data_dir.clone();
    let failed = |error| StartError::Boot {
        path: path.clone(),
        error,
    };
    let mut disk = GlommioDisk::new(&path).await.map_err(|error| failed(error.into()))?;
    let mut birth = identity::resolve(&shared.config, &mut disk, &shared.stop).await?;
    let start = |birth: &identity::Birth, disk: &mut GlommioDisk| {
        let seed = unix_ms() ^ birth.identity.member_id;
        let member = options::member(&shared.config, birth, seed);
        Engine::boot(disk, member, shared.core_metrics.clone(), now_ns()).map_err(failed)
    };
    let mut engine = start(&birth, &mut disk)?;
    if birth.knows_nobody() && engine.is_blank() {
        // It ended in its very first start, between making the log and writing to it.
        drop((engine, disk));
        disk = GlommioDisk::new(&path).await.map_err(|error| failed(error.into()))?;
        birth = identity::first(&shared.config, &shared.stop).await?;
        engine = start(&birth, &mut disk)?;
    }
    shared.identity = birth.identity;
    if birth.restarts && !engine.is_refilling() && shared.config.features.is_on(INITIAL_CORRUPT_CHECK) {
        corruption::check_at_start(shared, &engine.view()).await?;
    }
    let slot = Slot::new(engine.view());
    let (to_core, inbox) = mailbox(MAILBOX_CAPACITY);
    let (mut shards, mut seeds) = (Vec::new(), Vec::new());
    for (index, wants_blocks) in shared.wants_blocks.iter().enumerate() {
        let (sender, from_core) = mailbox(MAILBOX_CAPACITY);
        shards.push(ToShard {
            sender,
            wants_blocks: wants_blocks.clone(),
            lagged: None,
            replies: Vec::new(),
        });
        let (slot, pins, hashes) = (slot.clone(), engine.pins(), engine.hashes());
        seeds.push(ShardSeed {
            index,
            slot,
            pins,
            hashes,
            to_core: to_core.clone(),
            from_core,
        });
    }
    let mut first = by_id(birth.members.clone());
    if engine.is_refilling() {
        // Flags may have changed since; what the tree knew is beside it.
        let known = Roster::read(&mut disk).map_err(|error| failed(error.into()))?;
        first.extend(by_id(known.members));
    }
    let mut peers = Peers::new(
        birth.identity,
        &shared.config,
        first,
        to_core,
        shared.core_metrics.clone(),
    );
    peers.follow(&engine.view().members);
    let (bell, deadline_ns) = (Bell::default(), Rc::new(Cell::new(0)));
    glommio::spawn_local(tick(bell.clone(), deadline_ns.clone())).detach();
    Ok((
        Core {
            shared: shared.clone(),
            engine,
            disk,
            slot,
            inbox,
            peers,
            roster: RosterWriter::new(path.clone()),
            shards,
            bell,
            deadline_ns,
            taken: 0,
            quiet: Quiet::default(),
            resigned_ns: None,
        },
        seeds,
    ))
}

/// The peer URLs of each.
fn by_id(members: Vec<MemberInfo>) -> BTreeMap<u64, Vec<String>> {
    let members = members.into_iter();
    members.map(|member| (member.id, member.peer_urls)).collect()
}

/// Rings when the engine's next deadline has come.
async fn tick(bell: Bell, deadline_ns: Rc<Cell<u64>>) {
    loop {
        let left = Duration::from_nanos(deadline_ns.get().saturating_sub(now_ns()));
        glommio::timer::sleep(left.clamp(TICK_MIN, TICK_MAX)).await;
        if deadline_ns.get() <= now_ns() + TICK_MIN.as_nanos() as u64 {
            bell.ring();
        }
    }
}

/// Frees a state that was replaced, on a thread of its own: the one that may block also makes room for the log.
fn let_go(outgrown: Outgrown) {
    let task = async move {
        // Whoever has a view of it has it for a turn. The last one to let go frees it, and that is to be the thread.
        glommio::timer::sleep(VIEW_MAX).await;
        let freed = std::thread::Builder::new().name("outgrown".into());
        if let Err(error) = freed.spawn(move || drop(outgrown)) {
            tracing::warn!(%error, "no thread to free the state that a snapshot replaced: the core has done it");
        }
    };
    glommio::spawn_local(task).detach();
}

/// Starts one shard on this executor, or each on its own.
fn start_shards(shared: &Shared, alone: bool, seeds: Vec<ShardSeed>) -> Result<Vec<net::io::Intake>, StartError> {
    if alone {
        return Ok(seeds
            .into_iter()
            .map(|seed| shard_loop::start(shared.clone(), seed))
            .collect());
    }
    let mut intakes = Vec::new();
    for seed in seeds {
        let (shared, (tell, told)) = (shared.clone(), std::sync::mpsc::channel());
        let body = move || {
            let name = format!("shard-{}", seed.index);
            match builder(&name, &shared.config.clone()).make() {
                Ok(executor) => executor.run(async move {
                    let live = shared.live_shards.clone();
                    let _ = tell.send(Ok(shard_loop::start(shared, seed)));
                    // The shard's own tasks do the work; this one keeps the executor until they have ended.
                    shard_loop::ended(&live).await;
                }),
                Err(error) => drop(tell.send(Err(error.to_string()))),
            }
        };
        let thread = std::thread::Builder::new().name("shard".into());
        thread
            .spawn(body)
            .map_err(|error| StartError::Executor(error.to_string()))?;
        let intake = told.recv().unwrap_or_else(|_| Err("it ended at once".into()));
        intakes.push(intake.map_err(StartError::Executor)?);
    }
    Ok(intakes)
}

impl Core {
    /// Runs turns until a leader is known, at most for two election time-outs; then, while there is one, until the member
    /// has its state and the cluster lists it under its name: whoever asks for the members of a cluster whose members all
    /// say that they are ready finds every name and URL, and one that joins has caught up.
    async fn elect(&mut self, events: &mut Vec<Event>) {
        let give_up_ns = now_ns() + 2 * self.shared.config.election_timeout_ms * 1_000_000;
        let waits = |core: &Core| match core.engine.view().leader {
            _ if core.shared.stop.load(Ordering::Relaxed) => false,
            _ if core.engine.is_refilling() => true,
            0 => now_ns() < give_up_ns,
            _ => !core.engine.is_listed(),
        };
        while waits(self) {
            let more = self.turn(events).await;
            if more {
                breathe().await;
            } else {
                self.wait(events).await;
            }
        }
    }

    async fn serve(&mut self, mut events: Vec<Event>) {
        let mut turn = Turn::new();
        while !self.is_over() {
            self.resign_once();
            if self.turn(&mut events).await {
                if turn.spent() {
                    breathe().await;
                    turn = Turn::new();
                } else {
                    glommio::executor().yield_now().await;
                }
            } else {
                self.wait(&mut events).await;
                turn = Turn::new();
            }
        }
        self.peers.close();
        self.settle().await;
    }

    fn is_over(&self) -> bool {
        let stopped = self.shared.stop.load(Ordering::Relaxed) && self.shared.live_shards.load(Ordering::SeqCst) == 0;
        stopped && !self.is_handing_over()
    }

    /// The first time after a stop was asked for: begins to hand leadership to another member.
    fn resign_once(&mut self) {
        if self.resigned_ns.is_none() && self.shared.stop.load(Ordering::Relaxed) {
            let wait_ns = match self.engine.resign() {
                true => self.shared.config.election_timeout_ms * 1_000_000,
                false => 0,
            };
            self.resigned_ns = Some(now_ns() + wait_ns);
        }
    }

    fn is_handing_over(&self) -> bool {
        let leads = self.engine.view().leader == self.engine.member_id();
        leads && self.resigned_ns.is_none_or(|give_up_ns| now_ns() < give_up_ns)
    }

    /// One turn of the engine; true when another should follow soon.
    async fn turn(&mut self, events: &mut Vec<Event>) -> bool {
        self.inbox.try_recv_batch(events);
        self.taken = events.len();
        let (mut out, began_ns) = (Outputs::default(), now_ns());
        // Nothing that the turn did is seen before the points it reached are waited for.
        if let Err(fault) = with_points(|| self.engine.turn(&mut self.disk, events, began_ns, &mut out)).await {
            tracing::error!(%fault, "the member stops");
            if fault.is_damage() {
                die_of_damage(fault.to_string());
            }
            die(&fault.to_string());
        }
        if out.applied > 0 {
            self.time_apply(out.applied, now_ns() - began_ns);
        }
        self.deadline_ns.set(self.engine.next_deadline_ns());
        // Before the links follow the members: one that is removed is still to be told so.
        self.peers.send(out.messages, || self.engine.durable_root());
        self.peers.call(out.calls);
        self.peers.answer(out.answers);
        if let Some(published) = out.published {
            self.peers.follow(&published.view.members);
            self.publish(published, out.installed);
        }
        if out.snapshot_done {
            self.peers.snapshot_done(out.installed);
        }
        if let Some(outgrown) = out.outgrown {
            let_go(outgrown);
        }
        if let Some(text) = out.roster {
            self.roster.write(text);
        }
        if out.removed && !self.shared.stop.swap(true, Ordering::SeqCst) {
            tracing::error!("this member was removed from the cluster for good; it stops");
        }
        for (store, revision) in out.compactions {
            let _ = self.shards[0].sender.send(FromCore::HashForCompaction(store, revision));
        }
        self.reply(out.replies);
        if out.more {
            // Behind what was sent, and not waited for.
            self.disk.launch(false);
        }
        out.more
    }

    /// Counts a turn that applied something, and says so when it took long.
    fn time_apply(&self, entries: usize, took_ns: u64) {
        let metrics = &self.shared.core_metrics;
        metrics.apply.observe_ns(took_ns);
        let limit = self.shared.config.warning_apply_duration;
        if !limit.is_zero() && took_ns > limit.as_nanos() as u64 {
            metrics.slow_applies.add(entries as u64);
            tracing::warn!(
                took = ?Duration::from_nanos(took_ns),
                expected = ?limit,
                entries,
                "apply request took too long"
            );
        }
    }

    /// The slot first, then whoever wants the events: see [`ShardSeed`] and the shard's subscription.
    fn publish(&mut self, published: Published, skipped: bool) {
        self.slot.publish(published.view.clone());
        for shard in &mut self.shards {
            if !shard.wants_blocks.load(Ordering::SeqCst) {
                shard.lagged = None;
                continue;
            }
            if skipped {
                // A snapshot brought changes for which there are no blocks.
                shard.lagged = Some(published.view.revision());
            }
            if shard.sender.queued() > LAG_MESSAGES {
                shard.lagged = Some(published.view.revision());
                continue;
            }
            if let Some(revision) = shard.lagged.take() {
                let _ = shard.sender.send(FromCore::Lagged(revision));
            }
            // A shard that is gone needs nothing.
            let _ = shard.sender.send(FromCore::Published(published.clone()));
        }
    }

    fn reply(&mut self, replies: Vec<(u16, Reply)>) {
        if replies.is_empty() {
            return;
        }
        for (shard, reply) in replies {
            self.shards[usize::from(shard)].replies.push(reply);
        }
        let view = self.engine.view();
        for shard in &mut self.shards {
            if !shard.replies.is_empty() {
                let replies = std::mem::take(&mut shard.replies);
                let _ = shard.sender.send(FromCore::Replies(view.clone(), replies));
            }
        }
    }

    /// Waits for a request, the end of a write, or time.
    async fn wait(&mut self, events: &mut Vec<Event>) {
        if self.disk.launch(self.taken <= 1) {
            // What this turn has sent goes out first, and then the write begins.
            glommio::executor().yield_now().await;
            if self.inbox.try_recv_batch(events) > 0 || self.spins_for_the_log() {
                return;
            }
        }
        let mut completed = pin!(self.disk.completed());
        poll_fn(|cx| {
            let mail = self.inbox.poll_recv_batch(cx, events).is_ready();
            let rung = self.bell.poll_rung(cx).is_ready();
            let done = completed.as_mut().poll(cx).is_ready();
            if mail || rung || done {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Spins while a write of the log that is alone is under way; true when it has ended.
    fn spins_for_the_log(&mut self) -> bool {
        let disk = &self.disk;
        self.quiet.is_quiet() && self.quiet.spin(|| disk.wait_for_lone(LONE_WRITE_PATIENCE))
    }

    /// Everything acknowledged into the tree, so that the next start has nothing to replay.
    async fn settle(&mut self) {
        let give_up_ns = now_ns() + SETTLE_MAX.as_nanos() as u64;
        let mut events = Vec::new();
        while !self.engine.is_settled() && now_ns() < give_up_ns {
            self.engine.hurry();
            self.turn(&mut events).await;
            breathe().await;
        }
    }
}
