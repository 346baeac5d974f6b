//! The seam between storage and the machine: every file call of the product goes through [`Disk`].
//!
//! Two ways to call, one meaning:
//! - [`Disk::call`] blocks until the operation is done. Boot, recovery and offline tools use it.
//! - [`Disk::submit`] starts the operation and returns; its [`Completion`] comes out of [`Disk::poll`] under the
//!   same token. Everything that runs while the member serves uses it.
//!
//! Paths are relative to the root the disk was made for, `/`-separated, and never contain `..`.
//! Implementations: [`StdDisk`] (blocking), `GlommioDisk` (io_uring) and
//! [`SimDisk`] (memory that loses, tears, reorders and rots).

use std::{fmt, sync::Arc};

use bytes::Bytes;

mod glommio_disk;
mod lone;
mod map;
pub mod sim;
mod std_disk;
mod system;

pub use glommio_disk::GlommioDisk;
pub use sim::SimDisk;
pub use std_disk::StdDisk;

/// Names one submitted operation; chosen by the caller, unique among the operations in flight.
pub type Token = u64;

/// Direct I/O works in units of this many bytes: file offsets, lengths and memory addresses.
pub const BLOCK_SIZE: usize = 4096;

/// An open file of one [`Disk`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u32);

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Create the file when it is missing.
    pub create: bool,
    /// Fail when the file exists (with `create`).
    pub exclusive: bool,
    /// Write access; without it the file is read-only.
    pub write: bool,
    /// A write is durable when it completes (`O_DSYNC`), and bypasses the page cache where the file system can
    /// (`O_DIRECT`): offsets and lengths must then be multiples of [`BLOCK_SIZE`].
    pub direct_dsync: bool,
}

impl OpenOptions {
    /// Every implementation holds its callers to the alignment that direct I/O needs.
    fn check_alignment(self, offset: u64, len: usize) {
        let aligned = offset.is_multiple_of(BLOCK_SIZE as u64) && len.is_multiple_of(BLOCK_SIZE);
        assert!(
            aligned || !self.direct_dsync,
            "a direct write at {offset} of {len} bytes is not aligned"
        );
    }
}

