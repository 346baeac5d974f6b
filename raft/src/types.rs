//! The nouns of the protocol: entries, durable state, snapshots and messages.
//!
//! Names, numbers and meanings are those of `raftpb`, so that a log written by etcd can be read and a reader of etcd-raft
//! feels at home. Payloads are `Bytes`: cloning an [`Entry`] or a [`Message`] shares them, it never copies them.

use bytes::Bytes;

use crate::conf_change::{ConfChange, ConfChangeV2, ConfState};
use crate::wire::WireError;

/// What the data of an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum EntryType {
    /// A proposal of the member above; empty data is the no-op of a fresh leader.
    #[default]
    Normal = 0,
    /// An encoded [`ConfChange`].
    ConfChange = 1,
    /// An encoded [`ConfChangeV2`]; empty data means "leave the joint configuration".
    ConfChangeV2 = 2,
}

impl EntryType {
    /// The type with this `raftpb` number, if there is one.
    pub fn from_number(number: u64) -> Option<EntryType> {
        match number {
            0 => Some(EntryType::Normal),
            1 => Some(EntryType::ConfChange),
            2 => Some(EntryType::ConfChangeV2),
            _ => None,
        }
    }
}

/// One slot of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// What `data` is.
    pub entry_type: EntryType,
    /// Term of the leader that appended the entry.
    pub term: u64,
    /// Position in the log; the first entry of all has index 1.
    pub index: u64,
    /// The payload, opaque to this crate unless it is a configuration change.
    pub data: Bytes,
}

impl Entry {
    /// What an entry weighs besides its payload in every byte limit of this crate.
    ///
    /// Units: bytes.
    pub const OVERHEAD_BYTES: u64 = 24;

    /// A normal entry, for callers that build logs by hand.
    pub fn normal(term: u64, index: u64, data: impl Into<Bytes>) -> Entry {
        Entry {
            entry_type: EntryType::Normal,
            term,
            index,
            data: data.into(),
        }
    }

    /// The weight of the entry in every byte limit of this crate: payload plus [`Entry::OVERHEAD_BYTES`].
    ///
    /// Units: bytes.
    #[inline]
    pub fn size_bytes(&self) -> u64 {
        self.data.len() as u64 + Self::OVERHEAD_BYTES
    }

    /// Whether the entry changes the configuration of the group.
    #[inline]
    pub fn is_conf_change(&self) -> bool {
        self.entry_type != EntryType::Normal
    }

    /// Decodes the configuration change an entry carries; `None` for a normal entry.
    ///
    /// Errors: the data is not the protobuf its type promises.
    pub fn conf_change(&self) -> Result<Option<ConfChangeV2>, WireError> {
        match self.entry_type {
            EntryType::Normal => Ok(None),
            EntryType::ConfChange => Ok(Some(ConfChange::decode(&self.data)?.into())),
            EntryType::ConfChangeV2 => Ok(Some(ConfChangeV2::decode(&self.data)?)),
        }
    }
}

/// The part of a member's state that must survive a restart, besides the log.
///
/// Source: Raft thesis, section 3.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HardState {
    /// Newest term the member has seen.
    pub term: u64,
    /// Whom the member voted for in `term`; 0 for nobody.
    pub vote: u64,
    /// Highest index known to be committed; may lag behind the truth after a restart.
    pub commit: u64,
}

/// What a member does in its current term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether an election could be won, without raising its term.
    PreCandidate,
    /// Asks for votes in its term.
    Candidate,
    /// Leads its term.
    Leader,
}

/// The part of a member's state that others like to watch and nobody stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SoftState {
    /// The leader of the current term; 0 while unknown.
    pub leader_id: u64,
    /// What this member does.
    pub role: Role,
}

/// Where a snapshot stands in the log, and the configuration at that point.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SnapshotMetadata {
    /// The configuration as of `index`.
    pub conf_state: ConfState,
    /// The last entry the snapshot contains.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
}

/// A state of the member above that replaces a prefix of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Opaque to this crate and normally empty: the transport streams the state beside the message.
    pub data: Bytes,
    /// Where the snapshot stands.
    pub metadata: SnapshotMetadata,
}

