//! The log against a list: what it says at the next boot is what it was told, through rotation, release and reopening.

#[path = "wal/driver.rs"]
mod driver;

use driver::{Driver, IDENTITY, entry, marker, open, options, random_step, scale};
use raft::HardState;
use storage::{
    io::{SimDisk, StdDisk, sim::Rng},
    wal::{Identity, Recovered, Wal, WalError},
};

#[test]
fn a_new_log_is_empty_and_stays_so() {
    let mut disk = SimDisk::new();
    let (wal, recovered) = open(&mut disk).unwrap();
    assert!(recovered.created && recovered.entries.is_empty());
    drop(wal);
    let mut again = disk.kill();
    let (_, recovered) = Wal::open(&mut again, options(), None).unwrap();
    assert_eq!(
        recovered,
        Recovered {
            identity: IDENTITY,
            created: false,
            hard_state: HardState::default(),
            snapshot: None,
            entries: Vec::new(),
            torn_tail: None,
        }
    );
}

#[test]
fn what_was_appended_is_there_at_the_next_boot() {
    let mut driver = Driver::new(SimDisk::new());
    let state = HardState {
        term: 3,
        vote: 2,
        commit: 0,
    };
    driver.append(&[entry(3, 1, 10), entry(3, 2, 0), entry(3, 3, 9000)], Some(state), None);
    driver.append(&[], None, Some(&marker(2, 3)));
    driver.append(&[entry(4, 3, 5)], None, None);
    driver.drain().unwrap();
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    assert_eq!(recovered.entries, [entry(3, 1, 10), entry(3, 2, 0), entry(4, 3, 5)]);
    assert_eq!(recovered.hard_state, state);
    assert_eq!(recovered.snapshot, Some(marker(2, 3)));
}

#[test]
fn nothing_is_written_before_the_pump_and_nothing_is_acknowledged_before_its_write_ends() {
    let mut driver = Driver::new(SimDisk::new());
    driver.drain().unwrap();
    driver.disk.hold_completions(Some(1));
    driver.disk.record();
    let token = driver.append(&[entry(1, 1, 100)], None, None);
    assert!(driver.disk.take_trace().is_empty());
    driver.turn().unwrap();
    assert_eq!(
        driver
            .disk
            .take_trace()
            .iter()
            .filter(|call| call.op == "write")
            .count(),
        1
    );
    assert!(driver.wal.persisted() < token && driver.wal.queued_bytes() > 100);
    driver.disk.release(1);
    driver.turn().unwrap();
    assert_eq!(driver.wal.persisted(), token);
    assert_eq!(driver.wal.queued_bytes(), 0);
}

#[test]
fn appends_that_wait_share_one_write() {
    let mut driver = Driver::new(SimDisk::new());
    driver.drain().unwrap();
    driver.disk.hold_completions(Some(1));
    driver.disk.record();
    for index in 1..=30 {
        driver.append(&[entry(1, index, 20)], None, None);
        driver.turn().unwrap();
    }
    let writes = driver
        .disk
        .take_trace()
        .iter()
        .filter(|call| call.op == "write")
        .count();
    assert_eq!(writes, 3, "the bound in flight");
    driver.drain().unwrap();
    let writes = driver
        .disk
        .take_trace()
        .iter()
        .filter(|call| call.op == "write")
        .count();
    assert_eq!(writes, 2, "the opener of a new segment, and all the other appends");
    assert_eq!(driver.wal.persisted().0, 30);
}

#[test]
fn acknowledgement_is_by_contiguous_prefix() {
    for seed in 0..20 {
        let mut driver = Driver::new(SimDisk::new());
        driver.drain().unwrap();
        driver.disk.hold_completions(Some(seed));
        let mut tokens = Vec::new();
        for index in 1..=3 {
            tokens.push(driver.append(&[entry(1, index, 20)], None, None));
            driver.turn().unwrap();
        }
        while driver.disk.release(1) > 0 {
            driver.turn().unwrap();
            let persisted = driver.wal.persisted();
            for image in driver.disk.legal_images(16, seed) {
                let (_, recovered) = open(&mut image.clone()).unwrap();
                assert!(recovered.entries.len() as u64 >= persisted.0, "seed {seed}");
            }
        }
        assert_eq!(driver.wal.persisted(), tokens[2], "seed {seed}");
    }
}

#[test]
fn a_commit_index_alone_is_not_worth_a_write_and_rides_along() {
    let mut driver = Driver::new(SimDisk::new());
    driver.put(10).unwrap();
    let before = driver.wal.written_bytes();
    let state = HardState {
        commit: 1,
        ..HardState::default()
    };
    let token = driver.append(&[], Some(state), None);
    driver.drain().unwrap();
    assert_eq!((driver.wal.written_bytes(), driver.wal.persisted()), (before, token));
    driver.put(10).unwrap();
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    assert_eq!(recovered.hard_state, state);
}

#[test]
fn settling_writes_an_empty_batch_once_and_the_waiting_commit_index() {
    let mut driver = Driver::new(SimDisk::new());
    driver.put(10).unwrap();
    let state = HardState {
        commit: 1,
        ..HardState::default()
    };
    driver.append(&[], Some(state), None);
    driver.wal.settle();
    driver.drain().unwrap();
    let written = driver.wal.written_bytes();
    driver.wal.settle();
    driver.drain().unwrap();
    assert_eq!(
        driver.wal.written_bytes(),
        written,
        "a settled log is not written again"
    );
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    assert_eq!(recovered.hard_state, state);
}

