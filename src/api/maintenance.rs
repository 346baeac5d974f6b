//! The Maintenance and Health services.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use net::{
    grpc::{ServerConn, Status},
    pb::{
        etcdserverpb::{
            AlarmRequest, AlarmType, DowngradeInfo, HashKvRequest, MoveLeaderRequest, StatusResponse,
            alarm_request::AlarmAction,
        },
        grpc::health::v1::{
            HealthCheckRequest, HealthCheckResponse, HealthListResponse, health_check_response::ServingStatus,
        },
    },
};
use prost::Message;

use super::{
    Api, Method,
    core::Pending,
    jobs::Job,
    kv::EntryField,
    shard::{CallKey, CallState, Wires, decode},
    status::{self, Failure},
};
use crate::{
    config::features::STOP_GRPC_SERVICE_ON_DEFRAG,
    member::{CORRUPT, Request},
    version::{ETCD_VERSION, STORAGE_VERSION},
};

impl Api {
    pub(super) fn alarm(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let _: AlarmRequest = decode(message.clone())?;
        self.propose(EntryField::Alarm, &message, Pending::Plain { key })
    }

    /// Raises the CORRUPT alarm for a member (0: nobody knows which), unless it is on.
    pub fn raise_corrupt(&mut self, member: u64) {
        if self.view().alarms.contains(&(member, CORRUPT)) {
            return;
        }
        // Refused when too much waits: the next check raises it.
        let _ = self.raise_alarm(member, CORRUPT, Vec::new());
        self.flush_outbox();
    }

