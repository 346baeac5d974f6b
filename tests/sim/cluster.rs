//! The simulated world: machines, network, clients and the order of events, all from one seed.

use std::collections::{BTreeMap, BTreeSet};

use etcore::{
    api::past::{ViewPast, events},
    member::{BootError, Event, Outputs, Published},
};
use raft::{Message, MessageType};
use storage::io::sim::Rng;

use crate::{
    consensus::Consensus,
    effort::Effort,
    history::{Check, History, ensure},
    host::{Host, founder_id},
    leases::{Leases, lease_of},
    network::Payload,
    operator::Operator,
    requests::Ask,
    transfers::Transfer,
    watching::{Call, Watcher},
    weather::{Dice, MS, SEC, US, Weather},
};

/// Something that happens at a time.
#[derive(Debug)]
pub enum Action {
    Turn(usize),
    /// Some of a disk's operations end.
    Release(usize, u64),
    /// From a machine to a member.
    Deliver(usize, u64, Payload),
    /// A life of a machine's member takes another member for gone.
    Gone(usize, u64, u64),
    /// Members look at their links.
    Links,
    /// The next piece of a snapshot.
    Transfer(Box<Transfer>),
    /// A life of a machine's member learns how its snapshot for another member was taken.
    Sent(usize, u64, u64, bool),
    /// The operator looks at the cluster.
    Operate,
    /// Busy and quiet times take turns.
    Stretch,
    /// A removed member stops.
    Leave(usize, u64),
    /// Watchers of a member read history.
    History(usize, u64),
    /// A stream's reader drains it.
    Drain(usize, u64, Call),
    /// A watch client connects.
    Connect(Call),
    Request,
    Fault,
    Check,
    Boot(usize),
    Resume(usize, u64),
    Space(usize),
    Heal,
}

/// A request without its answer yet.
pub struct Pending {
    pub ask: Ask,
    pub host: usize,
    pub writer: u64,
    /// Newest revision that some client knew when this was asked.
    pub floor: i64,
    pub asked_ns: u64,
    pub clocks: Vec<u64>,
}

/// What happened, by kind.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub faults: BTreeMap<&'static str, u64>,
    pub answers: BTreeMap<&'static str, u64>,
    /// Options of requests and watches that were answered.
    pub options: BTreeMap<&'static str, u64>,
    /// Events that are no faults.
    pub events: BTreeMap<&'static str, u64>,
    /// Refusals, by what was asked for.
    pub refused: BTreeMap<&'static str, u64>,
    pub simulated_ns: u64,
    pub turns: u64,
    pub revisions: u64,
    pub elections: u64,
    pub watch_events: u64,
    pub leases_expired: u64,
    pub leases_renewed: u64,
    /// Events of the second in which most happened.
    pub busiest_second: u64,
    /// A digest of everything that happened.
    pub digest: u64,
}

impl Counts {
    /// Adds another run.
    pub fn add(&mut self, other: &Counts) {
        for (mine, theirs) in [
            (&mut self.faults, &other.faults),
            (&mut self.answers, &other.answers),
            (&mut self.options, &other.options),
            (&mut self.events, &other.events),
            (&mut self.refused, &other.refused),
        ] {
            for (kind, count) in theirs {
                *mine.entry(kind).or_default() += count;
            }
        }
        self.simulated_ns += other.simulated_ns;
        self.turns += other.turns;
        self.revisions += other.revisions;
        self.elections += other.elections;
        self.watch_events += other.watch_events;
        self.leases_expired += other.leases_expired;
        self.leases_renewed += other.leases_renewed;
        self.busiest_second = self.busiest_second.max(other.busiest_second);
        self.digest ^= other.digest;
    }
}

/// One run.
pub struct Cluster {
    pub weather: Weather,
    pub rng: Rng,
    pub now_ns: u64,
    pub hosts: Vec<Host>,
    pub history: History,
    pub leases: Leases,
    pub watchers: BTreeMap<Call, Watcher>,
    pub pending: BTreeMap<u64, Pending>,
    pub counts: Counts,
    pub consensus: Consensus,
    pub operator: Operator,
    /// Links that are cut: (from, to), machines.
    pub cut: BTreeSet<(usize, usize)>,
    /// Clients and fate are busy, not quiet.
    pub busy: bool,
    /// Trouble is over: no faults, no new requests.
    pub calm: bool,
    /// Messages of this type are kept in `intercepted` instead of being sent.
    pub intercept: Option<MessageType>,
    pub intercepted: Vec<Message>,
    /// Newest revision that some client knows.
    pub known: i64,
    pub next_writer: u64,
    pub effort: Effort,
    queue: BTreeMap<(u64, u64), Action>,
    next_action: u64,
    trace: bool,
}

