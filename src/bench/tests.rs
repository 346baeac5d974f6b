//! Stories of the load generator against servers of our own codec, in memory and on sockets.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use clap::Parser;
use net::grpc::{Code, Event, Limits, ServerConn, Status};
use net::pb::etcdserverpb::request_op::Request;
use net::pb::etcdserverpb::{PutRequest, RangeRequest, TxnRequest, WatchRequest};
use prost::Message;

use super::BenchError;
use super::engine::{Engine, Plan, Setup};
use super::link::Endpoint;
use super::options::Options;
use super::requests::{Random, Requests, watch_request, write_key};
use super::session::{Session, Sink};
use super::status::{OK, StatusId, Statuses};
use super::tally::Tally;
use super::wire::{self, Fields, FrameHead, MESSAGE_PREFIX_BYTES, Value, put_bytes, put_frame, put_number, put_uint};

fn options(line: &str) -> Options {
    Options::try_parse_from(std::iter::once("bench").chain(line.split(' '))).unwrap_or_else(|error| panic!("{error}"))
}

fn requests(line: &str) -> Requests {
    Requests::new(&options(line).command, 7).unwrap_or_else(|why| panic!("{line}: {why}"))
}

fn message<M: Message + Default>(requests: &mut Requests, sequence: u64) -> M {
    let framed = requests.message(sequence, 0x0102);
    let len = u32::from_be_bytes(framed[1..5].try_into().expect("four bytes")) as usize;
    assert_eq!((framed[0], len), (0, framed.len() - MESSAGE_PREFIX_BYTES));
    M::decode(&framed[MESSAGE_PREFIX_BYTES..]).expect("a prepared message is protobuf")
}

#[derive(Default)]
struct Heard {
    body: Vec<(u32, Vec<u8>)>,
    ended: Vec<(u32, StatusId)>,
}

impl Sink for Heard {
    fn data(&mut self, tag: u32, piece: &[u8]) {
        match self.body.iter_mut().find(|(t, _)| *t == tag) {
            Some((_, body)) => body.extend_from_slice(piece),
            None => self.body.push((tag, piece.to_vec())),
        }
    }

    fn end(&mut self, tag: u32, status: StatusId) {
        self.ended.push((tag, status));
    }
}

/// A session and a server, bytes passed by hand.
struct Pair {
    session: Session,
    server: ServerConn,
    statuses: Statuses,
    heard: Heard,
    /// How many bytes the session gets at once.
    cut: usize,
}

impl Pair {
    fn new(cut: usize) -> Pair {
        Pair::with(cut, Limits::default())
    }

    fn with(cut: usize, limits: Limits) -> Pair {
        let mut pair = Pair {
            session: Session::new("/etcdserverpb.KV/Put", "host:1"),
            server: ServerConn::new(limits, 0),
            statuses: Statuses::new(),
            heard: Heard::default(),
            cut,
        };
        pair.pass();
        pair
    }

    /// Passes bytes both ways until both are silent; the server's events come back.
    fn pass(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            self.server.receive(&std::mem::take(&mut self.session.out));
            events.extend(std::iter::from_fn(|| self.server.next_event()));
            let bytes = self.server.pending_output().to_vec();
            self.server.advance_output(bytes.len());
            assert_eq!(self.server.close_reason(), None, "the session broke HTTP/2");
            if bytes.is_empty() && self.session.out.is_empty() {
                return events;
            }
            self.receive(&bytes).expect("the server speaks HTTP/2");
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut pieces = bytes.chunks(self.cut);
        pieces.try_for_each(|piece| self.session.receive(piece, &mut self.statuses, &mut self.heard))
    }

    fn start(&mut self, tag: u32, message: &[u8]) {
        let mut framed = Vec::new();
        wire::put_message(message, &mut framed);
        self.session.start(tag, &framed, true);
    }

    fn ends(&self) -> Vec<(u32, Code, String)> {
        let ends = self.heard.ended.iter().map(|(tag, status)| {
            let (code, message) = self.statuses.get(*status);
            (*tag, code, message.to_string())
        });
        ends.collect()
    }
}

