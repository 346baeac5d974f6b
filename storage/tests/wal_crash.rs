//! The crash explorer of the log: power fails between any two calls, and inside the recovery from that, and again.
//!
//! At each call some of the legal disks are opened: everything acknowledged must be there, nothing may be invented, and
//! the log must go on from there. `ETCORE_TEST_SCALE` multiplies the number of seeds.

#[path = "wal/driver.rs"]
mod driver;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use driver::{Driver, Model, entry, open, random_step, scale};
use storage::{
    io::{Disk, ErrorKind, SimDisk, sim::Fault, sim::Rng},
    wal::{Space, WalError},
};

/// Explores the images of one run; counts them.
struct Explorer {
    model: Arc<Mutex<Model>>,
    images: Arc<AtomicU64>,
    rng: Rng,
    what: String,
}

impl Explorer {
    /// Opens some of the disks a power failure may leave now.
    fn explore(&mut self, disk: &SimDisk, count: usize) {
        let model = self.model.lock().unwrap().clone();
        for image in disk.legal_images(count, self.rng.next()) {
            let nested = self.rng.below(16) == 0;
            self.check(image, &model, nested);
        }
    }

    fn check(&mut self, mut image: SimDisk, model: &Model, nested: bool) {
        self.images.fetch_add(1, Ordering::Relaxed);
        let inside: Arc<Mutex<Vec<SimDisk>>> = Arc::default();
        if nested {
            let (inside, mut rng) = (inside.clone(), self.rng.clone());
            image.on_call(move |disk| inside.lock().unwrap().push(disk.crash_image(rng.next())));
        }
        let before = image.kill();
        let (mut wal, recovered) = open(&mut image)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}\n{}", self.what, brief(&before), brief(&image)));
        image.clear_hook();
        model
            .check(&recovered)
            .unwrap_or_else(|why| panic!("{}: {why}", self.what));
        for image in std::mem::take(&mut *inside.lock().unwrap()) {
            self.check(image, model, false);
        }
        if self.rng.below(4) != 0 {
            return;
        }
        // What was recovered is a promise now; go on, fail once more, look again.
        let mut after = model.clone();
        after.reopened(&recovered);
        let (again, recovered_again) = open(&mut image.crash_image(self.rng.next()))
            .unwrap_or_else(|error| panic!("{}, opened twice: {error}", self.what));
        drop(again);
        after
            .check(&recovered_again)
            .unwrap_or_else(|why| panic!("{}, opened twice: {why}", self.what));
        let first = after.last_index() + 1;
        wal.append(&[entry(77, first, 100), entry(77, first + 1, 6000)], None, None);
        wal.pump(&mut image).unwrap();
        while wal.has_work_in_flight() {
            let mut ended = Vec::new();
            image.poll(&mut ended);
            for completion in ended {
                wal.on_completion(&mut image, completion).unwrap();
            }
        }
        let (_, recovered) = open(&mut image.crash_image(self.rng.next()))
            .unwrap_or_else(|error| panic!("{}, appended after recovery: {error}", self.what));
        let tail: Vec<u64> = recovered
            .entries
            .iter()
            .rev()
            .take(2)
            .map(|entry| entry.index)
            .collect();
        assert_eq!(
            tail,
            [first + 1, first],
            "{}: appends after recovery are lost",
            self.what
        );
    }
}

