//! The simulated world: machines, network, clients and the order of events, all from one seed.

use std::collections::{BTreeMap, BTreeSet};

use etcore::{
    api::past::{ViewPast, events},
    member::{Event, Outcome, Outputs, Published, Refusal, Reply},
};
use raft::{Message, MessageType};
use storage::io::sim::Rng;

use crate::{
    history::{Check, History, ensure},
    host::{Host, member_id},
    leases::{Leases, lease_of},
    requests::{Ask, check_answer, is_final},
    watching::{Call, Watcher},
    weather::{Dice, MS, SEC, US, Weather},
};

/// Something that happens at a time.
#[derive(Debug)]
pub enum Action {
    Turn(usize),
    /// Some of a disk's operations end.
    Release(usize, u64),
    Deliver(Box<Message>),
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
    pub refusals: u64,
    pub simulated_ns: u64,
    pub turns: u64,
    pub revisions: u64,
    pub elections: u64,
    pub watch_events: u64,
    pub leases_expired: u64,
    pub leases_renewed: u64,
    /// A digest of everything that happened.
    pub digest: u64,
}

impl Counts {
    /// Adds another run.
    pub fn add(&mut self, other: &Counts) {
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (kind, count) in &other.answers {
            *self.answers.entry(kind).or_default() += count;
        }
        self.refusals += other.refusals;
        self.simulated_ns += other.simulated_ns;
        self.turns += other.turns;
        self.revisions += other.revisions;
        self.elections += other.elections;
        self.watch_events += other.watch_events;
        self.leases_expired += other.leases_expired;
        self.leases_renewed += other.leases_renewed;
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
    /// Links that are cut: (from, to).
    pub cut: BTreeSet<(u64, u64)>,
    /// Trouble is over: no faults, no new requests.
    pub calm: bool,
    /// Messages of this type are kept in `intercepted` instead of being sent.
    pub intercept: Option<MessageType>,
    pub intercepted: Vec<Message>,
    /// Newest revision that some client knows.
    pub known: i64,
    pub next_writer: u64,
    queue: BTreeMap<(u64, u64), Action>,
    next_action: u64,
    trace: bool,
}

impl Cluster {
    /// Machines that are all about to start for the first time.
    pub fn new(seed: u64, weather: Weather, trace: bool) -> Cluster {
        let mut rng = Rng::new(seed);
        let hosts = (0..weather.members as usize).map(|index| Host::new(index, rng.between(1, 1000) * SEC));
        Cluster {
            hosts: hosts.collect(),
            weather,
            rng,
            now_ns: 0,
            history: History::default(),
            leases: Leases::default(),
            watchers: BTreeMap::new(),
            pending: BTreeMap::new(),
            counts: Counts::default(),
            cut: BTreeSet::new(),
            calm: false,
            intercept: None,
            intercepted: Vec::new(),
            known: 1,
            next_writer: 1,
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
            Action::Deliver(message) => {
                self.deliver(*message);
                Ok(())
            }
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
        if let Some(published) = out.published.take() {
            self.published(index, published)?;
        }
        for (store, revision) in std::mem::take(&mut out.compactions) {
            let hash = self.history.check_compaction_hash(&store, revision)?;
            self.hosts[index].up().engine.hashes().insert(revision, hash);
        }
        for (_, reply) in std::mem::take(&mut out.replies) {
            self.replied(index, reply)?;
        }
        for message in std::mem::take(&mut out.messages) {
            self.send(message);
        }
        self.plan_release(index);
        let after_ns = match out.more {
            true => 10 * US,
            false => deadline_ns.saturating_sub(self.now_ns).max(2 * MS),
        };
        self.wake(index, after_ns);
        Ok(())
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
        self.hosts[index].release_due = false;
        let count = self.rng.between(1, 4) as usize;
        self.hosts[index].disk.release(count);
        self.wake(index, 0);
        self.plan_release(index);
    }

    fn send(&mut self, message: Message) {
        self.fold(&[
            message.from,
            message.to,
            message.msg_type.number(),
            message.term,
            message.index,
            message.commit,
        ]);
        if self.intercept == Some(message.msg_type) {
            return self.intercepted.push(message);
        }
        if self.cut.contains(&(message.from, message.to)) {
            return self.fault("message cut off");
        }
        if !self.calm && self.rng.percent(self.weather.loss) {
            return self.fault("message lost");
        }
        // Links are streams: a proposal is never delivered twice, or it would be applied twice.
        let twice = message.msg_type != MessageType::MsgProp && self.rng.percent(self.weather.duplication);
        if !self.calm && twice {
            self.fault("message sent twice");
            let after_ns = self.travel_ns();
            self.plan(after_ns, Action::Deliver(Box::new(message.clone())));
        }
        let after_ns = self.travel_ns();
        self.plan(after_ns, Action::Deliver(Box::new(message)));
    }

    fn travel_ns(&mut self) -> u64 {
        let net_ns = self.weather.net_ns;
        if !self.calm && self.rng.percent(self.weather.delay) {
            self.fault("message delayed");
            return self.rng.between(10 * MS, 2 * SEC);
        }
        self.rng.between(net_ns / 4, net_ns * 2)
    }

    fn deliver(&mut self, message: Message) {
        let Some(index) = (0..self.hosts.len()).find(|index| member_id(*index) == message.to) else {
            return;
        };
        if self.cut.contains(&(message.from, message.to)) || self.hosts[index].up.is_none() {
            return;
        }
        self.hosts[index].up().inbox.push(Event::Peer(Box::new(message)));
        self.wake(index, 5 * US);
    }

    fn published(&mut self, index: usize, published: Published) -> Check {
        let Published { view, blocks } = published;
        let before = self.history.revision();
        let (now_ns, clocks) = (self.now_ns, self.clocks());
        let mut revision = self.hosts[index].up().revision;
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

    /// Hands what the hub has sent to the watch clients.
    pub fn told(&mut self, index: usize) -> Check {
        let life = self.hosts[index].life;
        let sent = std::mem::take(&mut self.hosts[index].up().wire.sent);
        for (call, response) in sent {
            let Some(watcher) = self.watchers.get_mut(&call) else {
                continue;
            };
            if watcher.host != index {
                continue;
            }
            let before = watcher.events;
            watcher
                .take(&response, &self.history)
                .map_err(|why| format!("watch {call} on m{index}: {why}"))?;
            self.counts.watch_events += watcher.events - before;
            if watcher.ended {
                self.plan(MS, Action::Connect(call));
            }
        }
        let up = self.hosts[index].up();
        if up.hub.has_work() && !up.hub_due {
            up.hub_due = true;
            let after_ns = self.rng.between(MS / 10, 20 * MS);
            self.plan(after_ns, Action::History(index, life));
        }
        Ok(())
    }

    fn read_history(&mut self, index: usize, life: u64) -> Check {
        let host = &mut self.hosts[index];
        if host.life != life {
            return Ok(());
        }
        let up = host.up();
        up.hub_due = false;
        let view = up.view.clone();
        up.hub.catch_up(&ViewPast(&view.store), &mut up.wire);
        self.told(index)
    }

    fn drain(&mut self, index: usize, life: u64, call: Call) -> Check {
        if self.hosts[index].life != life || self.hosts[index].up.is_none() {
            return Ok(());
        }
        let up = self.hosts[index].up();
        up.wire.drain(call);
        up.hub.writable(call);
        self.told(index)
    }

    /// Connects a watch client to a member that is up, going on where it stopped.
    fn connect(&mut self, call: Call) -> Check {
        let live: Vec<usize> = (0..self.hosts.len())
            .filter(|index| self.hosts[*index].up.is_some())
            .collect();
        if live.is_empty() {
            self.plan(100 * MS, Action::Connect(call));
            return Ok(());
        }
        let target = self.rng.pick(&live);
        let now_ns = self.now_ns;
        let watcher = self.watchers.get_mut(&call).expect("connected watchers are known");
        if let Some(up) = self.hosts[watcher.host].up.as_mut() {
            up.hub.close(call);
            up.wire.drain(call);
        }
        watcher.host = target;
        let request = watcher.request();
        let up = self.hosts[target].up.as_mut().expect("it is up");
        let newest = up.view.revision();
        up.hub.create(call, request, newest, now_ns, &mut up.wire);
        self.told(target)
    }

    /// Sends a request to a member; what it refers to is checked when the answer comes.
    pub fn ask(&mut self, index: usize, ask: Ask) {
        let (floor, asked_ns, clocks) = (self.known, self.now_ns, self.clocks());
        let writer = self.next_writer;
        self.next_writer += 1;
        let Some(up) = self.hosts[index].up.as_mut() else {
            return;
        };
        let id = up.ids.make();
        let request = ask.request(id);
        up.inbox.push(Event::Request { shard: 0, id, request });
        if let Ask::Revoke(lease) = &ask
            && let Some(lease) = self.leases.all.get_mut(lease)
        {
            lease.revoke_asked = true;
        }
        let pending = Pending {
            ask,
            host: index,
            writer,
            floor,
            asked_ns,
            clocks,
        };
        self.pending.insert(id, pending);
        self.wake(index, 5 * US);
    }

    fn replied(&mut self, index: usize, reply: Reply) -> Check {
        let Some(pending) = self.pending.remove(&reply.id) else {
            return Err(format!(
                "m{index} answered request {:x}, which waits for nothing",
                reply.id
            ));
        };
        let name = pending.ask.name();
        self.fold(&[reply.id, u64::from(reply.result.is_ok())]);
        self.note(|| format!("m{index} answers {} {}: {:?}", name, pending.writer, reply.result));
        let result = match reply.result {
            Ok(outcome) => self.fulfilled(index, pending, outcome),
            Err(refusal) => self.refused(pending, refusal),
        };
        result.map_err(|why| format!("m{index}, {name}: {why}"))
    }

    fn fulfilled(&mut self, index: usize, pending: Pending, outcome: Outcome) -> Check {
        *self.counts.answers.entry(pending.ask.name()).or_default() += 1;
        let view = self.hosts[index].up().engine.view();
        let revision = check_answer(&pending.ask, &outcome, &view.store, pending.floor, &self.history)?;
        self.known = self.known.max(revision);
        let now = self.clocks();
        match (pending.ask, outcome) {
            (Ask::Grant { lease, .. }, Outcome::LeaseGrant { ttl, .. }) => {
                self.leases.granted(lease, ttl, pending.clocks);
                self.put_lease_key(lease);
            }
            (Ask::Renew(lease), Outcome::LeaseRenew { ttl, .. }) => {
                self.leases
                    .renewal(lease, ttl, pending.asked_ns, pending.clocks, &now)?;
            }
            (Ask::Compact(revision), _) if self.rng.percent(50) => self.ask(index, Ask::CompactionDone(revision)),
            (Ask::Put(put), _) if put.lease != 0 => {
                if let Some(lease) = self.leases.all.get_mut(&put.lease) {
                    lease.has_key = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn refused(&mut self, pending: Pending, refusal: Refusal) -> Check {
        self.counts.refusals += 1;
        let limited = self.history_allows(refusal, &pending);
        ensure!(limited, "refused with {refusal:?}, which has no reason");
        if is_final(refusal) && matches!(pending.ask, Ask::Put(_) | Ask::Txn(_)) {
            self.history.refuse(pending.writer)?;
        }
        match pending.ask {
            Ask::Put(put) if refusal == Refusal::LeaseNotFound => self.leases.may_be_gone(put.lease, &self.clocks()),
            _ => Ok(()),
        }
    }

    fn history_allows(&self, refusal: Refusal, pending: &Pending) -> bool {
        match (refusal, &pending.ask) {
            (Refusal::Compacted, Ask::Compact(at)) => *at <= self.history.compacted,
            (Refusal::FutureRevision, Ask::Compact(at)) => *at > pending.floor,
            (Refusal::LeaseNotFound, ask) => matches!(ask, Ask::Put(_) | Ask::Revoke(_)),
            (Refusal::NotPrimary, ask) => matches!(ask, Ask::Renew(_)),
            (Refusal::NotLeader | Refusal::BadTransferee | Refusal::TransferTimeout, ask) => {
                matches!(ask, Ask::MoveLeader(_))
            }
            (Refusal::NoLeader, ask) => matches!(ask, Ask::Renew(_)),
            (Refusal::NeverProposed, ask) => !matches!(ask, Ask::Read { .. } | Ask::Renew(_)),
            (Refusal::TimeoutLeaderFailed | Refusal::TimeoutConnectionLost, _) => self.weather.members > 1,
            (Refusal::NoSpace, _) => self.weather.disk_full > 0,
            (Refusal::Timeout | Refusal::ProposalDropped | Refusal::TooManyRequests, _) => true,
            _ => false,
        }
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
        self.hosts[index].crash(power);
        self.pending.retain(|_, pending| pending.host != index);
        let calls: Vec<Call> = self
            .watchers
            .values()
            .filter(|watcher| watcher.host == index)
            .map(|watcher| watcher.call)
            .collect();
        for call in calls {
            let after_ns = self.rng.between(MS, SEC);
            self.plan(after_ns, Action::Connect(call));
        }
        let down_ns = if self.calm {
            10 * MS
        } else {
            let most = self.rng.pick(&[20, 500, 5000]);
            self.rng.between(5, most) * MS
        };
        self.plan(down_ns, Action::Boot(index));
        Ok(())
    }

    /// Starts a member; recovery itself may be cut short by another crash.
    fn boot(&mut self, index: usize) -> Check {
        if self.hosts[index].up.is_some() {
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
        let view = host.up().view.clone();
        self.note(|| {
            format!(
                "m{index} is up: entry {}, revision {}",
                view.applied_index,
                view.revision()
            )
        });
        self.history
            .check_state(&view.store)
            .map_err(|why| format!("m{index} after its start: {why}"))?;
        self.wake(index, 0);
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
            let Some(up) = self.hosts[index].up.as_ref() else {
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
