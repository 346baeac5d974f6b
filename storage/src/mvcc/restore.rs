//! Boot: the index from the rows.

use std::sync::Arc;

use raft::mutant;

use super::{
    AppliedState, Base, Kv, Revision, RowKey, Store, StoreError, block::BlockList, compact::Compaction,
    revision::PUT_LEN,
};
use crate::buckets::{Bucket, meta};

impl Store {
    /// Reads the index and the revisions back from a durable root. `applied` is what the root's meta page says.
    ///
    /// Errors: [`StoreError::Base`] and [`StoreError::BadRow`], both a damaged tree.
    pub fn restore(base: Arc<dyn Base>, applied: AppliedState) -> Result<Store, StoreError> {
        let mut store = Store::over(base.clone(), applied);
        let finished = compact_mark(&*base, meta::FINISHED_COMPACT)?;
        let scheduled = compact_mark(&*base, meta::SCHEDULED_COMPACT)?;
        let mut rows = base.scan(Bucket::Key, b"")?;
        let mut last = Revision::default();
        while let Some((key, value)) = rows.next()? {
            last = store.restore_row(last, key, value)?;
        }
        store.compact_revision = scheduled.max(finished).unwrap_or(-1);
        // A compaction that has not finished may have removed anything below it.
        store.removed_revision = store.compact_revision;
        store.revision = last.main.max(store.compact_revision).max(1);
        store.buffer = BlockList::over(store.revision);
        if store.compact_revision > finished.unwrap_or(-1) && !mutant::on("compaction_not_resumed") {
            store.compaction = Some(Compaction::new(store.compact_revision));
        }
        Ok(store)
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
    let row = row.iter().map(|byte| format!("{byte:02x}")).collect();
    StoreError::BadRow {
        bucket: bucket.name(),
        row,
        problem: problem.to_owned(),
    }
}
