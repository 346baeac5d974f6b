//! What can go wrong in the tree, by what the caller does next.

use crate::io::DiskError;

/// A failure of the tree.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TreeError {
    /// What stands on the disk is not what was written: stop the member, restore it from a healthy one.
    #[error(
        "{path}: page {page} at offset {offset}: {what}: expected {expected:#x}, found {found:#x}; the file is damaged: \
         do not edit or delete it: remove this member from the cluster and add it anew with an empty data directory (a \
         single member: restore a backup)"
    )]
    Corrupt {
        /// Path of the file.
        path: String,
        /// Page number.
        page: u64,
        /// Where the page begins. Units: bytes.
        offset: u64,
        /// What was compared.
        what: &'static str,
        /// What should have stood there.
        expected: u64,
        /// What stood there.
        found: u64,
    },
    /// The file was written by a newer version that asks for a newer reader.
    #[error("{path}: format asks for reader version {min_reader}, this program has {supported}: start a newer version")]
    TooNew {
        /// Path of the file.
        path: String,
        /// What the file asks for.
        min_reader: u32,
        /// What we are.
        supported: u32,
    },
    /// Growing the file failed for lack of space before anything was changed: make space and step again, or abandon.
    #[error("no space to grow the tree by {needed_bytes} bytes: free some space, then it goes on ({source})")]
    NoSpace {
        /// How much was asked for.
        needed_bytes: u64,
        /// The system's answer.
        source: DiskError,
    },
    /// A file call failed. After a failed write or sync this is final: every later call answers the same.
    #[error("tree file call failed, the member must stop: {0}")]
    Io(#[from] DiskError),
    /// The operation breaks a bound; nothing was changed.
    #[error("{what} is {found}, the bound is {bound}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The largest allowed.
        bound: u64,
    },
    /// An option makes no sense.
    #[error("tree option {0}")]
    BadOption(String),
}
