//! A damaged tree: what can be read of it is what was written, now or one commit before; the rest is refused.
#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use net::fuzzing::Choices;
use storage::io::{Disk, SimDisk};
use storage::tree::{MetaUser, Progress, Tree, TreeError, TreeOptions};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

thread_local!(static PLANTED: (SimDisk, [Rows; 2]) = planted());

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let (mut disk, versions) = PLANTED.with(|(disk, versions)| (disk.kill(), versions.clone()));
    let len = disk.contents("tree").expect("it was planted").len();
    while !choices.is_empty() {
        // Half of them hit a meta page.
        let end = if choices.byte() < 128 { 1024 } else { len };
        let offset = choices.below(end);
        let count = (1 + choices.below(64)).min(len - offset);
        disk.overwrite("tree", offset as u64, choices.bytes(count));
    }
    let Ok(rows) = read(&mut disk) else { return };
    assert!(versions.contains(&rows), "damage was believed");
});

fn read(disk: &mut SimDisk) -> Result<Rows, TreeError> {
    let tree = Tree::open(disk, options())?;
    let root = tree.root();
    let mut rows = Rows::new();
    for bucket in root.buckets() {
        let mut cursor = root.cursor(bucket);
        while let Some((key, value)) = cursor.next()? {
            rows.insert(key.to_vec(), value.to_vec());
        }
    }
    Ok(rows)
}

/// A tree of several levels, and what it holds: one commit before the last, and now.
fn planted() -> (SimDisk, [Rows; 2]) {
    let mut disk = SimDisk::new();
    let mut tree = Tree::open(&mut disk, options()).expect("a new tree opens");
    let (mut before, mut rows) = (Rows::new(), Rows::new());
    for commit in 1..5 {
        before = rows.clone();
        let user = MetaUser {
            applied_index: commit,
            ..MetaUser::default()
        };
        tree.begin(user).expect("a commit opens");
        for n in 0..60_u64 {
            let key = format!("key {:03}", (n * 37 + commit * 11) % 101).into_bytes();
            let len = if n % 20 == 0 { 1500 } else { n as usize };
            tree.put(0, &key, Bytes::from(vec![commit as u8; len]))
                .expect("puts work");
            rows.insert(key, vec![commit as u8; len]);
        }
        tree.seal();
        let mut done = Vec::new();
        while !matches!(tree.step(&mut disk, 64).expect("commits work"), Progress::Done(_)) {
            disk.poll(&mut done);
            for completion in done.drain(..) {
                tree.on_completion(completion).expect("the disk works");
            }
        }
    }
    (disk, [before, rows])
}

fn options() -> TreeOptions {
    TreeOptions {
        page_size: 512,
        growth_step_bytes: 16 * 512,
        reserve_address_bytes: 64 << 20,
        ..TreeOptions::default()
    }
}
