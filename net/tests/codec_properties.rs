//! The property bodies of `net::fuzzing` under seeded bytes. `ETCORE_TEST_SCALE` multiplies the volume.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use net::fuzzing;

/// xorshift64*, so that a seed gives the same bytes everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        let len = self.next() % len_max;
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}

fn scale() -> u64 {
    std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

/// Runs the property on so many inputs; `ETCORE_TEST_SEED` replays one of them.
fn check(inputs: u64, len_max: u64, property: impl Fn(&[u8])) {
    let only: Option<u64> = std::env::var("ETCORE_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seeds = only.map_or(1..=inputs * scale(), |seed| seed..=seed);
    for seed in seeds {
        let input = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).bytes(len_max);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(&input))) {
            eprintln!("failed for seed {seed}; replay with ETCORE_TEST_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn a_server_survives_garbage() {
    check(40_000, 600, fuzzing::fuzz_server_bytes);
}

#[test]
fn a_server_survives_frames_that_are_almost_right() {
    check(60_000, 1500, fuzzing::fuzz_server_frames);
}

#[test]
fn a_client_survives_garbage() {
    check(20_000, 600, fuzzing::fuzz_client_bytes);
}

#[test]
fn peer_frames_are_the_same_in_any_cuts_and_garbage_ends_them() {
    check(40_000, 2000, fuzzing::fuzz_peer_bytes);
}

#[test]
fn header_blocks_of_garbage_are_bounded() {
    check(40_000, 800, fuzzing::fuzz_hpack_decode);
}

#[test]
fn header_lists_survive_encoding_under_any_table_size() {
    check(10_000, 2000, fuzzing::fuzz_hpack_round_trip);
}

#[test]
fn calls_survive_any_cut_of_the_bytes_and_any_windows() {
    check(1500, 3000, fuzzing::fuzz_round_trip);
}
