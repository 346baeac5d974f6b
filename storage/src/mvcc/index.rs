//! The index: user key -> its revisions.
//!
//! A tombstone ends a generation of a key, so generations need no structure of their own: the state of a key at a
//! revision is its last change at or below it, and that is "missing" when it is a tombstone. What a put has to know of
//! the newest generation (creation, version, lease) stands beside the newest revision.

use raft::mutant;

use super::{
    chain::{Chain, Rev},
    key::Key,
    pmap::{Item, Iter, PMap},
    range::Interval,
    revision::Revision,
};

/// The newest put of an existing key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyInfo {
    /// Its last change.
    pub mod_revision: Revision,
    /// Main revision of the put that created it.
    pub create_revision: i64,
    /// Puts since creation.
    pub version: i64,
    /// Its lease, 0 for none.
    pub lease: i64,
    /// Length of its encoded `mvccpb.KeyValue`.
    pub encoded_len: u32,
}

/// Everything known of one key, in 72 bytes.
#[derive(Clone)]
pub struct Entry {
    key: Key,
    head: Rev,
    create_revision: i64,
    version: i64,
    lease: i64,
    older: Chain,
}

/// A point in the order of changes: behind those of `main` whose sub is below `sub_end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    pub main: i64,
    pub sub_end: u32,
}

impl Moment {
    /// Behind every change.
    pub const END: Moment = Moment::after(i64::MAX);

    /// Behind every change of `main`.
    pub const fn after(main: i64) -> Moment {
        Moment {
            main,
            sub_end: u32::MAX,
        }
    }

    /// The first revision behind it.
    const fn end(self) -> Revision {
        Revision::new(self.main, self.sub_end)
    }

    fn sees(self, rev: Rev) -> bool {
        rev.revision() < self.end()
    }
}

/// A key as a range at some revision finds it.
#[derive(Clone, Copy)]
pub struct Found<'m> {
    pub key: &'m [u8],
    pub rev: Rev,
    /// All about it, when the revision found is the newest.
    pub head: Option<KeyInfo>,
}

impl Item for Entry {
    fn key(&self) -> &Key {
        &self.key
    }

    fn weight(&self) -> u64 {
        u64::from(!self.head.is_tombstone())
    }
}

impl Entry {
    fn info(&self) -> Option<KeyInfo> {
        (!self.head.is_tombstone()).then_some(KeyInfo {
            mod_revision: self.head.revision(),
            create_revision: self.create_revision,
            version: self.version,
            lease: self.lease,
            encoded_len: self.head.len,
        })
    }

    fn at(&self, moment: Moment) -> Option<Found<'_>> {
        let newest = moment.sees(self.head);
        let rev = if newest {
            self.head
        } else {
            self.older.last_before(moment.end())?
        };
        let head = if newest { self.info() } else { None };
        (!rev.is_tombstone()).then_some(Found {
            key: self.key.as_slice(),
            rev,
            head,
        })
    }

    fn has(&self, revision: Revision) -> bool {
        let behind = Revision::new(revision.main, revision.sub + 1);
        let older = || self.older.last_before(behind).map(|rev| rev.revision());
        self.head.revision() == revision || older() == Some(revision)
    }

    fn replace_head(&mut self, head: Rev) {
        assert!(head.revision() > self.head.revision(), "revisions of a key ascend");
        self.older.push(std::mem::replace(&mut self.head, head));
    }

    /// First revision that a compaction at `main` keeps of the older ones, and whether the head stays.
    ///
    /// Kept is the last change at or below `main`, unless it is a tombstone below `main`. A tombstone exactly there
    /// stays, with what its transaction did to the key behind it: a range end of one zero byte lets a transaction
    /// delete a key and put it. Source: etcd keyIndex.compact since 3.5.16; its checkIntervals.
    fn cut(&self, main: i64) -> (Revision, bool) {
        let end = Moment::after(main).end();
        let head_is_last = self.head.revision() < end;
        let last = if head_is_last {
            Some(self.head)
        } else {
            self.older.last_before(end)
        };
        let Some(last) = last else {
            return (Revision::default(), true);
        };
        let spared = main + i64::from(mutant::on("tombstone_at_the_compaction_dropped"));
        if last.is_tombstone() && last.main < spared && !mutant::on("tombstones_never_compacted") {
            let Revision { main, sub } = last.revision();
            return (Revision::new(main, sub + 1), !head_is_last);
        }
        let (mut kept, mut at) = (last, last);
        while at.main == main {
            match self.older.last_before(at.revision()) {
                Some(before) if before.main == main => at = before,
                _ => break,
            }
            if at.is_tombstone() {
                kept = at;
            }
        }
        let Revision { main, sub } = kept.revision();
        (
            Revision::new(main, sub + u32::from(mutant::on("compaction_drops_the_kept"))),
            true,
        )
    }

    fn needs_compaction(&self, main: i64) -> bool {
        let (cut, stays) = self.cut(main);
        !stays || self.older.first().is_some_and(|first| first.revision() < cut)
    }
}

