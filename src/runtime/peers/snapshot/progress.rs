//! How far a transfer is: a log line now and then, and the pauses that keep a sender to its rate.

use std::time::Duration;

/// Between two lines about one transfer. Units: nanoseconds.
const TELL_EVERY_NS: u64 = 3_000_000_000;
/// No pause is longer: the receiver gives up on a sender that is silent.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What has gone over the wire, of how much, since when.
#[derive(Debug)]
pub struct Progress {
    /// What is done, with whom.
    what: &'static str,
    peer: String,
    total: u64,
    done: u64,
    begun_ns: u64,
    told_ns: u64,
}

/// A line's worth.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// Of the whole; none while that is unknown.
    percent: Option<u64>,
    /// Since the beginning. Units: bytes.
    bytes: u64,
    /// On average since the beginning. Units: bytes.
    bytes_per_second: u64,
}

impl Told {
    fn log(&self, peer: &str, what: &str) {
        let Told {
            percent,
            bytes,
            bytes_per_second,
        } = *self;
        tracing::info!(peer, percent, bytes, bytes_per_second, "{what}");
    }
}

impl Progress {
    /// Nothing yet, of `total` bytes; 0 when that is unknown. `what` is done with `peer`.
    pub fn begin(what: &'static str, peer: u64, total: u64, now_ns: u64) -> Progress {
        Progress {
            what,
            peer: format!("{peer:x}"),
            total,
            done: 0,
            begun_ns: now_ns,
            told_ns: now_ns,
        }
    }

    /// Counts bytes, and says now and then how far it is.
    pub fn add(&mut self, bytes: u64, now_ns: u64) {
        if let Some(told) = self.count(bytes, now_ns) {
            told.log(&self.peer, self.what);
        }
    }

    /// Says how it ended.
    pub fn end(&self, how: &str, now_ns: u64) {
        let whole = Told {
            percent: None,
            ..self.told(now_ns)
        };
        whole.log(&self.peer, how);
    }

    fn count(&mut self, bytes: u64, now_ns: u64) -> Option<Told> {
        self.done += bytes;
        if now_ns < self.told_ns + TELL_EVERY_NS {
            return None;
        }
        self.told_ns = now_ns;
        Some(self.told(now_ns))
    }

    fn told(&self, now_ns: u64) -> Told {
        let took_ms = (now_ns.saturating_sub(self.begun_ns) / 1_000_000).max(1);
        Told {
            percent: (self.done.saturating_mul(100))
                .checked_div(self.total)
                .map(|percent| percent.min(100)),
            bytes: self.done,
            bytes_per_second: self.done.saturating_mul(1000) / took_ms,
        }
    }

    /// How long to wait so that `rate` bytes a second are not exceeded on average.
    pub fn pause(&self, rate: u64, now_ns: u64) -> Duration {
        let due_ns = u128::from(self.done) * 1_000_000_000 / u128::from(rate.max(1));
        let took_ns = u128::from(now_ns.saturating_sub(self.begun_ns));
        let left_ns = due_ns.saturating_sub(took_ns).min(PAUSE_MAX.as_nanos());
        Duration::from_nanos(left_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: u64 = 1_000_000_000;

    #[test]
    fn progress_is_told_every_few_seconds_with_percent_and_rate() {
        let mut progress = Progress::begin("", 0, 1000, SEC);
        assert_eq!(progress.count(100, 2 * SEC), None);
        let told = progress.count(100, 5 * SEC).expect("it is time");
        assert_eq!((told.percent, told.bytes, told.bytes_per_second), (Some(20), 200, 50));
        assert_eq!(progress.count(100, 6 * SEC), None);
        assert_eq!(Progress::begin("", 0, 0, SEC).told(SEC).percent, None);
        assert_eq!(Progress::begin("", 0, 0, SEC).told(0).bytes_per_second, 0);
    }

    #[test]
    fn pauses_keep_the_average_to_the_rate_and_none_is_long() {
        let mut progress = Progress::begin("", 0, 1000, 0);
        progress.count(500, 0);
        assert_eq!(progress.pause(1000, 0), Duration::from_millis(500));
        assert_eq!(progress.pause(1000, SEC / 4), Duration::from_millis(250));
        assert_eq!(progress.pause(1000, SEC), Duration::ZERO, "it is late already");
        assert_eq!(progress.pause(1, 0), PAUSE_MAX);
    }
}
