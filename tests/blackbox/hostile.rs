//! Garbage, lies and floods at the client port: the server survives and goes on answering correctly.

use crate::support::*;
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block without compression: literals that enter no table.
fn header_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        assert!(
            name.len() < 127 && value.len() < 127,
            "one byte of length is enough here"
        );
        block.push(0);
        block.push(name.len() as u8);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

fn grpc_headers(path: &str) -> Vec<u8> {
    header_block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ])
}

fn grpc_message(body: &[u8]) -> Vec<u8> {
    [&[0], (body.len() as u32).to_be_bytes().as_slice(), body].concat()
}

fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A whole and valid call.
fn call(path: &str, message: &[u8]) -> Vec<u8> {
    let mut stream = opening();
    stream.extend(frame(HEADERS, END_HEADERS, 1, &grpc_headers(path)));
    stream.extend(frame(DATA, END_STREAM, 1, message));
    stream
}

const PATHS: [&str; 6] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Cluster/MemberList",
];

/// One hostile stream of bytes; none of them can write the key `canary`.
fn hostile(rng: &mut Rng) -> Vec<u8> {
    let length = rng.below(300) as usize;
    match rng.below(8) {
        0 => rng.bytes(length),
        1 => [PREFACE, &rng.bytes(length)].concat(),
        2 => random_frames(rng),
        3 => mutated(rng, call("/etcdserverpb.KV/Range", &grpc_message(b"\x0a\x07hostile"))),
        4 => {
            // The length of the message lies.
            let claimed = (rng.bits() as u32 >> rng.below(32)).to_be_bytes();
            let message = [&[rng.below(3) as u8][..], &claimed, &rng.bytes(length)].concat();
            call(rng.pick::<&str>(&PATHS), &message)
        }
        5 => call(rng.pick::<&str>(&PATHS), &grpc_message(&rng.bytes(length))),
        6 => mutated(
            rng,
            b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        ),
        _ => {
            let mut stream = call(rng.pick::<&str>(&PATHS), &grpc_message(&rng.bytes(length)));
            stream.truncate(rng.below(stream.len() as u64) as usize);
            stream
        }
    }
}

fn random_frames(rng: &mut Rng) -> Vec<u8> {
    let mut stream = opening();
    for _ in 0..rng.below(20) {
        let length = rng.below(40) as usize;
        let (kind, flags, id) = (rng.below(12) as u8, rng.bits() as u8, rng.below(6) as u32);
        stream.extend(frame(kind, flags, id, &rng.bytes(length)));
    }
    stream
}

fn mutated(rng: &mut Rng, mut stream: Vec<u8>) -> Vec<u8> {
    for _ in 0..=rng.below(4) {
        let at = rng.below(stream.len() as u64) as usize;
        match rng.below(3) {
            0 => stream[at] ^= 1 << rng.below(8),
            1 => stream[at] = rng.bits() as u8,
            _ => drop(stream.remove(at)),
        }
    }
    stream
}

/// Sends one stream; reads what comes back now and then, else hangs up at once.
fn send(endpoint: &str, bytes: &[u8], linger: bool) {
    let mut stream = TcpStream::connect(endpoint).expect("the server accepts connections");
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a timeout can be set");
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout can be set");
    // The server may hang up at any byte.
    let _ = stream.write_all(bytes);
    if linger {
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = [0; 4096];
        while stream.read(&mut answer).is_ok_and(|count| count > 0) {}
    }
}

async fn is_sound(server: &mut Server, client: &Client) {
    assert_eq!(client.get("canary").await.as_deref(), Some(b"alive".as_slice()));
    let fresh = server.client();
    fresh.put("after", "v").await;
    assert_eq!(fresh.get("after").await.as_deref(), Some(b"v".as_slice()));
    assert_eq!(http(&server.endpoint(), "GET", "/health").status, 200);
    let fds = format!("/proc/{}/fd", server.process().id());
    eventually("hostile connections are closed", || async {
        fs::read_dir(&fds).unwrap().count() < 200
    })
    .await;
    assert!(resident_megabytes(server) < 1024, "{} MB", resident_megabytes(server));
}

