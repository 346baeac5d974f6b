//! The tree against a `BTreeMap`: random operations on tiny pages, commits in small steps, reopening, pinned roots.

use std::sync::Arc;

use bytes::Bytes;
use storage::{
    io::{SimDisk, sim::Rng},
    tree::{Root, Tree, TreeOptions},
};

#[path = "support/tree.rs"]
mod support;

use support::{Model, assert_same, drive, scale, small_options, user, value_of};

/// What kind of load a run makes.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// Keys all over a small space.
    Scattered,
    /// Ascending revisions, the oldest deleted now and then.
    Revisions,
    /// Long keys, and values from nothing to many pages.
    Large,
}

struct Run {
    load: Load,
    seed: u64,
    rng: Rng,
    disk: SimDisk,
    options: TreeOptions,
    tree: Tree,
    model: Model,
    /// What older roots must still hold.
    pinned: Vec<(Arc<Root>, Arc<Model>)>,
    next_revision: u64,
    oldest_revision: u64,
    commits: u64,
}

impl Run {
    fn new(load: Load, page_size: usize, seed: u64) -> Run {
        let mut disk = SimDisk::new();
        let options = small_options(page_size);
        let tree = Tree::open(&mut disk, options.clone()).expect("a new tree opens");
        disk.hold_completions(Some(seed));
        Run {
            load,
            seed,
            rng: Rng::new(seed),
            disk,
            options,
            tree,
            model: Model::new(),
            pinned: Vec::new(),
            next_revision: 0,
            oldest_revision: 0,
            commits: 0,
        }
    }

    fn context(&self) -> String {
        format!(
            "{:?}, page size {}, seed {}, commit {}",
            self.load, self.options.page_size, self.seed, self.commits
        )
    }

    fn put(&mut self, bucket: u8, key: Vec<u8>, value: Vec<u8>) {
        self.tree
            .put(bucket, &key, Bytes::from(value.clone()))
            .expect("puts work");
        self.model.insert((bucket, key), value);
    }

    fn delete(&mut self, bucket: u8, key: Vec<u8>) {
        let was_there = self.tree.delete(bucket, &key).expect("deletes work");
        let expected = self.model.remove(&(bucket, key)).is_some();
        assert_eq!(was_there, expected, "{}", self.context());
    }

    fn operate(&mut self) {
        match self.load {
            Load::Scattered => self.scattered(),
            Load::Revisions => self.revisions(),
            Load::Large => self.large(),
        }
    }

    fn scattered(&mut self) {
        let bucket = [0, 3, 255][self.rng.below(3) as usize];
        let key = format!("{:03}", self.rng.below(700)).into_bytes();
        // Times of growth and times of shrinking, down to nothing.
        let growing = (self.commits / 40).is_multiple_of(2);
        if self.rng.below(10) < if growing { 7 } else { 1 } {
            let len = self.rng.below(40) as usize;
            let value = value_of(&mut self.rng, len);
            self.put(bucket, key, value);
        } else {
            self.delete(bucket, key);
        }
    }

    fn revisions(&mut self) {
        let key = |revision: u64| [&revision.to_be_bytes()[..], b"_", &[0; 8]].concat();
        match self.rng.below(20) {
            0..=15 => {
                let len = 10 + self.rng.below(if self.commits.is_multiple_of(10) { 400 } else { 50 }) as usize;
                let value = value_of(&mut self.rng, len);
                self.put(1, key(self.next_revision), value);
                self.next_revision += 1;
            }
            16 => self.put(
                2,
                b"consistent_index".to_vec(),
                self.next_revision.to_be_bytes().to_vec(),
            ),
            _ if self.oldest_revision + 500 < self.next_revision => {
                // Compaction keeps the newest revision of each key: one in eight stays for a while.
                for _ in 0..6 {
                    if !self.oldest_revision.is_multiple_of(8) || self.rng.below(4) == 0 {
                        self.delete(1, key(self.oldest_revision));
                    }
                    if let Some(kept) = self.oldest_revision.checked_sub(2000) {
                        self.delete(1, key(kept));
                    }
                    self.oldest_revision += 1;
                }
                let stale = self.rng.below(self.oldest_revision);
                self.delete(1, key(stale));
            }
            _ => {}
        }
    }

    fn large(&mut self) {
        let number = self.rng.below(60);
        let key_len = if number.is_multiple_of(13) {
            1 + self.rng.below(3) * 700
        } else {
            1 + number % 30
        } as usize;
        let mut key = vec![number as u8; key_len];
        key.insert(0, (number % 7) as u8);
        if self.rng.below(3) == 0 {
            return self.delete(9, key);
        }
        let len = match self.rng.below(10) {
            0..=4 => self.rng.below(60),
            5..=8 => self.rng.below(1200),
            _ => self.rng.below(20_000),
        };
        let value = value_of(&mut self.rng, len as usize);
        self.put(9, key, value);
    }

