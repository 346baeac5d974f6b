//! What clients ask, and what the answers must say.

use bytes::Bytes;
use etcore::member::{Outcome, Refusal, Request, TxnOutcome};
use net::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestHeader, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
};
use prost::Message;
use storage::{
    io::sim::Rng,
    mvcc::{Revision, StoreView},
};

use crate::{
    history::{Change, Check, History, ensure},
    weather::{Dice, Weather},
};

/// One request of a client.
#[derive(Clone, Debug)]
pub enum Ask {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(i64),
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
}

impl Ask {
    /// A name for traces and counts.
    pub fn name(&self) -> &'static str {
        match self {
            Ask::Put(_) => "put",
            Ask::Delete(_) => "delete",
            Ask::Txn(_) => "txn",
            Ask::Compact(_) => "compact",
            Ask::CompactionDone(_) => "compaction done",
            Ask::Read { .. } => "read",
            Ask::Grant { .. } => "grant",
            Ask::Revoke(_) => "revoke",
            Ask::Renew(_) => "renew",
            Ask::MoveLeader(_) => "move leader",
            Ask::Leases => "leases",
            Ask::Disarm { .. } => "disarm",
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
            Ask::Compact(revision) => {
                entry.compaction = Some(CompactionRequest {
                    revision,
                    physical: false,
                });
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
        }
        Request::Propose {
            data: entry.encode_to_vec().into(),
        }
    }
}

/// A value that says who wrote it.
fn value(writer: u64, rng: &mut Rng, weather: &Weather) -> Bytes {
    let bytes = match rng.below(20) {
        0 => weather.value_bytes_max,
        _ => weather.value_bytes,
    };
    let mut value = format!("{writer}.").into_bytes();
    value.resize(value.len() + rng.below(bytes.max(1)) as usize, b'v');
    value.into()
}

fn key(rng: &mut Rng, weather: &Weather) -> Bytes {
    format!("k{:03}", rng.below(weather.keys)).into()
}

fn interval(rng: &mut Rng, weather: &Weather) -> (Bytes, Bytes) {
    match rng.below(4) {
        0 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
        1 => (key(rng, weather), key(rng, weather)),
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
        0..=39 => Ask::Put(put(writer, key(rng, weather), 0, rng, weather)),
        40..=47 => {
            let (key, range_end) = interval(rng, weather);
            Ask::Delete(DeleteRangeRequest {
                key,
                range_end,
                prev_kv: rng.percent(30),
            })
        }
        48..=64 => Ask::Txn(txn(writer, rng, weather, history)),
        65..=67 => {
            let now = history.revision();
            Ask::Compact(now - rng.below(30) as i64 + 2)
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

/// If the key is as it was seen, put it and another; else put only the other and delete the key.
fn txn(writer: u64, rng: &mut Rng, weather: &Weather, history: &History) -> TxnRequest {
    let (watched, other) = (key(rng, weather), Bytes::from(format!("t{}", rng.below(5))));
    let seen = history.get(&watched, history.revision());
    let union = match (rng.below(3), seen) {
        (0, Some(kv)) => (
            CompareTarget::Value,
            TargetUnion::Value(Bytes::copy_from_slice(kv.value)),
        ),
        (1, seen) => (
            CompareTarget::Version,
            TargetUnion::Version(seen.map_or(0, |kv| kv.version)),
        ),
        (_, seen) => (
            CompareTarget::Mod,
            TargetUnion::ModRevision(seen.map_or(0, |kv| kv.mod_revision)),
        ),
    };
    let op = |op| RequestOp { request: Some(op) };
    let read = |key: &Bytes| {
        op(Op::RequestRange(RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        }))
    };
    let put = |key: &Bytes, rng: &mut Rng| {
        op(Op::RequestPut(PutRequest {
            key: key.clone(),
            value: value(writer, rng, weather),
            ..PutRequest::default()
        }))
    };
    let delete = op(Op::RequestDeleteRange(DeleteRangeRequest {
        key: watched.clone(),
        ..DeleteRangeRequest::default()
    }));
    TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: union.0 as i32,
            key: watched.clone(),
            range_end: Bytes::new(),
            target_union: Some(union.1),
        }],
        success: vec![read(&watched), put(&watched, rng), read(&watched), put(&other, rng)],
        failure: vec![read(&watched), delete, put(&other, rng)],
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
            let expected = [(put.key.clone(), Some(put.value.clone()))];
            check_changes(history.changes(*revision), &expected, *revision)?;
            let before = history.get(&put.key, revision - 1).map(|kv| kv.mod_revision);
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
            check_txn(txn, outcome, store, history)?;
            behind(outcome.revision)
        }
        (Ask::Compact(at), Outcome::Compact { revision }) => {
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
        | (Ask::Revoke(_), Outcome::LeaseRevoke { revision })
        | (Ask::Renew(_), Outcome::LeaseRenew { revision, .. }) => at_least(*revision),
        (Ask::MoveLeader(_), Outcome::Done) | (Ask::Leases, Outcome::Leases(_)) => Ok(0),
        (Ask::CompactionDone(_), Outcome::Done) | (Ask::Disarm { .. }, Outcome::Alarms(_)) => Ok(0),
        (ask, outcome) => Err(format!("{} was answered by {outcome:?}", ask.name())),
    }
}

