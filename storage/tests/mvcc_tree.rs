//! The store over the real B+tree on a disk that loses and tears: after each crash the store is one that was committed.

use std::collections::BTreeMap;

use storage::{
    buckets::Bucket,
    io::{Disk, SimDisk, sim::Rng},
    mvcc::{
        AppliedState, CommitBatch, CommitOps, CompactProgress, HashKvResult, Interval, Pin, RangeQuery, Store,
        StoreError,
    },
    tree::{MetaUser, Progress, Tree, TreeOptions},
};

fn scale() -> u64 {
    std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|scale| scale.parse().ok())
        .unwrap_or(1)
}

fn options() -> TreeOptions {
    TreeOptions {
        page_size: 512,
        growth_step_bytes: 8192,
        reserve_address_bytes: 64 << 20,
        ..TreeOptions::default()
    }
}

/// What a member would answer at one applied index.
#[derive(Clone, PartialEq, Debug)]
struct Answer {
    revision: i64,
    compacted: i64,
    count: u64,
    hash: HashKvResult,
    leases: Vec<u8>,
}

fn answer(store: &Store) -> Answer {
    let view = store.view();
    let mut leases = Vec::new();
    let mut rows = view.rows(Bucket::Lease, b"").unwrap();
    while let Some((key, value)) = rows.next().unwrap() {
        leases.extend_from_slice(key.as_ref());
        leases.extend_from_slice(value);
    }
    Answer {
        revision: view.revision(),
        compacted: view.compact_revision(),
        count: view.count(Interval::all(), 0).unwrap(),
        hash: view.hash_kv(0).unwrap().step(usize::MAX).unwrap().unwrap(),
        leases,
    }
}

/// A member's storage without the member.
struct Node {
    rng: Rng,
    disk: SimDisk,
    tree: Tree,
    store: Store,
    applied: u64,
    /// The answers at every applied index since the last one known durable.
    answers: BTreeMap<u64, Answer>,
    durable: u64,
    committing: Option<(CommitBatch, CommitOps)>,
    sealed: bool,
}

impl Node {
    fn open(seed: u64, mut disk: SimDisk) -> Node {
        let tree = Tree::open(&mut disk, options()).expect("the tree opens");
        let root = tree.root();
        let applied = root.user().applied_index;
        let state = AppliedState {
            index: applied,
            term: root.user().applied_term,
            ..AppliedState::default()
        };
        let store = Store::restore(root, state).expect("the store restores");
        let mut answers = BTreeMap::new();
        answers.insert(applied, answer(&store));
        Node {
            rng: Rng::new(seed),
            disk,
            tree,
            store,
            applied,
            answers,
            durable: applied,
            committing: None,
            sealed: false,
        }
    }

    fn apply(&mut self) {
        for _ in 0..=self.rng.below(5) {
            let key = format!("k{:02}", self.rng.below(50)).into_bytes();
            match self.rng.below(10) {
                0..6 => {
                    let value = vec![self.applied as u8; self.rng.below(700) as usize];
                    let mut txn = self.store.begin();
                    txn.put(&key, &value, 0);
                    txn.end();
                }
                6 | 7 => {
                    let mut txn = self.store.begin();
                    txn.delete_range(Interval::single(&key));
                    txn.end();
                }
                8 => self.store.bucket_put(Bucket::Lease, &key, &self.applied.to_be_bytes()),
                _ => {
                    let at = self.store.revision() - self.rng.below(20) as i64;
                    let _ = self.store.compact(at);
                }
            }
        }
        while self.rng.below(3) > 0 && self.store.compact_step(5, false) == CompactProgress::Working {}
        self.applied += 1;
        self.store.seal_block(AppliedState {
            index: self.applied,
            term: 1,
            ..AppliedState::default()
        });
        self.answers.insert(self.applied, answer(&self.store));
    }

    /// A bounded piece of a commit: begin, some rows, or a step of the tree.
    fn commit_step(&mut self) {
        let Some((_, ops)) = &mut self.committing else {
            let Some(batch) = self.store.take_commit(2000, self.applied) else {
                return;
            };
            let AppliedState {
                index,
                term,
                conf_state,
            } = batch.applied().clone();
            let user = MetaUser {
                applied_index: index,
                applied_term: term,
                conf_state,
                ..MetaUser::default()
            };
            self.tree.begin(user).expect("begun");
            let ops = batch.ops();
            self.committing = Some((batch, ops));
            return;
        };
        let mut rows = 0;
        for op in ops.by_ref().take(7) {
            rows += 1;
            match op.value {
                Some(value) => self.tree.put(op.bucket.id(), op.key.as_slice(), value).expect("put"),
                None => drop(self.tree.delete(op.bucket.id(), op.key.as_slice()).expect("deleted")),
            }
        }
        if rows > 0 {
            return;
        }
        if !std::mem::replace(&mut self.sealed, true) {
            return self.tree.seal();
        }
        let progress = self.tree.step(&mut self.disk, 2).expect("stepped");
        let mut completions = Vec::new();
        self.disk.poll(&mut completions);
        for completion in completions {
            self.tree.on_completion(completion).expect("a good disk");
        }
        if let Progress::Done(root) = progress {
            self.sealed = false;
            let (batch, _) = self.committing.take().expect("a commit is open");
            self.durable = batch.applied().index;
            self.store.on_committed(root, &batch);
            assert_eq!(
                &answer(&self.store),
                self.answers.last_entry().expect("there is one").get()
            );
        }
    }
}

