//! Rot, lost and misdirected writes, full disks, files cut short, newer formats.

use bytes::Bytes;
use storage::{
    io::{Disk, FileId, Op, OpenOptions, Output, SimDisk, sim::Rng},
    tree::{Progress, Tree, TreeError, TreeOptions},
};

#[path = "support/tree.rs"]
mod support;

use support::{Model, assert_same, contents, drive, drive_sealed, small_options, user, value_of};

const PAGE: u64 = 512;

/// A tree of several levels and buckets with values of many pages, and what it held one commit before.
fn planted(seed: u64) -> (SimDisk, Model, Model) {
    let mut rng = Rng::new(seed);
    let mut disk = SimDisk::new();
    let mut tree = Tree::open(&mut disk, small_options(512)).expect("a new tree opens");
    let (mut before, mut model) = (Model::new(), Model::new());
    for commit in 1..6 {
        before = model.clone();
        tree.begin(user(commit)).expect("a commit opens");
        for _ in 0..150 {
            let key = format!("key {:04}", rng.below(900)).into_bytes();
            let len = if rng.below(30) == 0 { 3000 } else { rng.below(70) } as usize;
            let (bucket, value) = (rng.below(2) as u8, value_of(&mut rng, len));
            tree.put(bucket, &key, Bytes::from(value.clone())).expect("puts work");
            model.insert((bucket, key), value);
        }
        drive(&mut tree, &mut disk, &mut rng).expect("commits work");
    }
    (disk, before, model)
}

/// Opens and reads everything.
fn read_all(disk: &mut SimDisk) -> Result<Model, TreeError> {
    let tree = Tree::open(disk, small_options(512))?;
    contents(&tree.root())
}

#[test]
fn a_flipped_byte_of_any_reachable_page_is_named_and_never_believed() {
    let (disk, _, model) = planted(1);
    let tree = Tree::open(&mut disk.kill(), small_options(512)).expect("the tree opens");
    let runs = tree.root().runs().expect("the tree is whole");
    let mut rng = Rng::new(7);
    for &(page, pages) in &runs {
        for _ in 0..6 {
            let mut rotten = disk.kill();
            let at = page * PAGE + rng.below(u64::from(pages) * PAGE);
            rotten.flip("tree", at, 1, 1 << rng.below(8));
            match read_all(&mut rotten) {
                Err(TreeError::Corrupt {
                    path,
                    page: named,
                    offset,
                    expected,
                    found,
                    ..
                }) => {
                    assert_eq!((path.as_str(), named, offset), ("tree", page, page * PAGE));
                    assert_ne!(expected, found);
                }
                other => panic!(
                    "byte {at} of page {page} was turned over: {:?}",
                    other.map(|all| all == model)
                ),
            }
        }
    }
    assert!(
        runs.len() > 80,
        "a tree of {} nodes is too small to mean much",
        runs.len()
    );
}

#[test]
fn rot_in_free_pages_does_no_harm() {
    let (disk, _, model) = planted(2);
    let tree = Tree::open(&mut disk.kill(), small_options(512)).expect("the tree opens");
    let mut from = 2;
    for (page, pages) in tree.root().runs().expect("the tree is whole") {
        disk.flip("tree", from * PAGE, ((page - from) * PAGE) as usize, 0xff);
        from = page + u64::from(pages);
    }
    assert!(read_all(&mut disk.kill()).expect("nothing reachable was touched") == model);
}

