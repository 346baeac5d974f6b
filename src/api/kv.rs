//! The KV and Watch services.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use net::{
    grpc::ServerConn,
    pb::{
        TxnError, decode_txn,
        etcdserverpb::{
            CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, WatchRequest,
            watch_request::RequestUnion,
        },
    },
};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use storage::mvcc::{Interval, RangeQuery, StoreView};

use super::{
    Api, answer,
    core::{Pending, Waiting, store_failure},
    jobs::Job,
    shard::{CallKey, Wires, decode, one_wire},
    status::{self, Failure},
    validate,
    watch::{Sink, WatchHub},
};
use crate::{
    member::{self, KeyFacts, NOSPACE, Request, RequestId, View},
    metrics::ShardMetrics,
};

/// A gRPC message may be this much longer than a proposal.
///
/// Units: bytes. Source: limits table (`grpcOverheadBytes`).
pub(super) const OVERHEAD_BYTES: usize = 512 * 1024;
/// Answers up to this size are written in one go. Units: bytes.
const AT_ONCE_BYTES: u64 = 256 << 10;
/// Answers of up to this many keys are written in one go.
const AT_ONCE_KEYS: u64 = 2000;

/// Requests of this shard that wait for the core at once. More are refused.
const PENDING_MAX: usize = 1 << 17;

/// Fields of `InternalRaftRequest`.
#[derive(Clone, Copy, Debug)]
pub(super) enum EntryField {
    Put = 4,
    DeleteRange = 5,
    Txn = 6,
    Compaction = 7,
    LeaseGrant = 8,
    LeaseRevoke = 9,
    Alarm = 10,
    DowngradeInfoSet = 1302,
}

/// `InternalRaftRequest.header`.
const HEADER_FIELD: u32 = 100;

/// An `InternalRaftRequest` around a message that is encoded already.
pub(super) fn entry(field: EntryField, message: &[u8], id: RequestId) -> Bytes {
    let header_len = 1 + encoded_len_varint(id);
    let mut out = BytesMut::with_capacity(message.len() + header_len + 16);
    encode_key(field as u32, WireType::LengthDelimited, &mut out);
    encode_varint(message.len() as u64, &mut out);
    out.put_slice(message);
    encode_key(HEADER_FIELD, WireType::LengthDelimited, &mut out);
    encode_varint(header_len as u64, &mut out);
    encode_key(1, WireType::Varint, &mut out);
    encode_varint(id, &mut out);
    out.freeze()
}

impl Api {
    /// Proposes an encoded message; `pending` answers it.
    pub(super) fn propose(&mut self, field: EntryField, message: &[u8], pending: Pending) -> Result<(), Failure> {
        if self.pending.len() >= PENDING_MAX {
            return Err(status::TOO_MANY_REQUESTS);
        }
        let id = self.next_id();
        let data = entry(field, message, id);
        if data.len() > self.setup.limits.request_bytes_max {
            return Err(status::REQUEST_TOO_LARGE);
        }
        self.ask_as(id, Request::Propose { data }, pending);
        Ok(())
    }

    pub(super) fn range(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) -> Result<(), Failure> {
        let request: RangeRequest = decode(message)?;
        // etcd's learner looks no further than this.
        if !request.serializable && self.view().is_learner {
            return Err(status::NOT_FOR_LEARNER);
        }
        validate::range(&request)?;
        if request.serializable {
            let view = self.view();
            return self.serve_range(&view, key, &request, wire);
        }
        self.wait_for_round(Waiting::Range {
            key,
            request: Box::new(request),
        })
    }

    /// Answers a range from a view: at once when it is small, else by a job.
    pub(super) fn serve_range(
        &mut self,
        view: &Arc<View>,
        key: CallKey,
        request: &RangeRequest,
        wire: &mut ServerConn,
    ) -> Result<(), Failure> {
        self.setup.metrics.ranges.add(1);
        let damage = self.setup.on_damage;
        let failed = |error| Failure::from_store(&error, damage);
        let query = answer::query(request, request.revision);
        let header = self.header(view, view.revision());
        if !self.is_small(&view.store, request, &query).map_err(failed)? {
            self.start_job(Job::range(key, request.clone(), view, &self.setup.pins));
            return Ok(());
        }
        // A small one is in the first bucket, and not worth looking at the clock for.
        self.setup.metrics.range_duration.observe_ns(0);
        let cursor = view.store.range(&query).map_err(failed)?;
        let (mut result, mut sent) = (Ok(()), 0);
        wire.reply(key.1, 512, |out| {
            let before = out.len();
            result = answer::range(cursor, request, &header, out);
            sent = out.len() - before;
        });
        self.setup.metrics.bytes_sent.add(sent as u64);
        result.map_err(failed)?;
        self.replied(key);
        Ok(())
    }

