//! What the member is told and what it answers: the closed vocabulary between the shards and the core.

use bytes::Bytes;
use net::peer::{Answer, Call};
use raft::Message;

use super::{MemberChange, Refusal, lessor::LeaseInfo};

/// Names one call of a shard: the request id of its log entry, unique across restarts.
///
/// Source: etcd `idutil.Generator` (ids table, request ID).
pub type RequestId = u64;

/// Which shard waits for an answer.
pub type ShardIndex = u16;

/// (main, sub) of one change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Rev {
    /// The transaction.
    pub main: i64,
    /// The change within it.
    pub sub: i64,
}

/// What a shard asks of the core.
#[derive(Debug)]
pub enum Request {
    /// Put an encoded `InternalRaftRequest`, whose header carries the request id, into the log and answer when applied.
    Propose {
        /// The entry's data.
        data: Bytes,
    },
    /// As [`Request::Propose`], for the begin or the end of a downgrade, which every member must know of.
    ProposeDowngrade {
        /// The entry's data.
        data: Bytes,
    },
    /// Answer once a leadership round that began after this request is done and its index is applied.
    ReadBarrier,
    /// Start a lease's time anew, after a leadership round.
    LeaseRenew {
        /// The lease.
        lease: i64,
    },
    /// Tell what is left of a lease.
    LeaseInfo {
        /// The lease.
        lease: i64,
        /// Its keys too.
        keys: bool,
    },
    /// List the leases.
    Leases,
    /// Answer when the compaction under way has removed its revisions from the tree, durably.
    CompactionDone {
        /// The compacted revision.
        revision: i64,
    },
    /// Give the free tail of the tree back to the file system and answer when done.
    Defragment,
    /// Change the cluster's members.
    ChangeMembers {
        /// How.
        change: MemberChange,
    },
    /// Hand leadership to a member.
    MoveLeader {
        /// The member.
        target: u64,
    },
}

/// One input of the member.
#[derive(Debug)]
pub enum Event {
    /// A request of a shard.
    Request {
        /// Who waits.
        shard: ShardIndex,
        /// For which call.
        id: RequestId,
        /// What for.
        request: Request,
    },
    /// The caller of a request is gone; no answer is wanted.
    Cancel {
        /// The call.
        id: RequestId,
    },
    /// A message of another member.
    Peer(Box<Message>),
    /// A request that another member passes to this one, which it takes for the leader.
    PeerCall {
        /// Who asks.
        from: u64,
        /// What.
        call: Call,
    },
    /// The leader's answer to a request that was passed to it.
    PeerAnswer {
        /// The answer.
        answer: Answer,
    },
    /// The link to a member came up or went down.
    Link {
        /// The member.
        id: u64,
        /// It is up.
        up: bool,
    },
    /// A member said what it can do.
    Greeted {
        /// The member.
        id: u64,
        /// Kinds of log entries it can apply, a bit each: see [`ENTRY_KINDS`](super::ENTRY_KINDS).
        entry_kinds: u64,
        /// The etcd release it is compatible with.
        etcd_version: String,
    },
    /// The process of a member has ended, as far as one can see from here. All that it sent came before.
    Gone(u64),
    /// A message to this member was dropped on the way.
    Unreachable(u64),
    /// A snapshot for this member lies whole and durable beside its tree.
    SnapshotReceived(Box<Message>),
    /// The sending of a snapshot ended.
    SnapshotSent {
        /// The member it was for.
        to: u64,
        /// It was taken over whole.
        ok: bool,
    },
    /// Another member says that this one was removed from the cluster.
    Removed,
}

/// How a request ended well.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A put.
    Put {
        /// The store's revision with it.
        revision: i64,
        /// The key's last change before it, if the key was there.
        prev: Option<Rev>,
    },
    /// A delete.
    DeleteRange(Deleted),
    /// A transaction.
    Txn(TxnOutcome),
    /// A compaction was accepted.
    Compact {
        /// The store's revision.
        revision: i64,
    },
    /// A lease was granted.
    LeaseGrant {
        /// Its id.
        lease: i64,
        /// Seconds.
        ttl: i64,
        /// The store's revision.
        revision: i64,
    },
    /// A lease was revoked.
    LeaseRevoke {
        /// The store's revision.
        revision: i64,
    },
    /// A lease was renewed; TTL 0: there is no such lease.
    LeaseRenew {
        /// Seconds.
        ttl: i64,
        /// The store's revision before the renewal.
        revision: i64,
    },
    /// What is left of a lease, if it is there.
    LeaseInfo(Option<LeaseInfo>),
    /// The leases, soonest end first.
    Leases(Vec<i64>),
    /// Alarms listed or changed: (member, kind).
    Alarms(Vec<(u64, i32)>),
    /// The members changed; the view tells how.
    Members {
        /// The member that the change was about.
        subject: u64,
    },
    /// Done, with nothing to tell: a barrier, a membership or version entry, a defragmentation.
    Done,
}

/// What a delete removed.
#[derive(Clone, Debug, Default)]
pub struct Deleted {
    /// The store's revision with it.
    pub revision: i64,
    /// The last change before it of every key removed, in key order.
    pub prevs: Vec<Rev>,
}

/// What a transaction did.
#[derive(Clone, Debug, Default)]
pub struct TxnOutcome {
    /// The store's revision with it.
    pub revision: i64,
    /// Which branch ran.
    pub succeeded: bool,
    /// One per operation of that branch.
    pub results: Vec<OpOutcome>,
}

/// What one operation of a transaction did.
#[derive(Clone, Debug)]
pub enum OpOutcome {
    /// A range: the shard reads it from the view, seeing changes below `bound` only.
    Range {
        /// First change not seen.
        bound: Rev,
        /// Revision of its header.
        revision: i64,
    },
    /// A put.
    Put {
        /// Revision of its header.
        revision: i64,
        /// The key's last change before it.
        prev: Option<Rev>,
    },
    /// A delete.
    DeleteRange(Deleted),
    /// A nested transaction.
    Txn(TxnOutcome),
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The call.
    pub id: RequestId,
    /// How it ended.
    pub result: Result<Outcome, Refusal>,
}
