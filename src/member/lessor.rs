//! Leases: who holds which keys until when.
//!
//! The table of leases and their keys is replicated state: it changes only when entries are applied. Deadlines are
//! not: only the leader (the *primary* lessor) keeps them, renews them and finds the expired ones. A new leader
//! re-arms every lease with what was left of it at the last checkpoint plus one election timeout, so that a lease may
//! end late but never early.
//!
//! Time is an input: monotonic nanoseconds of the member's last tick.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft::mutant;

/// Longest TTL a client may ask for.
///
/// Units: seconds. Source: etcd `lease.MaxLeaseTTL`.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Why a lease operation did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseError {
    /// No such lease.
    NotFound,
    /// A lease with that id is there already.
    Exists,
    /// The TTL is above [`MAX_TTL_SECONDS`].
    TtlTooLarge,
}

/// One lease.
#[derive(Debug)]
struct Lease {
    /// Granted time to live, in seconds.
    ttl: i64,
    /// What was left at the last checkpoint, in seconds; 0: none was taken.
    remaining_ttl: i64,
    /// A checkpoint of it is proposed and not applied; known while primary.
    checkpointing: bool,
    /// Its checkpoint is being cleared: there must be no later one on the way.
    clearing: bool,
    /// When it ends, in monotonic nanoseconds; set while primary.
    deadline_ns: Option<u64>,
    keys: BTreeSet<Bytes>,
}

/// How an attempt to renew a lease ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// Its time begins anew, with this TTL in seconds.
    Renewed(i64),
    /// There is no such lease.
    Gone,
    /// It has ended and its revocation is under way: whoever asks waits for that, or for another leader.
    Ending,
    /// A checkpoint stands in the way: it is to be cleared first.
    Checkpointed,
}

/// What a lease looks like to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseInfo {
    /// Whole seconds left, rounded down.
    pub remaining_seconds: i64,
    /// Seconds granted.
    pub granted_seconds: i64,
    /// The attached keys, in order; empty unless asked for.
    pub keys: Vec<Bytes>,
}

/// All leases of the member.
#[derive(Debug)]
pub struct Lessor {
    leases: BTreeMap<i64, Lease>,
    /// (deadline, id) of every armed lease, soonest first.
    deadlines: BTreeSet<(u64, i64)>,
    /// Expired leases whose revocation is proposed and not yet applied, with the time of the next try.
    revoking: BTreeMap<i64, u64>,
    primary: bool,
    min_ttl_seconds: i64,
}

/// A revocation that was proposed but not applied is proposed again after this long.
///
/// Units: nanoseconds. Source: etcd `leaseRevokeRate` retry of 3 s (limits table, lease revoke retry).
const REVOKE_RETRY_NS: u64 = 3 * NANOS_PER_SECOND;

impl Lessor {
    /// An empty table. A TTL below `min_ttl_seconds` is raised to it at grant.
    pub fn new(min_ttl_seconds: i64) -> Self {
        Lessor {
            leases: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            revoking: BTreeMap::new(),
            primary: false,
            min_ttl_seconds,
        }
    }