fn explore_seed(seed: u64, steps: u64, images_per_call: usize, images: &Arc<AtomicU64>) {
    let mut rng = Rng::new(seed);
    let disk = SimDisk::new();
    let model: Arc<Mutex<Model>> = Arc::default();
    let what = format!("seed {seed}");
    let mut explorer = Explorer {
        model: model.clone(),
        images: images.clone(),
        rng: Rng::new(!seed),
        what,
    };
    disk.on_call(move |disk| explorer.explore(disk, images_per_call));
    let mut driver = Driver::new(disk.clone());
    driver.model = model;
    driver.disk.hold_completions(Some(rng.next()));
    for _ in 0..steps {
        random_step(&mut driver, &mut rng).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    driver.drain().unwrap();
    disk.clear_hook();
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_power_fails() {
    let images = Arc::new(AtomicU64::new(0));
    for seed in 0..6 * scale() {
        explore_seed(seed, 120, 3, &images);
    }
    println!("{} images", images.load(Ordering::Relaxed));
}

#[test]
fn every_subset_of_the_writes_in_flight_is_survived() {
    let images = Arc::new(AtomicU64::new(0));
    for seed in 1000..1000 + 2 * scale() {
        explore_seed(seed, 40, 40, &images);
    }
    println!("{} images", images.load(Ordering::Relaxed));
}

/// Every batch head on the disk, for messages.
fn brief(disk: &SimDisk) -> String {
    let mut text = String::new();
    for (path, offset, ..) in batches(disk) {
        let bytes = disk.contents(&path).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[offset as usize + at..][..8].try_into().unwrap());
        let (sequence, epoch, through, start, segment) = (word(24), word(32), word(40), word(48), word(56));
        text += &format!(
            "{path} {offset}: batch {sequence} epoch {epoch} through {through} start {start} segment {segment}\n"
        );
    }
    text
}

/// Places of whole batches: file, offset, length of header and payload, sequence number.
fn batches(disk: &SimDisk) -> Vec<(String, u64, usize, u64)> {
    let mut found = Vec::new();
    for path in disk.file_names().into_iter().filter(|path| path.ends_with(".seg")) {
        let bytes = disk.contents(&path).unwrap();
        for (block, head) in bytes.chunks(4096).enumerate() {
            if head.starts_with(b"ecWALb1\n") {
                let payload = u32::from_le_bytes(head[72..76].try_into().unwrap()) as usize;
                let sequence = u64::from_le_bytes(head[24..32].try_into().unwrap());
                found.push((path.clone(), block as u64 * 4096, 96 + payload, sequence));
            }
        }
    }
    found.sort_by_key(|batch| batch.3);
    found
}

#[test]
fn rot_in_any_byte_of_a_durable_batch_is_reported_with_its_place() {
    let mut driver = Driver::new(SimDisk::new());
    for index in 1..=14 {
        driver.put(200 * (index % 5) + 3000 * (index / 12)).unwrap();
    }
    let batches = batches(&driver.disk);
    assert!(batches.len() > 14, "{batches:?}");
    let mut checked = 0;
    for (path, offset, len, sequence) in &batches[..batches.len() - 1] {
        for at in (0..*len).step_by(if *len > 400 { 7 } else { 1 }) {
            let mut image = driver.disk.kill();
            image.flip(path, offset + at as u64, 1, 1 << (at % 8));
            match open(&mut image) {
                Err(WalError::Corrupt {
                    file, offset: place, ..
                }) => {
                    assert_eq!((&file, place), (path, *offset), "batch {sequence}, byte {at}");
                }
                other => panic!(
                    "batch {sequence}, byte {at}: {:?}",
                    other.map(|(_, recovered)| recovered.entries.len())
                ),
            }
            checked += 1;
        }
    }
    assert!(checked > 1500, "{checked}");
}

#[test]
fn a_lost_or_misdirected_durable_write_is_corruption_and_not_a_torn_tail() {
    let mut driver = Driver::new(SimDisk::new());
    for _ in 0..8 {
        driver.put(300).unwrap();
    }
    let batches = batches(&driver.disk);
    let (path, offset, ..) = &batches[3];
    let lost = driver.disk.kill();
    lost.overwrite(path, *offset, &[0; 4096]);
    let error = open(&mut lost.clone()).unwrap_err();
    assert!(error.to_string().contains("found zeros"), "{error}");
    assert!(error.to_string().contains("do not truncate"), "{error}");
    let misdirected = driver.disk.kill();
    let block = misdirected.contents(path).unwrap()[*offset as usize + 4096..][..4096].to_vec();
    misdirected.overwrite(path, *offset, &block);
    assert!(matches!(open(&mut misdirected.clone()), Err(WalError::Corrupt { .. })));
}

#[test]
fn rot_in_the_last_batch_looks_torn_unless_the_log_was_settled() {
    let mut driver = Driver::new(SimDisk::new());
    driver.put(300).unwrap();
    driver.put(300).unwrap();
    let (path, offset, ..) = batches(&driver.disk).pop().unwrap();
    let unsettled = driver.disk.kill();
    unsettled.flip(&path, offset + 100, 1, 1);
    let (_, recovered) = open(&mut unsettled.clone()).unwrap();
    assert_eq!(recovered.entries.len(), 1);
    assert_eq!(
        recovered.torn_tail.map(|torn| (torn.file, torn.offset)),
        Some((path.clone(), offset))
    );
    driver.wal.settle();
    driver.drain().unwrap();
    let settled = driver.disk.kill();
    settled.flip(&path, offset + 100, 1, 1);
    assert!(matches!(open(&mut settled.clone()), Err(WalError::Corrupt { .. })));
}

#[test]
fn whole_batches_behind_a_cut_never_revive() {
    let mut driver = Driver::new(SimDisk::new());
    driver.drain().unwrap();
    driver.disk.hold_completions(Some(4));
    for index in 1..=3 {
        driver.append(&[entry(1, index, 100)], None, None);
        driver.turn().unwrap();
    }
    // The first of three writes in flight is lost, the others landed.
    let mut image = driver.disk.kill();
    let (path, offset, ..) = batches(&image).into_iter().find(|batch| batch.3 == 2).unwrap();
    image.overwrite(&path, offset, &[0; 4096]);
    let (mut wal, recovered) = open(&mut image).unwrap();
    assert!(recovered.entries.is_empty());
    assert_eq!(
        recovered.torn_tail.map(|torn| (torn.sequence, torn.batches_cut)),
        Some((2, 2))
    );
    for _ in 0..3 {
        let (_, recovered) = open(&mut image.kill()).unwrap();
        assert!(recovered.entries.is_empty(), "cut batches came back");
    }
    // The very batch that was lost, written again: without a new epoch the chain of checksums would go on behind it.
    wal.append(&[entry(1, 1, 100)], None, None);
    wal.pump(&mut image).unwrap();
    let (_, recovered) = open(&mut image.kill()).unwrap();
    assert_eq!(recovered.entries, [entry(1, 1, 100)]);
}

#[test]
fn a_log_without_its_meta_file_is_not_made_anew() {
    let mut driver = Driver::new(SimDisk::new());
    driver.put(300).unwrap();
    let mut image = driver.disk.kill();
    image.call(storage::io::Op::Remove("member/wal/meta".into())).unwrap();
    let error = open(&mut image).unwrap_err();
    assert!(error.to_string().contains("member/wal/meta is corrupt"), "{error}");
}

#[test]
fn a_full_disk_stops_spares_first_then_appends_wait_and_go_on_when_space_returns() {
    let mut driver = Driver::new(SimDisk::new());
    driver.drain().unwrap();
    assert!(matches!(driver.wal.space(), Space::Ready));
    driver.disk.set_capacity(Some(driver.disk.used()));
    let mut states = Vec::new();
    let mut last = driver.wal.persisted();
    for _ in 0..40 {
        last = driver.put(1000).unwrap();
        states.push(match driver.wal.space() {
            Space::Ready => 'r',
            Space::Preparing => 'p',
            Space::SpareUnavailable(_) => 'u',
            Space::Exhausted(_) => 'x',
        });
    }
    states.dedup();
    assert_eq!(states, ['r', 'u', 'x']);
    assert!(driver.wal.persisted() < last && driver.wal.queued_bytes() > 0);
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    driver.model().check(&recovered).unwrap();

    driver.disk.set_capacity(None);
    driver.wal.retry_space();
    driver.drain().unwrap();
    assert_eq!(driver.wal.persisted(), last);
    assert!(matches!(driver.wal.space(), Space::Ready));
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    assert_eq!(recovered.entries.len(), 40);
}

#[test]
fn releasing_entries_gets_a_full_log_going_again() {
    let mut driver = Driver::new(SimDisk::new());
    for _ in 0..20 {
        driver.put(1000).unwrap();
    }
    driver.disk.set_capacity(Some(driver.disk.used()));
    while !matches!(driver.wal.space(), Space::Exhausted(_)) {
        driver.put(1000).unwrap();
    }
    let durable = driver.model().acknowledged.last_index();
    driver.release(durable);
    driver.drain().unwrap();
    assert_eq!(driver.wal.queued_bytes(), 0, "{:?}", driver.wal);
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    driver.model().check(&recovered).unwrap();
}

#[test]
fn a_failed_write_poisons_the_log_and_nothing_more_is_acknowledged() {
    for kind in [ErrorKind::Io, ErrorKind::NoSpace] {
        let mut driver = Driver::new(SimDisk::new());
        driver.put(100).unwrap();
        let persisted = driver.wal.persisted();
        driver.disk.inject(Fault {
            op: Some("write"),
            path: "00000000.seg".into(),
            after: 0,
            kind,
        });
        assert!(matches!(driver.put(100), Err(WalError::Disk(_))));
        assert!(matches!(driver.put(100), Err(WalError::Disk(_))));
        assert_eq!(driver.wal.persisted(), persisted);
        let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
        driver.model().check(&recovered).unwrap();
    }
}

#[test]
fn any_call_that_fails_while_opening_is_an_error_and_the_next_opening_is_well() {
    let mut driver = Driver::new(SimDisk::new());
    for _ in 0..10 {
        driver.put(1000).unwrap();
    }
    let before = driver.disk.kill();
    let calls = {
        let mut disk = before.kill();
        open(&mut disk).unwrap();
        disk.calls()
    };
    assert!(calls > 10);
    for after in 0..calls {
        let mut disk = before.kill();
        disk.inject(Fault {
            op: None,
            path: String::new(),
            after,
            kind: ErrorKind::Io,
        });
        assert!(matches!(open(&mut disk), Err(WalError::Disk(_))), "call {after}");
        let (_, recovered) = open(&mut disk.kill()).unwrap();
        driver.model().check(&recovered).unwrap();
    }
}

#[test]
fn the_log_does_not_start_at_a_segment_whose_opener_is_still_in_flight() {
    let mut driver = Driver::new(SimDisk::new());
    driver.put(3000).unwrap();
    driver.put(3000).unwrap();
    driver.release(2);
    driver.disk.hold_completions(Some(1));
    for index in 3..=4 {
        driver.append(&[entry(1, index, 3000)], None, None);
        driver.turn().unwrap();
    }
    assert!(driver.wal.segment_count() == 2 && driver.disk.held() >= 2);
    for mut image in driver.disk.legal_images(64, 1) {
        let (_, recovered) = open(&mut image).unwrap();
        driver.model().check(&recovered).unwrap();
    }
}
