//! gRPC on the wire: what servers of etcd say, octet by octet where it matters, and whole calls between our two ends.

#[path = "support/wire.rs"]
mod wire;

use std::io::Read;
use std::time::Duration;

use net::grpc::{ClientConn, ClientEvent, Code, ErrorCode, Event, Limits, ServerConn, Status, StreamId};
use net::h2::Headers;
use wire::*;

/// Both ends of a connection; `turn` carries all bytes both ways until nothing moves.
struct Pair {
    client: ClientConn,
    server: ServerConn,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(Limits::default())
    }

    fn with(limits: Limits) -> Pair {
        let client = ClientConn::new(
            Limits {
                message_bytes_max: 1 << 30,
                ..limits
            },
            "http",
            "a:2379",
            0,
        );
        let mut pair = Pair {
            client,
            server: ServerConn::new(limits, 0),
        };
        pair.turn();
        pair
    }

    fn turn(&mut self) {
        loop {
            let up = self.client.pending_output().to_vec();
            self.client.advance_output(up.len());
            self.server.receive(&up);
            let down = self.server.pending_output().to_vec();
            self.server.advance_output(down.len());
            self.client.receive(&down);
            if up.is_empty() && down.is_empty() {
                return;
            }
        }
    }

    fn call(&mut self, metadata: &[(&str, &str)], body: &[u8]) -> StreamId {
        let stream = self.client.start_call("/etcdserverpb.KV/Put", metadata).unwrap();
        self.client
            .send_last_message(stream, body.len(), |out| out.extend_from_slice(body));
        self.turn();
        stream
    }

    fn server_events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.server.next_event()).collect()
    }

    fn client_events(&mut self) -> Vec<ClientEvent> {
        self.turn();
        std::iter::from_fn(|| self.client.next_event()).collect()
    }

    #[track_caller]
    fn end(&mut self) -> Status {
        match self.client_events().pop() {
            Some(ClientEvent::End { status, .. }) => status,
            other => panic!("the call has not ended: {other:?}"),
        }
    }
}

fn shown(headers: &Headers) -> Vec<String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    headers
        .iter()
        .map(|(name, value)| format!("{}: {}", text(name), text(value)))
        .collect()
}

#[test]
fn a_unary_call_has_the_frames_and_fields_of_grpc_go() {
    let mut wire = Wire::new();
    wire.send(HEADERS, END_HEADERS, 1, GRPC_POST);
    wire.send(DATA, END_STREAM, 1, &message(b"request"));
    assert_eq!(wire.events(), ["1 request /a/b", "1 message of 7", "1 half-close"]);
    wire.server
        .reply(StreamId(1), 6, |out| out.extend_from_slice(b"answer"));
    let first = wire.output();
    // :status 200; content-type by the static name and a Huffman-coded value; grpc-status as a literal; both kept.
    assert_eq!(
        first[0].payload,
        b"\x88\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64"
    );
    assert_eq!(
        first[1],
        Frame {
            kind: DATA,
            flags: 0,
            stream: 1,
            payload: message(b"answer")
        }
    );
    assert_eq!(first[2].payload, b"\x40\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x010");
    let flags: Vec<u8> = first.iter().map(|f| f.flags).collect();
    assert_eq!(flags, [END_HEADERS, 0, END_HEADERS | END_STREAM]);
    // The second time each block is of indexes only.
    wire.send(HEADERS, END_HEADERS | END_STREAM, 3, GRPC_POST);
    wire.server.reply(StreamId(3), 0, |_| ());
    let second: Vec<_> = wire.output().into_iter().map(|f| f.payload).collect();
    assert_eq!(second, [vec![0x88, 0xbf], message(b""), vec![0xbe]]);
}

