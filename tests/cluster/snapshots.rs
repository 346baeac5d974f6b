//! Snapshots for members that lag behind the log.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Instant,
};

use net::peer::{Encoder, Purpose};
use raft::{Message, MessageType, Snapshot, SnapshotMetadata};

use super::peer_port::introduce;
use crate::{
    rig::{Cluster, Node},
    support::{pb::etcdserverpb::*, *},
};

/// Few entries are kept, so that a member that was away for a moment needs a snapshot.
const FEW_KEPT: &[&str] = &["--experimental-snapshot-catchup-entries=20", "--snapshot-count=100"];
/// A foreign server cuts its log after so many entries, and this many more for luck.
const CUT_BY_COUNT: usize = 250;

async fn write(client: &Client, from: usize, to: usize) {
    for number in from..to {
        client.put(format!("key{:04}", number % 700), vec![b'v'; 1000]).await;
    }
}

/// Writes until the member has cut its log behind all that was written before: two commits later its tree has that.
async fn write_until_cut(node: &Node, from: usize) {
    let (client, enough) = (node.client(), node.commits() + 2.0);
    let (mut written, at_least) = (0, if is_reference() { CUT_BY_COUNT } else { 0 });
    while written < at_least || node.commits() < enough {
        write(&client, from, from + 30).await;
        written += 30;
        assert!(written < 100_000, "the tree is never committed");
    }
}

/// Snapshots that it was sent since it started.
fn received(node: &Node) -> f64 {
    node.metric_sum("etcd_network_snapshot_receive_success")
}

