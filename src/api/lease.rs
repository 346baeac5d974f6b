//! The Lease service.

use bytes::Bytes;
use net::grpc::Code;
use net::{
    grpc::{ServerConn, Status},
    pb::etcdserverpb::{
        LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseTimeToLiveRequest,
        ResponseHeader,
    },
};
use prost::Message;

use super::{
    Api, Method,
    core::Pending,
    kv::EntryField,
    shard::{CallKey, CallState, Wires, decode},
    status::Failure,
};
use crate::member::Request;

/// What a grant costs against the quota. Units: bytes. Source: limits table.
const GRANT_COST_BYTES: u64 = 64;

impl Api {
    pub(super) fn lease_grant(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let mut request: LeaseGrantRequest = decode(message)?;
        if !self.has_room(key, GRANT_COST_BYTES)? {
            return Ok(());
        }
        while request.id == 0 {
            // Source: ids table, "lease ID".
            request.id = (self.next_id() & (i64::MAX as u64)) as i64;
        }
        self.propose(EntryField::LeaseGrant, &request.encode_to_vec(), Pending::Plain { key })
    }

    pub(super) fn lease_revoke(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let _: LeaseRevokeRequest = decode(message.clone())?;
        self.propose(EntryField::LeaseRevoke, &message, Pending::Plain { key })
    }

    pub(super) fn lease_time_to_live(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let LeaseTimeToLiveRequest { id: lease, keys } = decode(message)?;
        self.ask(Request::LeaseInfo { lease, keys }, Pending::LeaseInfo { key, lease });
        Ok(())
    }

    pub(super) fn lease_leases(&mut self, key: CallKey, _message: Bytes) -> Result<(), Failure> {
        self.ask(Request::Leases, Pending::Plain { key });
        Ok(())
    }

    pub(super) fn on_keep_alive(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) {
        match decode::<LeaseKeepAliveRequest>(message) {
            Ok(request) => {
                let lease = request.id;
                self.ask(Request::LeaseRenew { lease }, Pending::KeepAlive { key, lease });
            }
            Err(failure) => {
                self.setup.metrics.keep_alive_receive_failures.add(1);
                self.fail_on(key, failure, wire);
            }
        }
    }

    pub(super) fn kept_alive(&mut self, key: CallKey, lease: i64, ttl: i64, header: ResponseHeader, wires: &dyn Wires) {
        if !self.is_open(key) {
            return;
        }
        let answer = LeaseKeepAliveResponse {
            header: Some(header),
            id: lease,
            ttl,
        };
        self.setup.metrics.methods[Method::LeaseKeepAlive.index()].sent.add(1);
        self.setup.metrics.bytes_sent.add(answer.encoded_len() as u64);
        wires.with(key.0, &mut |wire| {
            let write = |out: &mut bytes::BytesMut| answer.encode(out).expect("a BytesMut grows");
            wire.send_message(key.1, answer.encoded_len(), write);
        });
        let Some(call) = self.conns.get_mut(&key.0).and_then(|calls| calls.get_mut(&key.1)) else {
            return;
        };
        let CallState::KeepAlive {
            unanswered,
            half_closed,
        } = &mut call.state
        else {
            return;
        };
        *unanswered -= 1;
        if *unanswered == 0 && *half_closed {
            wires.with(key.0, &mut |wire| wire.finish(key.1, &Status::ok()));
            self.end(key, Code::Ok);
        }
    }
}
