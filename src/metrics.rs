//! Counters, gauges and histograms under etcd's names, in the Prometheus text format.
//!
//! Each executor writes its own [`ShardMetrics`] or [`CoreMetrics`] with relaxed atomics that nobody else writes, so
//! counting costs no contention; a scrape adds them up.

mod clients;
mod peers;
mod text;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use clients::ClientTable;
pub use peers::{PeerMetrics, PeerTable, SnapshotMetrics};
pub use text::Exposition;

/// A number that only grows, or is set by one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets of a histogram that double from `first`.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    /// Upper bound of the first bucket. Units: nanoseconds.
    first_ns: u64,
    /// What it is shown in: a second or a millisecond. Units: nanoseconds.
    unit_ns: f64,
    counts: [Counter; N],
    over: Counter,
    sum_ns: Counter,
}

impl<const N: usize> Histogram<N> {
    /// Buckets `first_ns, 2 first_ns, ...`, shown in seconds.
    pub fn new(first_ns: u64) -> Self {
        let counts = std::array::from_fn(|_| Counter::default());
        Histogram {
            first_ns,
            unit_ns: 1e9,
            counts,
            over: Counter::default(),
            sum_ns: Counter::default(),
        }
    }

    /// The same, shown in milliseconds.
    pub fn in_milliseconds(first_ns: u64) -> Self {
        Histogram {
            unit_ns: 1e6,
            ..Histogram::new(first_ns)
        }
    }

    /// Counts one duration.
    pub fn observe_ns(&self, ns: u64) {
        self.sum_ns.add(ns);
        let (mut bound, mut bucket) = (self.first_ns, 0);
        while bucket < N && ns > bound {
            bound = bound.saturating_mul(2);
            bucket += 1;
        }
        self.counts.get(bucket).unwrap_or(&self.over).add(1);
    }

    /// (upper bound, cumulative count) of every bucket.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut total = 0;
        let mut bound_ns = self.first_ns as f64;
        let mut rows = Vec::with_capacity(N);
        for count in &self.counts {
            total += count.get();
            rows.push((bound_ns / self.unit_ns, total));
            bound_ns *= 2.0;
        }
        rows
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Counter::get).sum::<u64>() + self.over.get()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum_ns.get() as f64 / self.unit_ns
    }
}

/// What the core counts. Histograms have etcd's buckets.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct CoreMetrics {
    pub wal_fsync: Histogram<14>,
    pub wal_write_bytes: Counter,
    pub backend_commit: Histogram<14>,
    /// The part of a commit that writes pages.
    pub commit_write: Histogram<14>,
    pub defrag: Histogram<13>,
    /// Turns that applied something.
    pub apply: Histogram<20>,
    pub slow_applies: Counter,
    pub puts: Counter,
    pub deletes: Counter,
    /// With more than one operation.
    pub txns: Counter,
    /// In transactions that write; the others are counted by the shards.
    pub ranges: Counter,
    pub put_bytes: Counter,
    pub keys: Counter,
    pub committed: Counter,
    pub applied: Counter,
    pub pending: Counter,
    pub failed: Counter,
    pub leader_changes: Counter,
    pub has_leader: Counter,
    pub is_leader: Counter,
    pub is_learner: Counter,
    pub current_revision: Counter,
    pub compact_revision: Counter,
    pub compaction_keys: Counter,
    pub compaction_total: Histogram<14>,
    /// When one ended last, on the monotonic clock; 0: never. Units: nanoseconds.
    pub compaction_last_ns: Counter,
    pub db_size: Counter,
    pub db_in_use: Counter,
    pub leases_granted: Counter,
    pub leases_revoked: Counter,
    pub leases_renewed: Counter,
    pub leases_expired: Counter,
    pub lease_ttl: Histogram<24>,
    pub slow_reads: Counter,
    pub failed_reads: Counter,
    pub turns: Counter,
    pub late_heartbeats: Counter,
    pub installing: Counter,
    /// Syncs of a snapshot that is being received.
    pub snapshot_fsync: Histogram<14>,
    /// Receiving a snapshot whole.
    pub snapshot_save: Histogram<10>,
    pub promotions: Counter,
    pub promotions_early: Counter,
    pub promotions_of_voters: Counter,
    pub promotions_of_strangers: Counter,
    pub peers: PeerTable,
}

