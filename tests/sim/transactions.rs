//! Transactions: drawn with every kind of guard, and answers checked against the history.
//!
//! All guards, those of nested transactions too, see the state before the transaction. Source: etcd `compareToPath`.

use std::cmp::Ordering;

use bytes::Bytes;
use etcore::member::{OpOutcome, TxnOutcome};
use net::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
};
use storage::{
    io::sim::Rng,
    mvcc::{Kv, Revision, StoreView},
};

use crate::{
    history::{Check, History, ensure},
    requests::{check_changes, key, value},
    weather::{Dice, Weather},
};

const RESULTS: [(CompareResult, &str); 4] = [
    (CompareResult::Equal, "guard equal"),
    (CompareResult::Greater, "guard greater"),
    (CompareResult::Less, "guard less"),
    (CompareResult::NotEqual, "guard not equal"),
];
const TARGETS: [(CompareTarget, &str); 5] = [
    (CompareTarget::Version, "guard of a version"),
    (CompareTarget::Create, "guard of a creation"),
    (CompareTarget::Mod, "guard of a revision"),
    (CompareTarget::Value, "guard of a value"),
    (CompareTarget::Lease, "guard of a lease"),
];

/// The options a transaction uses, by name.
pub fn options(txn: &TxnRequest, into: &mut Vec<&'static str>) {
    for compare in &txn.compare {
        let result = RESULTS.iter().find(|(result, _)| *result as i32 == compare.result);
        let target = TARGETS.iter().find(|(target, _)| *target as i32 == compare.target);
        into.extend(result.map(|(_, name)| name));
        into.extend(target.map(|(_, name)| name));
        if !compare.range_end.is_empty() {
            into.push("guard of many keys");
        }
    }
    for op in txn.success.iter().chain(&txn.failure) {
        if let Some(Op::RequestTxn(nested)) = &op.request {
            into.push("nested transaction");
            options(nested, into);
        }
    }
}

fn guard(rng: &mut Rng, key: &Bytes, history: &History) -> Compare {
    let seen = history.get(key, history.revision());
    // Mostly what is true now, so that both branches are taken.
    let near = |seen: i64, rng: &mut Rng| if rng.percent(80) { seen } else { seen + 1 };
    let (target, _) = rng.pick(&TARGETS);
    let union = match target {
        CompareTarget::Version => TargetUnion::Version(near(seen.map_or(0, |kv| kv.version), rng)),
        CompareTarget::Create => TargetUnion::CreateRevision(near(seen.map_or(0, |kv| kv.create_revision), rng)),
        CompareTarget::Mod => TargetUnion::ModRevision(near(seen.map_or(0, |kv| kv.mod_revision), rng)),
        CompareTarget::Value => TargetUnion::Value(Bytes::copy_from_slice(seen.map_or(b"", |kv| kv.value))),
        CompareTarget::Lease => TargetUnion::Lease(near(seen.map_or(0, |kv| kv.lease), rng)),
    };
    let (result, _) = if rng.percent(60) {
        RESULTS[0]
    } else {
        rng.pick(&RESULTS)
    };
    let range_end = if rng.percent(15) {
        Bytes::from_static(b"l")
    } else {
        Bytes::new()
    };
    Compare {
        result: result as i32,
        target: target as i32,
        key: key.clone(),
        range_end,
        target_union: Some(union),
    }
}

/// If the key is as it was seen, put it and another; else put only the other and delete the key.
pub fn draw(writer: u64, rng: &mut Rng, weather: &Weather, history: &History) -> TxnRequest {
    let (watched, other) = (key(rng, weather), Bytes::from(format!("t{}", rng.below(5))));
    let put = |key: &Bytes, rng: &mut Rng| {
        op(Op::RequestPut(PutRequest {
            key: key.clone(),
            value: value(writer, rng, weather),
            ..PutRequest::default()
        }))
    };
    let mut compare = vec![guard(rng, &watched, history)];
    if rng.percent(20) {
        compare.push(guard(rng, &other, history));
    }
    let mut txn = TxnRequest {
        compare,
        success: vec![read(&watched), put(&watched, rng), read(&watched), put(&other, rng)],
        failure: vec![read(&watched), delete(&watched), put(&other, rng)],
    };
    if rng.percent(25) {
        let key = Bytes::from(format!("n{}", rng.below(3)));
        let nested = TxnRequest {
            compare: vec![guard(rng, &key, history), guard(rng, &watched, history)],
            success: vec![put(&key, rng), read(&watched)],
            failure: vec![delete(&key), read(&other)],
        };
        txn.success.push(op(Op::RequestTxn(nested)));
    }
    txn
}

fn op(op: Op) -> RequestOp {
    RequestOp { request: Some(op) }
}

fn read(key: &Bytes) -> RequestOp {
    let key = key.clone();
    op(Op::RequestRange(RangeRequest {
        key,
        ..RangeRequest::default()
    }))
}