/// A walk over the keys of an interval as they were at some revision.
pub enum FoundIter<'m> {
    One(Option<Found<'m>>),
    Many {
        entries: Iter<'m, Entry>,
        interval: Interval<'m>,
        moment: Moment,
        after: Option<&'m [u8]>,
    },
}

impl<'m> Iterator for FoundIter<'m> {
    type Item = Found<'m>;

    fn next(&mut self) -> Option<Found<'m>> {
        let (entries, interval, moment, after) = match self {
            FoundIter::One(found) => return found.take(),
            FoundIter::Many {
                entries,
                interval,
                moment,
                after,
            } => (entries, interval, *moment, after),
        };
        loop {
            let entry = entries.next()?;
            let key = entry.key.as_slice();
            if interval.is_beyond(key) {
                *entries = Iter::default();
                return None;
            }
            if after.take_if(|after| key <= *after).is_some() {
                continue;
            }
            if let Some(found) = entry.at(moment) {
                return Some(found);
            }
        }
    }
}

/// User keys and their revisions; a clone is a picture of it.
#[derive(Clone, Default)]
pub struct Index {
    map: PMap<Entry>,
}

impl Index {
    /// Keys that exist now.
    pub fn live_keys(&self) -> u64 {
        self.map.weight()
    }

    /// Keys with any revision.
    pub fn len(&self) -> u64 {
        self.map.len()
    }

    /// Puts `key` at `at`. `encode` gets the create revision and the version and answers the encoded length.
    pub fn put(
        &mut self,
        key: &[u8],
        at: Revision,
        lease: i64,
        encode: impl FnOnce(i64, i64) -> u32,
    ) -> Option<KeyInfo> {
        self.map.upsert(key, |entry| {
            let prev = entry.as_ref().and_then(|entry| entry.info());
            let (create_revision, version) = prev.map_or((at.main, 1), |prev| (prev.create_revision, prev.version + 1));
            let head = Rev::new(at, false, encode(create_revision, version));
            match entry {
                Some(entry) => {
                    entry.replace_head(head);
                    (entry.create_revision, entry.version, entry.lease) = (create_revision, version, lease);
                    (None, prev)
                }
                None => {
                    let older = Chain::default();
                    (
                        Some(Entry {
                            key: Key::new(key),
                            head,
                            create_revision,
                            version,
                            lease,
                            older,
                        }),
                        prev,
                    )
                }
            }
        })
    }

    /// Deletes `key` at `at` if it exists; `len` is the encoded length of its tombstone.
    pub fn tombstone(&mut self, key: &[u8], at: Revision, len: u32) -> Option<KeyInfo> {
        self.get_head(key)?;
        self.map.upsert(key, |entry| {
            let entry = entry.expect("the key was just found");
            let prev = entry.info();
            entry.replace_head(Rev::new(at, true, len));
            (entry.create_revision, entry.version, entry.lease) = (0, 0, 0);
            (None, prev)
        })
    }

