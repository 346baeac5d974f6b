//! One member of the cluster as a deterministic state machine.
//!
//! [`Member`] holds consensus, the store, leases, alarms and membership. It does no I/O and reads no clock: time,
//! randomness (a seed) and the completion of writes are inputs. [`Engine`] joins it with the write-ahead log and the
//! tree over a [`storage::io::Disk`]; one [`Engine::turn`] takes events in and gives effects out. Production drives the
//! engine with io_uring and the clock, the simulator with a simulated disk, network and time.
//!
//! Order of effects in one turn: entries go to the log and to the peers at the same time; committed entries are applied;
//! a [`View`] that holds their effects is made; only then do answers leave.

mod abilities;
mod alone;
mod apply;
mod auto_compaction;
mod boot;
mod commit;
mod compare;
pub mod corruption;
mod engine;
mod error;
mod event;
mod farewell;
mod forward;
mod hash_cache;
mod inflight;
mod install;
mod leadership;
mod lessor;
mod membership;
mod reconfigure;
mod refill;
mod renewals;
mod roster;
mod rows;
mod stall;
mod time_outs;
mod transfer;
mod txn;
mod view;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use ahash::AHashMap;
use bytes::Bytes;
use net::pb::etcdserverpb::{CompactionRequest, InternalRaftRequest, RequestHeader};
use net::peer::CallMethod;
use prost::Message as _;
use raft::{RawNode, mutant};
use storage::mvcc::{AppliedState, Block, Store, StoreView};

pub use abilities::{ENTRY_KINDS, is_downgrade, major_minor};
pub use apply::{CORRUPT, Fault, NOSPACE};
pub use auto_compaction::AutoCompaction;
pub use boot::{BootError, MemberOptions};
pub use commit::CommitPolicy;
pub use compare::{KeyFacts, holds, needs_value};
pub use engine::{Engine, Outputs};
pub use error::Refusal;
pub use event::{Deleted, Event, OpOutcome, Outcome, Reply, Request, RequestId, Rev, ShardIndex, TxnOutcome};
pub use hash_cache::{Cached, HashCache};
pub use install::{INCOMING, Outgrown};
pub use lessor::{LeaseInfo, MAX_TTL_SECONDS};
pub use membership::{MemberInfo, Membership};
pub use reconfigure::MemberChange;
pub use refill::DAMAGED;
pub use roster::{ROSTER, Roster};
pub use transfer::{Inbound, Outbound, Step, TransferError};
pub use txn::WriteCounts;
pub use view::{Defrag, Published, View};

use crate::metrics::CoreMetrics;
use auto_compaction::Compactor;
use lessor::Lessor;

/// Proposals and reads that may wait at once; more are refused with "too many requests".
///
/// Source: limits table, raft propose buffer (4096 there, per connection here many more connections share it).
const WAITING_MAX: usize = 1 << 20;
/// A read round without an answer is started anew after this long. Units: nanoseconds. Source: limits table.
const READ_RETRY_NS: u64 = 500_000_000;
/// A member that has found no two others by then waits its whole first election time-out. Source: etcd `adjustTicks`, which
/// looks for as long as `ConnReadTimeout`.
const FIRST_WAIT_MAX_NS: u64 = 5_000_000_000;
/// What this member tells of itself is proposed again after this long, until it is applied. Units: nanoseconds.
const ANNOUNCE_RETRY_NS: u64 = 1_000_000_000;

/// A leader waits this long for the versions of all members before it sets the lowest there is. Units: nanoseconds.
/// Source: limits table, "version monitor".
const VERSION_WAIT_NS: u64 = 4_000_000_000;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
enum Asker {
    /// A call of a shard.
    Shard(ShardIndex, RequestId),
    /// A request that another member passed on.
    Peer(u64, u64),
}

/// A request that waits for a leadership round.
#[derive(Debug)]
struct WaitingRead {
    asker: Asker,
    then: AfterRound,
}

/// What is done once a leadership round is won and its index applied.
#[derive(Debug)]
enum AfterRound {
    /// The asker goes on by itself.
    Answer,
    /// A lease is renewed.
    Renew(i64),
    /// A lease is told of, with its keys or without.
    Tell(i64, bool),
}