async fn receives_a_snapshot(node: &Node) {
    eventually("a snapshot", || async { received(node) >= 1.0 }).await;
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
    receives_a_snapshot(&cluster.nodes[away]).await;
    cluster.leader().await;
    cluster.agree().await;
    let back = cluster.nodes[away].client();
    assert_eq!(back.time_to_live(lease).await.keys, [b"leased".to_vec()]);
    back.put("through", "it").await;

    // A crash right after keeps what was installed.
    cluster.nodes[away].kill_9();
    client.put("while", "away").await;
    cluster.nodes[away].start(true);
    assert_eq!(received(&cluster.nodes[away]), 0.0, "it needs no other");
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
    receives_a_snapshot(&cluster.nodes[fresh]).await;
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
    receives_a_snapshot(&cluster.nodes[paused]).await;
    let events = within("all events", watcher.events(1000)).await;
    for (number, event) in events.into_iter().enumerate() {
        assert_eq!(event.kv.unwrap().value, number.to_string().into_bytes());
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_snapshot_at_a_limited_rate_goes_in_pieces_while_puts_go_on() {
    const VALUE_BYTES: usize = 256 << 10;
    const VALUES: usize = 256;
    const RATE: usize = 16 << 20;
    if is_reference() {
        return skipped("--snapshot-send-rate, which is etcore's");
    }
    let rate = format!("--snapshot-send-rate={RATE}");
    let mut cluster = Cluster::start(3, &[FEW_KEPT[0], FEW_KEPT[1], &rate]).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.nodes[away].kill_9();
    let client = cluster.nodes[leader].client();
    for number in 0..VALUES {
        client
            .put(format!("large{number:03}"), vec![number as u8; VALUE_BYTES])
            .await;
    }
    write_until_cut(&cluster.nodes[leader], 0).await;
    cluster.nodes[away].start(false);
    let sender = cluster.nodes[leader].process.as_ref().unwrap();
    let receiver = cluster.nodes[away].process.as_ref().unwrap();
    assert!(sender.logged("sending a snapshot", PATIENCE), "{}", cluster.logs());
    let begun = Instant::now();
    let mut puts = 0;
    while !receiver.log().contains("a snapshot is received whole") {
        client.put("small", puts.to_string()).await;
        puts += 1;
        assert!(begun.elapsed() < 3 * PATIENCE, "{}", cluster.logs());
        pause_ms(5).await;
    }
    assert!(puts > 20, "{puts} puts beside the transfer");
    assert!(
        receiver.logged("a snapshot is installed", PATIENCE),
        "{}",
        cluster.logs()
    );
    for process in [sender, receiver] {
        assert!(process.log().contains("\"percent\""), "{}", process.log_tail());
    }
    cluster.nodes[away].wait_ready();
    cluster.leader().await;
    cluster.agree().await;

    // Of so many bytes no more than 16 MiB and a piece ever waited for a sync.
    let bytes = VALUES * VALUE_BYTES;
    let syncs = cluster.nodes[away].metric_sum("etcd_snap_db_fsync_duration_seconds_count");
    assert!(syncs >= (bytes / (18 << 20)) as f64, "{syncs} syncs");
    for (at, name) in [
        (away, "etcd_snap_db_save_total_duration_seconds_count"),
        (away, "etcd_network_snapshot_receive_success"),
        (leader, "etcd_network_snapshot_send_success"),
    ] {
        assert!(cluster.nodes[at].metric_sum(name) >= 1.0, "{name}");
    }
    assert!(cluster.nodes[leader].metric_sum("etcd_network_peer_sent_bytes_total") > bytes as f64);
    let sent = cluster.nodes[leader].metric_sum("etcd_network_snapshot_send_success");
    assert_eq!(sent, 1.0, "what was put beside it is still in the log");
}

/// Begins to send a snapshot as the member `from` would.
fn begin_transfer(to: &Node, cluster_id: u64, from: u64, to_id: u64) -> TcpStream {
    let mut stream = introduce(to, cluster_id, from, to_id, Purpose::Snapshot);
    let message = Message {
        msg_type: MessageType::MsgSnap,
        from,
        to: to_id,
        term: 1,
        snapshot: Some(Snapshot {
            metadata: SnapshotMetadata {
                index: 1 << 40,
                term: 1,
                ..SnapshotMetadata::default()
            },
            ..Snapshot::default()
        }),
        ..Message::default()
    };
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.message(&message, &mut out);
    encoder.chunk(&[0; 8 + (64 << 10)], &mut out);
    // One that is refused is closed, maybe before this.
    let _ = stream.write_all(&out);
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_cut_leaves_nothing_behind_and_the_next_one_is_clean() {
    if is_reference() {
        return skipped("etcore's protocol between members");
    }
    let mut cluster = Cluster::start(3, FEW_KEPT).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    let client = cluster.nodes[leader].client();
    let header = client.status().await.header.expect("a header");
    let behind_id = cluster.nodes[behind].id().await;
    let incoming = cluster.nodes[behind].data_dir.join("tree.incoming");
    let len = || std::fs::metadata(&incoming).map_or(0, |file| file.len());

    for round in 1..=2 {
        let node = &cluster.nodes[behind];
        let stream = begin_transfer(node, header.cluster_id, header.member_id, behind_id);
        eventually("a piece is written", || async { len() > 0 }).await;
        if round == 2 {
            // While one is under way another is refused, and does not disturb it.
            let mut second = begin_transfer(node, header.cluster_id, header.member_id, behind_id);
            assert_eq!(second.read(&mut [0; 64]).unwrap_or(0), 0);
            assert!(len() > 0, "the first one goes on");
        }
        drop(stream);
        eventually("what came is thrown away", || async { !incoming.exists() }).await;
        let failures = node.metric_sum("etcd_network_snapshot_receive_failures");
        assert_eq!(failures, f64::from(round), "each cut is counted");
        assert_eq!(node.metric_sum("etcd_network_snapshot_receive_inflights_total"), 0.0);
    }
    // One that is killed in the middle takes what it has away at its next start.
    let stream = begin_transfer(&cluster.nodes[behind], header.cluster_id, header.member_id, behind_id);
    eventually("a piece is written", || async { len() > 0 }).await;
    cluster.nodes[behind].kill_9();
    drop(stream);
    assert!(incoming.exists());
    write(&client, 0, 300).await;
    write_until_cut(&cluster.nodes[leader], 300).await;
    cluster.nodes[behind].start(true);
    let process = cluster.nodes[behind].process.as_ref().unwrap();
    assert!(
        process.logged("a snapshot is installed", PATIENCE),
        "{}",
        cluster.logs()
    );
    assert!(!incoming.exists());
    cluster.leader().await;
    cluster.agree().await;
}
