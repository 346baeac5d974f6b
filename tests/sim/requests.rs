//! What clients ask, and what the answers must say.

use bytes::Bytes;
use etcore::member::{MemberChange, Outcome, Refusal, Request};
use net::pb::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RequestHeader, TxnRequest,
};
use prost::Message;
use storage::{io::sim::Rng, mvcc::StoreView};

use crate::{
    checker::history::IGNORING,
    history::{Change, Check, History, ensure},
    transactions,
    weather::{Dice, Weather},
};

/// One request of a client.
#[derive(Clone, Debug)]
pub enum Ask {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(i64, bool),
    /// When the revisions of a compaction are gone.
    CompactionDone(i64),
    /// A linearizable read at a revision (0: now).
    Read {
        from: Bytes,
        end: Bytes,
        revision: i64,
    },
    Grant {
        lease: i64,
        ttl: i64,
    },
    Revoke(i64),
    Renew(i64),
    MoveLeader(u64),
    Leases,
    Disarm {
        member: u64,
        kind: i32,
    },
    /// What is left of a lease, with its keys.
    Left(i64),
    Change {
        what: &'static str,
        change: MemberChange,
    },
}

impl Ask {
    /// A name for traces and counts.
    pub fn name(&self) -> &'static str {
        match self {
            Ask::Put(_) => "put",
            Ask::Delete(_) => "delete",
            Ask::Txn(_) => "txn",
            Ask::Compact(..) => "compact",
            Ask::CompactionDone(_) => "compaction done",
            Ask::Read { .. } => "read",
            Ask::Grant { .. } => "grant",
            Ask::Revoke(_) => "revoke",
            Ask::Renew(_) => "renew",
            Ask::MoveLeader(_) => "move leader",
            Ask::Leases => "leases",
            Ask::Disarm { .. } => "disarm",
            Ask::Left(_) => "time to live",
            Ask::Change { what, .. } => what,
        }
    }

    /// What a shard would send to the core.
    pub fn request(&self, id: u64) -> Request {
        let mut entry = InternalRaftRequest {
            header: Some(RequestHeader {
                id,
                ..RequestHeader::default()
            }),
            ..InternalRaftRequest::default()
        };
        match self.clone() {
            Ask::Put(put) => entry.put = Some(put),
            Ask::Delete(delete) => entry.delete_range = Some(delete),
            Ask::Txn(txn) => entry.txn = Some(txn),
            Ask::Compact(revision, physical) => {
                entry.compaction = Some(CompactionRequest { revision, physical });
            }
            Ask::Grant { lease, ttl } => entry.lease_grant = Some(LeaseGrantRequest { id: lease, ttl }),
            Ask::Revoke(lease) => entry.lease_revoke = Some(LeaseRevokeRequest { id: lease }),
            Ask::Disarm { member, kind } => {
                entry.alarm = Some(net::pb::etcdserverpb::AlarmRequest {
                    action: net::pb::etcdserverpb::alarm_request::AlarmAction::Deactivate as i32,
                    member_id: member,
                    alarm: kind,
                });
            }
            Ask::CompactionDone(revision) => return Request::CompactionDone { revision },
            Ask::Read { .. } => return Request::ReadBarrier,
            Ask::Renew(lease) => return Request::LeaseRenew { lease },
            Ask::MoveLeader(target) => return Request::MoveLeader { target },
            Ask::Leases => return Request::Leases,
            Ask::Left(lease) => return Request::LeaseInfo { lease, keys: true },
            Ask::Change { change, .. } => return Request::ChangeMembers { change },
        }
        Request::Propose {
            data: entry.encode_to_vec().into(),
        }
    }
}