    /// Whether the lease is there.
    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Adds a lease and returns the TTL granted, in seconds.
    pub fn grant(&mut self, id: i64, ttl: i64, now_ns: u64) -> Result<i64, LeaseError> {
        if ttl > MAX_TTL_SECONDS {
            return Err(LeaseError::TtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(LeaseError::Exists);
        }
        let ttl = ttl.max(self.min_ttl_seconds);
        self.restore(id, ttl, 0);
        if self.primary {
            self.arm(id, seconds_ns(ttl), now_ns);
        }
        Ok(ttl)
    }

    /// Puts a lease back as it was stored, at boot.
    pub fn restore(&mut self, id: i64, ttl: i64, remaining_ttl: i64) {
        let lease = Lease {
            ttl,
            remaining_ttl,
            checkpointing: false,
            clearing: false,
            deadline_ns: None,
            keys: BTreeSet::new(),
        };
        self.leases.insert(id, lease);
    }

    /// Removes a lease and returns its keys in order.
    pub fn revoke(&mut self, id: i64) -> Result<Vec<Bytes>, LeaseError> {
        let lease = self.leases.remove(&id).ok_or(LeaseError::NotFound)?;
        if let Some(deadline) = lease.deadline_ns {
            self.deadlines.remove(&(deadline, id));
        }
        self.revoking.remove(&id);
        Ok(lease.keys.into_iter().collect())
    }

    /// Ties a key to a lease; a lease that is not there is left alone.
    pub fn attach(&mut self, id: i64, key: Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    /// Unties a key from a lease.
    pub fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// Becomes the one who counts down: every lease gets what was left of it plus `extend_ns`.
    ///
    /// Source: etcd `lessor.Promote`; issue 9888 (remaining TTL across leader changes).
    pub fn promote(&mut self, now_ns: u64, extend_ns: u64) {
        self.primary = true;
        self.revoking.clear();
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            let left = self.leases[&id].seconds_left();
            let left = if mutant::on("new_leader_ends_leases") { 0 } else { left };
            self.arm(id, seconds_ns(left).saturating_add(extend_ns), now_ns);
        }
    }

    /// Stops counting down.
    pub fn demote(&mut self) {
        self.primary = false;
        self.deadlines.clear();
        self.revoking.clear();
        for lease in self.leases.values_mut() {
            lease.deadline_ns = None;
            (lease.checkpointing, lease.clearing) = (false, false);
        }
    }

    /// The checkpoint of a lease is about to be cleared by an entry: no other is made until that is applied, since one that
    /// came behind it would outlive the renewal that waits.
    pub fn clears(&mut self, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.clearing = true;
        }
    }

    /// Whether this member counts down.
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Starts a lease's time anew.
    ///
    /// Order: a checkpoint must be cleared first, or a new leader would end the lease by what was left then.
    pub fn renew(&mut self, id: i64, now_ns: u64) -> Renewal {
        let Some(lease) = self.leases.get(&id) else {
            return Renewal::Gone;
        };
        if self.is_expired(lease, now_ns) {
            return Renewal::Ending;
        }
        let checkpointed = lease.remaining_ttl > 0 || lease.checkpointing;
        if checkpointed && !mutant::on("checkpoint_outlives_a_renewal") {
            return Renewal::Checkpointed;
        }
        let ttl = lease.ttl;
        if !mutant::on("renewal_forgotten") {
            self.arm(id, seconds_ns(ttl), now_ns);
        }
        Renewal::Renewed(ttl)
    }

    /// What is left of a lease; 0 for one that has ended and whose revocation is under way.
    pub fn info(&self, id: i64, with_keys: bool, now_ns: u64) -> Option<LeaseInfo> {
        let lease = self.leases.get(&id)?;
        let remaining_seconds = match lease.deadline_ns {
            Some(deadline) => (deadline.saturating_sub(now_ns) / NANOS_PER_SECOND) as i64,
            None => lease.seconds_left(),
        };
        let keys = if with_keys {
            lease.keys.iter().cloned().collect()
        } else {
            Vec::new()
        };
        Some(LeaseInfo {
            remaining_seconds,
            granted_seconds: lease.ttl,
            keys,
        })
    }

    /// All lease ids, soonest end first, then by id.
    pub fn ids(&self) -> Vec<i64> {
        if self.primary {
            return self.deadlines.iter().map(|(_, id)| *id).collect();
        }
        self.leases.keys().copied().collect()
    }

