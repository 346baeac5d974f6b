//! Why a request was refused, in words that do not depend on the wire. The API maps each to etcd's code and text.
//!
//! All of these are deterministic: every member that applies the entry comes to the same one. A local fault (disk,
//! corruption) is never among them; it stops the member.

/// A refused request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Refusal {
    /// The revision is at or below the compacted one.
    Compacted,
    /// The revision is above the current one.
    FutureRevision,
    /// `ignore_value` or `ignore_lease` on a key that is not there, or an operation without a request.
    KeyNotFound,
    /// No such lease.
    LeaseNotFound,
    /// The lease id is taken.
    LeaseExists,
    /// The TTL is above the bound.
    LeaseTtlTooLarge,
    /// The NOSPACE alarm is on, or the quota is reached.
    NoSpace,
    /// The CORRUPT alarm is on.
    Corrupt,
    /// Too much is waiting: the tree or the log lags behind.
    TooManyRequests,
    /// No leader is known, or the proposal was dropped on the way to it.
    ProposalDropped,
    /// The leader changed while the request waited.
    LeaderChanged,
    /// Not done within the request time-out.
    Timeout,
    /// As [`Refusal::Timeout`], and the leader was lost around the time it was asked for.
    TimeoutLeaderFailed,
    /// As [`Refusal::Timeout`], and links to other members were down.
    TimeoutConnectionLost,
    /// No leader was there to take the proposal within the request time-out.
    NeverProposed,
    /// Leadership did not move within the request time-out.
    TransferTimeout,
    /// No leader was found within the request time-out.
    NoLeader,
    /// The member is stopping.
    Stopped,
    /// This member is not the leader.
    NotLeader,
    /// Keepalive could not confirm leadership.
    NotPrimary,
    /// Leadership cannot go to that member.
    BadTransferee,
    /// No such member.
    MemberNotFound,
    /// A member with that id is there or was removed.
    MemberExists,
    /// Another member uses the peer URL.
    PeerUrlExists,
    /// Too few started members would remain.
    NotEnoughStarted,
    /// Too many learners.
    TooManyLearners,
    /// The member to promote is no learner.
    MemberNotLearner,
    /// The learner lags.
    LearnerNotReady,
    /// The cluster is not healthy enough to change.
    Unhealthy,
    /// A log entry of a kind that is not served yet.
    NotCapable,
}
