//! The multi-version store: every change of every key, by revision, with immutable views for readers.
//!
//! ```text
//!   apply ──► WriteTxn ──► Index (memory): user key -> revisions          ┐
//!                     └──► open block ──seal──► Block (Arc): the changes ─┤ StoreView: a picture of all of it,
//!                                                 │                      │ immutable, Send + Sync, cheap to clone
//!                        CommitBatch of blocks ───┴──► B+tree (Base) ────┘
//! ```
//!
//! - One owner, the raft core, changes the [`Store`]; it is deterministic and never blocks on a reader.
//! - [`Store::begin`] opens a transaction: one main revision if it changes anything. [`Store::seal_block`] ends a batch
//!   of transactions; the [`Block`] feeds watchers and holds what the B+tree does not have yet.
//! - [`Store::take_commit`] names a prefix of the sealed blocks to write to the tree; after the tree's commit is durable
//!   [`Store::on_committed`] swaps the tree root and drops that prefix.
//! - Readers use a [`StoreView`]. Bytes are borrowed from the tree's map or from a block, never copied here.
//! - Compaction is logical at once ([`Store::compact`]) and physical in slices ([`Store::compact_step`]).

mod base;
mod block;
mod chain;
mod commit;
mod compact;
mod hash;
mod history;
mod index;
mod key;
mod kv;
mod overlay;
mod pins;
mod pmap;
mod range;
mod restore;
mod revision;
mod scan;
mod store;
mod txn;
mod view;

#[cfg(test)]
mod model;
#[cfg(test)]
mod model_tests;

pub use base::{Base, BaseError, MemBase, Row, Rows};
pub use block::{AppliedState, Block, Change};
pub use commit::{CommitBatch, CommitOp, CommitOps};
pub use compact::CompactProgress;
pub use hash::{HashAll, HashKv, HashKvResult};
pub use history::HistoryItem;
pub use index::KeyInfo;
pub use key::Key;
pub use kv::{BadKv, Kv, encode_keys_only, framed_len};
pub use pins::{Pin, Pins};
pub use range::{Interval, RangeCursor, RangeItem, RangeQuery, RangeSize};
pub use restore::Restoring;
pub use revision::{Revision, RowKey};
pub use scan::{RowName, ViewRow, ViewRows};
pub use store::{Stats, Store};
pub use txn::{Deleted, PutOutcome, WriteTxn};
pub use view::StoreView;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision is gone: answer the client with etcd's `ErrCompacted`.
    #[error("revision {requested} has been compacted; use {compacted} or newer")]
    Compacted {
        /// The revision asked for.
        requested: i64,
        /// The newest compacted revision.
        compacted: i64,
    },
    /// The revision is not there yet: answer the client with etcd's `ErrFutureRev`.
    #[error("revision {requested} is newer than the current revision {current}")]
    FutureRevision {
        /// The revision asked for.
        requested: i64,
        /// The current revision.
        current: i64,
    },
    /// The tree could not be read: a local fault that stops the member.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A row of the tree makes no sense: a local fault that stops the member.
    #[error("bucket {bucket}, row {row}: {problem}; the data file is damaged, restore this member from its peers")]
    BadRow {
        /// The bucket's name.
        bucket: &'static str,
        /// The row's key, in hexadecimal.
        row: String,
        /// What is wrong with it.
        problem: String,
    },
}
