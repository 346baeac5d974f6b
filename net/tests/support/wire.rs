//! A client made of bare frames, against a `ServerConn`.
#![allow(dead_code)]

use net::grpc::{CloseReason, ErrorCode, Event, Limits, ServerConn};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const HAS_PRIORITY: u8 = 0x20;

pub const SECOND_NS: u64 = 1_000_000_000;

/// A POST of gRPC to `/a/b`, of static entries and literals that no table keeps.
pub const GRPC_POST: &[u8] = b"\x83\x86\x04\x04/a/b\x0f\x10\x10application/grpc";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn message(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

pub struct Wire {
    pub server: ServerConn,
}

impl Wire {
    /// A connection whose preface and SETTINGS are exchanged.
    pub fn new() -> Wire {
        Wire::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Wire {
        let mut server = ServerConn::new(limits, 0);
        server.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut wire = Wire { server };
        wire.send(SETTINGS, 0, 0, &[]);
        wire.send(SETTINGS, ACK, 0, &[]);
        wire.output();
        wire
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.server.receive(&frame(kind, flags, stream, payload));
    }

    /// Opens a gRPC call on that stream.
    pub fn call(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, GRPC_POST);
    }

    /// All pending output as frames; it counts as written.
    pub fn output(&mut self) -> Vec<Frame> {
        let bytes = self.server.pending_output().to_vec();
        self.server.advance_output(bytes.len());
        let mut frames = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
            frames.push(Frame {
                kind: rest[3],
                flags: rest[4],
                stream: u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]),
                payload: rest[9..9 + len].to_vec(),
            });
            rest = &rest[9 + len..];
        }
        frames
    }

    pub fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.server.next_event())
            .map(|event| match event {
                Event::Request { stream, head } => format!("{} request {}", stream.0, head.path()),
                Event::Message { stream, message } => format!("{} message of {}", stream.0, message.len()),
                Event::HalfClose { stream } => format!("{} half-close", stream.0),
                Event::Cancelled { stream } => format!("{} cancelled", stream.0),
                Event::Writable { stream } => format!("{} writable", stream.0),
                Event::Http { stream, head, body } => {
                    format!(
                        "{} http {} {} {}",
                        stream.0,
                        head.method(),
                        head.path(),
                        String::from_utf8_lossy(&body)
                    )
                }
            })
            .collect()
    }

    /// The code of the GOAWAY or RST_STREAM that the output ends with, and whether it was a GOAWAY.
    pub fn verdict(&mut self) -> (bool, u32) {
        let frames = self.output();
        let last = frames.last().expect("something was said");
        match last.kind {
            RST_STREAM => (false, u32::from_be_bytes(last.payload[..4].try_into().unwrap())),
            GOAWAY => (true, u32::from_be_bytes(last.payload[4..8].try_into().unwrap())),
            _ => panic!("the output ends with {last:?}"),
        }
    }

    #[track_caller]
    pub fn expect_connection_error(&mut self, code: ErrorCode) {
        assert_eq!(self.verdict(), (true, code as u32));
        assert!(self.server.is_done(), "the connection is done once its GOAWAY is out");
        assert!(matches!(self.server.close_reason(), Some(CloseReason::Violation { code: c, .. }) if *c == code));
    }

    #[track_caller]
    pub fn expect_stream_error(&mut self, code: ErrorCode) {
        assert_eq!(self.verdict(), (false, code as u32));
        assert!(!self.server.is_done(), "the connection goes on");
    }
}
