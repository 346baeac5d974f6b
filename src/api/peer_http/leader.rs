//! What etcd's members ask each other over HTTP beside consensus: promotions, renewals, what is left of a lease; and
//! refusals of its consensus, whose links are not etcore's.
//!
//! Source: http table, peer rows.

use bytes::Bytes;
use net::{
    io::{Http1Answer, Http1Reply, Http1Request, Method as HttpMethod},
    pb::{
        etcdserverpb::{
            LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
            ResponseHeader,
        },
        leasepb::{LeaseInternalRequest, LeaseInternalResponse},
    },
};
use prost::Message;

use super::CLUSTER_ID_HEADER;
use crate::{
    api::{
        Api, Failure, Promise,
        core::Pending,
        http::{Page, TEXT, answer},
        status::{LEARNER_NOT_READY, MEMBER_NOT_FOUND, MEMBER_NOT_LEARNER},
    },
    member::{MemberChange, Outcome, Request},
};

/// What the core said to a request that came over HTTP.
pub(in crate::api) type Told = Promise<Result<Outcome, Failure>>;

const PROTOBUF: &str = "application/protobuf";
const LEASE_NOT_FOUND: &str = "lease not found\n";

impl Api {
    /// Answers what belongs here; nothing for other paths.
    pub(super) fn peer_call(&mut self, request: &Http1Request) -> Option<Http1Reply> {
        let path = request.uri.path();
        let get = request.method == HttpMethod::GET;
        let post = request.method == HttpMethod::POST;
        if let Some(member) = path.strip_prefix("/members/promote/") {
            return Some(match (post, member.parse()) {
                (false, _) => self.not_allowed("POST"),
                (true, Ok(id)) => self.promote_for_peer(id),
                (true, Err(_)) => self.peer_refused(404, &format!("member {member} not found in cluster")),
            });
        }
        let stream = path.strip_prefix("/raft/stream/");
        match path {
            "/leases" | "/leases/internal" if !post => Some(self.not_allowed("POST")),
            "/leases" => Some(self.renew_for_peer(&request.body)),
            "/leases/internal" => Some(self.lease_for_peer(&request.body)),
            "/raft" | "/raft/snapshot" if !post => Some(self.not_allowed("POST")),
            "/raft" | "/raft/snapshot" => Some(self.no_raft(request)),
            _ if stream.is_some() && !get => Some(self.not_allowed("GET")),
            _ if stream.is_some() => Some(self.no_raft(request)),
            _ => None,
        }
    }

    /// Says to a member of etcd's that it cannot belong here.
    fn no_raft(&self, request: &Http1Request) -> Http1Reply {
        // Source: etcd compares versions first, and one that tells none is too old.
        let tells = request.headers.contains_key("x-server-version");
        let theirs = request.headers.get(CLUSTER_ID_HEADER).filter(|_| tells);
        match theirs.is_some_and(|id| *id != self.cluster_id_text()) {
            true => self.peer_refused(412, "cluster ID mismatch"),
            false => self.peer_refused(412, "incompatible version"),
        }
    }

    fn peer_refused(&self, status: u16, text: &str) -> Http1Reply {
        Http1Reply::Now(self.signed(Page::new(status, TEXT, format!("{text}\n"))))
    }

    fn not_allowed(&self, method: &'static str) -> Http1Reply {
        let mut answer = self.signed(Page::new(405, TEXT, "Method Not Allowed\n"));
        let allow = net::io::HeaderValue::from_static(method);
        answer.headers.insert(net::io::header::ALLOW, allow);
        Http1Reply::Now(answer)
    }

    /// Asks the core; the page follows from what it says.
    fn ask_for_peer(
        &mut self,
        request: Request,
        page: impl FnOnce(Result<Outcome, Failure>) -> Page + 'static,
    ) -> Http1Reply {
        let (told, cluster) = (Told::default(), self.cluster_id_text());
        self.ask(request, Pending::Told(told.clone()));
        self.flush_outbox();
        Http1Reply::Later(Box::pin(async move {
            let mut answer: Http1Answer = answer(page(told.wait().await));
            answer.headers.insert(CLUSTER_ID_HEADER, cluster);
            answer
        }))
    }

    fn promote_for_peer(&mut self, id: u64) -> Http1Reply {
        let mut newest = self.setup.slot.reader();
        let change = MemberChange::Promote(id);
        self.ask_for_peer(Request::ChangeMembers { change }, move |result| match result {
            Ok(_) => super::members_page(newest.get()),
            Err(MEMBER_NOT_FOUND) => Page::new(404, TEXT, "membership: ID not found\n"),
            Err(MEMBER_NOT_LEARNER) => Page::new(412, TEXT, "membership: can only promote a learner member\n"),
            Err(LEARNER_NOT_READY) => Page::new(412, TEXT, format!("{}\n", LEARNER_NOT_READY.text)),
            Err(_) => Page::new(500, "application/json", r#"{"message":"Internal Server Error"}"#),
        })
    }

    fn renew_for_peer(&mut self, body: &Bytes) -> Http1Reply {
        let Ok(LeaseKeepAliveRequest { id }) = LeaseKeepAliveRequest::decode(body.clone()) else {
            return self.peer_refused(400, "error unmarshalling request");
        };
        self.ask_for_peer(Request::LeaseRenew { lease: id }, move |result| match result {
            Ok(Outcome::LeaseRenew { ttl, .. }) if ttl > 0 => {
                let answer = LeaseKeepAliveResponse { header: None, id, ttl };
                Page::new(200, PROTOBUF, answer.encode_to_vec())
            }
            Ok(_) => Page::new(404, TEXT, LEASE_NOT_FOUND),
            Err(failure) => Page::new(400, TEXT, format!("{}\n", failure.text)),
        })
    }

    fn lease_for_peer(&mut self, body: &Bytes) -> Http1Reply {
        let request = LeaseInternalRequest::decode(body.clone()).ok();
        let Some(LeaseTimeToLiveRequest { id, keys }) = request.and_then(|request| request.lease_time_to_live_request)
        else {
            return self.peer_refused(400, "error unmarshalling request");
        };
        self.ask_for_peer(Request::LeaseInfo { lease: id, keys }, move |result| match result {
            Ok(Outcome::LeaseInfo(Some(info))) => {
                let answer = LeaseTimeToLiveResponse {
                    header: Some(ResponseHeader::default()),
                    id,
                    ttl: info.remaining_seconds,
                    granted_ttl: info.granted_seconds,
                    keys: info.keys,
                };
                let answer = LeaseInternalResponse {
                    lease_time_to_live_response: Some(answer),
                };
                Page::new(200, PROTOBUF, answer.encode_to_vec())
            }
            Ok(_) => Page::new(404, TEXT, LEASE_NOT_FOUND),
            Err(failure) => Page::new(500, TEXT, format!("{}\n", failure.text)),
        })
    }
}
