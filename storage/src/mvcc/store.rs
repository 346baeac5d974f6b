//! The store: the one owner of the index, the open block and the buffer.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    AppliedState, Base, Block, Key, MemBase, Pins, Revision, RowKey, StoreError, StoreView, WriteTxn,
    block::{BlockList, BucketOp, OpenBlock},
    compact::Compaction,
    index::Index,
    overlay::Overlay,
};
use crate::buckets::Bucket;

/// Overlay rows forgotten per sealed block, so that no commit is followed by a long sweep.
const SWEEP_PER_BLOCK: usize = 512;

/// The multi-version store of a member. See the [module](super) for its life.
pub struct Store {
    pub(super) index: Index,
    pub(super) base: Arc<dyn Base>,
    pub(super) buffer: BlockList,
    pub(super) overlay: Overlay,
    pub(super) open: OpenBlock,
    pub(super) revision: i64,
    pub(super) compact_revision: i64,
    pub(super) removed_revision: i64,
    pub(super) compaction: Option<Compaction>,
    pub(super) pins: Pins,
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
    pub(super) sealed_bytes: usize,
    /// Committed blocks whose overlay rows are still to be forgotten; the place in the first of them.
    pub(super) sweep: VecDeque<Arc<Block>>,
    swept: usize,
    sequence: u64,
    applied: AppliedState,
}

/// Counters of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Keys that exist at the current revision.
    pub live_keys: u64,
    /// Keys in the index, deleted ones with readable history included.
    pub indexed_keys: u64,
    /// Rows of the `key` bucket, buffered ones included.
    pub revisions: u64,
    /// Bytes of the rows of the `key` bucket, keys and values, buffered ones included.
    pub bytes: u64,
    /// Bytes buffered and not yet in the tree.
    pub buffered_bytes: usize,
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl Store {
    /// A store over nothing: revision 1, never compacted.
    pub fn new() -> Store {
        Store::over(Arc::new(MemBase::default()), AppliedState::default())
    }

    pub(super) fn over(base: Arc<dyn Base>, applied: AppliedState) -> Store {
        Store {
            index: Index::default(),
            base,
            buffer: BlockList::over(1),
            overlay: Overlay::default(),
            open: OpenBlock::default(),
            revision: 1,
            compact_revision: -1,
            removed_revision: -1,
            compaction: None,
            pins: Pins::default(),
            rows: 0,
            row_bytes: 0,
            sealed_bytes: 0,
            sweep: VecDeque::new(),
            swept: 0,
            sequence: 1,
            applied,
        }
    }

    /// Opens a write transaction at the next revision.
    pub fn begin(&mut self) -> WriteTxn<'_> {
        WriteTxn::new(self)
    }

    /// Sets a row of a bucket other than `key`; readable at once through the store, and in views of later blocks.
    pub fn bucket_put(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) {
        assert_ne!(
            bucket,
            Bucket::Key,
            "rows of the key bucket are written by transactions"
        );
        self.set_row(bucket, key, Some(Bytes::copy_from_slice(value)));
    }

    /// Removes a row of a bucket other than `key`.
    pub fn bucket_delete(&mut self, bucket: Bucket, key: &[u8]) {
        assert_ne!(bucket, Bucket::Key, "rows of the key bucket are removed by compaction");
        self.set_row(bucket, key, None);
    }

    pub(super) fn set_row(&mut self, bucket: Bucket, key: &[u8], value: Option<Bytes>) {
        self.overlay.set(bucket, key, self.sequence, value.clone());
        self.open.push_op(BucketOp {
            bucket,
            key: Key::new(key),
            value,
        });
    }

    /// The value of a row of any bucket but `key`.
    pub fn bucket_get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        match self.overlay.get(bucket, key) {
            Some(patched) => Ok(patched.map(|value| &value[..])),
            None => Ok(self.base.get(bucket, key)?),
        }
    }

    /// The encoded pair of a put, the open block's included.
    pub(super) fn kv(&self, revision: Revision) -> Result<Option<&[u8]>, StoreError> {
        if let Some(encoded) = self.open.find(revision) {
            return Ok(Some(encoded));
        }
        find_kv(&self.buffer, &*self.base, revision)
    }

    /// Ends an apply batch. The block may be empty of changes; it still carries `applied` to the tree.
    pub fn seal_block(&mut self, applied: AppliedState) -> Arc<Block> {
        self.applied = applied.clone();
        let block = Arc::new(self.open.seal(self.sequence, self.revision, applied));
        self.sequence += 1;
        self.sealed_bytes += block.bytes;
        self.buffer.push(block.clone());
        self.sweep_overlay(SWEEP_PER_BLOCK);
        block
    }

    /// A picture of everything sealed.
    ///
    /// Order: after [`Store::seal_block`]; panics while changes are not sealed.
    pub fn view(&self) -> StoreView {
        assert!(self.open.is_empty(), "seal the block before taking a view");
        StoreView {
            revision: self.revision,
            compact_revision: self.compact_revision,
            removed_revision: self.removed_revision,
            index: self.index.clone(),
            base: self.base.clone(),
            buffer: self.buffer.clone(),
            overlay: self.overlay.clone(),
            applied: self.applied.clone(),
        }
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compacted revision; -1 when nothing was ever compacted.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Bytes buffered and not yet in the tree.
    pub fn buffered_bytes(&self) -> usize {
        self.sealed_bytes + self.open.bytes()
    }

    /// True when the open block holds changes, which a view cannot show yet.
    pub fn has_open_changes(&self) -> bool {
        !self.open.is_empty()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            live_keys: self.index.live_keys(),
            indexed_keys: self.index.len(),
            revisions: self.rows,
            bytes: self.row_bytes,
            buffered_bytes: self.buffered_bytes(),
        }
    }

    /// Every key that exists now and has a lease, in key order, with the lease: what the lessor attaches at boot.
    pub fn leased_keys(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.index.leased()
    }

    /// Forgets overlay rows that the tree has. A row kept longer is only the same as the tree's, so there is no hurry.
    fn sweep_overlay(&mut self, mut budget: usize) {
        while let Some(block) = self.sweep.front().cloned() {
            let Some(op) = block.ops.get(self.swept) else {
                self.sweep.pop_front();
                self.swept = 0;
                continue;
            };
            if budget == 0 {
                return;
            }
            self.overlay.forget(op.bucket, op.key.as_slice(), block.sequence);
            self.swept += 1;
            budget -= 1;
        }
    }
}

/// The encoded pair of a put, in the buffer or in the tree below it.
pub(super) fn find_kv<'a>(
    buffer: &'a BlockList,
    base: &'a dyn Base,
    revision: Revision,
) -> Result<Option<&'a [u8]>, StoreError> {
    if buffer.holds(revision.main) {
        return Ok(buffer.find(revision).map(|change| change.encoded));
    }
    Ok(base.get(Bucket::Key, RowKey::new(revision, false).as_slice())?)
}

#[cfg(test)]
impl Store {
    /// The revision of the newest view.
    pub fn view_revision_for_test(&self) -> i64 {
        self.open.log.first_main().map_or(self.revision, |first| first - 1)
    }
}
