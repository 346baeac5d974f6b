//! What the member keeps in memory beside the store, read from the rows of a tree.

use std::collections::BTreeSet;

use bytes::Bytes;
use net::pb::{etcdserverpb::AlarmMember, leasepb};
use prost::Message;
use storage::{
    buckets::Bucket,
    mvcc::{Base, StoreError},
};

use super::{BootError, MemberInfo, Membership, lessor::Lessor, membership::DowngradeRow};

/// Leases, alarms and members.
///
/// Order: [`leases`](Self::leases) until it is done, then [`attach`](Self::attach) of each key that has one.
pub(super) struct Rows {
    pub(super) lessor: Lessor,
    pub(super) alarms: BTreeSet<(u64, i32)>,
    pub(super) members: Membership,
    /// Where the next leases are.
    from: Vec<u8>,
}

impl Rows {
    /// Reads what is never much: all but the leases.
    pub(super) fn begin(base: &dyn Base, min_ttl_seconds: i64) -> Result<Rows, BootError> {
        let mut alarms = BTreeSet::new();
        each(base, Bucket::Alarm, |key, _| {
            let alarm = AlarmMember::decode(key).map_err(|error| error.to_string())?;
            alarms.insert((alarm.member_id, alarm.alarm));
            Ok(())
        })?;
        Ok(Rows {
            lessor: Lessor::new(min_ttl_seconds),
            alarms,
            members: membership(base)?,
            from: Vec::new(),
        })
    }

    /// Reads up to `max` leases; true once there are no more.
    pub(super) fn leases(&mut self, base: &dyn Base, max: usize) -> Result<bool, BootError> {
        let mut rows = base.scan(Bucket::Lease, &self.from).map_err(StoreError::Base)?;
        for _ in 0..max {
            let Some((key, value)) = rows.next().map_err(StoreError::Base)? else {
                return Ok(true);
            };
            let lease = leasepb::Lease::decode(value).map_err(|error| bad(Bucket::Lease, error))?;
            self.lessor.restore(lease.id, lease.ttl, lease.remaining_ttl);
            self.from.clear();
            self.from.extend_from_slice(key);
            self.from.push(0);
        }
        Ok(false)
    }

    /// Ties a key to its lease.
    pub(super) fn attach(&mut self, key: &[u8], lease: i64) {
        self.lessor.attach(lease, Bytes::copy_from_slice(key));
    }
}

fn membership(base: &dyn Base) -> Result<Membership, BootError> {
    let mut members = Membership::default();
    each(base, Bucket::Members, |_, value| {
        let member: MemberInfo = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        members.members.insert(member.id, member);
        Ok(())
    })?;
    each(base, Bucket::MembersRemoved, |key, _| {
        let text = std::str::from_utf8(key).map_err(|error| error.to_string())?;
        members
            .removed
            .insert(u64::from_str_radix(text, 16).map_err(|error| error.to_string())?);
        Ok(())
    })?;
    let version = base.get(Bucket::Cluster, b"clusterVersion").map_err(StoreError::Base)?;
    members.cluster_version = version.map(|version| String::from_utf8_lossy(version).into_owned());
    if let Some(row) = base.get(Bucket::Cluster, b"downgrade").map_err(StoreError::Base)? {
        let row: DowngradeRow = serde_json::from_slice(row).map_err(|error| bad(Bucket::Cluster, error))?;
        members.downgrade_target = row.enabled.then_some(row.target);
    }
    Ok(members)
}

/// Visits the rows of a bucket.
fn each(
    base: &dyn Base,
    bucket: Bucket,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), BootError> {
    let mut rows = base.scan(bucket, b"").map_err(StoreError::Base)?;
    while let Some((key, value)) = rows.next().map_err(StoreError::Base)? {
        visit(key, value).map_err(|why| bad(bucket, why))?;
    }
    Ok(())
}

fn bad(bucket: Bucket, why: impl ToString) -> BootError {
    BootError::Row {
        bucket: bucket.name(),
        why: why.to_string(),
    }
}