#[test]
fn an_entry_larger_than_a_segment_spans_several() {
    let mut driver = Driver::new(SimDisk::new());
    driver.put(100_000).unwrap();
    driver.put(10).unwrap();
    assert!(driver.wal.segment_count() > 6);
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    assert_eq!(recovered.entries, [entry(1, 1, 100_000), entry(1, 2, 10)]);
}

#[test]
fn released_segments_are_recycled_and_the_log_stops_growing() {
    let mut driver = Driver::new(SimDisk::new());
    for index in 1..=400 {
        driver.put(1000).unwrap();
        driver.release(index);
    }
    assert!(driver.wal.segment_count() <= 2, "{:?}", driver.wal);
    assert!(driver.disk.file_names().len() <= 5, "{:?}", driver.disk.file_names());
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    driver.model().check(&recovered).unwrap();
    assert!(recovered.entries.len() < 12, "{} entries", recovered.entries.len());
}

#[test]
fn a_burst_of_segments_is_given_back() {
    let mut driver = Driver::new(SimDisk::new());
    for _ in 0..100 {
        driver.put(3000).unwrap();
    }
    let burst = driver.disk.file_names().len();
    driver.release(100);
    driver.put(10).unwrap();
    driver.put(10).unwrap();
    assert!(
        burst > 20 && driver.disk.file_names().len() <= 6,
        "{burst}, then {:?}",
        driver.disk.file_names()
    );
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    driver.model().check(&recovered).unwrap();
}

#[test]
fn hard_state_and_marker_outlive_the_segments_they_were_written_in() {
    let mut driver = Driver::new(SimDisk::new());
    let state = HardState {
        term: 9,
        vote: 3,
        commit: 0,
    };
    driver.append(&[entry(9, 1, 10)], Some(state), Some(&marker(1, 9)));
    driver.drain().unwrap();
    for index in 2..=100 {
        driver.put(2000).unwrap();
        driver.release(index);
    }
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    assert_eq!((recovered.hard_state, recovered.snapshot), (state, Some(marker(1, 9))));
}

#[test]
fn a_marker_ahead_of_the_log_replaces_its_entries() {
    let mut driver = Driver::new(SimDisk::new());
    driver.put(10).unwrap();
    driver.append(&[entry(2, 51, 3)], None, Some(&marker(50, 2)));
    driver.drain().unwrap();
    let (_, recovered) = open(&mut driver.disk.crash_image(1)).unwrap();
    assert_eq!(recovered.entries, [entry(2, 51, 3)]);
}

#[test]
fn random_work_with_reopening_equals_the_model() {
    for seed in 0..40 * scale() {
        let mut rng = Rng::new(seed);
        let mut driver = Driver::new(SimDisk::new());
        for step in 0..400 {
            random_step(&mut driver, &mut rng).unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            if rng.below(60) != 0 {
                continue;
            }
            let mut disk = driver.disk.kill();
            let (wal, recovered) = open(&mut disk).unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            let mut model = driver.model().clone();
            model
                .check(&recovered)
                .unwrap_or_else(|why| panic!("seed {seed}, step {step}: {why}"));
            model.reopened(&recovered);
            driver = Driver {
                disk,
                wal,
                model: std::sync::Arc::new(std::sync::Mutex::new(model)),
            };
            let held = rng.below(2) == 0;
            driver.disk.hold_completions(held.then(|| rng.next()));
        }
    }
}

#[test]
fn the_log_works_on_a_real_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new(dir.path()).unwrap();
    let (mut wal, _) = Wal::open(&mut disk, options(), Some(IDENTITY)).unwrap();
    for index in 1..=50 {
        wal.append(&[entry(1, index, 1500)], None, None);
        drain(&mut wal, &mut disk);
        wal.release(index.saturating_sub(20));
    }
    drop((wal, disk));
    let mut disk = StdDisk::new(dir.path()).unwrap();
    let (_, recovered) = Wal::open(&mut disk, options(), None).unwrap();
    assert!(recovered.entries.len() >= 20 && recovered.entries.last() == Some(&entry(1, 50, 1500)));
}

fn drain(wal: &mut Wal, disk: &mut dyn storage::io::Disk) {
    wal.pump(disk).unwrap();
    while wal.has_work_in_flight() {
        let mut ended = Vec::new();
        disk.poll(&mut ended);
        for completion in ended {
            wal.on_completion(disk, completion).unwrap();
        }
    }
}

#[test]
fn a_log_of_somebody_else_is_refused() {
    let mut disk = SimDisk::new();
    open(&mut disk).unwrap();
    let other = Identity {
        member_id: 0xb2,
        ..IDENTITY
    };
    let error = Wal::open(&mut disk.kill(), options(), Some(other)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "write-ahead log: it belongs to member a1 of cluster c1, not to member b2 of cluster c1; check the data \
         directory, the name and the initial cluster"
    );
}

#[test]
fn a_missing_log_and_impossible_options_are_said_so() {
    let error = Wal::open(&mut SimDisk::new(), options(), None).unwrap_err();
    assert!(matches!(error, WalError::Missing(_)), "{error}");
    for size in [0, 4096, 16385, 1 << 40] {
        let options = storage::wal::WalOptions {
            segment_size_bytes: Some(size),
            ..options()
        };
        let error = Wal::open(&mut SimDisk::new(), options, Some(IDENTITY)).unwrap_err();
        assert!(error.to_string().contains("multiple of 4096"), "{error}");
    }
}