/// One leadership round.
#[derive(Debug)]
struct ReadRound {
    /// Its first context. An answer to this one or to any later one of this member counts: that was asked for later.
    context: u64,
    started_ns: u64,
    /// When it is asked for again.
    retry_ns: u64,
    /// Known once the round is won.
    index: Option<u64>,
    waiting: Vec<WaitingRead>,
}

/// The replicated state machine of one member.
pub struct Member {
    options: MemberOptions,
    raft: RawNode,
    store: Store,
    lessor: Lessor,
    alarms: Arc<BTreeSet<(u64, i32)>>,
    members: Arc<Membership>,
    applied: AppliedState,
    now_ns: u64,
    next_tick_ns: u64,
    next_checkpoint_ns: u64,
    /// Where the checkpoints under way go on.
    checkpoint_from: Option<i64>,
    /// Whose proposal it is, and when it times out.
    proposals: AHashMap<RequestId, (ShardIndex, u64)>,
    next_time_out_ns: u64,
    reads: Vec<WaitingRead>,
    rounds: VecDeque<ReadRound>,
    /// The leader changed: the rounds that wait need a new question.
    ask_rounds_again: bool,
    next_context: u64,
    next_own_id: u64,
    batch: Vec<Bytes>,
    batch_ids: Vec<RequestId>,
    /// Some of the batch is from an earlier turn.
    batch_waits: bool,
    replies: Vec<(ShardIndex, Reply)>,
    forwards: forward::Forwards,
    renewals: renewals::Renewals,
    transfers: time_outs::Transfers,
    /// This member leads and has applied all that former leaders decided of leases.
    leases_settled: bool,
    /// When this member last came to lead; 0: never.
    elected_ns: u64,
    changes: reconfigure::Changes,
    /// Members with a damaged tree that asked for a snapshot.
    refills: Vec<u64>,
    abilities: abilities::Abilities,
    /// This member was removed from the cluster.
    removed: bool,
    farewell: Option<farewell::Farewell>,
    next_announce_ns: u64,
    /// Until then the first election may be hurried.
    first_wait_until_ns: Option<u64>,
    compactor: Compactor,
    /// Blocks sealed within this turn, ahead of its end.
    sealed: Vec<Arc<Block>>,
    /// Compactions accepted in this turn, each with the store from just before it.
    compacted: Vec<(StoreView, i64)>,
    hashes: HashCache,
    was_leader: bool,
    published_leader: u64,
    leaderless: leadership::Leaderless,
    metrics: Arc<CoreMetrics>,
}

impl Member {
    /// Takes one event. Proposals gather until [`Member::flush_proposals`].
    fn handle(&mut self, event: Event) {
        match event {
            Event::Request { shard, id, request } => self.request(shard, id, request),
            Event::Cancel { id } => {
                self.proposals.remove(&id);
            }
            Event::Peer(message) => {
                if let Err(error) = self.raft.step(*message) {
                    tracing::debug!(%error, "message ignored");
                }
            }
            Event::PeerCall { from, call } => self.on_call(from, call),
            Event::PeerAnswer { answer } => self.on_answer(answer),
            Event::Link { id, up } => self.changes.note_link(id, up, self.now_ns),
            Event::Greeted {
                id,
                entry_kinds,
                etcd_version,
            } => self.abilities.note(&self.members, id, entry_kinds, &etcd_version),
            Event::Gone(id) => self.raft.report_gone(id),
            Event::Unreachable(id) => self.raft.report_unreachable(id),
            Event::SnapshotSent { to, ok } => self.raft.report_snapshot(to, ok),
            Event::SnapshotReceived(_) => unreachable!("the engine keeps what concerns the tree"),
            Event::Removed => self.removed = true,
        }
    }

