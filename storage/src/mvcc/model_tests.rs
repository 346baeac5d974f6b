//! The store against the naive model: random transactions, commits, compactions, restarts and views of every age.
//!
//! Nodes, chains and runs are tiny under test, so that splits, merges and rounds happen all the time.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    AppliedState, CompactProgress, Interval, MemBase, RangeQuery, Revision, RowKey, Store, StoreError, StoreView,
    framed_len,
    kv::encode_keys_only,
    model::{Model, Rng, inside},
};
use crate::buckets::{Bucket, meta};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store, its model, and what has reached the "tree".
struct World {
    rng: Rng,
    store: Store,
    model: Model,
    tree: MemBase,
    leases: Rows,
    applied: u64,
    keys: u64,
    old: Vec<(StoreView, Model, Rows)>,
}

fn scale() -> u64 {
    std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|scale| scale.parse().ok())
        .unwrap_or(1)
}

fn some_key(rng: &mut Rng, keys: u64) -> Vec<u8> {
    let n = rng.below(keys);
    // Some keys are longer than a compact key holds inline.
    let name = if n.is_multiple_of(5) {
        format!("a-rather-long-prefix/of-a-key/{n:05}")
    } else {
        format!("k{n:05}")
    };
    name.into_bytes()
}

fn some_interval(rng: &mut Rng, keys: u64) -> (Vec<u8>, Vec<u8>) {
    let key = if rng.chance(20) {
        b"\0".to_vec()
    } else {
        some_key(rng, keys)
    };
    let end = match rng.below(5) {
        0 | 1 => b"".to_vec(),
        2 => b"\0".to_vec(),
        _ => some_key(rng, keys),
    };
    (key, end)
}

fn rows_of(view: &StoreView, bucket: Bucket, from: &[u8]) -> Rows {
    let mut rows = view.rows(bucket, from).unwrap();
    let mut all = Rows::new();
    while let Some((key, value)) = rows.next().unwrap() {
        let last = all.last_key_value().map(|(last, _)| last.clone());
        assert!(
            last.is_none_or(|last| last < key.as_ref().to_vec()),
            "rows out of order"
        );
        all.insert(key.as_ref().to_vec(), value.to_vec());
    }
    all
}

