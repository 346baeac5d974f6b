//! Pages are reused as soon as nobody can read them and not before; the file shrinks by itself.

use std::sync::Arc;

use bytes::Bytes;
use storage::{
    io::{SimDisk, StdDisk, sim::Rng},
    tree::{Root, Tree},
};

#[path = "support/tree.rs"]
mod support;

use support::{Model, assert_same, drive, small_options, user, value_of};

struct Bench {
    disk: SimDisk,
    tree: Tree,
    model: Model,
    rng: Rng,
    commits: u64,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let mut disk = SimDisk::new();
        let tree = Tree::open(&mut disk, small_options(512)).expect("a new tree opens");
        Bench {
            disk,
            tree,
            model: Model::new(),
            rng: Rng::new(seed),
            commits: 0,
        }
    }

    fn begin(&mut self) {
        self.commits += 1;
        self.tree.begin(user(self.commits)).expect("a commit opens");
    }

    fn put(&mut self, number: u64) {
        let (key, value) = (format!("{number:06}").into_bytes(), value_of(&mut self.rng, 50));
        self.tree.put(0, &key, Bytes::from(value.clone())).expect("puts work");
        self.model.insert((0, key), value);
    }

    fn delete(&mut self, number: u64) {
        let key = format!("{number:06}").into_bytes();
        self.tree.delete(0, &key).expect("deletes work");
        self.model.remove(&(0, key));
    }

    fn commit(&mut self) -> Arc<Root> {
        drive(&mut self.tree, &mut self.disk, &mut self.rng).expect("commits work")
    }

    fn overwrite_some(&mut self) {
        self.begin();
        for _ in 0..20 {
            let number = self.rng.below(500);
            self.put(number);
        }
        self.commit();
    }

    fn fill(&mut self, count: u64) {
        for first in (0..count).step_by(100) {
            self.begin();
            (first..count.min(first + 100)).for_each(|number| self.put(number));
            self.commit();
        }
    }
}

#[test]
fn steady_overwriting_does_not_grow_the_file() {
    let mut bench = Bench::new(1);
    bench.fill(500);
    (0..50).for_each(|_| bench.overwrite_some());
    let settled = bench.tree.size_bytes();
    (0..1000).for_each(|_| bench.overwrite_some());
    let grown = bench.tree.size_bytes();
    assert!(grown <= settled + settled / 4, "from {settled} to {grown} bytes");
    assert_same(&bench.tree.root(), &bench.model, "after overwriting");
    bench.tree.check(&bench.tree.root()).expect("the tree is whole");
}

#[test]
fn a_held_root_reads_its_own_content_for_ever_and_its_pages_return_when_it_is_dropped() {
    let mut bench = Bench::new(2);
    bench.fill(500);
    let (root, then) = (bench.tree.root(), bench.model.clone());
    let reader = std::thread::spawn(move || {
        for _ in 0..30 {
            assert_same(&root, &then, "beside the writer");
        }
        (root, then)
    });
    (0..200).for_each(|_| bench.overwrite_some());
    let (root, then) = reader.join().expect("the reader saw nothing wrong");
    assert_same(&root, &then, "after the writer");
    root.check().expect("an old root stays whole");
    let (_, waiting) = bench.tree.free_pages();
    assert!(waiting > 300, "only {waiting} pages wait for the reader");
    drop(root);
    bench.overwrite_some();
    let (free, waiting) = bench.tree.free_pages();
    assert!(free > 300 && waiting < 100, "{free} free, {waiting} waiting");
    let size = bench.tree.size_bytes();
    (0..100).for_each(|_| bench.overwrite_some());
    assert!(bench.tree.size_bytes() <= size, "the returned pages are used first");
}

#[test]
fn the_file_shrinks_in_paced_steps_after_most_was_deleted() {
    let mut bench = Bench::new(3);
    bench.fill(4000);
    let full = bench.tree.file_bytes();
    bench.begin();
    (0..4000)
        .filter(|number| number % 20 != 0)
        .for_each(|number| bench.delete(number));
    bench.commit();
    let mut commits = 0;
    loop {
        bench.begin();
        let moved = bench.tree.shrink_step(4).expect("shrinking works");
        assert!(moved <= 4, "{moved} nodes in one step");
        bench.commit();
        commits += 1;
        if bench.tree.shrinkable_pages() == 0 || commits == 500 {
            break;
        }
    }
    // The tail is cut by commits that find nobody beyond the new end.
    for _ in 0..3 {
        bench.begin();
        bench.commit();
    }
    let (shrunk, used) = (bench.tree.file_bytes(), bench.tree.in_use_bytes());
    assert!(
        shrunk < full / 4 && shrunk <= used + 3 * 16 * 512,
        "from {full} to {shrunk} bytes in {commits} commits, {used} in use"
    );
    assert!(commits < 400, "{commits} commits");
    assert_same(&bench.tree.root(), &bench.model, "after shrinking");
    bench.tree.check(&bench.tree.root()).expect("the tree is whole");
    assert!(bench.disk.contents("tree").expect("the file is there").len() as u64 == shrunk);
    let mut again = bench.disk.crash_image(1);
    let tree = Tree::open(&mut again, small_options(512)).expect("the cut file opens");
    assert_same(&tree.root(), &bench.model, "after opening the cut file");
}

