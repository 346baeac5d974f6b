//! Snapshots for members that lag behind the log.

use crate::{
    rig::{Cluster, Node},
    support::{pb::etcdserverpb::*, *},
};

/// Few entries are kept, so that a member that was away for a moment needs a snapshot.
const FEW_KEPT: &[&str] = &["--snapshot-catchup-entries=20"];

async fn write(client: &Client, from: usize, to: usize) {
    for number in from..to {
        client.put(format!("key{:04}", number % 700), vec![b'v'; 1000]).await;
    }
}

/// Writes until the member has cut its log behind all that was written before: two commits later its tree has that.
async fn write_until_cut(node: &Node, from: usize) {
    let (client, enough) = (node.client(), node.commits() + 2.0);
    eventually("the log to be cut", || async {
        write(&client, from, from + 30).await;
        node.commits() >= enough
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_behind_the_log_catches_up_by_a_snapshot_and_keeps_it() {
    let mut cluster = Cluster::start(3, FEW_KEPT).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let client = cluster.nodes[leader].client();
    write(&client, 0, 50).await;
    let lease = client.grant(600).await;
    cluster.nodes[away].kill_9();
    write(&client, 50, 800).await;
    let leased = PutRequest {
        key: b"leased".to_vec(),
        lease,
        ..Default::default()
    };
    client.try_put(leased).await.unwrap();
    client.compact(400).await;
    write_until_cut(&cluster.nodes[leader], 800).await;
    cluster.nodes[away].start(true);
    let process = cluster.nodes[away].process.as_ref().unwrap();
    assert!(
        process.logged("a snapshot is installed", PATIENCE),
        "{}",
        cluster.logs()
    );
    cluster.leader().await;
    cluster.agree().await;
    let back = cluster.nodes[away].client();
    assert_eq!(back.time_to_live(lease).await.keys, [b"leased".to_vec()]);
    back.put("through", "it").await;

    // A crash right after keeps what was installed.
    cluster.nodes[away].kill_9();
    client.put("while", "away").await;
    cluster.nodes[away].start(true);
    let process = cluster.nodes[away].process.as_ref().unwrap();
    assert!(!process.log().contains("a snapshot is installed"), "{}", process.log());
    assert_eq!(back.get("while").await, Some(b"away".to_vec()));
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_whose_cluster_has_cut_its_log_begins_with_a_snapshot() {
    let mut cluster = Cluster::start(1, FEW_KEPT).await;
    let first = cluster.nodes[0].client();
    write(&first, 0, 300).await;
    write_until_cut(&cluster.nodes[0], 300).await;
    let fresh = cluster.prepare(FEW_KEPT);
    let request = MemberAddRequest {
        peer_ur_ls: vec![cluster.nodes[fresh].peer_url()],
        is_learner: false,
    };
    first.cluster.clone().member_add(request).await.unwrap();
    cluster.join(fresh, &[0, fresh]);
    let process = cluster.nodes[fresh].process.as_ref().unwrap();
    assert!(
        process.logged("a snapshot is installed", PATIENCE),
        "{}",
        cluster.logs()
    );
    cluster.leader().await;
    assert_eq!(cluster.nodes[fresh].client().keys("key").await.len(), 330);
    cluster.agree().await;
    cluster.nodes[fresh].kill_9();
    cluster.nodes[fresh].start(true);
    cluster.leader().await;
    cluster.nodes[fresh].client().put("both", "here").await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_on_a_member_that_installs_a_snapshot_misses_nothing() {
    let mut cluster = Cluster::start(3, FEW_KEPT).await;
    let leader = cluster.leader().await;
    let paused = (leader + 1) % 3;
    let client = cluster.nodes[leader].client();
    let first = client.put("watched", "0").await;
    let watcher_client = cluster.nodes[paused].client();
    let wanted = WatchCreateRequest {
        start_revision: first,
        ..create_prefix("watched")
    };
    let mut watcher = Watcher::open(&watcher_client, wanted).await;
    cluster.nodes[paused].process.as_mut().unwrap().signal("STOP");
    // More than the leader sends ahead without an answer, so that the log is cut before the rest.
    for number in 1..1000 {
        client.put("watched", number.to_string()).await;
    }
    write_until_cut(&cluster.nodes[leader], 0).await;
    let process = cluster.nodes[paused].process.as_ref().unwrap();
    process.signal("CONT");
    assert!(
        process.logged("a snapshot is installed", PATIENCE),
        "{}",
        cluster.logs()
    );
    let events = within("all events", watcher.events(1000)).await;
    for (number, event) in events.into_iter().enumerate() {
        assert_eq!(event.kv.unwrap().value, number.to_string().into_bytes());
    }
    cluster.agree().await;
}
