//! The store: the one owner of the index, the open block and the buffer.

use std::sync::Arc;

use super::{AppliedState, Base, Block, StoreError, StoreView, WriteTxn};
use crate::buckets::Bucket;

/// The multi-version store of a member. See the [module](super) for its life.
pub struct Store {}

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

impl Store {
    /// A store over nothing: revision 1, never compacted.
    pub fn new() -> Store {
        todo!()
    }

    /// Reads the index and the revisions back from a durable root. `applied` is what the root's meta page says.
    ///
    /// Errors: [`StoreError::Base`] and [`StoreError::BadRow`], both a damaged tree.
    pub fn restore(base: Arc<dyn Base>, applied: AppliedState) -> Result<Store, StoreError> {
        let _ = (base, applied);
        todo!()
    }

    /// Opens a write transaction at the next revision.
    pub fn begin(&mut self) -> WriteTxn<'_> {
        todo!()
    }

    /// Sets a row of a bucket other than `key`; readable at once through the store, and in views of later blocks.
    pub fn bucket_put(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) {
        let _ = (bucket, key, value);
        todo!()
    }

    /// Removes a row of a bucket other than `key`.
    pub fn bucket_delete(&mut self, bucket: Bucket, key: &[u8]) {
        let _ = (bucket, key);
        todo!()
    }

    /// The value of a row of any bucket but `key`.
    pub fn bucket_get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        let _ = (bucket, key);
        todo!()
    }

    /// Ends an apply batch. The block may be empty of changes; it still carries `applied` to the tree.
    pub fn seal_block(&mut self, applied: AppliedState) -> Arc<Block> {
        let _ = applied;
        todo!()
    }

    /// A picture of everything sealed.
    ///
    /// Order: after [`Store::seal_block`]; panics while changes are not sealed.
    pub fn view(&self) -> StoreView {
        todo!()
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        todo!()
    }

    /// The compacted revision; -1 when nothing was ever compacted.
    pub fn compact_revision(&self) -> i64 {
        todo!()
    }

    /// Bytes buffered and not yet in the tree.
    pub fn buffered_bytes(&self) -> usize {
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Every key that exists now and has a lease, in key order, with the lease: what the lessor attaches at boot.
    pub fn leased_keys(&self) -> impl Iterator<Item = (&[u8], i64)> {
        std::iter::empty()
    }
}
