//! Answers to KV requests, written from a view straight into the send buffer.

use bytes::{BufMut, Bytes, BytesMut};
use net::pb::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
    range_request::{SortOrder, SortTarget},
    request_op::Request as Op,
    response_op::Response,
};
use net::pb::mvccpb::KeyValue;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use storage::mvcc::{Interval, Kv, RangeCursor, RangeQuery, Revision, StoreError, StoreView, encode_keys_only};

use crate::member::{Deleted, OpOutcome, Rev, TxnOutcome};

/// `RangeResponse.kvs`.
const KVS_FIELD: u32 = 2;
/// `RangeResponse.more`.
const MORE_FIELD: u32 = 3;
/// `RangeResponse.count`.
const COUNT_FIELD: u32 = 4;

/// The query of a request at a revision (0: now); without a limit where the result must be read whole first.
pub fn query(request: &RangeRequest, revision: i64) -> RangeQuery<'_> {
    RangeQuery {
        interval: Interval {
            key: &request.key,
            range_end: &request.range_end,
        },
        revision,
        limit: if needs_all(request) {
            gather_limit(request)
        } else {
            request.limit
        },
        count_only: request.count_only,
        ..RangeQuery::default()
    }
}

/// Whether the result must be gathered before it is cut: sorted by something, or filtered.
///
/// Source: behaviours 9, 10.
pub fn needs_all(request: &RangeRequest) -> bool {
    request.sort_order == SortOrder::Descend as i32
        || request.sort_target != SortTarget::Key as i32
        || is_filtered(request)
}

/// How many keys are gathered before they are sorted and cut; 0: all. Without an order and a filter it is one more than
/// the limit, as in etcd.
pub fn gather_limit(request: &RangeRequest) -> i64 {
    let unordered = request.sort_order == SortOrder::None as i32 && !is_filtered(request);
    if unordered && request.limit > 0 {
        request.limit.saturating_add(1)
    } else {
        0
    }
}

/// Whether revisions are filtered.
pub fn is_filtered(request: &RangeRequest) -> bool {
    [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]
    .iter()
    .any(|bound| *bound != 0)
}

