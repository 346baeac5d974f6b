//! What is counted of each other member.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{Counter, Histogram};

/// Members kept apart; whoever dials may call itself anything.
const PEERS_MAX: usize = 256;

/// Counters of one other member, written by the core's executor.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct PeerMetrics {
    pub received_bytes: Counter,
    pub received_failures: Counter,
    pub sent_bytes: Counter,
    pub sent_failures: Counter,
    /// 1 while the link to it is up.
    pub active: Counter,
    pub disconnected: Counter,
    pub round_trip: Histogram<16>,
    pub snapshot_sent: SnapshotMetrics,
    pub snapshot_received: SnapshotMetrics,
}

/// Snapshots one way.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct SnapshotMetrics {
    pub success: Counter,
    pub failures: Counter,
    /// Under way now.
    pub inflight: Counter,
    pub duration: Histogram<10>,
}

impl Default for SnapshotMetrics {
    fn default() -> Self {
        SnapshotMetrics {
            success: Counter::default(),
            failures: Counter::default(),
            inflight: Counter::default(),
            duration: Histogram::new(100_000_000),
        }
    }
}

impl SnapshotMetrics {
    /// Counts a transfer that ended.
    pub fn ended(&self, ok: bool, took_ns: u64) {
        self.inflight.set(0);
        match ok {
            true => {
                self.success.add(1);
                self.duration.observe_ns(took_ns);
            }
            false => self.failures.add(1),
        }
    }
}

impl Default for PeerMetrics {
    fn default() -> Self {
        PeerMetrics {
            received_bytes: Counter::default(),
            received_failures: Counter::default(),
            sent_bytes: Counter::default(),
            sent_failures: Counter::default(),
            active: Counter::default(),
            disconnected: Counter::default(),
            round_trip: Histogram::new(100_000),
            snapshot_sent: SnapshotMetrics::default(),
            snapshot_received: SnapshotMetrics::default(),
        }
    }
}

/// The other members by id. Locked when a connection begins and when the page is read, not to count.
#[derive(Debug, Default)]
pub struct PeerTable(Mutex<BTreeMap<u64, Arc<PeerMetrics>>>);

impl PeerTable {
    /// The counters of a member. Beyond `PEERS_MAX` they are not shown.
    pub fn of(&self, member: u64) -> Arc<PeerMetrics> {
        let mut peers = self.lock();
        if peers.len() >= PEERS_MAX && !peers.contains_key(&member) {
            return Arc::default();
        }
        peers.entry(member).or_default().clone()
    }

    /// Those of all members heard of, by id.
    pub fn all(&self) -> Vec<(u64, Arc<PeerMetrics>)> {
        self.lock().iter().map(|(id, peer)| (*id, peer.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<PeerMetrics>>> {
        self.0.lock().expect("nothing panics while the table is locked")
    }
}
