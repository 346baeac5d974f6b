//! Recovery of a damaged log: it says what is wrong or opens, and what it opens it opens again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use net::fuzzing::Choices;
use raft::{Entry, EntryType, HardState};
use storage::io::{Disk, SimDisk};
use storage::wal::{Identity, Recovered, Wal, WalError, WalOptions};

thread_local!(static WHOLE: SimDisk = whole());

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let mut disk = WHOLE.with(SimDisk::kill);
    let names: Vec<String> = disk.file_names();
    while !choices.is_empty() {
        let name = &names[choices.below(names.len())];
        let len = disk.contents(name).expect("its name was listed").len();
        let offset = choices.below(len);
        let count = (1 + choices.below(64)).min(len - offset);
        disk.overwrite(name, offset as u64, choices.bytes(count));
    }
    let Ok(first) = open(&mut disk) else { return };
    let mut disk = disk.kill();
    let again = open(&mut disk).expect("a log that was recovered opens");
    assert_eq!((again.hard_state, &again.entries), (first.hard_state, &first.entries));
});

/// A log of two segments.
fn whole() -> SimDisk {
    let mut disk = SimDisk::new();
    let (mut wal, _) = Wal::open(&mut disk, options(), Some(IDENTITY)).expect("a new log opens");
    for index in 1..40 {
        let entry = Entry {
            term: 1 + index / 10,
            index,
            entry_type: EntryType::Normal,
            data: Bytes::from(vec![index as u8; 600]),
        };
        let state = HardState {
            term: entry.term,
            vote: 1,
            commit: index - 1,
        };
        wal.append(&[entry], Some(state), None);
        wal.pump(&mut disk).expect("the disk works");
        while wal.has_work_in_flight() {
            let mut done = Vec::new();
            disk.poll(&mut done);
            for completion in done {
                wal.on_completion(&mut disk, completion).expect("the disk works");
            }
        }
    }
    disk
}

const IDENTITY: Identity = Identity {
    member_id: 1,
    cluster_id: 2,
};

fn options() -> WalOptions {
    WalOptions {
        segment_size_bytes: Some(16 << 10),
        max_batch_bytes: 4 << 10,
        log_id: 7,
        ..WalOptions::default()
    }
}

fn open(disk: &mut SimDisk) -> Result<Recovered, WalError> {
    Ok(Wal::open(disk, options(), Some(IDENTITY))?.1)
}
