//! The member joined with its log and its tree: everything durable happens here, over a [`Disk`].
//!
//! One [`Engine::turn`]:
//!
//! 1. takes the completions of the disk and tells consensus what is persisted;
//! 2. takes the events, hands proposals to consensus in one batch and starts one leadership round for the reads;
//! 3. runs consensus until it has nothing to say: entries to the log, messages out, committed entries applied;
//! 4. seals what was applied into a block, makes a view, and answers;
//! 5. submits the log's writes, moves the tree's commit and a compaction on by one slice each.
//!
//! A turn does a bounded amount of work; [`Outputs::more`] says that another should follow soon.

use std::sync::Arc;

use raft::{ConfState, Entry, Message, MessageType, PersistToken, SnapshotMetadata};
use storage::{
    failpoint,
    io::{Completion, Disk},
    mvcc::{CompactProgress, StoreView},
    tree::MetaUser,
    wal::{AppendToken, Space, Wal},
};

use super::{
    Event, Fault, Member, Outcome, Published, Refusal, Reply, Request, RequestId, ShardIndex, View,
    commit::{Committer, Step},
    inflight,
    view::Defrag,
};

/// Entries applied in one turn before the others get theirs. Units: entries.
pub(super) const APPLY_TURN_MAX: usize = 512;
/// Rounds of consensus in one turn before the others get theirs; as a rule one or two do.
const RAFT_ROUNDS_MAX: usize = 64;
/// Rows of physical compaction in one slice.
const COMPACT_SLICE_ROWS: usize = 256;
/// Proposals held back while the tree or the log lags; more are refused.
const HELD_MAX: usize = 1 << 16;
/// An idle log settles its tail after this long. Units: nanoseconds.
const SETTLE_NS: u64 = 200_000_000;
/// A full disk is tried again after this long. Units: nanoseconds.
const SPACE_RETRY_NS: u64 = 1_000_000_000;
/// The first tries follow each other faster. Units: nanoseconds.
const SPACE_FIRST_RETRIES_NS: u64 = 20_000_000;
/// So many tries in a row make a full disk.
const SPACE_TRIES: u32 = 4;
/// Payload of the entries kept in memory and in the log for followers that lag; one that lags more gets a snapshot.
/// Units: bytes.
const CATCH_UP_BYTES_MAX: u64 = 64 << 20;
/// The same for a member without others. Units: bytes.
const ALONE_LOG_BYTES_MAX: u64 = 4 << 20;
/// A running range holds physical compaction up for this long. Units: nanoseconds.
const PIN_WAIT_NS: u64 = 10_000_000_000;

/// What one turn gives out.
#[derive(Default)]
pub struct Outputs {
    /// The newest view and the blocks since the last one, when something changed. Publish before the replies.
    pub published: Option<Published>,
    /// Answers, each to its shard.
    pub replies: Vec<(ShardIndex, Reply)>,
    /// Compactions that begin, each with the store from just before it: some shard is to hash it.
    pub compactions: Vec<(StoreView, i64)>,
    /// Messages to other members.
    pub messages: Vec<Message>,
    /// Requests to the leader, each with its id.
    pub calls: Vec<(u64, net::peer::Call)>,
    /// Answers to the requests of other members.
    pub answers: Vec<(u64, net::peer::Answer)>,
    /// The text of the file [`ROSTER`](super::ROSTER), to be written aside, synced and renamed at leisure.
    pub roster: Option<String>,
    /// A received snapshot was dealt with: the next may be received.
    pub snapshot_done: bool,
    /// All state was replaced by a snapshot: events were skipped.
    pub installed: bool,
    /// Entries applied in this turn.
    pub applied: usize,
    /// The state that was replaced so, with the last view of it.
    pub outgrown: Option<super::Outgrown>,
    /// This member was removed from the cluster: it is to stop.
    pub removed: bool,
    /// More work is at hand: run another turn after others had theirs.
    pub more: bool,
}