    /// Up to `max` leases that have ended, in id order, each handed out again only after the retry time.
    pub fn expired(&mut self, now_ns: u64, max: usize) -> Vec<i64> {
        let mut ids = Vec::new();
        for &(deadline, id) in &self.deadlines {
            if deadline > now_ns || ids.len() >= max {
                break;
            }
            if self.revoking.get(&id).is_none_or(|retry| *retry <= now_ns) {
                ids.push(id);
            }
        }
        for id in &ids {
            self.revoking.insert(*id, now_ns + REVOKE_RETRY_NS);
        }
        ids.sort_unstable();
        ids
    }

    /// The next time something ends, in monotonic nanoseconds.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Up to `max` checkpoints (id, whole seconds left) of leases from id `from` on that have more than
    /// `left_above_seconds` left and were not just renewed; the second value is where to go on, if there is more.
    ///
    /// Each lease handed out counts as being checkpointed until a checkpoint of it is applied.
    pub fn checkpoints(
        &mut self,
        now_ns: u64,
        left_above_seconds: i64,
        from: i64,
        max: usize,
    ) -> (Vec<(i64, i64)>, Option<i64>) {
        let left = |deadline: u64| deadline.saturating_sub(now_ns).div_ceil(NANOS_PER_SECOND) as i64;
        let mut due = Vec::new();
        for (id, lease) in self.leases.range_mut(from..) {
            let Some(deadline) = lease.deadline_ns else { continue };
            let left = left(deadline);
            if left <= left_above_seconds || left >= lease.ttl || lease.checkpointing || lease.clearing {
                continue;
            }
            if due.len() == max {
                return (due, Some(*id));
            }
            lease.checkpointing = true;
            due.push((*id, left));
        }
        (due, None)
    }

    /// Notes what is left of a lease (0 clears the note); false when the lease is not there.
    pub fn checkpoint(&mut self, id: i64, remaining_ttl: i64) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.remaining_ttl = remaining_ttl;
                lease.checkpointing = false;
                lease.clearing &= remaining_ttl > 0;
                true
            }
            None => false,
        }
    }

    /// The stored form of a lease: (granted, remaining) seconds.
    pub fn stored(&self, id: i64) -> Option<(i64, i64)> {
        self.leases.get(&id).map(|lease| (lease.ttl, lease.remaining_ttl))
    }

    fn is_expired(&self, lease: &Lease, now_ns: u64) -> bool {
        self.primary && lease.deadline_ns.is_some_and(|deadline| deadline <= now_ns)
    }

    fn arm(&mut self, id: i64, span_ns: u64, now_ns: u64) {
        let lease = self.leases.get_mut(&id).expect("armed leases are in the table");
        let deadline = now_ns.saturating_add(span_ns);
        if let Some(old) = lease.deadline_ns.replace(deadline) {
            self.deadlines.remove(&(old, id));
        }
        self.deadlines.insert((deadline, id));
        self.revoking.remove(&id);
    }
}

impl Lease {
    fn seconds_left(&self) -> i64 {
        if self.remaining_ttl > 0 && !mutant::on("checkpoint_lost_with_the_leader") {
            self.remaining_ttl
        } else {
            self.ttl
        }
    }
}