impl Cluster {
    /// Machines that are all about to start for the first time.
    pub fn new(seed: u64, weather: Weather, trace: bool) -> Cluster {
        let mut rng = Rng::new(seed);
        let founders = weather.members as usize;
        let machine = |index| match rng.between(1, 1000) * SEC {
            clock_ns if index < founders => Host::founder(index, clock_ns),
            clock_ns => Host::new(index, clock_ns),
        };
        let hosts = (0..founders + weather.spares).map(machine).collect();
        Cluster {
            hosts,
            weather,
            rng,
            now_ns: 0,
            history: History::default(),
            leases: Leases::default(),
            watchers: BTreeMap::new(),
            pending: BTreeMap::new(),
            counts: Counts::default(),
            consensus: Consensus::default(),
            operator: Operator::new((0..founders).map(founder_id)),
            cut: BTreeSet::new(),
            busy: true,
            calm: false,
            intercept: None,
            intercepted: Vec::new(),
            known: 1,
            next_writer: 1,
            effort: Effort::default(),
            queue: BTreeMap::new(),
            next_action: 0,
            trace,
        }
    }

    /// Plans something `after_ns` from now.
    pub fn plan(&mut self, after_ns: u64, action: Action) {
        self.queue.insert((self.now_ns + after_ns, self.next_action), action);
        self.next_action += 1;
    }

