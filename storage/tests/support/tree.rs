//! What the tests of the tree share: a naive model, ways to drive a commit, comparing the two.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use storage::{
    io::{Disk, Op, OpenOptions, Output, SimDisk, WriteBuf, sim::Rng},
    tree::{MetaUser, Progress, Root, Tree, TreeError, TreeOptions},
};

/// Bucket and key -> value.
pub type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// How much more than usual to do.
pub fn scale() -> u64 {
    std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

/// Small pages, so that everything splits, merges and overflows all the time.
pub fn small_options(page_size: usize) -> TreeOptions {
    TreeOptions {
        page_size,
        growth_step_bytes: 16 * page_size as u64,
        reserve_address_bytes: 64 << 20,
        ..TreeOptions::default()
    }
}

/// Seals the open commit and drives it to the end in small steps, releasing held completions as the seed says.
pub fn drive(tree: &mut Tree, disk: &mut SimDisk, rng: &mut Rng) -> Result<Arc<Root>, TreeError> {
    tree.seal();
    drive_sealed(tree, disk, rng)
}

/// [`drive`] for a sealed commit.
pub fn drive_sealed(tree: &mut Tree, disk: &mut SimDisk, rng: &mut Rng) -> Result<Arc<Root>, TreeError> {
    drive_watched(tree, disk, rng, |_| {})
}

/// [`drive_sealed`], showing the disk after every step and every completion.
pub fn drive_watched(
    tree: &mut Tree,
    disk: &mut SimDisk,
    rng: &mut Rng,
    mut watch: impl FnMut(&SimDisk),
) -> Result<Arc<Root>, TreeError> {
    let mut completions = Vec::new();
    loop {
        let budget = 1 + rng.below(20) as usize;
        let progress = tree.step(disk, budget)?;
        watch(disk);
        match progress {
            Progress::Done(root) => return Ok(root),
            // Stepping again without a completion must be harmless.
            Progress::Waiting if rng.below(3) == 0 => {}
            Progress::Waiting => {
                disk.release(1 + rng.below(4) as usize);
                watch(disk);
            }
            Progress::Working => {}
        }
        disk.poll(&mut completions);
        for completion in completions.drain(..) {
            assert!(tree.owns(completion.token));
            tree.on_completion(completion)?;
        }
    }
}

/// What a commit stores beside the data, made up from a number.
pub fn user(index: u64) -> MetaUser {
    MetaUser {
        applied_index: index,
        applied_term: index / 7,
        conf_state: Bytes::from(vec![index as u8; (index % 40) as usize]),
        extra: Bytes::from(vec![!index as u8; (index % 11) as usize]),
    }
}

/// Everything a root holds.
pub fn contents(root: &Root) -> Result<Model, TreeError> {
    let mut all = Model::new();
    for bucket in root.buckets() {
        let mut cursor = root.cursor(bucket);
        while let Some((key, value)) = cursor.next()? {
            all.insert((bucket, key.to_vec()), value.to_vec());
        }
    }
    Ok(all)
}

/// Panics with the first difference.
pub fn assert_same(root: &Root, model: &Model, context: &str) {
    let found = contents(root).unwrap_or_else(|error| panic!("{context}: {error}"));
    if &found == model {
        return;
    }
    for (key, value) in model {
        assert!(
            found.get(key) == Some(value),
            "{context}: wrong or missing {key:?} at txid {}",
            root.txid()
        );
    }
    let extra = found.keys().find(|key| !model.contains_key(*key));
    panic!("{context}: invented {extra:?} at txid {}", root.txid());
}

/// Bytes made up from a number.
pub fn value_of(rng: &mut Rng, len: usize) -> Vec<u8> {
    let first = rng.next();
    (0..len)
        .map(|index| (first.wrapping_add(index as u64 * 31)) as u8)
        .collect()
}

/// A disk with one file.
pub fn disk_with(path: &str, bytes: Vec<u8>) -> SimDisk {
    let mut disk = SimDisk::new();
    let options = OpenOptions {
        create: true,
        write: true,
        ..OpenOptions::default()
    };
    let Ok(Output::File(file)) = disk.call(Op::Open {
        path: path.to_owned(),
        options,
    }) else {
        panic!("a new file opens");
    };
    let data = WriteBuf::Bytes(bytes.into());
    disk.call(Op::Write { file, offset: 0, data })
        .expect("a new file takes a write");
    disk.kill()
}