    /// Whether an answer can be written within one turn.
    fn is_small(
        &self,
        store: &StoreView,
        request: &RangeRequest,
        query: &RangeQuery<'_>,
    ) -> Result<bool, storage::mvcc::StoreError> {
        if request.range_end.is_empty() {
            return store.check_revision(query.revision).map(|()| true);
        }
        let cursor = store.range(query)?;
        let old = request.revision > 0 && request.revision < store.revision();
        if request.count_only {
            return Ok(!old || cursor.count_at_most(AT_ONCE_KEYS));
        }
        let cut = !answer::needs_all(request) && request.limit > 0 && (request.limit as u64) <= AT_ONCE_KEYS;
        if old && !cursor.count_at_most(AT_ONCE_KEYS) {
            return Ok(false);
        }
        if !cut && !cursor.count_at_most(AT_ONCE_KEYS) {
            return Ok(false);
        }
        Ok(cursor.measure(false)?.kv_bytes <= AT_ONCE_BYTES)
    }

    pub(super) fn range_stream(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) -> Result<(), Failure> {
        const UNSORTED_ONLY: Failure = Failure {
            code: net::grpc::Code::Unimplemented,
            text: "etcdserver: range stream serves keys in ascending order only",
        };
        let request: RangeRequest = decode(message)?;
        validate::range(&request)?;
        if request.sort_order == 2 || request.sort_target != 0 {
            return Err(UNSORTED_ONLY);
        }
        if request.serializable {
            let view = self.view();
            self.start_stream(&view, key, request, &one_wire(key.0, wire));
            return Ok(());
        }
        self.wait_for_round(Waiting::RangeStream {
            key,
            request: Box::new(request),
        })
    }

    pub(super) fn start_stream(&mut self, view: &Arc<View>, key: CallKey, request: RangeRequest, wires: &dyn Wires) {
        if !self.is_open(key) {
            return;
        }
        if let Err(error) = view.store.check_revision(request.revision) {
            let failure = Failure::from_store(&error, self.setup.on_damage);
            return self.fail(key, failure, wires);
        }
        self.start_job(Job::range_stream(key, request, view, &self.setup.pins));
    }

    pub(super) fn put(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: PutRequest = decode(message.clone())?;
        validate::put(&request)?;
        if !self.has_room(key, validate::put_cost(&request))? {
            return Ok(());
        }
        self.propose(
            EntryField::Put,
            &message,
            Pending::Put {
                key,
                prev_kv: request.prev_kv,
            },
        )
    }

    pub(super) fn delete_range(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: DeleteRangeRequest = decode(message.clone())?;
        validate::delete_range(&request)?;
        self.propose(
            EntryField::DeleteRange,
            &message,
            Pending::DeleteRange {
                key,
                prev_kv: request.prev_kv,
            },
        )
    }

    pub(super) fn txn(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) -> Result<(), Failure> {
        let request = decode_txn(message.clone()).map_err(|error| match error {
            // Each level takes at least one of `--max-txn-ops`, which is less unless an operator raised it.
            TxnError::TooDeep => status::TOO_MANY_OPS,
            _ => status::UNREADABLE,
        })?;
        validate::txn(&request, self.setup.limits.txn_ops_max)?;
        if validate::is_read_only(&request) {
            if validate::is_serializable(&request) {
                let view = self.view();
                return self.serve_txn(&view, key, &request, wire);
            }
            return self.wait_for_round(Waiting::Txn {
                key,
                request: Box::new(request),
            });
        }
        if validate::has_put(&request) && !self.has_room(key, validate::txn_cost(&request))? {
            return Ok(());
        }
        self.propose(
            EntryField::Txn,
            &message,
            Pending::Txn {
                key,
                request: Box::new(request),
            },
        )
    }