/// One file operation. Offsets and lengths are in bytes.
#[derive(Debug)]
pub enum Op {
    /// Opens a file. Output: [`Output::File`].
    Open {
        /// Path of the file.
        path: String,
        /// How.
        options: OpenOptions,
    },
    /// Closes a file; a lock on it ends.
    Close(FileId),
    /// Output: [`Output::Len`], the length of the file.
    Len(FileId),
    /// Reads exactly `len` bytes, fewer only at the end of the file. Output: [`Output::Data`].
    Read {
        /// Which file.
        file: FileId,
        /// Where from.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// Writes all of `data` or fails; a short write is an error. Durable when done if the file was opened with
    /// `direct_dsync`, else after the next completed [`Op::Sync`] submitted afterwards.
    Write {
        /// Which file.
        file: FileId,
        /// Where to.
        offset: u64,
        /// What.
        data: WriteBuf,
    },
    /// Makes every completed write of the file durable (`fdatasync`).
    Sync(FileId),
    /// Cuts or extends the file (extension reads as zeros and takes no space).
    SetLen(FileId, u64),
    /// Takes space for a range of the file and extends it if needed (`fallocate`). `NoSpace` here is retryable.
    Allocate {
        /// Which file.
        file: FileId,
        /// Where from.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Gives the space of a range back; it reads as zeros (`FALLOC_FL_PUNCH_HOLE`).
    Punch {
        /// Which file.
        file: FileId,
        /// Where from.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Renames a file over another. Durable after [`Op::SyncDir`] of both directories.
    Rename {
        /// Old path.
        from: String,
        /// New path.
        to: String,
    },
    /// Removes a file. Durable after [`Op::SyncDir`].
    Remove(String),
    /// Makes a directory and its parents, mode 0700; fine when it exists.
    CreateDir(String),
    /// Lists the file names in a directory, sorted. Output: [`Output::Names`].
    List(String),
    /// Makes the entries of a directory durable.
    SyncDir(String),
    /// Takes an exclusive lock on the open file, failing at once when another holder has it
    /// ([`ErrorKind::Locked`]). It ends with the file or the process.
    Lock(FileId),
    /// Output: [`Output::Space`].
    Space,
}

/// What a write carries.
#[derive(Clone, Debug)]
pub enum WriteBuf {
    /// Bytes in memory of any alignment; copied by implementations that need alignment.
    Bytes(Bytes),
    /// Pieces written one behind the other.
    Pieces(Vec<Bytes>),
}

impl WriteBuf {
    /// How many bytes it carries.
    pub fn len(&self) -> usize {
        match self {
            WriteBuf::Bytes(data) => data.len(),
            WriteBuf::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether it carries none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in one piece, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        match self {
            WriteBuf::Bytes(data) => data.to_vec(),
            WriteBuf::Pieces(pieces) => pieces.concat(),
        }
    }

    /// Copies the bytes into `to`, which is at least as long.
    fn copy_to(&self, mut to: &mut [u8]) {
        let mut put = |piece: &[u8]| {
            let (head, tail) = std::mem::take(&mut to).split_at_mut(piece.len());
            head.copy_from_slice(piece);
            to = tail;
        };
        match self {
            WriteBuf::Bytes(data) => put(data),
            WriteBuf::Pieces(pieces) => pieces.iter().for_each(|piece| put(piece)),
        }
    }
}

/// What an operation answers.
#[derive(Clone, Debug)]
pub enum Output {
    /// Nothing to say.
    Done,
    /// The opened file.
    File(FileId),
    /// A length in bytes.
    Len(u64),
    /// The bytes read.
    Data(Bytes),
    /// File names.
    Names(Vec<String>),
    /// Size and free space of the file system, in bytes.
    Space {
        /// Whole size.
        total: u64,
        /// Free for us.
        free: u64,
    },
}

/// The end of one submitted operation.
#[derive(Debug)]
pub struct Completion {
    /// The token given to [`Disk::submit`].
    pub token: Token,
    /// How it ended.
    pub result: Result<Output, DiskError>,
}

/// What kind of failure, by what the caller does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The file is not there.
    NotFound,
    /// The file is there already.
    Exists,
    /// No space left: retryable for [`Op::Allocate`] and for zero-filling, fatal for any other write.
    NoSpace,
    /// Somebody else holds the lock.
    Locked,
    /// No permission.
    Denied,
    /// Anything else: final.
    Io,
}

/// A failed file call: what, where, why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{op} {path}{}: {message}", At(*.offset))]
pub struct DiskError {
    /// What the caller does next depends on this.
    pub kind: ErrorKind,
    /// The call, a verb: `write`, `sync`, ...
    pub op: &'static str,
    /// Path of the file.
    pub path: String,
    /// Offset in bytes, where the call has one.
    pub offset: Option<u64>,
    /// The system's words.
    pub message: String,
}

struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at offset {offset}"),
            None => Ok(()),
        }
    }
}

/// A file mapped for reading, or memory that plays one. Shared by all executors.
pub trait Pages: Send + Sync {
    /// The bytes `[offset, offset + len)` of the file.
    ///
    /// Bounds: the range lies below the highest length the file was allocated to; anything else panics.
    fn bytes(&self, offset: u64, len: usize) -> &[u8];
}

/// All file calls of one data directory. Not shared between executors; [`Pages`] are.
pub trait Disk {
    /// Starts an operation. Operations on one file may end in any order.
    fn submit(&mut self, token: Token, op: Op);

    /// Moves the operations that have ended to the back of `completions`. Never blocks.
    fn poll(&mut self, completions: &mut Vec<Completion>);

    /// Performs an operation and waits for it.
    fn call(&mut self, op: Op) -> Result<Output, DiskError>;

    /// Maps a file for reading. `reserve` bytes of address space are taken once, so that growth never remaps.
    fn map(&mut self, file: FileId, reserve: u64) -> Result<Arc<dyn Pages>, DiskError>;
}