#[test]
fn a_call_goes_there_and_back() {
    let mut pair = Pair::new();
    for round in 0..3 {
        let stream = pair.call(&[("token", "t.17"), ("grpc-timeout", "4999834u")], b"put");
        let events = pair.server_events();
        let Event::Request { head, .. } = &events[0] else {
            panic!("{events:?}")
        };
        assert_eq!(head.path(), "/etcdserverpb.KV/Put");
        assert_eq!(head.timeout(), Some(Duration::from_micros(4_999_834)));
        assert_eq!(
            (head.metadata("token"), head.authority()),
            (Some(&b"t.17"[..]), "a:2379")
        );
        assert!(matches!(&events[1], Event::Message { message, .. } if message == "put"));
        assert!(matches!(&events[2], Event::HalfClose { .. }));
        pair.server.reply(stream, 3, |out| out.extend_from_slice(b"yes"));
        let answer = pair.client_events();
        let ClientEvent::Headers { headers, .. } = &answer[0] else {
            panic!("{answer:?}")
        };
        assert_eq!(shown(headers), [":status: 200", "content-type: application/grpc"]);
        assert!(matches!(&answer[1], ClientEvent::Message { message, .. } if message == "yes"));
        assert!(
            matches!(&answer[2], ClientEvent::End { status, .. } if *status == Status::ok()),
            "round {round}"
        );
        assert_eq!((pair.client.open_streams(), pair.server.open_streams()), (0, 0));
    }
}

#[test]
fn an_error_without_an_answer_is_one_header_list() {
    let mut pair = Pair::new();
    let stream = pair.call(&[], b"x");
    let mut status = Status::new(Code::InvalidArgument, "etcdserver: 100 % caf\u{e9}\n");
    status.trailers.push(("x-more".into(), "yes".into()));
    pair.server.finish(stream, &status);
    let sent = pair.server.pending_output().to_vec();
    assert_eq!(
        (sent[3], sent[4], sent.len()),
        (HEADERS, END_HEADERS | END_STREAM, 9 + sent[2] as usize)
    );
    assert_eq!(pair.end(), status);
}

#[test]
fn a_stream_of_messages_ends_with_trailers() {
    let mut pair = Pair::new();
    let stream = pair.client.start_call("/etcdserverpb.Watch/Watch", &[]).unwrap();
    pair.client.send_message(stream, 1, |out| out.extend_from_slice(b"1"));
    pair.turn();
    pair.server.send_headers(stream, &[("x-a", "b")]);
    for body in [&b"one"[..], b"", b"three"] {
        pair.server
            .send_message(stream, body.len(), |out| out.extend_from_slice(body));
    }
    pair.server
        .finish(stream, &Status::new(Code::Unavailable, "etcdserver: no leader"));
    let events = pair.client_events();
    let ClientEvent::Headers { headers, .. } = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(headers.get("x-a"), Some(&b"b"[..]));
    assert_eq!(events.len(), 5);
    let ended = ClientEvent::End {
        stream,
        status: Status::new(Code::Unavailable, "etcdserver: no leader"),
    };
    assert_eq!(format!("{:?}", events[4]), format!("{ended:?}"));
    assert_eq!(pair.server.open_streams(), 0, "the rest of the request is not awaited");
}

#[test]
fn a_large_message_in_pieces_is_never_held_whole() {
    const TOTAL: usize = 20 << 20;
    let mut pair = Pair::new();
    let stream = pair.call(&[], b"range");
    pair.server_events();
    pair.server.begin_message(stream, TOTAL as u32);
    let (mut written, mut most_queued, mut got) = (0, 0, None);
    while got.is_none() {
        while written < TOTAL && pair.server.queued(stream) < 64 * 1024 {
            let piece = vec![(written >> 15) as u8; 32 * 1024];
            pair.server.write_piece(stream, &piece);
            written += piece.len();
            if written == TOTAL {
                pair.server.finish(stream, &Status::ok());
            }
        }
        most_queued = most_queued.max(pair.server.held_bytes());
        for event in pair.client_events() {
            if let ClientEvent::Message { message, .. } = event {
                got = Some(message);
            }
        }
        let writable = pair.server_events().iter().any(|e| matches!(e, Event::Writable { .. }));
        assert!(writable || written == TOTAL || pair.server.queued(stream) < 64 * 1024);
    }
    assert!(
        got.unwrap()
            .chunks(32 * 1024)
            .enumerate()
            .all(|(i, piece)| piece.iter().all(|&b| b == i as u8))
    );
    assert!(most_queued < 2 << 20, "{most_queued} bytes were held");
}

#[test]
fn a_message_cut_short_is_a_reset() {
    let mut pair = Pair::new();
    let stream = pair.call(&[], b"range");
    pair.server.begin_message(stream, 10);
    pair.server.write_piece(stream, b"abc");
    pair.server.finish(stream, &Status::ok());
    assert_eq!(pair.end().code, Code::Internal);
}

