//! What other members and tools ask of the peer port over HTTP: version, members, hashes, downgrades, and in `leader`
//! what etcd's members ask each other.
//!
//! Source: http table, peer rows.

mod leader;

use std::time::Duration;

use net::io::{HeaderName, HeaderValue, Http1Answer, Http1Reply, Http1Request, Method as HttpMethod};
use serde::{Deserialize, Serialize};
use storage::mvcc::HashKvResult;

use super::{
    Api,
    http::{Page, TEXT, answer},
    status::Failure,
};
use crate::{
    logging,
    member::{View, corruption::Taken},
};

pub(super) use leader::Told;

/// What peers tell clusters apart by.
const CLUSTER_ID_HEADER: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// The body of a request for a hash. Source: `etcdserverpb.HashKVRequest` in Go's JSON.
#[derive(Deserialize)]
struct HashKvQuery {
    #[serde(default)]
    revision: i64,
}

/// The body of its answer; fields of value zero are left out, as Go does.
/// Source: `etcdserverpb.HashKVResponse` in Go's JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HashKvAnswer {
    header: HashKvHeader,
    #[serde(skip_serializing_if = "is_zero")]
    hash: u32,
    #[serde(skip_serializing_if = "is_zero")]
    compact_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    hash_revision: i64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct HashKvHeader {
    #[serde(skip_serializing_if = "is_zero")]
    revision: i64,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<Taken> for HashKvAnswer {
    fn from(taken: Taken) -> Self {
        HashKvAnswer {
            header: HashKvHeader {
                revision: taken.newest_revision,
            },
            hash: taken.hash.hash,
            compact_revision: taken.hash.compact_revision,
            hash_revision: taken.hash.revision,
        }
    }
}

impl From<HashKvAnswer> for Taken {
    fn from(answer: HashKvAnswer) -> Self {
        Taken {
            hash: HashKvResult {
                hash: answer.hash,
                revision: answer.hash_revision,
                compact_revision: answer.compact_revision,
            },
            newest_revision: answer.header.revision,
        }
    }
}

impl Api {
    /// Answers a request on a peer URL.
    pub(super) fn peer_http(&mut self, request: &Http1Request) -> Http1Reply {
        if let Some(reply) = self.peer_call(request) {
            return reply;
        }
        let path = request.uri.path();
        let known = matches!(
            path,
            "/version" | "/members" | "/members/hashkv" | "/raft/probing" | "/downgrade/enabled"
        );
        let page = match path {
            _ if !known => Page::not_found(),
            _ if request.method != HttpMethod::GET && path != "/raft/probing" => {
                Page::new(405, TEXT, "Method Not Allowed\n")
            }
            "/version" => self.version_page(),
            "/raft/probing" => {
                let since_1970 = Duration::from_millis(self.setup.unix_ms) + Duration::from_nanos((self.setup.clock)());
                let now = logging::line::timestamp(since_1970);
                Page::new(200, TEXT, format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n"))
            }
            "/members" => members_page(&self.view()),
            "/downgrade/enabled" => return self.downgrade_for_peer(),
            _ => return self.hash_kv_for_peer(request),
        };
        Http1Reply::Now(self.signed(page))
    }

    fn hash_kv_for_peer(&mut self, request: &Http1Request) -> Http1Reply {
        let theirs = request.headers.get(CLUSTER_ID_HEADER);
        if theirs.is_some_and(|id| *id != self.cluster_id_text()) {
            let page = Page::new(412, TEXT, "cluster ID mismatch\n");
            return Http1Reply::Now(self.signed(page));
        }
        let Ok(query) = serde_json::from_slice::<HashKvQuery>(&request.body) else {
            let page = Page::new(400, TEXT, "error unmarshalling request\n");
            return Http1Reply::Now(self.signed(page));
        };
        let hash = self.hash_at(query.revision);
        let cluster = self.cluster_id_text();
        Http1Reply::Later(Box::pin(async move {
            let mut answer = answer(hash_page(hash.wait().await));
            answer.headers.insert(CLUSTER_ID_HEADER, cluster);
            answer
        }))
    }

    /// Source: etcd's `downgradeEnabledHandler`.
    fn downgrade_for_peer(&mut self) -> Http1Reply {
        let (verdict, mut newest, cluster) = (self.barrier(), self.setup.slot.reader(), self.cluster_id_text());
        Http1Reply::Later(Box::pin(async move {
            let page = match verdict.wait().await {
                Ok(()) => Page::new(
                    200,
                    "text/plain",
                    newest.get().members.downgrade_target.is_some().to_string(),
                ),
                Err(failure) => Page::new(500, TEXT, format!("failed linearized read: {}\n", failure.text)),
            };
            let mut answer = answer(page);
            answer.headers.insert(CLUSTER_ID_HEADER, cluster);
            answer
        }))
    }

    fn signed(&self, page: Page) -> Http1Answer {
        let mut answer = answer(page);
        answer.headers.insert(CLUSTER_ID_HEADER, self.cluster_id_text());
        answer
    }

    fn cluster_id_text(&self) -> HeaderValue {
        let cluster = format!("{:x}", self.setup.cluster_id);
        HeaderValue::from_str(&cluster).expect("hexadecimal digits are valid")
    }
}

fn members_page(view: &View) -> Page {
    let members: Vec<_> = view.members.members.values().collect();
    let body = serde_json::to_string(&members).expect("members are plain data");
    Page::new(200, "application/json", body + "\n")
}

fn hash_page(result: Result<Taken, Failure>) -> Page {
    match result {
        Ok(taken) => {
            let body = serde_json::to_string(&HashKvAnswer::from(taken)).expect("numbers are plain data");
            Page::new(200, "application/json", body)
        }
        Err(failure) => {
            let text = failure.text.strip_prefix("etcdserver: ").unwrap_or(failure.text);
            Page::new(400, TEXT, format!("{text}\n"))
        }
    }
}