#[test]
fn calls_are_made_and_their_answers_understood_however_the_bytes_are_cut() {
    for cut in [1, 2, 3, 7, 10, 64, 100_000] {
        let mut pair = Pair::new(cut);
        assert!(pair.session.is_settled());
        for turn in 0..3u32 {
            (0..4).for_each(|tag| pair.start(turn * 4 + tag, b"ask"));
            for event in pair.pass() {
                match event {
                    Event::Request { head, .. } => {
                        assert_eq!((head.path(), head.authority()), ("/etcdserverpb.KV/Put", "host:1"));
                    }
                    Event::Message { stream, message } => {
                        assert_eq!(&message[..], b"ask");
                        pair.server.reply(stream, 6, |out| out.extend_from_slice(b"answer"));
                    }
                    _ => {}
                }
            }
            pair.pass();
        }
        assert_eq!(
            pair.heard.ended,
            (0..12).map(|tag| (tag, OK)).collect::<Vec<_>>(),
            "cut {cut}"
        );
        let answers = pair.heard.body.iter().all(|(_, body)| body == b"\0\0\0\0\x06answer");
        assert!(answers, "cut {cut}: {:?}", pair.heard.body);
    }
}

#[test]
fn a_failed_call_is_told_by_its_code_and_message_with_an_answer_or_without() {
    let mut pair = Pair::new(5);
    for round in 0..2 {
        (0..3).for_each(|tag| pair.start(round * 3 + tag, b"ask"));
        let streams = pair.pass().into_iter().filter_map(|event| match event {
            Event::Message { stream, .. } => Some(stream),
            _ => None,
        });
        let streams: Vec<_> = streams.collect();
        let status = Status::new(Code::ResourceExhausted, "etcdserver: too many requests");
        pair.server.finish(streams[0], &status);
        pair.server
            .send_message(streams[1], 1, |out| out.extend_from_slice(b"x"));
        pair.server.finish(streams[1], &Status::new(Code::Aborted, "é, 100 %"));
        pair.server.finish(streams[2], &Status::ok());
        pair.pass();
    }
    let code_of = |tag: u32| match tag % 3 {
        0 => (Code::ResourceExhausted, "etcdserver: too many requests"),
        1 => (Code::Aborted, "é, 100 %"),
        _ => (Code::Internal, "the call ended well but without an answer"),
    };
    let mut ends = pair.ends();
    ends.sort_by_key(|(tag, ..)| *tag);
    for (tag, code, message) in &ends {
        assert_eq!((*code, message.as_str()), code_of(*tag), "{tag}");
    }
    assert_eq!(ends.len(), 6);
}

#[test]
fn a_message_larger_than_the_windows_arrives_whole_and_does_not_hold_up_a_small_one() {
    let mut pair = Pair::new(1000);
    let large: Vec<u8> = (0..1_500_000u32).map(|n| (n >> 8) as u8).collect();
    for tag in 0..4 {
        pair.start(tag, &large);
    }
    pair.start(4, b"small");
    let messages = pair.pass().into_iter().filter_map(|event| match event {
        Event::Message { message, .. } => Some(message),
        _ => None,
    });
    let messages: Vec<_> = messages.collect();
    assert_eq!(messages.len(), 5);
    let (small, messages): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.len() < 100);
    assert!(messages.iter().all(|message| message[..] == large[..]));
    assert_eq!(small, [&b"small"[..]]);
}

#[test]
fn pings_are_answered_resets_counted_and_a_server_that_goes_away_gets_no_more_calls() {
    let mut pair = Pair::new(4);
    (0..3).for_each(|tag| pair.start(tag, b"ask"));
    pair.session.out.clear();
    let mut bytes = Vec::new();
    put_frame(wire::PING, 0, 0, b"12345678", &mut bytes);
    put_number(wire::RST_STREAM, 3, 7, &mut bytes);
    put_frame(
        wire::GOAWAY,
        0,
        0,
        &[0, 0, 0, 1, 0, 0, 0, 11, b'c', b'a', b'l', b'm'],
        &mut bytes,
    );
    pair.receive(&bytes).expect("all of that is HTTP/2");
    let mut pong = Vec::new();
    put_frame(wire::PING, wire::ACK, 0, b"12345678", &mut pong);
    assert_eq!(pair.session.out, pong);
    assert!(!pair.session.takes_calls());
    let gone = "the server goes away, HTTP/2 error 11 \"calm\"".to_string();
    let reset = "stream reset, HTTP/2 error 7".to_string();
    assert_eq!(
        pair.ends(),
        [(1, Code::Unavailable, reset), (2, Code::Unavailable, gone)]
    );
    pair.session.lose("cable cut", &mut pair.statuses, &mut pair.heard);
    assert_eq!(pair.ends()[2], (0, Code::Unavailable, "cable cut".to_string()));
}