    fn request(&mut self, shard: ShardIndex, id: RequestId, request: Request) {
        let refuse = |member: &mut Member, refusal| member.answer(shard, id, Err(refusal));
        match request {
            Request::Propose { data } => {
                if self.proposals.len() >= WAITING_MAX {
                    return refuse(self, Refusal::TooManyRequests);
                }
                self.proposals
                    .insert(id, (shard, self.now_ns + self.options.request_timeout_ns));
                self.batch.push(data);
                self.batch_ids.push(id);
            }
            Request::ProposeDowngrade { data } => {
                let me = self.options.member_id;
                match self.abilities.all_apply(&self.members, me, abilities::DOWNGRADE) {
                    true => self.request(shard, id, Request::Propose { data }),
                    false => refuse(self, Refusal::NotCapable),
                }
            }
            Request::ReadBarrier => self.wait_for_round(WaitingRead {
                asker: Asker::Shard(shard, id),
                then: AfterRound::Answer,
            }),
            Request::LeaseRenew { lease } => {
                self.ask_leader(shard, id, CallMethod::LeaseRenew, lease as u64, false);
            }
            Request::LeaseInfo { lease, keys } => {
                self.ask_leader(shard, id, CallMethod::LeaseInfo, lease as u64, keys);
            }
            Request::Leases => {
                let ids = self.lessor.ids();
                self.answer(shard, id, Ok(Outcome::Leases(ids)));
            }
            Request::ChangeMembers { change } => self.change_members(shard, id, change),
            Request::MoveLeader { target } => self.move_leader(shard, id, target),
            Request::CompactionDone { .. } | Request::Defragment => {
                unreachable!("the engine keeps what waits for the tree")
            }
        }
    }

    fn wait_for_round(&mut self, read: WaitingRead) {
        if self.reads.len() >= WAITING_MAX {
            return self.settle(read.asker, Err(Refusal::TooManyRequests));
        }
        self.reads.push(read);
    }

    /// Answers whoever asked.
    fn settle(&mut self, asker: Asker, result: Result<Outcome, Refusal>) {
        match asker {
            Asker::Shard(shard, id) => self.answer(shard, id, result),
            Asker::Peer(from, id) => self.answer_peer(from, id, result),
        }
    }

    fn answer(&mut self, shard: ShardIndex, id: RequestId, result: Result<Outcome, Refusal>) {
        self.replies.push((shard, Reply { id, result }));
    }

    /// Hands the gathered proposals to consensus and starts one leadership round for the reads that wait.
    fn flush_proposals(&mut self) {
        // Without a leader proposals wait for one, until they time out. Source: etcd's raft node, which takes none.
        if !self.batch.is_empty() && self.reaches_leader() {
            self.drop_late_proposals();
            if let Err(error) = self.raft.propose_batch(self.batch.drain(..)) {
                let refusal = match error {
                    raft::ProposeError::TooMuchUncommitted { .. } => Refusal::TooManyRequests,
                    _ => Refusal::ProposalDropped,
                };
                for id in std::mem::take(&mut self.batch_ids) {
                    self.metrics.failed.add(1);
                    if let Some((shard, _)) = self.proposals.remove(&id) {
                        self.answer(shard, id, Err(refusal));
                    }
                }
            }
            self.batch_ids.clear();
        }
        self.batch_waits = !self.batch.is_empty();
        self.pump_changes();
        self.start_round();
    }

    /// Whether there is a leader, and a link to it: what is sent to one that is not linked would be lost.
    fn reaches_leader(&self) -> bool {
        let leader = self.raft.leader_id();
        leader == self.options.member_id || self.changes.is_linked(leader)
    }

    /// Takes out of the batch what waited for a leader for too long: its callers were told so.
    fn drop_late_proposals(&mut self) {
        if self.batch_waits {
            self.batch_waits = false;
            let (ids, batch) = (std::mem::take(&mut self.batch_ids), std::mem::take(&mut self.batch));
            let live = ids.into_iter().zip(batch);
            let live = live.filter(|(id, _)| self.proposals.contains_key(id));
            (self.batch_ids, self.batch) = live.unzip();
        }
    }

