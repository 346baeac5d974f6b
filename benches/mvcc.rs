//! What puts, single reads and limited ranges cost in the store alone, with a hundred thousand keys.
//!
//! `cargo bench --bench mvcc`

use std::hint::black_box;
use std::time::Instant;

use storage::mvcc::{AppliedState, Interval, RangeQuery, Store};

const KEYS: u64 = 100_000;
const VALUE: [u8; 256] = [7; 256];

/// Puts in one sealed block, as one group commit brings them.
const BLOCK_PUTS: u64 = 100;

fn main() {
    let mut store = Store::new();
    let mut put_all = |what| {
        each(what, KEYS, |n| {
            let mut txn = store.begin();
            txn.put(&key(n), &VALUE, 0);
            txn.end();
            if n % BLOCK_PUTS == 0 {
                store.seal_block(AppliedState::default());
                black_box(store.view());
            }
        });
    };
    put_all("put of a new key");
    put_all("put of a known key");
    store.seal_block(AppliedState::default());
    let view = store.view();
    let read = |key: &[u8], range_end: &[u8], limit| {
        let query = RangeQuery {
            interval: Interval { key, range_end },
            revision: 0,
            limit,
            count_only: false,
            ..RangeQuery::default()
        };
        let mut range = view.range(&query).expect("the present can be read");
        let size = range.measure(false).expect("the store is whole");
        let mut bytes = 0;
        while let Some(item) = range.next().expect("the store is whole") {
            bytes += black_box(item.encoded).len();
        }
        assert_eq!(bytes as u64, size.kv_bytes);
    };
    each("range of one key", KEYS, |n| read(&key(n), b"", 0));
    each("range from a key on with limit 500", 2000, |n| {
        read(&key(n), b"\0", 500)
    });
}

/// Visits every key once, all over the place.
fn key(n: u64) -> [u8; 8] {
    (n * 61_681 % KEYS).to_be_bytes()
}

fn each(what: &str, times: u64, mut act: impl FnMut(u64)) {
    let started = Instant::now();
    (0..times).for_each(&mut act);
    println!(
        "{what:<34} {:9.3} us",
        started.elapsed().as_secs_f64() * 1e6 / times as f64
    );
}
