//! Checks of a KV request before anything is proposed, in the order etcd makes them.

use std::collections::BTreeSet;

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
    deletes: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Writes<'a> {
    /// Collects the writes of a branch; a key put twice, or put and deleted, is refused.
    ///
    /// The two branches of one nested transaction never run both, so they may overlap each other. A nested transaction is
    /// held against the deletes of its parent and of those before it, but not of those behind it.
    /// Source: etcd `checkIntervals`.
    fn of(ops: &'a [RequestOp]) -> Result<Writes<'a>, Failure> {
        let mut writes = Writes::default();
        for op in ops {
            if let Some(Op::RequestDeleteRange(delete)) = &op.request {
                writes.deletes.push((&delete.key, &delete.range_end));
            }
        }
        for op in ops {
            let Some(Op::RequestTxn(inner)) = &op.request else {
                continue;
            };
            let (then, otherwise) = (Writes::of(&inner.success)?, Writes::of(&inner.failure)?);
            for key in &then.puts {
                writes.put(key, false)?;
            }
            for key in &otherwise.puts {
                writes.put(key, then.puts.contains(key))?;
            }
            writes.deletes.extend(then.deletes);
            writes.deletes.extend(otherwise.deletes);
        }
        for op in ops {
            if let Some(Op::RequestPut(put)) = &op.request {
                writes.put(&put.key, false)?;
            }
        }
        Ok(writes)
    }

    fn put(&mut self, key: &'a [u8], may_repeat: bool) -> Result<(), Failure> {
        let deleted = self.deletes.iter().any(|(from, end)| covers(from, end, key));
        if deleted || !(self.puts.insert(key) || may_repeat) {
            return Err(status::DUPLICATE_KEY);
        }
        Ok(())
    }
}

/// Whether a delete counts as touching a key here. The end `\0` is taken for a key like any other, as etcd does, so a
/// delete of everything from a key on, like one whose end is not above its key, touches nothing.
fn covers(from: &[u8], end: &[u8], key: &[u8]) -> bool {
    if end.is_empty() {
        key == from
    } else {
        from <= key && key < end
    }
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