#[test]
fn after_any_crash_the_store_is_one_that_was_sealed_and_not_older_than_the_last_durable_one() {
    for seed in 1..=150 * scale() {
        println!("seed {seed}");
        let mut node = Node::open(seed, SimDisk::new());
        for life in 0..6 {
            for _ in 0..60 + node.rng.below(60) {
                if node.rng.below(3) == 0 {
                    node.apply();
                } else {
                    node.commit_step();
                }
            }
            let image = node.disk.crash_image(seed * 100 + life);
            let next = Node::open(seed * 1000 + life, image);
            let index = next.applied;
            assert!(
                index >= node.durable,
                "seed {seed}: durable up to {}, restored {index}",
                node.durable
            );
            let before = node.answers.get(&index).expect("an index at which a block was sealed");
            let mut after = next.answers[&index].clone();
            // A hash before any key exists depends on what compaction has removed; all others must not.
            if before.count == 0 {
                after.hash = before.hash;
            }
            assert_eq!(&after, before, "seed {seed}, life {life}");
            node = next;
        }
    }
}

fn filled(keys: u32) -> Store {
    let mut store = Store::new();
    for n in 0..3 * keys {
        let mut txn = store.begin();
        txn.put(format!("k{:05}", n % keys).as_bytes(), b"value", 0);
        txn.end();
    }
    store.seal_block(AppliedState::default());
    store
}

fn compact_all(store: &mut Store, wait_for_pins: bool) -> CompactProgress {
    loop {
        let progress = store.compact_step(10_000, wait_for_pins);
        store.seal_block(AppliedState::default());
        if progress != CompactProgress::Working {
            return progress;
        }
    }
}

fn turn(store: &Store, revision: i64, after: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let view = store.view();
    let interval = Interval {
        key: b"k",
        range_end: b"\0",
    };
    let query = RangeQuery {
        interval,
        revision,
        limit: 0,
        count_only: false,
        after: Some(after),
        ..RangeQuery::default()
    };
    Ok(view.range(&query)?.next()?.map(|item| item.key.to_vec()))
}

#[test]
fn a_pinned_range_goes_on_over_a_compaction_until_its_deadline() {
    let mut store = filled(1000);
    let revision = 600;
    let pin: Pin = store.pins().pin(revision);
    store.compact(2500).unwrap();
    assert_eq!(compact_all(&mut store, true), CompactProgress::Waiting);
    // New readers are refused, the running one is not.
    let view = store.view();
    assert!(matches!(
        view.count(Interval::all(), revision),
        Err(StoreError::Compacted { compacted: 2500, .. })
    ));
    assert_eq!(turn(&store, revision, b"k00700").unwrap(), None, "not yet created then");
    assert_eq!(turn(&store, revision, b"k00100").unwrap(), Some(b"k00101".to_vec()));
    drop(pin);
    assert_eq!(compact_all(&mut store, true), CompactProgress::Done(2500));
    assert!(matches!(
        turn(&store, revision, b"k00100"),
        Err(StoreError::Compacted { .. })
    ));
}

#[test]
fn past_the_deadline_a_pinned_range_is_told_that_its_revision_is_gone() {
    let mut store = filled(300);
    let _pin = store.pins().pin(400);
    let old = store.view();
    store.compact(800).unwrap();
    assert_eq!(compact_all(&mut store, false), CompactProgress::Done(800));
    assert!(matches!(
        turn(&store, 400, b"k"),
        Err(StoreError::Compacted {
            requested: 400,
            compacted: 800
        })
    ));
    // A view from before still has everything.
    assert_eq!(old.count(Interval::all(), 400).unwrap(), 300);
    assert_eq!(
        old.kv_at(b"k00007", 400).unwrap().map(<[u8]>::len),
        old.kv_at(b"k00007", 401).unwrap().map(<[u8]>::len)
    );
}

#[test]
fn the_first_compaction_may_be_at_zero_and_a_second_may_not() {
    let mut store = filled(3);
    assert_eq!(store.compact_revision(), -1);
    store.compact(0).unwrap();
    assert_eq!(store.compact_revision(), 0);
    assert!(matches!(
        store.compact(0),
        Err(StoreError::Compacted {
            requested: 0,
            compacted: 0
        })
    ));
    let future = store.revision() + 1;
    assert!(matches!(store.compact(future), Err(StoreError::FutureRevision { .. })));
    assert_eq!(compact_all(&mut store, true), CompactProgress::Done(0));
    assert_eq!(store.stats().revisions, 9);
}

#[test]
fn a_key_with_very_many_revisions_compacts_in_slices_while_it_is_written() {
    let mut store = Store::new();
    let put = |store: &mut Store| {
        let mut txn = store.begin();
        txn.put(b"hot", b"v", 0);
        txn.end();
    };
    (0..50_000).for_each(|_| put(&mut store));
    store.compact(40_001).unwrap();
    let mut slices = 0;
    loop {
        let before = store.stats().revisions;
        let progress = store.compact_step(500, true);
        assert!(before - store.stats().revisions <= 500);
        put(&mut store);
        store.seal_block(AppliedState::default());
        slices += 1;
        match progress {
            CompactProgress::Working => {}
            CompactProgress::Done(revision) => break assert_eq!(revision, 40_001),
            other => panic!("{other:?}"),
        }
    }
    assert!(slices > 100);
    assert_eq!(store.stats().revisions, 10_001 + slices);
    let view = store.view();
    for at in [40_001, 40_002, 45_000, 50_001] {
        assert!(view.kv_at(b"hot", at).unwrap().is_some());
    }
}
