//! `HashKV` and `Hash`, equal to etcd's for the same history.
//!
//! Both are CRC-32C over bucket names and rows in order. `HashKV` leaves out what compaction at the compacted revision
//! has removed or will remove, so that members agree whatever their compaction has got to.
//! Source: etcd `kvHasher`, `unsafeHashByRev`, since 3.5.16.

use raft::mutant;

use super::{Interval, Kv, RowKey, RowName, StoreError, StoreView, index::Moment, restore::bad_row};
use crate::buckets::{Bucket, meta};

/// The answer of `HashKV`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashKvResult {
    /// CRC-32C.
    pub hash: u32,
    /// The revision hashed.
    pub revision: i64,
    /// The compacted revision then; -1 for none.
    pub compact_revision: i64,
}

/// A `HashKV` in progress.
pub struct HashKv {
    view: StoreView,
    revision: i64,
    /// Does any key exist at `revision`? Else all that the compaction leaves counts.
    keeps_any: bool,
    hash: u32,
    next: Vec<u8>,
}

impl HashKv {
    pub(super) fn new(view: StoreView, revision: i64) -> HashKv {
        let keeps_any = view
            .index
            .range(Interval::all(), Moment::after(revision), None)
            .next()
            .is_some();
        HashKv {
            view,
            revision,
            keeps_any,
            hash: crc32c::crc32c(Bucket::Key.name().as_bytes()),
            next: Vec::new(),
        }
    }

    /// What etcd computes while it compacts at `revision`; a tombstone just there counts among what is kept.
    pub(super) fn of_compaction(view: StoreView, revision: i64) -> HashKv {
        let mut job = HashKv::new(view, revision);
        job.keeps_any |= job.view.index.has_tombstone_at(revision);
        job
    }

    /// Hashes up to about `budget` bytes more; the answer when done.
    pub fn step(&mut self, budget: usize) -> Result<Option<HashKvResult>, StoreError> {
        let mut rows = self.view.rows(Bucket::Key, &self.next)?;
        let mut bytes = 0;
        while let Some((row, value)) = rows.next()? {
            if bytes >= budget.max(1) {
                self.next = row.as_ref().to_vec();
                return Ok(None);
            }
            bytes += row.as_ref().len() + value.len();
            if self.counts(&row, value)? {
                self.hash = append_row(self.hash, &row, value);
            }
        }
        let compact_revision = self.view.compact_revision();
        Ok(Some(HashKvResult {
            hash: self.hash,
            revision: self.revision,
            compact_revision,
        }))
    }

    fn counts(&self, row: &RowName<'_>, value: &[u8]) -> Result<bool, StoreError> {
        let bad = |problem: &str| bad_row(Bucket::Key, row.as_ref(), problem);
        let (revision, tombstone) = RowKey::parse(row.as_ref()).ok_or_else(|| bad("its key is not a revision"))?;
        let compacted = self.view.compact_revision();
        if revision.main > self.revision || (tombstone && revision.main == compacted) {
            return Ok(false);
        }
        if revision.main > compacted {
            return Ok(true);
        }
        let key = Kv::decode(value).map_err(|error| bad(&error.to_string()))?.key;
        let index = &self.view.index;
        // Where nothing exists etcd counts the rows that are there: those that the compaction leaves in the end.
        let kept = match self.keeps_any {
            true => index
                .get(key, Moment::after(self.revision))
                .is_some_and(|found| found.rev.revision() == revision),
            false => index.survives(key, revision, compacted),
        };
        Ok(kept || mutant::on("hash_counts_what_compaction_left"))
    }
}

/// A `Hash` over all buckets in progress.
pub struct HashAll {
    view: StoreView,
    hash: u32,
    /// Place in [`Bucket::ALL`].
    bucket: usize,
    next: Vec<u8>,
    begun: bool,
}

impl HashAll {
    pub(super) fn new(view: StoreView) -> HashAll {
        HashAll {
            view,
            hash: 0,
            bucket: 0,
            next: Vec::new(),
            begun: false,
        }
    }

    /// Hashes up to about `budget` bytes more; the answer when done.
    pub fn step(&mut self, budget: usize) -> Result<Option<u32>, StoreError> {
        let mut bytes = 0;
        while let Some(bucket) = Bucket::ALL.get(self.bucket).copied() {
            if !std::mem::replace(&mut self.begun, true) {
                self.hash = crc32c::crc32c_append(self.hash, bucket.name().as_bytes());
            }
            let mut rows = self.view.rows(bucket, &self.next)?;
            while let Some((row, value)) = rows.next()? {
                if bytes >= budget.max(1) {
                    self.next = row.as_ref().to_vec();
                    return Ok(None);
                }
                bytes += row.as_ref().len() + value.len();
                if !ignored(bucket, row.as_ref()) {
                    self.hash = append_row(self.hash, &row, value);
                }
            }
            (self.bucket, self.next, self.begun) = (self.bucket + 1, Vec::new(), false);
        }
        Ok(Some(self.hash))
    }
}

fn append_row(hash: u32, row: &RowName<'_>, value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(hash, row.as_ref()), value)
}

/// Rows that differ between members with the same data.
fn ignored(bucket: Bucket, row: &[u8]) -> bool {
    bucket == Bucket::Meta && [meta::CONSISTENT_INDEX, meta::TERM, meta::STORAGE_VERSION].contains(&row)
}
