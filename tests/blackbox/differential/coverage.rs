//! Which options and which answers the random requests have met: what none of them uses is a blind spot.

use super::calls::{Answer, Call};
use crate::support::pb::etcdserverpb::{compare::TargetUnion, request_op::Request, *};
use std::collections::BTreeMap;

/// How often each option was used, and each answer given.
#[derive(Default)]
pub struct Coverage(BTreeMap<String, u64>);

/// What a thousand requests from any seed meet.
const EXPECTED: &[&str] = &[
    "compact",
    "compact physical",
    "compare CREATE",
    "compare EQUAL",
    "compare GREATER",
    "compare LEASE",
    "compare LESS",
    "compare MOD",
    "compare NOT_EQUAL",
    "compare VALUE",
    "compare VERSION",
    "compare a range",
    "delete",
    "delete a range",
    "delete from a key on",
    "delete prev_kv",
    "grant",
    "hash_kv",
    "leases",
    "put",
    "put ignore_lease",
    "put ignore_value",
    "put in a lease",
    "put prev_kv",
    "range",
    "range a range",
    "range count_only",
    "range from a key on",
    "range in a transaction",
    "range keys_only",
    "range limit",
    "range max_create_revision",
    "range max_mod_revision",
    "range min_create_revision",
    "range min_mod_revision",
    "range revision",
    "range serializable",
    "range sort ASCEND by CREATE",
    "range sort ASCEND by KEY",
    "range sort ASCEND by MOD",
    "range sort ASCEND by VALUE",
    "range sort ASCEND by VERSION",
    "range sort DESCEND by CREATE",
    "range sort DESCEND by KEY",
    "range sort DESCEND by MOD",
    "range sort DESCEND by VALUE",
    "range sort DESCEND by VERSION",
    "range sort NONE by CREATE",
    "range sort NONE by KEY",
    "range sort NONE by MOD",
    "range sort NONE by VALUE",
    "range sort NONE by VERSION",
    "revoke",
    "time_to_live",
    "time_to_live keys",
    "txn",
    "txn failed",
    "txn in a transaction",
    "txn succeeded",
    "more",
    "keys of a lease",
    "deleted by a lease",
    "etcdserver: duplicate key given in txn request",
    "etcdserver: key is not provided",
    "etcdserver: key not found",
    "etcdserver: lease already exists",
    "etcdserver: lease is provided",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
    "etcdserver: requested lease not found",
    "etcdserver: too many operations in txn request",
    "etcdserver: value is provided",
];

impl Coverage {
    /// Counts a request and its answer.
    pub fn count(&mut self, call: &Call, answer: &Answer) {
        self.count_call(call);
        match answer {
            Answer::Refused(_, text) => self.see(text),
            Answer::Range(range) if range.more => self.see("more"),
            Answer::Txn(txn) if txn.succeeded => self.see("txn succeeded"),
            Answer::Txn(_) => self.see("txn failed"),
            Answer::TimeToLive(lease) if !lease.keys.is_empty() => self.see("keys of a lease"),
            Answer::Revoke(_) => self.see("deleted by a lease"),
            _ => {}
        }
    }

    /// Panics when something expected was never met.
    pub fn settle(&self) {
        let missing: Vec<_> = EXPECTED.iter().filter(|name| !self.0.contains_key(**name)).collect();
        assert!(
            missing.is_empty(),
            "no request met {missing:?}; what was met: {:#?}",
            self.0
        );
    }

    fn see(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    fn see_if(&mut self, used: bool, name: &str) {
        if used {
            self.see(name);
        }
    }

    fn count_call(&mut self, call: &Call) {
        match call {
            Call::Put(put) => self.count_put(put),
            Call::Range(range) => self.count_range(range),
            Call::Delete(delete) => self.count_delete(delete),
            Call::Txn(txn) => self.count_txn(txn),
            Call::Compact(compact) => {
                self.see("compact");
                self.see_if(compact.physical, "compact physical");
            }
            Call::Grant(_) => self.see("grant"),
            Call::Revoke(_) => self.see("revoke"),
            Call::TimeToLive(request) => {
                self.see("time_to_live");
                self.see_if(request.keys, "time_to_live keys");
            }
            Call::Leases => self.see("leases"),
            Call::HashKv(_) => self.see("hash_kv"),
        }
    }

    fn count_put(&mut self, put: &PutRequest) {
        self.see("put");
        self.see_if(put.prev_kv, "put prev_kv");
        self.see_if(put.ignore_value, "put ignore_value");
        self.see_if(put.ignore_lease, "put ignore_lease");
        self.see_if(put.lease != 0, "put in a lease");
    }

    fn count_range(&mut self, range: &RangeRequest) {
        self.see("range");
        self.see_if(range.range_end.len() > 1, "range a range");
        self.see_if(range.range_end == [0], "range from a key on");
        self.see_if(range.limit > 0, "range limit");
        self.see_if(range.revision > 0, "range revision");
        self.see_if(range.serializable, "range serializable");
        self.see_if(range.keys_only, "range keys_only");
        self.see_if(range.count_only, "range count_only");
        self.see_if(range.min_mod_revision != 0, "range min_mod_revision");
        self.see_if(range.max_mod_revision != 0, "range max_mod_revision");
        self.see_if(range.min_create_revision != 0, "range min_create_revision");
        self.see_if(range.max_create_revision != 0, "range max_create_revision");
        let (order, target) = (range.sort_order().as_str_name(), range.sort_target().as_str_name());
        self.see(&format!("range sort {order} by {target}"));
    }

    fn count_delete(&mut self, delete: &DeleteRangeRequest) {
        self.see("delete");
        self.see_if(delete.prev_kv, "delete prev_kv");
        self.see_if(delete.range_end.len() > 1, "delete a range");
        self.see_if(delete.range_end == [0], "delete from a key on");
    }

    fn count_txn(&mut self, txn: &TxnRequest) {
        self.see("txn");
        for compare in &txn.compare {
            self.see(&format!("compare {}", compare.result().as_str_name()));
            self.see_if(!compare.range_end.is_empty(), "compare a range");
            self.see(match &compare.target_union {
                Some(TargetUnion::Version(_)) => "compare VERSION",
                Some(TargetUnion::CreateRevision(_)) => "compare CREATE",
                Some(TargetUnion::ModRevision(_)) => "compare MOD",
                Some(TargetUnion::Lease(_)) => "compare LEASE",
                Some(TargetUnion::Value(_)) => "compare VALUE",
                None => "compare nothing",
            });
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestPut(put)) => self.count_put(put),
                Some(Request::RequestRange(range)) => {
                    self.see("range in a transaction");
                    self.count_range(range);
                }
                Some(Request::RequestDeleteRange(delete)) => self.count_delete(delete),
                Some(Request::RequestTxn(inner)) => {
                    self.see("txn in a transaction");
                    self.count_txn(inner);
                }
                None => self.see("an empty operation"),
            }
        }
    }
}
