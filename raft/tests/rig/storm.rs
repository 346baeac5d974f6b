//! One random history of a group, from one seed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Config, Message, MessageType, Role,
};

use crate::checker::Checker;
use crate::member::Member;

/// A generator of its own, so that the tests do not depend on the one under test.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 11) % bound as u64) as usize
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent as usize
    }
}

/// What kind of weather it is.
#[derive(Debug, Clone)]
pub struct Options {
    pub voters: u64,
    /// Members that exist and are not in the configuration at first.
    pub spares: u64,
    pub membership: bool,
    pub steps: u64,
    pub pre_vote: bool,
    pub check_quorum: bool,
    pub commit_before_persist: bool,
    pub small_limits: bool,
    /// Percent of messages lost, and sent twice.
    pub loss: u32,
    pub duplication: u32,
    /// Percent of turns in which a member's disk, or its applier, gets nowhere.
    pub slow_disk: u32,
    pub slow_apply: u32,
    /// Percent of steps with a crash, with a new partition.
    pub crash: u32,
    pub partition: u32,
}

impl Options {
    /// Different weather for each seed.
    pub fn varied(seed: u64) -> Options {
        let mut random = Random::new(seed ^ 0x0071_0d5e);
        Options {
            voters: 3,
            spares: 0,
            membership: false,
            steps: 2500,
            pre_vote: random.chance(60),
            check_quorum: random.chance(60),
            commit_before_persist: random.chance(60),
            small_limits: random.chance(50),
            loss: [0, 2, 10, 30][random.below(4)],
            duplication: [0, 5, 20][random.below(3)],
            slow_disk: [0, 30, 80][random.below(3)],
            slow_apply: [0, 30, 80][random.below(3)],
            crash: [0, 1, 3][random.below(3)],
            partition: [0, 1, 3][random.below(3)],
        }
    }

    fn config(&self, id: u64, seed: u64) -> Config {
        let mut config = Config::new(id);
        config.seed = seed.wrapping_mul(31) + id;
        config.election_ticks = 4;
        config.pre_vote = self.pre_vote;
        config.check_quorum = self.check_quorum;
        config.commit_before_persist = self.commit_before_persist;
        if self.small_limits {
            config.max_size_per_message = 120;
            config.max_inflight_bytes = 300;
            config.max_inflight_messages = 3;
            config.max_uncommitted_bytes = 400;
            config.max_uncommitted_entries = 12;
            config.max_committed_bytes_per_ready = 150;
            config.max_committed_entries_per_ready = 3;
            config.max_pending_read_index = 4;
            config.max_queued_messages = 40;
        }
        config
    }
}

/// What happened, over one history or many.
#[derive(Debug, Default, Clone)]
pub struct Totals {
    pub elections: u64,
    pub committed: u64,
    pub reads: u64,
    pub restarts: u64,
    pub snapshots: u64,
    pub conf_changes: u64,
    pub joint: u64,
    pub transfers: u64,
    /// Members that took their leader for gone.
    pub alarms: u64,
    pub commits_before_persist: u64,
    pub trace_hash: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.elections += other.elections;
        self.committed += other.committed;
        self.reads += other.reads;
        self.restarts += other.restarts;
        self.snapshots += other.snapshots;
        self.conf_changes += other.conf_changes;
        self.joint += other.joint;
        self.transfers += other.transfers;
        self.alarms += other.alarms;
        self.commits_before_persist += other.commits_before_persist;
        self.trace_hash = self.trace_hash.rotate_left(1) ^ other.trace_hash;
    }
}

pub struct Storm {
    options: Options,
    random: Random,
    members: BTreeMap<u64, Member>,
    network: Vec<Message>,
    /// Links that are cut: (from, to).
    cut: BTreeSet<(u64, u64)>,
    checker: Checker,
    totals: Totals,
    next_context: u64,
    next_value: u64,
    /// Ids that were removed; they never return, as in etcd.
    removed: BTreeSet<u64>,
}

impl Storm {
    pub fn new(seed: u64, options: Options) -> Storm {
        let conf_state = ConfState::of_voters(1..=options.voters);
        let mut members = BTreeMap::new();
        for id in 1..=options.voters + options.spares {
            // A joiner replays the log from the start, so it starts from the same configuration as all others.
            let conf_state = conf_state.clone();
            members.insert(id, Member::new(options.config(id, seed), conf_state));
        }
        Storm {
            random: Random::new(seed),
            members,
            network: Vec::new(),
            cut: BTreeSet::new(),
            checker: Checker::default(),
            totals: Totals::default(),
            next_context: 1,
            next_value: 1,
            removed: BTreeSet::new(),
            options,
        }
    }

