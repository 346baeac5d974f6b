//! Members that are ended at each named point, over HTTP, as etcd's own suites do it: what was acknowledged is there
//! again, and history has no holes.
//!
//! Only in a build with the feature `failpoints`.

#[allow(dead_code, unused_imports)] // the stories here need a part of it
#[path = "blackbox"]
mod blackbox {
    pub mod support;
}

#[allow(dead_code)] // as above
#[path = "cluster"]
mod stories {
    pub mod rig;
}

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use blackbox::support;
use etcore::failpoints::NAMES;
use stories::rig::{Cluster, Node};
use support::{
    pb::etcdserverpb::{request_op::Request as Op, *},
    *,
};

/// Reached on a member that is alone.
const ALONE: &[&str] = &[
    "afterCommit",
    "afterStartDBTxn",
    "afterWritebackBuf",
    "beforeApplyOneEntryNormal",
    "beforeCommit",
    "beforeLookupWhenLeaseTimeToLive",
    "beforeSendWatchResponse",
    "beforeStartDBTxn",
    "beforeWritebackBuf",
    "commitAfterPreCommitHook",
    "commitBeforePreCommitHook",
    "compactAfterAcquiredBatchTxLock",
    "compactAfterCommitBatch",
    "compactAfterCommitScheduledCompact",
    "compactAfterSetFinishedCompact",
    "compactBeforeCommitBatch",
    "compactBeforeCommitScheduledCompact",
    "compactBeforeSetFinishedCompact",
    "defragBeforeCopy",
    "defragBeforeRename",
    "raftAfterSave",
    "raftBeforeAdvance",
    "raftBeforeLeaderSend",
    "raftBeforeSave",
    "raftBeforeSaveWaitWalSync",
    "walAfterSync",
    "walBeforeSync",
    // Last, since it leaves a learner that never comes.
    "beforeApplyOneConfChange",
];

/// Reached on a follower that takes a snapshot over.
const SNAPSHOT: &[&str] = &[
    "raftBeforeSaveSnap",
    "raftBeforeWALSaveSnaphot",
    "raftAfterSaveSnap",
    "raftBeforeApplySnap",
    "applyBeforeOpenSnapshot",
    "applyAfterOpenSnapshot",
    "raftAfterApplySnap",
    "raftAfterWALRelease",
];

/// Reached by messages between members.
const LINKED: &[&str] = &[
    "raftBeforeFollowerSend",
    "beforeLookupWhenForwardLeaseTimeToLive",
    "raftDropHeartbeat",
];

/// Writes that were acknowledged: the key and its revision.
type Acknowledged = Arc<Mutex<BTreeMap<String, i64>>>;

/// Writes keys of its own, one a revision, and the same key again and again, so that there is something to compact.
async fn write(client: Client, prefix: String, acknowledged: Acknowledged) {
    for number in 0.. {
        let key = format!("k/{prefix}/{number}");
        let put = |key: &str| RequestOp {
            request: Some(Op::RequestPut(PutRequest {
                key: key.into(),
                value: vec![b'v'; 200],
                ..Default::default()
            })),
        };
        let txn = TxnRequest {
            success: vec![put(&key), put("churn")],
            ..Default::default()
        };
        let Ok(answer) = client.try_txn(txn).await else { return };
        let revision = answer.header.expect("a header").revision;
        acknowledged.lock().unwrap().insert(key, revision);
    }
}

/// Compacts, defragments, asks for leases: everything that has points of its own.
async fn tend(client: Client) {
    let Ok(lease) = client.try_grant(0, 600).await else {
        return;
    };
    loop {
        pause_ms(20).await;
        let Ok(head) = client.try_range(key_range("churn")).await else {
            return;
        };
        let revision = head.header.expect("a header").revision;
        let _ = client.try_compact(revision - 1).await;
        let ask = LeaseTimeToLiveRequest {
            id: lease.id,
            keys: true,
        };
        let _ = client.lease.clone().lease_time_to_live(ask).await;
        let _ = client.maintenance.clone().defragment(DefragmentRequest {}).await;
    }
}

