//! Groups of members under a random network, random disks and random operators, checked after every step.
//!
//! One seed is one history: loss, duplication and reordering of messages, one-way and two-way partitions, writes that take
//! their time, power losses that forget them, slow appliers, compaction and snapshots, leader transfers, membership changes
//! and linearizable reads. The checks are those of the Raft paper, figure 3, and linearizability of reads. After the storm
//! the network heals, and everybody must agree and make progress.
//!
//! `ETCORE_TEST_SEED=n` runs one seed; `ETCORE_TEST_SCALE=n` multiplies how many are run.

#[path = "rig/checker.rs"]
mod checker;
#[path = "rig/member.rs"]
#[allow(dead_code, reason = "each test uses its own part of the rig")]
mod member;
#[path = "rig/storm.rs"]
mod storm;

use std::panic::{AssertUnwindSafe, catch_unwind};

use storm::{Options, Storm, Totals};

fn scale() -> u64 {
    std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|scale| scale.parse().ok())
        .unwrap_or(1)
}

/// Runs seeds and sums up what happened, so that a storm in which nothing ever happens is noticed.
fn run_seeds(name: &str, first: u64, count: u64, options: impl Fn(u64) -> Options) -> Totals {
    let chosen = std::env::var("ETCORE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse::<u64>().ok());
    let seeds = chosen.map_or(first..first + count * scale(), |seed| seed..seed + 1);
    let mut totals = Totals::default();
    for seed in seeds {
        let options = options(seed);
        let outcome = catch_unwind(AssertUnwindSafe(|| Storm::new(seed, options.clone()).run()));
        match outcome {
            Ok(sums) => totals.add(&sums),
            Err(panic) => {
                eprintln!(
                    "failed: ETCORE_TEST_SEED={seed} cargo test -p etcore-raft --test random {name}\n{options:?}"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{name}: {totals:?}");
    totals
}

#[test]
fn a_group_of_three_survives_the_storm() {
    let totals = run_seeds("a_group_of_three", 0, 500, |seed| Options {
        voters: 3,
        ..Options::varied(seed)
    });
    assert!(totals.elections > 0 && totals.committed > 0 && totals.reads > 0 && totals.restarts > 0);
    assert!(
        totals.snapshots > 0 && totals.commits_before_persist > 0 && totals.alarms > 0,
        "a blind spot: {totals:?}"
    );
}

#[test]
fn a_group_of_five_survives_the_storm() {
    let totals = run_seeds("a_group_of_five", 10_000, 250, |seed| Options {
        voters: 5,
        ..Options::varied(seed)
    });
    assert!(totals.elections > 0 && totals.committed > 0 && totals.reads > 0 && totals.restarts > 0);
}

#[test]
fn membership_changes_in_the_storm_keep_the_group_one() {
    let totals = run_seeds("membership", 20_000, 500, |seed| Options {
        voters: 3,
        spares: 3,
        membership: true,
        ..Options::varied(seed)
    });
    assert!(
        totals.conf_changes > 0 && totals.joint > 0 && totals.snapshots > 0,
        "a blind spot: {totals:?}"
    );
}

#[test]
fn a_single_member_needs_nobody() {
    let totals = run_seeds("a_single_member", 30_000, 80, |seed| Options {
        voters: 1,
        ..Options::varied(seed)
    });
    assert!(totals.committed > 0 && totals.restarts > 0 && totals.reads > 0);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 40_000..40_010 {
        let options = Options {
            voters: 3,
            spares: 2,
            membership: true,
            ..Options::varied(seed)
        };
        let trace = || Storm::new(seed, options.clone()).run().trace_hash;
        assert_eq!(trace(), trace(), "seed {seed} took two ways");
    }
}