/// The options a request uses, by name.
pub fn options(ask: &Ask) -> Vec<&'static str> {
    let mut used = Vec::new();
    match ask {
        Ask::Put(put) => {
            let named = [
                (put.lease != 0, "put with a lease"),
                (put.ignore_value, "put that ignores the value"),
                (put.ignore_lease, "put that ignores the lease"),
            ];
            used.extend(named.iter().filter(|(used, _)| *used).map(|(_, name)| name));
        }
        Ask::Delete(delete) => used.push(match &delete.range_end[..] {
            b"" => "delete of one key",
            b"\0" => "delete from a key on",
            _ => "delete of a range",
        }),
        Ask::Txn(txn) => transactions::options(txn, &mut used),
        Ask::Compact(_, true) => used.push("physical compaction"),
        Ask::Read { end, revision, .. } => {
            used.push(match &end[..] {
                b"" => "read of one key",
                b"\0" => "read from a key on",
                _ => "read of a range",
            });
            used.push(if *revision > 0 {
                "read of the past"
            } else {
                "read of now"
            });
        }
        _ => {}
    }
    used
}

/// A value that says who wrote it.
pub fn value(writer: u64, rng: &mut Rng, weather: &Weather) -> Bytes {
    let bytes = match rng.below(20) {
        0 => weather.value_bytes_max,
        _ => weather.value_bytes,
    };
    let mut value = format!("{writer}.").into_bytes();
    value.resize(value.len() + rng.below(bytes.max(1)) as usize, b'v');
    value.into()
}

/// One of the keys that all clients write.
pub fn key(rng: &mut Rng, weather: &Weather) -> Bytes {
    format!("k{:03}", rng.below(weather.keys)).into()
}

fn interval(rng: &mut Rng, weather: &Weather) -> (Bytes, Bytes) {
    match rng.below(12) {
        0..=2 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
        3 => (key(rng, weather), Bytes::from_static(b"\0")),
        4 | 5 => (key(rng, weather), key(rng, weather)),
        _ => (key(rng, weather), Bytes::new()),
    }
}

/// A put, with a lease or 0.
pub fn put(writer: u64, key: Bytes, lease: i64, rng: &mut Rng, weather: &Weather) -> PutRequest {
    PutRequest {
        key,
        value: value(writer, rng, weather),
        lease,
        ..PutRequest::default()
    }
}

/// A request to the key space.
pub fn draw(writer: u64, rng: &mut Rng, weather: &Weather, history: &History) -> Ask {
    match rng.below(100) {
        0..=36 => Ask::Put(put(writer, key(rng, weather), 0, rng, weather)),
        37..=39 => {
            let key = format!("{}{}", char::from(IGNORING), rng.below(3)).into();
            let mut put = put(writer, key, 0, rng, weather);
            put.ignore_value = rng.percent(60);
            if put.ignore_value {
                put.value = Bytes::new();
            }
            Ask::Put(put)
        }
        40..=47 => {
            let (key, range_end) = interval(rng, weather);
            Ask::Delete(DeleteRangeRequest {
                key,
                range_end,
                prev_kv: rng.percent(30),
            })
        }
        48..=64 => Ask::Txn(transactions::draw(writer, rng, weather, history)),
        65..=67 => {
            let now = history.revision();
            Ask::Compact(now - rng.below(30) as i64 + 2, rng.percent(30))
        }
        _ => {
            let (from, end) = interval(rng, weather);
            let span = (history.revision() - history.compacted.max(1)).max(1) as u64;
            let revision = match rng.below(3) {
                0 => history.revision() - rng.below(span + 2) as i64,
                _ => 0,
            };
            Ask::Read { from, end, revision }
        }
    }
}