#[test]
fn a_rotten_meta_page_gives_way_to_the_other_and_two_stop_the_member() {
    let (disk, before, model) = planted(3);
    let newest = Tree::open(&mut disk.kill(), small_options(512))
        .expect("the tree opens")
        .root()
        .txid()
        % 2;
    for at in 0..PAGE {
        let mut rotten = disk.kill();
        rotten.flip("tree", newest * PAGE + at, 1, 0x10);
        assert!(
            read_all(&mut rotten).expect("the older meta page is whole") == before,
            "byte {at}"
        );
        let mut rotten = disk.kill();
        rotten.flip("tree", (1 - newest) * PAGE + at, 1, 0x10);
        assert!(
            read_all(&mut rotten).expect("the newer meta page is whole") == model,
            "byte {at}"
        );
    }
    disk.flip("tree", 100, 1, 1);
    disk.flip("tree", PAGE + 100, 1, 1);
    let error = read_all(&mut disk.kill()).map(drop).expect_err("no meta page is whole");
    assert!(
        matches!(&error, TreeError::Corrupt { path, offset: 0, .. } if path == "tree"),
        "{error}"
    );
    match error {
        TreeError::Corrupt {
            what, expected, found, ..
        } => {
            assert_eq!(what, "checksum of the meta page");
            assert_ne!(expected, found);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_lost_write_is_seen_from_the_parent() {
    let (disk, _, _) = planted(4);
    let old = disk.contents("tree").expect("the file is there");
    let mut rng = Rng::new(4);
    let mut tree = Tree::open(&mut disk.clone(), small_options(512)).expect("the tree opens");
    let known = tree.root().runs().expect("the tree is whole");
    tree.begin(user(50)).expect("a commit opens");
    tree.put(0, b"key 0500", Bytes::from_static(b"new")).expect("puts work");
    drive(&mut tree, &mut disk.clone(), &mut rng).expect("commits work");
    let new = tree.root().runs().expect("the tree is whole");
    let written: Vec<_> = new.iter().filter(|run| !known.contains(run)).collect();
    assert!(written.len() >= 3, "leaf, branch and directory are new: {written:?}");
    for &&(page, _) in &written {
        let mut lost = disk.kill();
        let at = (page * PAGE) as usize;
        let stale = old
            .get(at..at + PAGE as usize)
            .map_or(vec![0; PAGE as usize], <[u8]>::to_vec);
        lost.overwrite("tree", page * PAGE, &stale);
        let error = read_all(&mut lost).map(drop).expect_err("the page is stale");
        assert!(
            matches!(error, TreeError::Corrupt { page: named, .. } if named == page),
            "{error}"
        );
    }
}

#[test]
fn a_lost_write_to_a_reused_page_is_seen_though_the_page_was_verified_before() {
    let (mut disk, _, _) = planted(11);
    let mut rng = Rng::new(11);
    let mut tree = Tree::open(&mut disk, small_options(512)).expect("the tree opens");
    let mut seen = 0;
    for commit in 50..80 {
        contents(&tree.root()).expect("every page is verified here");
        let (old, known) = (
            disk.contents("tree").expect("the file is there"),
            tree.root().runs().expect("it is whole"),
        );
        tree.begin(user(commit)).expect("a commit opens");
        let key = format!("key {:04}", rng.below(900));
        tree.put(0, key.as_bytes(), Bytes::from(value_of(&mut rng, 30)))
            .expect("puts work");
        let root = drive(&mut tree, &mut disk, &mut rng).expect("commits work");
        for (page, _) in root.runs().expect("it is whole") {
            let at = (page * PAGE) as usize;
            let stale = &old[at..at + PAGE as usize];
            if known.iter().any(|run| run.0 == page) || stale.iter().all(|&byte| byte == 0) {
                continue;
            }
            // Branches were touched by listing the runs. One leaf a commit: looking for it touches others.
            let new = disk.contents("tree").expect("the file is there")[at..at + PAGE as usize].to_vec();
            if new[0] == 3 && new != stale {
                disk.overwrite("tree", page * PAGE, stale);
                let error = contents(&root).map(drop).expect_err("the page is stale");
                assert!(
                    matches!(error, TreeError::Corrupt { page: named, .. } if named == page),
                    "{error}"
                );
                disk.overwrite("tree", page * PAGE, &new);
                seen += 1;
                break;
            }
        }
    }
    assert!(seen >= 10, "only {seen} leaves went to reused pages");
}

#[test]
fn a_misdirected_write_is_seen_from_the_parent() {
    let (disk, _, _) = planted(5);
    let file = disk.contents("tree").expect("the file is there");
    let tree = Tree::open(&mut disk.kill(), small_options(512)).expect("the tree opens");
    let runs = tree.root().runs().expect("the tree is whole");
    for pair in runs.windows(2) {
        let (from, to) = (pair[0].0, pair[1].0);
        let mut wrong = disk.kill();
        wrong.overwrite("tree", to * PAGE, &file[(from * PAGE) as usize..][..PAGE as usize]);
        let error = read_all(&mut wrong).map(drop).expect_err("the page belongs elsewhere");
        assert!(
            matches!(error, TreeError::Corrupt { page: named, .. } if named == to),
            "{error}"
        );
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let (mut disk, _, _) = planted(6);
    let file = open(&mut disk);
    let tree = Tree::open(&mut disk.kill(), small_options(512)).expect("the tree opens");
    disk.call(Op::SetLen(file, tree.size_bytes() - 1))
        .expect("the file can be cut");
    let error = read_all(&mut disk.kill()).map(drop).expect_err("the end is missing");
    assert!(
        matches!(
            error,
            TreeError::Corrupt {
                what: "length of the file in bytes",
                ..
            }
        ),
        "{error}"
    );
    disk.call(Op::SetLen(file, 0)).expect("the file can be cut");
    assert!(matches!(read_all(&mut disk.kill()), Err(TreeError::Corrupt { .. })));
}

fn open(disk: &mut SimDisk) -> FileId {
    let options = OpenOptions {
        write: true,
        ..OpenOptions::default()
    };
    match disk.call(Op::Open {
        path: "tree".to_owned(),
        options,
    }) {
        Ok(Output::File(file)) => file,
        other => panic!("the tree's file opens: {other:?}"),
    }
}

#[test]
fn a_file_for_newer_readers_is_refused_by_name() {
    let (disk, _, _) = planted(7);
    let mut meta = disk.contents("tree").expect("the file is there")[..512].to_vec();
    meta[12..16].copy_from_slice(&9u32.to_le_bytes());
    let crc = crc32c::crc32c(&meta[..508]);
    meta[508..].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite("tree", 0, &meta);
    let error = read_all(&mut disk.kill())
        .map(drop)
        .expect_err("the file asks for reader 9");
    assert!(
        matches!(
            error,
            TreeError::TooNew {
                min_reader: 9,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_full_disk_changes_nothing_and_the_commit_goes_on_when_space_returns() {
    let (mut disk, _, mut model) = planted(8);
    let mut rng = Rng::new(8);
    let mut tree = Tree::open(&mut disk, small_options(512)).expect("the tree opens");
    disk.set_capacity(Some(disk.used()));
    let grow = |tree: &mut Tree, model: &mut Model| {
        tree.begin(user(60)).expect("a commit opens");
        for number in 0..1500 {
            let key = format!("more {number:04}").into_bytes();
            tree.put(4, &key, Bytes::from(vec![7; 60])).expect("puts work");
            model.insert((4, key), vec![7; 60]);
        }
    };
    let mut grown = model.clone();
    grow(&mut tree, &mut grown);
    let error = drive(&mut tree, &mut disk, &mut rng).expect_err("the disk is full");
    assert!(
        matches!(error, TreeError::NoSpace { needed_bytes, .. } if needed_bytes > 0),
        "{error}"
    );
    assert!(tree.abandon(), "nothing was written yet");
    assert_same(&tree.root(), &model, "after giving up");
    tree.check(&tree.root())
        .expect("the pages of the dropped commit are free again");

    // A smaller change fits what is free.
    tree.begin(user(61)).expect("a commit opens");
    tree.delete(0, b"key 0001").expect("deletes work");
    model.remove(&(0, b"key 0001".to_vec()));
    drive(&mut tree, &mut disk, &mut rng).expect("a delete needs no new space");

    let mut grown = model.clone();
    grow(&mut tree, &mut grown);
    drive(&mut tree, &mut disk, &mut rng).expect_err("the disk is full");
    drive_sealed(&mut tree, &mut disk, &mut rng).expect_err("it still is");
    disk.set_capacity(None);
    let root = drive_sealed(&mut tree, &mut disk, &mut rng).expect("space is back");
    assert_same(&root, &grown, "after space came back");
    tree.check(&root).expect("the tree is whole");
}

#[test]
fn the_reserve_carries_commits_on_a_full_disk_and_says_so() {
    let mut disk = SimDisk::new();
    let mut rng = Rng::new(9);
    let options = TreeOptions {
        reserve_bytes: 64 * PAGE,
        ..small_options(512)
    };
    let mut tree = Tree::open(&mut disk, options).expect("a new tree opens");
    let mut put = |tree: &mut Tree, disk: &mut SimDisk, number: u32| {
        tree.begin(user(1)).expect("a commit opens");
        tree.put(0, &number.to_be_bytes(), Bytes::from(vec![1; 300]))
            .expect("puts work");
        drive(tree, disk, &mut rng)
    };
    put(&mut tree, &mut disk, 0).expect("there is space");
    assert!(!tree.space_low());
    disk.set_capacity(Some(disk.used()));
    let done = (1..500)
        .take_while(|&number| put(&mut tree, &mut disk, number).is_ok())
        .count();
    assert!(tree.space_low(), "the reserve was touched");
    assert!(done >= 50, "the reserve carried only {done} commits");
    assert!(tree.abandon());
    disk.set_capacity(None);
    put(&mut tree, &mut disk, 1000).expect("space is back");
    assert!(!tree.space_low());
}

#[test]
fn the_address_space_is_a_bound_and_not_a_crash() {
    let mut disk = SimDisk::new();
    let options = TreeOptions {
        reserve_address_bytes: 40 * PAGE,
        ..small_options(512)
    };
    let mut tree = Tree::open(&mut disk, options).expect("a new tree opens");
    tree.begin(user(1)).expect("a commit opens");
    tree.put(0, b"k", Bytes::from(vec![0; 40_000])).expect("puts work");
    let error = tree.commit_blocking(&mut disk).expect_err("it does not fit");
    assert!(matches!(error, TreeError::NoSpace { .. }), "{error}");
    assert!(tree.abandon());
    tree.begin(user(1)).expect("a commit opens");
    tree.put(0, b"k", Bytes::from(vec![0; 4_000])).expect("puts work");
    tree.commit_blocking(&mut disk).expect("this fits");
}

#[test]
fn bounds_are_errors_that_change_nothing() {
    let mut disk = SimDisk::new();
    let mut tree = Tree::open(&mut disk, small_options(512)).expect("a new tree opens");
    let large = storage::tree::MetaUser {
        extra: Bytes::from(vec![0; 430]),
        ..user(1)
    };
    assert!(matches!(tree.begin(large), Err(TreeError::TooLarge { bound: 428, .. })));
    tree.begin(user(1)).expect("a commit opens");
    let error = tree
        .put(0, &vec![0; 32769], Bytes::new())
        .expect_err("the key is too long");
    assert_eq!(
        error.to_string(),
        "length of the key in bytes is 32769, the bound is 32768"
    );
    tree.put(0, &vec![0; 32768], Bytes::new()).expect("the longest key");
    tree.put(0, b"", Bytes::new()).expect("the shortest");
    let root = tree.commit_blocking(&mut disk).expect("commits work");
    assert_eq!(root.get(0, &vec![0; 32768]).expect("reads work"), Some(&[][..]));
    assert_eq!(root.get(0, b"").expect("reads work"), Some(&[][..]));
    assert_eq!(root.count(0), 2);
    for page_size in [0, 100, 513, 131_072] {
        let bad = TreeOptions {
            page_size,
            ..small_options(512)
        };
        assert!(
            matches!(Tree::open(&mut SimDisk::new(), bad), Err(TreeError::BadOption(_))),
            "{page_size}"
        );
    }
}

#[test]
fn a_commit_without_changes_writes_the_meta_page_only() {
    let (mut disk, _, model) = planted(10);
    let mut tree = Tree::open(&mut disk, small_options(512)).expect("the tree opens");
    disk.record();
    tree.begin(user(77)).expect("a commit opens");
    assert!(!tree.delete(0, b"never there").expect("deletes work"));
    tree.seal();
    let root = loop {
        if let Progress::Done(root) = tree.step(&mut disk, 1).expect("commits work") {
            break root;
        }
        let mut ended = Vec::new();
        disk.poll(&mut ended);
        ended
            .into_iter()
            .for_each(|completion| tree.on_completion(completion).expect("no call fails"));
    };
    let calls: Vec<_> = disk.take_trace().into_iter().map(|call| (call.op, call.len)).collect();
    assert_eq!(calls, [("write", PAGE), ("sync", 0)]);
    assert_eq!(root.user(), &user(77));
    assert_same(&root, &model, "nothing changed");
}
