//! Property bodies over arbitrary bytes, for `cargo test` (with seeded bytes) and for fuzz targets alike.
//!
//! Each panics when its property does not hold; no input may make one panic otherwise.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::grpc::{ClientConn, ClientEvent, Code, Event, Limits, ServerConn, Status, StreamId};
use crate::h2::hpack::{Decoder, Encoder, Indexing};

/// What a connection may hold beyond four times what it was fed.
const HELD_BYTES_MAX: usize = 512 * 1024;

/// Reads decisions off the input; an exhausted input decides 0.
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// Decisions from these bytes.
    pub fn new(data: &'a [u8]) -> Choices<'a> {
        Choices { rest: data }
    }

    /// Whether all input is used.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        first
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        u32::from_be_bytes([0, self.byte(), self.byte(), self.byte()]) as usize % end.max(1)
    }

    /// Up to `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// A server fed arbitrary bytes, in arbitrary cuts, panics at none and holds a bounded amount of memory.
pub fn fuzz_server_bytes(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut server = ServerConn::new(small_limits(&mut choices), 0);
    if choices.byte() < 250 {
        server.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    }
    let mut now_ns = 0;
    while !choices.is_empty() {
        let len = 1 + choices.below(300);
        server.receive(choices.bytes(len));
        answer_all(&mut server, &mut choices);
        now_ns += choices.byte() as u64 * 1_000_000;
        turn_end(&mut server, &mut choices, now_ns);
        assert!(
            server.held_bytes() <= 4 * data.len() + HELD_BYTES_MAX,
            "{} bytes are held",
            server.held_bytes()
        );
    }
}

/// As [`fuzz_server_bytes`], with bytes that are mostly well-formed frames, so that more than the frame heads is
/// reached.
pub fn fuzz_server_frames(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut server = ServerConn::new(small_limits(&mut choices), 0);
    server.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let mut frames = Frames {
        next_stream: 1,
        encoder: Encoder::new(),
    };
    let mut fed = 0;
    let mut now_ns = 0;
    while !choices.is_empty() {
        let mut bytes = Vec::new();
        for _ in 0..1 + choices.below(6) {
            frames.put(&mut choices, &mut bytes);
        }
        fed += bytes.len();
        let cut = if choices.byte() < 64 {
            choices.below(bytes.len())
        } else {
            bytes.len()
        };
        server.receive(&bytes[..cut]);
        server.receive(&bytes[cut..]);
        answer_all(&mut server, &mut choices);
        now_ns += choices.byte() as u64 * 1_000_000;
        turn_end(&mut server, &mut choices, now_ns);
        assert!(
            server.held_bytes() <= 4 * fed + HELD_BYTES_MAX,
            "{} bytes are held",
            server.held_bytes()
        );
    }
}

/// What a peer's decoder makes of arbitrary bytes does not depend on how they are cut; it panics at none and holds no
/// more than it was fed.
pub fn fuzz_peer_bytes(data: &[u8]) {
    let mut choices = Choices::new(data);
    let frame_bytes_max = 1 + choices.below(1 << 16);
    let stream = match choices.byte() % 3 {
        0 => choices.rest.to_vec(),
        // A good head, so that more than the magic is reached.
        1 => peer_frames(&mut choices, false),
        _ => peer_frames(&mut choices, true),
    };
    let whole = peer_decoded(&stream, frame_bytes_max, |left| left);
    let mut cut = 0;
    let pieces = peer_decoded(&stream, frame_bytes_max, |left| {
        cut += 1;
        left.min(1 + data.get(cut % data.len()).map_or(0, |byte| usize::from(*byte)))
    });
    assert_eq!(whole, pieces, "the same bytes in other cuts");
}

/// Frames with arbitrary payloads; `damaged` breaks some of their heads.
fn peer_frames(choices: &mut Choices, damaged: bool) -> Vec<u8> {
    let mut out = Vec::new();
    while !choices.is_empty() && out.len() < 1 << 16 {
        let (kind, len) = (1 + choices.byte() % 6, choices.below(200));
        let payload = choices.bytes(len);
        let covered = [&[kind, 0, 0, 0], payload].concat();
        let at = out.len();
        out.extend_from_slice(&crate::peer::MAGIC);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
        out.extend_from_slice(&covered);
        if damaged && choices.byte() < 32 {
            out[at + choices.below(16)] ^= 1 << (choices.byte() % 8);
        }
    }
    out
}

