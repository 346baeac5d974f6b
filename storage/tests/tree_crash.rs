//! Power failures at every call of a commit and of opening: what is found is the last acknowledged commit or the one
//! in flight, whole, and the tree goes on from there.

use std::{
    mem,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use storage::{
    io::{ErrorKind, SimDisk, sim::Fault, sim::Rng},
    tree::{MetaUser, Tree, TreeError, TreeOptions},
};

#[path = "support/tree.rs"]
mod support;

use support::{Model, contents, drive, drive_watched, scale, small_options, user, value_of};

/// A content the tree may have after a crash: the number of the commit, and its data.
type State = (u64, Arc<Model>);

#[derive(Clone, Debug)]
enum Change {
    Put(u8, Vec<u8>, Vec<u8>),
    Delete(u8, Vec<u8>),
}

/// Images taken before every call since the last look.
#[derive(Clone, Default)]
struct Camera {
    images: Arc<Mutex<Vec<SimDisk>>>,
}

impl Camera {
    fn watch(&self, disk: &SimDisk, per_call: usize, seed: u64) {
        let images = self.images.clone();
        let mut rng = Rng::new(seed);
        disk.on_call(move |disk| {
            images
                .lock()
                .expect("no test thread panics here")
                .extend(disk.legal_images(per_call, rng.next()));
        });
    }

    fn take(&self) -> Vec<SimDisk> {
        mem::take(&mut self.images.lock().expect("no test thread panics here"))
    }
}

fn options() -> TreeOptions {
    TreeOptions {
        growth_step_bytes: 4 * 512,
        reserve_address_bytes: 4 << 20,
        ..small_options(512)
    }
}

fn random_changes(rng: &mut Rng, model: &mut Model) -> Vec<Change> {
    let count = 1 + rng.below(25);
    let mut changes = Vec::new();
    for _ in 0..count {
        let bucket = rng.below(2) as u8;
        let key = format!("{:02}", rng.below(80)).into_bytes();
        if rng.below(5) < 2 {
            model.remove(&(bucket, key.clone()));
            changes.push(Change::Delete(bucket, key));
        } else {
            let len = if rng.below(12) == 0 { 1400 } else { rng.below(60) } as usize;
            let value = value_of(rng, len);
            model.insert((bucket, key.clone()), value.clone());
            changes.push(Change::Put(bucket, key, value));
        }
    }
    changes
}

fn apply(tree: &mut Tree, changes: &[Change], user: MetaUser) {
    tree.begin(user).expect("a commit opens");
    for change in changes {
        match change {
            Change::Put(bucket, key, value) => tree.put(*bucket, key, Bytes::from(value.clone())).expect("puts work"),
            Change::Delete(bucket, key) => drop(tree.delete(*bucket, key).expect("deletes work")),
        }
    }
    tree.shrink_step(4).expect("shrinking works");
}

/// Opens an image; it must hold one of `legal`, which is returned with the tree.
fn recover(image: &mut SimDisk, legal: &[State], context: &str) -> (Tree, State) {
    let tree = Tree::open(image, options()).unwrap_or_else(|error| panic!("{context}: {error}"));
    let root = tree.root();
    tree.check(&root).unwrap_or_else(|error| panic!("{context}: {error}"));
    let index = root.user().applied_index;
    let found = legal.iter().find(|(commit, _)| *commit == index);
    let state = found
        .unwrap_or_else(|| panic!("{context}: found commit {index}"))
        .clone();
    assert_eq!(root.user(), &user_of(index), "{context}");
    assert!(
        contents(&root).unwrap_or_else(|error| panic!("{context}: {error}")) == *state.1,
        "{context}: {index}"
    );
    (tree, state)
}

/// A new tree has the user area of nothing.
fn user_of(commit: u64) -> MetaUser {
    if commit == 0 { MetaUser::default() } else { user(commit) }
}

/// Checks one image, inside its recovery too, then commits on it and pulls the plug again.
fn examine(image: &mut SimDisk, legal: &[State], rng: &mut Rng, context: &str) -> u64 {
    let mut examined = 1;
    let camera = Camera::default();
    if rng.below(4) == 0 {
        camera.watch(image, 1, rng.next());
    }
    let (mut tree, (commit, model)) = recover(image, legal, context);
    image.clear_hook();
    for mut inner in camera.take() {
        // What one crash has left behind, another crash does not change.
        recover(
            &mut inner,
            &[(commit, model.clone())],
            &format!("{context}, inside recovery"),
        );
        examined += 1;
    }
    if rng.below(3) > 0 {
        return examined;
    }
    let mut next = (*model).clone();
    let changes = random_changes(rng, &mut next);
    let legal = [(commit, model), (commit + 1, Arc::new(next))];
    apply(&mut tree, &changes, user(commit + 1));
    camera.watch(image, 1, rng.next());
    drive(&mut tree, image, rng).unwrap_or_else(|error| panic!("{context}, going on: {error}"));
    image.clear_hook();
    let mut inner = camera.take();
    let drawn = rng.below(inner.len() as u64) as usize;
    recover(&mut inner[drawn], &legal, &format!("{context}, second crash"));
    recover(
        &mut image.crash_image(rng.next()),
        &legal[1..],
        &format!("{context}, acknowledged"),
    );
    examined + 2
}

fn explore(seed: u64, commits: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut disk = SimDisk::new();
    let mut tree = Tree::open(&mut disk, options()).expect("a new tree opens");
    disk.hold_completions(Some(rng.next()));
    let (mut examined, mut model) = (0, Arc::new(Model::new()));
    for commit in 1..=commits {
        let mut next = (*model).clone();
        let changes = random_changes(&mut rng, &mut next);
        let legal = [(commit - 1, model), (commit, Arc::new(next))];
        apply(&mut tree, &changes, user(commit));
        tree.seal();
        let mut watch_rng = Rng::new(rng.next());
        let mut images = Vec::new();
        let watch = |disk: &SimDisk| {
            if disk.pending_ops() > 0 {
                images.extend(disk.legal_images(3, watch_rng.next()));
            }
        };
        drive_watched(&mut tree, &mut disk, &mut rng, watch).expect("commits work");
        for (number, mut image) in images.into_iter().enumerate() {
            let context = format!("seed {seed}, commit {commit}, image {number}");
            examined += examine(&mut image, &legal, &mut rng, &context);
        }
        let context = format!("seed {seed}, commit {commit}, acknowledged");
        examined += examine(&mut disk.crash_image(rng.next()), &legal[1..], &mut rng, &context);
        // The process may die without the machine: it goes on from what the page cache holds.
        if rng.below(4) == 0 {
            disk = disk.kill();
            tree = recover(&mut disk, &legal[1..], &context).0;
            disk.hold_completions(Some(rng.next()));
        }
        model = legal[1].1.clone();
    }
    examined
}

#[test]
fn every_crash_leaves_a_whole_commit() {
    let mut examined = 0;
    for seed in 0..8 {
        examined += explore(seed, 45 * scale());
    }
    println!("{examined} images examined");
    assert!(examined > 10_000 * scale(), "only {examined} images examined");
}

/// The process dies inside a commit and comes back from the page cache, then the power fails: the meta page that was
/// found first must not be lost again while pages of the older one are reused.
#[test]
fn a_commit_found_in_the_page_cache_survives_the_next_power_failure() {
    for seed in 0..60 * scale() {
        let mut rng = Rng::new(seed);
        let mut disk = SimDisk::new();
        let mut tree = Tree::open(&mut disk, options()).expect("a new tree opens");
        let (mut model, mut legal) = (Model::new(), vec![(0, Arc::new(Model::new()))]);
        for commit in 1..6 {
            let changes = random_changes(&mut rng, &mut model);
            apply(&mut tree, &changes, user(commit));
            legal.push((commit, Arc::new(model.clone())));
            let last = commit == 5;
            if last {
                // Killed before the last sync of the commit is asked for.
                let photos: Arc<Mutex<Vec<SimDisk>>> = Arc::default();
                let album = photos.clone();
                disk.on_call(move |disk| album.lock().expect("no panic").push(disk.kill()));
                drive(&mut tree, &mut disk, &mut rng).expect("commits work");
                disk = photos.lock().expect("no panic").pop().expect("a commit makes calls");
            } else {
                drive(&mut tree, &mut disk, &mut rng).expect("commits work");
            }
        }
        let context = format!("seed {seed}");
        let (mut tree, (found, base)) = recover(&mut disk, &legal[5..], &context);
        let mut next = (*base).clone();
        let changes = random_changes(&mut rng, &mut next);
        let legal = [(found, base), (found + 1, Arc::new(next))];
        apply(&mut tree, &changes, user(found + 1));
        let camera = Camera::default();
        camera.watch(&disk, 6, rng.next());
        drive(&mut tree, &mut disk, &mut rng).expect("commits work");
        disk.clear_hook();
        for mut image in camera.take() {
            recover(&mut image, &legal, &context);
        }
    }
}

#[test]
fn a_crash_while_the_file_is_made_leaves_none_or_an_empty_one() {
    for seed in 0..20 {
        let mut disk = SimDisk::new();
        let camera = Camera::default();
        camera.watch(&disk, 8, seed);
        Tree::open(&mut disk, options()).expect("a new tree opens");
        disk.clear_hook();
        for mut image in camera.take() {
            recover(&mut image, &[(0, Arc::new(Model::new()))], &format!("seed {seed}"));
        }
    }
}

/// Commits a few times with the n-th write or sync failing.
fn fail(op: &'static str, after: u64) -> bool {
    let mut rng = Rng::new(after);
    let mut disk = SimDisk::new();
    let mut tree = Tree::open(&mut disk, options()).expect("a new tree opens");
    disk.inject(Fault {
        op: Some(op),
        path: "tree".to_owned(),
        after,
        kind: ErrorKind::Io,
    });
    let mut model = Arc::new(Model::new());
    for commit in 1..8 {
        let mut next = (*model).clone();
        let changes = random_changes(&mut rng, &mut next);
        let legal = [(commit - 1, model), (commit, Arc::new(next))];
        apply(&mut tree, &changes, user(commit));
        if let Err(error) = drive(&mut tree, &mut disk, &mut rng) {
            let context = format!("{op} {after} fails in commit {commit}");
            assert!(matches!(error, TreeError::Io(_)), "{context}: {error}");
            assert!(
                matches!(tree.begin(user(99)), Err(TreeError::Io(_))),
                "{context}: the tree is poisoned for good"
            );
            assert!(!tree.abandon(), "{context}: a commit that wrote is not taken back");
            assert_eq!(tree.root().user(), &user_of(commit - 1), "{context}");
            assert!(
                contents(&tree.root()).expect("older pages are whole") == *legal[0].1,
                "{context}"
            );
            recover(&mut disk.crash_image(after), &legal, &context);
            return true;
        }
        model = legal[1].1.clone();
    }
    false
}

#[test]
fn a_failed_write_or_sync_is_final_and_costs_nothing_acknowledged() {
    for op in ["write", "sync"] {
        let failed = (0..24).filter(|&after| fail(op, after)).count();
        assert!(failed >= 12, "only {failed} runs saw the failing {op}");
    }
}
