//! Applying committed entries: the one place where the member's replicated state changes.

use std::sync::Arc;

use net::pb::{
    decode_entry,
    etcdserverpb::{
        AlarmRequest, AlarmType, InternalRaftRequest, LeaseCheckpointRequest, LeaseGrantRequest,
        LeaseRevokeBatchRequest, TxnRequest, alarm_request::AlarmAction,
    },
    leasepb, membershippb,
};
use prost::Message;
use raft::{Entry, EntryType, mutant};
use storage::{buckets::Bucket, failpoint};

use super::{
    Member, Refusal,
    event::{Outcome, RequestId},
    lessor::LeaseError,
    membership::{DowngradeRow, Membership},
    txn::{Applied, ApplyError, Writer},
};

/// Kind number of the NOSPACE alarm.
pub const NOSPACE: i32 = AlarmType::Nospace as i32;
/// Kind number of the CORRUPT alarm.
pub const CORRUPT: i32 = AlarmType::Corrupt as i32;

/// An applied request: its id and how it ended.
pub type Answer = (RequestId, Result<Outcome, Refusal>);

impl Member {
    /// Applies one committed entry; the answer for whoever waits for it.
    ///
    /// Errors: a fault of this member, which then stops.
    pub(super) fn apply(&mut self, entry: &Entry) -> Result<Option<Answer>, Fault> {
        assert!(
            entry.index > self.applied.index,
            "entries are applied once and in order"
        );
        let answer = match entry.entry_type {
            EntryType::Normal if entry.data.is_empty() => None,
            EntryType::Normal => {
                failpoint!("beforeApplyOneEntryNormal");
                self.apply_request(entry)?
            }
            EntryType::ConfChange | EntryType::ConfChangeV2 => {
                failpoint!("beforeApplyOneConfChange");
                self.apply_conf_change(entry)?;
                None
            }
        };
        self.applied.index = entry.index;
        self.applied.term = entry.term;
        self.settle_leases();
        Ok(answer)
    }

    fn apply_request(&mut self, entry: &Entry) -> Result<Option<Answer>, Fault> {
        let request = decode_entry(entry.data.clone()).map_err(|why| Fault::Entry {
            index: entry.index,
            why: why.to_string(),
        })?;
        let id = request.header.as_ref().map_or(request.id, |header| header.id);
        let result = match self.dispatch(request, entry) {
            Ok(outcome) => Ok(outcome),
            // Members that can apply it have done so: going on without it would be to disagree with them.
            Err(ApplyError::Refused(Refusal::NotCapable)) => {
                return Err(Fault::Entry {
                    index: entry.index,
                    why: "it holds a kind of request that this version does not know".to_owned(),
                });
            }
            Err(ApplyError::Refused(refusal)) => Err(refusal),
            Err(ApplyError::Fault(fault)) => return Err(Fault::Store(fault)),
        };
        Ok(Some((id, result)))
    }

    fn dispatch(&mut self, request: InternalRaftRequest, entry: &Entry) -> Applied<Outcome> {
        if let Some(put) = request.put {
            self.refuse_under_alarm(true)?;
            return self.write(|writer| {
                let prev = writer.put(&put)?;
                Ok(Outcome::Put { revision: 0, prev })
            });
        }
        if let Some(txn) = request.txn {
            self.refuse_under_alarm(puts(&txn))?;
            return self.write(|writer| Ok(Outcome::Txn(writer.txn(&txn)?)));
        }
        if let Some(delete) = request.delete_range {
            self.refuse_under_alarm(false)?;
            return self.write(|writer| Ok(Outcome::DeleteRange(writer.delete_range(&delete))));
        }
        if let Some(compaction) = request.compaction {
            self.refuse_under_alarm(false)?;
            return self.compact(compaction.revision);
        }
        if let Some(grant) = request.lease_grant {
            self.refuse_under_alarm(true)?;
            return self.lease_grant(&grant);
        }
        if let Some(revoke) = request.lease_revoke {
            self.refuse_under_alarm(false)?;
            return self.lease_revoke(revoke.id);
        }
        if let Some(batch) = request.lease_revoke_batch {
            return self.lease_revoke_batch(&batch, entry.term);
        }
        if let Some(checkpoint) = request.lease_checkpoint {
            self.lease_checkpoint(&checkpoint);
            return Ok(Outcome::Done);
        }
        if let Some(alarm) = request.alarm {
            return Ok(Outcome::Alarms(self.alarm(&alarm)));
        }
        if let Some(version) = request.cluster_version_set {
            self.set_cluster_version(version.ver);
            return Ok(Outcome::Done);
        }
        if let Some(downgrade) = request.downgrade_info_set {
            self.set_downgrade(downgrade);
            return Ok(Outcome::Done);
        }
        if let Some(attributes) = request.cluster_member_attr_set {
            self.set_attributes(attributes);
            return Ok(Outcome::Done);
        }
        Err(Refusal::NotCapable.into())
    }