#[test]
fn a_server_without_a_header_table_gets_headers_in_full() {
    let mut session = Session::new("/a/B", "h");
    let mut bytes = Vec::new();
    wire::put_settings(&[(wire::SETTING_HEADER_TABLE_SIZE, 0)], &mut bytes);
    session.out.clear();
    let received = session.receive(&bytes, &mut Statuses::new(), &mut Heard::default());
    assert_eq!(received, Ok(()));
    let settings_ack_bytes = session.out.len();
    let lens: Vec<usize> = (0..3)
        .map(|tag| {
            let before = session.out.len();
            session.start(tag, b"\0\0\0\0\0", true);
            FrameHead::parse(&session.out[before..]).len
        })
        .collect();
    // The first says that the table is empty, which takes a byte.
    assert_eq!((lens[0] - 1, lens[1]), (lens[1], lens[2]));
    assert_eq!(session.out[settings_ack_bytes + 9], 0x20);
}

#[test]
fn padding_priority_and_continuations_are_understood_in_header_blocks() {
    let mut pair = Pair::new(3);
    pair.start(9, b"ask");
    let mut bytes = Vec::new();
    // `:status: 200`, padded by two octets and with five of priority.
    let flags = wire::END_HEADERS | wire::PADDED | wire::PRIORITY;
    put_frame(wire::HEADERS, flags, 1, &[2, 0, 0, 0, 0, 0, 0x88, 0, 0], &mut bytes);
    put_frame(wire::DATA, 0, 1, b"\0\0\0\0\0", &mut bytes);
    put_frame(wire::HEADERS, wire::END_STREAM, 1, b"\0\x0bgrpc-", &mut bytes);
    put_frame(wire::CONTINUATION, 0, 1, b"status", &mut bytes);
    put_frame(wire::CONTINUATION, wire::END_HEADERS, 1, b"\x015", &mut bytes);
    pair.receive(&bytes).expect("all of that is HTTP/2");
    assert_eq!(pair.ends(), [(9, Code::NotFound, String::new())]);
    let padded = [0, 0, 2, wire::DATA, wire::PADDED, 0, 0, 0, 1, 0, 0];
    assert!(pair.receive(&padded).is_err(), "padded DATA is refused, not misread");
}

#[test]
fn puts_carry_the_key_the_value_and_the_sizes_asked_for() {
    let mut puts =
        requests("put --total 1 --key-size 12 --val-size 30 --key-space-size 300 --sequential-keys --key-prefix ab");
    for (sequence, number) in [(0, &[0, 0][..]), (5, &[10, 0]), (299, &[0xd6, 0x04]), (300, &[0, 0])] {
        let put: PutRequest = message(&mut puts, sequence);
        assert_eq!(&put.key[..4], [b"ab", number].concat(), "{sequence}");
        assert_eq!((put.key.len(), put.value.len()), (12, 30));
        assert!(put.key[4..].iter().all(|byte| *byte == 0));
    }
    let mut random = requests("put --key-space-size 1000");
    let keys: std::collections::BTreeSet<_> = (0..2000).map(|n| message::<PutRequest>(&mut random, n).key).collect();
    assert!((700..=1000).contains(&keys.len()), "{}", keys.len());
}

#[test]
fn ranges_say_what_was_asked_for() {
    let range: RangeRequest = message(&mut requests("range key --consistency s --limit 500"), 0);
    assert_eq!((&range.key[..], &range.range_end[..]), (&b"key"[..], &b""[..]));
    assert_eq!((range.limit, range.serializable, range.count_only), (500, true, false));
    let range: RangeRequest = message(&mut requests("range a b --count-only"), 0);
    assert_eq!(
        (&range.range_end[..], range.serializable, range.count_only),
        (&b"b"[..], false, true)
    );
}

#[test]
fn transactions_put_different_keys_or_read_as_often_as_asked() {
    let mut puts = requests("txn-put --txn-ops 4 --key-space-size 6 --key-size 3 --val-size 300");
    let txn: TxnRequest = message(&mut puts, 1);
    let keys = txn.success.iter().map(|op| match &op.request {
        Some(Request::RequestPut(put)) => (put.key[0] / 2, put.value.len()),
        other => panic!("not a put: {other:?}"),
    });
    assert_eq!(keys.collect::<Vec<_>>(), [(4, 300), (5, 300), (0, 300), (1, 300)]);

    let mut mixed = requests("txn-mixed --rw-ratio 3 --limit 10 --consistency s --end-key z");
    let is_read = |n| {
        let txn: TxnRequest = message(&mut mixed, n);
        match txn.success[0].request.clone() {
            Some(Request::RequestRange(range)) => {
                assert_eq!((&range.key[..], &range.range_end[..]), (&b"\0"[..], &b"z"[..]));
                assert!(range.serializable && range.limit == 10);
                true
            }
            _ => false,
        }
    };
    let reads = (0..4000).map(is_read).filter(|is_read| *is_read).count();
    assert!((2850..3150).contains(&reads), "{reads} of 4000");
}