#[test]
fn a_message_beyond_the_limit_gets_the_text_of_grpc_go() {
    let mut pair = Pair::new();
    let limit = Limits::default().message_bytes_max;
    pair.call(&[], &vec![0; limit as usize + 1]);
    let events = pair.server_events();
    assert!(
        matches!(events[..], [Event::Request { .. }, Event::Cancelled { .. }]),
        "{events:?}"
    );
    let text = format!("grpc: received message larger than max ({} vs. {limit})", limit + 1);
    assert_eq!(pair.end(), Status::new(Code::ResourceExhausted, text));
    let stream = pair.call(&[], &vec![0; limit as usize]);
    assert!(matches!(&pair.server_events()[1], Event::Message { message, .. } if message.len() == limit as usize));
    pair.server.reply(stream, 0, |_| ());
    assert_eq!(pair.end(), Status::ok());
}

#[test]
fn broken_messages_end_their_call_with_internal() {
    for (payload, text) in [
        (
            &b"\x01\0\0\0\x01x"[..],
            "grpc: compressed flag set with identity or empty encoding",
        ),
        (b"\x02\0\0\0\x01x", "grpc: received unexpected payload format 2"),
        (b"\0\0\0\0\x05abc", "unexpected EOF"),
    ] {
        let mut wire = Wire::new();
        wire.call(1);
        wire.send(DATA, END_STREAM, 1, payload);
        assert_eq!(wire.events(), ["1 request /a/b", "1 cancelled"]);
        let head = wire.output().remove(0);
        let encoded = text.replace('%', "%25");
        let mut decoder = ClientConn::new(Limits::default(), "http", "a", 0);
        decoder.start_call("/a/b", &[]).unwrap();
        decoder.receive(&frame(SETTINGS, 0, 0, &[]));
        decoder.receive(&frame(HEADERS, head.flags, 1, &head.payload));
        let Some(ClientEvent::End { status, .. }) = decoder.next_event() else {
            panic!("no end")
        };
        assert_eq!(status, Status::new(Code::Internal, encoded));
    }
}

/// A call whose messages may be in gzip.
fn gzip_call(wire: &mut Wire, stream: u32) {
    let head = [GRPC_POST, b"\x00\x0dgrpc-encoding\x04gzip"].concat();
    wire.send(HEADERS, END_HEADERS, stream, &head);
}

fn gzipped(body: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::bufread::GzEncoder::new(body, flate2::Compression::best())
        .read_to_end(&mut packed)
        .unwrap();
    let mut bytes = message(&packed);
    bytes[0] = 1;
    bytes
}

fn unzipped(frame: &Frame) -> Vec<u8> {
    assert_eq!(frame.payload[0], 1, "the message says that it is compressed");
    assert_eq!(frame.payload[1..5], (frame.payload.len() as u32 - 5).to_be_bytes());
    let mut body = Vec::new();
    let mut decoder = flate2::bufread::GzDecoder::new(&frame.payload[5..]);
    decoder.read_to_end(&mut body).unwrap();
    body
}

#[test]
fn a_call_in_gzip_is_answered_in_gzip() {
    let mut wire = Wire::new();
    gzip_call(&mut wire, 1);
    wire.send(DATA, 0, 1, &gzipped(&[b'v'; 1000]));
    wire.send(DATA, END_STREAM, 1, &message(b"a plain one is fine too"));
    assert_eq!(
        wire.events(),
        ["1 request /a/b", "1 message of 1000", "1 message of 23", "1 half-close"]
    );
    wire.server
        .send_message(StreamId(1), 500, |out| out.extend_from_slice(&[b'a'; 500]));
    wire.server
        .reply(StreamId(1), 0, |out| out.extend_from_slice(b"the second"));
    let frames = wire.output();
    let kinds: Vec<u8> = frames.iter().map(|frame| frame.kind).collect();
    let data: Vec<&Frame> = frames.iter().filter(|frame| frame.kind == DATA).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), (HEADERS, HEADERS));
    assert_eq!(unzipped(data[0]), [b'a'; 500]);
    assert!(data[0].payload.len() < 100);
    assert_eq!(unzipped(data[1]), b"the second");
    let mut decoder = ClientConn::new(Limits::default(), "http", "a", 0);
    decoder.start_call("/a/b", &[]).unwrap();
    decoder.receive(&frame(SETTINGS, 0, 0, &[]));
    decoder.receive(&frame(HEADERS, frames[0].flags, 1, &frames[0].payload));
    let Some(ClientEvent::Headers { headers, .. }) = decoder.next_event() else {
        panic!("no head")
    };
    assert_eq!(
        shown(&headers),
        [":status: 200", "content-type: application/grpc", "grpc-encoding: gzip"]
    );
}