/// The frames in `stream`, read in pieces of the length that `cut` picks, and the error that ends them.
fn peer_decoded(
    stream: &[u8],
    frame_bytes_max: usize,
    mut cut: impl FnMut(usize) -> usize,
) -> (Vec<crate::peer::Frame>, Option<crate::peer::FrameError>) {
    let mut decoder = crate::peer::Decoder::new(frame_bytes_max);
    let (mut frames, mut fed) = (Vec::new(), 0);
    while fed < stream.len() {
        let len = cut(stream.len() - fed);
        decoder.feed(&stream[fed..fed + len]);
        fed += len;
        loop {
            match decoder.take_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(without_what_was_found(error))),
            }
        }
    }
    (frames, None)
}

/// Of a wrong beginning only as much is told as had come.
fn without_what_was_found(error: crate::peer::FrameError) -> crate::peer::FrameError {
    match error {
        crate::peer::FrameError::Magic { .. } => crate::peer::FrameError::Magic { found: [0; 4] },
        other => other,
    }
}

/// A client fed arbitrary bytes panics at none.
pub fn fuzz_client_bytes(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut client = ClientConn::new(small_limits(&mut choices), "http", "a", 0);
    if choices.byte() < 250 {
        client.receive(b"\0\0\0\x04\0\0\0\0\0");
    }
    while !choices.is_empty() {
        if let Some(stream) = client.start_call("/a/b", &[]) {
            client.send_message(stream, 3, |out| out.extend_from_slice(b"abc"));
        }
        let len = 1 + choices.below(300);
        client.receive(choices.bytes(len));
        while client.next_event().is_some() {}
        client.advance_output(client.pending_output().len());
    }
}

/// Arbitrary header blocks decode or fail, and never give more than the limit.
pub fn fuzz_hpack_decode(data: &[u8]) {
    const LIST_BYTES_MAX: usize = 4096;
    let mut choices = Choices::new(data);
    let mut decoder = Decoder::new(4096, LIST_BYTES_MAX);
    while !choices.is_empty() {
        let len = choices.below(400);
        let Ok(decoded) = decoder.decode(choices.bytes(len)) else {
            return;
        };
        let size: usize = decoded
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum();
        assert!(size <= LIST_BYTES_MAX, "the list is of {size} bytes");
    }
}

/// Whatever lists are encoded, under whatever table sizes, the decoder finds the same.
pub fn fuzz_hpack_round_trip(data: &[u8]) {
    const NAMES: [&str; 6] = [
        ":path",
        "content-type",
        "grpc-status",
        "token",
        "x",
        "a-long-name-of-some-octets",
    ];
    let mut choices = Choices::new(data);
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(4096, 1 << 20);
    while !choices.is_empty() {
        if choices.byte() < 32 {
            encoder.allow_capacity(choices.below(4097) as u32);
        }
        let fields: Vec<_> = (0..choices.below(8))
            .map(|_| {
                let name = NAMES[choices.below(NAMES.len())];
                let len = choices.below(64);
                let indexing = [Indexing::Keep, Indexing::Pass, Indexing::Never][choices.below(3)];
                (name.as_bytes(), choices.bytes(len), indexing)
            })
            .collect();
        let mut block = BytesMut::new();
        encoder.encode(fields.iter().copied(), &mut block);
        let decoded = decoder.decode(&block).expect("what the encoder writes can be decoded");
        let found: Vec<_> = decoded.headers.iter().collect();
        let sent: Vec<_> = fields.iter().map(|&(name, value, _)| (name, value)).collect();
        assert_eq!(found, sent);
    }
}

