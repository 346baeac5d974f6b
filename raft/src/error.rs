//! The errors of the public operations, one enum per operation, with variants by what the caller does next.

use thiserror::Error;

use crate::types::MessageType;

/// A [`crate::Config`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The id 0 means "nobody".
    #[error("member id 0 means nobody; give the member an id of its own")]
    ZeroId,
    /// A limit of 0 would stop everything.
    #[error("{name} is 0, which would stop all progress; set it to at least 1")]
    ZeroLimit {
        /// The field.
        name: &'static str,
    },
    /// Followers would campaign between heartbeats.
    #[error(
        "election_ticks ({election_ticks}) must exceed heartbeat_ticks ({heartbeat_ticks}); ten times as many is usual"
    )]
    ElectionTooShort {
        /// As configured.
        election_ticks: u32,
        /// As configured.
        heartbeat_ticks: u32,
    },
    /// One full message would not fit.
    #[error(
        "max_inflight_bytes ({max_inflight_bytes}) is below max_size_per_message ({max_size_per_message}); raise it"
    )]
    InflightTooSmall {
        /// As configured.
        max_inflight_bytes: u64,
        /// As configured.
        max_size_per_message: u64,
    },
}

/// Durable state that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartError {
    /// The configuration of the member is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An entry is missing.
    #[error("the log has entry {found} where {expected} should be; the data directory is damaged")]
    Gap {
        /// The index that should follow.
        expected: u64,
        /// The index that does.
        found: u64,
    },
    /// Terms go down along the log.
    #[error("entry {index} has term {found} after an entry of term {before}; the data directory is damaged")]
    TermDecreases {
        /// The entry.
        index: u64,
        /// The term before it.
        before: u64,
        /// Its term.
        found: u64,
    },
    /// The hard state is older than the log.
    #[error("the hard state has term {term} but the log ends in term {last_term}; the data directory is damaged")]
    TermBehindLog {
        /// Of the hard state.
        term: u64,
        /// Of the last entry.
        last_term: u64,
    },
    /// Committed entries are missing.
    #[error("entry {commit} was committed but the log ends at {last_index}; the data directory is damaged")]
    CommitBeyondLog {
        /// Of the hard state.
        commit: u64,
        /// Of the log.
        last_index: u64,
    },
    /// Applied entries are missing.
    #[error("entry {applied} was applied but the log ends at {last_index}; the data directory is damaged")]
    AppliedBeyondLog {
        /// As given.
        applied: u64,
        /// Of the log.
        last_index: u64,
    },
    /// The log starts after the applied state.
    #[error("the state holds entries up to {applied} but the log starts after {log_start}; entries between are lost")]
    AppliedBeforeLog {
        /// As given.
        applied: u64,
        /// The entry before the first of the log.
        log_start: u64,
    },
    /// The configuration is contradictory.
    #[error("the stored configuration is not valid: {0}")]
    ConfState(#[from] ConfChangeError),
}