impl Default for CoreMetrics {
    fn default() -> Self {
        const MS: u64 = 1_000_000;
        CoreMetrics {
            wal_fsync: Histogram::new(MS),
            wal_write_bytes: Counter::default(),
            backend_commit: Histogram::new(MS),
            commit_write: Histogram::new(MS),
            defrag: Histogram::new(100 * MS),
            apply: Histogram::new(MS / 10),
            slow_applies: Counter::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            ranges: Counter::default(),
            put_bytes: Counter::default(),
            keys: Counter::default(),
            committed: Counter::default(),
            applied: Counter::default(),
            pending: Counter::default(),
            failed: Counter::default(),
            leader_changes: Counter::default(),
            has_leader: Counter::default(),
            is_leader: Counter::default(),
            is_learner: Counter::default(),
            current_revision: Counter::default(),
            compact_revision: Counter::default(),
            compaction_keys: Counter::default(),
            compaction_total: Histogram::in_milliseconds(100 * MS),
            compaction_last_ns: Counter::default(),
            db_size: Counter::default(),
            db_in_use: Counter::default(),
            leases_granted: Counter::default(),
            leases_revoked: Counter::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            lease_ttl: Histogram::new(1000 * MS),
            slow_reads: Counter::default(),
            failed_reads: Counter::default(),
            turns: Counter::default(),
            late_heartbeats: Counter::default(),
            installing: Counter::default(),
            snapshot_fsync: Histogram::new(MS),
            snapshot_save: Histogram::new(100 * MS),
            promotions: Counter::default(),
            promotions_early: Counter::default(),
            promotions_of_voters: Counter::default(),
            promotions_of_strangers: Counter::default(),
            peers: PeerTable::default(),
        }
    }
}

impl CoreMetrics {
    /// Counts the operations of one transaction that wrote, or would have.
    pub fn wrote(&self, counts: crate::member::WriteCounts) {
        self.ranges.add(counts.ranges);
        self.puts.add(counts.puts);
        self.put_bytes.add(counts.put_bytes);
        self.deletes.add(counts.deletes);
        if counts.ranges + counts.puts + counts.deletes > 1 {
            self.txns.add(1);
        }
    }
}

/// What one method of the API counts.
#[derive(Debug)]
pub struct MethodMetrics {
    /// Calls begun.
    pub started: Counter,
    /// Calls ended, by status code.
    pub handled: [Counter; 17],
    /// Messages received.
    pub received: Counter,
    /// Messages sent.
    pub sent: Counter,
    /// Time of unary calls, where asked for (`--metrics=extensive`).
    pub handling: Histogram<14>,
}

impl Default for MethodMetrics {
    fn default() -> Self {
        MethodMetrics {
            started: Counter::default(),
            handled: std::array::from_fn(|_| Counter::default()),
            received: Counter::default(),
            sent: Counter::default(),
            handling: Histogram::new(1_000_000),
        }
    }
}

/// The parts of the health pages, by page and name.
pub const CHECKS: [(&str, &str); 5] = [
    ("livez", "serializable_read"),
    ("readyz", "data_corruption"),
    ("readyz", "linearizable_read"),
    ("readyz", "non_learner"),
    ("readyz", "serializable_read"),
];

/// What one part of a health page counts.
#[derive(Debug, Default)]
pub struct CheckMetrics {
    /// Runs that went well.
    pub passed: Counter,
    /// Runs that did not.
    pub failed: Counter,
    /// When it ran last, in nanoseconds, with the lowest bit for how it went; 0: never.
    pub last: Counter,
}

impl CheckMetrics {
    /// Counts one run.
    pub fn ran(&self, ok: bool, now_ns: u64) {
        match ok {
            true => self.passed.add(1),
            false => self.failed.add(1),
        }
        self.last.set((now_ns & !1).max(2) | u64::from(ok));
    }
}

/// What one shard counts.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ShardMetrics {
    /// By position in [`crate::api::METHODS`].
    pub methods: Vec<MethodMetrics>,
    pub ranges: Counter,
    pub range_duration: Histogram<20>,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    pub connections: Counter,
    pub watch_streams: Counter,
    pub watchers: Counter,
    pub slow_watchers: Counter,
    pub watch_events: Counter,
    pub health_success: Counter,
    pub health_failures: Counter,
    /// By position in [`CHECKS`].
    pub checks: [CheckMetrics; CHECKS.len()],
    pub snapshot: Histogram<17>,
    pub hash: Histogram<15>,
    pub hash_rev: Histogram<15>,
    /// Calls by the version their clients tell.
    pub clients: ClientTable,
    pub scrapes: Counter,
    /// Watch and keepalive streams ended by what their client sent.
    pub watch_receive_failures: Counter,
    pub keep_alive_receive_failures: Counter,
}

impl ShardMetrics {
    /// Zeros for that many methods.
    pub fn new(methods: usize) -> Self {
        ShardMetrics {
            methods: (0..methods).map(|_| MethodMetrics::default()).collect(),
            ranges: Counter::default(),
            range_duration: Histogram::new(100_000),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
            connections: Counter::default(),
            watch_streams: Counter::default(),
            watchers: Counter::default(),
            slow_watchers: Counter::default(),
            watch_events: Counter::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            checks: Default::default(),
            snapshot: Histogram::new(10_000_000),
            hash: Histogram::new(10_000_000),
            hash_rev: Histogram::new(10_000_000),
            clients: ClientTable::default(),
            scrapes: Counter::default(),
            watch_receive_failures: Counter::default(),
            keep_alive_receive_failures: Counter::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::<3>::new(1_000_000);
        for ns in [1_000_000, 1_000_001, 4_000_000, 4_000_001] {
            histogram.observe_ns(ns);
        }
        let counts: Vec<u64> = histogram.cumulative().iter().map(|row| row.1).collect();
        assert_eq!((counts, histogram.count()), (vec![1, 2, 3], 4));
    }
}