#[test]
fn watched_values_tell_when_they_were_put_and_watch_requests_name_their_key() {
    let put: PutRequest = message(&mut requests("watch --watched-key-total 10"), 13);
    assert_eq!((put.key[0], put.key.len(), put.value.len()), (6, 32, 32));
    assert_eq!(&put.value[..16], b"bench-at\x02\x01\0\0\0\0\0\0");
    let framed = watch_request(b"key", true);
    let request = WatchRequest::decode(&framed[MESSAGE_PREFIX_BYTES..]).expect("protobuf");
    let text = format!("{request:?}");
    assert!(
        text.contains("key: b\"key\"") && text.contains("prev_kv: true"),
        "{text}"
    );
}

#[test]
fn keys_are_numbered_as_etcds_tool_numbers_them() {
    let mut key = [0xff; 4];
    write_key(&mut key, 0, 0);
    assert_eq!(key, [0, 0, 0, 0]);
    // A signed varint: 64 is 128 in zigzag.
    write_key(&mut key, 1, 64);
    assert_eq!(key, [0, 0x80, 0x01, 0]);
}

#[test]
fn protobuf_fields_are_walked_and_garbage_ends_the_walk() {
    let mut bytes = Vec::new();
    put_uint(1, 300, &mut bytes);
    put_uint(2, 0, &mut bytes);
    put_bytes(3, b"abc", &mut bytes);
    let all = [(1, Value::Uint(300)), (3, Value::Bytes(b"abc"))];
    assert_eq!(Fields(&bytes).collect::<Vec<_>>(), all);
    assert_eq!(Fields(&bytes[..bytes.len() - 1]).count(), 1);
    let mut random = Random(3);
    for _ in 0..1000 {
        let garbage: Vec<u8> = (0..20).map(|_| random.next() as u8).collect();
        assert!(Fields(&garbage).count() <= 20);
    }
}

#[test]
fn options_are_etcds_and_nonsense_is_refused() {
    let parsed = options("--endpoints a:1,b:2 --conns 3 put --clients 6 --total 9 --rate 5 --json --precise");
    assert_eq!(parsed.shared.endpoints, ["a:1", "b:2"]);
    assert_eq!(
        (parsed.shared.conns, parsed.shared.clients, parsed.shared.json),
        (3, 6, true)
    );
    for line in [
        "put --conns 0",
        "get x",
        "put --consistency l",
        "range",
        "range x --consistency q",
        "watch --streams 0",
    ] {
        let parsed = Options::try_parse_from(std::iter::once("bench").chain(line.split(' ')));
        assert!(parsed.is_err(), "{line}");
    }
    for (line, part) in [
        ("put --key-size 1 --key-space-size 100", "--key-size 1 is too small"),
        ("put --key-size 3 --key-prefix long", "--key-size 3 is too small"),
        ("txn-put --txn-ops 2", "raise --key-space-size"),
        ("txn-mixed --rw-ratio -1", "must be 0 or more"),
    ] {
        let line = line.replace("ratio -1", "ratio=-1");
        let refused = Requests::new(&options(&line).command, 1).err();
        assert!(
            refused.as_ref().is_some_and(|why| why.contains(part)),
            "{line}: {refused:?}"
        );
    }
    for text in ["https://h:1", "unix:///x", "nonsense"] {
        assert!(
            matches!(Endpoint::parse(text), Err(BenchError::Endpoint { .. })),
            "{text}"
        );
    }
}

/// A server on a socket that echoes, after `delay`, every message but each `fail_every`th; it closes its connections
/// after `lifetime` calls of each.
#[derive(Clone, Copy)]
struct Echo {
    delay: Duration,
    fail_every: u64,
    lifetime: u64,
}

impl Echo {
    const STEADY: Echo = Echo {
        delay: Duration::ZERO,
        fail_every: u64::MAX,
        lifetime: u64::MAX,
    };

