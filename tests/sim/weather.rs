//! What kind of cluster, clients and trouble a seed stands for.

use storage::io::sim::Rng;

/// Units of simulated time. Units: nanoseconds.
pub const US: u64 = 1_000;
/// A millisecond.
pub const MS: u64 = 1_000_000;
/// A second.
pub const SEC: u64 = 1_000_000_000;

/// Small helpers over the seeded generator.
pub trait Dice {
    /// True in `percent` of a hundred throws.
    fn percent(&mut self, percent: u64) -> bool;
    /// A number from `low` up to, not including, `high`.
    fn between(&mut self, low: u64, high: u64) -> u64;
    /// One of a slice.
    fn pick<T: Copy>(&mut self, from: &[T]) -> T;
}

impl Dice for Rng {
    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).max(1))
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Everything that differs between two seeds, besides chance itself.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Voters at the beginning: 1, 3 or 5.
    pub members: u64,
    /// Machines beside theirs, for members that come later.
    pub spares: usize,
    /// Mean time between two changes of the members; 0: none. Units: nanoseconds.
    pub churn_ns: u64,
    /// How long trouble lasts, before everything is healed. Units: nanoseconds.
    pub trouble_ns: u64,
    /// Trouble comes in busy and in quiet stretches, each about this long. Units: nanoseconds.
    pub busy_ns: u64,
    pub quiet_ns: u64,
    /// Mean time between two requests of clients, while they are busy. Units: nanoseconds.
    pub request_gap_ns: u64,
    /// Mean time between two faults, while fate is busy. Units: nanoseconds.
    pub fault_gap_ns: u64,
    /// Length of a raft tick. Units: nanoseconds.
    pub tick_ns: u64,
    pub pre_vote: bool,
    /// Keys written to.
    pub keys: u64,
    /// Length of values, mostly. Units: bytes.
    pub value_bytes: u64,
    /// Longest value. Units: bytes.
    pub value_bytes_max: u64,
    pub wal_segment_bytes: u64,
    pub tree_page_bytes: usize,
    pub tree_growth_bytes: u64,
    pub commit_interval_ns: u64,
    pub catch_up_entries: u64,
    /// Pages of a member snapshot that travel together. Units: bytes.
    pub piece_bytes: usize,
    /// Mean time a disk takes for an operation. Units: nanoseconds.
    pub disk_ns: u64,
    /// Mean time a message takes. Units: nanoseconds.
    pub net_ns: u64,
    /// Percent of messages lost, sent twice, and held up for long.
    pub loss: u64,
    pub duplication: u64,
    pub delay: u64,
    /// Relative weights of the kinds of faults.
    pub crash: u64,
    pub disk_error: u64,
    pub disk_full: u64,
    pub disk_stall: u64,
    pub pause: u64,
    pub clock: u64,
    pub partition: u64,
    pub transfer: u64,
    pub false_alarm: u64,
    /// Percent of the others that notice when a member ends.
    pub noticed: u64,
    pub tree_rot: u64,
    /// How often what is left of leases is noted in the log. Units: nanoseconds.
    pub lease_checkpoint_ns: u64,
}

