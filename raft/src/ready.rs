//! What a [`crate::RawNode`] hands to the member: the effects that have become due, and the order they must keep.

use crate::conf_change::ConfState;
use crate::tracker::Progress;
use crate::types::{Entry, HardState, Message, Role, Snapshot, SoftState};

/// Names one write of hard state, entries or a snapshot.
///
/// Give it back to [`crate::RawNode::on_persisted`] when that write *and every earlier one* is durable. A token that no
/// longer names a write in flight is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PersistToken {
    /// Numbers the writes of this node from 1 on.
    pub sequence: u64,
    /// The term when the write was handed out.
    pub term: u64,
    /// The last entry of the log at that time.
    pub last_index: u64,
    /// The term of that entry.
    pub last_term: u64,
}

/// A linearizable read that may be served by any state at or past `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadState {
    /// The state must contain this entry.
    pub index: u64,
    /// As given to [`crate::RawNode::read_index`].
    pub context: u64,
}

/// Everything that became due since the last Ready.
///
/// Order: writes take effect in the order of their tokens, and within one Ready the snapshot comes before the entries and
/// the entries before the hard state. Messages may leave at once, in order. Committed entries may be applied at once, in
/// order. Several Readys may be outstanding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ready {
    /// The leader or the role, if either changed.
    pub soft_state: Option<SoftState>,
    /// The hard state, if it changed. Its commit index never passes the entries of this and earlier Readys.
    pub hard_state: Option<HardState>,
    /// Entries to write. If the first one's index is already stored, everything from there on is replaced.
    pub entries: Vec<Entry>,
    /// A snapshot that replaces the log and the state of the member.
    pub snapshot: Option<Snapshot>,
    /// Set when term, vote, entries or snapshot must become durable. A hard state whose commit index alone changed needs no
    /// token: it may be written lazily.
    pub token: Option<PersistToken>,
    /// Messages that may leave now; what they promise is already durable.
    pub messages: Vec<Message>,
    /// Committed entries to apply.
    pub committed: Vec<Entry>,
    /// Reads that may be served once their index is applied.
    pub read_states: Vec<ReadState>,
}

impl Ready {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Ready::default()
    }
}

/// A picture of a node for operators and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The member.
    pub id: u64,
    /// Role and leader.
    pub soft_state: SoftState,
    /// Term, vote and commit index, not necessarily durable.
    pub hard_state: HardState,
    /// Last entry the member applied.
    pub applied: u64,
    /// Last entry of the log.
    pub last_index: u64,
    /// First entry still in the log (one past `last_index` if it is empty).
    pub first_index: u64,
    /// Last entry that is durable here.
    pub persisted_index: u64,
    /// Member that leadership is being transferred to; 0 for none.
    pub transferring_to: u64,
    /// The configuration.
    pub conf_state: ConfState,
    /// What the leader knows of each member, itself included, in id order; empty on others.
    pub progress: Vec<(u64, Progress)>,
}

impl Status {
    /// Whether the member leads.
    pub fn is_leader(&self) -> bool {
        self.soft_state.role == Role::Leader
    }
}
