//! Checks of a KV request before anything is proposed, in the order etcd makes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use net::pb::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    range_request::{SortOrder, SortTarget},
    request_op::Request as Op,
};

use super::status::{self, Failure};

/// Source: etcd `checkRangeRequest`.
pub fn range(request: &RangeRequest) -> Result<(), Failure> {
    if request.key.is_empty() {
        return Err(status::EMPTY_KEY);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(status::INVALID_SORT_OPTION);
    }
    Ok(())
}

/// Source: etcd `checkPutRequest`.
pub fn put(request: &PutRequest) -> Result<(), Failure> {
    if request.key.is_empty() {
        return Err(status::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(status::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(status::LEASE_PROVIDED);
    }
    Ok(())
}

/// Source: etcd `checkDeleteRequest`.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Failure> {
    if request.key.is_empty() {
        Err(status::EMPTY_KEY)
    } else {
        Ok(())
    }
}

/// Checks a transaction: operation counts, each operation, then keys written twice.
///
/// Bounds: recursion is bounded by `max_ops`, which every level of nesting lowers.
/// Source: etcd `checkTxnRequest`, `checkIntervals`.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Failure> {
    check_ops(request, max_ops)?;
    Writes::of(&request.success)?;
    Writes::of(&request.failure)?;
    Ok(())
}

