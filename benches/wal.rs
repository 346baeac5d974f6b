//! What a durable append costs: entries of put size, so many in one group, each group waited for before the next.
//!
//! `cargo bench --bench wal`; writes to the disk that holds the target directory.

use std::time::Instant;

use hdrhistogram::Histogram;
use raft::Entry;
use storage::io::{Disk, StdDisk};
use storage::wal::{Identity, Wal, WalOptions};

/// A put of an 8-byte key and a 256-byte value as a log entry.
const ENTRY_BYTES: usize = 290;

const IDENTITY: Identity = Identity {
    member_id: 1,
    cluster_id: 2,
};

fn main() {
    for (group, groups) in [(1, 2000), (16, 1000), (256, 300)] {
        let times = measure(group, groups);
        let us = |ns: u64| ns as f64 / 1e3;
        println!(
            "{group:>4} entries a group: mean {:.0} us, p50 {:.0} us, p99 {:.0} us, {:.2} us an entry",
            times.mean() / 1e3,
            us(times.value_at_percentile(50.0)),
            us(times.value_at_percentile(99.0)),
            times.mean() / 1e3 / group as f64
        );
    }
}

fn measure(group: u64, groups: u64) -> Histogram<u64> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory can be written");
    let mut disk = StdDisk::new(dir.path()).expect("a fresh directory is a disk");
    let (mut wal, _) =
        Wal::open(&mut disk, WalOptions::default(), Some(IDENTITY)).expect("a fresh directory takes a log");
    let mut times = Histogram::new(3).expect("three digits are allowed");
    let mut index = 0;
    for _ in 0..groups {
        let entries: Vec<Entry> = (1..=group)
            .map(|n| Entry::normal(1, index + n, vec![7; ENTRY_BYTES]))
            .collect();
        index += group;
        let started = Instant::now();
        let token = wal.append(&entries, None, None);
        wal.pump(&mut disk).expect("the log takes writes");
        let mut ended = Vec::new();
        while wal.persisted() < token {
            disk.poll(&mut ended);
            for completion in ended.drain(..) {
                wal.on_completion(&mut disk, completion).expect("writes succeed");
            }
        }
        let took_ns = started.elapsed().as_nanos() as u64;
        times.record(took_ns).expect("the histogram grows as needed");
        wal.release(index.saturating_sub(1000));
    }
    times
}
