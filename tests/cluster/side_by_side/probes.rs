//! One question of every kind, to be asked of a member in whatever state it is.

use std::pin::Pin;

use tonic::{Request, Status, Streaming};

use super::{Side, timed};
use crate::{
    rig::Node,
    support::{
        pb::{
            etcdserverpb::{alarm_request::AlarmAction, compare::CompareResult, compare::TargetUnion, *},
            health::HealthCheckRequest,
        },
        *,
    },
};

/// What is asked, and the answer in words.
type Question = (
    &'static str,
    Pin<Box<dyn Future<Output = Result<String, Status>> + Send>>,
);

macro_rules! question {
    ($what:literal, $client:ident.$service:ident.$method:ident($message:expr), $demands_leader:expr, $tell:expr) => {{
        let (mut service, request) = ($client.$service.clone(), demanding($message, $demands_leader));
        let answer = async move {
            let answer = service.$method(request).await?.into_inner();
            $tell(answer).await
        };
        let question: Question = ($what, Box::pin(answer));
        question
    }};
}

/// Pages of the client port. Source: http table.
const PAGES: &[&str] = &[
    "/health",
    "/health?serializable=true",
    "/health?exclude=NOSPACE",
    "/livez",
    "/livez?verbose",
    "/readyz",
    "/readyz?verbose",
    "/readyz/data_corruption",
    "/readyz/linearizable_read",
    "/readyz/non_learner",
    "/readyz/serializable_read",
    "/nothing",
];

/// Pages of the peer port.
const PEER_PAGES: &[&str] = &["/downgrade/enabled", "/health", "/members/hashkv", "/nothing"];

impl Side {
    /// Asks a member everything at the same time, and writes down the answers in order.
    pub async fn ask_everything(&mut self, at: usize, state: &str) {
        let questions = questions(&self.cluster.nodes[at], false);
        self.ask_all(questions, state).await;
        for question in changes(&self.cluster.nodes[at]) {
            self.ask_all(vec![question], state).await;
        }
        self.look_at_pages(at, state).await;
    }

    /// The same of a member that most likely says nothing to many of them, so that changes wait at the same time, too.
    pub async fn ask_everything_at_once(&mut self, at: usize, state: &str) {
        let node = &self.cluster.nodes[at];
        let all = questions(node, false).into_iter().chain(changes(node)).collect();
        self.ask_all(all, state).await;
        self.look_at_pages(at, state).await;
    }

    /// The same, by a client that wants no answer from a member without a leader.
    pub async fn ask_everything_of_a_leader(&mut self, at: usize, state: &str) {
        let questions = questions(&self.cluster.nodes[at], true);
        self.ask_all(questions, &format!("{state}, hasleader")).await;
    }

    async fn ask_all(&mut self, questions: Vec<Question>, state: &str) {
        let asked: Vec<_> = questions
            .into_iter()
            .map(|(what, answer)| (what, tokio::spawn(timed(answer))))
            .collect();
        for (what, answer) in asked {
            let said = answer.await.expect("questions do not panic");
            self.note(format!("{state}: {what}"), said);
        }
    }

    async fn look_at_pages(&mut self, at: usize, state: &str) {
        let node = &self.cluster.nodes[at];
        let on = |endpoint: String| move |path: &&'static str| (endpoint.clone(), *path);
        let pages: Vec<_> = PAGES.iter().map(on(node.endpoint())).collect();
        let peers: Vec<_> = PEER_PAGES.iter().map(on(node.peer_endpoint())).collect();
        let asked: Vec<_> = pages
            .into_iter()
            .chain(peers)
            .map(|(endpoint, path)| {
                let page = tokio::task::spawn_blocking(move || http(&endpoint, "GET", path));
                (
                    path,
                    tokio::spawn(timed(async move { Ok(in_words(&page.await.expect("a page"))) })),
                )
            })
            .collect();
        for (path, answer) in asked {
            let said = answer.await.expect("pages do not panic");
            self.note(format!("{state}: {path}"), said);
        }
    }
}

