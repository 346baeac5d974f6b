//! Snapshots on their way to members that lag: the log keeps what follows them.
//!
//! A snapshot is sent and taken over while the cluster goes on writing. If the log let go of what came meanwhile, the member
//! would need the next one as soon as it has this one, and under a steady load it would never catch up.
//!
//! A member that has caught up is forgotten; one that has not, in time, is, too.
//!
//! Bounds: [`BYTES_MAX`] of log; beyond that the next snapshot is the lesser evil.
//! Source: etcd, which cuts no log while a snapshot is in flight, nor for `releaseDelayAfterSnapshot` behind it.

use std::collections::BTreeMap;

/// Payload of the log up to which it is kept. Units: bytes.
pub(super) const BYTES_MAX: u64 = 256 << 20;
/// A member that has received a snapshot has so long to take it over. Units: nanoseconds.
const TAKE_OVER_NS: u64 = 30_000_000_000;

/// One snapshot.
#[derive(Debug)]
struct Sent {
    index: u64,
    /// When it need not be thought of any more; none while it is being sent.
    until_ns: Option<u64>,
}

/// The newest snapshot of each member that is or was being sent one.
#[derive(Debug, Default)]
pub(super) struct Inflight {
    to: BTreeMap<u64, Sent>,
}

impl Inflight {
    /// Whether no member is or was lately being sent one.
    pub(super) fn is_empty(&self) -> bool {
        self.to.is_empty()
    }

    /// A snapshot that ends at this entry is on its way.
    pub(super) fn begun(&mut self, to: u64, index: u64) {
        self.to.insert(to, Sent { index, until_ns: None });
    }

    /// It is there, or will not come.
    pub(super) fn ended(&mut self, to: u64, ok: bool, now_ns: u64) {
        match self.to.get_mut(&to) {
            Some(sent) if ok => sent.until_ns = Some(now_ns + TAKE_OVER_NS),
            _ => drop(self.to.remove(&to)),
        }
    }

    /// The entry behind which the log is to be kept. `follows`: whether a member has got so far that it needs no more than
    /// any other.
    pub(super) fn oldest(&mut self, now_ns: u64, follows: impl Fn(u64) -> bool) -> Option<u64> {
        self.to
            .retain(|id, sent| sent.until_ns.is_none_or(|until_ns| now_ns < until_ns && !follows(*id)));
        self.to.values().map(|sent| sent.index).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_snapshot_is_kept_until_it_is_taken_over_or_lost() {
        let mut inflight = Inflight::default();
        inflight.begun(2, 100);
        inflight.begun(3, 50);
        assert_eq!(inflight.oldest(u64::MAX, |_| false), Some(50), "it may take long");
        inflight.ended(3, false, 0);
        assert_eq!(inflight.oldest(0, |_| false), Some(100));
        inflight.ended(2, true, 7);
        assert_eq!(inflight.oldest(7 + TAKE_OVER_NS - 1, |_| false), Some(100));
        assert_eq!(inflight.oldest(7 + TAKE_OVER_NS, |_| false), None);
        inflight.ended(9, true, 0);
        assert_eq!(inflight.oldest(0, |_| false), None, "nobody knows of it");
        inflight.begun(2, 100);
        assert_eq!(inflight.oldest(0, |_| true), Some(100), "it is yet to come");
        inflight.ended(2, true, 0);
        assert_eq!(inflight.oldest(0, |id| id == 2), None, "it is taken over");
    }
}