    /// Says what happens, when somebody listens.
    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>12.6} {}", self.now_ns as f64 / 1e9, text());
        }
    }

    /// Takes something into the digest of the run.
    pub fn fold(&mut self, values: &[u64]) {
        for value in values {
            let mixed = (self.counts.digest ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.counts.digest = mixed ^ (mixed >> 29);
        }
    }

    /// Counts a fault.
    pub fn fault(&mut self, kind: &'static str) {
        *self.counts.faults.entry(kind).or_default() += 1;
    }

    /// What every clock shows now.
    pub fn clocks(&self) -> Vec<u64> {
        self.hosts.iter().map(|host| host.clock.read(self.now_ns)).collect()
    }

    /// Runs until `until_ns`, or until `done` says so; whether it did.
    pub fn run(&mut self, until_ns: u64, mut done: impl FnMut(&mut Cluster) -> bool) -> Result<bool, String> {
        while let Some(entry) = self.queue.first_entry() {
            let (at_ns, number) = *entry.key();
            if at_ns > until_ns {
                break;
            }
            let action = entry.remove();
            self.now_ns = at_ns;
            self.fold(&[at_ns, number]);
            self.count_event()?;
            self.act(action)?;
            if done(self) {
                return Ok(true);
            }
        }
        self.now_ns = self.now_ns.max(until_ns);
        Ok(false)
    }

    fn act(&mut self, action: Action) -> Check {
        match action {
            Action::Turn(index) => self.turn(index),
            Action::Release(index, life) => {
                self.release(index, life);
                Ok(())
            }
            Action::Deliver(from, to, payload) => {
                self.deliver(from, to, payload);
                Ok(())
            }
            Action::Gone(index, life, id) => {
                if self.hosts[index].life == life {
                    self.tell(index, Event::Gone(id));
                }
                Ok(())
            }
            Action::Links => {
                self.look_at_links();
                Ok(())
            }
            Action::Transfer(transfer) => self.go_on(*transfer),
            Action::Sent(index, life, to, ok) => {
                self.sent(index, life, to, ok);
                Ok(())
            }
            Action::Operate => {
                self.operate();
                Ok(())
            }
            Action::Stretch => {
                self.change_stretch();
                Ok(())
            }
            Action::Leave(index, life) => self.leave(index, life),
            Action::History(index, life) => self.read_history(index, life),
            Action::Drain(index, life, call) => self.drain(index, life, call),
            Action::Connect(call) => self.connect(call),
            Action::Request => self.client_turn(),
            Action::Fault => self.fault_turn(),
            Action::Check => self.check_turn(),
            Action::Boot(index) => self.boot(index),
            Action::Resume(index, life) => {
                if self.hosts[index].life == life {
                    self.resume(index);
                }
                Ok(())
            }
            Action::Space(index) => {
                self.hosts[index].limit_space(None);
                Ok(())
            }
            Action::Heal => {
                self.note(|| "the network is whole".to_owned());
                self.cut.clear();
                Ok(())
            }
        }
    }

    /// Plans a turn of a member, unless an earlier one is planned.
    pub fn wake(&mut self, index: usize, after_ns: u64) {
        let at = self.now_ns + after_ns;
        let host = &mut self.hosts[index];
        if host.up.is_some() && at < host.next_turn_ns {
            host.next_turn_ns = at;
            self.plan(after_ns, Action::Turn(index));
        }
    }

    fn turn(&mut self, index: usize) -> Check {
        let now_ns = self.now_ns;
        let host = &mut self.hosts[index];
        if host.next_turn_ns != now_ns || host.paused {
            return Ok(());
        }
        host.next_turn_ns = u64::MAX;
        let Some(up) = host.up.as_mut() else { return Ok(()) };
        let clock_ns = host.clock.read(now_ns);
        let (mut out, mut inbox) = (Outputs::default(), std::mem::take(&mut up.inbox));
        let result = up.engine.turn(&mut host.disk, &mut inbox, clock_ns, &mut out);
        let deadline_ns = host.clock.when(up.engine.next_deadline_ns(), now_ns);
        up.inbox = inbox;
        self.counts.turns += 1;
        if let Err(fault) = result {
            let allowed = host.may_fail || host.full;
            self.note(|| format!("m{index} stops: {fault}"));
            ensure!(allowed, "m{index} stops, though its disk is well: {fault}");
            self.fault("stopped by its disk");
            return self.crash(index);
        }
        self.effects(index, &mut out)?;
        self.check_refilling(index)?;
        self.watch_stall(index)?;
        self.plan_release(index);
        let after_ns = match out.more {
            true => 10 * US,
            false => deadline_ns.saturating_sub(self.now_ns).max(2 * MS),
        };
        self.wake(index, after_ns);
        if out.removed {
            self.begin_to_leave(index)?;
        }
        Ok(())
    }

    /// What a turn gave out: the view before the answers that depend on it.
    fn effects(&mut self, index: usize, out: &mut Outputs) -> Check {
        let up = self.hosts[index].up.as_mut().expect("it has just had a turn");
        let members_changed = out
            .published
            .as_ref()
            .is_some_and(|published| !std::sync::Arc::ptr_eq(&published.view.members, &up.view.members));
        let mut seen = up.seen.take().expect("it was seen at its start");
        let checked = self.consensus.turned(up.engine.consensus(), &mut seen, members_changed);
        up.seen = Some(seen);
        up.receiving &= !out.snapshot_done;
        checked?;
        if out.installed {
            *self.counts.events.entry("snapshots installed").or_default() += 1;
            self.note(|| format!("m{index} has installed a snapshot"));
            if self.hosts[index].rotten {
                self.refilled(index);
            }
        }
        if let Some(published) = out.published.take() {
            self.published(index, published, out.installed)?;
        }
        for (store, revision) in std::mem::take(&mut out.compactions) {
            let hash = self.history.check_compaction_hash(&store, revision)?;
            self.hosts[index].up().engine.hashes().insert(revision, hash);
        }
        for (_, reply) in std::mem::take(&mut out.replies) {
            self.replied(index, reply)?;
        }
        self.send_all(index, out)
    }

    /// A member hears that it was removed: it hands over what it leads, and stops.
    fn begin_to_leave(&mut self, index: usize) -> Check {
        let (id, wait_ns) = (self.hosts[index].id, Host::election_ns(&self.weather));
        let (life, now_ns) = (self.hosts[index].life, self.now_ns);
        let up = self.hosts[index].up();
        if up.leaves_ns.is_some() {
            return Ok(());
        }
        up.leaves_ns = Some(now_ns + wait_ns);
        up.engine.resign();
        ensure!(
            self.history.removed.contains(&id),
            "m{index} ({id:x}) believes that it was removed"
        );
        self.plan(MS, Action::Leave(index, life));
        Ok(())
    }

    fn leave(&mut self, index: usize, life: u64) -> Check {
        let (host, now_ns) = (&mut self.hosts[index], self.now_ns);
        if host.life != life || host.up.is_none() {
            return Ok(());
        }
        let id = host.id;
        let up = host.up();
        if up.view.leader == id && up.leaves_ns.is_some_and(|end_ns| now_ns < end_ns) {
            self.plan(10 * MS, Action::Leave(index, life));
            return Ok(());
        }
        *self.counts.events.entry("removed members stopped").or_default() += 1;
        self.note(|| format!("m{index} ({id:x}) was removed and stops"));
        self.end_member(index);
        Ok(())
    }

    /// A member that starts finds that it was removed, and stays away.
    fn stay_away(&mut self, index: usize) -> Check {
        let id = self.hosts[index].id;
        ensure!(
            self.history.removed.contains(&id),
            "m{index} ({id:x}) does not start, as it believes that it was removed"
        );
        *self
            .counts
            .events
            .entry("removed members that stayed away")
            .or_default() += 1;
        self.end_member(index);
        Ok(())
    }

    /// A machine is without a member from now on.
    pub fn end_member(&mut self, index: usize) {
        self.hosts[index].crash(None);
        let life = self.hosts[index].life;
        let clock = self.hosts[index].clock.clone();
        self.hosts[index] = Host {
            life,
            clock,
            ..Host::new(index, 0)
        };
        self.forget_clients(index);
    }

    fn plan_release(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if host.release_due || host.disk.held() == 0 {
            return;
        }
        host.release_due = true;
        let life = host.life;
        let mut after_ns = self.rng.between(self.weather.disk_ns / 4, self.weather.disk_ns * 2);
        if !self.calm && self.rng.percent(1) {
            after_ns *= 40;
        }
        self.plan(after_ns, Action::Release(index, life));
    }

    fn release(&mut self, index: usize, life: u64) {
        if self.hosts[index].life != life {
            return;
        }
        let stalled_ns = self.hosts[index].stalled_until_ns.saturating_sub(self.now_ns);
        if stalled_ns > 0 && !self.calm {
            self.plan(stalled_ns, Action::Release(index, life));
            return;
        }
        self.hosts[index].release_due = false;
        let count = self.rng.between(1, 4) as usize;
        self.hosts[index].disk.release(count);
        self.wake(index, 0);
        self.plan_release(index);
    }

    fn published(&mut self, index: usize, published: Published, installed: bool) -> Check {
        let Published { view, blocks } = published;
        if self.is_refilling(index) {
            // It has nothing to show to anybody.
            self.hosts[index].up().view = view;
            return Ok(());
        }
        let before = self.history.revision();
        let (now_ns, clocks) = (self.now_ns, self.clocks());
        let mut revision = self.hosts[index].up().revision;
        if installed {
            // What a snapshot brings comes without blocks.
            let first = blocks.iter().find_map(|block| block.first_revision());
            let base = first.map_or(view.revision(), |first| first - 1);
            ensure!(
                base >= revision && base <= before,
                "m{index} was at revision {revision}, the cluster at {before}, the snapshot at {base}"
            );
            revision = base;
            self.history
                .check_state(&view.store)
                .map_err(|why| format!("m{index}, installed: {why}"))?;
        }
        for block in &blocks {
            revision = self
                .history
                .publish(block, revision)
                .map_err(|why| format!("m{index}: {why}"))?;
        }
        self.history
            .check_view(&view)
            .map_err(|why| format!("m{index}: {why}"))?;
        for main in before + 1..=self.history.revision() {
            let ended = self.history.changes(main).iter().filter(|change| change.deleted);
            for lease in ended.filter_map(|change| lease_of(&change.key)) {
                self.leases.gone(lease, now_ns, &clocks)?;
            }
        }
        ensure!(
            view.revision() == revision,
            "m{index}: a view of revision {} came with blocks up to {revision}",
            view.revision()
        );
        self.fold(&[view.applied_index, revision as u64, view.term, view.leader]);
        let up = self.hosts[index].up();
        (up.revision, up.view) = (revision, view.clone());
        up.hub.set_term(view.term);
        if installed {
            up.hub.lagged(view.revision());
        }
        let past = ViewPast(&view.store);
        for block in &blocks {
            if up.withheld {
                up.hub.lagged(block.revision());
            } else if let Some(first) = block.first_revision() {
                up.hub
                    .consume(events(block), first, block.revision(), &past, &mut up.wire);
            }
        }
        self.told(index)
    }

    /// Ends a member; what its clients wait for stays unknown.
    pub fn crash(&mut self, index: usize) -> Check {
        let power = self.rng.percent(60).then(|| self.rng.next());
        self.fault(if power.is_some() {
            "power failure"
        } else {
            "process killed"
        });
        self.note(|| format!("m{index} crashes, power {power:?}"));
        self.let_notice(index);
        self.hosts[index].crash(power);
        self.forget_clients(index);
        let down_ns = if self.calm {
            10 * MS
        } else {
            let most = self.rng.pick(&[20, 500, 5000, 30_000]);
            self.rng.between(5, most) * MS
        };
        self.plan(down_ns, Action::Boot(index));
        Ok(())
    }

    /// What a member's clients wait for stays unknown; they go elsewhere.
    fn forget_clients(&mut self, index: usize) {
        let changes = |pending: &Pending| pending.host == index && matches!(pending.ask, Ask::Change { .. });
        if self.pending.values().any(changes) {
            self.operator.answered(false, self.now_ns);
        }
        self.pending.retain(|_, pending| pending.host != index);
        let mut calls = Vec::new();
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.host == index) {
            watcher.created = false;
            calls.push(watcher.call);
        }
        for call in calls {
            let after_ns = self.rng.between(MS, SEC);
            self.plan(after_ns, Action::Connect(call));
        }
    }

    /// Starts a member; recovery itself may be cut short by another crash.
    fn boot(&mut self, index: usize) -> Check {
        if self.hosts[index].up.is_some() || !self.hosts[index].stands {
            return Ok(());
        }
        if !self.calm && self.rng.percent(15) {
            let after = self.rng.below(60);
            self.hosts[index].plan_error(None, "", after);
        }
        let (seed, now_ns) = (self.rng.next(), self.now_ns);
        let weather = self.weather.clone();
        let host = &mut self.hosts[index];
        if let Err(error) = host.boot(&weather, seed, now_ns) {
            if matches!(error, BootError::Removed) {
                return self.stay_away(index);
            }
            let (may_fail, full) = (host.may_fail, host.full);
            ensure!(may_fail || full, "m{index} does not start: {error}");
            self.note(|| format!("m{index} does not start: {error}"));
            self.fault("crash in recovery");
            let image = self.rng.next();
            let host = &mut self.hosts[index];
            host.crash(Some(image));
            if full {
                host.limit_space(None);
            }
            self.plan(10 * MS, Action::Boot(index));
            return Ok(());
        }
        let up = self.hosts[index].up.as_mut().expect("it has just started");
        up.seen = Some(self.consensus.started(up.engine.consensus())?);
        let view = up.view.clone();
        self.note(|| {
            format!(
                "m{index} is up: entry {}, revision {}",
                view.applied_index,
                view.revision()
            )
        });
        self.wake(index, 0);
        if !self.look_for_damage(index)? {
            return Ok(());
        }
        self.history
            .check_state(&view.store)
            .map_err(|why| format!("m{index} after its start: {why}"))?;
        Ok(())
    }

    /// A paused member goes on.
    pub fn resume(&mut self, index: usize) {
        if std::mem::take(&mut self.hosts[index].paused) {
            self.note(|| format!("m{index} goes on"));
            self.hosts[index].next_turn_ns = u64::MAX;
            self.wake(index, 0);
        }
    }

    fn check_turn(&mut self) -> Check {
        for index in 0..self.hosts.len() {
            let Some(up) = self.hosts[index].up.as_ref().filter(|up| !up.engine.is_refilling()) else {
                continue;
            };
            let store = up.view.store.clone();
            let revision = store.revision() - self.rng.below(4) as i64;
            let wrong = |why| format!("m{index} looked at: {why}");
            self.history.check_state(&store).map_err(wrong)?;
            if revision > 0 {
                self.history.check_hash(&store, revision).map_err(wrong)?;
            }
        }
        let late = self.pending.values().find(|pending| {
            let host = &self.hosts[pending.host];
            let waited_ns = self.now_ns - pending.asked_ns;
            // Clocks may run at half the rate, and pauses do not count.
            !host.paused && waited_ns > 40 * SEC
        });
        if let Some(pending) = late {
            return Err(format!("m{} never answers {}", pending.host, pending.ask.name()));
        }
        if !self.calm {
            self.plan(2 * SEC, Action::Check);
        }
        Ok(())
    }
}