    /// Answers a read-only transaction from a view.
    pub(super) fn serve_txn(
        &mut self,
        view: &Arc<View>,
        key: CallKey,
        request: &TxnRequest,
        wire: &mut ServerConn,
    ) -> Result<(), Failure> {
        let damage = self.setup.on_damage;
        let failed = |error| Failure::from_store(&error, damage);
        let succeeded = compare_all(&view.store, request).map_err(failed)?;
        let header = self.header(view, view.revision());
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Some(net::pb::etcdserverpb::request_op::Request::RequestRange(range)) = &op.request {
                if range.revision < 0 && range.revision < view.store.compact_revision() {
                    return Err(status::COMPACTED);
                }
                view.store.check_revision(range.revision).map_err(failed)?;
            }
        }
        let answer = answer::read_only_txn(&view.store, header, request, succeeded).map_err(failed)?;
        self.reply(key, &answer, wire);
        Ok(())
    }

    pub(super) fn compact(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let CompactionRequest { revision, physical } = decode(message.clone())?;
        self.propose(
            EntryField::Compaction,
            &message,
            Pending::Compact {
                key,
                physical,
                revision,
            },
        )
    }

    /// Whether the quota has room for a call. If not, the call is refused: at once while an alarm says so, else once the
    /// alarm that this raises is on, so that whoever sees the refusal sees the alarm too.
    ///
    /// Source: limits table (quota rows); etcd `quotaAlarmer`.
    pub(super) fn has_room(&mut self, key: CallKey, cost: u64) -> Result<bool, Failure> {
        // Refused before the log: what would be refused at apply must not take the log's last room.
        if self.view().alarms.iter().any(|(_, kind)| *kind == NOSPACE) {
            return Err(status::NO_SPACE);
        }
        let Some(quota) = self.setup.limits.quota_bytes else {
            return Ok(true);
        };
        if self.view().db_in_use_bytes + cost < quota {
            return Ok(true);
        }
        let raised = self.pending.values_mut().find_map(|pending| match pending {
            Pending::Alarm { kind: NOSPACE, refused } => Some(refused),
            _ => None,
        });
        if let Some(refused) = raised {
            if refused.len() >= PENDING_MAX {
                return Err(status::NO_SPACE);
            }
            refused.push(key);
            return Ok(false);
        }
        self.raise_alarm(self.setup.member_id, NOSPACE, vec![key])?;
        Ok(false)
    }

    pub(super) fn on_watch(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) {
        let request = match decode::<WatchRequest>(message) {
            Ok(request) => request,
            Err(failure) => {
                self.hub.close(key);
                self.setup.metrics.watch_receive_failures.add(1);
                return self.fail_on(key, failure, wire);
            }
        };
        self.subscribe();
        let view = self.view();
        let newest = view.revision();
        // While nobody watched, no block told the term.
        self.hub.set_term(view.term);
        let now_ns = self.now_ns;
        self.with_hub(&one_wire(key.0, wire), |hub, sink, _| match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => hub.create(key, create, newest, now_ns, sink),
            Some(RequestUnion::CancelRequest(cancel)) => hub.cancel(key, cancel.watch_id, newest, sink),
            Some(RequestUnion::ProgressRequest(_)) => hub.request_progress(key, newest, sink),
            None => {}
        });
        self.wake_jobs |= self.hub.has_work();
    }

    /// Runs `f` with the watches and where their responses go.
    pub(super) fn with_hub<R>(
        &mut self,
        wires: &dyn Wires,
        f: impl FnOnce(&mut WatchHub<CallKey>, &mut dyn Sink<CallKey>, &Arc<View>) -> R,
    ) -> R {
        let view = self.view();
        f(&mut self.hub, &mut HubSink(wires, &self.setup.metrics), &view)
    }
}

/// Whether all guards hold in a view.
fn compare_all(store: &StoreView, request: &TxnRequest) -> Result<bool, storage::mvcc::StoreError> {
    for guard in &request.compare {
        let interval = Interval {
            key: &guard.key,
            range_end: &guard.range_end,
        };
        let query = RangeQuery {
            interval,
            ..RangeQuery::default()
        };
        let mut cursor = store.range(&query)?;
        let mut any = false;
        while let Some(item) = cursor.next()? {
            any = true;
            let kv = item.kv()?;
            let facts = KeyFacts {
                version: kv.version,
                create_revision: kv.create_revision,
                mod_revision: kv.mod_revision,
                lease: kv.lease,
            };
            if !member::holds(guard, facts, Some(kv.value)) {
                return Ok(false);
            }
        }
        if !any && !member::holds(guard, KeyFacts::default(), None) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Failure {
    /// The failure of a read; damage stops the member.
    pub(super) fn from_store(error: &storage::mvcc::StoreError, stop: fn(String)) -> Failure {
        let code = store_failure(error, stop).code;
        [status::COMPACTED, status::FUTURE_REVISION]
            .into_iter()
            .find(|failure| failure.code == code && error_is(error, failure))
            .unwrap_or(status::CORRUPT)
    }
}

fn error_is(error: &storage::mvcc::StoreError, failure: &Failure) -> bool {
    matches!(error, storage::mvcc::StoreError::Compacted { .. }) == (*failure == status::COMPACTED)
}

/// Watch responses on the streams of connections.
pub(super) struct HubSink<'a>(pub &'a dyn Wires, pub &'a ShardMetrics);

impl Sink<CallKey> for HubSink<'_> {
    fn send(&mut self, call: CallKey, response: &[u8]) {
        storage::failpoint!("beforeSendWatchResponse");
        self.1.methods[super::Method::Watch.index()].sent.add(1);
        self.1.bytes_sent.add(response.len() as u64);
        self.0.with(call.0, &mut |wire| {
            wire.send_message(call.1, response.len(), |out| out.put_slice(response))
        });
    }

    fn queued(&self, call: CallKey) -> usize {
        let mut queued = 0;
        self.0.with(call.0, &mut |wire| queued = wire.queued(call.1));
        queued
    }
}
