//! The write-ahead log: raft's entries, hard state and snapshot markers, durable before anything depends on them.
//!
//! The log is a chain of *batches* in fixed-size segment files ("slots"). One batch is one aligned write; several may
//! be in flight. Nothing acknowledged is ever written again until its segment is released and recycled.
//!
//! ```text
//!  meta          identity, log id, format, segment size (written once, last step of creation)
//!  00000000.seg  | opener | batch | batch | batch | ...room ...........|   one slot = one segment
//!  00000001.seg  | opener | batch | (zeros)                            |   the active segment
//!  00000002.seg  | (zeros, or batches of an earlier life)              |   the spare
//!
//!  batch         | header 96 B | record | record | ... | zeros to the next 4096 |
//!  record        | kind, part, entry type, 0 | len u32 | body |
//! ```
//!
//! A batch header carries: the log id, its sequence number, the epoch (raised when recovery cuts a tail, so that what
//! was cut never revives), the checksum of the batch before, `durable_through` (the highest contiguous batch known
//! durable when it was submitted), `log_start` (the oldest batch recovery needs), where it stands, and crc32c over all.
//! The first batch of a segment is its *opener*: it repeats hard state and marker, so that older segments may go.
//!
//! Order: [`Wal::append`] encodes, [`Wal::pump`] submits, [`Wal::on_completion`] learns of ends, [`Wal::persisted`] says
//! through which append everything is durable. Any failed write or sync is final: the log is poisoned and every later
//! call answers the same error. Only the zero-filling of spare segments may run out of space: see [`Wal::space`].
//!
//! Recovery reads every slot, takes the chain from the newest `log_start` on, and stops at the first batch that is not
//! there. If any valid batch claims `durable_through` that or more, an acknowledged batch is damaged: refused as
//! [`WalError::Corrupt`]. Else it is a torn tail, which is cut. Rot in the very last batch looks like a torn tail; an
//! empty batch after idling ([`Wal::settle`]) keeps that batch a worthless one.

use raft::{Entry, HardState, SnapshotMetadata};

use crate::io::{Completion, Disk, DiskError, Token};

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The directory of the log, relative to the root of the disk.
    pub dir: String,
    /// Size of a new log's segments; an existing log keeps its own. A multiple of 4096, at least 16 KiB.
    ///
    /// Units: bytes. `None`: 64 MiB, or a sixteenth of the file system if that is less.
    pub segment_size_bytes: Option<u64>,
    /// How many batches may be in flight; at least 1.
    pub max_in_flight: usize,
    /// A batch is closed when its payload reaches this; also bounded by the segment.
    ///
    /// Units: bytes.
    pub max_batch_bytes: usize,
    /// The operations of this log carry tokens from here on, 2^32 of them.
    pub token_base: Token,
    /// A random number that marks the batches of a new log, so that no client data can pose as one.
    pub log_id: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            dir: "wal".to_owned(),
            segment_size_bytes: None,
            max_in_flight: 4,
            max_batch_bytes: 1 << 20,
            token_base: 1 << 32,
            log_id: 0,
        }
    }
}

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
}

/// Names one append; later appends have greater tokens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AppendToken(pub u64);

/// What recovery cut off: writes that were under way when the machine stopped. None of it was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The file in which the log now ends.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// Sequence number of the first batch that is missing.
    pub sequence: u64,
    /// How many whole batches behind it were given up.
    pub batches_cut: u64,
}

/// What a log holds at boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Whose log it is.
    pub identity: Identity,
    /// Whether the log was made by this call.
    pub created: bool,
    /// The last hard state written.
    pub hard_state: HardState,
    /// The last snapshot marker written.
    pub snapshot: Option<SnapshotMetadata>,
    /// The entries behind the start of the log, indexes rising by one; where one was written twice, the last wins.
    ///
    /// May begin at or below the marker's index: the caller ignores what its state already holds.
    pub entries: Vec<Entry>,
    /// What was cut off, if anything.
    pub torn_tail: Option<TornTail>,
}

/// Whether there is room for what comes next.
#[derive(Clone, Debug)]
pub enum Space {
    /// A spare segment stands ready.
    Ready,
    /// One is being made.
    Preparing,
    /// The disk is full: no spare can be made. What is left of the active segment still takes appends.
    SpareUnavailable(DiskError),
    /// The disk is full and appends wait; nothing is lost. Free space, then call [`Wal::retry_space`].
    Exhausted(DiskError),
}