    /// Compacts, and keeps a picture from just before it, whose hash members compare.
    fn compact(&mut self, revision: i64) -> Applied<Outcome> {
        let block = self.store.seal_block(self.applied.clone());
        self.sealed.push(block);
        let before = self.store.view();
        self.store.compact(revision)?;
        failpoint!("compactBeforeCommitScheduledCompact");
        self.hashes.expect(revision);
        self.compacted.push((before, revision));
        Ok(Outcome::Compact {
            revision: self.store.revision(),
        })
    }

    /// Runs one write transaction and fills in its revision.
    fn write(&mut self, run: impl FnOnce(&mut Writer<'_, '_>) -> Applied<Outcome>) -> Applied<Outcome> {
        let compacted = self.store.compact_revision();
        let mut writer = Writer::new(self.store.begin(), &mut self.lessor, compacted);
        let outcome = run(&mut writer);
        let counts = writer.counts;
        let ended = writer.end();
        self.metrics.wrote(counts);
        Ok(match outcome? {
            Outcome::Put { prev, .. } => Outcome::Put { revision: ended, prev },
            other => other,
        })
    }

    /// Source: behaviours 27; etcd `applierV3Capped`, `applierV3Corrupt`.
    fn refuse_under_alarm(&self, grows: bool) -> Result<(), Refusal> {
        if self.alarms.iter().any(|(_, kind)| *kind == CORRUPT) {
            return Err(Refusal::Corrupt);
        }
        if grows && self.alarms.iter().any(|(_, kind)| *kind == NOSPACE) {
            return Err(Refusal::NoSpace);
        }
        Ok(())
    }

    fn lease_grant(&mut self, request: &LeaseGrantRequest) -> Applied<Outcome> {
        let ttl = self
            .lessor
            .grant(request.id, request.ttl, self.now_ns)
            .map_err(|error| match error {
                LeaseError::NotFound => Refusal::LeaseNotFound,
                LeaseError::Exists => Refusal::LeaseExists,
                LeaseError::TtlTooLarge => Refusal::LeaseTtlTooLarge,
            })?;
        self.store_lease(request.id);
        self.metrics.leases_granted.add(1);
        self.metrics
            .lease_ttl
            .observe_ns((ttl as u64).saturating_mul(1_000_000_000));
        Ok(Outcome::LeaseGrant {
            lease: request.id,
            ttl,
            revision: self.store.revision(),
        })
    }

    fn lease_revoke(&mut self, lease: i64) -> Applied<Outcome> {
        let keys = self.lessor.revoke(lease).map_err(|_| Refusal::LeaseNotFound)?;
        self.store.bucket_delete(Bucket::Lease, &lease.to_be_bytes());
        self.metrics.leases_revoked.add(1);
        let mut revision = self.store.revision();
        if !keys.is_empty() {
            let compacted = self.store.compact_revision();
            let mut writer = Writer::new(self.store.begin(), &mut self.lessor, compacted);
            writer.delete_keys(&keys);
            let counts = writer.counts;
            revision = writer.end();
            self.metrics.wrote(counts);
        }
        Ok(Outcome::LeaseRevoke { revision })
    }

    /// Ends a batch of expired leases, in id order, one revision each. A batch of a former leader is void: its clock
    /// no longer counts (etcd issue 15247).
    fn lease_revoke_batch(&mut self, batch: &LeaseRevokeBatchRequest, entry_term: u64) -> Applied<Outcome> {
        if batch.term == entry_term || mutant::on("revocation_of_a_former_leader") {
            self.refuse_under_alarm(false)?;
            for lease in &batch.ids {
                // Revoked by its owner meanwhile: nothing left to do.
                let _ = self.lease_revoke(*lease);
            }
        }
        Ok(Outcome::LeaseRevoke {
            revision: self.store.revision(),
        })
    }