/// Every revision has its one key, and what was acknowledged is among them.
async fn check(client: &Client, acknowledged: &Acknowledged, context: &str) {
    let all = client.range(prefix_range("k/")).await;
    let found: BTreeMap<String, i64> = all
        .kvs
        .iter()
        .map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision))
        .collect();
    let revisions: BTreeSet<i64> = found.values().copied().collect();
    let head = all.header.expect("a header").revision;
    assert!(
        revisions.iter().copied().eq(2..=head),
        "{context}: the revisions up to {head} have holes or doubles: {revisions:?}"
    );
    for (key, revision) in acknowledged.lock().unwrap().iter() {
        assert_eq!(found.get(key), Some(revision), "{context}: {key} was acknowledged");
    }
}

fn armed(port: u16) -> [(&'static str, String); 1] {
    [("GOFAIL_HTTP", format!("127.0.0.1:{port}"))]
}

fn arm(port: u16, name: &str, terms: &str) {
    let answer = http_with(&format!("127.0.0.1:{port}"), "PUT", &format!("/{name}"), terms);
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{name}={terms}");
}

fn disarm(port: u16, name: &str) {
    let answer = http(&format!("127.0.0.1:{port}"), "DELETE", &format!("/{name}"));
    assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{name}");
}

/// Waits until `/health` says so.
async fn health_says(url: &str, text: &str) {
    let endpoint = url.trim_start_matches("http://");
    eventually(format!("{text} in /health"), || async {
        http(endpoint, "GET", "/health").body.contains(text)
    })
    .await;
}

/// Has a member with a port for its points lead; the member and the port.
async fn leader_with_points(cluster: &mut Cluster) -> (usize, u16) {
    let (heir, port) = ((cluster.leader().await + 1) % 3, free_port());
    cluster.nodes[heir].kill_9();
    set(&mut cluster.nodes[heir], "GOFAIL_HTTP", format!("127.0.0.1:{port}"));
    cluster.nodes[heir].start(true);
    let now = cluster.leader().await;
    let target_id = cluster.nodes[heir].id().await;
    let mover = cluster.nodes[now].client();
    let moved = mover
        .maintenance
        .clone()
        .move_leader(MoveLeaderRequest { target_id })
        .await;
    moved.expect("leadership moves");
    eventually("the heir leads", || async { cluster.leader().await == heir }).await;
    (heir, port)
}

/// Waits for the end of a process that a point brings about.
fn ended(process: &mut Process, name: &str) {
    let status = process.wait(PATIENCE);
    let status = status.unwrap_or_else(|| panic!("{name} was not reached; the log ends:\n{}", process.log_tail()));
    assert_eq!(status.code(), Some(2), "{name}; the log ends:\n{}", process.log_tail());
    let wanted = format!("panic: failpoint panic: {name}");
    assert!(process.log().contains(&wanted), "{name}: {}", process.log_tail());
}

#[test]
fn every_point_has_its_test_and_its_place_in_the_documents() {
    let tested: BTreeSet<&str> = [ALONE, SNAPSHOT, LINKED].concat().into_iter().collect();
    assert_eq!(tested.into_iter().collect::<Vec<_>>(), NAMES);
    let document = include_str!("../docs/FAULT_MODEL.md");
    for name in NAMES {
        assert!(
            document.contains(&format!("`{name}`")),
            "{name} is missing in docs/FAULT_MODEL.md"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_member_ended_at_any_point_keeps_what_it_acknowledged() {
    let port = free_port();
    // Small segments and slices, so that everything happens all the time.
    let flags = ["--wal-segment-bytes=1048576", "--cores=2"];
    let mut server = Server::start_in(&armed(port), &flags).await;
    let acknowledged = Acknowledged::default();
    for name in ALONE {
        let client = server.client();
        let writers: Vec<_> = (0..4)
            .map(|at| tokio::spawn(write(client.clone(), format!("{name}{at}"), acknowledged.clone())))
            .collect();
        let mut watcher = Watcher::open(&client, create_prefix("k/")).await;
        let tender = tokio::spawn(tend(client.clone()));
        within("a write that is seen", watcher.events(20)).await;
        arm(port, name, "panic");
        if *name == "beforeApplyOneConfChange" {
            let request = MemberAddRequest {
                peer_ur_ls: vec!["http://127.0.0.1:1".into()],
                is_learner: true,
            };
            let added = client.cluster.clone().member_add(request).await;
            assert!(added.is_err(), "it died of it");
        }
        ended(server.process(), name);
        for task in writers.into_iter().chain([tender]) {
            within(format!("{name}: the callers hear of it"), task).await.unwrap();
        }
        server.kill_9();
        server.start_again();
        check(&server.client(), &acknowledged, name).await;
    }
    assert!(
        acknowledged.lock().unwrap().len() > 20 * ALONE.len(),
        "there was something to lose"
    );
}

async fn fill(client: &Client, count: usize, acknowledged: &Acknowledged) {
    for _ in 0..count {
        let number = acknowledged.lock().unwrap().len();
        let key = format!("k/{number:06}");
        let revision = client.put(key.as_str(), vec![b'v'; 500]).await;
        acknowledged.lock().unwrap().insert(key, revision);
    }
}

fn set(node: &mut Node, name: &str, value: String) {
    node.environment = vec![(name.to_owned(), value)];
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_ended_while_it_takes_a_snapshot_over_is_refilled_at_its_next_start() {
    let mut cluster = Cluster::start(3, &["--snapshot-catchup-entries=20"]).await;
    let acknowledged = Acknowledged::default();
    for name in SNAPSHOT {
        let leader = cluster.leader().await;
        let away = (leader + 1) % 3;
        cluster.nodes[away].kill_9();
        let client = cluster.nodes[leader].client();
        fill(&client, 200, &acknowledged).await;
        cut_log(&cluster.nodes[leader], &acknowledged).await;
        set(&mut cluster.nodes[away], "GOFAIL_FAILPOINTS", format!("{name}=panic"));
        cluster.nodes[away].start(false);
        ended(cluster.nodes[away].process.as_mut().expect("it was started"), name);
        cluster.nodes[away].kill_9();
        cluster.nodes[away].environment.clear();
        cluster.nodes[away].start(true);
        cluster.leader().await;
        cluster.agree().await;
        check(&cluster.nodes[away].client(), &acknowledged, name).await;
        // For who has not caught up with a snapshot the log is kept; a leader sees who has as it cuts its log.
        let leader = cluster.leader().await;
        cut_log(&cluster.nodes[leader], &acknowledged).await;
    }
}

/// Writes until the log is cut: that is once the tree has the entries, two commits later.
async fn cut_log(leader: &Node, acknowledged: &Acknowledged) {
    let (client, enough) = (leader.client(), leader.commits() + 2.0);
    eventually("the log to be cut", || async {
        fill(&client, 30, acknowledged).await;
        leader.commits() >= enough
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_on_the_way_between_members_end_or_divert_them() {
    let mut cluster = Cluster::start(3, &[]).await;
    let acknowledged = Acknowledged::default();
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let port = free_port();
    cluster.nodes[follower].kill_9();
    set(&mut cluster.nodes[follower], "GOFAIL_HTTP", format!("127.0.0.1:{port}"));
    cluster.nodes[follower].start(true);
    cluster.leader().await;

    // Without heartbeats it loses its leader; with them it has one again.
    let url = cluster.nodes[follower].url();
    arm(port, "raftDropHeartbeat", "return");
    health_says(&url, "RAFT NO LEADER").await;
    let count = http(&format!("127.0.0.1:{port}"), "GET", "/raftDropHeartbeat/count").body;
    assert!(count.parse::<u64>().expect("a number") > 5, "{count}");
    disarm(port, "raftDropHeartbeat");
    health_says(&url, r#"{"health":"true","reason":""}"#).await;

    // A follower that dies before it says what it has.
    let leader = cluster.leader().await;
    let client = cluster.nodes[leader].client();
    if leader != follower {
        fill(&client, 50, &acknowledged).await;
        arm(port, "raftBeforeFollowerSend", "panic");
        fill(&client, 50, &acknowledged).await;
        ended(
            cluster.nodes[follower].process.as_mut().expect("it runs"),
            "raftBeforeFollowerSend",
        );
        cluster.nodes[follower].kill_9();
        cluster.nodes[follower].start(true);
    }

    // A leader that dies when a follower asks it for a lease.
    let (leader, port) = leader_with_points(&mut cluster).await;
    let asker = (leader + 1) % 3;
    let lease = cluster.nodes[asker].client().grant(600).await;
    arm(port, "beforeLookupWhenForwardLeaseTimeToLive", "panic");
    let asking = cluster.nodes[asker].client();
    let asked = tokio::spawn(async move { asking.time_to_live(lease).await });
    ended(
        cluster.nodes[leader].process.as_mut().expect("it runs"),
        "beforeLookupWhenForwardLeaseTimeToLive",
    );
    cluster.nodes[leader].kill_9();
    // The question goes to the next leader.
    assert_eq!(within("the answer", asked).await.unwrap().granted_ttl, 600);
    cluster.nodes[leader].start(true);
    cluster.leader().await;
    cluster.agree().await;
    check(&cluster.nodes[leader].client(), &acknowledged, "in the end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_armed_over_http_with_gofails_answers() {
    let port = free_port();
    let environment = [
        ("GOFAIL_HTTP", format!("127.0.0.1:{port}")),
        ("GOFAIL_FAILPOINTS", "beforeCommit=1*print;afterCommit=off".to_owned()),
    ];
    let mut server = Server::start_in(&environment, &[]).await;
    let gofail = format!("127.0.0.1:{port}");
    let ask = |method: &str, path: &str, body: &str| {
        let answer = http_with(&gofail, method, path, body);
        (answer.status, answer.body)
    };
    let list = ask("GET", "/", "").1;
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), NAMES.len());
    assert!(
        lines.contains(&"afterCommit=off") && lines.contains(&"beforeCommit=1*print"),
        "{list}"
    );
    assert!(lines.contains(&"raftBeforeSave="), "{list}");
    assert_eq!(ask("GET", "/afterCommit", ""), (200, "off\n".into()));
    let disabled = "failed to GET: failpoint: failpoint is disabled\n";
    assert_eq!(ask("GET", "/raftBeforeSave", ""), (404, disabled.into()));
    let unknown = "failed to GET: failpoint: failpoint does not exist\n";
    assert_eq!(ask("GET", "/nonsense", ""), (404, unknown.into()));
    assert_eq!(ask("GET", "/nonsense/count", ""), (404, unknown.into()));
    assert_eq!(
        ask("PUT", "/nonsense", "panic"),
        (400, "failed to set failpoint nonsense\n".into())
    );
    assert_eq!(
        ask("PUT", "/raftBeforeSave", "explode"),
        (400, "failed to set failpoint raftBeforeSave\n".into())
    );
    let not_deleted = "failed to delete failpoint failpoint: failpoint is disabled\n";
    assert_eq!(ask("DELETE", "/raftBeforeSave", ""), (400, not_deleted.into()));
    assert_eq!(ask("POST", "/raftBeforeSave", "").0, 405);
    assert_eq!(
        ask("PUT", "/failpoints", "afterCommit=print;raftBeforeSave=sleep(1)").0,
        204
    );
    server.client().put("a", "b").await;
    assert_ne!(ask("GET", "/raftBeforeSave/count", ""), (200, "0".into()));
    eventually("a commit", || async { ask("GET", "/beforeCommit/count", "").1 == "1" }).await;
    assert_eq!(ask("DELETE", "/raftBeforeSave", "").0, 204);
    // A message of one's own, and the answer comes before the end.
    arm(port, "raftBeforeSave", r#"panic("told so")"#);
    let client = server.client();
    let put = tokio::spawn(async move { client.put("c", "d").await });
    let status = server.process().wait(PATIENCE);
    assert_eq!(status.and_then(|status| status.code()), Some(2));
    assert!(server.process().log().contains("panic: failpoint panic: told so"));
    assert!(within("the caller hears of it", put).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_sleeps_holds_the_core_up_and_nothing_else() {
    let port = free_port();
    let flags = ["--cores=1", "--feature-gates=StopGRPCServiceOnDefrag=true"];
    let server = Server::start_in(&armed(port), &flags).await;
    let client = server.client();
    client.put("before", "it").await;
    for name in ["raftBeforeSave", "beforeApplyOneEntryNormal"] {
        arm(port, name, r#"1*sleep("4s")"#);
        let (writer, began) = (client.clone(), Instant::now());
        let put = tokio::spawn(async move { writer.put("during", "it").await });
        eventually("the point is reached", || async {
            http(&format!("127.0.0.1:{port}"), "GET", &format!("/{name}/count")).body == "1"
        })
        .await;
        for path in ["/livez", "/health?serializable=true", "/metrics"] {
            assert_eq!(http(&server.endpoint(), "GET", path).status, 200, "{path}");
        }
        assert!(!put.is_finished(), "{name} sleeps still");
        within("the put", put).await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(4), "{name}: it waited");
        disarm(port, name);
    }
    // Before a defragmentation stands still its member says that it serves nobody.
    arm(port, "defragBeforeCopy", r#"1*sleep("2s")"#);
    let mut maintenance = client.maintenance.clone();
    let defragmenting = tokio::spawn(async move { maintenance.defragment(DefragmentRequest {}).await });
    eventually("it says so", || async {
        http(&format!("127.0.0.1:{port}"), "GET", "/defragBeforeCopy/count").body == "1"
    })
    .await;
    assert_eq!(http(&server.endpoint(), "GET", "/livez").status, 200);
    let inflight = http(&server.endpoint(), "GET", "/metrics").body;
    assert!(inflight.contains("\netcd_disk_defrag_inflight 1\n"));
    within("the defragmentation", defragmenting)
        .await
        .unwrap()
        .expect("it is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_hangs_gives_leadership_up_and_comes_back_as_a_follower() {
    let mut cluster = Cluster::start(3, &[]).await;
    let acknowledged = Acknowledged::default();
    let (stuck, port) = leader_with_points(&mut cluster).await;
    let url = cluster.nodes[stuck].url();
    let others = [(stuck + 1) % 3, (stuck + 2) % 3];
    fill(&cluster.nodes[stuck].client(), 20, &acknowledged).await;
    arm(port, "walBeforeSync", r#"sleep("3s")"#);
    // The others have it durably, so it is acknowledged; the leader's own write hangs.
    fill(&cluster.nodes[stuck].client(), 1, &acknowledged).await;
    health_says(&url, "DISK STALLED").await;
    let process = cluster.nodes[stuck].process.as_ref().expect("it runs");
    assert!(
        process.log().contains("this member holds back"),
        "{}",
        process.log_tail()
    );
    eventually("another leader", || async {
        let status = cluster.nodes[others[0]].client().status().await;
        status.leader != 0
            && cluster.nodes[stuck]
                .client()
                .status()
                .await
                .header
                .expect("a header")
                .member_id
                != status.leader
    })
    .await;
    fill(&cluster.nodes[others[0]].client(), 50, &acknowledged).await;
    let ready = http(url.trim_start_matches("http://"), "GET", "/readyz");
    assert_eq!(ready.status, 503, "{}", ready.body);
    disarm(port, "walBeforeSync");
    health_says(&url, r#"{"health":"true","reason":""}"#).await;
    assert_ne!(cluster.leader().await, stuck);
    cluster.agree().await;
    check(&cluster.nodes[stuck].client(), &acknowledged, "in the end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_member_whose_disk_hangs_is_unhealthy_until_it_is_back() {
    let port = free_port();
    let server = Server::start_in(&armed(port), &[]).await;
    let client = server.client();
    client.put("before", "it").await;
    arm(port, "walBeforeSync", r#"sleep("2s")"#);
    let waiting = client.clone();
    let put = tokio::spawn(async move { waiting.put("during", "it").await });
    health_says(&server.url(), r#"{"health":"false","reason":"#).await;
    disarm(port, "walBeforeSync");
    within("the write that hung", put).await.unwrap();
    health_says(&server.url(), r#"{"health":"true","reason":""}"#).await;
    client.put("after", "it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_write_ends_the_process_and_what_it_was_for_is_not_acknowledged() {
    let port = free_port();
    let mut server = Server::start_in(&armed(port), &[]).await;
    let client = server.client();
    client.put("before", "it").await;
    // The log is at rest then: a write of its own would end the process before arming is answered.
    pause_ms(1000).await;
    arm(port, "walBeforeSync", "1*return");
    let answer = client.try_put(PutRequest {
        key: b"during".to_vec(),
        ..Default::default()
    });
    assert!(within("the end of the connection", answer).await.is_err());
    let status = server.process().wait(PATIENCE);
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    let log = server.process().log();
    let wanted = [
        "etcore: fatal: write-ahead log: ",
        "Input/output error",
        "was not acknowledged is lost",
    ];
    assert!(wanted.iter().all(|text| log.contains(text)), "{log}");
    server.kill_9();
    server.start_again();
    let client = server.client();
    assert_eq!(client.get("before").await, Some(b"it".to_vec()));
    client.put("after", "it").await;
}
