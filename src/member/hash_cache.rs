//! Hashes of the key space taken when it is compacted, so that members can compare them later.
//!
//! Source: hash table, "HashKV cache" and "compaction hash" (the 10 newest are kept and answered without a new scan).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use storage::mvcc::HashKvResult;

/// Hashes kept. Source: limits table, hash cache.
const KEPT: usize = 10;

/// What is known of the hash at a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cached {
    /// No compaction there, or long ago.
    Unknown,
    /// It is being taken.
    Pending,
    /// Here it is.
    Known(HashKvResult),
}

/// The hashes, shared by all executors.
#[derive(Clone, Debug, Default)]
pub struct HashCache(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    known: VecDeque<(i64, HashKvResult)>,
    pending: BTreeSet<i64>,
}

impl HashCache {
    /// A hash at this revision will come.
    pub fn expect(&self, revision: i64) {
        self.lock().pending.insert(revision);
    }

    /// A hash has been taken.
    pub fn insert(&self, revision: i64, result: HashKvResult) {
        let mut inner = self.lock();
        inner.pending.remove(&revision);
        inner.known.push_back((revision, result));
        if inner.known.len() > KEPT {
            inner.known.pop_front();
        }
    }

    /// What is known of the hash at a revision.
    pub fn find(&self, revision: i64) -> Cached {
        let inner = self.lock();
        if inner.pending.contains(&revision) {
            return Cached::Pending;
        }
        let known = inner.known.iter().find(|(at, _)| *at == revision);
        known.map_or(Cached::Unknown, |(_, result)| Cached::Known(*result))
    }

    /// The hashes taken above a revision, newest first.
    pub fn above(&self, revision: i64) -> Vec<HashKvResult> {
        let inner = self.lock();
        let known = inner.known.iter().rev().filter(|(at, _)| *at > revision);
        known.map(|(_, result)| *result).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while the cache is locked")
    }
}
