//! The Cluster service. Headers of its answers carry revision 0 (behaviours 23).

use std::sync::Arc;

use bytes::Bytes;
use net::{
    grpc::ServerConn,
    pb::etcdserverpb::{
        Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
        MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    },
};

use super::{
    Api, Method,
    core::{Pending, Waiting},
    shard::{CallKey, Wires, decode},
    status::{self, Failure},
};
use crate::{
    config::{Url, identity},
    member::{MemberChange, MemberInfo, Request, View},
};

impl Api {
    pub(super) fn member_list(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) -> Result<(), Failure> {
        let request: MemberListRequest = decode(message)?;
        if request.linearizable {
            return self.wait_for_round(Waiting::MemberList { key });
        }
        let view = self.view();
        self.serve_members(&view, key, wire);
        Ok(())
    }

    pub(super) fn serve_members(&mut self, view: &Arc<View>, key: CallKey, wire: &mut ServerConn) {
        let header = Some(self.header(view, 0));
        let members = all(view);
        self.reply(key, &MemberListResponse { header, members }, wire);
    }

    pub(super) fn member_add(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: MemberAddRequest = decode(message)?;
        let urls = request.peer_ur_ls.iter().map(|url| Url::parse(url));
        let mut urls: Vec<Url> = urls.collect::<Result<_, _>>().map_err(|_| status::MEMBER_BAD_URLS)?;
        if urls.is_empty() {
            return Err(status::MEMBER_BAD_URLS);
        }
        urls.sort();
        // Source: ids table, "member ID" of an added member: the time takes the place of the token.
        let seconds = (self.setup.unix_ms + self.now_ns / 1_000_000) / 1000;
        let member = MemberInfo {
            id: identity::member_id(&urls, &seconds.to_string()),
            peer_urls: urls.iter().map(|url| url.as_str().to_owned()).collect(),
            is_learner: request.is_learner,
            ..MemberInfo::default()
        };
        self.change_members(key, MemberChange::Add(member))
    }

    pub(super) fn member_remove(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: MemberRemoveRequest = decode(message)?;
        self.change_members(key, MemberChange::Remove(request.id))
    }

    /// The URLs are not checked, as etcd does not.
    pub(super) fn member_update(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: MemberUpdateRequest = decode(message)?;
        let member = MemberInfo {
            id: request.id,
            peer_urls: request.peer_ur_ls,
            ..MemberInfo::default()
        };
        self.change_members(key, MemberChange::Update(member))
    }

    pub(super) fn member_promote(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: MemberPromoteRequest = decode(message)?;
        self.change_members(key, MemberChange::Promote(request.id))
    }

    fn change_members(&mut self, key: CallKey, change: MemberChange) -> Result<(), Failure> {
        self.ask(Request::ChangeMembers { change }, Pending::Plain { key });
        Ok(())
    }

    /// Answers a change that is applied.
    pub(super) fn members_changed(&mut self, view: &View, key: CallKey, subject: u64, wires: &dyn Wires) {
        let header = Some(self.header(view, 0));
        let members = all(view);
        let call = self.conns.get(&key.0).and_then(|calls| calls.get(&key.1));
        match call.map(|call| call.method) {
            Some(Method::MemberAdd) => {
                let member = members.iter().find(|member| member.id == subject).cloned();
                let answer = MemberAddResponse {
                    header,
                    member,
                    members,
                };
                self.reply_to(key, &answer, wires);
            }
            Some(Method::MemberRemove) => self.reply_to(key, &MemberRemoveResponse { header, members }, wires),
            Some(Method::MemberUpdate) => self.reply_to(key, &MemberUpdateResponse { header, members }, wires),
            _ => self.reply_to(key, &MemberPromoteResponse { header, members }, wires),
        }
    }
}

/// All members, by id.
fn all(view: &View) -> Vec<Member> {
    let member = |info: &MemberInfo| Member {
        id: info.id,
        name: info.name.clone(),
        peer_ur_ls: info.peer_urls.clone(),
        client_ur_ls: info.client_urls.clone(),
        is_learner: info.is_learner,
    };
    view.members.members.values().map(member).collect()
}