/// The member with its disk state.
pub struct Engine {
    pub(super) member: Member,
    pub(super) wal: Wal,
    /// The write of a new cluster's first entries, or of those that make a member a cluster of one, until it is durable:
    /// consensus believes that it is.
    pub(super) founding: Option<AppendToken>,
    pub(super) committer: Committer,
    /// Appends that consensus has not been told of: the log's token, consensus's token, when it was submitted, until it is
    /// durable.
    pub(super) appends: std::collections::VecDeque<(AppendToken, PersistToken, Option<u64>)>,
    pub(super) completions: Vec<Completion>,
    pub(super) to_apply: std::collections::VecDeque<Entry>,
    pub(super) compaction: Compaction,
    /// Who waits for the file to be as short as it can be, and since when.
    pub(super) defragmenting: Vec<(ShardIndex, RequestId, u64)>,
    pub(super) defrags_begun: u64,
    /// A defragmentation was asked for in the turn before, and all have been told since that it is under way.
    pub(super) defrag_told: bool,
    pub(super) install: super::install::Install,
    pub(super) inflight: inflight::Inflight,
    pub(super) stall: super::stall::Stall,
    /// The tree is damaged: the member waits for another.
    pub(super) refill: Option<super::refill::Refill>,
    /// The members that the roster was last written for.
    pub(super) roster_of: Option<Arc<super::Membership>>,
    pub(super) published: Arc<View>,
    pub(super) dirty: bool,
    pub(super) last_wal_bytes: u64,
    pub(super) campaigned: bool,
    pub(super) next_space_retry_ns: u64,
    /// Tries in a row to make room for the log.
    pub(super) space_tries: u32,
    /// Proposals that wait until the tree and the log have caught up.
    pub(super) held: std::collections::VecDeque<Event>,
    /// When the log was last appended to, if its tail has not been settled since.
    pub(super) unsettled_since_ns: Option<u64>,
}

/// Who waits for physical compaction, and since when readers hold it up.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    waiting: Vec<(i64, ShardIndex, RequestId)>,
    held_since_ns: Option<u64>,
    active: bool,
    /// When it became so.
    since_ns: u64,
    next_slice_ns: u64,
    /// Removed since the last pause.
    unpaused_rows: u64,
}

impl Compaction {
    /// Goes on with what a snapshot's member had not finished.
    pub(super) fn resume(&mut self) {
        self.active = true;
        self.held_since_ns = None;
    }

    /// A compaction that a former run left unfinished goes on.
    pub(super) fn resumed() -> Self {
        Compaction {
            active: true,
            ..Compaction::default()
        }
    }
}

