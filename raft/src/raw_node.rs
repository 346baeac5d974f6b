//! The node: everything the member above calls.

use bytes::Bytes;

use crate::conf_change::{AnyConfChange, ConfChangeV2, ConfState};
use crate::config::{Config, Start};
use crate::error::{
    CompactError, ConfChangeError, LogError, ProposeError, ReadIndexError, StartError, StepError, TransferError,
};
use crate::ready::{PersistToken, Ready, Status};
use crate::types::{Entry, Message, Role, SnapshotMetadata};

/// One member of a Raft group as a deterministic state machine.
///
/// Inputs are method calls; outputs come from [`RawNode::ready`]. Nothing here does I/O, reads a clock or spawns anything.
pub struct RawNode {}

impl RawNode {
    /// Starts from what the disk holds, as a follower.
    ///
    /// Errors: the configuration is senseless, or the parts of `start` contradict each other.
    pub fn new(config: Config, start: Start) -> Result<RawNode, StartError> {
        todo!("{config:?} {start:?}")
    }
    /// One unit of time has passed.
    pub fn tick(&mut self) {
        todo!()
    }
    /// Takes a message from the network.
    ///
    /// Errors: the message was not processed; the sender will repeat what matters.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        todo!("{message:?}")
    }
    /// Campaigns now, if this member may: it is a voter, does not lead, and has no committed configuration change unapplied.
    pub fn campaign(&mut self) {
        todo!()
    }
    /// Proposes one entry; a follower forwards it to the leader.
    ///
    /// Errors: it was not taken. Taken is not committed: watch for it in [`Ready::committed`], and expect it to get lost when
    /// the leader changes.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        todo!("{data:?}")
    }
    /// Proposes entries that are appended together, in order, or not at all.
    ///
    /// Errors: as [`RawNode::propose`].
    pub fn propose_batch(&mut self, data: impl IntoIterator<Item = Bytes>) -> Result<(), ProposeError> {
        let _ = data.into_iter();
        todo!()
    }
    /// Proposes a configuration change; it takes effect when the member applies the entry.
    ///
    /// Errors: as [`RawNode::propose`]; or another change is unapplied; or the change does not fit the configuration.
    pub fn propose_conf_change(&mut self, change: impl Into<AnyConfChange>) -> Result<(), ProposeError> {
        let _ = change.into();
        todo!()
    }
    /// Makes a committed configuration change take effect; called while applying its entry, before `on_applied` of it.
    ///
    /// Errors: the change does not fit. The configuration stays, on every member alike.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, ConfChangeError> {
        todo!("{change:?}")
    }
    /// Asks for a linearizable read; the answer is a [`crate::ReadState`] with this context.
    ///
    /// The context must be unique in the life of this node. An answer may never come (messages are lost, leaders change):
    /// ask again under a new context after a while. Reads asked for between two Readys share one round of heartbeats.
    ///
    /// Errors: there is nobody to ask, or too many reads wait.
    pub fn read_index(&mut self, context: u64) -> Result<(), ReadIndexError> {
        todo!("{context}")
    }
    /// Hands leadership to a voter; a follower forwards the wish to the leader.
    ///
    /// Errors: no leader, or the heir is no voter. The transfer may still fail; the leader gives up after an election time-out.
    pub fn transfer_leader(&mut self, to: u64) -> Result<(), TransferError> {
        todo!("{to}")
    }
    /// Makes a follower forget its leader, so that it grants votes at once; nothing on other roles.
    pub fn forget_leader(&mut self) {
        todo!()
    }
    /// Whether [`RawNode::ready`] has something to hand out.
    pub fn has_ready(&self) -> bool {
        todo!()
    }
    /// Takes everything that has become due.
    pub fn ready(&mut self) -> Ready {
        todo!()
    }
    /// The write named by the token, and every earlier one, is durable.
    pub fn on_persisted(&mut self, token: PersistToken) {
        todo!("{token:?}")
    }
    /// The member has applied every committed entry up to `index`.
    pub fn on_applied(&mut self, index: u64) {
        todo!("{index}")
    }
    /// Drops the log up to and including `index`.
    ///
    /// Errors: these entries are still needed, or are gone already; nothing is dropped.
    pub fn compact(&mut self, index: u64) -> Result<(), CompactError> {
        todo!("{index}")
    }
    /// Names the newest durable snapshot of the member that may be offered to followers; an older one is ignored.
    pub fn set_snapshot(&mut self, snapshot: SnapshotMetadata) {
        todo!("{snapshot:?}")
    }
    /// A message to this member was dropped by the transport.
    pub fn report_unreachable(&mut self, id: u64) {
        todo!("{id}")
    }
    /// The snapshot stream to this member ended; `ok` if it was taken over whole.
    pub fn report_snapshot(&mut self, id: u64, ok: bool) {
        todo!("{id} {ok}")
    }
    /// A picture of the whole.
    pub fn status(&self) -> Status {
        todo!()
    }
    /// The current term.
    pub fn term(&self) -> u64 {
        todo!()
    }
    /// The leader of the current term; 0 while unknown.
    pub fn leader_id(&self) -> u64 {
        todo!()
    }
    /// What this member does.
    pub fn role(&self) -> Role {
        todo!()
    }
    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        todo!()
    }
    /// Highest committed entry known here.
    pub fn commit_index(&self) -> u64 {
        todo!()
    }
    /// Last entry the member applied.
    pub fn applied_index(&self) -> u64 {
        todo!()
    }
    /// Last entry that is durable here; durable effects of applying may not pass it.
    pub fn persisted_index(&self) -> u64 {
        todo!()
    }
    /// Last entry of the log.
    pub fn last_index(&self) -> u64 {
        todo!()
    }
    /// First entry still in the log.
    pub fn first_index(&self) -> u64 {
        todo!()
    }
    /// The configuration in force.
    pub fn conf_state(&self) -> ConfState {
        todo!()
    }
    /// The term of an entry.
    ///
    /// Errors: the log does not hold it.
    pub fn entry_term(&self, index: u64) -> Result<u64, LogError> {
        todo!("{index}")
    }
    /// Entries `low .. high`, cut at `max_bytes` but never to nothing.
    ///
    /// Errors: the log does not hold them.
    pub fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        todo!("{low} {high} {max_bytes}")
    }
}