fn in_words(page: &HttpAnswer) -> String {
    let kind = page.headers.get("content-type").map_or("", String::as_str);
    // The order of verbose checks is one of chance at etcd.
    let mut lines: Vec<&str> = page.body.lines().collect();
    lines.sort_unstable();
    format!("{} {kind} {lines:?}", page.status)
}

/// Leases and members that nobody has.
const NOBODY: i64 = 77;

/// One question of every kind; none of them changes what another one is told.
fn questions(node: &Node, demands_leader: bool) -> Vec<Question> {
    let client = node.client();
    let mut questions = Vec::new();
    macro_rules! ask {
        ($what:literal, $service:ident.$method:ident($message:expr), $tell:expr) => {
            questions.push(question!(
                $what,
                client.$service.$method($message),
                demands_leader,
                $tell
            ))
        };
    }
    ask!("put", kv.put(put_request("probe", "v")), fine);
    ask!("get", kv.range(key_range("k")), pairs);
    ask!("serializable get", kv.range(serializable("k")), pairs);
    let future = RangeRequest {
        revision: 1 << 40,
        ..serializable("k")
    };
    ask!("serializable get of a future revision", kv.range(future), pairs);
    ask!("get of no key", kv.range(key_range("")), pairs);
    let delete = DeleteRangeRequest {
        key: b"nothing".to_vec(),
        ..Default::default()
    };
    ask!("delete", kv.delete_range(delete), fine);
    ask!("txn that puts", kv.txn(txn_of(vec![put_op("probe", "w")])), fine);
    ask!("txn that gets", kv.txn(txn_of(vec![get_op("k")])), fine);
    let local = txn_of(vec![range_op(serializable("k"))]);
    ask!("txn that gets serializably", kv.txn(local), fine);
    let none = vec![compare("probe", CompareResult::Equal, TargetUnion::Version(-1))];
    ask!("txn that compares only", kv.txn(txn(none, vec![], vec![])), fine);
    let compaction = |revision| CompactionRequest {
        revision,
        physical: false,
    };
    ask!("compaction of the future", kv.compact(compaction(1 << 40)), fine);

    ask!("grant", lease.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }), fine);
    ask!(
        "revoke of nothing",
        lease.lease_revoke(LeaseRevokeRequest { id: NOBODY }),
        fine
    );
    let of_nobody = LeaseTimeToLiveRequest { id: NOBODY, keys: true };
    let ttl = async |answer: LeaseTimeToLiveResponse| Ok(format!("ttl {}", answer.ttl));
    ask!("time to live of nothing", lease.lease_time_to_live(of_nobody), ttl);
    ask!("leases", lease.lease_leases(LeaseLeasesRequest {}), fine);
    let renewal = tokio_stream::iter([LeaseKeepAliveRequest { id: NOBODY }]);
    let renewed = async |answers| Ok(format!("ttl {}", first::<LeaseKeepAliveResponse>(answers).await?.ttl));
    ask!("renewal of nothing", lease.lease_keep_alive(renewal), renewed);

    let watch = tokio_stream::StreamExt::chain(
        tokio_stream::iter([create_request(create("k"))]),
        tokio_stream::pending(),
    );
    let created = async |answers| {
        let told: WatchResponse = first(answers).await?;
        Ok(format!("created: {}, canceled: {}", told.created, told.canceled))
    };
    ask!("watch", watch.watch(watch), created);

    let list = |linearizable| MemberListRequest { linearizable };
    ask!("member list", cluster.member_list(list(true)), members);
    ask!("local member list", cluster.member_list(list(false)), members);
    ask!("status", maintenance.status(StatusRequest {}), status);
    let move_leader = MoveLeaderRequest {
        target_id: NOBODY as u64,
    };
    ask!("move leader to nobody", maintenance.move_leader(move_leader), fine);
    let alarms = AlarmRequest {
        action: AlarmAction::Get.into(),
        ..Default::default()
    };
    let raised = async |answer: AlarmResponse| Ok(format!("{:?}", answer.alarms));
    ask!("alarms", maintenance.alarm(alarms), raised);
    ask!("hash", maintenance.hash(HashRequest {}), fine);
    ask!("hash of keys", maintenance.hash_kv(HashKvRequest { revision: 0 }), fine);
    let future = HashKvRequest { revision: 1 << 40 };
    ask!("hash of keys in the future", maintenance.hash_kv(future), fine);
    ask!("defragment", maintenance.defragment(DefragmentRequest {}), fine);
    let piece = async |answers| first::<SnapshotResponse>(answers).await.map(|_| "a piece".to_owned());
    ask!("snapshot", maintenance.snapshot(SnapshotRequest {}), piece);
    let downgrade = DowngradeRequest {
        action: downgrade_request::DowngradeAction::Validate.into(),
        version: "x".into(),
    };
    ask!("downgrade to a bad version", maintenance.downgrade(downgrade), fine);

    let check = HealthCheckRequest { service: String::new() };
    ask!(
        "health check",
        health.check(check),
        async |answer: pb::health::HealthCheckResponse| Ok(format!("{:?}", answer.status()))
    );
    questions
}