impl Engine {
    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.published.clone()
    }

    /// Whether it holds nothing at all: no entry, no member.
    pub fn is_blank(&self) -> bool {
        self.member.raft.last_index() == 0 && self.member.members.members.is_empty()
    }

    /// The newest durable root, for a follower that lags behind the log.
    pub fn durable_root(&self) -> Arc<storage::tree::Root> {
        self.committer.root()
    }

    /// Consensus, to be looked at: who checks its invariants does so from outside.
    pub fn consensus(&self) -> &raft::RawNode {
        &self.member.raft
    }

    /// This member's id.
    pub fn member_id(&self) -> u64 {
        self.member.options.member_id
    }

    /// Whether the cluster, as far as it is applied here, lists this member under its name and client URLs.
    pub fn is_listed(&self) -> bool {
        self.member.is_listed()
    }

    /// Hashes taken at compactions, for the shards.
    pub fn hashes(&self) -> super::HashCache {
        self.member.hashes.clone()
    }

    /// Registers of running ranges, for the shards.
    pub fn pins(&self) -> storage::mvcc::Pins {
        self.member.store.pins()
    }

    /// When the next turn must run at the latest, in monotonic nanoseconds.
    pub fn next_deadline_ns(&self) -> u64 {
        let lease = self.member.lessor.next_deadline_ns().unwrap_or(u64::MAX);
        let tick = self.member.next_tick_ns;
        // Without anything to write a commit is never due, and an idle member sleeps from tick to tick.
        let commit = match self.member.store.buffered_bytes() > 0 || self.committer.is_shrinking() {
            true => self.committer.next_deadline_ns(),
            false => u64::MAX,
        };
        let compaction = match self.compaction.active {
            true => self.compaction.next_slice_ns,
            false => u64::MAX,
        };
        tick.min(lease.max(self.member.now_ns + 1_000_000))
            .min(commit)
            .min(compaction)
    }

    /// Runs one turn. `events` is drained.
    ///
    /// Errors: any fault is final; the member must stop without flushing anything.
    pub fn turn(
        &mut self,
        disk: &mut dyn Disk,
        events: &mut Vec<Event>,
        now_ns: u64,
        out: &mut Outputs,
    ) -> Result<(), Fault> {
        self.member.metrics.turns.add(1);
        if std::mem::take(&mut self.defrag_told) {
            failpoint!("defragBeforeCopy");
        }
        self.take_completions(disk, now_ns)?;
        let next_tick_ns = self.member.next_tick_ns;
        self.member.tick(now_ns);
        self.watch_log(self.member.next_tick_ns != next_tick_ns);
        while !self.overloaded()
            && let Some(event) = self.held.pop_front()
        {
            self.take_event(event);
        }
        for event in events.drain(..) {
            self.take_event(event);
        }
        self.pump_refill(now_ns);
        self.start_install(disk)?;
        self.member.flush_proposals();
        self.run_raft(out, now_ns)?;
        self.settle_log(now_ns);
        self.wal.pump(disk)?;
        self.compact(now_ns);
        self.publish(out);
        self.commit(disk, now_ns)?;
        let applies = !self.to_apply.is_empty();
        out.more |= self.defrag_told
            || applies
            || (self.compaction.active && self.compaction.next_slice_ns <= now_ns)
            || self.member.raft.has_ready()
            || self.committer.has_work()
            || self.install.has_work();
        if self.dirty {
            self.publish(out);
        }
        out.replies.append(&mut self.member.replies);
        self.member.forwards.take(&mut out.calls, &mut out.answers);
        self.send_refills(out);
        self.member.metrics.pending.set(self.member.proposals.len() as u64);
        for message in &out.messages {
            if let Some(snapshot) = &message.snapshot {
                self.inflight.begun(message.to, snapshot.metadata.index);
            }
        }
        out.removed |= self.member.is_leaving();
        out.roster = self.changed_roster().or(out.roster.take());
        let (done, installed) = self.take_install_news();
        out.snapshot_done |= done;
        out.installed |= installed;
        out.outgrown = self.install.take_outgrown().or(out.outgrown.take());
        Ok(())
    }

    /// Whether everything acknowledged or applied is in the tree and nothing is being written.
    pub fn is_settled(&self) -> bool {
        self.appends.is_empty() && self.committer.is_idle() && self.member.store.buffered_bytes() == 0
    }

    /// Begins to hand leadership over before a stop; false when this member does not lead or nobody can take it.
    pub fn resign(&mut self) -> bool {
        self.member.resign()
    }

    /// Starts a commit at the next turn, whatever the interval says.
    pub fn hurry(&mut self) {
        self.committer.hurry();
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Request {
                shard,
                id,
                request: Request::CompactionDone { revision },
            } => {
                self.compaction.waiting.push((revision, shard, id));
                self.committer.hurry();
            }
            Event::Request {
                shard,
                id,
                request: Request::Defragment,
            } => {
                self.defragmenting.push((shard, id, self.member.now_ns));
                self.defrags_begun += 1;
                self.dirty = true;
                self.committer.start_shrinking(self.member.now_ns);
                self.defrag_told = true;
            }
            Event::Request {
                shard,
                id,
                request: Request::Propose { .. },
            } if self.held.len() >= HELD_MAX => {
                self.member.answer(shard, id, Err(Refusal::TooManyRequests));
            }
            // What it took it could not write down, and the others are to lead.
            Event::Request {
                shard,
                id,
                request: Request::Propose { .. },
            } if self.stall.is_stalled() && self.member.raft.is_leader() => {
                self.member.answer(shard, id, Err(Refusal::Timeout));
            }
            event @ Event::Request {
                request: Request::Propose { .. },
                ..
            } if self.overloaded() => self.held.push_back(event),
            Event::Request {
                shard,
                id,
                request: Request::Propose { .. },
            } if self.space_tries >= SPACE_TRIES && matches!(self.wal.space(), Space::Exhausted(_)) => {
                self.member.answer(shard, id, Err(Refusal::NoSpace));
            }
            Event::SnapshotReceived(message) => self.on_received(message),
            Event::SnapshotSent { to, ok } => {
                self.inflight.ended(to, ok, self.member.now_ns);
                self.member.handle(Event::SnapshotSent { to, ok });
            }
            // It comes with its pages, on a connection of its own.
            Event::Peer(message) if message.msg_type == MessageType::MsgSnap => {}
            event => self.member.handle(event),
        }
    }

    /// The tree lags too far behind (DECISIONS 10).
    fn overloaded(&self) -> bool {
        self.member.store.buffered_bytes() > self.member.options.buffered_bytes_max
            || self.wal.queued_bytes() > self.member.options.buffered_bytes_max
    }

    fn take_completions(&mut self, disk: &mut dyn Disk, now_ns: u64) -> Result<(), Fault> {
        disk.poll(&mut self.completions);
        for completion in std::mem::take(&mut self.completions) {
            if self.wal.owns(completion.token) {
                self.wal.on_completion(disk, completion)?;
            } else if self.install.owns(completion.token) {
                self.install.on_completion(completion)?;
            } else {
                self.committer.on_completion(completion)?;
            }
        }
        let persisted = self.wal.persisted();
        for (_, _, since) in self.appends.iter_mut().take_while(|(token, ..)| *token <= persisted) {
            if let Some(since) = since.take() {
                self.member.metrics.wal_fsync.observe_ns(now_ns.saturating_sub(since));
                failpoint!("raftAfterSave");
            }
        }
        while let Some((token, persist, _)) = self.appends.front().copied()
            && token <= persisted
            && self.installs(disk, persist)?
        {
            self.appends.pop_front();
            self.member.raft.on_persisted(persist);
        }
        Ok(())
    }

    fn run_raft(&mut self, out: &mut Outputs, now_ns: u64) -> Result<(), Fault> {
        let mut applied = self.apply_some(0)?;
        for _ in 0..RAFT_ROUNDS_MAX {
            if !self.member.raft.has_ready() || applied >= APPLY_TURN_MAX {
                break;
            }
            let ready = self.member.raft.ready();
            if let Some(state) = ready.soft_state {
                self.member.on_soft_state(state);
                self.dirty = true;
            }
            let marker = ready.snapshot.map(|snapshot| snapshot.metadata);
            // Source: etcd saves every Ready, those of a leader's heartbeats too.
            failpoint!("raftBeforeSave");
            if !ready.entries.is_empty() || ready.hard_state.is_some() || marker.is_some() {
                self.unsettled_since_ns = Some(now_ns);
                if marker.is_some() {
                    failpoint!("raftBeforeSaveSnap");
                    // etcd's spelling.
                    failpoint!("raftBeforeWALSaveSnaphot");
                }
                #[cfg(feature = "failpoints")]
                if self.is_alone() {
                    failpoint!("raftBeforeSaveWaitWalSync");
                }
                let token = self.wal.append(&ready.entries, ready.hard_state, marker.as_ref());
                if let Some(persist) = ready.token {
                    self.appends.push_back((token, persist, Some(now_ns)));
                    if let Some(marker) = marker {
                        self.snapshot_taken(persist, marker);
                    }
                }
            }
            failpoint!(if self.member.raft.is_leader() => "raftBeforeLeaderSend" else "raftBeforeFollowerSend");
            out.messages.extend(ready.messages);
            self.to_apply.extend(ready.committed);
            for state in ready.read_states {
                self.member.on_read_state(state);
            }
            applied = self.apply_some(applied)?;
            failpoint!("raftBeforeAdvance");
        }
        out.applied += applied;
        self.member.finish_rounds();
        self.member.pump_renewals();
        self.member.finish_forwards();
        self.campaign_alone();
        Ok(())
    }

    /// Members that asked for one get a snapshot; the shell fills in which, with its pages.
    fn send_refills(&mut self, out: &mut Outputs) {
        let durable = self.committer.durable();
        for to in std::mem::take(&mut self.member.refills) {
            let snapshot = raft::Snapshot {
                metadata: SnapshotMetadata {
                    index: durable.applied_index,
                    term: durable.applied_term,
                    conf_state: self.member.raft.conf_state(),
                },
                ..raft::Snapshot::default()
            };
            out.messages.push(Message {
                msg_type: MessageType::MsgSnap,
                to,
                from: self.member.options.member_id,
                term: self.member.raft.term(),
                snapshot: Some(snapshot),
                ..Message::default()
            });
        }
    }

    /// A sole voter need not wait for an election time-out.
    fn campaign_alone(&mut self) {
        let voters = &self.member.raft.conf_state().voters;
        let caught_up = self.member.raft.applied_index() == self.member.raft.commit_index();
        if !self.campaigned && caught_up && *voters == [self.member.options.member_id] {
            self.campaigned = true;
            self.member.raft.campaign();
        }
    }

    /// Lets the last batch of an idle log be vouched for by an empty one (DECISIONS 1).
    fn settle_log(&mut self, now_ns: u64) {
        if self.unsettled_since_ns.is_some_and(|since| since + SETTLE_NS <= now_ns) && !self.wal.has_work_in_flight() {
            self.unsettled_since_ns = None;
            self.wal.settle();
        }
    }

    fn apply_some(&mut self, mut applied: usize) -> Result<usize, Fault> {
        // There is nothing to apply them to. The state that is waited for has them, or consensus hands them out again
        // behind it.
        if self.refill.is_some() {
            self.to_apply.clear();
            return Ok(applied);
        }
        while applied < APPLY_TURN_MAX {
            let Some(entry) = self.to_apply.pop_front() else { break };
            if let Some((id, result)) = self.member.apply(&entry)? {
                if let Ok(Outcome::Compact { .. }) = &result
                    && !std::mem::replace(&mut self.compaction.active, true)
                {
                    self.compaction.since_ns = self.member.now_ns;
                }
                if let Some((shard, _)) = self.member.proposals.remove(&id) {
                    self.member.replies.push((shard, Reply { id, result }));
                }
            }
            self.member.raft.on_applied(entry.index);
            applied += 1;
            self.dirty = true;
        }
        Ok(applied)
    }

    fn compact(&mut self, now_ns: u64) {
        if !self.compaction.active || now_ns < self.compaction.next_slice_ns {
            return;
        }
        let waited = self
            .compaction
            .held_since_ns
            .map_or(0, |since| now_ns.saturating_sub(since));
        failpoint!("compactAfterAcquiredBatchTxLock");
        let rows = self.member.store.stats().revisions;
        let options = &self.member.options;
        let batch_left = options
            .compaction_batch_rows
            .saturating_sub(self.compaction.unpaused_rows);
        let slice = COMPACT_SLICE_ROWS.min(batch_left.max(1) as usize);
        let progress = self.member.store.compact_step(slice, waited < PIN_WAIT_NS);
        let removed = rows - self.member.store.stats().revisions;
        self.member.metrics.compaction_keys.add(removed);
        match progress {
            CompactProgress::Idle => self.compaction.active = false,
            CompactProgress::Waiting => {
                self.compaction.held_since_ns.get_or_insert(now_ns);
                self.compaction.next_slice_ns = now_ns + self.member.options.tick_ns;
            }
            CompactProgress::Working => {
                self.compaction.held_since_ns = None;
                self.compaction.unpaused_rows += removed;
                let options = &self.member.options;
                // While the tree lags, what a compaction removes must not take the room of proposals.
                let lags = self.member.store.buffered_bytes() > options.buffered_bytes_max / 2;
                if lags || self.compaction.unpaused_rows >= options.compaction_batch_rows {
                    self.compaction.unpaused_rows = 0;
                    self.compaction.next_slice_ns = now_ns + options.compaction_pause_ns;
                }
                self.dirty |= removed > 0;
            }
            CompactProgress::Done(revision) => {
                self.compaction.held_since_ns = None;
                self.dirty = true;
                let since_ns = std::mem::replace(&mut self.compaction.since_ns, now_ns);
                let metrics = &self.member.metrics;
                metrics.compaction_total.observe_ns(now_ns.saturating_sub(since_ns));
                metrics.compaction_last_ns.set(now_ns);
                tracing::info!(revision, "compaction is done");
            }
        }
    }

    fn publish(&mut self, out: &mut Outputs) {
        if !self.dirty {
            return;
        }
        self.dirty = false;
        failpoint!("beforeWritebackBuf");
        let block = self.member.store.seal_block(self.member.applied.clone());
        let mut blocks = std::mem::take(&mut self.member.sealed);
        blocks.push(block);
        out.compactions.append(&mut self.member.compacted);
        let view = Arc::new(self.make_view());
        self.published = view.clone();
        failpoint!("afterWritebackBuf");
        self.member.record();
        match &mut out.published {
            Some(published) => {
                published.view = view;
                published.blocks.append(&mut blocks);
            }
            none => *none = Some(Published { view, blocks }),
        }
    }

    pub(super) fn make_view(&self) -> View {
        let member = &self.member;
        let me = member.members.members.get(&member.options.member_id);
        let (size, in_use) = self.committer.sizes();
        View {
            store: member.store.view(),
            applied_index: member.applied.index,
            committed_index: member.raft.commit_index(),
            term: member.raft.term(),
            leader: member.raft.leader_id(),
            is_learner: me.is_some_and(|me| me.is_learner),
            members: member.members.clone(),
            alarms: member.alarms.clone(),
            defrag: Defrag {
                running: !self.defragmenting.is_empty(),
                begun: self.defrags_begun,
            },
            db_size_bytes: size,
            db_in_use_bytes: in_use + member.store.buffered_bytes() as u64,
            is_stalled: self.stall.is_stalled(),
        }
    }

    fn commit(&mut self, disk: &mut dyn Disk, now_ns: u64) -> Result<(), Fault> {
        if !self.tree_stands_still() {
            self.step_commit(disk, now_ns)?;
        }
        let (size, in_use) = self.committer.sizes();
        self.member.metrics.db_size.set(size);
        self.member.metrics.db_in_use.set(in_use);
        let written = self.wal.written_bytes();
        self.member
            .metrics
            .wal_write_bytes
            .add(written - std::mem::replace(&mut self.last_wal_bytes, written));
        // Also while the tree stands still for a snapshot: its marker may be what the log has no room for.
        self.look_for_space(now_ns)
    }

    fn step_commit(&mut self, disk: &mut dyn Disk, now_ns: u64) -> Result<(), Fault> {
        self.founding = self.founding.filter(|token| *token > self.wal.persisted());
        let persisted = match self.founding {
            Some(_) => 0,
            None => self.member.raft.persisted_index(),
        };
        match self.committer.step(disk, &mut self.member.store, persisted, now_ns)? {
            Step::Idle => {}
            Step::Done {
                applied,
                took_ns,
                wrote_ns,
            } => {
                self.member.metrics.backend_commit.observe_ns(took_ns);
                self.member.metrics.commit_write.observe_ns(wrote_ns);
                self.dirty = true;
                self.release(&applied, self.member.options.catch_up_entries)?;
                self.answer_compaction()?;
                self.answer_defragmented();
            }
        }
        Ok(())
    }

    /// Tries a full disk again from time to time, and raises the alarm.
    fn look_for_space(&mut self, now_ns: u64) -> Result<(), Fault> {
        let space = self.wal.space();
        let wal_low = matches!(space, Space::SpareUnavailable(_) | Space::Exhausted(_));
        if matches!(space, Space::Ready) {
            self.space_tries = 0;
        }
        if wal_low && now_ns >= self.next_space_retry_ns {
            // A file system gives out what was freed only once that is durable there: a first no is not the last word.
            self.space_tries += 1;
            let is_sure = self.space_tries >= SPACE_TRIES;
            self.next_space_retry_ns = now_ns
                + if is_sure {
                    SPACE_RETRY_NS
                } else {
                    SPACE_FIRST_RETRIES_NS
                };
            // Alone, nobody lags, so all but the last entry that the tree has can go while there is no room.
            if self.is_alone() && !self.install.is_taking() {
                let durable = self.committer.durable();
                self.release(&durable, 1)?;
            }
            self.wal.retry_space();
        }
        let wal_low = wal_low && self.space_tries >= SPACE_TRIES;
        if self.committer.out_of_space() || wal_low {
            self.raise_no_space(if wal_low { "the log" } else { "the database" });
        }
        Ok(())
    }

    /// Whether there is nobody to keep log entries for.
    fn is_alone(&self) -> bool {
        let members = self.member.raft.conf_state();
        members.voters.len() == 1 && members.learners.is_empty()
    }

    /// Lets go of log entries that the tree has, but for those kept for followers that lag.
    fn release(&mut self, durable: &MetaUser, kept: u64) -> Result<(), Fault> {
        let conf_state = ConfState::decode(&durable.conf_state).map_err(|error| Fault::Raft(error.to_string()))?;
        let (index, term) = (durable.applied_index, durable.applied_term);
        if index == 0 {
            return Ok(());
        }
        self.member.raft.set_snapshot(SnapshotMetadata {
            conf_state,
            index,
            term,
        });
        let first = self.member.raft.first_index();
        let bytes_max = if self.is_alone() {
            ALONE_LOG_BYTES_MAX
        } else {
            CATCH_UP_BYTES_MAX
        };
        let mut to = self.member.raft.tail_start(index, kept, bytes_max) - 1;
        if !self.inflight.is_empty() && self.member.raft.log_bytes() <= inflight::BYTES_MAX {
            let progress = self.member.raft.status().progress;
            let follows = |id| {
                progress
                    .iter()
                    .any(|(of, progress)| *of == id && progress.matched >= to)
            };
            if let Some(sent) = self.inflight.oldest(self.member.now_ns, follows) {
                to = to.min(sent);
            }
        }
        // In steps, so that a release is worth its while.
        if to > first + index.saturating_sub(to) / 4 {
            self.member
                .raft
                .compact(to)
                .map_err(|error| Fault::Raft(error.to_string()))?;
            self.wal.release(to);
        }
        Ok(())
    }

    fn answer_compaction(&mut self) -> Result<(), Fault> {
        if self.compaction.waiting.is_empty() {
            return Ok(());
        }
        let done = self.committer.finished_compaction(&self.member.store)?;
        let waiting = std::mem::take(&mut self.compaction.waiting);
        for (revision, shard, id) in waiting {
            if revision <= done {
                self.member.answer(shard, id, Ok(Outcome::Done));
            } else {
                self.compaction.waiting.push((revision, shard, id));
                self.committer.hurry();
            }
        }
        Ok(())
    }

    fn answer_defragmented(&mut self) {
        if self.defragmenting.is_empty() || self.defrag_told || self.committer.is_shrinking() {
            return;
        }
        // What a compaction under way frees is to be given back too.
        if self.compaction.active || self.member.store.buffered_bytes() > 0 {
            return self.committer.start_shrinking(self.member.now_ns);
        }
        self.dirty = true;
        for (shard, id, since_ns) in std::mem::take(&mut self.defragmenting) {
            let took_ns = self.member.now_ns.saturating_sub(since_ns);
            self.member.metrics.defrag.observe_ns(took_ns);
            self.member.answer(shard, id, Ok(Outcome::Done));
        }
    }

    fn raise_no_space(&mut self, wanted_by: &str) {
        let alarm = (self.member.options.member_id, super::NOSPACE);
        // What was found while the alarm stood says nothing of the time after it: whoever disarms it has made room.
        if self.member.raft.leader_id() == 0 || !self.committer.may_complain() || self.member.alarms.contains(&alarm) {
            return;
        }
        tracing::error!(
            wanted_by,
            "the disk is full: writes are refused until space is freed and the alarm is disarmed"
        );
        let request = net::pb::etcdserverpb::AlarmRequest {
            action: net::pb::etcdserverpb::alarm_request::AlarmAction::Activate as i32,
            member_id: alarm.0,
            alarm: alarm.1,
        };
        let request = net::pb::etcdserverpb::InternalRaftRequest {
            alarm: Some(request),
            ..Default::default()
        };
        self.member.propose_own(request);
    }
}