/// Whether an item passes the filters.
pub fn passes(request: &RangeRequest, kv: &Kv<'_>) -> bool {
    let inside = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    inside(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && inside(
            kv.create_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
}

/// Writes the header field of a response.
pub fn put_header(header: &ResponseHeader, out: &mut impl BufMut) {
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(header.encoded_len() as u64, out);
    header.encode_raw(out);
}

/// Writes one pair of a range.
pub fn put_kv(encoded: &[u8], keys_only: bool, out: &mut impl BufMut) {
    encode_key(KVS_FIELD, WireType::LengthDelimited, out);
    if keys_only {
        let mut bare = Vec::new();
        encode_keys_only(encoded, &mut bare).expect("the store encodes what it holds");
        encode_varint(bare.len() as u64, out);
        out.put_slice(&bare);
    } else {
        encode_varint(encoded.len() as u64, out);
        out.put_slice(encoded);
    }
}

/// Writes what follows the pairs of a range.
pub fn put_tail(more: bool, count: u64, out: &mut impl BufMut) {
    if more {
        encode_key(MORE_FIELD, WireType::Varint, out);
        encode_varint(1, out);
    }
    if count > 0 {
        encode_key(COUNT_FIELD, WireType::Varint, out);
        encode_varint(count, out);
    }
}

/// Writes a whole `RangeResponse` from the cursor of its [`query`].
pub fn range(
    mut cursor: RangeCursor<'_>,
    request: &RangeRequest,
    header: &ResponseHeader,
    out: &mut impl BufMut,
) -> Result<(), StoreError> {
    put_header(header, out);
    let count = cursor.count();
    if request.count_only {
        put_tail(false, count, out);
        return Ok(());
    }
    if needs_all(request) {
        let (items, more) = select(request, &mut cursor)?;
        for encoded in items {
            put_kv(&encoded, request.keys_only, out);
        }
        put_tail(more, count, out);
        return Ok(());
    }
    while let Some(item) = cursor.next()? {
        put_kv(item.encoded, request.keys_only, out);
    }
    let limit = request.limit.max(0) as u64;
    put_tail(limit > 0 && count > limit, count, out);
    Ok(())
}

/// Reads and filters, then sorts and cuts.
fn select(request: &RangeRequest, cursor: &mut RangeCursor<'_>) -> Result<(Vec<Bytes>, bool), StoreError> {
    let mut items = Vec::new();
    while let Some(item) = cursor.next()? {
        if passes(request, &item.kv()?) {
            items.push(Bytes::copy_from_slice(item.encoded));
        }
    }
    let more = sort_and_cut(request, &mut items);
    Ok((items, more))
}

/// Sorts encoded pairs stably by the target (they come in key order) and cuts them to the limit; whether it cut.
pub fn sort_and_cut(request: &RangeRequest, items: &mut Vec<Bytes>) -> bool {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let descend = request.sort_order == SortOrder::Descend as i32;
    items.sort_by(|a, b| {
        let (a, b) = (decoded(a), decoded(b));
        let (a, b) = if descend { (b, a) } else { (a, b) };
        match target {
            SortTarget::Key => a.key.cmp(b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(b.value),
        }
    });
    let limit = usize::try_from(request.limit.max(0)).unwrap_or(usize::MAX);
    let more = limit > 0 && items.len() > limit;
    if more {
        items.truncate(limit);
    }
    more
}

fn decoded(encoded: &[u8]) -> Kv<'_> {
    Kv::decode(encoded).expect("the store encodes what it holds")
}

/// The pair that stood under a key before a change; absent once compacted.
fn pair(view: &StoreView, rev: Rev) -> Result<Option<KeyValue>, StoreError> {
    let encoded = view.kv(Revision::new(rev.main, rev.sub as u32))?;
    Ok(encoded.map(|encoded| KeyValue::decode(encoded).expect("the store encodes what it holds")))
}

/// The answer to a put.
pub fn put(view: &StoreView, header: ResponseHeader, prev: Option<Rev>) -> Result<PutResponse, StoreError> {
    let prev_kv = prev.map(|rev| pair(view, rev)).transpose()?.flatten();
    Ok(PutResponse {
        header: Some(header),
        prev_kv,
    })
}

/// The answer to a delete.
pub fn delete_range(
    view: &StoreView,
    header: ResponseHeader,
    deleted: &Deleted,
    prev_kv: bool,
) -> Result<DeleteRangeResponse, StoreError> {
    let mut prev_kvs = Vec::new();
    if prev_kv {
        for rev in &deleted.prevs {
            prev_kvs.extend(pair(view, *rev)?);
        }
    }
    Ok(DeleteRangeResponse {
        header: Some(header),
        deleted: deleted.prevs.len() as i64,
        prev_kvs,
    })
}

/// The answer to a transaction, its ranges read from the view as they were at their place in it.
pub fn txn(
    view: &StoreView,
    header: ResponseHeader,
    request: &TxnRequest,
    outcome: &TxnOutcome,
) -> Result<TxnResponse, StoreError> {
    let ops = if outcome.succeeded {
        &request.success
    } else {
        &request.failure
    };
    let mut responses = Vec::with_capacity(ops.len());
    for (op, result) in ops.iter().zip(&outcome.results) {
        responses.push(ResponseOp {
            response: Some(op_answer(view, op, result)?),
        });
    }
    Ok(TxnResponse {
        header: Some(header),
        succeeded: outcome.succeeded,
        responses,
    })
}

/// Inner headers carry the revision alone; that of a nested transaction is empty (behaviours 6).
fn op_answer(view: &StoreView, op: &RequestOp, result: &OpOutcome) -> Result<Response, StoreError> {
    let inner = |revision: i64| ResponseHeader {
        revision,
        ..ResponseHeader::default()
    };
    Ok(match (&op.request, result) {
        (Some(Op::RequestRange(range)), OpOutcome::Range { bound, revision }) => {
            Response::ResponseRange(inner_range(view, range, *bound, inner(*revision))?)
        }
        (Some(Op::RequestPut(request)), OpOutcome::Put { revision, prev }) => {
            let prev = prev.filter(|_| request.prev_kv);
            Response::ResponsePut(put(view, inner(*revision), prev)?)
        }
        (Some(Op::RequestDeleteRange(request)), OpOutcome::DeleteRange(deleted)) => {
            let header = inner(deleted.revision);
            Response::ResponseDeleteRange(delete_range(view, header, deleted, request.prev_kv)?)
        }
        (Some(Op::RequestTxn(request)), OpOutcome::Txn(outcome)) => {
            Response::ResponseTxn(txn(view, ResponseHeader::default(), request, outcome)?)
        }
        _ => unreachable!("apply answers each operation of the branch it ran in kind"),
    })
}

fn inner_range(
    view: &StoreView,
    request: &RangeRequest,
    bound: Rev,
    header: ResponseHeader,
) -> Result<RangeResponse, StoreError> {
    let mut query = query(request, request.revision);
    if request.revision <= 0 {
        query.revision = bound.main;
        query.sub_end = Some(bound.sub as u32);
    }
    // The revision was good when the transaction was applied.
    query.admitted = true;
    let cursor = view.range(&query)?;
    let mut bytes = BytesMut::new();
    range(cursor, request, &header, &mut bytes)?;
    Ok(RangeResponse::decode(bytes.freeze()).expect("just encoded"))
}

/// The answer to a read-only transaction, from the view alone.
pub fn read_only_txn(
    view: &StoreView,
    header: ResponseHeader,
    request: &TxnRequest,
    succeeded: bool,
) -> Result<TxnResponse, StoreError> {
    let revision = view.revision();
    let bound = Rev {
        main: revision + 1,
        sub: 0,
    };
    let ops = if succeeded { &request.success } else { &request.failure };
    let results = ops.iter().map(|_| OpOutcome::Range { bound, revision }).collect();
    txn(
        view,
        header,
        request,
        &TxnOutcome {
            revision,
            succeeded,
            results,
        },
    )
}