fn seconds_ns(seconds: i64) -> u64 {
    (seconds.max(0) as u64).saturating_mul(NANOS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NANOS_PER_SECOND;

    fn primary() -> Lessor {
        let mut lessor = Lessor::new(2);
        lessor.promote(0, 0);
        lessor
    }

    #[test]
    fn a_short_ttl_is_raised_to_the_minimum() {
        assert_eq!(primary().grant(1, 1, 0), Ok(2));
    }

    #[test]
    fn a_ttl_above_the_bound_and_a_taken_id_are_refused() {
        let mut lessor = primary();
        assert_eq!(lessor.grant(1, MAX_TTL_SECONDS + 1, 0), Err(LeaseError::TtlTooLarge));
        lessor.grant(1, 10, 0).unwrap();
        assert_eq!(lessor.grant(1, 10, 0), Err(LeaseError::Exists));
    }

    #[test]
    fn a_lease_expires_once_its_time_is_over_and_not_before() {
        let mut lessor = primary();
        lessor.grant(7, 10, 0).unwrap();
        assert!(lessor.expired(10 * S - 1, 100).is_empty());
        assert_eq!(lessor.expired(10 * S, 100), [7]);
        assert!(lessor.expired(10 * S, 100).is_empty(), "its revocation is under way");
        assert_eq!(lessor.expired(13 * S, 100), [7], "and tried again later");
    }

    #[test]
    fn renewal_starts_the_time_anew_but_not_after_the_end() {
        let mut lessor = primary();
        lessor.grant(7, 10, 0).unwrap();
        assert_eq!(lessor.renew(7, 9 * S), Renewal::Renewed(10));
        assert!(lessor.expired(18 * S, 100).is_empty());
        assert_eq!(lessor.renew(7, 19 * S), Renewal::Ending);
        assert_eq!(lessor.info(7, false, 19 * S).unwrap().remaining_seconds, 0);
        lessor.revoke(7).unwrap();
        assert_eq!(lessor.renew(7, 19 * S), Renewal::Gone);
    }

    #[test]
    fn revoking_returns_the_keys_in_order() {
        let mut lessor = primary();
        lessor.grant(7, 10, 0).unwrap();
        for key in ["b", "c", "a"] {
            lessor.attach(7, Bytes::from(key));
        }
        lessor.detach(7, b"c");
        assert_eq!(lessor.revoke(7).unwrap(), ["a", "b"]);
        assert_eq!(lessor.revoke(7), Err(LeaseError::NotFound));
        assert!(lessor.expired(100 * S, 100).is_empty());
    }

    #[test]
    fn a_new_leader_goes_on_with_the_checkpointed_rest_plus_the_extension() {
        let mut lessor = Lessor::new(2);
        lessor.restore(7, 3600, 0);
        lessor.checkpoint(7, 100);
        lessor.promote(5 * S, S);
        assert_eq!(lessor.info(7, false, 5 * S).unwrap().remaining_seconds, 101);
        assert!(lessor.expired(105 * S, 9).is_empty());
        assert_eq!(lessor.expired(106 * S, 9), [7]);
    }

    #[test]
    fn leases_are_listed_by_their_end() {
        let mut lessor = primary();
        lessor.grant(1, 30, 0).unwrap();
        lessor.grant(2, 10, 0).unwrap();
        lessor.grant(3, 20, 0).unwrap();
        assert_eq!(lessor.ids(), [2, 3, 1]);
    }

    #[test]
    fn checkpoints_are_taken_of_long_leases_only_and_of_all_of_them_in_turn() {
        let mut lessor = primary();
        lessor.grant(1, 200, 0).unwrap();
        for id in 2..6 {
            lessor.grant(id, 600, 0).unwrap();
        }
        lessor.renew(5, 100 * S);
        assert_eq!(
            lessor.checkpoints(100 * S, 300, i64::MIN, 2),
            (vec![(2, 500), (3, 500)], Some(4))
        );
        assert_eq!(
            lessor.checkpoints(100 * S, 300, 4, 2),
            (vec![(4, 500)], None),
            "not of one just renewed"
        );
    }

    #[test]
    fn a_checkpointed_lease_is_renewed_only_once_the_checkpoint_is_cleared() {
        let mut lessor = primary();
        lessor.grant(7, 600, 0).unwrap();
        lessor.checkpoints(100 * S, 300, i64::MIN, 9);
        // Proposed and not applied: a new leader may yet go by it.
        assert_eq!(lessor.renew(7, 101 * S), Renewal::Checkpointed);
        lessor.checkpoint(7, 500);
        assert_eq!(lessor.renew(7, 102 * S), Renewal::Checkpointed);
        lessor.checkpoint(7, 0);
        assert_eq!(lessor.renew(7, 103 * S), Renewal::Renewed(600));
    }
}