#[test]
fn bombs_end_their_calls_one_a_turn_and_the_connection_lives() {
    let mut wire = Wire::new();
    let bomb = gzipped(&vec![0; 3_000_000]);
    assert!(bomb.len() < 4000);
    let calls = [1, 3, 5];
    for stream in calls {
        gzip_call(&mut wire, stream);
        wire.send(DATA, END_STREAM, stream, &bomb);
    }
    let mut events = Vec::new();
    for _ in calls {
        wire.server.begin_turn();
        events.extend(wire.events());
        let answers = wire.output().iter().filter(|frame| frame.kind == HEADERS).count();
        assert_eq!(answers, 1, "a turn unpacks one of them");
    }
    assert_eq!(events.iter().filter(|event| event.contains("cancelled")).count(), 3);
    assert!(!events.iter().any(|event| event.contains("message")), "{events:?}");
    wire.server.begin_turn();
    wire.call(7);
    wire.send(DATA, END_STREAM, 7, &message(b"request"));
    let events = wire.events();
    assert_eq!(events[events.len() - 2..], ["7 message of 7", "7 half-close"]);
}

#[test]
fn what_waits_compressed_is_unpacked_turn_by_turn() {
    let mut wire = Wire::new();
    gzip_call(&mut wire, 1);
    for _ in 0..10 {
        wire.send(DATA, 0, 1, &gzipped(&[0; 30_000]));
    }
    wire.send(DATA, END_STREAM, 1, &[]);
    let mut turns = Vec::new();
    while turns.is_empty() || wire.server.wants_turn() {
        wire.server.begin_turn();
        turns.push(wire.events().iter().filter(|event| event.contains("message")).count());
    }
    assert_eq!(turns, [3, 3, 3, 1]);
    assert!(!wire.server.has_events());
}

#[test]
fn requests_that_no_handler_should_see_are_refused() {
    let mut pair = Pair::new();
    pair.call(&[("grpc-encoding", "snappy")], b"x");
    let status = pair.end();
    assert_eq!(status.code, Code::Unimplemented);
    assert_eq!(
        status.message,
        "grpc: Decompressor is not installed for grpc-encoding \"snappy\""
    );
    assert_eq!(
        status.trailers,
        [("grpc-accept-encoding".to_string(), "identity,gzip".to_string())]
    );
    pair.call(&[("grpc-timeout", "1x")], b"x");
    let status = pair.end();
    assert_eq!(status.code, Code::Internal);
    assert_eq!(
        status.message,
        "malformed grpc-timeout: transport: timeout unit is not recognized: \"1x\""
    );
    assert!(pair.server_events().is_empty());
    assert_eq!(pair.server.open_streams(), 0);
}

#[test]
fn cancelling_reaches_the_server_and_late_answers_do_nothing() {
    let mut pair = Pair::new();
    let stream = pair.client.start_call("/a/b", &[]).unwrap();
    pair.turn();
    pair.server_events();
    pair.client.cancel(stream);
    pair.turn();
    assert!(matches!(pair.server_events()[..], [Event::Cancelled { .. }]));
    assert!(!pair.server.is_open(stream));
    pair.server.reply(stream, 1, |_| panic!("nobody asks any more"));
    pair.server.send_message(stream, 1, |_| panic!("nobody asks any more"));
    pair.server.finish(stream, &Status::ok());
    pair.server.reset(stream, ErrorCode::Cancel);
    assert!(pair.server.pending_output().is_empty());
    assert!(pair.client_events().is_empty());
}