impl Weather {
    /// The weather of a seed. The number of members is a function of the seed, so that one number replays a run.
    pub fn of(seed: u64) -> Weather {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x5eed);
        let members = [1, 3, 3, 5][(seed % 4) as usize];
        let alone = members == 1;
        let mut weather = Weather {
            members,
            spares: 2,
            churn_ns: rng.pick(&[0, 0, 4, 12, 40]) * SEC,
            trouble_ns: rng.between(60, 1020) * SEC,
            busy_ns: rng.between(10, 40) * SEC,
            quiet_ns: rng.pick(&[30, 120, 300]) * SEC,
            request_gap_ns: rng.pick(&[15, 30, 60, 120]) * MS,
            fault_gap_ns: rng.pick(&[500, 1500, 4000, 60_000]) * MS,
            tick_ns: rng.pick(&[20, 50, 100, 100, 250, 1000]) * MS,
            pre_vote: rng.percent(70),
            keys: rng.pick(&[3, 10, 60]),
            value_bytes: rng.pick(&[20, 100, 400]),
            value_bytes_max: rng.pick(&[400, 3000, 12_000]),
            wal_segment_bytes: rng.pick(&[16, 32, 128]) << 10,
            tree_page_bytes: rng.pick(&[512, 1024, 4096]),
            tree_growth_bytes: rng.pick(&[16, 64, 512]) << 10,
            commit_interval_ns: rng.pick(&[5, 30, 100, 1000]) * MS,
            catch_up_entries: rng.pick(&[1, 5, 20, 200, 5000]),
            piece_bytes: rng.pick(&[1, 8, 64]) << 10,
            disk_ns: rng.pick(&[50, 300, 3000]) * US,
            net_ns: rng.pick(&[100, 500, 5000]) * US,
            loss: rng.pick(&[0, 0, 2, 15]),
            duplication: rng.pick(&[0, 2, 20]),
            delay: rng.pick(&[0, 1, 10]),
            crash: rng.pick(&[0, 1, 4, 12]),
            disk_error: rng.pick(&[0, 1, 4]),
            disk_full: rng.pick(&[0, 0, 2]),
            disk_stall: rng.pick(&[0, 1, 3]),
            pause: rng.pick(&[0, 2, 6]),
            clock: rng.pick(&[0, 0, 2, 6]),
            partition: if alone { 0 } else { rng.pick(&[0, 3, 8]) },
            transfer: if alone { 0 } else { rng.pick(&[0, 1, 4]) },
            false_alarm: 0,
            noticed: 0,
            lease_checkpoint_ns: 300 * SEC,
            tree_rot: 0,
        };
        // With clocks that differ a checkpointed lease lives for its time by the sum of several of them.
        if weather.clock == 0 {
            weather.lease_checkpoint_ns = rng.pick(&[1, 1, 300]) * SEC;
        }
        if !alone {
            (weather.false_alarm, weather.noticed) = (rng.pick(&[0, 1, 4]), rng.pick(&[0, 50, 95, 100]));
            weather.tree_rot = rng.pick(&[0, 0, 1, 2]);
        }
        weather
    }
}

impl Weather {
    /// No trouble at all.
    pub fn fair(members: u64) -> Weather {
        Weather {
            members,
            churn_ns: 0,
            tick_ns: 100 * MS,
            pre_vote: true,
            commit_interval_ns: 30 * MS,
            disk_ns: 100 * US,
            net_ns: 200 * US,
            loss: 0,
            duplication: 0,
            delay: 0,
            crash: 0,
            disk_error: 0,
            disk_full: 0,
            disk_stall: 0,
            pause: 0,
            clock: 0,
            partition: 0,
            transfer: 0,
            false_alarm: 0,
            noticed: 0,
            tree_rot: 0,
            ..Weather::of(members)
        }
    }
}

/// A clock that runs at its own rate and jumps forward, but never goes back.
#[derive(Clone, Debug)]
pub struct Clock {
    since: u64,
    reading: u64,
    permille: u64,
}

impl Clock {
    /// A true clock that shows `reading` at time 0.
    pub fn new(reading: u64) -> Clock {
        Clock {
            since: 0,
            reading,
            permille: 1000,
        }
    }

    /// What it shows at the true time `now`.
    pub fn read(&self, now: u64) -> u64 {
        self.reading + (now - self.since) / 1000 * self.permille
    }

    /// The true time at which it will show `reading`, if nothing changes.
    pub fn when(&self, reading: u64, now: u64) -> u64 {
        let left = reading.saturating_sub(self.read(now));
        now.saturating_add(left / self.permille * 1000)
    }

    /// From `now` on it runs at `permille` thousandths of the true rate.
    pub fn set_rate(&mut self, now: u64, permille: u64) {
        (self.reading, self.since, self.permille) = (self.read(now), now, permille);
    }

    /// It jumps forward.
    pub fn jump(&mut self, now: u64, by: u64) {
        (self.reading, self.since) = (self.read(now) + by, now);
    }
}