/// Changes of members that are all refused. An etcd never answers one that comes while another is under way.
fn changes(node: &Node) -> Vec<Question> {
    let (client, taken, id) = (node.client(), node.peer_url(), NOBODY as u64);
    let mut questions = Vec::new();
    macro_rules! ask {
        ($what:literal, $method:ident($message:expr)) => {
            questions.push(question!($what, client.cluster.$method($message), false, fine))
        };
    }
    let add = |url: &str, is_learner| MemberAddRequest {
        peer_ur_ls: vec![url.to_owned()],
        is_learner,
    };
    let update = MemberUpdateRequest {
        id,
        peer_ur_ls: vec!["http://127.0.0.1:1".into()],
    };
    ask!("add of a bad URL", member_add(add("nonsense", false)));
    ask!("add of its own URL", member_add(add(&taken, false)));
    ask!("add of its own URL as a learner", member_add(add(&taken, true)));
    ask!("remove of nobody", member_remove(MemberRemoveRequest { id }));
    ask!("promotion of nobody", member_promote(MemberPromoteRequest { id }));
    ask!("update of nobody", member_update(update));
    questions
}

/// A word for an answer that is as good as any other.
async fn fine<T>(_: T) -> Result<String, Status> {
    Ok("an answer".to_owned())
}

fn demanding<T>(message: T, demands_leader: bool) -> Request<T> {
    let mut request = Request::new(message);
    if demands_leader {
        request
            .metadata_mut()
            .insert("hasleader", "true".parse().expect("a valid value"));
    }
    request
}

fn serializable(key: &str) -> RangeRequest {
    RangeRequest {
        serializable: true,
        ..key_range(key)
    }
}

/// The first message of a stream.
async fn first<T>(mut answers: Streaming<T>) -> Result<T, Status> {
    answers
        .message()
        .await?
        .ok_or_else(|| Status::unknown("the stream ended"))
}

async fn pairs(answer: RangeResponse) -> Result<String, Status> {
    Ok(format!("{:?}", keys(&answer.kvs)))
}

async fn members(answer: MemberListResponse) -> Result<String, Status> {
    let count = |is_so: fn(&&Member) -> bool| answer.members.iter().filter(is_so).count();
    Ok(format!(
        "revision {}, {} members, {} learners, {} told their name, {} their client URL",
        revision(&answer.header),
        answer.members.len(),
        count(|member| member.is_learner),
        count(|member| !member.name.is_empty()),
        count(|member| !member.client_ur_ls.is_empty()),
    ))
}

async fn status(answer: StatusResponse) -> Result<String, Status> {
    let header = answer.header.unwrap_or_default();
    Ok(format!(
        "leader {}, learner: {}, errors {:?}, term above 0: {}, terms are equal: {}, indexes: {}, {}",
        answer.leader,
        answer.is_learner,
        answer.errors,
        answer.raft_term > 0,
        answer.raft_term == header.raft_term,
        answer.raft_index > 0 && answer.raft_applied_index > 0,
        answer.raft_applied_index <= answer.raft_index,
    ))
}
