//! Random numbers from a printed seed, and volumes from the environment.

use std::env;

/// A small deterministic generator (splitmix64).
pub struct Rng(u64);

impl Rng {
    /// A generator whose sequence depends on `seed` alone.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no numbers");
        self.bits() % bound
    }

    /// True in `percent` of a hundred calls.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.bits() as u8).collect()
    }
}

/// The seed of a random story: `ETCORE_TEST_SEED`, else `default`; printed, so that a failure can be replayed.
pub fn seed(default: u64) -> u64 {
    let seed = env::var("ETCORE_TEST_SEED").ok().map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("ETCORE_TEST_SEED must be a number, not {text:?}"))
    });
    println!("ETCORE_TEST_SEED={seed}");
    seed
}

/// `volume` times `ETCORE_TEST_SCALE`, at least 1.
pub fn scaled(volume: u64) -> u64 {
    let scale = env::var("ETCORE_TEST_SCALE").ok().map_or(1.0, |text| {
        text.parse::<f64>()
            .unwrap_or_else(|_| panic!("ETCORE_TEST_SCALE must be a number, not {text:?}"))
    });
    ((volume as f64 * scale) as u64).max(1)
}