fn check_ops(request: &TxnRequest, max_ops: usize) -> Result<(), Failure> {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if longest > max_ops {
        return Err(status::TOO_MANY_OPS);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(status::EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Op::RequestRange(inner)) => range(inner)?,
            Some(Op::RequestPut(inner)) => put(inner)?,
            Some(Op::RequestDeleteRange(inner)) => delete_range(inner)?,
            Some(Op::RequestTxn(inner)) => check_ops(inner, max_ops - longest)?,
            None => return Err(status::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// The keys put and the ranges deleted by one branch, nested transactions included.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

impl<'a> Writes<'a> {
    /// Collects the writes of a branch; a key put twice, or put and deleted, is refused.
    ///
    /// The two branches of one nested transaction never run both, so they may overlap each other. A nested transaction is
    /// held against the deletes of its parent and of those before it, but not of those behind it.
    /// Bounds: n log² n, since the smaller of two sets goes into the larger at every level.
    /// Source: etcd `checkIntervals`.
    fn of(ops: &'a [RequestOp]) -> Result<Writes<'a>, Failure> {
        let mut writes = Writes::default();
        for op in ops {
            if let Some(Op::RequestDeleteRange(delete)) = &op.request {
                writes.deletes.insert(&delete.key, &delete.range_end);
            }
        }
        for op in ops {
            if let Some(Op::RequestTxn(inner)) = &op.request {
                writes.absorb(Writes::of(&inner.success)?, Writes::of(&inner.failure)?)?;
            }
        }
        for op in ops {
            if let Some(Op::RequestPut(put)) = &op.request
                && (writes.deletes.cover(&put.key) || !writes.puts.insert(&put.key))
            {
                return Err(status::DUPLICATE_KEY);
            }
        }
        Ok(writes)
    }

    fn absorb(&mut self, then: Writes<'a>, otherwise: Writes<'a>) -> Result<(), Failure> {
        for puts in [&then.puts, &otherwise.puts] {
            if self.deletes.touch(puts) || !is_disjoint(&self.puts, puts) {
                return Err(status::DUPLICATE_KEY);
            }
        }
        for branch in [then, otherwise] {
            unite(&mut self.puts, branch.puts);
            self.deletes.unite(branch.deletes);
        }
        Ok(())
    }
}

/// What deletes touch: single keys, and ranges of which no two meet.
///
/// The end `\0` is taken for a key like any other, as etcd does, so a delete of everything from a key on, like one whose
/// end is not above its key, touches nothing.
#[derive(Default)]
struct Deletes<'a> {
    keys: BTreeSet<&'a [u8]>,
    /// From a key to the end behind the last one.
    ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Deletes<'a> {
    fn insert(&mut self, mut from: &'a [u8], mut end: &'a [u8]) {
        if end.is_empty() {
            self.keys.insert(from);
            return;
        }
        if from >= end {
            return;
        }
        // All that meet it become one with it.
        while let Some((&start, &stop)) = self.ranges.range(..=end).next_back()
            && stop >= from
        {
            self.ranges.remove(start);
            (from, end) = (from.min(start), end.max(stop));
        }
        self.ranges.insert(from, end);
    }

    fn cover(&self, key: &[u8]) -> bool {
        let mut before = self.ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        self.keys.contains(key) || before.next_back().is_some_and(|(_, end)| key < *end)
    }

    /// Whether they cover any of the keys; as many steps as there are of what is fewer.
    fn touch(&self, puts: &BTreeSet<&'a [u8]>) -> bool {
        if puts.len() <= self.keys.len() + self.ranges.len() {
            return puts.iter().any(|key| self.cover(key));
        }
        let hit = |from: &[u8], end: &[u8]| {
            let inside = (Bound::Included(from), Bound::Excluded(end));
            puts.range::<[u8], _>(inside).next().is_some()
        };
        !is_disjoint(&self.keys, puts) || self.ranges.iter().any(|(from, end)| hit(from, end))
    }

    fn unite(&mut self, mut other: Deletes<'a>) {
        unite(&mut self.keys, other.keys);
        if self.ranges.len() < other.ranges.len() {
            std::mem::swap(&mut self.ranges, &mut other.ranges);
        }
        for (from, end) in other.ranges {
            self.insert(from, end);
        }
    }
}

fn is_disjoint(a: &BTreeSet<&[u8]>, b: &BTreeSet<&[u8]>) -> bool {
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    few.iter().all(|key| !many.contains(key))
}

fn unite<'a>(into: &mut BTreeSet<&'a [u8]>, mut from: BTreeSet<&'a [u8]>) {
    if into.len() < from.len() {
        std::mem::swap(into, &mut from);
    }
    into.extend(from);
}

/// Whether the transaction only reads, so that it needs no log entry. A nested transaction counts as a write.
///
/// Source: etcd `isTxnReadonly`.
pub fn is_read_only(request: &TxnRequest) -> bool {
    let reads = |op: &RequestOp| matches!(op.request, Some(Op::RequestRange(_)));
    request.success.iter().chain(&request.failure).all(reads)
}

/// Whether every range of a read-only transaction may be answered from local state.
///
/// Source: etcd `isTxnSerializable`.
pub fn is_serializable(request: &TxnRequest) -> bool {
    let local = |op: &RequestOp| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable);
    request.success.iter().chain(&request.failure).all(local)
}

/// The bytes a put may add, as the quota counts them.
///
/// Source: etcd `costPut` (limits table: 256 + key + value).
pub fn put_cost(request: &PutRequest) -> u64 {
    256 + request.key.len() as u64 + request.value.len() as u64
}

/// The bytes a transaction may add: the dearer branch, nested ones included.
///
/// Source: etcd `costTxn` (limits table).
pub fn txn_cost(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(op_cost).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

fn op_cost(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Op::RequestPut(put)) => put_cost(put),
        Some(Op::RequestTxn(txn)) => txn_cost(txn),
        _ => 0,
    }
}

