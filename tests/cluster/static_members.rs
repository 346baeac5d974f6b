//! Members that are there from the start.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    rig::Cluster,
    support::{pb::etcdserverpb::*, *},
};

#[tokio::test(flavor = "multi_thread")]
async fn any_member_takes_writes_and_answers_linearizable_reads() {
    let cluster = Cluster::start(3, &[]).await;
    for (at, node) in cluster.nodes.iter().enumerate() {
        let client = node.client();
        client.put(format!("k{at}"), format!("v{at}")).await;
        for other in &cluster.nodes {
            // What one member acknowledged, a linearizable read on any other sees at once.
            let value = other.client().get(&format!("k{at}")).await;
            assert_eq!(value, Some(format!("v{at}").into_bytes()));
        }
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_lists_all_and_reports_its_status() {
    let cluster = Cluster::start(3, &[]).await;
    let leader = cluster.nodes[cluster.leader().await].client().status().await.leader;
    // All have said that they are ready, so nobody is nameless any more.
    for node in &cluster.nodes {
        for member in node.client().members().await {
            assert!(!member.name.is_empty() && !member.client_ur_ls.is_empty(), "{member:?}");
        }
    }
    for node in &cluster.nodes {
        let status = node.client().status().await;
        assert_eq!((status.leader, status.errors.as_slice()), (leader, &[][..]));
        assert!(status.raft_index > 0 && status.raft_term > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_leaders_are_killed_under_load() {
    let mut cluster = Cluster::start(3, &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut writers = Vec::new();
    for writer in 0..6 {
        let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
        let urls: Vec<String> = cluster.nodes.iter().map(|node| node.url()).collect();
        writers.push(tokio::spawn(async move {
            let clients: Vec<Client> = urls.iter().map(|url| Client::connect(url)).collect();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("w{writer}/{number}");
                let request = PutRequest {
                    key: key.clone().into(),
                    value: b"value".to_vec(),
                    ..Default::default()
                };
                let put = clients[number % clients.len()].try_put(request);
                match tokio::time::timeout(Duration::from_secs(2), put).await {
                    Ok(Ok(_)) => acknowledged.lock().unwrap().push(key),
                    // A refused or cut call may have happened or not.
                    _ => pause_ms(20).await,
                }
            }
        }));
    }
    for _ in 0..scaled(3) {
        pause_ms(700).await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill_9();
        let next = cluster.leader().await;
        assert_ne!(next, leader);
        pause_ms(300).await;
        cluster.nodes[leader].start(true);
    }
    pause_ms(500).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("writers do not panic");
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(
        acknowledged.len() > 100,
        "only {} puts were acknowledged",
        acknowledged.len()
    );
    let kept: std::collections::HashSet<String> = cluster.nodes[0].client().keys("w").await.into_iter().collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|key| !kept.contains(*key)).collect();
    assert!(lost.is_empty(), "{} acknowledged keys are lost: {lost:?}", lost.len());
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_acknowledged_and_serializable_reads_go_on() {
    let mut cluster = Cluster::start(3, &["--election-timeout=300"]).await;
    let client = cluster.nodes[0].client();
    client.put("k", "v").await;
    cluster.nodes[1].kill_9();
    cluster.nodes[2].kill_9();
    let put = client.try_put(PutRequest {
        key: b"k".to_vec(),
        value: b"w".to_vec(),
        ..Default::default()
    });
    assert!(put.await.is_err());
    let status = client.status().await;
    assert_eq!(
        (status.leader, status.errors),
        (0, vec!["etcdserver: no leader".to_owned()])
    );
    let request = RangeRequest {
        serializable: true,
        ..key_range("k")
    };
    assert_eq!(client.range(request).await.kvs[0].value, b"v");
    cluster.nodes[1].start(true);
    cluster.leader().await;
    client.put("k", "x").await;
    assert_eq!(cluster.nodes[1].client().get("k").await, Some(b"x".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_first() {
    let mut cluster = Cluster::start(3, &["--election-timeout=5000"]).await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[(leader + 1) % 3].client().status().await.raft_term;
    let started = std::time::Instant::now();
    cluster.nodes[leader].stop();
    cluster.leader().await;
    // Without the hand-over the others would wait out their election time-out.
    assert!(started.elapsed() < Duration::from_millis(4500), "{}", cluster.logs());
    let now = cluster.nodes[(leader + 1) % 3].client().status().await.raft_term;
    assert_eq!(now, term + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_a_member_that_still_dials_its_new_leader_waits_for_the_link() {
    let mut cluster = Cluster::start(3, &[]).await;
    for round in 0..scaled(3) {
        let leader = cluster.leader().await;
        let (heir, other) = ((leader + 1) % 3, (leader + 2) % 3);
        // The others notice that it is gone, and dial it again after a pause.
        cluster.nodes[heir].kill_9();
        cluster.nodes[heir].start(true);
        let target_id = cluster.nodes[heir].id().await;
        let client = cluster.nodes[other].client();
        let mover = cluster.nodes[leader].client();
        eventually("leadership to move", || async {
            let request = MoveLeaderRequest { target_id };
            let _ = mover.maintenance.clone().move_leader(request).await;
            client.status().await.leader == target_id
        })
        .await;
        client.put("k", round.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_renewed_and_looked_up_on_any_member() {
    let cluster = Cluster::start(3, &[]).await;
    let lease = cluster.nodes[0].client().grant(60).await;
    for (at, node) in cluster.nodes.iter().enumerate() {
        let client = node.client();
        let request = PutRequest {
            key: format!("leased{at}").into(),
            lease,
            ..Default::default()
        };
        client.try_put(request).await.unwrap();
        let info = client.time_to_live(lease).await;
        assert!(
            info.ttl > 50 && info.granted_ttl == 60 && info.keys.len() == at + 1,
            "{info:?}"
        );
        let requests = tokio_stream::iter([LeaseKeepAliveRequest { id: lease }, LeaseKeepAliveRequest { id: 77 }]);
        let mut answers = client
            .lease
            .clone()
            .lease_keep_alive(requests)
            .await
            .unwrap()
            .into_inner();
        let mut ttls = vec![
            answers.message().await.unwrap().unwrap().ttl,
            answers.message().await.unwrap().unwrap().ttl,
        ];
        ttls.sort_unstable();
        assert_eq!(ttls, [0, 60]);
        assert_eq!(client.time_to_live(77).await.ttl, -1);
    }
    cluster.nodes[2].client().try_revoke(lease).await.unwrap();
    assert!(cluster.nodes[1].client().keys("leased").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_cluster_is_refused_with_a_clear_line() {
    if is_reference() {
        return skipped("etcore's protocol between members");
    }
    let mut stranger = Cluster::start(1, &[]).await;
    let mut hello = Vec::new();
    let handshake = net::peer::Handshake {
        version: 1,
        min_version: 1,
        cluster_id: 7,
        from: 8,
        to: 9,
        ..Default::default()
    };
    net::peer::Encoder::default().handshake(&handshake, &mut hello);
    let address = stranger.nodes[0].peer_url().replace("http://", "");
    let reply = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(&hello).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        reply
    });
    let mut decoder = net::peer::Decoder::new(net::peer::HANDSHAKE_BYTES_MAX);
    decoder.feed(&reply.await.unwrap());
    let Some(net::peer::Frame::Handshake(reply)) = decoder.take_frame().unwrap() else {
        panic!("a handshake")
    };
    assert_eq!(reply.verdict, net::peer::Verdict::WrongCluster);
    let process = stranger.nodes[0].process.as_mut().unwrap();
    assert!(process.logged("a member that dialled us is refused", PATIENCE));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_peer_port_ends_its_connection_and_nothing_else() {
    use std::io::{Read, Write};
    let mut cluster = Cluster::start(1, &[]).await;
    let address = cluster.nodes[0].peer_url().replace("http://", "");
    let junk = [&net::peer::MAGIC[..], &[0xff; 64]].concat();
    let gone = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&junk).unwrap();
        let mut said = Vec::new();
        // Closed, in order or not; an etcd says in HTTP that it did not understand.
        let timed_out = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        let is_open = stream.read_to_end(&mut said).is_err_and(timed_out);
        !is_open && (said.is_empty() || is_reference())
    });
    assert!(gone.await.unwrap());
    if !is_reference() {
        let process = cluster.nodes[0].process.as_mut().unwrap();
        assert!(
            process.logged("begins with no handshake", PATIENCE),
            "{}",
            process.log_tail()
        );
    }
    cluster.nodes[0].client().put("still", "here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_with_different_tokens_refuse_each_other_and_say_so() {
    let mut cluster = Cluster::unborn(2, &[]);
    let list = cluster.list();
    cluster.name_members(&list);
    for (at, node) in cluster.nodes.iter_mut().enumerate() {
        node.flags.push(format!("--initial-cluster-token=token{at}"));
        node.start(false);
    }
    let said = match is_reference() {
        true => "cluster ID mismatch",
        false => "it belongs to another cluster; check",
    };
    for node in &cluster.nodes {
        let process = node.process.as_ref().unwrap();
        assert!(process.logged(said, PATIENCE), "{}", process.log_tail());
    }
}