    /// Takes over a stored revision; they come in ascending order. `stored` is nothing for a tombstone, else
    /// (create revision, version, lease).
    pub fn restore(&mut self, key: &[u8], at: Revision, len: u32, stored: Option<(i64, i64, i64)>) {
        let head = Rev::new(at, stored.is_none(), len);
        let (create_revision, version, lease) = stored.unwrap_or_default();
        self.map.upsert(key, |entry| match entry {
            Some(entry) => {
                entry.replace_head(head);
                (entry.create_revision, entry.version, entry.lease) = (create_revision, version, lease);
                (None, ())
            }
            None => {
                let older = Chain::default();
                (
                    Some(Entry {
                        key: Key::new(key),
                        head,
                        create_revision,
                        version,
                        lease,
                        older,
                    }),
                    (),
                )
            }
        })
    }

    /// The key now.
    pub fn get_head(&self, key: &[u8]) -> Option<KeyInfo> {
        self.map.get(key)?.info()
    }

    /// The key at a moment.
    pub fn get(&self, key: &[u8], moment: Moment) -> Option<Found<'_>> {
        self.map.get(key)?.at(moment)
    }

    /// The keys of an interval that exist at a moment, in order, from behind `after` if given.
    pub fn range<'m>(&'m self, interval: Interval<'m>, moment: Moment, after: Option<&'m [u8]>) -> FoundIter<'m> {
        if interval.range_end.is_empty() {
            let found = if after.is_some() {
                None
            } else {
                self.get(interval.key, moment)
            };
            return FoundIter::One(found);
        }
        let from = after.map_or(interval.key, |after| after.max(interval.key));
        FoundIter::Many {
            entries: self.map.iter_from(from),
            interval,
            moment,
            after,
        }
    }

    /// Number of keys of an interval that exist now. O(log n).
    pub fn count_now(&self, interval: Interval<'_>) -> u64 {
        let end = match interval.range_end {
            b"" => return u64::from(self.get_head(interval.key).is_some()),
            b"\0" => self.map.weight(),
            end => self.map.rank(end),
        };
        end.saturating_sub(self.map.rank(interval.key))
    }

    /// Whether a key was deleted at exactly `main` and that is its last change at or below it. Walks the keys.
    pub fn has_tombstone_at(&self, main: i64) -> bool {
        self.map.iter_from(b"").any(|entry| {
            let last = if entry.head.main <= main {
                Some(entry.head)
            } else {
                entry.older.last_before(Moment::after(main).end())
            };
            last.is_some_and(|rev| rev.main == main && rev.is_tombstone())
        })
    }

    /// Every key that exists now and has a lease.
    pub fn leased(&self) -> impl Iterator<Item = (&[u8], i64)> {
        self.leases_from(b"").filter(|(_, lease)| *lease != 0)
    }

    /// Every key from `from` on, with its lease; 0 for none.
    pub fn leases_from<'m>(&'m self, from: &[u8]) -> impl Iterator<Item = (&'m [u8], i64)> + use<'m> {
        let entries = self.map.iter_from(from);
        entries.map(|entry| (entry.key.as_slice(), entry.lease))
    }

    /// Whether a compaction at `main` leaves this revision of the key.
    pub fn survives(&self, key: &[u8], revision: Revision, main: i64) -> bool {
        self.map
            .get(key)
            .is_some_and(|entry| entry.has(revision) && revision >= entry.cut(main).0)
    }

    /// Compacts the leaf that holds `from` at `main`, dropping at most about `max` revisions; each goes to `dropped`.
    /// Returns where to go on, nothing at the end, and the number of entries seen.
    pub fn compact_leaf(
        &mut self,
        main: i64,
        from: &Key,
        max: usize,
        mut dropped: impl FnMut(Rev),
    ) -> (Option<Key>, usize) {
        let mut left = max.max(1);
        let mut unfinished = false;
        let (next, seen) = self.map.retain_leaf(
            from.as_slice(),
            |entry| entry.needs_compaction(main),
            |entry| {
                let (cut, stays) = entry.cut(main);
                let mut count = 0;
                let trimmed = entry.older.trim(cut, left, &mut |rev| {
                    count += 1;
                    dropped(rev);
                });
                left -= count;
                unfinished |= !trimmed;
                let stays = stays || !trimmed;
                if !stays {
                    dropped(entry.head);
                }
                stays
            },
        );
        if unfinished {
            (Some(from.clone()), seen)
        } else {
            (next, seen)
        }
    }

    #[cfg(test)]
    pub fn check(&self) {
        self.map.check();
    }
}
