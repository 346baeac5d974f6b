//! `HashKV` and `Hash`, equal to etcd's for the same history.

use super::StoreError;

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
pub struct HashKv {}

impl HashKv {
    /// Hashes up to about `budget` bytes more; the answer when done.
    pub fn step(&mut self, budget: usize) -> Result<Option<HashKvResult>, StoreError> {
        let _ = budget;
        todo!()
    }
}

/// A `Hash` over all buckets in progress.
pub struct HashAll {}

impl HashAll {
    /// Hashes up to about `budget` bytes more; the answer when done.
    pub fn step(&mut self, budget: usize) -> Result<Option<u32>, StoreError> {
        let _ = budget;
        todo!()
    }
}
