//! A member that knows no leader: what it refuses, how, when, and what it goes on serving.

use std::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::{
    rig::Cluster,
    support::{pb::etcdserverpb::*, *},
};

const NO_LEADER: &str = "etcdserver: no leader";
const TIMED_OUT: &str = "etcdserver: request timed out";

/// A request that wants no answer from a member without a leader.
fn demanding<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request
}

fn a_put() -> PutRequest {
    PutRequest {
        key: b"k".to_vec(),
        value: b"w".to_vec(),
        ..Default::default()
    }
}

fn failure<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}

/// Kills all members but the first and waits until that one knows no leader.
async fn lose_majority(cluster: &mut Cluster) {
    cluster.nodes[1].kill_9();
    cluster.nodes[2].kill_9();
    let client = cluster.nodes[0].client();
    eventually("no leader", || async { client.status().await.leader == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_demand_a_leader_are_refused_at_once_and_their_streams_cut() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.nodes[0].client();
    let lease = client.grant(60).await;

    let (asks, receiver) = mpsc::channel(4);
    asks.send(create_request(create("k"))).await.unwrap();
    let mut watcher = client.watch.clone();
    let watch = watcher.watch(demanding(ReceiverStream::new(receiver))).await;
    let mut watch = watch.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().created);
    let (renewals, receiver) = mpsc::channel(4);
    renewals.send(LeaseKeepAliveRequest { id: lease }).await.unwrap();
    let mut leases = client.lease.clone();
    let keep_alive = leases.lease_keep_alive(demanding(ReceiverStream::new(receiver))).await;
    let mut keep_alive = keep_alive.unwrap().into_inner();
    assert_eq!(keep_alive.message().await.unwrap().unwrap().ttl, 60);
    let (patient_asks, receiver) = mpsc::channel(4);
    patient_asks.send(create_request(create("k"))).await.unwrap();
    let patient = watcher.watch(ReceiverStream::new(receiver)).await;
    let mut patient = patient.unwrap().into_inner();
    assert!(patient.message().await.unwrap().unwrap().created);

    lose_majority(&mut cluster).await;
    let started = Instant::now();
    let refused = (Code::Unavailable, NO_LEADER.to_owned());
    assert_eq!(failure(client.kv.clone().put(demanding(a_put())).await), refused);
    let range = RangeRequest {
        serializable: true,
        ..key_range("k")
    };
    assert_eq!(failure(client.kv.clone().range(demanding(range)).await), refused);
    let late = client.watch.clone().watch(demanding(tokio_stream::pending())).await;
    let late = match late {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    assert_eq!(failure(late), refused);
    // A request that waits for a leader would take six seconds.
    assert!(started.elapsed().as_secs() < 5);
    assert_eq!(failure(within("the end of the watch", watch.message()).await), refused);
    assert_eq!(
        failure(within("the end of the renewals", keep_alive.message()).await),
        refused
    );

    cluster.nodes[1].start(true);
    cluster.leader().await;
    client.put("k", "v").await;
    let told = within("the event", patient.message()).await.unwrap().unwrap();
    assert_eq!(
        told.events[0].kv.as_ref().unwrap().value,
        b"v",
        "the other watch lives on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_requests_wait_for_a_leader_and_then_say_why_they_failed() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.nodes[0].client();
    client.put("k", "v").await;
    let lease = client.grant(60).await;
    lose_majority(&mut cluster).await;

    let move_leader = MoveLeaderRequest { target_id: 1 };
    let moved = client.maintenance.clone().move_leader(move_leader).await;
    refused(moved, Code::FailedPrecondition, "etcdserver: not leader");
    let request = RangeRequest {
        serializable: true,
        ..key_range("k")
    };
    assert_eq!(client.range(request).await.kvs[0].value, b"v");
    let local = MemberListRequest { linearizable: false };
    let members = client.cluster.clone().member_list(local).await.unwrap().into_inner();
    assert_eq!(members.members.len(), 3);
    assert_eq!(client.status().await.errors, [NO_LEADER]);

    let ttl = LeaseTimeToLiveRequest { id: lease, keys: false };
    let list = MemberListRequest { linearizable: true };
    let txn = TxnRequest {
        success: vec![range_op(key_range("k"))],
        ..Default::default()
    };
    let started = Instant::now();
    let (mut lease_client, mut lister) = (client.lease.clone(), client.cluster.clone());
    let (put, grant, get, read_only, ttl, list, renewal, ready) = tokio::join!(
        client.try_put(a_put()),
        client.try_grant(0, 60),
        client.try_range(key_range("k")),
        client.try_txn(txn),
        lease_client.lease_time_to_live(ttl),
        lister.member_list(list),
        async {
            let asks = tokio_stream::iter([LeaseKeepAliveRequest { id: lease }]);
            let mut stream = client.lease.clone().lease_keep_alive(asks).await?.into_inner();
            stream.message().await
        },
        tokio::task::spawn_blocking({
            let endpoint = cluster.nodes[0].endpoint();
            move || http(&endpoint, "GET", "/readyz?verbose")
        })
    );
    // Five seconds and two election time-outs.
    assert!(started.elapsed().as_millis() > 5500, "{:?}", started.elapsed());
    let never = (Code::DeadlineExceeded, "context deadline exceeded".to_owned());
    assert_eq!((failure(put), failure(grant)), (never.clone(), never));
    let timed_out = (Code::Unavailable, TIMED_OUT.to_owned());
    assert_eq!(
        (failure(get), failure(read_only)),
        (timed_out.clone(), timed_out.clone())
    );
    assert_eq!(failure(list), timed_out);
    let no_leader = (Code::Unavailable, NO_LEADER.to_owned());
    assert_eq!((failure(ttl), failure(renewal)), (no_leader.clone(), no_leader));
    let ready = ready.unwrap();
    assert_eq!(ready.status, 503);
    assert!(
        ready
            .body
            .contains("[-]linearizable_read failed: etcdserver: request timed out\n"),
        "{}",
        ready.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_pages_tell_that_there_is_no_leader_and_that_the_process_lives() {
    let mut cluster = Cluster::start(3, &[]).await;
    lose_majority(&mut cluster).await;
    let endpoint = cluster.nodes[0].endpoint();
    let page = |path: &str| {
        let answer = http(&endpoint, "GET", path);
        (answer.status, answer.body)
    };
    let no_leader = "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n";
    assert_eq!(page("/health"), (503, no_leader.to_owned()));
    let healthy = r#"{"health":"true","reason":""}"#;
    assert_eq!(page("/health?serializable=true"), (200, healthy.to_owned()));
    assert_eq!(page("/livez"), (200, "ok\n".to_owned()));
    let (status, body) = page("/readyz?exclude=linearizable_read&verbose");
    let mut lines: Vec<&str> = body.lines().collect();
    lines.sort_unstable();
    let all = [
        "[+]data_corruption ok",
        "[+]non_learner ok",
        "[+]serializable_read ok",
        "ok",
    ];
    assert_eq!((status, lines), (200, all.to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_leads_that_nobody_does_and_how_far_a_majority_is() {
    if is_reference() {
        return skipped("etcore: the texts are its own");
    }
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let said = |at: usize, cluster: &Cluster, text: &str| {
        let process = cluster.nodes[at].process.as_ref().expect("it runs");
        assert!(process.logged(text, PATIENCE), "{text}:\n{}", process.log_tail());
    };
    for at in 0..3 {
        said(at, &cluster, &format!("\"leads\":{}", at == leader));
    }
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    cluster.nodes[others[0]].kill_9();
    cluster.nodes[leader].kill_9();
    said(others[1], &cluster, "the leader is lost");
    said(others[1], &cluster, "\"voters\":3,\"needed\":2,\"linked\":1");
}
