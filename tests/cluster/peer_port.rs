//! What a peer port bears from those who are no members.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use net::peer::{Decoder, Encoder, Frame, Handshake, PROTOCOL_MIN_VERSION, PROTOCOL_VERSION, Purpose, Verdict};

use crate::{
    rig::{Cluster, Node},
    support::{pb::etcdserverpb::MemberAddRequest, *},
};

/// Connections that may wait to say who they are.
const GUESTS_MAX: usize = 64;

/// Connections of those that are in nobody's member list.
const STRANGERS_MAX: usize = 32;

/// Connects to a member and shakes hands as the member `from` would.
pub fn introduce(to: &Node, cluster_id: u64, from: u64, to_id: u64, purpose: Purpose) -> TcpStream {
    let mut stream = TcpStream::connect(to.peer_endpoint()).expect("the port is open");
    greet(&mut stream, cluster_id, from, to_id, purpose);
    let Frame::Handshake(theirs) = next_frame(&mut stream) else {
        panic!("it answers with something else");
    };
    assert_eq!(theirs.verdict, Verdict::Accepted);
    stream
}

/// Says who is there.
fn greet(stream: &mut TcpStream, cluster_id: u64, from: u64, to: u64, purpose: Purpose) {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket");
    let hello = Handshake {
        version: PROTOCOL_VERSION,
        min_version: PROTOCOL_MIN_VERSION,
        cluster_id,
        from,
        to,
        entry_kinds: etcore::member::ENTRY_KINDS,
        etcd_version: "3.6.14".into(),
        purpose,
        verdict: Verdict::Accepted,
    };
    let mut out = Vec::new();
    Encoder::default().handshake(&hello, &mut out);
    stream.write_all(&out).expect("it takes bytes");
}

