//! From the buffer to the tree.

use std::sync::Arc;

use bytes::Bytes;
use raft::mutant;

use super::{AppliedState, Base, Block, Key, RowKey, Store};
use crate::buckets::Bucket;

/// A prefix of the sealed blocks, to be written in one tree commit.
#[derive(Clone)]
pub struct CommitBatch {
    /// Not empty.
    blocks: Vec<Arc<Block>>,
    bytes: usize,
}

/// One row to write or remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitOp {
    /// Where.
    pub bucket: Bucket,
    /// The row.
    pub key: Key,
    /// Its new value, or nothing to remove it.
    pub value: Option<Bytes>,
}

/// The rows of a batch in order; owns its blocks, so it can be kept between bounded steps.
pub struct CommitOps {
    blocks: std::vec::IntoIter<Arc<Block>>,
    block: Option<Arc<Block>>,
    change: usize,
    op: usize,
}

impl CommitBatch {
    /// What stands in the tree's meta page in the same commit.
    pub fn applied(&self) -> &AppliedState {
        &self.last().applied
    }

    /// The last revision it makes durable.
    pub fn revision(&self) -> i64 {
        self.last().last
    }

    /// Bytes it takes off the buffer.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows in order: of each block first its revisions, ascending, then its other rows and removals.
    pub fn ops(&self) -> CommitOps {
        CommitOps {
            blocks: self.blocks.clone().into_iter(),
            block: None,
            change: 0,
            op: 0,
        }
    }

    /// Reaches the points that lie before the commit of what the batch holds.
    #[cfg(feature = "failpoints")]
    pub fn reach_points_before(&self) {
        if self.removes_revisions() {
            crate::failpoint!("compactBeforeCommitBatch");
        }
    }

    /// Reaches the points that lie behind it.
    #[cfg(feature = "failpoints")]
    pub fn reach_points_after(&self) {
        if self.removes_revisions() {
            crate::failpoint!("compactAfterCommitBatch");
        }
        let mark = |op: &super::block::BucketOp| op.key.as_slice() == crate::buckets::meta::SCHEDULED_COMPACT;
        if self.blocks.iter().flat_map(|block| &block.ops).any(mark) {
            crate::failpoint!("compactAfterCommitScheduledCompact");
        }
    }

    #[cfg(feature = "failpoints")]
    fn removes_revisions(&self) -> bool {
        let mut ops = self.blocks.iter().flat_map(|block| &block.ops);
        ops.any(|op| op.bucket == Bucket::Key && op.value.is_none())
    }

    fn last(&self) -> &Block {
        self.blocks.last().expect("a batch has a block")
    }
}

impl Iterator for CommitOps {
    type Item = CommitOp;

    fn next(&mut self) -> Option<CommitOp> {
        loop {
            if let Some(block) = &self.block {
                if let Some(raw) = block.raw_changes().get(self.change) {
                    self.change += 1;
                    let key = Key::new(RowKey::new(raw.revision, raw.is_delete).as_slice());
                    let start = raw.offset as usize;
                    let value = block.arena.slice(start..start + raw.len as usize);
                    return Some(CommitOp {
                        bucket: Bucket::Key,
                        key,
                        value: Some(value),
                    });
                }
                if let Some(op) = block.ops.get(self.op) {
                    self.op += 1;
                    return Some(CommitOp {
                        bucket: op.bucket,
                        key: op.key.clone(),
                        value: op.value.clone(),
                    });
                }
            }
            self.block = Some(self.blocks.next()?);
            (self.change, self.op) = (0, 0);
        }
    }
}

impl Store {
    /// Takes the oldest sealed blocks, up to `max_bytes` and at least one; nothing when all is in the tree.
    ///
    /// `applied_max`: only blocks whose applied index is at or below it (the local contiguous persisted index).
    ///
    /// Order: one batch at a time; taking again before [`Store::on_committed`] gives the same blocks and more.
    pub fn take_commit(&self, max_bytes: usize, applied_max: u64) -> Option<CommitBatch> {
        let mut batch = CommitBatch {
            blocks: Vec::new(),
            bytes: 0,
        };
        for block in self
            .buffer
            .iter()
            .take_while(|block| block.applied.index <= applied_max || mutant::on("tree_ahead_of_the_log"))
        {
            if !batch.blocks.is_empty() && batch.bytes + block.bytes > max_bytes {
                break;
            }
            batch.bytes += block.bytes;
            batch.blocks.push(block.clone());
        }
        (!batch.blocks.is_empty()).then_some(batch)
    }

    /// The tree's commit of `batch` is durable under the root `base`: reads go there, its blocks leave the buffer.
    pub fn on_committed(&mut self, base: Arc<dyn Base>, batch: &CommitBatch) {
        let oldest = self.buffer.iter().next().map(|block| block.sequence);
        assert_eq!(
            oldest,
            Some(batch.blocks[0].sequence),
            "commits take the buffer from its front, each block once"
        );
        self.base = base;
        self.buffer.drop_through(batch.last().sequence);
        self.sealed_bytes -= batch.bytes;
        self.sweep
            .extend(batch.blocks.iter().filter(|block| !block.ops.is_empty()).cloned());
    }

    /// The tree swapped its root without new rows (a shrink step, say).
    pub fn on_root(&mut self, base: Arc<dyn Base>) {
        self.base = base;
    }
}
