//! Short names for the requests that stories make most.

use super::pb::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest, compare,
        request_op::Request, response_op::Response,
    },
    mvccpb::KeyValue,
};

/// A range of one key.
pub fn key_range(key: impl Into<Vec<u8>>) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        ..Default::default()
    }
}

/// A range from `key` up to but without `end`.
pub fn range_between(key: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        range_end: end.into(),
        ..Default::default()
    }
}

/// A range of the keys that start with `prefix`.
pub fn prefix_range(prefix: &str) -> RangeRequest {
    range_between(prefix, prefix_end(prefix))
}

/// A range of every key.
pub fn all_range() -> RangeRequest {
    range_between([0], [0])
}

/// The first key after those that start with `prefix`.
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    end
}

/// A plain put.
pub fn put_request(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

/// A put as an operation of a transaction.
pub fn put_op(key: &str, value: &str) -> RequestOp {
    op(Request::RequestPut(put_request(key, value)))
}

/// A range of one key as an operation of a transaction.
pub fn get_op(key: &str) -> RequestOp {
    op(Request::RequestRange(key_range(key)))
}

/// A range as an operation of a transaction.
pub fn range_op(range: RangeRequest) -> RequestOp {
    op(Request::RequestRange(range))
}

/// A delete of one key as an operation of a transaction.
pub fn delete_op(key: &str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.into(),
        ..Default::default()
    }))
}

/// A delete of the keys that start with `prefix` as an operation of a transaction.
pub fn delete_prefix_op(prefix: &str) -> RequestOp {
    let (key, range_end) = (prefix.into(), prefix_end(prefix));
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key,
        range_end,
        prev_kv: false,
    }))
}

/// A nested transaction as an operation of a transaction.
pub fn txn_op(txn: TxnRequest) -> RequestOp {
    op(Request::RequestTxn(txn))
}

/// Wraps one operation.
pub fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// A transaction.
pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare,
        success,
        failure,
    }
}

/// A transaction without compares.
pub fn txn_of(success: Vec<RequestOp>) -> TxnRequest {
    txn(vec![], success, vec![])
}

/// A compare of one attribute of `key`; the attribute is the one of `expected`.
pub fn compare(key: &str, result: compare::CompareResult, expected: compare::TargetUnion) -> Compare {
    use compare::{CompareTarget, TargetUnion};
    let target = match &expected {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(expected),
        range_end: vec![],
    }
}

/// The keys of `kvs` as text.
pub fn keys(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter()
        .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
        .collect()
}

/// The revision in a header, which must be there.
#[track_caller]
pub fn revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("the answer has a header").revision
}

/// The answer of an operation, which must be a range.
#[track_caller]
pub fn as_range(response: &Option<Response>) -> &super::pb::etcdserverpb::RangeResponse {
    match response {
        Some(Response::ResponseRange(range)) => range,
        other => panic!("expected the answer of a range, not {other:?}"),
    }
}

/// The answer of an operation, which must be a delete.
#[track_caller]
pub fn as_delete(response: &Option<Response>) -> &super::pb::etcdserverpb::DeleteRangeResponse {
    match response {
        Some(Response::ResponseDeleteRange(delete)) => delete,
        other => panic!("expected the answer of a delete, not {other:?}"),
    }
}

/// The answer of an operation, which must be a put.
#[track_caller]
pub fn as_put(response: &Option<Response>) -> &super::pb::etcdserverpb::PutResponse {
    match response {
        Some(Response::ResponsePut(put)) => put,
        other => panic!("expected the answer of a put, not {other:?}"),
    }
}

/// The answer of an operation, which must be a nested transaction.
#[track_caller]
pub fn as_txn(response: &Option<Response>) -> &super::pb::etcdserverpb::TxnResponse {
    match response {
        Some(Response::ResponseTxn(txn)) => txn,
        other => panic!("expected the answer of a transaction, not {other:?}"),
    }
}
