//! What members publish and store, checked against the one history that all of them must tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Deref, DerefMut},
    sync::Arc,
};

use bytes::Bytes;
use etcore::member::{Membership, View};
use raft::ConfState;
use storage::mvcc::{Block, Interval, Kv, RangeQuery, Revision, StoreError, StoreView};

use crate::checker::history::History as Told;
pub(crate) use crate::checker::history::{Change, Check, ensure};

/// Applied entries whose members are remembered.
const MEMBERS_MAX: usize = 5000;

/// Everything that is known to have happened.
#[derive(Default)]
pub struct History {
    told: Told,
    /// Applied index -> (term, revision).
    applied: BTreeMap<u64, (u64, i64)>,
    /// Term -> leader.
    leaders: BTreeMap<u64, u64>,
    /// Applied index -> (configuration, members).
    members: BTreeMap<u64, (Bytes, Arc<Membership>)>,
    /// Everybody that was ever removed.
    pub removed: BTreeSet<u64>,
    /// (revision, compacted revision) -> hash.
    hashes: BTreeMap<(i64, i64), u32>,
    compaction_hashes: BTreeMap<i64, u32>,
}

impl Deref for History {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.told
    }
}

impl DerefMut for History {
    fn deref_mut(&mut self) -> &mut Told {
        &mut self.told
    }
}

impl History {
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
            self.tell(main, all, &prevs)?;
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