    pub fn run(mut self) -> Totals {
        for step in 0..self.options.steps {
            self.act();
            self.check_everybody(step % 20 == 0);
        }
        self.calm_down();
        self.totals.elections = self.checker.leaders_len();
        self.totals.committed = self.checker.committed_len();
        self.totals
    }

    /// One random event, or a burst of ordinary life.
    fn act(&mut self) {
        let id = self.any_member();
        let (crash, partition) = (self.options.crash, self.options.partition);
        match self.random.below(100) as u32 {
            roll if roll < crash => self.crash(id),
            roll if roll < crash + partition => self.change_partition(),
            6..=22 => self.tick_all(),
            23..=30 => self.tick(id),
            31..=42 => self.propose(id),
            43..=48 => self.read(id),
            49..=50 => self.transfer(id),
            51 => self.lose_leader(id),
            52..=54 => self.member(id).snapshot_and_compact(2),
            55..=57 if self.options.membership => self.change_membership(),
            58 => self.report(id),
            59 => self.stale_token(id),
            60..=75 => self.turn(id),
            _ => self.deliver_some(),
        }
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("the member exists")
    }

    fn any_member(&mut self) -> u64 {
        let at = self.random.below(self.members.len());
        *self.members.keys().nth(at).expect("there are members")
    }

    fn tick(&mut self, id: u64) {
        self.member(id).raw.tick();
        self.turn(id);
    }

    fn tick_all(&mut self) {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        ids.into_iter().for_each(|id| self.tick(id));
    }

    /// A member's loop: write, send, apply, answer; each may lag.
    fn turn(&mut self, id: u64) {
        let slow_disk = self.random.chance(self.options.slow_disk);
        let slow_apply = self.random.chance(self.options.slow_apply);
        let in_flight = self.members[&id].writes_in_flight();
        let persist = if slow_disk {
            0
        } else {
            self.random.below(in_flight + 1).max(in_flight / 2)
        };
        let apply = if slow_apply { self.random.below(2) } else { usize::MAX };
        let member = self.member(id);
        member.persist(persist);
        let ready = if member.raw.has_ready() {
            member.take_ready()
        } else {
            Default::default()
        };
        let applied = member.apply(apply);
        let persisted = member.raw.persisted_index();
        if ready.committed.last().is_some_and(|entry| entry.index > persisted) {
            self.totals.commits_before_persist += 1;
            assert!(
                self.options.commit_before_persist,
                "member {id} was given unpersisted entries"
            );
        }
        self.note(id, ready.committed.len() as u64, ready.entries.len() as u64);
        self.checker.entries_committed(id, &ready.committed);
        self.checker.look(&self.members[&id]);
        for _ in applied.iter().filter(|entry| entry.is_conf_change()) {
            self.totals.conf_changes += 1;
            self.totals.joint += u64::from(self.members[&id].raw.conf_state().is_joint());
            // The moment at which some go by a configuration that others do not know.
            if self.options.partition > 0 && self.random.chance(10) {
                self.split_around(id);
            }
        }
        for read in ready.read_states {
            self.checker.read_answered(id, read.context, read.index);
            self.totals.reads += 1;
        }
        self.totals.snapshots += u64::from(ready.snapshot.is_some());
        for message in ready.messages {
            self.post(message);
        }
    }

    fn post(&mut self, message: Message) {
        self.note(message.to, message.msg_type.number(), message.index);
        if self.cut.contains(&(message.from, message.to)) || self.random.chance(self.options.loss) {
            if message.msg_type == MessageType::MsgSnap {
                self.member(message.from).raw.report_snapshot(message.to, false);
            }
            return;
        }
        if self.random.chance(self.options.duplication) {
            self.network.push(message.clone());
        }
        self.network.push(message);
    }

    fn deliver_some(&mut self) {
        for _ in 0..1 + self.random.below(16) {
            if self.network.is_empty() {
                return;
            }
            // Mostly in order, sometimes not.
            let at = if self.random.chance(80) {
                0
            } else {
                self.random.below(self.network.len())
            };
            let message = self.network.remove(at);
            self.deliver(message);
        }
    }

    fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        let is_snapshot = message.msg_type == MessageType::MsgSnap;
        let Some(member) = self.members.get_mut(&to) else {
            return;
        };
        let outcome = member.raw.step(message);
        if let Err(error) = &outcome {
            let text = error.to_string();
            assert!(
                !text.contains("lost") && !text.contains("another leader"),
                "member {to}: {text}"
            );
        }
        if is_snapshot && let Some(sender) = self.members.get_mut(&from) {
            sender.raw.report_snapshot(to, outcome.is_ok());
        }
        self.checker.look(&self.members[&to]);
        if self.random.chance(70) {
            self.turn(to);
        }
    }

    fn propose(&mut self, id: u64) {
        let count = 1 + self.random.below(4);
        let first = self.next_value;
        self.next_value += count as u64;
        let data = (first..self.next_value).map(|value| Bytes::copy_from_slice(format!("v{value:06}").as_bytes()));
        // Refusals are part of life.
        let _ = self.member(id).raw.propose_batch(data);
        self.turn(id);
    }

    fn read(&mut self, id: u64) {
        let context = self.next_context;
        self.next_context += 1;
        self.checker.read_asked(context);
        let _ = self.member(id).raw.read_index(context);
        self.turn(id);
    }

    fn transfer(&mut self, id: u64) {
        let to = self.any_member();
        self.totals.transfers += u64::from(self.member(id).raw.transfer_leader(to).is_ok());
        self.turn(id);
    }

    fn report(&mut self, id: u64) {
        let about = self.any_member();
        self.member(id).raw.report_unreachable(about);
    }

    /// An answer for a write of another life changes nothing.
    fn stale_token(&mut self, id: u64) {
        let member = self.member(id);
        let before = member.raw.status();
        for mut token in member.tokens() {
            token.last_term += 1;
            member.raw.on_persisted(token);
            token.last_term -= 1;
            token.sequence += 1_000_000;
            member.raw.on_persisted(token);
        }
        assert_eq!(member.raw.status(), before, "a stale token changed the state");
    }

    /// A member takes its leader for gone, rightly or not.
    fn lose_leader(&mut self, id: u64) {
        let raw = &mut self.member(id).raw;
        if raw.term().is_multiple_of(2) {
            return raw.forget_leader();
        }
        let leader = raw.leader_id();
        raw.report_gone(leader);
        let lost = leader != 0 && raw.leader_id() == 0;
        self.totals.alarms += u64::from(lost);
    }

    fn crash(&mut self, id: u64) {
        self.totals.restarts += 1;
        if self.random.chance(50) {
            let others = self.members.iter_mut().filter(|(other, _)| **other != id);
            others.for_each(|(_, other)| other.raw.report_gone(id));
        }
        let flush = self.random.chance(50);
        let member = self.member(id);
        if flush {
            member.flush_state();
        }
        let restarted = member.restarted();
        self.members.insert(id, restarted);
        self.checker.forget(id);
    }

    fn change_partition(&mut self) {
        if self.random.chance(60) {
            self.cut.clear();
            return;
        }
        if self.random.chance(40) {
            let id = self.any_member();
            return self.split_around(id);
        }
        let (one, other) = (self.any_member(), self.any_member());
        self.cut.insert((one, other));
        if self.random.chance(60) {
            self.cut.insert((other, one));
        }
    }

    /// Two sides that hear nothing of each other, each with some of those who do not know the configuration of `id`: what
    /// two quorums need to decide differently.
    fn split_around(&mut self, id: u64) {
        let known = self.members[&id].raw.conf_state();
        let mut one = BTreeSet::from([id]);
        for (other, member) in &self.members {
            if self
                .random
                .chance(if member.raw.conf_state() == known { 75 } else { 40 })
            {
                one.insert(*other);
            }
        }
        let pairs = self
            .members
            .keys()
            .flat_map(|a| self.members.keys().map(move |b| (*a, *b)));
        self.cut = pairs.filter(|(a, b)| one.contains(a) != one.contains(b)).collect();
    }

    fn change_membership(&mut self) {
        // Mostly the newest leader; now and then one that does not know yet that it leads no more.
        let newest = self.leader();
        let any = self.any_member();
        let leads = |id: &u64| self.members[id].raw.role() == Role::Leader;
        let Some(leader) = Some(any).filter(leads).or(newest) else {
            return;
        };
        let state = self.members[&leader].raw.conf_state();
        let change = if state.is_joint() && !state.auto_leave {
            ConfChangeV2::leave_joint()
        } else {
            self.random_change(&state)
        };
        let removed: Vec<u64> = change
            .changes
            .iter()
            .filter(|single| single.change_type == ConfChangeType::RemoveNode)
            .map(|single| single.node_id)
            .collect();
        if self.member(leader).raw.propose_conf_change(change).is_ok() {
            self.removed.extend(removed);
        }
        self.turn(leader);
    }

    fn random_change(&mut self, state: &ConfState) -> ConfChangeV2 {
        let mut changes = Vec::new();
        let wanted = 1 + self.random.below(3);
        for _ in 0..wanted {
            let id = self.any_member();
            let change_type = match self.random.below(5) {
                0 if state.voters.len() > 2 => ConfChangeType::RemoveNode,
                1 => ConfChangeType::AddLearnerNode,
                _ => ConfChangeType::AddNode,
            };
            if !self.removed.contains(&id) {
                changes.push(ConfChangeSingle {
                    change_type,
                    node_id: id,
                });
            }
        }
        // A step for nobody keeps the change from being the one that leaves.
        changes.push(ConfChangeSingle::default());
        let transition = [
            ConfChangeTransition::Auto,
            ConfChangeTransition::JointImplicit,
            ConfChangeTransition::JointExplicit,
        ][self.random.below(3)];
        ConfChangeV2 {
            transition,
            changes,
            context: Bytes::new(),
        }
    }

    fn leader(&self) -> Option<u64> {
        let leaders = self.members.values().filter(|member| member.raw.role() == Role::Leader);
        leaders
            .max_by_key(|member| member.raw.term())
            .map(|member| member.raw.id())
    }

    fn check_everybody(&mut self, thoroughly: bool) {
        for member in self.members.values() {
            self.checker.look(member);
        }
        if thoroughly {
            let members: Vec<&Member> = self.members.values().collect();
            self.checker.check_log_matching(&members);
        }
    }

    /// The storm is over: everybody must find together, and whatever waits must finish.
    fn calm_down(&mut self) {
        self.cut.clear();
        self.options.loss = 0;
        self.options.partition = 0;
        self.options.duplication = 0;
        self.options.slow_disk = 0;
        self.options.slow_apply = 0;
        let mut goal = None;
        for _ in 0..600 {
            self.calm_round();
            let Some(leader) = self.leader() else { continue };
            let state = self.members[&leader].raw.conf_state();
            if state.is_joint() && !state.auto_leave {
                let _ = self.member(leader).raw.propose_conf_change(ConfChangeV2::leave_joint());
            }
            match goal {
                None => {
                    let next = self.members[&leader].raw.last_index() + 1;
                    let accepted = self
                        .member(leader)
                        .raw
                        .propose(Bytes::from_static(b"the storm is over"))
                        .is_ok();
                    goal = accepted.then_some(next);
                }
                Some(index) if self.has_arrived(leader, index) => return self.final_read(leader),
                Some(index) if self.members[&leader].raw.last_index() < index => goal = None,
                Some(_) => {}
            }
        }
        let states: Vec<_> = self.members.values().map(|member| member.raw.status()).collect();
        panic!("after the storm the group does not find together, goal {goal:?}: {states:#?}");
    }

    fn calm_round(&mut self) {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for &id in &ids {
            self.tick(id);
        }
        for _ in 0..12 {
            for message in std::mem::take(&mut self.network) {
                self.deliver(message);
            }
            for &id in &ids {
                let in_flight = self.members[&id].writes_in_flight();
                self.member(id).persist(in_flight);
                self.turn(id);
            }
        }
        self.check_everybody(true);
    }

    /// Whether every member of the configuration has applied the entry, and the configuration is settled.
    fn has_arrived(&self, leader: u64, index: u64) -> bool {
        let state = self.members[&leader].raw.conf_state();
        let ids = state.voters.iter().chain(&state.learners);
        !state.is_joint()
            && ids
                .map(|id| &self.members[id])
                .all(|member| member.state.index >= index)
    }

    fn final_read(&mut self, leader: u64) {
        let before = self.totals.reads;
        self.read(leader);
        for _ in 0..3 {
            self.calm_round();
        }
        assert!(self.totals.reads > before, "a read in calm weather was not answered");
        let progress = self.members[&leader].raw.status().progress;
        assert!(
            progress.iter().all(|(_, progress)| progress.inflights.count() == 0),
            "{progress:?}"
        );
    }

    /// Folds an event into the trace, by which two runs are compared.
    fn note(&mut self, one: u64, two: u64, three: u64) {
        let folded = one.wrapping_mul(3) ^ two.wrapping_mul(0x1_0001) ^ three.wrapping_mul(0x1000_0001);
        self.totals.trace_hash = (self.totals.trace_hash ^ folded)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(5);
    }
}