/// What a [`Message`] asks or answers; numbers as in `raftpb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum MessageType {
    /// Local: start a campaign.
    #[default]
    MsgHup = 0,
    /// Local: send a heartbeat.
    MsgBeat = 1,
    /// A proposal, forwarded to the leader.
    MsgProp = 2,
    /// Entries, or a commit index, from the leader.
    MsgApp = 3,
    /// Answer to `MsgApp` and `MsgSnap`; leaves once what it acknowledges is durable.
    MsgAppResp = 4,
    /// A request for a vote; leaves once the candidate's own term and vote are durable.
    MsgVote = 5,
    /// A vote; a granted one leaves once it is durable.
    MsgVoteResp = 6,
    /// A snapshot from the leader; the transport attaches the data.
    MsgSnap = 7,
    /// The leader is alive; carries the number of the ReadIndex round.
    MsgHeartbeat = 8,
    /// Answer to `MsgHeartbeat`, echoing the round.
    MsgHeartbeatResp = 9,
    /// Local: the transport could not reach a peer.
    MsgUnreachable = 10,
    /// Local: how the sending of a snapshot ended (`reject` if it failed).
    MsgSnapStatus = 11,
    /// Local: the leader checks that it still hears a quorum.
    MsgCheckQuorum = 12,
    /// A request to the leader to hand leadership to `from`.
    MsgTransferLeader = 13,
    /// The leader tells its chosen heir to campaign at once.
    MsgTimeoutNow = 14,
    /// A linearizable read, forwarded to the leader.
    MsgReadIndex = 15,
    /// The answer: the read is served by any state at or past `index`.
    MsgReadIndexResp = 16,
    /// A question whether a vote would be granted in the next term.
    MsgPreVote = 17,
    /// Answer to `MsgPreVote`.
    MsgPreVoteResp = 18,
    /// Local to etcd-raft's asynchronous storage; refused here, where [`crate::PersistToken`] does its work.
    MsgStorageAppend = 19,
    /// See `MsgStorageAppend`.
    MsgStorageAppendResp = 20,
    /// See `MsgStorageAppend`.
    MsgStorageApply = 21,
    /// See `MsgStorageAppend`.
    MsgStorageApplyResp = 22,
    /// Local: a follower drops its leader, so that it grants votes without waiting out the lease.
    MsgForgetLeader = 23,
}

impl MessageType {
    /// Every type, in the order of its number.
    pub const ALL: [MessageType; 24] = [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgProp,
        MessageType::MsgApp,
        MessageType::MsgAppResp,
        MessageType::MsgVote,
        MessageType::MsgVoteResp,
        MessageType::MsgSnap,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResp,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgPreVote,
        MessageType::MsgPreVoteResp,
        MessageType::MsgStorageAppend,
        MessageType::MsgStorageAppendResp,
        MessageType::MsgStorageApply,
        MessageType::MsgStorageApplyResp,
        MessageType::MsgForgetLeader,
    ];

    /// The type with this `raftpb` number, if there is one.
    pub fn from_number(number: u64) -> Option<MessageType> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The `raftpb` number of the type.
    pub fn number(self) -> u64 {
        self as u64
    }

    /// Whether the type never crosses the network; [`crate::RawNode::step`] refuses such messages.
    pub fn is_local(self) -> bool {
        use MessageType::*;
        matches!(
            self,
            MsgHup
                | MsgBeat
                | MsgUnreachable
                | MsgSnapStatus
                | MsgCheckQuorum
                | MsgStorageAppend
                | MsgStorageAppendResp
                | MsgStorageApply
                | MsgStorageApplyResp
                | MsgForgetLeader
        )
    }

    /// Whether the type answers a question, so that a sender outside the configuration has no business sending it.
    pub fn is_response(self) -> bool {
        use MessageType::*;
        matches!(
            self,
            MsgAppResp | MsgVoteResp | MsgHeartbeatResp | MsgUnreachable | MsgReadIndexResp | MsgPreVoteResp
        )
    }
}

/// What members say to each other; the fields of `raftpb.Message`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// What the message asks or answers.
    pub msg_type: MessageType,
    /// The member it is for.
    pub to: u64,
    /// The member it comes from.
    pub from: u64,
    /// The sender's term (the asked-for term in a pre-vote); 0 in `MsgProp` and `MsgReadIndex`, which belong to no term.
    pub term: u64,
    /// Term of the entry at `index`; in a rejection, the term of the entry at `reject_hint`.
    pub log_term: u64,
    /// `MsgApp`: the entry before `entries`. Responses: what is acknowledged or refused. `MsgVote`: the last entry.
    pub index: u64,
    /// Entries to append or to propose; one entry with the context in `MsgReadIndex` and its answer.
    pub entries: Vec<Entry>,
    /// The sender's commit index.
    pub commit: u64,
    /// The snapshot of `MsgSnap`.
    pub snapshot: Option<Snapshot>,
    /// Whether the answer is no.
    pub reject: bool,
    /// In a refused append: the last index at which the follower may still agree.
    pub reject_hint: u64,
    /// The round of a heartbeat (8 bytes, big-endian), or the mark of a campaign that follows a leader transfer.
    pub context: Bytes,
    /// Unused here; etcd-raft's `MsgStorageAppend` carries the vote in it.
    pub vote: u64,
    /// Unused here; etcd-raft's `MsgStorage*` carry the held responses in it.
    pub responses: Vec<Message>,
}

impl Message {
    /// The weight of the message in byte limits: its entries and context plus a fixed overhead.
    ///
    /// Units: bytes.
    pub fn size_bytes(&self) -> u64 {
        let entries: u64 = self.entries.iter().map(Entry::size_bytes).sum();
        entries + self.context.len() as u64 + 64
    }
}