    /// Listens; its threads end with the process, its connections with their clients.
    fn start(self) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || self.serve(stream));
            }
        });
        Endpoint::parse(&address.to_string()).expect("an address is an endpoint")
    }

    fn serve(self, mut stream: std::net::TcpStream) {
        let mut conn = ServerConn::new(Limits::default(), 0);
        let mut buffer = vec![0; 65_536];
        let mut calls = 0;
        loop {
            while let Some(event) = conn.next_event() {
                let Event::Message { stream, message } = event else {
                    continue;
                };
                calls += 1;
                if calls % self.fail_every == 0 {
                    conn.finish(stream, &Status::new(Code::Aborted, "no luck"));
                } else {
                    conn.reply(stream, message.len(), |out| out.extend_from_slice(&message));
                }
            }
            let out = conn.pending_output().to_vec();
            if stream.write_all(&out).is_err() || calls >= self.lifetime {
                return;
            }
            conn.advance_output(out.len());
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => conn.receive(&buffer[..read]),
                _ => return,
            }
            thread::sleep(self.delay);
        }
    }
}

fn run(echo: Echo, clients: Vec<u32>, total: u64, rate: f64) -> Result<Tally, BenchError> {
    let mut requests = requests("put --val-size 256 --key-space-size 1000");
    let setup = Setup {
        endpoints: vec![echo.start()],
        path: requests.path,
        clients,
        watch: None,
        timeout: Duration::from_secs(10),
    };
    let plan = Plan {
        total,
        rate,
        stride: 1,
        offset: 0,
    };
    let progress = AtomicU64::new(0);
    let tally = Engine::connect(&setup)?.run(plan, &mut requests, &progress)?;
    assert!(progress.into_inner() <= total);
    Ok(tally)
}

#[test]
fn every_request_of_every_client_is_sent_and_counted() {
    for (clients, total) in [
        (vec![1], 500),
        (vec![10, 10, 9], 5000),
        (vec![3, 0], 2),
        (vec![200], 1000),
    ] {
        let tally = run(Echo::STEADY, clients.clone(), total, 0.0).expect("the server is there");
        assert_eq!((tally.latency.len(), tally.failures()), (total, 0), "{clients:?}");
        assert!(tally.elapsed_ns > 0 && tally.bytes_in > total * 256);
    }
}

#[test]
fn failed_requests_are_counted_apart_and_the_load_goes_on() {
    let echo = Echo {
        fail_every: 10,
        ..Echo::STEADY
    };
    let tally = run(echo, vec![4], 1000, 0.0).expect("the server is there");
    assert_eq!((tally.latency.len(), tally.failures()), (900, 100));
    assert_eq!(tally.errors["Aborted: no luck"], 100);
}

#[test]
fn a_rate_spreads_the_requests_and_a_slow_server_shows_in_their_latency() {
    let tally = run(Echo::STEADY, vec![4], 200, 1000.0).expect("the server is there");
    assert_eq!(tally.latency.len(), 200);
    assert!(tally.elapsed_ns >= 199_000_000, "{} ns", tally.elapsed_ns);

    // One client, 5 ms an answer, a request due each ms: the last one is late by 4 ms for each before it.
    let echo = Echo {
        delay: Duration::from_millis(5),
        ..Echo::STEADY
    };
    let tally = run(echo, vec![1], 50, 1000.0).expect("the server is there");
    assert!(tally.latency.max() >= 190_000_000, "{} ns", tally.latency.max());
}

#[test]
fn a_lost_connection_fails_what_was_in_flight_and_the_run_ends_when_none_is_left() {
    let echo = Echo {
        lifetime: 100,
        ..Echo::STEADY
    };
    let tally = run(echo, vec![5, 5], 10_000, 0.0).expect("the server is there at first");
    let failed: u64 = tally.errors.values().sum();
    assert!((1..=10).contains(&failed), "{:?}", tally.errors);
    assert!(
        tally
            .errors
            .keys()
            .all(|error| error.starts_with("Unavailable: connection lost"))
    );
    assert_eq!(tally.latency.len() + failed + tally.unsent, 10_000);
    assert!(tally.unsent > 9000);
}

#[test]
fn a_server_that_is_not_there_or_speaks_no_http2_is_an_error() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = nobody.local_addr().expect("a bound socket has an address").to_string();
    let setup = |timeout_ms| Setup {
        endpoints: vec![Endpoint::parse(&address).expect("an address is an endpoint")],
        path: "/a/B",
        clients: vec![1],
        watch: None,
        timeout: Duration::from_millis(timeout_ms),
    };
    // The backlog accepts the connection, and nobody ever answers.
    let silent = Engine::connect(&setup(300)).err();
    assert!(matches!(silent, Some(BenchError::Silent { .. })), "{silent:?}");
    drop(nobody);
    let refused = Engine::connect(&setup(1000)).err();
    assert!(matches!(refused, Some(BenchError::Connect { .. })), "{refused:?}");
}
