//! Hashes of the key space that no gRPC call waits for: those taken at compactions, and those that members compare.

use storage::mvcc::HashKv;

use super::{Api, core::store_failure, promise::Promise, status, status::Failure};
use crate::member::{Cached, corruption::Taken};

/// Bytes hashed in one slice. Units: bytes.
pub(super) const HASH_SLICE: usize = 512 << 10;
/// Hashes under way for other members and for checks at once. More are refused.
const ASKED_MAX: usize = 16;

/// A hash that is awaited.
pub type Hash = Promise<Result<Taken, Failure>>;

/// A hash under way.
pub(super) struct Hashing {
    /// As it was asked for: 0 is the newest.
    revision: i64,
    hash: HashKv,
    for_whom: ForWhom,
}

enum ForWhom {
    /// Kept for later comparisons.
    Compaction,
    /// Somebody asked; the newest revision then.
    Asker(Hash, i64),
}

/// What one slice came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing to do now.
    Idle,
    /// More to do.
    Working,
    /// One hash is ready.
    Done,
}

impl Api {
    /// Begins the hash of a compaction, on a view from just before it.
    pub(super) fn hash_compaction(&mut self, store: &storage::mvcc::StoreView, revision: i64) {
        match store.compaction_hash(revision) {
            Ok(hash) => {
                let for_whom = ForWhom::Compaction;
                self.hashing.push_back(Hashing {
                    revision,
                    hash,
                    for_whom,
                });
                self.wake_jobs = true;
            }
            Err(error) => drop(store_failure(&error, self.setup.on_damage)),
        }
    }

    /// The hash at a revision (0: the newest), which runs in slices; a hash taken at a compaction there comes first.
    pub fn hash_at(&mut self, revision: i64) -> Hash {
        let (view, promise) = (self.view(), Hash::default());
        let asked = self
            .hashing
            .iter()
            .filter(|job| matches!(job.for_whom, ForWhom::Asker(..)));
        if asked.count() >= ASKED_MAX {
            promise.give(Err(status::TOO_MANY_REQUESTS));
            return promise;
        }
        if let Cached::Known(hash) = self.setup.hashes.find(revision) {
            promise.give(Ok(Taken {
                hash,
                newest_revision: view.revision(),
            }));
            return promise;
        }
        match view.store.hash_kv(revision) {
            Ok(hash) => {
                let for_whom = ForWhom::Asker(promise.clone(), view.revision());
                self.hashing.push_back(Hashing {
                    revision,
                    hash,
                    for_whom,
                });
                self.wake_jobs = true;
            }
            Err(error) => promise.give(Err(Failure::from_store(&error, self.setup.on_damage))),
        }
        promise
    }

    /// One slice of the oldest hash that waits for nothing.
    pub(super) fn hash_slice_of_own(&mut self) -> Progress {
        for _ in 0..self.hashing.len() {
            let Some(mut job) = self.hashing.pop_front() else { break };
            let cached = match &job.for_whom {
                ForWhom::Asker(promise, _) if promise.is_abandoned() => continue,
                ForWhom::Asker(..) => self.setup.hashes.find(job.revision),
                ForWhom::Compaction => Cached::Unknown,
            };
            let result = match cached {
                // Another shard, or a later job of this one, is at it.
                Cached::Pending => {
                    self.hashing.push_back(job);
                    continue;
                }
                Cached::Known(result) => Ok(Some(result)),
                Cached::Unknown => job.hash.step(HASH_SLICE),
            };
            match (result, &job.for_whom) {
                (Ok(None), _) => {
                    self.hashing.push_front(job);
                    return Progress::Working;
                }
                (Ok(Some(hash)), ForWhom::Compaction) => self.setup.hashes.insert(job.revision, hash),
                (Ok(Some(hash)), ForWhom::Asker(promise, newest_revision)) => promise.give(Ok(Taken {
                    hash,
                    newest_revision: *newest_revision,
                })),
                (Err(error), _) => drop(store_failure(&error, self.setup.on_damage)),
            }
            return Progress::Done;
        }
        Progress::Idle
    }
}
