//! Views: immutable pictures of the store for readers on any executor.

use std::sync::Arc;

use super::{
    AppliedState, Base, HashAll, HashKv, HistoryItem, Interval, RangeCursor, RangeQuery, Revision, StoreError,
    block::BlockList,
    index::{Index, Moment},
    overlay::Overlay,
    scan::ViewRows,
    store::find_kv,
};
use crate::buckets::Bucket;

/// An immutable picture of the store. `Send + Sync`; a clone costs a few reference counts.
#[derive(Clone)]
pub struct StoreView {
    pub(super) revision: i64,
    pub(super) compact_revision: i64,
    pub(super) removed_revision: i64,
    pub(super) index: Index,
    pub(super) base: Arc<dyn Base>,
    pub(super) buffer: BlockList,
    pub(super) overlay: Overlay,
    pub(super) applied: AppliedState,
}

impl StoreView {
    /// The current revision of the picture.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compacted revision; -1 when nothing was ever compacted.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Revisions below this one may be physically gone; at or above it a pinned reader may go on.
    pub fn removed_revision(&self) -> i64 {
        self.removed_revision
    }

    /// Where apply stood.
    pub fn applied(&self) -> &AppliedState {
        &self.applied
    }

    /// Opens a range read.
    ///
    /// Errors: [`StoreError::Compacted`], [`StoreError::FutureRevision`].
    pub fn range<'v>(&'v self, query: &RangeQuery<'v>) -> Result<RangeCursor<'v>, StoreError> {
        let admitted = query.admitted || query.after.is_some() || query.sub_end.is_some();
        let oldest = if admitted {
            self.removed_revision
        } else {
            self.compact_revision
        };
        let moment = match query.sub_end {
            Some(0) => Moment::after(self.check((query.revision - 1).max(1), oldest)?),
            Some(sub_end) => Moment {
                main: self.check(query.revision, oldest)?,
                sub_end,
            },
            None => Moment::after(self.check(query.revision, oldest)?),
        };
        Ok(RangeCursor::new(self, *query, moment))
    }

    /// Whether a read at `revision` (0 or less: now) is possible.
    ///
    /// Errors: [`StoreError::Compacted`], [`StoreError::FutureRevision`].
    pub fn check_revision(&self, revision: i64) -> Result<(), StoreError> {
        self.check(revision, self.compact_revision).map(|_| ())
    }

    /// Number of keys of an interval that exist at `revision` (0 or less: now). O(log n) at the current revision.
    pub fn count(&self, interval: Interval<'_>, revision: i64) -> Result<u64, StoreError> {
        let revision = self.check(revision, self.compact_revision)?;
        Ok(self.count_at(interval, Moment::after(revision)))
    }

    /// The encoded `mvccpb.KeyValue` of one put; nothing if it was compacted away.
    pub fn kv(&self, revision: Revision) -> Result<Option<&[u8]>, StoreError> {
        find_kv(&self.buffer, &*self.base, revision)
    }

    /// The encoded `mvccpb.KeyValue` of a key as it was at `revision`; nothing if it did not exist or if the revision
    /// is compacted or not there yet (`prev_kv` is silently absent then).
    pub fn kv_at(&self, key: &[u8], revision: i64) -> Result<Option<&[u8]>, StoreError> {
        if revision < self.compact_revision || revision > self.revision {
            return Ok(None);
        }
        match self.index.get(key, Moment::after(revision)) {
            Some(found) => self.kv(found.rev.revision()),
            None => Ok(None),
        }
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
        if from < self.compact_revision {
            return Err(StoreError::Compacted {
                requested: from,
                compacted: self.compact_revision,
            });
        }
        super::history::collect(self, from, max_items, max_bytes, out)
    }

    /// The value of a row of any bucket but `key`.
    pub fn bucket_get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        match self.overlay.get(bucket, key) {
            Some(patched) => Ok(patched.map(|value| &value[..])),
            None => Ok(self.base.get(bucket, key)?),
        }
    }

    /// The rows of any bucket in key order from `from` on, buffered changes included.
    pub fn rows(&self, bucket: Bucket, from: &[u8]) -> Result<ViewRows<'_>, StoreError> {
        ViewRows::new(self, bucket, from)
    }

    /// Starts `HashKV` at `revision` (0: now). The job holds this view until it is done.
    ///
    /// Errors: [`StoreError::Compacted`], [`StoreError::FutureRevision`].
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, StoreError> {
        // Below zero there is nothing, and etcd hashes just that.
        let revision = match revision {
            ..0 => revision,
            _ => self.check(revision, self.compact_revision)?,
        };
        Ok(HashKv::new(self.clone(), revision))
    }

    /// Starts the hash that etcd computes while it compacts at `revision`. etcd keeps the ten newest of them, answers
    /// `HashKV` at exactly these revisions with them, and compares them between members.
    ///
    /// Order: on a view from just before [`Store::compact`](super::Store::compact).
    ///
    /// Errors: [`StoreError::Compacted`], [`StoreError::FutureRevision`].
    pub fn compaction_hash(&self, revision: i64) -> Result<HashKv, StoreError> {
        let revision = if revision == 0 {
            0
        } else {
            self.check(revision, self.compact_revision)?
        };
        Ok(HashKv::of_compaction(self.clone(), revision))
    }

    /// Starts `Hash` over all buckets. The job holds this view until it is done.
    pub fn hash_all(&self) -> HashAll {
        HashAll::new(self.clone())
    }

    /// The revision that a request for `revision` reads at.
    fn check(&self, revision: i64, oldest: i64) -> Result<i64, StoreError> {
        match revision {
            ..=0 => Ok(self.revision),
            _ if revision < oldest => Err(StoreError::Compacted {
                requested: revision,
                compacted: oldest,
            }),
            _ if revision > self.revision => Err(StoreError::FutureRevision {
                requested: revision,
                current: self.revision,
            }),
            _ => Ok(revision),
        }
    }

    pub(super) fn count_at(&self, interval: Interval<'_>, moment: Moment) -> u64 {
        if moment == Moment::after(self.revision) {
            return self.index.count_now(interval);
        }
        self.index.range(interval, moment, None).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_the_jobs_on_them_cross_executors() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<StoreView>();
        crosses::<HashKv>();
        crosses::<HashAll>();
        crosses::<crate::bbolt::Export>();
        crosses::<super::super::Pins>();
        crosses::<super::super::Block>();
    }
}
