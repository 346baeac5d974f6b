//! The leader's picture of one member.

use crate::tracker::Inflights;

/// How the leader sends to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgressState {
    /// The leader does not know where the logs agree: at most one append per heartbeat interval.
    Probe,
    /// The logs agree up to `matched`: appends stream, up to the limits of the window.
    Replicate,
    /// The member needs a snapshot: no appends until it has it.
    Snapshot {
        /// The index of the snapshot that was sent.
        pending: u64,
    },
}

/// The leader's picture of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Highest entry known to be durable there.
    pub matched: u64,
    /// The next entry to send.
    pub next: u64,
    /// How to send.
    pub state: ProgressState,
    /// Highest commit index that was sent.
    pub sent_commit: u64,
    /// Whether the member was heard since the last quorum check.
    pub recent_active: bool,
    /// Whether sending waits for a sign of life (an answer, or one heartbeat interval).
    pub paused: bool,
    /// Unanswered appends.
    pub inflights: Inflights,
    /// Whether the member has no vote.
    pub is_learner: bool,
}