    fn lease_checkpoint(&mut self, request: &LeaseCheckpointRequest) {
        for checkpoint in &request.checkpoints {
            if self.lessor.checkpoint(checkpoint.id, checkpoint.remaining_ttl) {
                self.store_lease(checkpoint.id);
            }
        }
    }

    fn store_lease(&mut self, id: i64) {
        let Some((ttl, remaining_ttl)) = self.lessor.stored(id) else {
            return;
        };
        let lease = leasepb::Lease { id, ttl, remaining_ttl };
        self.store
            .bucket_put(Bucket::Lease, &id.to_be_bytes(), &lease.encode_to_vec());
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Vec<(u64, i32)> {
        let alarm = (request.member_id, request.alarm);
        let row = net::pb::etcdserverpb::AlarmMember {
            member_id: alarm.0,
            alarm: alarm.1,
        }
        .encode_to_vec();
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                let wanted = |kind: i32| request.alarm == AlarmType::None as i32 || request.alarm == kind;
                self.alarms.iter().filter(|(_, kind)| wanted(*kind)).copied().collect()
            }
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                if Arc::make_mut(&mut self.alarms).insert(alarm) {
                    self.store.bucket_put(Bucket::Alarm, &row, b"");
                    tracing::warn!(member = format!("{:x}", alarm.0), kind = alarm.1, "alarm raised");
                }
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) if Arc::make_mut(&mut self.alarms).remove(&alarm) => {
                self.store.bucket_delete(Bucket::Alarm, &row);
                tracing::warn!(member = format!("{:x}", alarm.0), kind = alarm.1, "alarm disarmed");
                vec![alarm]
            }
            _ => Vec::new(),
        }
    }

    fn set_cluster_version(&mut self, version: String) {
        self.store
            .bucket_put(Bucket::Cluster, b"clusterVersion", version.as_bytes());
        Arc::make_mut(&mut self.members).cluster_version = Some(version);
    }

    fn set_downgrade(&mut self, request: membershippb::DowngradeInfoSetRequest) {
        let (enabled, target) = (request.enabled, request.ver);
        tracing::info!(enabled, target, "the cluster's downgrade changes");
        let row = DowngradeRow {
            target: target.clone(),
            enabled,
        };
        let row = serde_json::to_vec(&row).expect("it is plain data");
        self.store.bucket_put(Bucket::Cluster, b"downgrade", &row);
        Arc::make_mut(&mut self.members).downgrade_target = enabled.then_some(target);
    }

    fn set_attributes(&mut self, request: membershippb::ClusterMemberAttrSetRequest) {
        let (id, attributes) = (request.member_id, request.member_attributes.unwrap_or_default());
        let members = Arc::make_mut(&mut self.members);
        if let Some(member) = members.members.get_mut(&id) {
            member.name = attributes.name;
            member.client_urls = attributes.client_urls;
            let row = serde_json::to_vec(member).expect("a member is plain data");
            self.store
                .bucket_put(Bucket::Members, Membership::key(id).as_bytes(), &row);
        }
    }
}

/// Whether the transaction holds a put in either branch, nested ones included.
fn puts(txn: &TxnRequest) -> bool {
    use net::pb::etcdserverpb::request_op::Request as Op;
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Op::RequestPut(_)) => true,
        Some(Op::RequestTxn(inner)) => puts(inner),
        _ => false,
    })
}

/// A fault of this member: it stops, and says why.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] storage::mvcc::StoreError),
    /// A committed entry makes no sense to this version.
    #[error(
        "log entry {index} cannot be applied: {why}; it was written by a newer or a damaged member: run the version that the others run"
    )]
    Entry {
        /// Its index.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// The log could not be written.
    #[error(transparent)]
    Wal(#[from] storage::wal::WalError),
    /// The tree could not be written.
    #[error(transparent)]
    Tree(#[from] storage::tree::TreeError),
    /// A snapshot of another member could not be taken over.
    #[error("the snapshot of another member cannot be installed: {0}")]
    Snapshot(String),
    /// Consensus broke its contract.
    #[error("raft: {0}")]
    Raft(String),
}
