//! What a run measured, thread by thread and together.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// Latencies up to an hour are told apart to three digits.
///
/// Units: nanoseconds.
pub(super) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3600 * 1_000_000_000, 3)
        .expect("the bounds are in order and the precision is allowed")
}

/// Requests of a run.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Of requests that went well, from when they should have been sent.
    pub(super) latency: Histogram<u64>,
    /// Requests that failed, by code and message.
    pub(super) errors: BTreeMap<String, u64>,
    /// Requests that were never sent, since every connection was lost.
    pub(super) unsent: u64,
    /// Bytes read, of all kinds.
    pub(super) bytes_in: u64,
    pub(super) elapsed_ns: u64,
    pub(super) watch: Option<WatchTally>,
}

/// Events of a run.
#[derive(Clone, Debug)]
pub(super) struct WatchTally {
    pub(super) watchers: u64,
    pub(super) expected: u64,
    pub(super) events: u64,
    pub(super) elapsed_ns: u64,
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Tally {
        Tally {
            latency: new_histogram(),
            errors: BTreeMap::new(),
            unsent: 0,
            bytes_in: 0,
            elapsed_ns: 0,
            watch: None,
        }
    }

    /// Adds what another thread measured at the same time.
    pub(super) fn merge(&mut self, other: Tally) {
        self.latency
            .add(other.latency)
            .expect("all histograms have the same bounds");
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.unsent += other.unsent;
        self.bytes_in += other.bytes_in;
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
        self.watch = self.watch.take().or(other.watch);
    }

    /// Requests that failed or were never sent, and events that never came.
    pub(super) fn failures(&self) -> u64 {
        let missing = self
            .watch
            .as_ref()
            .map_or(0, |watch| watch.expected.saturating_sub(watch.events));
        self.errors.values().sum::<u64>() + self.unsent + missing
    }
}
