//! From the buffer to the tree.

use std::sync::Arc;

use bytes::Bytes;

use super::{AppliedState, Base, Store};
use crate::buckets::Bucket;

/// A prefix of the sealed blocks, to be written in one tree commit.
#[derive(Clone)]
pub struct CommitBatch {}

/// One row to write or remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitOp {
    /// Where.
    pub bucket: Bucket,
    /// The row.
    pub key: Bytes,
    /// Its new value, or nothing to remove it.
    pub value: Option<Bytes>,
}

/// The rows of a batch in order; owns its blocks, so it can be kept between bounded steps.
pub struct CommitOps {}

impl CommitBatch {
    /// What stands in the tree's meta page in the same commit.
    pub fn applied(&self) -> &AppliedState {
        todo!()
    }

    /// The last revision it makes durable.
    pub fn revision(&self) -> i64 {
        todo!()
    }

    /// Bytes it takes off the buffer.
    pub fn bytes(&self) -> usize {
        todo!()
    }

    /// The rows in order. Row keys of the `key` bucket ascend but for removals by compaction.
    pub fn ops(&self) -> CommitOps {
        todo!()
    }
}

impl Iterator for CommitOps {
    type Item = CommitOp;

    fn next(&mut self) -> Option<CommitOp> {
        todo!()
    }
}

impl Store {
    /// Takes the oldest sealed blocks, up to `max_bytes` and at least one; nothing when all is in the tree.
    ///
    /// `applied_max`: only blocks whose applied index is at or below it (the local contiguous persisted index).
    pub fn take_commit(&self, max_bytes: usize, applied_max: u64) -> Option<CommitBatch> {
        let _ = (max_bytes, applied_max);
        todo!()
    }

    /// The tree's commit of `batch` is durable under the root `base`: reads go there, its blocks leave the buffer.
    pub fn on_committed(&mut self, base: Arc<dyn Base>, batch: &CommitBatch) {
        let _ = (base, batch);
        todo!()
    }

    /// The tree swapped its root without new rows (a shrink step, say).
    pub fn on_root(&mut self, base: Arc<dyn Base>) {
        let _ = base;
        todo!()
    }
}
