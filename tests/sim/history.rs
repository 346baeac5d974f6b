//! The one history that all members must tell, and the checks against it.
//!
//! The first member that publishes a revision writes it down here; every other member, and the same one after a crash,
//! must repeat it byte for byte. What is once written is committed, so it is never taken back. Answers to clients and
//! reads are compared with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use etcore::member::{Membership, View};
use raft::ConfState;
use storage::mvcc::{Block, Interval, Kv, RangeQuery, Revision, StoreError, StoreView};

use crate::requests::IGNORING;

/// Applied entries whose members are remembered.
const MEMBERS_MAX: usize = 5000;

/// One change as published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub key: Bytes,
    pub deleted: bool,
    /// The encoded pair.
    pub encoded: Bytes,
}

impl Change {
    /// The decoded pair; a tombstone has a key only.
    pub fn kv(&self) -> Kv<'_> {
        Kv::decode(&self.encoded).expect("it was decoded when it was written down")
    }
}

/// First line of a value: which request wrote it.
pub fn writer_of(value: &[u8]) -> Option<u64> {
    let text = value.split(|byte| *byte == b'.').next()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Result of a check; the text says what is wrong.
pub type Check = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// Everything that is known to have happened.
#[derive(Default)]
pub struct History {
    /// Changes of each revision from 2 on.
    revisions: Vec<Vec<Change>>,
    /// Of each key: (revision, the pair; none: deleted).
    keys: BTreeMap<Bytes, Vec<(i64, Option<Bytes>)>>,
    /// Applied index -> (term, revision).
    applied: BTreeMap<u64, (u64, i64)>,
    /// Term -> leader.
    leaders: BTreeMap<u64, u64>,
    /// Applied index -> (configuration, members).
    members: BTreeMap<u64, (Bytes, Arc<Membership>)>,
    /// Everybody that was ever removed.
    pub removed: BTreeSet<u64>,
    /// Writer -> revision.
    written: BTreeMap<u64, i64>,
    /// Requests that were refused for good: they must not show up.
    refused: BTreeSet<u64>,
    /// (revision, compacted revision) -> hash.
    hashes: BTreeMap<(i64, i64), u32>,
    compaction_hashes: BTreeMap<i64, u32>,
    /// Highest revision that any member has compacted.
    pub compacted: i64,
}

impl History {
    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revisions.len() as i64 + 1
    }

    /// The changes of a revision.
    pub fn changes(&self, revision: i64) -> &[Change] {
        usize::try_from(revision - 2)
            .ok()
            .and_then(|at| self.revisions.get(at))
            .map_or(&[], Vec::as_slice)
    }

    /// Notes that a request was refused in a way that promises it has no effect.
    pub fn refuse(&mut self, writer: u64) -> Check {
        ensure!(
            !self.written.contains_key(&writer),
            "request {writer} was refused, but it wrote revision {}",
            self.written[&writer]
        );
        self.refused.insert(writer);
        Ok(())
    }

    /// The pair of a key as of a revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<Kv<'_>> {
        let versions = self.keys.get(key)?;
        let at = versions.partition_point(|(at, _)| *at <= revision);
        let (_, encoded) = versions.get(at.checked_sub(1)?)?;
        Some(Kv::decode(encoded.as_ref()?).expect("it was decoded when it was written down"))
    }

    /// All pairs of an interval as of a revision, encoded, in key order.
    pub fn range(&self, from: &[u8], end: &[u8], revision: i64) -> Vec<&Bytes> {
        let inside = |key: &[u8]| match end {
            b"" => key == from,
            b"\0" => key >= from,
            end => key >= from && key < end,
        };
        let keys = self.keys.range(Bytes::copy_from_slice(from)..);
        let keys = keys.take_while(|(key, _)| inside(key));
        let last = |versions: &'_ Vec<(i64, Option<Bytes>)>| {
            let at = versions.partition_point(|(at, _)| *at <= revision);
            at.checked_sub(1)
        };
        keys.filter_map(|(_, versions)| versions[last(versions)?].1.as_ref())
            .collect()
    }

    /// Takes a block that a member published behind `revision`; the revision after it.
    pub fn publish(&mut self, block: &Block, mut revision: i64) -> Result<i64, String> {
        let mut changes = block.changes().peekable();
        while let Some(first) = changes.peek().copied() {
            let main = first.revision.main;
            ensure!(
                main == revision + 1,
                "revision {main} was published behind revision {revision}"
            );
            let mut all = Vec::new();
            let mut prevs = Vec::new();
            while let Some(change) = changes.next_if(|change| change.revision.main == main) {
                ensure!(
                    change.revision.sub as usize == all.len(),
                    "sub revisions of {main} have a gap"
                );
                prevs.push(change.prev.map(|prev| prev.main));
                all.push(Change {
                    key: Bytes::copy_from_slice(change.key),
                    deleted: change.is_delete,
                    encoded: Bytes::copy_from_slice(change.encoded),
                });
            }
            if main <= self.revision() {
                let known = self.changes(main);
                ensure!(
                    known == all.as_slice(),
                    "revision {main} differs: {all:?} was {known:?} elsewhere"
                );
            } else {
                self.extend(main, all, &prevs)?;
            }
            revision = main;
        }
        ensure!(
            block.revision() == revision,
            "a block ends at revision {} but its changes at {revision}",
            block.revision()
        );
        let applied = block.applied();
        self.applied_at(applied.index, applied.term, revision)?;
        Ok(revision)
    }

    fn extend(&mut self, main: i64, changes: Vec<Change>, prevs: &[Option<i64>]) -> Check {
        ensure!(main == self.revision() + 1, "revision {main} skips some");
        for (change, prev) in changes.iter().zip(prevs) {
            let kv = Kv::decode(&change.encoded).map_err(|error| format!("revision {main}: {error}"))?;
            ensure!(kv.key == change.key, "revision {main} holds a pair of another key");
            // A key may be put and deleted within one transaction, so the state just before is the newest of all.
            let before = self.get(&change.key, main);
            ensure!(
                before.map(|kv| kv.mod_revision) == *prev,
                "revision {main}: key {:?} was last changed at {before:?}, not {prev:?}",
                change.key
            );
            if change.deleted {
                ensure!(before.is_some(), "revision {main} deletes {:?} twice", change.key);
            } else {
                let (version, create) = before.map_or((1, main), |kv| (kv.version + 1, kv.create_revision));
                ensure!(
                    kv.mod_revision == main && kv.version == version && kv.create_revision == create,
                    "revision {main}: {kv:?} should have version {version}, creation {create}"
                );
            }
            let again =
                kv.key.first() == Some(&(IGNORING as u8)) && before.is_some_and(|before| before.value == kv.value);
            if let Some(writer) = writer_of(kv.value).filter(|_| !again) {
                let earlier = self.written.insert(writer, main);
                ensure!(
                    earlier.is_none_or(|earlier| earlier == main),
                    "request {writer} was applied twice, at {earlier:?} and {main}"
                );
                ensure!(
                    !self.refused.contains(&writer),
                    "request {writer} was refused, but it wrote revision {main}"
                );
            }
            let encoded = (!change.deleted).then(|| change.encoded.clone());
            self.keys.entry(change.key.clone()).or_default().push((main, encoded));
        }
        self.revisions.push(changes);
        Ok(())
    }

    fn applied_at(&mut self, index: u64, term: u64, revision: i64) -> Check {
        let known = *self.applied.entry(index).or_insert((term, revision));
        ensure!(
            known == (term, revision),
            "entry {index}: (term, revision) is {:?}, but {known:?} elsewhere",
            (term, revision)
        );
        Ok(())
    }

    /// Checks what a view says of the cluster.
    pub fn check_view(&mut self, view: &View) -> Check {
        if view.leader != 0 {
            let known = *self.leaders.entry(view.term).or_insert(view.leader);
            ensure!(
                known == view.leader,
                "term {} has two leaders, {known} and {}",
                view.term,
                view.leader
            );
        }
        self.check_members(view)?;
        self.compacted = self.compacted.max(view.store.compact_revision());
        ensure!(
            view.committed_index >= view.applied_index,
            "entry {} is applied but not committed",
            view.applied_index
        );
        Ok(())
    }

    /// Members and configuration are the same wherever the same entries are applied.
    fn check_members(&mut self, view: &View) -> Check {
        let applied = view.store.applied();
        let found = (applied.conf_state.clone(), view.members.clone());
        self.removed.extend(&view.members.removed);
        if let Some(known) = self.members.get(&applied.index) {
            ensure!(
                known.0 == found.0 && (Arc::ptr_eq(&known.1, &found.1) || known.1 == found.1),
                "entry {}: the members are {found:?}, but {known:?} elsewhere",
                applied.index
            );
            return Ok(());
        }
        let configuration = ConfState::decode(&applied.conf_state).map_err(|error| error.to_string())?;
        let voters: BTreeSet<u64> = configuration.voters.iter().copied().collect();
        let listed: BTreeSet<u64> = view.members.voters().map(|voter| voter.id).collect();
        ensure!(
            voters == listed || applied.index == 0,
            "entry {}: {voters:x?} vote, but {listed:x?} are listed as voters",
            applied.index
        );
        self.members.insert(applied.index, found);
        while self.members.len() > MEMBERS_MAX {
            self.members.pop_first();
        }
        Ok(())
    }

    /// Compares all that a store holds at its revision with what it should.
    pub fn check_state(&self, store: &StoreView) -> Check {
        let revision = store.revision();
        ensure!(
            revision <= self.revision(),
            "a store is at revision {revision}, which nobody published"
        );
        let index = store.applied().index;
        if let Some((_, known)) = self.applied.get(&index) {
            ensure!(
                *known == revision,
                "entry {index} left revision {revision}, elsewhere {known}"
            );
        }
        self.check_range(store, b"", b"\0", revision)
    }

    /// Compares all that can be read of a store whose file may be damaged: it is right, or says that it is damaged.
    /// Whether damage was found.
    pub fn check_damaged(&self, store: &StoreView) -> Result<bool, String> {
        let query = RangeQuery {
            interval: Interval {
                key: b"",
                range_end: b"\0",
            },
            ..RangeQuery::default()
        };
        let mut cursor = store.range(&query).map_err(|error| error.to_string())?;
        for expected in self.range(b"", b"\0", store.revision()) {
            match cursor.next() {
                Err(StoreError::Base(_) | StoreError::BadRow { .. }) => return Ok(true),
                Err(error) => return Err(error.to_string()),
                Ok(item) => {
                    let found = item.map(|item| item.encoded);
                    ensure!(
                        found == Some(expected),
                        "damage went unnoticed: read {found:?} instead of {expected:?}"
                    );
                }
            }
        }
        Ok(false)
    }

    /// Reads an interval at a revision and compares.
    pub fn check_range(&self, store: &StoreView, from: &[u8], end: &[u8], revision: i64) -> Check {
        let query = RangeQuery {
            interval: Interval {
                key: from,
                range_end: end,
            },
            revision,
            ..RangeQuery::default()
        };
        let compacted = store.compact_revision();
        let mut cursor = match store.range(&query) {
            Ok(cursor) => cursor,
            Err(StoreError::Compacted { .. }) if revision < compacted => return Ok(()),
            Err(error) => return Err(format!("reading revision {revision}, compacted {compacted}: {error}")),
        };
        ensure!(
            revision >= compacted,
            "revision {revision} was read although {compacted} is compacted"
        );
        let expected = self.range(from, end, revision);
        ensure!(
            cursor.count() == expected.len() as u64,
            "revision {revision} has {} keys, should have {}",
            cursor.count(),
            expected.len()
        );
        for expected in expected {
            let found = cursor.next().map_err(|error| error.to_string())?;
            let found = found.map(|item| item.encoded);
            ensure!(
                found == Some(expected),
                "revision {revision}: read {:?}, should be {:?}",
                found.map(Kv::decode),
                Kv::decode(expected)
            );
        }
        Ok(())
    }

    /// Reads one key just before a change of a transaction.
    pub fn check_before(&self, store: &StoreView, key: &[u8], bound: Revision, expected: Option<&[u8]>) -> Check {
        let query = RangeQuery {
            interval: Interval::single(key),
            revision: bound.main,
            sub_end: Some(bound.sub),

            admitted: true,
            ..RangeQuery::default()
        };
        let mut cursor = store.range(&query).map_err(|error| error.to_string())?;
        let found = cursor.next().map_err(|error| error.to_string())?;
        let value = found.map(|item| item.kv().map(|kv| kv.value.to_vec()).unwrap_or_default());
        ensure!(
            value.as_deref() == expected,
            "a range before {bound:?} read {value:?}, should be {expected:?}"
        );
        Ok(())
    }

    /// Members must agree on `HashKV`.
    pub fn check_hash(&mut self, store: &StoreView, revision: i64) -> Check {
        let mut job = match store.hash_kv(revision) {
            Ok(job) => job,
            Err(StoreError::Compacted { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let result = loop {
            if let Some(result) = job.step(1 << 20).map_err(|error| error.to_string())? {
                break result;
            }
        };
        let key = (result.revision, result.compact_revision);
        let known = *self.hashes.entry(key).or_insert(result.hash);
        ensure!(
            known == result.hash,
            "HashKV at {key:?} is {}, elsewhere {known}",
            result.hash
        );
        Ok(())
    }

    /// Members must agree on the hash taken at a compaction; that hash.
    pub fn check_compaction_hash(
        &mut self,
        store: &StoreView,
        revision: i64,
    ) -> Result<storage::mvcc::HashKvResult, String> {
        let mut job = store.compaction_hash(revision).map_err(|error| error.to_string())?;
        let result = loop {
            if let Some(result) = job.step(1 << 20).map_err(|error| error.to_string())? {
                break result;
            }
        };
        let known = *self.compaction_hashes.entry(revision).or_insert(result.hash);
        ensure!(
            known == result.hash,
            "the hash of the compaction at {revision} is {}, elsewhere {known}",
            result.hash
        );
        Ok(result)
    }
}