    /// Proposes an alarm of this kind for a member; once it is on, the calls are refused for want of space.
    pub(super) fn raise_alarm(&mut self, member_id: u64, kind: i32, refused: Vec<CallKey>) -> Result<(), Failure> {
        let request = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id,
            alarm: kind,
        };
        self.propose(
            EntryField::Alarm,
            &request.encode_to_vec(),
            Pending::Alarm { kind, refused },
        )
    }

    pub(super) fn status(&mut self, key: CallKey, _message: Bytes, wire: &mut ServerConn) -> Result<(), Failure> {
        let view = self.view();
        let mut errors = Vec::new();
        if view.leader == 0 {
            errors.push(status::NO_LEADER.text.to_owned());
        }
        for (member, kind) in view.alarms.iter() {
            let name = AlarmType::try_from(*kind).map_or("UNKNOWN", |kind| kind.as_str_name());
            errors.push(format!("memberID:{member} alarm:{name} "));
        }
        let quota = self.setup.limits.quota_bytes.map_or(0, |bytes| bytes as i64);
        let answer = StatusResponse {
            header: Some(self.header(&view, view.revision())),
            version: ETCD_VERSION.to_owned(),
            db_size: view.db_size_bytes as i64,
            leader: view.leader,
            raft_index: view.committed_index,
            raft_term: view.term,
            raft_applied_index: view.applied_index,
            errors,
            db_size_in_use: view.db_in_use_bytes.min(view.db_size_bytes) as i64,
            is_learner: view.is_learner,
            storage_version: STORAGE_VERSION.to_owned(),
            db_size_quota: quota,
            downgrade_info: Some(DowngradeInfo {
                enabled: view.members.downgrade_target.is_some(),
                target_version: view.members.downgrade_target.clone().unwrap_or_default(),
            }),
        };
        self.reply(key, &answer, wire);
        Ok(())
    }

    pub(super) fn defragment(&mut self, key: CallKey, _message: Bytes) -> Result<(), Failure> {
        self.ask(Request::Defragment, Pending::Plain { key });
        Ok(())
    }

    pub(super) fn hash(&mut self, key: CallKey, _message: Bytes) -> Result<(), Failure> {
        let view = self.view();
        self.start_job(Job::hash(key, &view, self.now_ns));
        Ok(())
    }

    pub(super) fn hash_kv(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: HashKvRequest = decode(message)?;
        let view = self.view();
        self.start_job(Job::hash_kv(key, &view, request.revision, self.now_ns));
        Ok(())
    }

    pub(super) fn snapshot(&mut self, key: CallKey, _message: Bytes) -> Result<(), Failure> {
        let view = self.view();
        self.start_job(Job::snapshot(key, &view, self.now_ns));
        Ok(())
    }

    pub(super) fn move_leader(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: MoveLeaderRequest = decode(message)?;
        self.ask(
            Request::MoveLeader {
                target: request.target_id,
            },
            Pending::Plain { key },
        );
        Ok(())
    }

    pub(super) fn health_check(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) -> Result<(), Failure> {
        let request: HealthCheckRequest = decode(message)?;
        if !request.service.is_empty() {
            return Err(status::UNKNOWN_HEALTH_SERVICE);
        }
        let status = self.serving() as i32;
        self.reply(key, &HealthCheckResponse { status }, wire);
        Ok(())
    }

    pub(super) fn health_list(&mut self, key: CallKey, _message: Bytes, wire: &mut ServerConn) -> Result<(), Failure> {
        let status = self.serving() as i32;
        let statuses = HashMap::from([(String::new(), HealthCheckResponse { status })]);
        self.reply(key, &HealthListResponse { statuses }, wire);
        Ok(())
    }

    pub(super) fn health_watch(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) -> Result<(), Failure> {
        let request: HealthCheckRequest = decode(message)?;
        let (status, told) = match request.service.is_empty() {
            true => {
                let status = self.serving();
                (status, Some((status, self.view().defrag.begun)))
            }
            false => (ServingStatus::ServiceUnknown, None),
        };
        self.send_health(key, status, wire);
        self.set_state(key, CallState::Health(told));
        Ok(())
    }

    /// Tells the health watches what has changed; a defragmentation that came and went is told too.
    pub(super) fn tell_health(&mut self, wires: &dyn Wires) {
        if !self.setup.features.is_on(STOP_GRPC_SERVICE_ON_DEFRAG) {
            return;
        }
        let defrag = self.view().defrag;
        let mut news = Vec::new();
        for (conn, calls) in &mut self.conns {
            for (stream, call) in calls {
                let CallState::Health(Some((told, begun))) = &mut call.state else {
                    continue;
                };
                let seen = std::mem::replace(begun, defrag.begun);
                if seen != defrag.begun && *told == ServingStatus::Serving {
                    *told = ServingStatus::NotServing;
                    news.push(((*conn, *stream), *told));
                }
                if !defrag.running && *told == ServingStatus::NotServing {
                    *told = ServingStatus::Serving;
                    news.push(((*conn, *stream), *told));
                }
            }
        }
        news.sort_by_key(|(key, _)| *key);
        for (key, status) in news {
            wires.with(key.0, &mut |wire| self.send_health(key, status, wire));
        }
    }

    fn serving(&mut self) -> ServingStatus {
        let stopped = self.view().defrag.running && self.setup.features.is_on(STOP_GRPC_SERVICE_ON_DEFRAG);
        match stopped {
            true => ServingStatus::NotServing,
            false => ServingStatus::Serving,
        }
    }

    fn send_health(&mut self, key: CallKey, status: ServingStatus, wire: &mut ServerConn) {
        let answer = HealthCheckResponse { status: status as i32 };
        let write = |out: &mut BytesMut| answer.encode(out).expect("a BytesMut grows");
        self.setup.metrics.bytes_sent.add(answer.encoded_len() as u64);
        wire.send_message(key.1, answer.encoded_len(), write);
        self.setup.metrics.methods[Method::HealthWatch.index()].sent.add(1);
    }

    /// Ends a streaming call well.
    pub(super) fn finish_ok(&mut self, key: CallKey, wire: &mut ServerConn) {
        wire.finish(key.1, &Status::ok());
        self.end(key, net::grpc::Code::Ok);
    }
}