/// Client and server exchange calls over a stream of bytes cut at random, with random windows: every message arrives
/// once, whole and in order, and every call ends with the status it was given.
pub fn fuzz_round_trip(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut exchange = Exchange::new(&mut choices);
    while !choices.is_empty() {
        exchange.act(&mut choices);
        exchange.carry(&mut choices);
    }
    exchange.finish();
}

fn small_limits(choices: &mut Choices<'_>) -> Limits {
    Limits {
        message_bytes_max: 100_000,
        stream_window_bytes: 1 + choices.below(100_000) as u32,
        connection_window_bytes: 65_535 + choices.below(100_000) as u32,
        low_water_bytes: 1 + choices.below(1000),
        queued_bytes_max: 1 + choices.below(200_000),
        ..Limits::default()
    }
}

/// Answers every event in one of the ways a server may.
fn answer_all(server: &mut ServerConn, choices: &mut Choices<'_>) {
    server.begin_turn();
    while let Some(event) = server.next_event() {
        match event {
            Event::Request { stream, head } => {
                assert!(head.path().len() <= 65_536);
                match choices.byte() {
                    0..4 => server.finish(stream, &Status::unimplemented(head.path(), |_| false)),
                    4..8 => server.reset(stream, crate::grpc::ErrorCode::InternalError),
                    8..12 => server.send_headers(stream, &[("a", "b")]),
                    _ => {}
                }
            }
            Event::Message { stream, message } => match choices.byte() {
                0..128 => server.reply(stream, message.len(), |out| out.extend_from_slice(&message)),
                128..200 => server.send_message(stream, 0, |out| out.extend_from_slice(&message)),
                200..204 => {
                    server.begin_message(stream, 10);
                    server.write_piece(stream, b"abc");
                    server.finish(stream, &Status::ok());
                }
                _ => {}
            },
            Event::HalfClose { stream } => server.finish(stream, &Status::new(Code::NotFound, "n\u{e9}")),
            Event::Http { stream, body, .. } => server.respond_http(stream, 200, &[], &body),
            Event::Cancelled { .. } | Event::Writable { .. } => {}
        }
    }
}

fn turn_end(server: &mut ServerConn, choices: &mut Choices<'_>, now_ns: u64) {
    if choices.byte() < 2 {
        server.shutdown();
    }
    let deadline_ns = server.on_time(now_ns);
    assert!(deadline_ns > now_ns);
    let pending = server.pending_output().len();
    let taken = if choices.byte() < 64 {
        choices.below(pending + 1)
    } else {
        pending
    };
    server.advance_output(taken);
}

/// Makes frames of which most are legal.
struct Frames {
    next_stream: u32,
    encoder: Encoder,
}

impl Frames {
    fn put(&mut self, choices: &mut Choices<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        let old = 1 + 2 * (choices.below(self.next_stream as usize) as u32 / 2);
        match choices.byte() {
            0..96 => {
                let stream = self.next_stream;
                self.next_stream += 2;
                let block = self.block(choices);
                put_frame(out, 1, [4, 5][choices.below(2)], stream, &block);
            }
            96..160 => {
                let message = choices.bytes(20);
                let mut payload = vec![0, 0, 0, 0, message.len() as u8];
                payload.extend_from_slice(message);
                put_frame(out, 0, choices.byte() & 1, old, &payload);
            }
            160..168 => put_frame(out, 3, 0, old, &[0, 0, 0, 8]),
            168..184 => {
                let number = 1 + choices.below(70_000) as u32;
                put_frame(out, 8, 0, [0, old][choices.below(2)], &number.to_be_bytes());
            }
            184..192 => put_frame(out, 6, 0, 0, &[1; 8]),
            192..200 => {
                let mut setting = vec![0, [1, 3, 4][choices.below(3)]];
                setting.extend_from_slice(&(choices.below(100_000) as u32).to_be_bytes());
                put_frame(out, 4, 0, 0, &setting);
            }
            200..208 => put_frame(out, 7, 0, 0, &[0; 8]),
            208..224 => {
                let block = self.block(choices);
                let cut = choices.below(block.len());
                put_frame(out, 1, 0, self.next_stream, &block[..cut]);
                put_frame(out, 9, 4, self.next_stream, &block[cut..]);
                self.next_stream += 2;
            }
            224..240 => {
                let len = choices.below(20);
                put_frame(out, 0, 8 | choices.byte() & 1, old, choices.bytes(len));
            }
            _ => {
                let (kind, flags, len) = (choices.byte() % 12, choices.byte(), choices.below(20));
                put_frame(out, kind, flags, old, choices.bytes(len));
            }
        }
        if choices.byte() < 4 {
            let place = start + choices.below(out.len() - start);
            out[place] ^= 1 << choices.below(8);
        }
    }