/// Whether the transaction may put a key, nested ones included.
pub fn has_put(request: &TxnRequest) -> bool {
    txn_cost(request) > 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put_of(key: Vec<u8>) -> RequestOp {
        let key = key.into();
        op(Op::RequestPut(PutRequest {
            key,
            ..PutRequest::default()
        }))
    }

    fn delete_of(key: Vec<u8>, range_end: Vec<u8>) -> RequestOp {
        let (key, range_end) = (key.into(), range_end.into());
        op(Op::RequestDeleteRange(DeleteRangeRequest {
            key,
            range_end,
            ..DeleteRangeRequest::default()
        }))
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Op::RequestTxn(TxnRequest {
            success,
            failure,
            ..TxnRequest::default()
        }))
    }

    fn op(request: Op) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    /// Every put against every delete and put it is held against, one by one.
    #[derive(Default)]
    struct Plain<'a> {
        puts: Vec<&'a [u8]>,
        deletes: Vec<(&'a [u8], &'a [u8])>,
    }

    impl<'a> Plain<'a> {
        fn of(ops: &'a [RequestOp]) -> Option<Plain<'a>> {
            let mut all = Plain::default();
            let deletes = ops.iter().filter_map(|op| match &op.request {
                Some(Op::RequestDeleteRange(delete)) => Some((&delete.key[..], &delete.range_end[..])),
                _ => None,
            });
            all.deletes.extend(deletes);
            for op in ops {
                let Some(Op::RequestTxn(inner)) = &op.request else {
                    continue;
                };
                let (then, otherwise) = (Plain::of(&inner.success)?, Plain::of(&inner.failure)?);
                let free = |key: &&[u8]| all.is_free(key);
                if !then.puts.iter().all(free) || !otherwise.puts.iter().all(free) {
                    return None;
                }
                all.puts.extend(then.puts.iter().chain(&otherwise.puts));
                all.deletes.extend(then.deletes.iter().chain(&otherwise.deletes));
            }
            for op in ops {
                let Some(Op::RequestPut(put)) = &op.request else {
                    continue;
                };
                if !all.is_free(&put.key) {
                    return None;
                }
                all.puts.push(&put.key);
            }
            Some(all)
        }

        fn is_free(&self, key: &[u8]) -> bool {
            let covers = |(from, end): &(&[u8], &[u8])| {
                if end.is_empty() {
                    key == *from
                } else {
                    *from <= key && key < *end
                }
            };
            !self.puts.contains(&key) && !self.deletes.iter().any(covers)
        }
    }

    fn ops() -> impl Strategy<Value = Vec<RequestOp>> {
        let key = || proptest::collection::vec(0..6_u8, 1..3);
        let end = proptest::collection::vec(0..6_u8, 0..3);
        let leaf =
            prop_oneof![3 => key().prop_map(put_of), 1 => (key(), end).prop_map(|(key, end)| delete_of(key, end))];
        let tree = leaf.prop_recursive(4, 40, 4, |inner| {
            let branch = || proptest::collection::vec(inner.clone(), 0..4);
            (branch(), branch()).prop_map(|(success, failure)| nested(success, failure))
        });
        proptest::collection::vec(tree, 0..4)
    }

    proptest! {
        #[test]
        fn overlaps_are_found_as_by_comparing_all_with_all(ops in ops()) {
            prop_assert_eq!(Writes::of(&ops).is_ok(), Plain::of(&ops).is_some());
        }
    }

    #[test]
    fn large_and_deep_transactions_are_checked_in_no_time() {
        let key = |n: u32| n.to_be_bytes().to_vec();
        let mut ops: Vec<_> = (0..60_000).map(|n| put_of(key(2 * n))).collect();
        for level in 0..126 {
            ops = vec![delete_of(key(2 * level + 1), vec![]), nested(ops, vec![])];
        }
        let mut siblings: Vec<_> = (0..20_000)
            .map(|n| {
                nested(
                    vec![delete_of(key(4 * n), key(4 * n + 1)), put_of(key(4 * n + 2))],
                    vec![],
                )
            })
            .collect();
        let started = std::time::Instant::now();
        assert!(Writes::of(&ops).is_ok());
        assert!(Writes::of(&siblings).is_ok());
        siblings.push(put_of(key(8)));
        assert!(Writes::of(&siblings).is_err());
        // Comparing all with all takes minutes.
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}
