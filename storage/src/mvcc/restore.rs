//! Boot and taking over a snapshot: the index from the rows.

use std::sync::Arc;

use bytes::Bytes;
use raft::mutant;

use super::{
    AppliedState, Base, Kv, Revision, RowKey, Store, StoreError, block::BlockList, compact::Compaction,
    revision::PUT_LEN,
};
use crate::buckets::{Bucket, meta};

/// A store that is read back from a durable root, in slices that the caller bounds.
///
/// Order: [`rows`](Self::rows) until it is done, then, for who wants them, [`leased`](Self::leased) until it is done, then
/// [`finish`](Self::finish).
pub struct Restoring {
    store: Store,
    finished_compact: Option<i64>,
    last: Revision,
    /// Where the next slice begins: a row's key, then a user's key.
    from: Vec<u8>,
}

impl Restoring {
    /// Begins to read. `applied` is what the root's meta page says.
    ///
    /// Errors: [`StoreError::Base`] and [`StoreError::BadRow`], both a damaged tree.
    pub fn begin(base: Arc<dyn Base>, applied: AppliedState) -> Result<Restoring, StoreError> {
        let mut store = Store::over(base.clone(), applied);
        let finished_compact = compact_mark(&*base, meta::FINISHED_COMPACT)?;
        let scheduled = compact_mark(&*base, meta::SCHEDULED_COMPACT)?;
        store.compact_revision = scheduled.max(finished_compact).unwrap_or(-1);
        Ok(Restoring {
            store,
            finished_compact,
            last: Revision::default(),
            from: Vec::new(),
        })
    }

    /// Takes up to `rows_max` revisions into the index; true once there are no more.
    ///
    /// Errors: as [`begin`](Self::begin).
    pub fn rows(&mut self, rows_max: usize) -> Result<bool, StoreError> {
        let base = self.store.base.clone();
        let mut rows = base.scan(Bucket::Key, &self.from)?;
        for _ in 0..rows_max {
            let Some((key, value)) = rows.next()? else {
                self.from.clear();
                return Ok(true);
            };
            self.last = self.store.restore_row(self.last, key, value)?;
            self.from.clear();
            self.from.extend_from_slice(key);
            self.from.push(0);
        }
        Ok(false)
    }

    /// Looks at up to `keys_max` keys, and gives those with a lease to `attach`; true once there are no more.
    pub fn leased(&mut self, keys_max: usize, attach: &mut dyn FnMut(&[u8], i64)) -> bool {
        let mut keys = self.store.index.leases_from(&self.from);
        let mut last = None;
        for _ in 0..keys_max {
            let Some((key, lease)) = keys.next() else { return true };
            if lease != 0 {
                attach(key, lease);
            }
            last = Some(key);
        }
        if let Some(last) = last {
            self.from = [last, &[0]].concat();
        }
        false
    }

    /// The store, once all rows are in.
    pub fn finish(self) -> Store {
        let mut store = self.store;
        // A compaction that has not finished may have removed anything below it.
        store.removed_revision = store.compact_revision;
        store.revision = self.last.main.max(store.compact_revision).max(1);
        store.buffer = BlockList::over(store.revision);
        if store.compact_revision > self.finished_compact.unwrap_or(-1) && !mutant::on("compaction_not_resumed") {
            store.compaction = Some(Compaction::new(store.compact_revision));
        }
        store
    }
}

impl Store {
    /// Reads the index and the revisions back from a durable root, in one go. `applied` is what the root's meta page says.
    ///
    /// Errors: [`StoreError::Base`] and [`StoreError::BadRow`], both a damaged tree.
    pub fn restore(base: Arc<dyn Base>, applied: AppliedState) -> Result<Store, StoreError> {
        let mut restoring = Restoring::begin(base, applied)?;
        while !restoring.rows(usize::MAX)? {}
        Ok(restoring.finish())
    }

    fn restore_row(&mut self, last: Revision, key: &[u8], value: &[u8]) -> Result<Revision, StoreError> {
        let bad = |problem: &str| bad_row(Bucket::Key, key, problem);
        let (revision, tombstone) = RowKey::parse(key).ok_or_else(|| bad("its key is not a revision"))?;
        let kv = Kv::decode(value).map_err(|error| bad(&error.to_string()))?;
        if revision <= last {
            return Err(bad("its revision does not ascend"));
        }
        let len = u32::try_from(value.len()).map_err(|_| bad("its value is longer than 4 GiB"))?;
        let stored = (!tombstone).then_some((kv.create_revision, kv.version, kv.lease));
        self.index.restore(kv.key, revision, len, stored);
        self.rows += 1;
        self.row_bytes += u64::from(len) + PUT_LEN as u64 + u64::from(tombstone);
        Ok(revision)
    }
}

pub(super) fn compact_mark(base: &dyn Base, name: &[u8]) -> Result<Option<i64>, StoreError> {
    let Some(value) = base.get(Bucket::Meta, name)? else {
        return Ok(None);
    };
    match RowKey::parse(value) {
        Some((revision, false)) => Ok(Some(revision.main)),
        _ => Err(bad_row(Bucket::Meta, name, "its value is not a revision")),
    }
}

/// The error for a row that makes no sense.
pub(super) fn bad_row(bucket: Bucket, row: &[u8], problem: &str) -> StoreError {
    StoreError::BadRow {
        bucket: bucket.name(),
        row: format!("{:x}", Bytes::copy_from_slice(row)),
        problem: problem.to_owned(),
    }
}
