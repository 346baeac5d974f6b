use super::http2::Client;
use super::server::TestServer;
use super::{ask, dial, eventually, read_to_close};
use net::io::ShardLimits;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        (0..self.below(len_max))
            .map(|_| u8::try_from(self.below(256)).expect("below 256"))
            .collect()
    }
}

#[test]
fn garbage_ends_its_own_connection_and_no_other() {
    let scale = std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|scale| scale.parse().ok())
        .unwrap_or(1.0);
    let server = TestServer::start(2);
    let mut healthy = dial(server.address);
    let seed = 0x6a7b;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for round in 0..(300.0 * scale) as u32 {
        let mut bytes = match round % 3 {
            0 => Vec::new(),
            1 => PREFACE.to_vec(),
            _ => [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat(),
        };
        bytes.extend(random.bytes(2000));
        let mut client = dial(server.address);
        // The server may close before all is written.
        for chunk in bytes.chunks(1 + random.below(700) as usize) {
            if client.write_all(chunk).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Write);
        read_to_close(&mut client);
    }
    ask(&mut healthy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /\n");
    drop(healthy);
    eventually("no connection is left", || {
        server.intakes.iter().all(|intake| intake.load() == 0)
    });
    assert_eq!(server.total(|seen| &seen.opened), server.total(|seen| &seen.closed));
}

#[test]
fn a_broken_frame_is_answered_with_goaway_and_a_close_though_the_client_goes_on_sending() {
    let server = TestServer::start(1);
    let mut client = dial(server.address);
    client.write_all(PREFACE).unwrap();
    // SETTINGS, then a DATA frame on stream 0, which is a connection error of type PROTOCOL_ERROR (RFC 9113, 6.1).
    client
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9])
        .unwrap();
    let _ = client.write_all(&[0; 60_000]);
    let mut read = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(n) = std::io::Read::read(&mut client, &mut buf) {
        read.extend_from_slice(&buf[..n]);
        if n == 0 {
            break;
        }
    }
    let goaway = read
        .windows(17)
        .any(|w| w[3] == 7 && w[..2] == [0, 0] && w[13..17] == [0, 0, 0, 1]);
    assert!(goaway, "no GOAWAY with PROTOCOL_ERROR in {read:?}");
    eventually("the connection is gone", || {
        server.seen[0].closed.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn clients_that_vanish_in_the_middle_of_calls_leave_nothing_behind() {
    let server = TestServer::start(2);
    let mut clients = Vec::new();
    for n in 0..60 {
        let mut client = Client::dial(&server);
        for _ in 0..5 {
            let path = ["/test/late", "/test/never", "/test/big"][n % 3];
            client.call(path, b"1000000");
        }
        client.flush();
        clients.push(client);
    }
    drop(clients);
    eventually("no connection is left", || {
        server.intakes.iter().all(|intake| intake.load() == 0)
    });
    assert_eq!(server.total(|seen| &seen.closed), server.total(|seen| &seen.opened));
}

/// A GET of `/` on that stream, in 16 bytes (RFC 7541, appendix A: `:method: GET`, `:scheme: http`, `:path: /`).
fn get_frame(stream: u32) -> Vec<u8> {
    let block = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    [&[0, 0, 6, 1, 5][..], &stream.to_be_bytes(), &block].concat()
}

/// More requests than fit into the buffers of both sockets, in either direction.
const REQUESTS_MAX: u32 = 2_000_000;

#[test]
fn a_client_that_asks_and_never_reads_is_read_from_no_more() {
    let server = TestServer::start(1);
    let mut client = dial(server.address);
    // Settings and a window that let the server send without end; so what must stop is its reading.
    client.write_all(PREFACE).unwrap();
    client
        .write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff])
        .unwrap();
    client
        .write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0])
        .unwrap();
    client.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut requests = 0;
    loop {
        let frames: Vec<u8> = (requests..requests + 1000).flat_map(|n| get_frame(2 * n + 1)).collect();
        if let Err(error) = client.write_all(&frames) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "the connection goes on: {error}");
            break;
        }
        requests += 1000;
        assert!(
            requests < REQUESTS_MAX,
            "requests are taken without end from a client that never reads"
        );
    }
    println!(
        "the server read {} of {requests} requests",
        server.total(|seen| &seen.messages)
    );
    let mut other = dial(server.address);
    ask(&mut other, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /\n");
}

#[test]
fn clients_that_fall_silent_in_the_middle_of_something_are_closed() {
    let mut limits = ShardLimits::default();
    limits.wire.unfinished_timeout_ns = 1_000_000_000;
    let server = TestServer::start_with(1, limits, 100);
    let hello = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let get = get_frame(1);
    let mut silent: Vec<_> = [PREFACE.to_vec(), [&hello[..], &get[..12]].concat()]
        .iter()
        .map(|bytes| {
            let mut client = dial(server.address);
            client.write_all(bytes).unwrap();
            client
        })
        .collect();
    let mut idle = dial(server.address);
    idle.write_all(&hello).unwrap();
    for client in &mut silent {
        read_to_close(client);
    }
    eventually("only the idle one is left", || server.intakes[0].load() == 1);
    idle.write_all(&get).unwrap();
    eventually("the idle one is served", || server.total(|seen| &seen.messages) == 1);
}
