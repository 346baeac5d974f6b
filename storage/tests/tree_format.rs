//! The bytes of the tree's file, read by a second reader that knows docs/FORMAT.md only.

use bytes::Bytes;
use storage::{
    io::{SimDisk, sim::Rng},
    tree::Tree,
};

#[path = "support/tree.rs"]
mod support;

use support::{Model, drive, small_options, user, value_of};

const PAGE: usize = 512;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A run by what points at it: page, checksum and count stand in a row in every kind of element.
fn run(file: &[u8], pointer: &[u8], kind: u8) -> Vec<u8> {
    let (page, crc, pages) = (u64_at(pointer, 0), u32_at(pointer, 8), u32_at(pointer, 12));
    let start = page as usize * PAGE;
    let run = &file[start..start + pages as usize * PAGE];
    assert_eq!(crc32c::crc32c(run), crc);
    assert_eq!((&run[..4], u64_at(run, 8)), (&[kind, 0, 0, 0][..], page));
    run.to_vec()
}

fn read_node(file: &[u8], pointer: &[u8], height: u32, bucket: u8, into: &mut Model) {
    let node = run(file, pointer, if height == 1 { 3 } else { 2 });
    for index in 0..u32_at(&node, 4) as usize {
        if height > 1 {
            let element = &node[16 + 24 * index..][..24];
            read_node(file, &element[8..], height - 1, bucket, into);
        } else {
            let element = &node[16 + 12 * index..][..12];
            let key_at = u32_at(element, 0) as usize;
            let value_at = key_at + u32_at(element, 4) as usize;
            let end = value_at + u32_at(element, 8) as usize;
            into.insert((bucket, node[key_at..value_at].to_vec()), node[value_at..end].to_vec());
        }
    }
}

fn planted() -> (Vec<u8>, Model) {
    let (mut disk, mut rng, mut model) = (SimDisk::new(), Rng::new(5), Model::new());
    let mut tree = Tree::open(&mut disk, small_options(PAGE)).expect("a new tree opens");
    for commit in 1..=4 {
        tree.begin(user(commit)).expect("a commit opens");
        for _ in 0..100 {
            let (bucket, number) = ([1, 200][rng.below(2) as usize], rng.below(1000));
            let len = if rng.below(20) == 0 { 2000 } else { rng.below(50) } as usize;
            let (key, value) = (format!("{number}").into_bytes(), value_of(&mut rng, len));
            tree.put(bucket, &key, Bytes::from(value.clone())).expect("puts work");
            model.insert((bucket, key), value);
        }
        drive(&mut tree, &mut disk, &mut rng).expect("commits work");
    }
    (disk.contents("tree").expect("the file is there"), model)
}

#[test]
fn the_documented_format_is_enough_to_read_the_file() {
    let (file, model) = planted();
    // A new file holds txids 0 and 1, so the fourth commit is 5 and its meta page the odd one.
    let meta = &file[PAGE..2 * PAGE];
    assert_eq!(&meta[..8], b"ETCTREE\n");
    assert_eq!(
        [u32_at(meta, 8), u32_at(meta, 12), u32_at(meta, 16), u32_at(meta, 20)],
        [1, 1, PAGE as u32, 0]
    );
    assert_eq!((u64_at(meta, 24), u64_at(&file, 24)), (5, 4));
    assert_eq!(crc32c::crc32c(&meta[..PAGE - 4]), u32_at(meta, PAGE - 4));
    let stored = user(4);
    assert_eq!(
        (u64_at(meta, 56), u64_at(meta, 64)),
        (stored.applied_index, stored.applied_term)
    );
    let (conf_end, extra_end) = (
        80 + u32_at(meta, 72) as usize,
        80 + (u32_at(meta, 72) + u32_at(meta, 76)) as usize,
    );
    assert_eq!(
        (&meta[80..conf_end], &meta[conf_end..extra_end]),
        (&stored.conf_state[..], &stored.extra[..])
    );
    assert!(u64_at(meta, 48) as usize * PAGE <= file.len());

    let directory = run(&file, &meta[32..48], 1);
    let (mut found, mut entries) = (Model::new(), 0);
    assert_eq!(u32_at(&directory, 4), 2);
    for (index, bucket) in [1, 200].into_iter().enumerate() {
        let element = &directory[16 + 32 * index..][..32];
        assert_eq!(u32_at(element, 0), u32::from(bucket));
        entries += u64_at(element, 24);
        read_node(&file, &element[8..24], u32_at(element, 4), bucket, &mut found);
    }
    assert!(found == model);
    assert_eq!(entries, model.len() as u64);
}

/// Hexadecimal without the zeros at the end.
fn hex(bytes: &[u8]) -> String {
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes[..used].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_small_file_has_exactly_these_bytes() {
    let mut disk = SimDisk::new();
    let mut tree = Tree::open(&mut disk, small_options(PAGE)).expect("a new tree opens");
    tree.begin(user(3)).expect("a commit opens");
    tree.put(7, b"ab", Bytes::from_static(b"xyz")).expect("puts work");
    tree.put(7, b"c", Bytes::new()).expect("puts work");
    tree.commit_blocking(&mut disk).expect("commits work");
    let file = disk.contents("tree").expect("the file is there");
    let leaf = "0300000002000000\
                0200000000000000\
                280000000200000003000000\
                2d0000000100000000000000\
                616278797a63";
    assert_eq!(hex(&file[2 * PAGE..3 * PAGE]), leaf);
    let directory = "0100000001000000\
                     0300000000000000\
                     07000000010000000200000000000000";
    assert!(
        hex(&file[3 * PAGE..4 * PAGE]).starts_with(directory),
        "{}",
        hex(&file[3 * PAGE..4 * PAGE])
    );
    let meta = "455443545245450a\
                0100000001000000\
                0002000000000000\
                0200000000000000\
                0300000000000000";
    assert!(hex(&file[..PAGE]).starts_with(meta), "{}", hex(&file[..PAGE]));
    let sums = [&file[2 * PAGE..3 * PAGE], &file[3 * PAGE..4 * PAGE], &file[..PAGE - 4]].map(crc32c::crc32c);
    assert_eq!(
        sums.map(|sum| format!("{sum:08x}")),
        ["ca11147e", "edac0100", "907bb248"]
    );
}