    fn block(&mut self, choices: &mut Choices<'_>) -> Vec<u8> {
        const FIELDS: [(&str, &str); 6] = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/etcdserverpb.KV/Put"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "1S"),
            ("content-length", "5"),
        ];
        let count = if choices.byte() < 200 {
            4
        } else {
            choices.below(FIELDS.len() + 1)
        };
        let mut block = BytesMut::new();
        let fields = FIELDS[..count]
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes(), Indexing::Keep));
        self.encoder.encode(fields, &mut block);
        block.to_vec()
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let mut head = BytesMut::new();
    crate::h2::put_frame_head(kind, flags, stream, payload.len(), &mut head);
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
}

/// A client, a server, the bytes between them, and what must still arrive.
struct Exchange {
    client: ClientConn,
    server: ServerConn,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    calls: Vec<Call>,
    now_ns: u64,
}

struct Call {
    stream: StreamId,
    half_closed: bool,
    /// Messages sent and not yet arrived.
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
    status: Option<Status>,
    ended: bool,
}

impl Exchange {
    fn new(choices: &mut Choices<'_>) -> Exchange {
        let mut limits = || Limits {
            queued_bytes_max: 1 << 30,
            ..small_limits(choices)
        };
        Exchange {
            server: ServerConn::new(limits(), 0),
            client: ClientConn::new(limits(), "http", "host", 0),
            to_server: Vec::new(),
            to_client: Vec::new(),
            calls: Vec::new(),
            now_ns: 0,
        }
    }

    /// One thing that client or server may do.
    fn act(&mut self, choices: &mut Choices<'_>) {
        let choice = choices.byte();
        if choice < 32 {
            if let Some(stream) = self
                .client
                .start_call(["/a/b", "/c/d"][choices.below(2)], &[("token", "t")])
            {
                let (up, down) = Default::default();
                self.calls.push(Call {
                    stream,
                    half_closed: false,
                    up,
                    down,
                    status: None,
                    ended: false,
                });
            }
            return;
        }
        let place = choices.below(self.calls.len());
        let Some(call) = self.calls.get_mut(place) else { return };
        let len = if choices.byte() < 16 {
            choices.below(50_000)
        } else {
            choices.below(600)
        };
        let message = vec![choice; len];
        let known = self.server.is_open(call.stream);
        match choice {
            32..128 if !call.half_closed => {
                call.half_closed = choice < 48;
                call.up.push_back(message.clone());
                match call.half_closed {
                    true => self
                        .client
                        .send_last_message(call.stream, len / 2, |out| out.extend_from_slice(&message)),
                    false => self
                        .client
                        .send_message(call.stream, len, |out| out.extend_from_slice(&message)),
                }
            }
            128..144 if !call.half_closed => {
                call.half_closed = true;
                self.client.half_close(call.stream);
            }
            144..220 if known => {
                call.down.push_back(message.clone());
                self.server
                    .send_message(call.stream, len, |out| out.extend_from_slice(&message));
            }
            220..240 if known => {
                call.down.push_back(message.clone());
                self.server.begin_message(call.stream, len as u32);
                for piece in message.chunks(1000) {
                    self.server.write_piece(call.stream, piece);
                }
            }
            // The server ends a call only once all of it has come, else what is on its way is rightly lost.
            240..250 if known && call.half_closed && call.up.is_empty() => {
                let status = Status::new(Code::from_number(choices.below(17) as u32), "100 % \u{e9}");
                self.server.finish(call.stream, &status);
                call.status = Some(status);
            }
            250.. if known && call.half_closed && call.up.is_empty() => {
                call.down.push_back(message.clone());
                self.server
                    .reply(call.stream, len / 3, |out| out.extend_from_slice(&message));
                call.status = Some(Status::ok());
            }
            _ => {}
        }
    }

