//! What a peer port bears from those who are no members.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use net::peer::{Decoder, Encoder, Frame, Handshake, PROTOCOL_MIN_VERSION, PROTOCOL_VERSION, Purpose, Verdict};

use crate::{
    rig::{Cluster, Node},
    support::*,
};

/// Connections that may wait to say who they are.
const GUESTS_MAX: usize = 64;

/// Connections of those that are in nobody's member list.
const STRANGERS_MAX: usize = 32;

/// Connects to a member and shakes hands as the member `from` would.
pub fn introduce(to: &Node, cluster_id: u64, from: u64, to_id: u64, purpose: Purpose) -> TcpStream {
    let mut stream = TcpStream::connect(to.peer_endpoint()).expect("the port is open");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket");
    let hello = Handshake {
        version: PROTOCOL_VERSION,
        min_version: PROTOCOL_MIN_VERSION,
        cluster_id,
        from,
        to: to_id,
        entry_kinds: etcore::member::ENTRY_KINDS,
        etcd_version: "3.6.14".into(),
        purpose,
        verdict: Verdict::Accepted,
    };
    let mut out = Vec::new();
    Encoder::default().handshake(&hello, &mut out);
    stream.write_all(&out).expect("it takes bytes");
    let (mut decoder, mut buf) = (Decoder::new(4096), [0; 1024]);
    loop {
        match decoder.take_frame().expect("a frame") {
            Some(Frame::Handshake(theirs)) => {
                assert_eq!(theirs.verdict, Verdict::Accepted);
                return stream;
            }
            Some(other) => panic!("it answered {other:?}"),
            None => {
                let read = stream.read(&mut buf).expect("an answer");
                assert!(read > 0, "it closed the connection");
                decoder.feed(&buf[..read]);
            }
        }
    }
}

/// Whether the other side has ended the connection, which nobody writes to.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    match stream.read(&mut [0; 16]) {
        Ok(0) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_silent_connections_to_the_peer_port_do_not_keep_members_out() {
    const SILENT: usize = 300;
    if is_reference() {
        return skipped("etcore: others bear silent connections without a bound");
    }
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let back = (leader + 1) % 3;
    cluster.nodes[back].kill_9();
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut stream = TcpStream::connect(cluster.nodes[leader].peer_endpoint()).expect("the port is open");
        // Some begin as a member would and stop there.
        if number % 3 == 0 {
            stream.write_all(&net::peer::MAGIC).expect("it takes bytes");
        }
        silent.push(stream);
    }
    eventually("the longest silent ones are closed", || {
        let closed = silent.iter_mut().map(is_closed).filter(|closed| *closed).count();
        async move { closed >= SILENT - GUESTS_MAX }
    })
    .await;
    assert!(
        !silent.iter_mut().rev().take(3).all(is_closed),
        "the newest are still borne"
    );
    let process = cluster.nodes[leader].process.as_ref().expect("it runs");
    assert!(
        process.logged("connections to the peer port were closed", PATIENCE),
        "{}",
        process.log_tail()
    );
    cluster.nodes[leader].client().put("while", "they wait").await;
    cluster.nodes[back].start(true);
    cluster.leader().await;
    assert_eq!(
        cluster.nodes[back].client().get("while").await,
        Some(b"they wait".to_vec())
    );
    let version = http(&cluster.nodes[leader].peer_endpoint(), "GET", "/version");
    assert_eq!(version.status, 200, "plain requests are let in, too");
    eventually("those that never say anything are closed", || {
        let all = silent.iter_mut().all(is_closed);
        async move { all }
    })
    .await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_connection_may_take_its_time_between_two_requests() {
    let cluster = Cluster::start(1, &[]).await;
    let mut stream = TcpStream::connect(cluster.nodes[0].peer_endpoint()).expect("the port is open");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket");
    for _ in 0..2 {
        stream
            .write_all(b"GET /raft/probing HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("it takes bytes");
        let mut answer = vec![0; 1024];
        let read = stream.read(&mut answer).expect("an answer");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"), "{:?}", &answer[..read]);
        pause_ms(200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_connections_in_one_members_name_only_the_newest_is_kept() {
    let cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let (node, other) = (&cluster.nodes[leader], &cluster.nodes[(leader + 1) % 3]);
    let header = node.client().status().await.header.expect("a header");
    let other_id = other.id().await;
    let open = || introduce(node, header.cluster_id, other_id, header.member_id, Purpose::Messages);
    let mut connections: Vec<TcpStream> = (0..50).map(|_| open()).collect();
    eventually("all but the newest are closed", || {
        let closed = connections[..49].iter_mut().all(is_closed);
        async move { closed }
    })
    .await;
    let process = node.process.as_ref().expect("it runs");
    assert!(
        process.logged("a newer connection takes the place", PATIENCE),
        "{}",
        process.log_tail()
    );
    // The member whose name was used takes its place back by itself.
    eventually("the member has dialled again", || {
        let closed = is_closed(&mut connections[49]);
        async move { closed }
    })
    .await;
    other.client().put("all", "is well").await;
    cluster.leader().await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_peers_that_are_in_no_member_list_a_few_are_borne() {
    const STRANGERS: usize = 100;
    let cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[leader];
    let header = node.client().status().await.header.expect("a header");
    let open = |id| introduce(node, header.cluster_id, id, header.member_id, Purpose::Messages);
    let mut connections: Vec<TcpStream> = (1..=STRANGERS as u64).map(open).collect();
    eventually("the longest connected are closed", || {
        let closed = connections[..STRANGERS - STRANGERS_MAX].iter_mut().all(is_closed);
        async move { closed }
    })
    .await;
    let closed = connections.iter_mut().map(is_closed).filter(|closed| *closed).count();
    assert_eq!(closed, STRANGERS - STRANGERS_MAX);
    let process = node.process.as_ref().expect("it runs");
    assert!(
        process.logged("not in the member list", PATIENCE),
        "{}",
        process.log_tail()
    );
    assert_eq!(cluster.leader().await, leader, "the members do not mind");
    cluster.nodes[(leader + 1) % 3].client().put("all", "is well").await;
    cluster.agree().await;
}