fn resident_megabytes(server: &mut Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.process().id())).expect("the server is alive");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a process has a resident size");
    line.split_whitespace()
        .nth(1)
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
        .expect("a number")
        / 1024
}

async fn guarded() -> (Server, Client) {
    let (server, client) = fresh().await;
    client.put("canary", "alive").await;
    (server, client)
}

#[tokio::test]
async fn ten_thousand_streams_of_garbage_do_no_harm() {
    let (mut server, client) = guarded().await;
    let seed = seed(1);
    let each = scaled(10_000) / 8;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let endpoint = server.endpoint();
            thread::spawn(move || {
                let mut rng = Rng::new(seed.wrapping_add(sender));
                for _ in 0..each {
                    let bytes = hostile(&mut rng);
                    let linger = rng.chance(8);
                    send(&endpoint, &bytes, linger);
                }
            })
        })
        .collect();
    while !senders.iter().all(|sender| sender.is_finished()) {
        assert_eq!(
            client.get("canary").await.as_deref(),
            Some(b"alive".as_slice()),
            "good clients are served"
        );
        pause_ms(20).await;
    }
    senders
        .into_iter()
        .for_each(|sender| sender.join().expect("the server accepts connections to the end"));
    is_sound(&mut server, &client).await;
}

#[tokio::test]
async fn a_hand_made_call_is_answered() {
    let (server, client) = guarded().await;
    let mut stream = TcpStream::connect(server.endpoint()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    stream
        .write_all(&call(
            "/etcdserverpb.KV/Put",
            &grpc_message(b"\x0a\x04hand\x12\x04made"),
        ))
        .unwrap();
    let mut answer = Vec::new();
    // The connection stays open, so the read ends by its timeout.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(client.get("hand").await.as_deref(), Some(b"made".as_slice()));
    assert!(
        answer.len() > 30 && answer[3] == SETTINGS,
        "the answer begins with settings"
    );
}

#[tokio::test]
async fn silent_and_slow_connections_do_not_starve_others() {
    let (mut server, client) = guarded().await;
    let mut held = Vec::new();
    for i in 0..300 {
        let mut stream = TcpStream::connect(server.endpoint()).unwrap();
        let whole = call("/etcdserverpb.KV/Range", &grpc_message(b"\x0a\x01k"));
        stream.write_all(&whole[..i * whole.len() / 300]).unwrap();
        held.push(stream);
    }
    for _ in 0..20 {
        client.put("k", "v").await;
    }
    drop(held);
    is_sound(&mut server, &client).await;
}

#[tokio::test]
async fn floods_of_control_frames_are_survived() {
    let (mut server, client) = guarded().await;
    let before = resident_megabytes(&mut server);
    let repeated = |frame: Vec<u8>, count: usize| [opening(), frame.repeat(count)].concat();
    let mut floods = vec![
        repeated(frame(PING, 0, 0, &[0; 8]), 50_000),
        repeated(frame(SETTINGS, 0, 0, &[]), 50_000),
        // A header block that never ends.
        [
            opening(),
            frame(HEADERS, 0, 1, &grpc_headers(PATHS[0])),
            frame(CONTINUATION, 0, 1, &[0x40; 16_000]).repeat(500),
        ]
        .concat(),
    ];
    // Streams opened and reset at once.
    let mut resets = opening();
    for id in (1..20_000).step_by(2) {
        resets.extend(frame(HEADERS, END_HEADERS, id, &grpc_headers(PATHS[0])));
        resets.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    floods.push(resets);
    for flood in floods {
        let endpoint = server.endpoint();
        let sender = thread::spawn(move || send(&endpoint, &flood, false));
        while !sender.is_finished() {
            assert_eq!(client.get("canary").await.as_deref(), Some(b"alive".as_slice()));
            pause_ms(10).await;
        }
        sender.join().unwrap();
    }
    is_sound(&mut server, &client).await;
    let after = resident_megabytes(&mut server);
    assert!(after < before + 300, "memory grew from {before} to {after} MB");
}