    fn start_round(&mut self) {
        if self.reads.is_empty() || self.rounds.len() >= READ_ROUNDS_MAX {
            return;
        }
        let waiting = std::mem::take(&mut self.reads);
        // Without a leader the round is tried again at the retry time, until the requests time out.
        let round = ReadRound {
            context: self.ask_round(),
            started_ns: self.now_ns,
            retry_ns: self.now_ns + READ_RETRY_NS,
            index: None,
            waiting,
        };
        self.rounds.push_back(round);
    }

    /// Asks who leads, under a context of its own, which it gives. Whether anybody could be asked shows by the answer: when
    /// none comes, the next question answers this one too.
    fn ask_round(&mut self) -> u64 {
        let context = self.next_context;
        self.next_context += 1;
        let _ = self.raft.read_index(context);
        context
    }

    /// Answers the rounds that are won and whose index is applied.
    fn finish_rounds(&mut self) {
        while let Some(round) = self.rounds.front() {
            let applied = |index| index <= self.applied.index || mutant::on("read_before_applied");
            if !round.index.is_some_and(applied) {
                break;
            }
            let round = self.rounds.pop_front().expect("just seen");
            for read in round.waiting {
                match read.then {
                    AfterRound::Answer => self.settle(read.asker, Ok(Outcome::Done)),
                    AfterRound::Renew(lease) => self.renew(read.asker, lease),
                    AfterRound::Tell(lease, with_keys) => self.tell_lease(read.asker, lease, with_keys),
                }
            }
        }
    }

    /// A context that is won answers every round that began before it was asked for.
    fn on_read_state(&mut self, state: raft::ReadState) {
        if state.context >= self.next_context {
            return;
        }
        self.told_in(state.context);
        for round in &mut self.rounds {
            if round.context <= state.context {
                round.index.get_or_insert(state.index);
            }
        }
    }

    /// Moves time on: elections, time-outs, leases.
    fn tick(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        let interval = self.options.tick_ns;
        if self.raft.is_leader() && self.now_ns > self.next_tick_ns + 2 * interval {
            // Source: etcd's contention detector: each member is owed a heartbeat that comes late.
            let others = self.members.members.len().saturating_sub(1) as u64;
            self.metrics.late_heartbeats.add(others);
        }
        // After a pause, time that nobody saw passing is not made up for tick by tick.
        if self.now_ns > self.next_tick_ns + 10 * interval {
            self.next_tick_ns = self.now_ns - 10 * interval;
        }
        while self.next_tick_ns <= self.now_ns {
            self.next_tick_ns += interval;
            self.raft.tick();
        }
        self.hurry_first_election();
        self.log_leaderless();
        self.time_out();
        self.pump_renewals();
        self.pump_forwards();
        if self.now_ns >= self.next_announce_ns && self.raft.leader_id() != 0 {
            self.next_announce_ns = self.now_ns + ANNOUNCE_RETRY_NS;
            self.announce();
        }
        if self.raft.is_leader() {
            self.end_leases();
            if let Some(revision) = self.compactor.due(self.now_ns, self.store.revision()) {
                tracing::info!(revision, "compacting by itself");
                let request = CompactionRequest {
                    revision,
                    physical: false,
                };
                self.propose_own(InternalRaftRequest {
                    compaction: Some(request),
                    ..Default::default()
                });
            }
        }
    }

    /// A member that has started and is connected to two others waits for the random part of its first election time-out
    /// only, and two ticks for a word of a leader.
    ///
    /// Source: etcd `adjustTicks`.
    fn hurry_first_election(&mut self) {
        let Some(until_ns) = self.first_wait_until_ns else {
            return;
        };
        let is_over = self.now_ns > until_ns || self.raft.leader_id() != 0;
        if is_over || self.changes.linked() >= 2 {
            self.first_wait_until_ns = None;
        }
        if !is_over && self.first_wait_until_ns.is_none() {
            (2..self.options.election_ticks).for_each(|_| self.raft.tick());
        }
    }

