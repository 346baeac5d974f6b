//! What the hot paths cost. Run by hand in release: `cargo test --release -p etcore-storage --test mvcc_speed -- --ignored
//! --nocapture --test-threads=1`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use storage::{
    bbolt::{BboltFile, Export, ExportOptions},
    buckets::Bucket,
    mvcc::{AppliedState, CompactProgress, Interval, Kv, MemBase, RangeQuery, Revision, RowKey, Store, StoreView},
};

const KEYS: u64 = 1_000_000;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * 4096
}

/// Measures the processor time of this thread, since the machine may be busy with other things.
struct Stopwatch(u64);

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch(cpu_ns())
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(cpu_ns() - self.0)
    }
}

fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with scheduler statistics");
    stat.split(' ')
        .next()
        .and_then(|ns| ns.parse().ok())
        .expect("nanoseconds on a processor")
}

/// A different key for each number, all over the place.
fn key(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()
}

fn put_all(store: &mut Store, keys: impl Iterator<Item = [u8; 8]>, value: &[u8], view_every: u64) -> Duration {
    let started = Stopwatch::start();
    let mut kept = None;
    for (n, key) in keys.enumerate() {
        let mut txn = store.begin();
        txn.put(&key, value, 0);
        txn.end();
        if (n as u64).is_multiple_of(view_every) {
            store.seal_block(AppliedState::default());
            kept = Some(store.view());
        }
    }
    store.seal_block(AppliedState::default());
    drop::<Option<StoreView>>(kept);
    started.elapsed()
}

fn say(what: &str, took: Duration, per: u64) {
    println!(
        "{what:50} {:9.1} ms {:9.3} us each",
        took.as_secs_f64() * 1e3,
        took.as_secs_f64() * 1e6 / per as f64
    );
}

fn export(view: &StoreView) -> Bytes {
    let mut export = Export::new(view.clone(), ExportOptions::default());
    while !export.plan(1 << 20).unwrap() {}
    let mut file = Vec::with_capacity(export.total_bytes() as usize);
    while let Some(piece) = export.next_piece(1 << 20).unwrap() {
        file.extend_from_slice(&piece);
    }
    file.into()
}

#[test]
#[ignore = "a measurement, by hand and in release"]
fn costs_at_a_million_keys() {
    let mut store = Store::new();
    let before = resident_bytes();
    say(
        "first puts, 8 B keys, empty values, no view",
        put_all(&mut store, (0..KEYS).map(key), b"", u64::MAX),
        KEYS,
    );
    println!(
        "resident bytes per key, its block included: {}",
        (resident_bytes() - before) / KEYS
    );
    let live = store.stats().live_keys;
    println!("distinct keys {live}");
    let mut store = Store::new();
    put_all(&mut store, (0..KEYS).map(key), &[7; 256], u64::MAX);
    for (name, every) in [("no view", u64::MAX), ("a view per 100", 100), ("a view per put", 1)] {
        let some = 200_000;
        let took = put_all(&mut store, (0..some).map(|n| key(n * 7 % KEYS)), &[7; 256], every);
        say(&format!("overwrites, 256 B values, {name}"), took, some);
    }
    let view = store.view();
    let started = Stopwatch::start();
    let file = export(&view);
    say(
        &format!("bbolt export of {} MB", file.len() >> 20),
        started.elapsed(),
        store.stats().revisions,
    );
    let base = Arc::new(BboltFile::open(file).unwrap());
    drop((store, view));

    let started = Stopwatch::start();
    let mut store = Store::restore(base, AppliedState::default()).unwrap();
    let rows = store.stats().revisions;
    say("restore", started.elapsed(), rows);
    println!(
        "resident bytes per key of the index: {}",
        (resident_bytes() - before) / store.stats().live_keys
    );
    reads(&store.view());
    store.compact(store.revision()).unwrap();
    let (mut longest, started) = (Duration::ZERO, Stopwatch::start());
    loop {
        let slice = Stopwatch::start();
        let progress = store.compact_step(1000, false);
        store.seal_block(AppliedState::default());
        longest = longest.max(slice.elapsed());
        if progress != CompactProgress::Working {
            break;
        }
    }
    say("compaction", started.elapsed(), rows);
    println!("longest slice of 1000: {} us", longest.as_micros());
    store.seal_block(AppliedState::default());
    let (view, started) = (store.view(), Stopwatch::start());
    view.hash_kv(0).unwrap().step(usize::MAX).unwrap();
    say("HashKV", started.elapsed(), view.count(Interval::all(), 0).unwrap());
}

#[test]
#[ignore = "a measurement, by hand, in release and alone in its process"]
fn memory_of_the_index() {
    let mut base = MemBase::default();
    for n in 0..KEYS {
        let (row, mut value) = (RowKey::new(Revision::new(n as i64 + 2, 0), false), Vec::new());
        let key = key(n);
        Kv {
            key: &key,
            create_revision: 2,
            mod_revision: n as i64 + 2,
            version: 1,
            ..Kv::default()
        }
        .encode(&mut value);
        base.apply(Bucket::Key, row.as_slice(), Some(&value));
    }
    let (base, before, started) = (Arc::new(base), resident_bytes(), Stopwatch::start());
    let store = Store::restore(base, AppliedState::default()).unwrap();
    say("restore from memory", started.elapsed(), KEYS);
    let live = store.stats().live_keys;
    println!(
        "bytes per key, {:.2} revisions each: {}",
        KEYS as f64 / live as f64,
        (resident_bytes() - before) / live
    );
}

fn reads(view: &StoreView) {
    let started = Stopwatch::start();
    let mut bytes = 0;
    for n in 0..KEYS / 4 {
        let key = key(n);
        let query = RangeQuery {
            interval: Interval::single(&key),
            ..RangeQuery::default()
        };
        let mut cursor = view.range(&query).unwrap();
        bytes += cursor.next().unwrap().map_or(0, |item| item.encoded.len());
    }
    say("point reads", started.elapsed(), KEYS / 4);
    let query = RangeQuery {
        interval: Interval::all(),
        revision: 0,
        limit: 0,
        count_only: false,
        ..RangeQuery::default()
    };
    let mut cursor = view.range(&query).unwrap();
    let started = Stopwatch::start();
    let size = cursor.measure(false).unwrap();
    say("measuring everything", started.elapsed(), size.count);
    let started = Stopwatch::start();
    while let Some(item) = cursor.next().unwrap() {
        bytes += item.encoded.len();
    }
    say("reading everything", started.elapsed(), size.count);
    assert!(bytes > 0);
}