#[test]
fn plain_http_requests_are_answered_as_such() {
    let mut wire = Wire::new();
    // GET http /: all in the static table.
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82\x86\x84");
    // POST with a body in two frames.
    wire.send(HEADERS, END_HEADERS, 3, b"\x83\x86\x04\x03/v3");
    wire.send(DATA, 0, 3, b"{\"key\":");
    wire.send(DATA, END_STREAM, 3, b"\"\"}");
    assert_eq!(wire.events(), ["1 http GET / ", "3 http POST /v3 {\"key\":\"\"}"]);
    wire.server.respond_http(
        StreamId(1),
        404,
        &[("content-type", "text/plain; charset=utf-8")],
        b"404 page not found\n",
    );
    let frames = wire.output();
    assert_eq!(frames[0].payload[0], 0x8d, ":status 404 is in the static table");
    assert_eq!(frames[1].payload, b"404 page not found\n");
    assert_eq!(
        frames[2],
        Frame {
            kind: DATA,
            flags: END_STREAM,
            stream: 1,
            payload: vec![]
        }
    );
    wire.server.begin_http(StreamId(3), 200, &[]);
    wire.server.write_piece(StreamId(3), b"{}\n");
    wire.server.write_piece(StreamId(3), b"{}\n");
    wire.server.end_http(StreamId(3));
    assert_eq!(wire.output().len(), 4);
    assert_eq!(wire.server.open_streams(), 0);
}

#[test]
fn a_plain_body_beyond_the_limit_is_413() {
    let mut wire = Wire::with(Limits {
        message_bytes_max: 10,
        ..Limits::default()
    });
    wire.send(HEADERS, END_HEADERS, 1, b"\x83\x86\x84");
    wire.send(DATA, 0, 1, b"12345678901");
    let kinds: Vec<u8> = wire.output().iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [HEADERS, DATA, RST_STREAM]);
    assert!(wire.events().is_empty());
}

#[test]
fn a_lost_connection_ends_every_call() {
    let mut pair = Pair::new();
    pair.call(&[], b"x");
    pair.server_events();
    pair.server.hang_up();
    assert!(matches!(pair.server_events()[..], [Event::Cancelled { .. }]));
    assert!(pair.server.is_done());
    pair.client.hang_up();
    let Some(ClientEvent::End { status, .. }) = pair.client.next_event() else {
        panic!("no end")
    };
    assert_eq!(status, Status::new(Code::Unavailable, "transport is closing"));
}

#[test]
fn a_client_keeps_to_the_streams_it_may_open_and_to_goaway() {
    let mut pair = Pair::with(Limits {
        streams_max: 2,
        ..Limits::default()
    });
    let first = pair.call(&[], b"1");
    pair.call(&[], b"2");
    assert_eq!(pair.client.start_call("/a/b", &[]), None);
    pair.server_events();
    pair.server.reply(first, 0, |_| ());
    pair.client_events();
    pair.call(&[], b"3");
    pair.server.shutdown();
    let events = pair.client_events();
    assert!(matches!(events[..], [ClientEvent::GoAway]));
    assert_eq!(pair.client.start_call("/a/b", &[]), None);
    for event in pair.server_events() {
        if let Event::HalfClose { stream } = event {
            pair.server.reply(stream, 0, |_| ());
        }
    }
    pair.server.reply(StreamId(3), 0, |_| ());
    pair.turn();
    assert!(pair.server.is_done() && pair.client.is_done());
}

#[test]
fn metadata_larger_than_a_frame_travels_in_continuations() {
    let mut pair = Pair::new();
    let value = "~".repeat(20_000);
    pair.call(&[("token", &value)], b"x");
    let events = pair.server_events();
    let Event::Request { head, .. } = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(head.metadata("token").map(<[u8]>::len), Some(20_000));
}

#[test]
fn statuses_for_unknown_paths_have_the_texts_of_grpc_go() {
    let text = |path: &str| {
        Status::unimplemented(path, |service| service == "etcdserverpb.KV")
            .message
            .into_owned()
    };
    assert_eq!(
        text("/etcdserverpb.KV/Nope"),
        "unknown method Nope for service etcdserverpb.KV"
    );
    assert_eq!(text("/nope.X/Y"), "unknown service nope.X");
    assert_eq!(text("nope"), "malformed method name: \"nope\"");
}

#[test]
fn connections_may_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let pair = Pair::new();
    is_send(&pair.server);
    is_send(&pair.client);
}