    /// Proposes a request of the member itself, for which nobody waits.
    fn propose_own(&mut self, mut request: InternalRaftRequest) {
        self.next_own_id += 1;
        request.header = Some(RequestHeader {
            id: self.next_own_id,
            ..Default::default()
        });
        if let Err(error) = self.raft.propose(request.encode_to_vec().into()) {
            tracing::debug!(%error, "own proposal dropped, tried again later");
        }
    }

    /// Follows a change of leadership.
    fn on_soft_state(&mut self, state: raft::SoftState) {
        let leads = state.role == raft::Role::Leader;
        if state.leader_id != self.published_leader {
            if state.leader_id != 0 {
                self.metrics.leader_changes.add(1);
            }
            self.log_leader(state.leader_id, self.published_leader);
            self.published_leader = state.leader_id;
            // What was asked of the former leader is asked of the new one.
            self.ask_rounds_again = true;
            self.next_announce_ns = self.now_ns + ANNOUNCE_RETRY_NS;
        }
        if leads && !self.was_leader {
            self.elected_ns = self.now_ns;
            self.lessor.promote(self.now_ns, self.options.election_timeout_ns);
            self.leases_settled = mutant::on("leases_counted_too_soon");
            self.next_checkpoint_ns = self.now_ns + self.options.lease_checkpoint_interval_ns;
            self.checkpoint_from = None;
        }
        if !leads && self.was_leader {
            self.lessor.demote();
        }
        self.was_leader = leads;
        self.finish_transfers();
        if state.leader_id != 0 {
            self.announce();
        }
    }

    /// Begins to count leases down anew once an entry of this leader's own is applied: before that, renewals that a former
    /// leader answered may be in the log only, and a checkpoint from before them in the lessor.
    fn settle_leases(&mut self) {
        if self.was_leader && !self.leases_settled && self.applied.term == self.raft.term() {
            self.leases_settled = true;
            self.lessor.promote(self.now_ns, self.options.election_timeout_ns);
        }
    }

    /// Whether the cluster, as far as it is applied here, lists this member under its name and client URLs.
    fn is_listed(&self) -> bool {
        let known = self.members.members.get(&self.options.member_id);
        known.is_some_and(|member| member.name == self.options.name && member.client_urls == self.options.client_urls)
    }

    /// Tells the cluster this member's name and client URLs and, as its leader, the version that all members speak.
    fn announce(&mut self) {
        let is_member = self.members.members.contains_key(&self.options.member_id);
        if is_member && !self.is_listed() {
            let (name, client_urls) = (self.options.name.clone(), self.options.client_urls.clone());
            let attributes = net::pb::membershippb::Attributes { name, client_urls };
            let request = net::pb::membershippb::ClusterMemberAttrSetRequest {
                member_id: self.options.member_id,
                member_attributes: Some(attributes),
            };
            self.propose_own(InternalRaftRequest {
                cluster_member_attr_set: Some(request),
                ..Default::default()
            });
        }
        if !self.raft.is_leader() {
            return;
        }
        let lowest = self.abilities.lowest_version(&self.members, self.options.member_id);
        let waited = self.now_ns >= self.elected_ns + VERSION_WAIT_NS;
        let current = self.members.cluster_version.as_deref();
        let target = self.members.downgrade_target.as_deref();
        if let Some(ver) = abilities::decide_version(current, lowest, waited, target) {
            tracing::info!(from = current, to = ver, "setting the cluster's version");
            let request = net::pb::membershippb::ClusterVersionSetRequest { ver };
            self.propose_own(InternalRaftRequest {
                cluster_version_set: Some(request),
                ..Default::default()
            });
        }
    }

    fn record(&self) {
        let metrics = &self.metrics;
        metrics.committed.set(self.raft.commit_index());
        metrics.applied.set(self.applied.index);
        metrics.has_leader.set(u64::from(self.published_leader != 0));
        metrics.is_leader.set(u64::from(self.was_leader));
        metrics.current_revision.set(self.store.revision() as u64);
        metrics
            .compact_revision
            .set(self.store.compact_revision().max(0) as u64);
        metrics.keys.set(self.store.stats().live_keys);
    }
}

/// Leadership rounds under way at once; later reads gather for the next.
const READ_ROUNDS_MAX: usize = 64;
