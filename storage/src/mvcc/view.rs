//! Views: immutable pictures of the store for readers on any executor.

use super::{
    AppliedState, HashAll, HashKv, HistoryItem, Interval, RangeCursor, RangeQuery, Revision, StoreError, ViewRows,
};
use crate::buckets::Bucket;

/// An immutable picture of the store. `Send + Sync`; a clone costs a few reference counts.
#[derive(Clone)]
pub struct StoreView {}

impl StoreView {
    /// The current revision of the picture.
    pub fn revision(&self) -> i64 {
        todo!()
    }

    /// The compacted revision; -1 when nothing was ever compacted.
    pub fn compact_revision(&self) -> i64 {
        todo!()
    }

    /// Revisions below this one may be physically gone; at or above it a pinned reader may go on.
    pub fn removed_revision(&self) -> i64 {
        todo!()
    }

    /// Where apply stood.
    pub fn applied(&self) -> &AppliedState {
        todo!()
    }

    /// Opens a range read.
    ///
    /// Errors: [`StoreError::Compacted`], [`StoreError::FutureRevision`].
    pub fn range<'v>(&'v self, query: &RangeQuery<'v>) -> Result<RangeCursor<'v>, StoreError> {
        let _ = query;
        todo!()
    }

    /// Number of keys of an interval that exist at `revision` (0 or less: now). O(log n) at the current revision.
    pub fn count(&self, interval: Interval<'_>, revision: i64) -> Result<u64, StoreError> {
        let _ = (interval, revision);
        todo!()
    }

    /// The encoded `mvccpb.KeyValue` of one change; nothing if it was compacted away.
    pub fn kv(&self, revision: Revision) -> Result<Option<&[u8]>, StoreError> {
        let _ = revision;
        todo!()
    }

    /// The encoded `mvccpb.KeyValue` of a key as it was at `revision`; nothing if it did not exist or if the revision
    /// is compacted or not there yet (`prev_kv` is silently absent then).
    pub fn kv_at(&self, key: &[u8], revision: i64) -> Result<Option<&[u8]>, StoreError> {
        let _ = (key, revision);
        todo!()
    }

    /// Appends the changes from main revision `from` on to `out`, and returns the main revision to go on with.
    ///
    /// Never splits a main revision; stops at the first boundary at which `max_items` or `max_bytes` is reached. Done
    /// when the answer is greater than [`StoreView::revision`].
    ///
    /// Errors: [`StoreError::Compacted`] when `from` is below the compacted revision.
    pub fn history<'v>(
        &'v self,
        from: i64,
        max_items: usize,
        max_bytes: usize,
        out: &mut Vec<HistoryItem<'v>>,
    ) -> Result<i64, StoreError> {
        let _ = (from, max_items, max_bytes, out);
        todo!()
    }

    /// The value of a row of any bucket but `key`.
    pub fn bucket_get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        let _ = (bucket, key);
        todo!()
    }

    /// The rows of any bucket in key order from `from` on, buffered changes included.
    pub fn rows(&self, bucket: Bucket, from: &[u8]) -> Result<ViewRows<'_>, StoreError> {
        let _ = (bucket, from);
        todo!()
    }

    /// Starts `HashKV` at `revision` (0: now). The job holds this view until it is done.
    ///
    /// Errors: [`StoreError::Compacted`], [`StoreError::FutureRevision`].
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, StoreError> {
        let _ = revision;
        todo!()
    }

    /// Starts `Hash` over all buckets. The job holds this view until it is done.
    pub fn hash_all(&self) -> HashAll {
        todo!()
    }
}
