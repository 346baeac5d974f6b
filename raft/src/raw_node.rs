//! The node: everything the member above calls, and the state behind it.
//!
//! The calls fall into three groups. *Inputs* change the state and queue effects. [`RawNode::ready`] hands the effects out.
//! *Acknowledgements* (`on_persisted`, `on_applied`, `compact`, `set_snapshot`) tell what became of them.
//!
//! The one storage contract: what a [`Ready`] asks to be written is named by a [`PersistToken`]; several may be in flight;
//! they become durable in order; `on_persisted` says so. Every message that promises something durable (votes and requests
//! for them, acknowledgements of entries and snapshots) is held inside until that is true, and comes out in a later Ready.
//! All other messages leave at once: in particular a leader replicates entries while its own write is in flight, counts
//! itself only when that is durable, and may commit on a quorum of others.

mod election;
mod follower;
mod leader;
mod members;
mod outbox;
mod proposals;
mod reads;
mod step;
mod succession;

use bytes::Bytes;

use crate::conf_change::{AnyConfChange, ConfChangeV2, ConfState};
use crate::config::{Config, Start};
use crate::error::{
    CompactError, ConfChangeError, LogError, ProposeError, ReadIndexError, StartError, StepError, TransferError,
};
use crate::log::Log;
use crate::membership::Configuration;
use crate::mutant;
use crate::ready::{PersistToken, ReadState, Ready, Status};
use crate::rng::SplitMix64;
use crate::tracker::{Inflights, Tracker};
use crate::types::{Entry, HardState, Message, Role, SnapshotMetadata, SoftState};
use outbox::Outbox;
use reads::Reads;
use succession::Succession;

/// One member of a Raft group as a deterministic state machine.
///
/// Inputs are method calls; outputs come from [`RawNode::ready`]. Nothing here does I/O, reads a clock or spawns anything.
pub struct RawNode {
    config: Config,
    rng: SplitMix64,
    term: u64,
    vote: u64,
    role: Role,
    leader_id: u64,
    log: Log,
    tracker: Tracker,
    /// Answers to the running campaign, in the order they came.
    votes: Vec<(u64, bool)>,
    /// What follows from a leader that is known to be gone.
    succession: Succession,
    /// Ticks since the leader was heard (follower), since the campaign began, or since the last quorum check (leader).
    election_elapsed: u32,
    heartbeat_elapsed: u32,
    /// Drawn anew for each term.
    election_timeout: u32,
    /// The heir of a running leader transfer; 0 for none.
    transferring_to: u64,
    /// No configuration change lies in the log after this entry; another may be proposed once it is applied.
    pending_conf_index: u64,
    /// Payload of the entries a leader has not committed.
    uncommitted_bytes: u64,
    reads: Reads,
    read_states: Vec<ReadState>,
    outbox: Outbox,
    /// This member is not to lead for now.
    held_back: bool,
    /// Entries or a commit index wait to be sent to the followers.
    append_due: bool,
    /// The snapshot on offer to followers that lag behind the log's start.
    offered: SnapshotMetadata,
    /// The configuration of the snapshot being installed.
    installed_conf_state: Option<ConfState>,
    handed_soft: SoftState,
    handed_hard: HardState,
}

impl RawNode {
    /// Starts from what the disk holds, as a follower.
    ///
    /// Errors: the configuration is senseless, or the parts of `start` contradict each other.
    pub fn new(config: Config, start: Start) -> Result<RawNode, StartError> {
        config.validate()?;
        start.validate()?;
        let configuration = Configuration::from_conf_state(&start.conf_state)?;
        let base = (start.snapshot.index, start.snapshot.term);
        let committed = start.hard_state.commit.max(start.applied);
        let window = Inflights::new(config.max_inflight_messages, config.max_inflight_bytes);
        let mut node = RawNode {
            rng: SplitMix64::new(config.seed),
            config,
            term: start.hard_state.term,
            vote: if mutant::on("vote_forgotten") {
                0
            } else {
                start.hard_state.vote
            },
            role: Role::Follower,
            leader_id: 0,
            log: Log::new(base, start.entries, committed, start.applied),
            tracker: Tracker::new(window),
            votes: Vec::new(),
            succession: Succession::default(),
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            election_timeout: 0,
            transferring_to: 0,
            pending_conf_index: 0,
            uncommitted_bytes: 0,
            reads: Reads::default(),
            read_states: Vec::new(),
            outbox: Outbox::default(),
            held_back: false,
            append_due: false,
            offered: start.snapshot,
            installed_conf_state: None,
            handed_soft: SoftState::default(),
            handed_hard: start.hard_state,
        };
        node.tracker.switch(configuration, node.log.last_index());
        node.become_follower(node.term, 0);
        Ok(node)
    }