/// Reads one frame, and not a byte behind it.
fn next_frame(stream: &mut TcpStream) -> Frame {
    let mut decoder = Decoder::new(1 << 20);
    loop {
        if let Some(frame) = decoder.take_frame().expect("a frame") {
            return frame;
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a frame");
        decoder.feed(&byte);
    }
}

/// Shows that this side lives, if the other one still listens.
fn beat(stream: &mut TcpStream) {
    let mut out = Vec::new();
    Encoder::default().beat(&mut out);
    let _ = stream.write_all(&out);
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
    if is_reference() {
        return skipped("etcore's protocol between members");
    }
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
    if is_reference() {
        return skipped("etcore's protocol between members");
    }
    const STRANGERS: usize = 100;
    let cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[leader];
    let header = node.client().status().await.header.expect("a header");
    let open = |id| introduce(node, header.cluster_id, id, header.member_id, Purpose::Messages);
    let mut connections: Vec<TcpStream> = (1..=STRANGERS as u64).map(open).collect();
    eventually("the longest connected are closed", || {
        connections.iter_mut().for_each(beat);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_which_nothing_is_heard_is_given_up_by_both_sides() {
    if is_reference() {
        return skipped("etcore's protocol between members");
    }
    let mut cluster = Cluster::start(1, &[]).await;
    let node = &mut cluster.nodes[0];
    let header = node.client().status().await.header.expect("a header");
    let (cluster_id, id) = (header.cluster_id, header.member_id);

    // Dialled: it answers each sign of life, and ends what falls silent.
    let mut stream = introduce(node, cluster_id, 7, id, Purpose::Messages);
    for _ in 0..3 {
        beat(&mut stream);
        assert_eq!(next_frame(&mut stream), Frame::Beat);
    }
    assert_eq!(stream.read(&mut [0; 16]).expect("it ends within 20 s"), 0);

    // Dialling: a peer shakes hands and then says nothing, as behind a proxy that has lost its other side.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let request = MemberAddRequest {
        peer_ur_ls: vec![url],
        is_learner: true,
    };
    let added = node
        .client()
        .cluster
        .clone()
        .member_add(request)
        .await
        .expect("it is added");
    let silent = added.into_inner().member.expect("a member").id;
    // Measurements of the round trip come in between, by HTTP.
    let accept = || {
        let messages = |stream: &TcpStream| {
            let mut begin = [0; net::peer::MAGIC.len()];
            stream.peek(&mut begin).is_ok_and(|_| begin == net::peer::MAGIC)
        };
        let mut dialled = listener.incoming().map(|stream| stream.expect("it dials"));
        let mut stream = dialled.find(messages).expect("it dials");
        let hello = next_frame(&mut stream);
        assert!(matches!(hello, Frame::Handshake(_)), "{hello:?}");
        greet(&mut stream, cluster_id, silent, id, Purpose::Messages);
        stream
    };
    tokio::task::block_in_place(|| {
        let mut first = accept();
        // It shows that it lives, between the messages of consensus.
        while next_frame(&mut first) != Frame::Beat {}
        // The next one comes although this one was not ended here.
        let _second = accept();
    });
    let process = node.process.as_ref().expect("it runs");
    assert!(
        process.logged("nothing was heard of it for 5 s", PATIENCE),
        "{}",
        process.log_tail()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_etcds_members_ask_each_other_over_http_has_etcds_answers() {
    let cluster = Cluster::start(1, &[]).await;
    let (peer, node) = (cluster.nodes[0].peer_endpoint(), &cluster.nodes[0]);
    let said = |method: &str, path: &str, body: &str| {
        let answer = http_with(&peer, method, path, body);
        (answer.status, answer.body.trim_end().to_owned())
    };
    let id = node.id().await;
    let not_learner = "membership: can only promote a learner member".to_owned();
    assert_eq!(said("POST", &format!("/members/promote/{id}"), ""), (412, not_learner));
    let unknown = "membership: ID not found".to_owned();
    assert_eq!(said("POST", "/members/promote/7", ""), (404, unknown));
    let nobody = "member zz not found in cluster".to_owned();
    assert_eq!(said("POST", "/members/promote/zz", ""), (404, nobody));
    assert_eq!(said("GET", "/members/promote/7", "").0, 405);

    // Protobuf of small numbers is text: field 1 is 77, and TTL 60 is '<'.
    let (seventy_seven, granted) = ("\x08\x4d", node.client().try_grant(77, 60).await);
    granted.expect("it is granted");
    assert_eq!(said("POST", "/leases", seventy_seven), (200, "\x10\x4d\x18<".into()));
    let info = said("POST", "/leases/internal", &format!("\x0a\x02{seventy_seven}"));
    assert!(
        info.0 == 200 && info.1.contains("\x10\x4d\x18") && info.1.ends_with("\x20<"),
        "{info:?}"
    );
    let none = (404, "lease not found".to_owned());
    assert_eq!(said("POST", "/leases", "\x08\x05"), none);
    assert_eq!(said("POST", "/leases/internal", "\x0a\x02\x08\x05"), none);
    assert_eq!(said("POST", "/leases", "\x08").0, 400);
    assert_eq!(said("GET", "/leases", "").0, 405);

    let old = (412, "incompatible version".to_owned());
    assert_eq!(said("POST", "/raft", ""), old);
    assert_eq!(said("POST", "/raft/snapshot", ""), old);
    assert_eq!(said("GET", "/raft/stream/msgapp/7", ""), old);
    assert_eq!(said("GET", "/raft", "").0, 405);
    assert_eq!(said("GET", "/raft/nothing", "").0, 404);
    if !is_reference() {
        let stranger = "X-Server-Version: 3.6.14\r\nX-Etcd-Cluster-ID: 1\r\n";
        let answer = get_with_body(&peer, "/raft/stream/message/7", stranger, "");
        assert_eq!((answer.status, answer.body.trim_end()), (412, "cluster ID mismatch"));
    }
    let probe = said("GET", "/raft/probing", "");
    assert!(
        probe.0 == 200 && probe.1.starts_with(r#"{"OK":true,"Now":"2"#),
        "{probe:?}"
    );
}
