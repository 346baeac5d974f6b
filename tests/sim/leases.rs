//! What clients know of their leases: when each was last surely renewed, and whether it may be gone.

use std::collections::BTreeMap;

use etcore::member::LeaseInfo;

use crate::{
    history::{Check, ensure},
    weather::SEC,
};

/// One lease as its client sees it.
pub struct Lease {
    /// Seconds granted.
    pub ttl: i64,
    /// What every clock showed when the last acknowledged grant or renewal was asked for.
    renewed: Vec<u64>,
    /// A revocation was asked for, and may have happened.
    pub revoke_asked: bool,
    /// Its key is known to be there.
    pub has_key: bool,
    /// When its end was first seen. Units: nanoseconds.
    pub gone_ns: Option<u64>,
}

/// All leases that were surely granted.
#[derive(Default)]
pub struct Leases {
    pub all: BTreeMap<i64, Lease>,
    pub expired: u64,
    pub renewed: u64,
}

/// The key that hangs on a lease: before all that clients delete.
pub fn key_of(lease: i64) -> String {
    format!("a/{lease:08}")
}

/// The lease of such a key.
pub fn lease_of(key: &[u8]) -> Option<i64> {
    std::str::from_utf8(key.strip_prefix(b"a/")?).ok()?.parse().ok()
}

impl Leases {
    /// Those that are not known to be gone.
    pub fn living(&self) -> Vec<i64> {
        let living = self.all.iter().filter(|(_, lease)| lease.gone_ns.is_none());
        living.map(|(id, _)| *id).collect()
    }

    /// A grant was acknowledged.
    pub fn granted(&mut self, id: i64, ttl: i64, clocks: Vec<u64>) {
        let lease = Lease {
            ttl,
            renewed: clocks,
            revoke_asked: false,
            has_key: false,
            gone_ns: None,
        };
        self.all.insert(id, lease);
    }

    /// A renewal asked for at `invoked_ns` was answered with this TTL.
    pub fn renewal(&mut self, id: i64, ttl: i64, invoked_ns: u64, then: Vec<u64>, now: &[u64]) -> Check {
        let Some(lease) = self.all.get_mut(&id) else {
            return Ok(());
        };
        if ttl == 0 {
            return self.may_be_gone(id, now);
        }
        ensure!(
            lease.gone_ns.is_none_or(|gone| gone >= invoked_ns),
            "lease {id} was renewed although it had ended before that was asked for"
        );
        let later = then.iter().zip(&lease.renewed).all(|(then, before)| then >= before);
        if later {
            lease.renewed = then;
        }
        self.renewed += 1;
        Ok(())
    }

    /// A question asked at `invoked_ns` was answered.
    /// A new leader gives every lease `grace_ns` more.
    pub fn told(&self, id: i64, info: Option<LeaseInfo>, invoked_ns: u64, grace_ns: u64, now: &[u64]) -> Check {
        let Some(lease) = self.all.get(&id) else { return Ok(()) };
        let Some(info) = info else {
            return self.may_be_gone(id, now);
        };
        let (left, granted, keys) = (info.remaining_seconds, info.granted_seconds, info.keys);
        ensure!(
            lease.gone_ns.is_none_or(|gone| gone >= invoked_ns),
            "lease {id} was told of although it had ended before that was asked for"
        );
        ensure!(
            granted == lease.ttl && left <= granted + grace_ns.div_ceil(SEC) as i64,
            "lease {id} of {} s is told to have {left} of {granted} s left",
            lease.ttl
        );
        ensure!(
            keys.iter().all(|key| lease_of(key) == Some(id)),
            "lease {id} is told to have the keys {keys:?}"
        );
        Ok(())
    }

    /// The end of a lease shows: was it early?
    pub fn gone(&mut self, id: i64, now_ns: u64, now: &[u64]) -> Check {
        self.may_be_gone(id, now)?;
        if let Some(lease) = self.all.get_mut(&id) {
            lease.gone_ns.get_or_insert(now_ns);
            self.expired += u64::from(!lease.revoke_asked);
        }
        Ok(())
    }

    /// A lease that nobody revoked lives for its TTL by the clock of at least one member (the leader's).
    pub fn may_be_gone(&self, id: i64, now: &[u64]) -> Check {
        let Some(lease) = self.all.get(&id) else { return Ok(()) };
        let passed = now
            .iter()
            .zip(&lease.renewed)
            .map(|(now, then)| now - then)
            .max()
            .unwrap_or(0);
        ensure!(
            lease.revoke_asked || passed >= lease.ttl as u64 * SEC,
            "lease {id} of {} s ended {} ms after it was renewed",
            lease.ttl,
            passed / 1_000_000
        );
        Ok(())
    }
}
