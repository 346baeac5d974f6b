//! What a peer port bears from those who are no members.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::{rig::Cluster, support::*};

/// Connections that may wait to say who they are.
const GUESTS_MAX: usize = 64;

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