    /// Moves some bytes each way.
    fn carry(&mut self, choices: &mut Choices<'_>) {
        let up = choices.below(self.client.pending_output().len() + 1);
        self.to_server.extend_from_slice(&self.client.pending_output()[..up]);
        self.client.advance_output(up);
        let down = choices.below(self.server.pending_output().len() + 1);
        self.to_client.extend_from_slice(&self.server.pending_output()[..down]);
        self.server.advance_output(down);
        let cut = choices.below(self.to_server.len() + 1);
        self.server.receive(&self.to_server[..cut]);
        self.to_server.drain(..cut);
        let cut = choices.below(self.to_client.len() + 1);
        self.client.receive(&self.to_client[..cut]);
        self.to_client.drain(..cut);
        // A second of time, so that the many small window updates of small windows are no attack.
        self.now_ns += 1_000_000_000;
        self.server.on_time(self.now_ns);
        self.client.on_time(self.now_ns);
        self.take_events();
    }

    fn take_events(&mut self) {
        while let Some(event) = self.server.next_event() {
            match event {
                Event::Message { stream, message } => {
                    let call = call_of(&mut self.calls, stream);
                    assert_eq!(call.up.pop_front().expect("it was sent"), message);
                }
                Event::HalfClose { stream } => assert!(call_of(&mut self.calls, stream).half_closed),
                Event::Request { .. } | Event::Writable { .. } => {}
                other => panic!("{other:?}: {:?}", self.server.close_reason()),
            }
        }
        while let Some(event) = self.client.next_event() {
            match event {
                ClientEvent::Message { stream, message } => {
                    let call = call_of(&mut self.calls, stream);
                    assert_eq!(call.down.pop_front().expect("it was sent"), message);
                }
                ClientEvent::End { stream, status } => {
                    let call = call_of(&mut self.calls, stream);
                    assert_eq!(Some(&status), call.status.as_ref());
                    assert!(
                        call.down.is_empty() && !call.ended,
                        "a call ends once, behind its messages"
                    );
                    call.ended = true;
                }
                ClientEvent::Headers { .. } | ClientEvent::Writable { .. } => {}
                ClientEvent::GoAway => panic!("the server gave up: {:?}", self.server.close_reason()),
            }
        }
    }

    /// Ends every call and moves all bytes; then nothing may be missing.
    fn finish(&mut self) {
        for _ in 0..1_000_000 {
            let all = [0xff; 64];
            for place in 0..self.calls.len() {
                let call = &mut self.calls[place];
                if !call.half_closed {
                    call.half_closed = true;
                    self.client.half_close(call.stream);
                }
                if call.status.is_none() && call.up.is_empty() && self.server.is_open(call.stream) {
                    self.server.finish(call.stream, &Status::ok());
                    call.status = Some(Status::ok());
                }
            }
            self.client_to_server();
            self.carry(&mut Choices::new(&all));
            if self.calls.iter().all(|call| call.ended) {
                assert_eq!((self.client.open_streams(), self.server.open_streams()), (0, 0));
                return;
            }
        }
        panic!("the exchange does not come to its end");
    }

    fn client_to_server(&mut self) {
        self.to_server.extend_from_slice(self.client.pending_output());
        self.client.advance_output(self.client.pending_output().len());
        self.to_client.extend_from_slice(self.server.pending_output());
        self.server.advance_output(self.server.pending_output().len());
        self.server.receive(&std::mem::take(&mut self.to_server));
        self.client.receive(&std::mem::take(&mut self.to_client));
    }
}

fn call_of(calls: &mut [Call], stream: StreamId) -> &mut Call {
    calls
        .iter_mut()
        .find(|call| call.stream == stream)
        .expect("only streams that were opened are heard of")
}