    /// One unit of time has passed.
    pub fn tick(&mut self) {
        match self.role {
            Role::Leader => self.tick_leader(),
            _ => self.tick_election(),
        }
    }

    /// Takes a message from the network.
    ///
    /// Errors: the message was not processed; the sender will repeat what matters.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        self.step_message(message)
    }

    /// Campaigns now, if this member may: it is a voter, does not lead, and has no committed configuration change unapplied.
    pub fn campaign(&mut self) {
        self.start_campaign(false);
    }

    /// Keeps this member from campaigning, or lets it again; everything else goes on.
    ///
    /// A leader steps down one election time-out later, as it does without a quorum; transfer leadership meanwhile.
    pub fn hold_back(&mut self, held_back: bool) {
        self.held_back = held_back;
        if !held_back {
            return;
        }
        match self.role {
            Role::Leader => self.election_elapsed = 0,
            Role::Candidate | Role::PreCandidate => self.become_follower(self.term, 0),
            Role::Follower => {}
        }
    }

    /// Proposes one entry; a follower forwards it to the leader.
    ///
    /// Errors: it was not taken. Taken is not committed: watch for it in [`Ready::committed`], and expect it to get lost when
    /// the leader changes.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.propose_batch([data])
    }

    /// Proposes entries that are appended together, in order, or not at all.
    ///
    /// Errors: as [`RawNode::propose`].
    pub fn propose_batch(&mut self, data: impl IntoIterator<Item = Bytes>) -> Result<(), ProposeError> {
        self.propose_normal(data.into_iter())
    }

    /// Proposes a configuration change; it takes effect when the member applies the entry.
    ///
    /// Errors: as [`RawNode::propose`]; or another change is unapplied; or the change does not fit the configuration.
    pub fn propose_conf_change(&mut self, change: impl Into<AnyConfChange>) -> Result<(), ProposeError> {
        self.propose_change(change.into())
    }

    /// Makes a committed configuration change take effect; called while applying its entry, before `on_applied` of it.
    ///
    /// Call it for every such entry, in order. A member that decides against a change (it contradicts the member's own
    /// records) calls it with `ConfChangeSingle::node_id` 0.
    ///
    /// Errors: the change does not fit. The configuration stays, on every member alike.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, ConfChangeError> {
        self.apply_change(change)
    }

    /// Asks for a linearizable read; the answer is a [`crate::ReadState`] with this context.
    ///
    /// The context must be unique in the life of this node. An answer may never come (messages are lost, leaders change):
    /// ask again under a new context after a while. Reads asked for between two Readys share one round of heartbeats.
    ///
    /// Errors: there is nobody to ask, or too many reads wait.
    pub fn read_index(&mut self, context: u64) -> Result<(), ReadIndexError> {
        self.request_read(context)
    }

    /// Hands leadership to a voter; a follower forwards the wish to the leader.
    ///
    /// While it lasts (at most an election time-out) proposals are refused.
    ///
    /// Errors: no leader, or the heir is no voter.
    pub fn transfer_leader(&mut self, to: u64) -> Result<(), TransferError> {
        self.begin_transfer(to)
    }

    /// Makes a follower forget its leader, so that it grants votes at once; nothing on other roles. It stays in the term,
    /// and the next message of that leader makes it follow again.
    ///
    /// Source: etcd-raft's `MsgForgetLeader`, which is refused there with leases for reads; here every read asks a quorum.
    pub fn forget_leader(&mut self) {
        if self.role == Role::Follower {
            self.leader_id = 0;
        }
    }

    /// Whether [`RawNode::ready`] should be called; now and then it then turns out to be empty.
    pub fn has_ready(&self) -> bool {
        self.append_due
            || self.reads.is_round_due()
            || !self.outbox.is_empty()
            || !self.read_states.is_empty()
            || self.log.has_unwritten()
            || self.has_committed()
            || self.soft_state() != self.handed_soft
            || self.hard_state() != self.handed_hard
    }

    /// Takes everything that has become due. Cheap when there is nothing.
    pub fn ready(&mut self) -> Ready {
        self.flush_broadcasts();
        let committed = self.log.next_committed(
            self.config.commit_before_persist,
            self.config.max_committed_bytes_per_ready,
            self.config.max_committed_entries_per_ready,
        );
        let vote_unwritten = self.is_vote_unwritten();
        let (entries, snapshot) = self.log.take_unwritten();
        let must_persist = vote_unwritten || !entries.is_empty() || snapshot.is_some();
        let snapshot_index = snapshot.as_ref().map(|snapshot| snapshot.metadata.index);
        let token = must_persist.then(|| self.log.begin_write(self.term, snapshot_index));
        let (soft, hard) = (self.soft_state(), self.hard_state());
        Ready {
            soft_state: replace_if_changed(&mut self.handed_soft, soft),
            hard_state: replace_if_changed(&mut self.handed_hard, hard),
            entries,
            snapshot,
            token,
            messages: self.outbox.take(),
            committed,
            read_states: std::mem::take(&mut self.read_states),
        }
    }

    /// The write named by the token, and every earlier one, is durable.
    ///
    /// Order: any; a token that no longer names a write in flight is ignored.
    pub fn on_persisted(&mut self, token: PersistToken) {
        let Some(persisted) = self.log.persisted(token) else {
            return;
        };
        if persisted.snapshot {
            self.offer_installed_snapshot();
        }
        for message in self.outbox.release(token.sequence) {
            self.send_released(message);
        }
        self.count_own_log();
    }

    /// The member has applied every committed entry up to `index`. An index behind an earlier one is ignored.
    ///
    /// Not called for snapshots: `on_persisted` of a snapshot says the same. Once a Ready holds a snapshot, committed
    /// entries of earlier Readys that are not yet applied must be skipped, since the snapshot contains them.
    pub fn on_applied(&mut self, index: u64) {
        self.log.applied_to(index);
        self.leave_joint_if_due();
    }

    /// The state of the member was replaced by one of the same group that holds exactly the entries up to `index`, with
    /// this configuration. The log stays; entries behind `index` are handed out, anew if they were before.
    ///
    /// Order: entries that were handed out and are not applied must be dropped.
    ///
    /// Errors: the index is not between the log's start and what is committed and durable here, a snapshot is being
    /// installed, or the configuration is senseless; nothing is changed.
    pub fn restart_at(&mut self, index: u64, conf_state: &ConfState) -> Result<(), CompactError> {
        let limit = self.log.committed().min(self.log.stable());
        let fits = !self.log.has_snapshot() && (self.log.base_index()..=limit).contains(&index);
        let configuration = Configuration::from_conf_state(conf_state);
        let (Ok(configuration), true) = (configuration, fits) else {
            return Err(CompactError::NotApplied { index, limit });
        };
        self.tracker.switch(configuration, self.log.last_index());
        self.log.restart_at(index);
        Ok(())
    }

    /// Drops the log up to and including `index`.
    ///
    /// Keep some entries behind the applied index, so that slow followers need no snapshot.
    ///
    /// Errors: these entries are still needed, or are gone already; nothing is dropped.
    pub fn compact(&mut self, index: u64) -> Result<(), CompactError> {
        let limit = self.log.applied().min(self.log.stable());
        if index <= self.log.base_index() {
            return Err(CompactError::AlreadyCompacted {
                log_start: self.log.base_index(),
            });
        }
        if index > limit {
            return Err(CompactError::NotApplied { index, limit });
        }
        if index > self.offered.index {
            return Err(CompactError::BeyondSnapshot {
                index,
                snapshot: self.offered.index,
            });
        }
        self.log.compact(index);
        Ok(())
    }

    /// Names the newest durable snapshot of the member that may be offered to followers; an older one is ignored.
    ///
    /// `MsgSnap` carries this metadata and no data; the transport attaches the data stream of exactly this snapshot (or
    /// replaces the metadata by that of a newer one), and always ends with [`RawNode::report_snapshot`].
    pub fn set_snapshot(&mut self, snapshot: SnapshotMetadata) {
        assert!(
            snapshot.index <= self.log.committed(),
            "a member's snapshot holds committed entries only"
        );
        if snapshot.index >= self.offered.index {
            self.offered = snapshot;
        }
    }

    /// A message to this member was dropped by the transport.
    pub fn report_unreachable(&mut self, id: u64) {
        self.note_unreachable(id);
    }

    /// The process of this member has ended, as far as one can see from here: what it said has all been stepped, its
    /// connections are closed, and nobody listens where it did.
    ///
    /// A follower of that member forgets it, and the voters that are left try to succeed it one after the other, the first
    /// of them at once. It may be wrong, and costs nothing then: nobody whose leader is alive consents, and the next message
    /// of the leader ends it. Nothing happens without both of PreVote and CheckQuorum, which see to that.
    pub fn report_gone(&mut self, id: u64) {
        self.succeed(id);
    }

    /// The snapshot stream to this member ended; `ok` if it was taken over whole.
    pub fn report_snapshot(&mut self, id: u64, ok: bool) {
        self.end_snapshot(id, ok);
    }

    /// A picture of the whole.
    pub fn status(&self) -> Status {
        let progress = match self.role {
            Role::Leader => self
                .tracker
                .iter()
                .map(|(id, progress)| (id, progress.clone()))
                .collect(),
            _ => Vec::new(),
        };
        Status {
            id: self.config.id,
            soft_state: self.soft_state(),
            hard_state: self.hard_state(),
            applied: self.log.applied(),
            last_index: self.log.last_index(),
            first_index: self.log.first_index(),
            persisted_index: self.log.stable(),
            transferring_to: self.transferring_to,
            conf_state: self.conf_state(),
            progress,
        }
    }

    /// This member.
    pub fn id(&self) -> u64 {
        self.config.id
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The leader of the current term; 0 while unknown.
    pub fn leader_id(&self) -> u64 {
        self.leader_id
    }

    /// What this member does.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// Highest committed entry known here.
    pub fn commit_index(&self) -> u64 {
        self.log.committed()
    }

    /// Last entry the member applied.
    pub fn applied_index(&self) -> u64 {
        self.log.applied()
    }

    /// Last entry that is durable here; durable effects of applying may not pass it.
    pub fn persisted_index(&self) -> u64 {
        self.log.stable()
    }

    /// Last entry of the log.
    pub fn last_index(&self) -> u64 {
        self.log.last_index()
    }

    /// First entry still in the log.
    pub fn first_index(&self) -> u64 {
        self.log.first_index()
    }

    /// Payload of all entries that the log holds. Units: bytes.
    pub fn log_bytes(&self) -> u64 {
        self.log.payload_bytes()
    }

    /// Index of the first of the newest entries up to `index` that number at most `entries_max` and take at most
    /// `bytes_max`; one always counts. What lies before it may be compacted without leaving followers less than that.
    ///
    /// Bounds: looks at no more than `entries_max + 1` entries.
    pub fn tail_start(&self, index: u64, entries_max: u64, bytes_max: u64) -> u64 {
        self.log.tail_start(index, entries_max, bytes_max)
    }

    /// Term, vote and commit index, not necessarily durable.
    pub fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.committed(),
        }
    }

    /// The configuration in force.
    pub fn conf_state(&self) -> ConfState {
        self.tracker.config.conf_state()
    }

    /// The term of an entry, or of the one before the first.
    ///
    /// Errors: the log does not hold it.
    pub fn entry_term(&self, index: u64) -> Result<u64, LogError> {
        self.log.term(index)
    }

    /// Entries `low .. high`, cut at `max_bytes` but never to nothing.
    ///
    /// Errors: the log does not hold them.
    pub fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        self.log.slice(low, high, max_bytes, usize::MAX)
    }

    fn soft_state(&self) -> SoftState {
        SoftState {
            leader_id: self.leader_id,
            role: self.role,
        }
    }

    fn has_committed(&self) -> bool {
        self.log.has_committed(
            self.config.commit_before_persist,
            self.config.max_committed_bytes_per_ready,
        )
    }
}

/// The new value if it differs from the one handed out last, which it then becomes.
fn replace_if_changed<T: PartialEq + Copy>(handed: &mut T, now: T) -> Option<T> {
    (*handed != now).then(|| {
        *handed = now;
        now
    })
}
