//! Many at once, and rude signals: idle connections by the thousand, streams by the thousand, pauses and stops under
//! load. What was acknowledged stays, and what was promised to a watcher comes, once.

use crate::support::*;
use std::{fs, io::Write, net::TcpStream, process::Command};
use tokio::task::JoinHandle;

/// What an HTTP/2 client sends before it falls silent.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn resident_bytes(server: &mut Server) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", server.process().id())).expect("the server is alive");
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a resident size") * 4096
}

/// Connections that this process may hold open beside its other files, once its limit is raised as far as it goes; its
/// children inherit that.
fn connections_max() -> u64 {
    let pid = format!("--pid={}", std::process::id());
    let limit = |column: usize| {
        let limits = fs::read_to_string("/proc/self/limits").expect("a process has limits");
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        let number = line.and_then(|line| line.split_whitespace().nth(column)?.parse::<u64>().ok());
        number.unwrap_or(1 << 20)
    };
    // Without `prlimit` the limit stays as it is.
    let _ = Command::new("prlimit")
        .args([pid, format!("--nofile={}", limit(4))])
        .status();
    limit(3).saturating_sub(500)
}

#[tokio::test]
async fn idle_connections_cost_little_and_nobody_notices_them() {
    let most = connections_max();
    let (mut server, client) = fresh().await;
    client.put("k", "v").await;
    let count = scaled(5000).min(most);
    let before = resident_bytes(&mut server);
    let held: Vec<_> = (0..count)
        .map(|i| {
            let mut stream = TcpStream::connect(server.endpoint()).unwrap_or_else(|error| panic!("{i}: {error}"));
            stream.write_all(OPENING).expect("the server takes the opening");
            stream
        })
        .collect();
    for _ in 0..20 {
        client.put("k", "v").await;
    }
    let each = resident_bytes(&mut server).saturating_sub(before) / count;
    println!("{count} idle connections, {each} bytes of memory each");
    assert!(
        server.is_reference() || each < 32 << 10,
        "{each} bytes for an idle connection"
    );
    drop(held);
    assert!(client.get("k").await.is_some());
}

#[tokio::test]
async fn every_one_of_many_streams_over_many_connections_gets_its_event() {
    let (server, client) = fresh().await;
    let (connections, streams) = (scaled(10).min(100), 1000);
    let mut watchers = Vec::new();
    for _ in 0..connections {
        let client = server.client();
        let opening = (0..streams).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { Watcher::open(&client, create("k")).await })
        });
        for watcher in opening.collect::<Vec<_>>() {
            watchers.push(watcher.await.expect("the stream opens"));
        }
    }
    let revision = client.put("k", "v").await;
    for watcher in &mut watchers {
        assert_eq!(
            watcher.next().await.events[0].kv.as_ref().unwrap().mod_revision,
            revision
        );
    }
    println!("{} streams over {connections} connections", watchers.len());
}

/// Clients that put keys of their own until the server is gone; each says how many were acknowledged.
fn writers(server: &Server) -> Vec<JoinHandle<u64>> {
    (0..8)
        .map(|writer| {
            let client = server.client();
            tokio::spawn(async move {
                let mut count = 0;
                while client
                    .try_put(put_request(format!("k{writer}/{count:06}"), "v"))
                    .await
                    .is_ok()
                {
                    count += 1;
                }
                count
            })
        })
        .collect()
}

/// Waits for the writers, which must be done before the server is back.
async fn finish(writers: Vec<JoinHandle<u64>>) -> Vec<u64> {
    let mut counts = Vec::new();
    for writer in writers {
        counts.push(
            within("the end of a writer", writer)
                .await
                .expect("writers do not panic"),
        );
    }
    counts
}

async fn check_writers(client: &Client, counts: Vec<u64>) {
    for (writer, acknowledged) in counts.into_iter().enumerate() {
        let stored = client.range(prefix_range(&format!("k{writer}/"))).await.count;
        assert!(
            stored as u64 >= acknowledged,
            "writer {writer}: {stored} of {acknowledged} are there"
        );
    }
}

#[tokio::test]
async fn pauses_under_load_lose_and_repeat_nothing() {
    let (mut server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create_prefix("k")).await;
    let writers = writers(&server);
    for _ in 0..3 {
        pause_ms(200).await;
        server.process().signal("STOP");
        pause_ms(700).await;
        server.process().signal("CONT");
    }
    pause_ms(200).await;
    let newest = client.revision().await;
    let mut next = 2;
    while next <= newest {
        for event in watcher.next().await.events {
            assert_eq!(
                event.kv.expect("an event has a pair").mod_revision,
                next,
                "each once, in order"
            );
            next += 1;
        }
    }
    server.kill_9();
    let writers = finish(writers).await;
    server.start_again();
    check_writers(&server.client(), writers).await;
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once_and_loses_nothing() {
    let (mut server, _) = fresh().await;
    for round in 0..scaled(3) {
        let writers = writers(&server);
        pause_ms(200).await;
        server.process().signal("TERM");
        pause_ms(round * 2).await;
        server.process().signal("TERM");
        let ended = server.process().wait(PATIENCE);
        assert!(
            ended.is_some(),
            "two signals end it; its log ends:\n{}",
            server.process().log_tail()
        );
        server.kill_9();
        let writers = finish(writers).await;
        server.start_again();
        check_writers(&server.client(), writers).await;
    }
}