fn check_changes(found: &[Change], expected: &[(Bytes, Option<Bytes>)], revision: i64) -> Check {
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

fn check_txn(txn: &TxnRequest, outcome: &TxnOutcome, store: &StoreView, history: &History) -> Check {
    let revision = outcome.revision;
    let compare = &txn.compare[0];
    let before = history.get(&compare.key, revision - 1);
    let holds = match &compare.target_union {
        Some(TargetUnion::Value(value)) => before.is_some_and(|kv| kv.value == value),
        Some(TargetUnion::Version(version)) => before.map_or(0, |kv| kv.version) == *version,
        Some(TargetUnion::ModRevision(at)) => before.map_or(0, |kv| kv.mod_revision) == *at,
        other => unreachable!("no such comparison is drawn: {other:?}"),
    };
    ensure!(
        holds == outcome.succeeded,
        "the transaction at {revision} took the branch {}, its guard {compare:?} was {holds}",
        outcome.succeeded
    );
    let ops = if holds { &txn.success } else { &txn.failure };
    let mut expected = Vec::new();
    let mut now = before.map(|kv| Bytes::copy_from_slice(kv.value));
    ensure!(
        ops.len() == outcome.results.len(),
        "the transaction at {revision} answers another number of operations"
    );
    for (op, result) in ops.iter().zip(&outcome.results) {
        match (op.request.as_ref(), result) {
            (Some(Op::RequestPut(put)), _) => {
                if put.key == compare.key {
                    now = Some(put.value.clone());
                }
                expected.push((put.key.clone(), Some(put.value.clone())));
            }
            (Some(Op::RequestDeleteRange(delete)), _) => {
                if now.take().is_some() {
                    expected.push((delete.key.clone(), None));
                }
            }
            (Some(Op::RequestRange(range)), etcore::member::OpOutcome::Range { bound, .. }) => {
                if bound.main > store.compact_revision() {
                    let bound = Revision::new(bound.main, bound.sub as u32);
                    history.check_before(store, &range.key, bound, now.as_deref())?;
                }
            }
            (op, result) => return Err(format!("{op:?} was answered by {result:?}")),
        }
    }
    check_changes(history.changes(revision), &expected, revision)
}

/// Whether a refusal says that the request has no effect and never will.
pub fn is_final(refusal: Refusal) -> bool {
    use Refusal::{LeaderChanged, Stopped, Timeout, TimeoutConnectionLost, TimeoutLeaderFailed};
    !matches!(
        refusal,
        Timeout | TimeoutConnectionLost | TimeoutLeaderFailed | LeaderChanged | Stopped
    )
}