#[test]
fn the_tail_is_not_cut_while_a_held_root_reaches_it() {
    let mut bench = Bench::new(4);
    bench.fill(3000);
    let (root, then) = (bench.tree.root(), bench.model.clone());
    let full = bench.tree.file_bytes();
    let shrink = |bench: &mut Bench| {
        for _ in 0..150 {
            bench.begin();
            bench.tree.shrink_step(16).expect("shrinking works");
            bench.commit();
        }
    };
    bench.begin();
    (100..3000).for_each(|number| bench.delete(number));
    bench.commit();
    shrink(&mut bench);
    assert!(bench.tree.file_bytes() >= full, "the reader needs the tail");
    assert_same(&root, &then, "the old root");
    drop(root);
    shrink(&mut bench);
    assert!(
        bench.tree.file_bytes() < full / 4,
        "{} of {full} bytes",
        bench.tree.file_bytes()
    );
    assert_same(&bench.tree.root(), &bench.model, "after shrinking");
}

#[test]
fn the_pages_of_one_root_make_a_file_of_their_own() {
    let mut bench = Bench::new(5);
    bench.fill(600);
    (0..30).for_each(|_| bench.overwrite_some());
    let (root, then) = (bench.tree.root(), bench.model.clone());
    bench.overwrite_some();
    let mut copy = vec![0; root.size_bytes() as usize];
    copy[..2 * root.page_size()].copy_from_slice(&root.meta_bytes());
    for run in root.runs().expect("the root is whole") {
        let bytes = root.run_bytes(run);
        copy[run.0 as usize * root.page_size()..][..bytes.len()].copy_from_slice(bytes);
    }
    let mut disk = support::disk_with("tree", copy);
    let mut tree = Tree::open(&mut disk, small_options(512)).expect("the copy opens");
    assert_same(&tree.root(), &then, "the copy");
    assert_eq!(tree.root().user(), root.user());
    tree.begin(user(1)).expect("a commit opens");
    tree.put(0, b"more", Bytes::from_static(b"data")).expect("puts work");
    let root = tree.commit_blocking(&mut disk).expect("the copy goes on");
    tree.check(&root).expect("the copy is whole");
}

#[test]
fn ascending_keys_fill_their_pages() {
    let mut bench = Bench::new(6);
    bench.fill(3000);
    let data: usize = bench
        .model
        .iter()
        .map(|((_, key), value)| key.len() + value.len() + 12)
        .sum();
    let report = bench.tree.check(&bench.tree.root()).expect("the tree is whole");
    let fill = data as f64 / (report.leaves * 512) as f64;
    assert!(fill > 0.78, "leaves are filled to {fill:.2}");
}

#[test]
fn deleting_in_any_order_leaves_no_thin_tree_behind() {
    let mut bench = Bench::new(7);
    bench.fill(3000);
    for round in 0..29 {
        bench.begin();
        (0..3000)
            .filter(|number| number * 7 % 30 == round)
            .for_each(|number| bench.delete(number));
        bench.commit();
    }
    let report = bench.tree.check(&bench.tree.root()).expect("the tree is whole");
    assert_eq!(report.entries, 100);
    assert!(report.leaves < 60, "{} leaves for a hundred pairs", report.leaves);
    bench.begin();
    (0..3000).for_each(|number| bench.delete(number));
    let root = bench.commit();
    assert_eq!((root.count(0), root.buckets().count()), (0, 0));
    assert_eq!(bench.tree.check(&root).expect("the tree is whole").reachable_pages, 0);
}

#[test]
fn a_real_file_grows_shrinks_and_opens_again_under_its_readers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut disk = StdDisk::new(dir.path()).expect("a disk on it");
    let options = small_options(4096);
    let mut tree = Tree::open(&mut disk, options.clone()).expect("a new tree opens");
    let mut model = Model::new();
    for first in (0..4000u32).step_by(500) {
        tree.begin(user(u64::from(first))).expect("a commit opens");
        for number in first..first + 500 {
            let value = vec![number as u8; 200 + (number % 7 == 0) as usize * 9000];
            tree.put(1, &number.to_be_bytes(), Bytes::from(value.clone()))
                .expect("puts work");
            model.insert((1, number.to_be_bytes().to_vec()), value);
        }
        tree.commit_blocking(&mut disk).expect("commits work");
    }
    let (old, then, full) = (tree.root(), model.clone(), tree.file_bytes());
    tree.begin(user(1)).expect("a commit opens");
    for number in 100..4000u32 {
        tree.delete(1, &number.to_be_bytes()).expect("deletes work");
        model.remove(&(1, number.to_be_bytes().to_vec()));
    }
    tree.commit_blocking(&mut disk).expect("commits work");
    assert_same(&old, &then, "the held root");
    drop(old);
    for _ in 0..60 {
        tree.begin(user(2)).expect("a commit opens");
        tree.shrink_step(16).expect("shrinking works");
        tree.commit_blocking(&mut disk).expect("commits work");
    }
    let shrunk = tree.file_bytes();
    assert!(shrunk < full / 4, "from {full} to {shrunk} bytes");
    assert_eq!(
        std::fs::metadata(dir.path().join("tree"))
            .expect("the file is there")
            .len(),
        shrunk
    );
    let last = tree.root();
    tree.close(&mut disk).expect("the file closes");
    assert_same(&last, &model, "a root of the closed tree");
    let tree = Tree::open(&mut disk, options).expect("the tree opens again");
    assert_same(&tree.root(), &model, "after opening again");
    tree.check(&tree.root()).expect("the tree is whole");
}