fn hash_of(view: &StoreView, revision: i64, slice: usize) -> u32 {
    let mut job = view.hash_kv(revision).unwrap();
    loop {
        if let Some(done) = job.step(slice).unwrap() {
            assert_eq!(done.compact_revision, view.compact_revision());
            return done.hash;
        }
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let keys = [5, 40, 300][rng.below(3) as usize];
        World {
            rng,
            store: Store::new(),
            model: Model::new(),
            tree: MemBase::default(),
            leases: Rows::new(),
            applied: 0,
            keys,
            old: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..60 => self.transaction(),
            60..66 => self.lease_row(),
            66..76 => self.seal(),
            76..86 => self.commit(),
            86..89 => self.compact(),
            89..96 => self.compact_step(),
            96 => self.restart(),
            97 => self.keep_view(),
            _ => self.look(),
        }
    }

    fn transaction(&mut self) {
        let World {
            rng,
            store,
            model,
            keys,
            ..
        } = self;
        let mut txn = store.begin();
        let main = txn.revision();
        assert_eq!(main, model.revision + 1);
        let (mut touched, mut put): (Vec<Vec<u8>>, Vec<Vec<u8>>) = Default::default();
        for _ in 0..=rng.below(4) {
            let (key, end) = some_interval(rng, *keys);
            let interval = Interval {
                key: &key,
                range_end: &end,
            };
            let at = Revision::new(main, touched.len() as u32);
            if rng.chance(25) {
                let state = model.state(i64::MAX);
                let hit: Vec<_> = state.keys().filter(|key| inside(&interval, key)).cloned().collect();
                // etcd misses some transactions that put and delete one key, so both may happen, in any order.
                if hit.len() > 20 {
                    continue;
                }
                let deleted = txn.delete_range(interval);
                assert_eq!(deleted.iter().map(|one| one.key.as_slice()).collect::<Vec<_>>(), hit);
                for (n, one) in deleted.iter().enumerate() {
                    let old = &state[one.key.as_slice()];
                    assert_eq!((one.prev.create_revision, one.prev.lease), (old.create, old.lease));
                    model.delete(Revision::new(main, at.sub + n as u32), one.key.as_slice());
                }
                touched.extend(hit);
            } else if key != b"\0" && !put.contains(&key) {
                let (value, lease) = (vec![b'v'; rng.below(40) as usize], rng.below(3) as i64);
                let prev = txn.put(&key, &value, lease).prev;
                let now = model.state(i64::MAX);
                let old = now.get(&key);
                assert_eq!(prev.map(|prev| prev.mod_revision.main), old.map(|old| old.modified));
                assert_eq!(prev.map(|prev| prev.version), old.map(|old| old.version));
                model.put(at, &key, &value, lease);
                touched.push(key.clone());
                put.push(key);
            }
            let (key, end) = some_interval(rng, *keys);
            let interval = Interval {
                key: &key,
                range_end: &end,
            };
            let now = model.state(i64::MAX);
            let seen: Vec<_> = txn
                .range(interval)
                .map(|(key, info)| (key.to_vec(), info.version))
                .collect();
            let wanted: Vec<_> = now.iter().filter(|(key, _)| inside(&interval, key)).collect();
            assert_eq!(
                seen,
                wanted
                    .iter()
                    .map(|(key, pair)| ((*key).clone(), pair.version))
                    .collect::<Vec<_>>()
            );
            assert_eq!(txn.count(interval), wanted.len() as u64);
            assert_eq!(
                txn.kv(&key).unwrap().map(<[u8]>::to_vec),
                now.get(&key).map(|pair| pair.encoded(&key))
            );
        }
        assert_eq!(txn.changed(), !touched.is_empty());
        model.revision += i64::from(!touched.is_empty());
        assert_eq!(txn.end(), model.revision);
        assert_eq!(store.revision(), model.revision);
    }

    fn lease_row(&mut self) {
        let row = self.rng.below(20).to_be_bytes();
        if self.rng.chance(60) {
            let value = vec![7; self.rng.below(30) as usize];
            self.store.bucket_put(Bucket::Lease, &row, &value);
            self.leases.insert(row.to_vec(), value);
        } else {
            self.store.bucket_delete(Bucket::Lease, &row);
            self.leases.remove(&row[..]);
        }
        let stored = self.store.bucket_get(Bucket::Lease, &row).unwrap();
        assert_eq!(stored, self.leases.get(&row[..]).map(Vec::as_slice));
    }

    fn seal(&mut self) {
        self.applied += 1;
        let first = self.store.view_revision_for_test();
        let applied = AppliedState {
            index: self.applied,
            term: 1,
            conf_state: Default::default(),
        };
        let block = self.store.seal_block(applied);
        assert_eq!(block.revision(), self.model.revision);
        let wanted: Vec<_> = self
            .model
            .log
            .iter()
            .filter(|change| change.revision.main > first)
            .collect();
        assert_eq!(block.changes().len(), wanted.len());
        for (change, wanted) in block.changes().zip(wanted) {
            assert_eq!((change.revision, change.key), (wanted.revision, &wanted.key[..]));
            assert_eq!(
                (change.is_delete, change.encoded),
                (wanted.pair.is_none(), &wanted.encoded()[..])
            );
            assert_eq!(&block.encoded(&change)[..], change.encoded);
            let mut earlier = self
                .model
                .log
                .iter()
                .rev()
                .skip_while(|one| one.revision >= change.revision);
            let prev = earlier
                .find(|one| one.key == change.key)
                .filter(|one| one.pair.is_some());
            assert_eq!(change.prev, prev.map(|one| one.revision));
        }
    }

    fn view(&mut self) -> StoreView {
        self.seal();
        self.store.view()
    }

    fn commit(&mut self) {
        let budget = [1, 300, 1 << 20][self.rng.below(3) as usize];
        let persisted = self.applied.saturating_sub(self.rng.below(3));
        let Some(batch) = self.store.take_commit(budget, persisted) else {
            return;
        };
        assert!(batch.applied().index <= persisted);
        let buffered = self.store.buffered_bytes();
        for op in batch.ops() {
            self.tree.apply(op.bucket, op.key.as_slice(), op.value.as_deref());
        }
        self.store.on_committed(Arc::new(self.tree.clone()), &batch);
        assert_eq!(self.store.buffered_bytes(), buffered - batch.bytes());
    }

    fn compact(&mut self) {
        let revision = self.rng.below(self.model.revision as u64 + 3) as i64;
        match self.store.compact(revision) {
            Ok(()) => {
                assert!(revision > self.model.compacted && revision <= self.model.revision);
                self.model.compacted = revision;
            }
            Err(StoreError::Compacted { compacted, .. }) => assert!(revision <= compacted),
            Err(StoreError::FutureRevision { current, .. }) => assert!(revision > current),
            Err(error) => panic!("{error}"),
        }
    }

    fn compact_step(&mut self) {
        let budget = 1 + self.rng.below(30) as usize;
        let progress = self.store.compact_step(budget, true);
        if progress == CompactProgress::Idle && self.model.compacted >= 0 {
            let mark = RowKey::new(Revision::new(self.model.compacted, 0), false);
            let view = self.view();
            let finished = view.bucket_get(Bucket::Meta, meta::FINISHED_COMPACT).unwrap();
            assert_eq!(finished, Some(mark.as_slice()), "idle before all is removed");
        }
        if let CompactProgress::Done(revision) = progress {
            assert_eq!(revision, self.model.compacted);
            let view = self.view();
            assert_eq!(rows_of(&view, Bucket::Key, b""), self.model.rows());
            let mark = RowKey::new(Revision::new(revision, 0), false);
            assert_eq!(
                view.bucket_get(Bucket::Meta, meta::FINISHED_COMPACT).unwrap(),
                Some(mark.as_slice())
            );
            let (stats, rows) = (self.store.stats(), self.model.rows());
            assert_eq!(stats.revisions, rows.len() as u64);
            assert_eq!(
                stats.bytes,
                rows.iter()
                    .map(|(row, value)| (row.len() + value.len()) as u64)
                    .sum::<u64>()
            );
        }
    }

    /// A stop after a last commit, and a start from the tree.
    fn restart(&mut self) {
        self.seal();
        let before = self.store.stats();
        while let Some(batch) = self.store.take_commit(1000, u64::MAX) {
            for op in batch.ops() {
                self.tree.apply(op.bucket, op.key.as_slice(), op.value.as_deref());
            }
            self.store.on_committed(Arc::new(self.tree.clone()), &batch);
        }
        let applied = AppliedState {
            index: self.applied,
            ..AppliedState::default()
        };
        self.store = Store::restore(Arc::new(self.tree.clone()), applied).unwrap();
        let after = self.store.stats();
        assert_eq!(after.live_keys, before.live_keys);
        assert_eq!(
            (after.revisions, after.bytes, after.buffered_bytes),
            (before.revisions, before.bytes, 0)
        );
        assert_eq!(self.store.revision(), self.model.revision);
        assert_eq!(self.store.compact_revision(), self.model.compacted);
        let leased: Vec<_> = self
            .store
            .leased_keys()
            .map(|(key, lease)| (key.to_vec(), lease))
            .collect();
        let state = self.model.state(i64::MAX).into_iter();
        let wanted: Vec<_> = state
            .map(|(key, pair)| (key, pair.lease))
            .filter(|(_, lease)| *lease != 0)
            .collect();
        assert_eq!(leased, wanted);
    }

    fn keep_view(&mut self) {
        let view = self.view();
        self.old.push((view, self.model.clone(), self.leases.clone()));
    }

    fn look(&mut self) {
        let view = self.view();
        let (model, leases) = (self.model.clone(), self.leases.clone());
        self.check_view(&view, &model, &leases);
        if !self.old.is_empty() {
            let at = self.rng.below(self.old.len() as u64) as usize;
            let (view, model, leases) = self.old[at].clone();
            self.check_view(&view, &model, &leases);
        }
    }

    fn check_view(&mut self, view: &StoreView, model: &Model, leases: &Rows) {
        view.index.check();
        assert_eq!(
            (view.revision(), view.compact_revision()),
            (model.revision, model.compacted)
        );
        assert_eq!(&rows_of(view, Bucket::Lease, b""), leases);
        let from = self.rng.below(20).to_be_bytes();
        let wanted: Rows = leases
            .range(from.to_vec()..)
            .map(|(row, value)| (row.clone(), value.clone()))
            .collect();
        assert_eq!(rows_of(view, Bucket::Lease, &from), wanted);
        for _ in 0..5 {
            self.check_range(view, model);
        }
        self.check_moment(view, model);
        self.check_history(view, model);
        self.check_hash(view, model);
    }

    fn check_range(&mut self, view: &StoreView, model: &Model) {
        let (key, end) = some_interval(&mut self.rng, self.keys);
        let interval = Interval {
            key: &key,
            range_end: &end,
        };
        let revision = self.rng.below(model.revision as u64 + 2) as i64;
        let limit = self.rng.below(6) as i64;
        let count_only = self.rng.chance(10);
        let query = RangeQuery {
            interval,
            revision,
            limit,
            count_only,
            after: None,
            ..RangeQuery::default()
        };
        let cursor = match view.range(&query) {
            Ok(cursor) => cursor,
            Err(StoreError::Compacted { .. }) => return assert!(revision > 0 && revision < model.compacted),
            Err(StoreError::FutureRevision { .. }) => return assert!(revision > model.revision),
            Err(error) => panic!("{error}"),
        };
        let at = if revision == 0 { model.revision } else { revision };
        let all: Vec<_> = model
            .state(at)
            .into_iter()
            .filter(|(key, _)| inside(&interval, key))
            .collect();
        let returned = if count_only {
            0
        } else if limit == 0 {
            all.len()
        } else {
            all.len().min(limit as usize)
        };
        for keys_only in [false, true] {
            let size = cursor.measure(keys_only).unwrap();
            assert_eq!((size.count, size.returned), (all.len() as u64, returned as u64));
            let lens = all[..returned].iter().map(|(key, pair)| {
                let mut encoded = pair.encoded(key);
                if keys_only {
                    let full = std::mem::take(&mut encoded);
                    encode_keys_only(&full, &mut encoded).unwrap();
                }
                encoded.len()
            });
            assert_eq!(size.kv_bytes, lens.clone().sum::<usize>() as u64);
            assert_eq!(size.framed_bytes, lens.map(framed_len).sum::<usize>() as u64);
        }
        assert_eq!(view.count(interval, revision).unwrap(), all.len() as u64);
        self.check_items(view, query, cursor, &all[..returned]);
        let wanted = model.state(at).get(&key).map(|pair| pair.encoded(&key));
        assert_eq!(view.kv_at(&key, at).unwrap().map(<[u8]>::to_vec), wanted);
    }

    /// A range as some transaction saw it between two of its changes.
    fn check_moment(&mut self, view: &StoreView, model: &Model) {
        let main = view.removed_revision().max(1) + 1 + self.rng.below(model.revision as u64 + 1) as i64;
        let (main, sub_end) = (main.min(model.revision + 1), self.rng.below(4) as u32);
        if main > model.revision && sub_end > 0 {
            return;
        }
        let mut then = model.clone();
        then.log.retain(|change| change.revision < Revision::new(main, sub_end));
        let interval = Interval::all();
        let query = RangeQuery {
            interval,
            revision: main,
            sub_end: Some(sub_end),
            ..RangeQuery::default()
        };
        let mut cursor = view.range(&query).unwrap();
        let wanted = then.state(i64::MAX);
        assert_eq!(cursor.measure(false).unwrap().count, wanted.len() as u64);
        for (key, pair) in wanted {
            assert_eq!(
                cursor.next().unwrap().map(|item| item.encoded.to_vec()),
                Some(pair.encoded(&key))
            );
        }
        assert!(cursor.next().unwrap().is_none());
    }

    /// Reads a range, sometimes in two turns.
    fn check_items<'v>(
        &mut self,
        view: &'v StoreView,
        query: RangeQuery<'v>,
        mut cursor: super::RangeCursor<'v>,
        wanted: &'v [(Vec<u8>, super::model::Pair)],
    ) {
        let pause = self.rng.below(8) as usize;
        let mut second = None;
        for (n, (key, pair)) in wanted.iter().enumerate() {
            if n == pause && n > 0 {
                let (revision, after) = (cursor.revision(), Some(&wanted[n - 1].0[..]));
                let limit = if query.limit == 0 { 0 } else { query.limit - n as i64 };
                second = Some(
                    view.range(&RangeQuery {
                        revision,
                        after,
                        limit,
                        ..query
                    })
                    .unwrap(),
                );
            }
            let item = second
                .as_mut()
                .unwrap_or(&mut cursor)
                .next()
                .unwrap()
                .expect("one more key");
            assert_eq!((item.key, item.revision.main), (&key[..], pair.modified));
            assert_eq!(item.encoded, pair.encoded(key));
            assert_eq!(item.kv().unwrap().value, pair.value);
        }
        assert!(second.as_mut().unwrap_or(&mut cursor).next().unwrap().is_none());
    }

    fn check_history(&mut self, view: &StoreView, model: &Model) {
        let from = self.rng.below(model.revision as u64 + 2) as i64;
        let (max_items, max_bytes) = (1 + self.rng.below(30) as usize, 1 + self.rng.below(900) as usize);
        let mut next = from;
        let mut seen = Vec::new();
        while next <= view.revision() {
            let mut items = Vec::new();
            next = match view.history(next, max_items, max_bytes, &mut items) {
                Ok(next) => next,
                Err(StoreError::Compacted { .. }) => return assert!(from < model.compacted),
                Err(error) => panic!("{error}"),
            };
            assert!(
                items.iter().all(|item| item.revision.main < next),
                "a main revision was split"
            );
            seen.extend(
                items
                    .iter()
                    .map(|item| (item.revision, item.is_delete, item.encoded.to_vec())),
            );
        }
        let beyond = |revision: Revision| revision.main > model.compacted;
        let wanted = model
            .log
            .iter()
            .filter(|change| change.revision.main >= from && beyond(change.revision));
        let wanted: Vec<_> = wanted
            .map(|change| (change.revision, change.pair.is_none(), change.encoded()))
            .collect();
        seen.retain(|(revision, ..)| beyond(*revision));
        assert_eq!(seen, wanted);
    }

    fn check_hash(&mut self, view: &StoreView, model: &Model) {
        let revision = model.compacted.max(1) + self.rng.below(model.revision as u64) as i64;
        let revision = revision.min(model.revision);
        let slice = 1 + self.rng.below(500) as usize;
        let hash = hash_of(view, revision, slice);
        let done = model.hash_kv(revision, &model.rows());
        assert_eq!(hash, done, "whatever compaction has got to");
    }
}

#[test]
fn it_answers_as_a_naive_list_of_revisions_does() {
    for seed in 1..=60 * scale() {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..400 {
                world.step();
            }
        });
        assert!(result.is_ok(), "seed {seed}");
    }
}
