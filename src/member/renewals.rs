//! The leader's leases: ending them, noting what is left of them, renewing them, telling of them.
//!
//! What is left of a long lease is checkpointed, so that a new leader need not give it its whole TTL again. A renewal
//! waits until the checkpoint is cleared by an applied entry, since a new leader would go by it: a lease may end late,
//! never early. A renewal of a lease that has ended waits until its keys are gone.
//!
//! Source: etcd `lessor.Renew`, `findDueScheduledCheckpoints`; issue 15247 (revocations of a former leader).

use net::pb::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeBatchRequest, LeaseRevokeRequest,
};
use net::peer::CallMethod;
use storage::failpoint;

use super::{Asker, Member, Outcome, Refusal, WAITING_MAX, abilities::LEASE_REVOKE_BATCH, lessor::Renewal};

/// Leases revoked or checkpointed by one entry. Units: leases. Source: etcd `maxLeaseCheckpointBatchSize`.
const BATCH_MAX: usize = 1000;
/// A clearance that was not applied is proposed again after this long. Units: nanoseconds.
const CLEAR_RETRY_NS: u64 = 3_000_000_000;

/// A renewal that cannot be answered yet.
#[derive(Debug)]
struct Waiting {
    asker: Asker,
    lease: i64,
    deadline_ns: u64,
    /// When its checkpoint is to be cleared, again.
    clear_ns: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    waiting: Vec<Waiting>,
    /// Leases whose checkpoint is to be cleared by one entry at the end of the turn.
    clear: Vec<i64>,
}

impl Member {
    /// Renews a lease after a leadership round.
    pub(super) fn renew(&mut self, asker: Asker, lease: i64) {
        if self.renewals.waiting.len() >= WAITING_MAX {
            return self.settle(asker, Err(Refusal::TooManyRequests));
        }
        self.try_renewal(Waiting {
            asker,
            lease,
            deadline_ns: self.now_ns + self.options.request_timeout_ns,
            clear_ns: 0,
        });
    }

    /// Looks again at the renewals that wait.
    pub(super) fn pump_renewals(&mut self) {
        for waiting in std::mem::take(&mut self.renewals.waiting) {
            self.try_renewal(waiting);
        }
        let clear = std::mem::take(&mut self.renewals.clear);
        for batch in clear.chunks(BATCH_MAX) {
            self.propose_checkpoints(batch.iter().map(|lease| (*lease, 0)).collect());
        }
    }

    /// Tells of a lease after a leadership round.
    pub(super) fn tell_lease(&mut self, asker: Asker, lease: i64, with_keys: bool) {
        if !self.lessor.is_primary() {
            return self.ask_primary(asker, CallMethod::LeaseInfo, lease, with_keys);
        }
        match asker {
            Asker::Shard(..) => failpoint!("beforeLookupWhenLeaseTimeToLive"),
            Asker::Peer(..) => failpoint!("beforeLookupWhenForwardLeaseTimeToLive"),
        }
        let info = self.lessor.info(lease, with_keys, self.now_ns);
        self.settle(asker, Ok(Outcome::LeaseInfo(info)));
    }

    /// This member does not lead any more: its own clients' questions go to who does, others' go back.
    fn ask_primary(&mut self, asker: Asker, method: CallMethod, lease: i64, with_keys: bool) {
        match asker {
            Asker::Shard(shard, id) => self.ask_leader(shard, id, method, lease as u64, with_keys),
            asker => self.settle(asker, Err(Refusal::NotPrimary)),
        }
    }

    fn try_renewal(&mut self, mut waiting: Waiting) {
        if !self.lessor.is_primary() {
            return self.ask_primary(waiting.asker, CallMethod::LeaseRenew, waiting.lease, false);
        }
        // Checkpoints of a former leader may lie unapplied in what this one took over.
        let is_settled = self.applied.term == self.raft.term();
        let renewal = if is_settled {
            self.lessor.renew(waiting.lease, self.now_ns)
        } else {
            Renewal::Ending
        };
        let ttl = match renewal {
            Renewal::Renewed(ttl) => {
                self.metrics.leases_renewed.add(1);
                ttl
            }
            Renewal::Gone => 0,
            Renewal::Ending | Renewal::Checkpointed if waiting.deadline_ns <= self.now_ns => {
                return self.settle(waiting.asker, Err(Refusal::Timeout));
            }
            Renewal::Ending => return self.renewals.waiting.push(waiting),
            Renewal::Checkpointed => {
                if waiting.clear_ns <= self.now_ns {
                    waiting.clear_ns = self.now_ns + CLEAR_RETRY_NS;
                    self.lessor.clears(waiting.lease);
                    self.renewals.clear.push(waiting.lease);
                }
                return self.renewals.waiting.push(waiting);
            }
        };
        let revision = self.store.revision();
        self.settle(waiting.asker, Ok(Outcome::LeaseRenew { ttl, revision }));
    }

    /// Proposes the end of leases whose time is over, and checkpoints of long ones, as the leader.
    pub(super) fn end_leases(&mut self) {
        if !self.leases_settled {
            return;
        }
        let expired = self.lessor.expired(self.now_ns, BATCH_MAX);
        if !expired.is_empty() {
            self.metrics.leases_expired.add(expired.len() as u64);
            self.revoke(expired);
        }
        if self.now_ns >= self.next_checkpoint_ns {
            self.next_checkpoint_ns = self.now_ns + self.options.lease_checkpoint_interval_ns;
            self.checkpoint_from = Some(i64::MIN);
        }
        // One batch a turn, until all leases were looked at.
        if let Some(from) = self.checkpoint_from {
            // What ends before the next sweep is not worth an entry.
            let left_above = (self.options.lease_checkpoint_interval_ns / 1_000_000_000) as i64;
            let (left, next) = self.lessor.checkpoints(self.now_ns, left_above, from, BATCH_MAX);
            self.checkpoint_from = next;
            if !left.is_empty() {
                self.propose_checkpoints(left);
            }
        }
    }

    /// By one entry, or by one each while a member may not know batches.
    fn revoke(&mut self, expired: Vec<i64>) {
        if self
            .abilities
            .all_apply(&self.members, self.options.member_id, LEASE_REVOKE_BATCH)
        {
            let batch = LeaseRevokeBatchRequest {
                term: self.raft.term(),
                ids: expired,
            };
            return self.propose_own(InternalRaftRequest {
                lease_revoke_batch: Some(batch),
                ..Default::default()
            });
        }
        for id in expired {
            self.propose_own(InternalRaftRequest {
                lease_revoke: Some(LeaseRevokeRequest { id }),
                ..Default::default()
            });
        }
    }

    fn propose_checkpoints(&mut self, left: Vec<(i64, i64)>) {
        let one = |(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl };
        let checkpoints = left.into_iter().map(one).collect();
        let request = LeaseCheckpointRequest { checkpoints };
        self.propose_own(InternalRaftRequest {
            lease_checkpoint: Some(request),
            ..Default::default()
        });
    }
}