/// A message that was not processed; to its sender it is as good as lost.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StepError {
    /// A type that never comes from the network.
    #[error("{0:?} is local to a member and is not accepted from the network; drop it")]
    LocalMessage(MessageType),
    /// The message is for another member.
    #[error("the message is for member {to}, this is member {id}; check the routing of peer links")]
    WrongRecipient {
        /// Whom it is for.
        to: u64,
        /// Who got it.
        id: u64,
    },
    /// A field that the type needs is missing or contradicts the rest.
    #[error("malformed {msg_type:?}: {what}; drop it")]
    Malformed {
        /// The type.
        msg_type: MessageType,
        /// What is wrong.
        what: &'static str,
    },
    /// An answer from a member that is not in the configuration.
    #[error("member {0} is not in the configuration; its answer is dropped")]
    PeerNotFound(u64),
    /// The leader knows of entries here that are not here: this member lost what it acknowledged, and may not vote again.
    #[error(
        "the leader committed entry {commit} on this member, whose log ends at {last_index}: acknowledged entries are \
         lost; remove the member and add it anew"
    )]
    LostLog {
        /// What the leader says.
        commit: u64,
        /// What the log says.
        last_index: u64,
    },
    /// A forwarded proposal that was refused.
    #[error("forwarded proposal refused: {0}")]
    Proposal(#[from] ProposeError),
    /// A forwarded read that was refused.
    #[error("forwarded read refused: {0}")]
    Read(#[from] ReadIndexError),
    /// Outgoing messages are not taken, or the disk does not answer.
    #[error("{queued} messages wait to leave; the message is dropped until they do")]
    Overloaded {
        /// How many wait.
        queued: usize,
    },
}

/// A proposal that was not taken; nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Nobody to propose to; try again after an election.
    #[error("there is no leader to propose to; try again after the election")]
    NoLeader,
    /// This member follows and may not forward; ask the leader.
    #[error("this member is not the leader and forwarding is off; propose to member {leader_id}")]
    NotLeader {
        /// The leader.
        leader_id: u64,
    },
    /// The leader is handing over; try again soon.
    #[error("leadership is being transferred to member {to}; try again shortly")]
    Transferring {
        /// The heir.
        to: u64,
    },
    /// Too much is uncommitted; try again when the followers have caught up.
    #[error("{bytes} bytes in {entries} entries are uncommitted, which is the limit; try again shortly")]
    TooMuchUncommitted {
        /// Uncommitted payload bytes.
        bytes: u64,
        /// Uncommitted entries.
        entries: usize,
    },
    /// Another change is in the log and not applied, or waits to be.
    #[error("a configuration change at or before entry {index} is not yet applied; try again when it is")]
    ConfChangePending {
        /// The newest entry that may hold one.
        index: u64,
    },
    /// The change does not fit the configuration.
    #[error("configuration change refused: {0}")]
    ConfChange(#[from] ConfChangeError),
    /// The bytes are not a change.
    #[error("configuration change refused: {0}")]
    Wire(#[from] crate::wire::WireError),
    /// Outgoing messages are not taken.
    #[error("{queued} messages wait to leave; try again when they have")]
    Overloaded {
        /// How many wait.
        queued: usize,
    },
}

/// A configuration change that does not fit the configuration; the configuration is as before.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfChangeError {
    /// A simple or entering change while joint.
    #[error("the configuration is joint; leave it first")]
    AlreadyJoint,
    /// A leaving change while not joint.
    #[error("the configuration is not joint, there is nothing to leave")]
    NotJoint,
    /// More than one voter changes at once without a joint configuration.
    #[error("{changed} voters change at once without a joint configuration; change one at a time or jointly")]
    TooManyVoters {
        /// How many change.
        changed: usize,
    },
    /// Nobody would be left to vote.
    #[error("the change removes all voters; keep at least one")]
    NoVoters,
    /// A stored configuration contradicts itself.
    #[error("the configuration contradicts itself: {0}")]
    Invalid(&'static str),
}

/// A read that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadIndexError {
    /// Nobody to ask; try again after an election.
    #[error("there is no leader to ask; try again after the election")]
    NoLeader,
    /// Too many reads wait.
    #[error("{pending} reads wait for a quorum, which is the limit; try again shortly")]
    TooManyPending {
        /// How many wait.
        pending: usize,
    },
    /// Outgoing messages are not taken.
    #[error("{queued} messages wait to leave; try again when they have")]
    Overloaded {
        /// How many wait.
        queued: usize,
    },
}

/// A leader transfer that was not begun.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TransferError {
    /// Nobody leads.
    #[error("there is no leader to transfer from; try again after the election")]
    NoLeader,
    /// The heir cannot lead.
    #[error("member {0} is not a voter and cannot lead; choose a voter")]
    NotVoter(u64),
}

/// A log that could not be shortened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompactError {
    /// Already gone; nothing to do.
    #[error("the log already starts after entry {log_start}")]
    AlreadyCompacted {
        /// The entry before the first.
        log_start: u64,
    },
    /// Entries still needed here.
    #[error("entry {index} is not yet both applied and durable (up to {limit} are); compact less")]
    NotApplied {
        /// As asked.
        index: u64,
        /// What may be compacted.
        limit: u64,
    },
    /// Followers could no longer be served.
    #[error("no snapshot covers entry {index} (the newest ends at {snapshot}); call set_snapshot first")]
    BeyondSnapshot {
        /// As asked.
        index: u64,
        /// Index of the snapshot on offer.
        snapshot: u64,
    },
}

/// Entries that the log does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LogError {
    /// Replaced by a snapshot.
    #[error("entry {index} is compacted, the log starts after {log_start}; use a snapshot")]
    Compacted {
        /// As asked.
        index: u64,
        /// The entry before the first.
        log_start: u64,
    },
    /// Not there yet.
    #[error("entry {index} is beyond the end of the log ({last_index})")]
    OutOfRange {
        /// As asked.
        index: u64,
        /// The last entry.
        last_index: u64,
    },
}