/// Why a log does not open, or does not go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// A file call failed; the log is poisoned.
    #[error("write-ahead log: {0}; what was not acknowledged is lost, restart the member once the disk is well")]
    Disk(#[from] DiskError),
    /// An acknowledged batch is damaged.
    #[error(
        "write-ahead log: {file} is corrupt at offset {offset}: expected {expected}, found {found}; do not truncate or \
         delete it: votes and acknowledged entries may be lost. Remove this member from the cluster and add it anew \
         with an empty data directory (a single member: restore a snapshot)"
    )]
    Corrupt {
        /// The damaged file.
        file: String,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A newer etcore wrote the log.
    #[error(
        "write-ahead log: {file} needs a reader of format {min_reader} and this etcore reads {ours}; run a newer etcore"
    )]
    NewerFormat {
        /// The file.
        file: String,
        /// The oldest reader the file allows.
        min_reader: u16,
        /// The format this build reads.
        ours: u16,
    },
    /// The log belongs to another member or cluster.
    #[error(
        "write-ahead log: it belongs to member {:x} of cluster {:x}, not to member {:x} of cluster {:x}; check the data \
         directory, the name and the initial cluster", found.member_id, found.cluster_id, expected.member_id, expected.cluster_id
    )]
    IdentityMismatch {
        /// Who opens it.
        expected: Identity,
        /// Whose it is.
        found: Identity,
    },
    /// There is no log, and no identity was given to make one.
    #[error("write-ahead log: {0} holds no log; start the member with its initial cluster to make one")]
    Missing(String),
    /// The options can not work.
    #[error("write-ahead log: {0}")]
    Options(String),
}

/// The write-ahead log of one member.
pub struct Wal {}

#[allow(unused_variables)]
impl Wal {
    /// Opens the log, or creates it when there is none and an identity is given. Blocking.
    ///
    /// Everything it returns is durable. Errors: see [`WalError`]; nothing is truncated on damage.
    pub fn open(
        disk: &mut dyn Disk,
        options: WalOptions,
        identity: Option<Identity>,
    ) -> Result<(Wal, Recovered), WalError> {
        todo!()
    }

    /// Encodes entries, a hard state and a marker for the next batch; nothing is written before [`Wal::pump`].
    ///
    /// An entry at or below the last index replaces it and everything behind it. A hard state that differs from the
    /// last one in `commit` only, without entries or marker, waits for the next batch and is not worth a write: the
    /// answer is then the token of the append before.
    pub fn append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<HardState>,
        marker: Option<&SnapshotMetadata>,
    ) -> AppendToken {
        todo!()
    }

    /// Submits what may go: batches up to the bound in flight, and the making of a spare segment.
    ///
    /// Errors: the log is poisoned.
    pub fn pump(&mut self, disk: &mut dyn Disk) -> Result<(), WalError> {
        todo!()
    }

    /// Takes in the end of one of this log's operations, then pumps.
    ///
    /// Errors: the operation failed, or the log was poisoned before.
    pub fn on_completion(&mut self, disk: &mut dyn Disk, completion: Completion) -> Result<(), WalError> {
        todo!()
    }

    /// Everything appended through this token is durable.
    pub fn persisted(&self) -> AppendToken {
        todo!()
    }

    /// Whether an operation with this token is this log's.
    pub fn owns(&self, token: Token) -> bool {
        todo!()
    }

    /// Entries at or below `index` are no longer needed; whole segments of such are recycled after the next batches.
    ///
    /// Order: only once the tree durably holds them.
    pub fn release(&mut self, index: u64) {
        todo!()
    }

    /// Asks for an empty batch if something was written since the last one: call it after idling.
    ///
    /// It makes recovery certain about the last real batch, and writes a waiting commit index.
    pub fn settle(&mut self) {
        todo!()
    }

    /// Whether operations of this log have not ended.
    pub fn has_work_in_flight(&self) -> bool {
        todo!()
    }

    /// Bytes appended and not yet durable.
    pub fn queued_bytes(&self) -> usize {
        todo!()
    }

    /// Whether there is room for what comes next.
    pub fn space(&self) -> Space {
        todo!()
    }

    /// Tries again to make a spare segment at the next pump.
    pub fn retry_space(&mut self) {
        todo!()
    }

    /// Bytes written in batches since the log was opened, padding included.
    pub fn written_bytes(&self) -> u64 {
        todo!()
    }

    /// Size of a segment, in bytes.
    pub fn segment_size_bytes(&self) -> u64 {
        todo!()
    }
}
