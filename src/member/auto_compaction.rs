//! Compaction of history without being asked, by age or by count, on the leader.
//!
//! Source: limits table, "auto compaction": by age the revision of one whole period ago, looked at ten times a period (at
//! least every six minutes for periods of an hour and more), first after a whole period; by count every five minutes.

use std::collections::VecDeque;

/// When history is compacted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// What is older than this goes. Units: nanoseconds.
    Periodic(u64),
    /// All but this many revisions goes.
    Revision(i64),
}

const HOUR_NS: u64 = 3_600_000_000_000;
const REVISION_INTERVAL_NS: u64 = 300_000_000_000;
const SAMPLES_PER_PERIOD: u64 = 10;

/// Decides when to compact and where.
#[derive(Debug)]
pub struct Compactor {
    mode: AutoCompaction,
    /// Revisions seen, one a sample interval, oldest first; as many as make a period.
    samples: VecDeque<i64>,
    next_sample_ns: u64,
    next_compaction_ns: u64,
    last: i64,
}

impl Compactor {
    /// Starts counting at `now_ns`.
    pub fn new(mode: AutoCompaction, now_ns: u64) -> Self {
        let first = match mode {
            AutoCompaction::Periodic(period_ns) => period_ns,
            _ => REVISION_INTERVAL_NS,
        };
        let next_compaction_ns = now_ns.saturating_add(first);
        Compactor {
            mode,
            samples: VecDeque::new(),
            next_sample_ns: now_ns,
            next_compaction_ns,
            last: 0,
        }
    }

    /// The revision to compact at now, if it is time.
    pub fn due(&mut self, now_ns: u64, revision: i64) -> Option<i64> {
        let target = match self.mode {
            AutoCompaction::Off => return None,
            AutoCompaction::Periodic(period_ns) => self.by_age(period_ns, now_ns, revision)?,
            AutoCompaction::Revision(kept) => self.by_count(kept, now_ns, revision)?,
        };
        (target > self.last).then(|| {
            self.last = target;
            target
        })
    }

    fn by_age(&mut self, period_ns: u64, now_ns: u64, revision: i64) -> Option<i64> {
        // Periods above an hour are compacted every hour.
        let interval_ns = period_ns.min(HOUR_NS);
        let sample_ns = (interval_ns / SAMPLES_PER_PERIOD).max(1);
        let kept = (period_ns / sample_ns).max(1) as usize;
        while self.next_sample_ns <= now_ns {
            self.next_sample_ns += sample_ns;
            self.samples.push_back(revision);
            if self.samples.len() > kept + 1 {
                self.samples.pop_front();
            }
        }
        if now_ns < self.next_compaction_ns {
            return None;
        }
        self.next_compaction_ns = now_ns + interval_ns;
        self.samples.front().copied()
    }

    fn by_count(&mut self, kept: i64, now_ns: u64, revision: i64) -> Option<i64> {
        if now_ns < self.next_compaction_ns {
            return None;
        }
        self.next_compaction_ns = now_ns + REVISION_INTERVAL_NS;
        Some(revision - kept).filter(|target| *target > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn by_age_the_revision_of_one_period_ago_goes() {
        let mut compactor = Compactor::new(AutoCompaction::Periodic(10 * S), 0);
        let due: Vec<(u64, i64)> = (0..=30)
            .filter_map(|second| Some((second, compactor.due(second * S, 100 + second as i64)?)))
            .collect();
        assert_eq!(due.iter().map(|due| due.0).collect::<Vec<_>>(), [10, 20, 30]);
        for (second, revision) in due {
            let age = 100 + second as i64 - revision;
            assert!((9..=11).contains(&age), "compacted {age} s back");
        }
    }

    #[test]
    fn by_count_all_but_the_newest_goes_every_five_minutes() {
        let mut compactor = Compactor::new(AutoCompaction::Revision(10), 0);
        assert_eq!(compactor.due(299 * S, 100), None);
        assert_eq!(compactor.due(300 * S, 100), Some(90));
        assert_eq!(compactor.due(600 * S, 100), None, "nothing new to compact");
        assert_eq!(compactor.due(900 * S, 105), Some(95));
    }

    #[test]
    fn off_means_never() {
        assert_eq!(Compactor::new(AutoCompaction::Off, 0).due(u64::MAX / 2, 100), None);
    }
}