fn delete(key: &Bytes) -> RequestOp {
    let key = key.clone();
    op(Op::RequestDeleteRange(DeleteRangeRequest {
        key,
        ..DeleteRangeRequest::default()
    }))
}

/// Checks the answer to a transaction.
pub fn check(txn: &TxnRequest, outcome: &TxnOutcome, store: &StoreView, history: &History) -> Check {
    let revision = outcome.revision;
    let mut run = Run {
        history,
        store,
        revision,
        changes: Vec::new(),
    };
    run.check(txn, outcome)?;
    check_changes(history.changes(revision), &run.changes, revision)
}

/// A transaction as it should have gone.
struct Run<'h> {
    history: &'h History,
    store: &'h StoreView,
    revision: i64,
    changes: Vec<(Bytes, Option<Bytes>)>,
}

impl Run<'_> {
    fn check(&mut self, txn: &TxnRequest, outcome: &TxnOutcome) -> Check {
        let holds = txn.compare.iter().all(|compare| self.holds(compare));
        ensure!(
            holds == outcome.succeeded,
            "the transaction at {} took the branch {}, its guards {:?} were {holds}",
            self.revision,
            outcome.succeeded,
            txn.compare
        );
        let ops = if holds { &txn.success } else { &txn.failure };
        ensure!(
            ops.len() == outcome.results.len(),
            "the transaction at {} answers another number of operations",
            self.revision
        );
        for (op, result) in ops.iter().zip(&outcome.results) {
            self.check_op(op.request.as_ref(), result)?;
        }
        Ok(())
    }

    fn check_op(&mut self, op: Option<&Op>, result: &OpOutcome) -> Check {
        match (op, result) {
            (Some(Op::RequestPut(put)), OpOutcome::Put { .. }) => {
                self.changes.push((put.key.clone(), Some(put.value.clone())));
            }
            (Some(Op::RequestDeleteRange(delete)), OpOutcome::DeleteRange(deleted)) => {
                let there = self.current(&delete.key).is_some();
                ensure!(
                    deleted.prevs.len() == usize::from(there),
                    "a delete in the transaction at {} tells another count than it deleted",
                    self.revision
                );
                if there {
                    self.changes.push((delete.key.clone(), None));
                }
            }
            (Some(Op::RequestRange(range)), OpOutcome::Range { bound, .. }) => {
                if bound.main > self.store.compact_revision() {
                    let bound = Revision::new(bound.main, bound.sub as u32);
                    let expected = self.current(&range.key);
                    self.history
                        .check_before(self.store, &range.key, bound, expected.as_deref())?;
                }
            }
            (Some(Op::RequestTxn(nested)), OpOutcome::Txn(outcome)) => return self.check(nested, outcome),
            (op, result) => return Err(format!("{op:?} was answered by {result:?}")),
        }
        Ok(())
    }

    /// The value of a key after the operations so far.
    fn current(&self, key: &[u8]) -> Option<Bytes> {
        match self.changes.iter().rev().find(|(changed, _)| changed == key) {
            Some((_, value)) => value.clone(),
            None => {
                let before = self.history.get(key, self.revision - 1);
                before.map(|kv| Bytes::copy_from_slice(kv.value))
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range_end.is_empty() {
            return holds_for(compare, self.history.get(&compare.key, self.revision - 1));
        }
        let keys = self.history.range(&compare.key, &compare.range_end, self.revision - 1);
        if keys.is_empty() {
            return holds_for(compare, None);
        }
        keys.into_iter()
            .all(|encoded| holds_for(compare, Kv::decode(encoded).ok()))
    }
}

fn holds_for(compare: &Compare, kv: Option<Kv<'_>>) -> bool {
    let order = match &compare.target_union {
        // A key that is not there has no value, and no guard of a value holds for it.
        Some(TargetUnion::Value(value)) => match kv {
            Some(kv) => kv.value.cmp(value),
            None => return false,
        },
        Some(TargetUnion::Version(version)) => kv.map_or(0, |kv| kv.version).cmp(version),
        Some(TargetUnion::CreateRevision(at)) => kv.map_or(0, |kv| kv.create_revision).cmp(at),
        Some(TargetUnion::ModRevision(at)) => kv.map_or(0, |kv| kv.mod_revision).cmp(at),
        Some(TargetUnion::Lease(lease)) => kv.map_or(0, |kv| kv.lease).cmp(lease),
        None => unreachable!("every guard drawn has something to compare with"),
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order == Ordering::Equal,
        Ok(CompareResult::Greater) => order == Ordering::Greater,
        Ok(CompareResult::Less) => order == Ordering::Less,
        Ok(CompareResult::NotEqual) => order != Ordering::Equal,
        Err(_) => unreachable!("every guard drawn has a known relation"),
    }
}