/// Checks the answer to a request of the key space; the revision it saw or made.
pub fn check_answer(
    ask: &Ask,
    outcome: &Outcome,
    store: &StoreView,
    floor: i64,
    history: &History,
) -> Result<i64, String> {
    let at_least = |revision: i64| {
        ensure!(
            revision >= floor,
            "an answer knows revision {revision} only, but {floor} was known before it was asked"
        );
        Ok(revision)
    };
    // A write that began after another had ended comes behind it.
    let behind = |revision: i64| {
        ensure!(
            revision > floor,
            "a write got revision {revision}, but {floor} was known before it was asked"
        );
        ensure!(
            revision <= store.revision(),
            "revision {revision} was answered before it was published"
        );
        Ok(revision)
    };
    match (ask, outcome) {
        (Ask::Put(put), Outcome::Put { revision, prev }) => {
            let before = history.get(&put.key, revision - 1);
            let value = match put.ignore_value {
                true => before.map_or(Bytes::new(), |kv| Bytes::copy_from_slice(kv.value)),
                false => put.value.clone(),
            };
            let changes = history.changes(*revision);
            check_changes(changes, &[(put.key.clone(), Some(value))], *revision)?;
            let lease = match put.ignore_lease {
                true => before.map_or(0, |kv| kv.lease),
                false => put.lease,
            };
            ensure!(
                changes[0].kv().lease == lease,
                "the put at {revision} should hang on lease {lease}"
            );
            let before = before.map(|kv| kv.mod_revision);
            ensure!(
                prev.map(|prev| prev.main) == before,
                "the put at {revision} says {prev:?} was before it, it was {before:?}"
            );
            behind(*revision)
        }
        (Ask::Delete(delete), Outcome::DeleteRange(deleted)) => {
            let revision = deleted.revision;
            if deleted.prevs.is_empty() {
                let there = history.range(&delete.key, &delete.range_end, revision);
                ensure!(
                    there.is_empty(),
                    "nothing was deleted at {revision}, but keys were there"
                );
                return at_least(revision);
            }
            let there = history.range(&delete.key, &delete.range_end, revision - 1);
            let key_of = |encoded: &Bytes| storage::mvcc::Kv::decode(encoded).map(|kv| Bytes::copy_from_slice(kv.key));
            let expected: Vec<(Bytes, Option<Bytes>)> = there
                .iter()
                .map(|encoded| (key_of(encoded).expect("written down"), None))
                .collect();
            check_changes(history.changes(revision), &expected, revision)?;
            ensure!(
                deleted.prevs.len() == expected.len(),
                "the delete at {revision} tells another count than it deleted"
            );
            behind(revision)
        }
        (Ask::Txn(txn), Outcome::Txn(outcome)) => {
            transactions::check(txn, outcome, store, history)?;
            behind(outcome.revision)
        }
        (Ask::Compact(at, _), Outcome::Compact { revision }) => {
            ensure!(
                store.compact_revision() >= *at,
                "compaction at {at} was answered, {} is compacted",
                store.compact_revision()
            );
            at_least(*revision)
        }
        (Ask::Read { from, end, revision }, Outcome::Done) => {
            let at = if *revision > 0 { *revision } else { store.revision() };
            if at <= store.revision() {
                history.check_range(store, from, end, at)?;
            }
            at_least(store.revision())
        }
        (Ask::Grant { .. }, Outcome::LeaseGrant { revision, .. })
        | (Ask::Revoke(_), Outcome::LeaseRevoke { revision }) => at_least(*revision),
        // A renewal that was passed on bears the revision of the member that was asked. Source: etcd LeaseKeepAlive.
        (Ask::Renew(_), Outcome::LeaseRenew { .. }) => Ok(0),
        (Ask::MoveLeader(_), Outcome::Done) | (Ask::Leases, Outcome::Leases(_)) => Ok(0),
        (Ask::CompactionDone(_), Outcome::Done) | (Ask::Disarm { .. }, Outcome::Alarms(_)) => Ok(0),
        (Ask::Left(_), Outcome::LeaseInfo(_)) | (Ask::Change { .. }, Outcome::Members { .. }) => Ok(0),
        (ask, outcome) => Err(format!("{} was answered by {outcome:?}", ask.name())),
    }
}

/// Compares the changes of a revision with (key, value; none: deleted).
pub fn check_changes(found: &[Change], expected: &[(Bytes, Option<Bytes>)], revision: i64) -> Check {
    let same = found.len() == expected.len()
        && found.iter().zip(expected).all(|(change, (key, value))| {
            change.key == *key
                && change.deleted == value.is_none()
                && change.kv().value == value.as_deref().unwrap_or(b"")
        });
    ensure!(
        same,
        "revision {revision} was acknowledged as {expected:?} but holds {found:?}"
    );
    Ok(())
}

/// Whether a refusal says that the request has no effect and never will.
pub fn is_final(refusal: Refusal) -> bool {
    use Refusal::{LeaderChanged, Stopped, Timeout, TimeoutConnectionLost, TimeoutLeaderFailed};
    !matches!(
        refusal,
        Timeout | TimeoutConnectionLost | TimeoutLeaderFailed | LeaderChanged | Stopped
    )
}
