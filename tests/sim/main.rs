//! The simulator: clusters that begin with 1, 3 or 5 whole members, in one thread, from one seed.
//!
//! The members are production [`Engine`](etcore::member::Engine)s with production watch hubs, and what they send each
//! other as snapshots is cut and taken by production code. Everything around them is simulated: disks that delay and
//! reorder, stall, lose and tear what was not synced when the power fails, fail calls and fill up; a network that loses,
//! repeats, reorders, delays and parts, in one direction too; clocks that jump and run at rates of their own; members
//! that stand still. An operator adds, promotes, removes and replaces members. Clients put, delete, compare, compact,
//! read, hold leases and watch. Trouble comes in busy and in quiet stretches. Checkers are always on: see [`history`],
//! [`consensus`], [`requests`], [`transactions`], [`leases`] and [`watching`]. Each run ends in a calm in which
//! everything must finish, and a last power failure of all machines. What a full run must have met is in [`coverage`].
//!
//! Environment: `ETCORE_SIM_SEED` replays one seed and tells what happens, `ETCORE_SIM_SEEDS` is the number of seeds (200
//! times `ETCORE_TEST_SCALE`), `ETCORE_SIM_FIRST` the first of them (1), `ETCORE_SIM_ALL` goes on after a failure.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use cluster::{Cluster, Counts};
use weather::{SEC, Weather};

#[allow(dead_code)] // the stories of real processes need the rest
#[path = "../checker"]
mod checker {
    pub mod history;
    pub mod watcher;
}
mod clients;
mod cluster;
mod consensus;
mod coverage;
mod damage;
mod effort;
mod history;
mod host;
mod leases;
mod network;
mod operator;
mod requests;
mod stalls;
mod stories;
mod transactions;
mod transfers;
mod trouble;
mod watching;
mod weather;

/// Seeds in one `cargo test`.
const SEEDS: u64 = 200;

fn run(seed: u64, trace: bool) -> Result<Counts, String> {
    let weather = Weather::of(seed);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut cluster = Cluster::new(seed, weather.clone(), trace);
        cluster
            .live()
            .and_then(|()| cluster.check_effort())
            .map(|()| cluster.counts.clone())
            .map_err(|why| format!("at {:.6} s: {why}", cluster.now_ns as f64 / 1e9))
    }));
    let result = ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    result.map_err(|why| {
        format!(
            "seed {seed}: {why}\n  options: {weather:?}\n  replay: ETCORE_SIM_SEED={seed} cargo test --test sim -- \
             --nocapture whole_members"
        )
    })
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}

fn run_many(seeds: impl Iterator<Item = u64> + Send) -> (Counts, Vec<String>) {
    let (seeds, stop, ran) = (Mutex::new(seeds), AtomicBool::new(false), AtomicU64::new(0));
    let results = Mutex::new((Counts::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(seed) = seeds.lock().expect("no thread panics").next() else {
                        return;
                    };
                    let result = run(seed, false);
                    ran.fetch_add(1, Ordering::Relaxed);
                    let mut results = results.lock().expect("no thread panics");
                    match result {
                        Ok(counts) => results.0.add(&counts),
                        Err(why) => {
                            eprintln!("{why}");
                            results.1.push(why);
                            let all = variable("ETCORE_SIM_ALL").is_some();
                            stop.store(!all, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    println!("{} runs", ran.load(Ordering::Relaxed));
    results.into_inner().expect("no thread panics")
}

fn tell(counts: &Counts) {
    println!(
        "{:.2} simulated hours, {} turns, {} revisions, {} terms with a leader, {} watch events, {} leases expired, {} \
         renewed, {} refusals, {} events in the busiest second",
        counts.simulated_ns as f64 / (3600 * SEC) as f64,
        counts.turns,
        counts.revisions,
        counts.elections,
        counts.watch_events,
        counts.leases_expired,
        counts.leases_renewed,
        counts.refused.values().sum::<u64>(),
        counts.busiest_second
    );
    println!("answers: {:?}", counts.answers);
    println!("refused: {:?}", counts.refused);
    println!("options: {:?}", counts.options);
    println!("events: {:?}", counts.events);
    println!("faults: {:?}", counts.faults);
}

#[test]
fn whole_members_keep_their_promises_in_any_weather() {
    if let Some(seed) = variable("ETCORE_SIM_SEED") {
        println!("{:?}", Weather::of(seed));
        let counts = run(seed, true).unwrap_or_else(|why| panic!("{why}"));
        return tell(&counts);
    }
    let count = variable("ETCORE_SIM_SEEDS").unwrap_or(SEEDS * variable("ETCORE_TEST_SCALE").unwrap_or(1));
    let first = variable("ETCORE_SIM_FIRST").unwrap_or(1);
    let (counts, failures) = run_many(first..first + count);
    tell(&counts);
    let blind = coverage::blind_spots(&counts);
    if count >= SEEDS {
        assert!(blind.is_empty() || !failures.is_empty(), "no seed has met: {blind:?}");
    }
    assert!(failures.is_empty(), "{} runs failed, each told above", failures.len());
}

#[test]
fn the_same_seed_tells_the_same_story_twice() {
    for seed in [4, 5, 6, 7] {
        let digest = || run(seed, false).unwrap_or_else(|why| panic!("{why}")).digest;
        assert_eq!(digest(), digest(), "seed {seed} ran differently the second time");
    }
}