    fn commit(&mut self) {
        self.commits += 1;
        self.tree.begin(user(self.commits)).expect("a commit opens");
        // The root as of now is pinned by some of the readers that come along.
        if self.rng.below(6) == 0 && self.pinned.len() < 4 {
            self.pinned.push((self.tree.root(), Arc::new(self.model.clone())));
        }
        for _ in 0..self.rng.below(120) {
            self.operate();
        }
        if self.rng.below(3) == 0 {
            self.tree.shrink_step(8).expect("shrinking works");
        }
        let root = drive(&mut self.tree, &mut self.disk, &mut self.rng).expect("commits work");
        assert_eq!(root.user(), &user(self.commits));
        if !self.pinned.is_empty() && self.rng.below(5) == 0 {
            let (root, model) = self
                .pinned
                .swap_remove(self.rng.below(self.pinned.len() as u64) as usize);
            assert_same(&root, &model, &format!("{}, pinned root", self.context()));
        }
        self.spot_check(&root);
    }

    /// Single reads, both ways, at the new root.
    fn spot_check(&mut self, root: &Root) {
        for _ in 0..5 {
            let Some((bucket, key)) = self.some_key() else { return };
            let expected = self.model.get(&(bucket, key.clone())).map(Vec::as_slice);
            assert_eq!(
                root.get(bucket, &key).expect("reads work"),
                expected,
                "{}",
                self.context()
            );
            let mut cursor = root.cursor(bucket);
            let mut expected = self
                .model
                .range((bucket, key.clone())..)
                .take_while(|((b, _), _)| *b == bucket);
            let mut found = cursor.seek(&key).expect("seeks work");
            for _ in 0..4 {
                let next = expected
                    .next()
                    .map(|((_, key), value)| (key.as_slice(), value.as_slice()));
                assert_eq!(found, next, "{} forward from {key:?}", self.context());
                found = cursor.next().expect("cursors work");
            }
            let mut expected = self
                .model
                .range(..(bucket, key.clone()))
                .rev()
                .take_while(|((b, _), _)| *b == bucket);
            cursor.seek(&key).expect("seeks work");
            for _ in 0..4 {
                let before = expected
                    .next()
                    .map(|((_, key), value)| (key.as_slice(), value.as_slice()));
                assert_eq!(
                    cursor.prev().expect("cursors work"),
                    before,
                    "{} back from {key:?}",
                    self.context()
                );
            }
        }
    }

    fn some_key(&mut self) -> Option<(u8, Vec<u8>)> {
        let from = (
            self.rng.next() as u8,
            vec![self.rng.next() as u8, self.rng.next() as u8],
        );
        let found = self.model.range(from..).next().or_else(|| self.model.iter().next());
        let (bucket, mut key) = found.map(|(key, _)| key.clone())?;
        if self.rng.below(3) == 0 {
            key.push(self.rng.next() as u8);
        }
        Some((bucket, key))
    }

    fn check_all(&self) {
        let root = self.tree.root();
        assert_same(&root, &self.model, &self.context());
        let report = self
            .tree
            .check(&root)
            .unwrap_or_else(|error| panic!("{}: {error}", self.context()));
        assert_eq!(report.entries, self.model.len() as u64, "{}", self.context());
        for bucket in root.buckets() {
            let count = self.model.keys().filter(|(b, _)| *b == bucket).count() as u64;
            assert_eq!(root.count(bucket), count, "{}", self.context());
        }
    }

    fn reopen(&mut self) {
        for (root, model) in std::mem::take(&mut self.pinned) {
            assert_same(&root, &model, &format!("{}, pinned root", self.context()));
        }
        self.disk = if self.rng.below(2) == 0 {
            self.disk.kill()
        } else {
            self.disk.crash_image(self.rng.next())
        };
        self.tree = Tree::open(&mut self.disk, self.options.clone()).expect("the tree opens again");
        self.disk.hold_completions(Some(self.rng.next()));
        assert_eq!(self.tree.root().user(), &user(self.commits), "{}", self.context());
        self.check_all();
    }

    fn go(&mut self, commits: u64) {
        for _ in 0..commits {
            self.commit();
            match self.rng.below(30) {
                0 => self.reopen(),
                1..=2 => self.check_all(),
                _ => {}
            }
        }
        self.reopen();
    }
}

fn run(load: Load, page_size: usize, commits: u64) {
    for seed in 0..4 {
        Run::new(load, page_size, seed).go(commits * scale() / 4);
    }
}

#[test]
fn scattered_keys_on_tiny_pages_match_the_model() {
    run(Load::Scattered, 512, 6000);
}

#[test]
fn scattered_keys_on_middling_pages_match_the_model() {
    run(Load::Scattered, 1024, 3000);
}

#[test]
fn revisions_with_compaction_match_the_model() {
    run(Load::Revisions, 512, 6000);
}

#[test]
fn large_keys_and_values_match_the_model() {
    run(Load::Large, 512, 1500);
}

#[test]
fn large_keys_and_values_on_usual_pages_match_the_model() {
    run(Load::Large, 4096, 1000);
}
