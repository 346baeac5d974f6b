//! The client's end of a connection: for load generators, tools and tests.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::message::{Assembly, Cut, Rules, SharedCopy, put_message};
use super::status::percent_decode;
use super::{CloseReason, Code, ErrorCode, Headers, Limits, MESSAGE_PREFIX_BYTES, Status, StreamId};
use crate::h2::{self, BlockMemo, Connection, Data, Handler, Indexing, Role, Slot};

/// What the server answered.
#[derive(Debug)]
pub enum ClientEvent {
    /// The response headers of a call.
    Headers {
        /// The stream of the call.
        stream: StreamId,
        /// The fields, `:status` included.
        headers: Arc<Headers>,
    },
    /// One whole message.
    Message {
        /// The stream of the call.
        stream: StreamId,
        /// The message without its prefix.
        message: Bytes,
    },
    /// The call is over; nothing follows on this stream.
    End {
        /// The stream of the call.
        stream: StreamId,
        /// How it ended; `trailers` holds the other trailers.
        status: Status,
    },
    /// What was queued for this stream fell below [`Limits::low_water_bytes`] again.
    Writable {
        /// The stream of the call.
        stream: StreamId,
    },
    /// The server takes no new calls on this connection.
    GoAway,
}

/// The client's end of one connection.
pub struct ClientConn {
    h2: Connection<Call>,
    calls: Calls,
    scheme: String,
    authority: String,
    /// The header blocks of the calls made last, by path and metadata.
    memo: Vec<(Vec<u8>, BlockMemo)>,
    memo_next: usize,
    key: Vec<u8>,
}

/// Kinds of calls whose header blocks are remembered.
const MEMO_ENTRIES: usize = 16;

/// Longer values are not worth a place in the table.
const KEEP_BYTES_MAX: usize = 256;

impl ClientConn {
    /// A fresh connection to `authority`; the preface is pending output at once. `scheme` is `http` or `https`.
    pub fn new(limits: Limits, scheme: &str, authority: &str, now_ns: u64) -> ClientConn {
        ClientConn {
            h2: Connection::new(Role::Client, limits, now_ns),
            calls: Calls::default(),
            scheme: scheme.into(),
            authority: authority.into(),
            memo: Vec::new(),
            memo_next: 0,
            key: Vec::new(),
        }
    }

    /// Takes bytes from the socket; any cut is fine.
    pub fn receive(&mut self, input: &[u8]) {
        self.h2.receive(input, &mut self.calls);
    }

    /// The socket was closed or broke: every open call ends with `Unavailable`, and the connection is done.
    pub fn hang_up(&mut self) {
        self.h2.break_off(CloseReason::Disconnected, &mut self.calls);
    }

    /// The next event, if any.
    pub fn next_event(&mut self) -> Option<ClientEvent> {
        if let Some(id) = self.h2.take_writable() {
            return Some(ClientEvent::Writable { stream: StreamId(id) });
        }
        let (event, credit) = self.calls.events.pop_front()?;
        if let (ClientEvent::Message { stream, .. }, 1..) = (&event, credit) {
            self.h2.credit(stream.0, credit);
        }
        Some(event)
    }

    /// Starts a call with that metadata (names in lower case, values in wire form); `None` while the connection takes
    /// no more: the server's limit of streams is reached, or it is going away.
    pub fn start_call(&mut self, path: &str, metadata: &[(&str, &str)]) -> Option<StreamId> {
        let slot = self.h2.open_stream()?;
        let id = StreamId(self.h2.stream_id(slot));
        let memo = self.memo_of(path, metadata);
        let keep = |name: &str, value: &str| {
            let is_new_each_time = name == "grpc-timeout" || value.len() > KEEP_BYTES_MAX;
            if is_new_each_time {
                Indexing::Pass
            } else {
                Indexing::Keep
            }
        };
        let fields = || {
            let fixed = [
                (":method", "POST"),
                (":scheme", &self.scheme),
                (":path", path),
                (":authority", &self.authority),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ];
            let all = fixed.into_iter().chain(metadata.iter().copied());
            all.map(move |(name, value)| (name.as_bytes(), value.as_bytes(), keep(name, value)))
        };
        let memo = &mut self.memo[memo].1;
        self.h2
            .send_head(slot, false, |encoder, out| encoder.encode_memo(memo, fields, out));
        Some(id)
    }

    /// The place of the block for such a call.
    fn memo_of(&mut self, path: &str, metadata: &[(&str, &str)]) -> usize {
        self.key.clear();
        self.key.extend_from_slice(path.as_bytes());
        for (name, value) in metadata {
            // Neither byte is allowed in a name or a value.
            for part in [&b"\0"[..], name.as_bytes(), b"\n", value.as_bytes()] {
                self.key.extend_from_slice(part);
            }
        }
        if let Some(place) = self.memo.iter().position(|(key, _)| *key == self.key) {
            return place;
        }
        let entry = (self.key.clone(), BlockMemo::default());
        if self.memo.len() < MEMO_ENTRIES {
            self.memo.push(entry);
            return self.memo.len() - 1;
        }
        self.memo_next = (self.memo_next + 1) % MEMO_ENTRIES;
        self.memo[self.memo_next] = entry;
        self.memo_next
    }

    /// Sends one message; `write` appends it.
    pub fn send_message(&mut self, stream: StreamId, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        self.send(stream, len_hint, false, write);
    }

    /// Sends one message and says that it is the last, in one frame where it fits.
    pub fn send_last_message(&mut self, stream: StreamId, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        self.send(stream, len_hint, true, write);
    }

    fn send(&mut self, stream: StreamId, len_hint: usize, end: bool, write: impl FnOnce(&mut BytesMut)) {
        let Some(slot) = self.h2.find(stream.0) else { return };
        self.h2.send_data(slot, len_hint + MESSAGE_PREFIX_BYTES, end, |out| {
            put_message(out, write)
        });
    }

    /// Says that no more messages come.
    pub fn half_close(&mut self, stream: StreamId) {
        let Some(slot) = self.h2.find(stream.0) else { return };
        self.h2.send_end(slot);
    }

    /// Gives the call up (RST_STREAM CANCEL); no `End` follows.
    pub fn cancel(&mut self, stream: StreamId) {
        let Some(slot) = self.h2.find(stream.0) else { return };
        self.h2.reset(slot, ErrorCode::Cancel);
    }

    /// Bytes queued for this stream that have not reached the output.
    pub fn queued(&self, stream: StreamId) -> usize {
        self.h2.queued(stream.0)
    }

    /// What must go to the socket next.
    pub fn pending_output(&self) -> &[u8] {
        self.h2.pending_output()
    }

    /// Drops the first `n` bytes of the pending output, which the socket has taken, and refills it from the queues.
    pub fn advance_output(&mut self, n: usize) {
        self.h2.advance_output(n);
    }

    /// Says GOAWAY; [`is_done`](Self::is_done) once the open calls have ended.
    pub fn shutdown(&mut self) {
        self.h2.shutdown();
    }

    /// Whether the socket is to be closed.
    pub fn is_done(&self) -> bool {
        self.h2.is_done()
    }

    /// Why the connection ends, once it does.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.h2.close_reason()
    }

    /// Tells the time, and returns when to tell it next at the latest.
    pub fn on_time(&mut self, now_ns: u64) -> u64 {
        self.h2.on_time(now_ns, &mut self.calls)
    }

    /// Calls open now.
    pub fn open_streams(&self) -> usize {
        self.h2.open_streams()
    }
}

/// What is kept for each call.
#[derive(Debug, Default)]
struct Call {
    assembly: Assembly,
    /// `End` was told; what still comes is dropped.
    over: bool,
}

#[derive(Default)]
struct Calls {
    /// With the bytes of DATA to credit once the event is taken.
    events: VecDeque<(ClientEvent, u32)>,
    shared: SharedCopy,
}

impl Handler for Calls {
    type User = Call;

    fn begin_buffer(&mut self) {
        self.shared.forget();
    }

    fn event(&mut self, conn: &mut Connection<Call>, event: h2::Event<'_, Call>) {
        match event {
            h2::Event::Head { slot, headers, end } => self.on_head(conn, slot, headers, end),
            h2::Event::Data { slot, data, end } => self.on_data(conn, slot, data, end),
            h2::Event::Trailers { slot, headers } => self.end(conn, slot, status_of(&headers)),
            h2::Event::Reset { id, code, user } => {
                if !user.over {
                    let status = if conn.takes_calls() {
                        reset_status(code)
                    } else {
                        lost_status(code)
                    };
                    self.push(ClientEvent::End {
                        stream: StreamId(id),
                        status,
                    });
                }
            }
            h2::Event::GoAway => self.push(ClientEvent::GoAway),
        }
    }
}

impl Calls {
    fn push(&mut self, event: ClientEvent) {
        self.events.push_back((event, 0));
    }

    fn end(&mut self, conn: &mut Connection<Call>, slot: Slot, status: Status) {
        let stream = StreamId(conn.stream_id(slot));
        if !std::mem::replace(&mut conn.user(slot).over, true) {
            self.push(ClientEvent::End { stream, status });
        }
    }

    fn on_head(&mut self, conn: &mut Connection<Call>, slot: Slot, headers: Arc<Headers>, end: bool) {
        let http_status = headers.get(":status").unwrap_or_default();
        if headers.get("grpc-status").is_none() && (http_status != b"200" || end) {
            let status = http_status_of(http_status);
            self.end(conn, slot, status);
            if !end {
                conn.reset(slot, ErrorCode::Cancel);
            }
            return;
        }
        if end {
            return self.end(conn, slot, status_of(&headers));
        }
        let stream = StreamId(conn.stream_id(slot));
        self.push(ClientEvent::Headers { stream, headers });
    }

    fn on_data(&mut self, conn: &mut Connection<Call>, slot: Slot, data: Data<'_>, end: bool) {
        let stream = StreamId(conn.stream_id(slot));
        let len_max = conn.limits().message_bytes_max;
        let call = conn.user(slot);
        let mut owed = data.len as u32;
        let mut result = Ok(0);
        if !call.over {
            let events = &mut self.events;
            let rules = Rules {
                len_max,
                may_be_packed: false,
            };
            let emit = |Cut { message, credit, .. }: Cut| {
                owed -= credit;
                events.push_back((ClientEvent::Message { stream, message }, credit));
            };
            result = call.assembly.feed(&data, &mut self.shared, rules, emit);
        }
        conn.credit(stream.0, owed);
        if let Err(error) = result {
            self.end(
                conn,
                slot,
                Status::new(Code::Internal, format!("the answer is no gRPC message: {error:?}")),
            );
            return conn.reset(slot, ErrorCode::Cancel);
        }
        if end {
            let text = "server closed the stream without sending trailers";
            self.end(conn, slot, Status::new(Code::Internal, text));
        }
    }
}

/// The status in trailers, or in the one header list of an answer without messages.
fn status_of(headers: &Headers) -> Status {
    let number = headers
        .get("grpc-status")
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    let code = number.map_or(Code::Unknown, Code::from_number);
    let message = percent_decode(headers.get("grpc-message").unwrap_or_default());
    let others = headers.iter().filter(|(name, _)| {
        !name.starts_with(b":") && !matches!(*name, b"grpc-status" | b"grpc-message" | b"content-type")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let trailers = others.map(|(name, value)| (text(name), text(value))).collect();
    Status {
        code,
        message: message.into(),
        trailers,
    }
}

/// Source: gRPC "HTTP to gRPC Status Code Mapping".
fn http_status_of(http_status: &[u8]) -> Status {
    let code = match http_status {
        b"400" => Code::Internal,
        b"401" => Code::Unauthenticated,
        b"403" => Code::PermissionDenied,
        b"404" => Code::Unimplemented,
        b"429" | b"502" | b"503" | b"504" => Code::Unavailable,
        _ => Code::Unknown,
    };
    let shown = String::from_utf8_lossy(http_status);
    Status::new(
        code,
        format!("unexpected HTTP status code received from server: {shown}"),
    )
}

/// Source: gRPC over HTTP2, "Errors".
fn reset_status(code: u32) -> Status {
    let status_code = match code {
        7 => Code::Unavailable,
        8 => Code::Canceled,
        3 | 11 => Code::ResourceExhausted,
        12 => Code::PermissionDenied,
        _ => Code::Internal,
    };
    Status::new(
        status_code,
        format!("stream terminated by RST_STREAM with error code: {code}"),
    )
}

/// The status of a call that ended with its connection.
fn lost_status(code: u32) -> Status {
    let refused = code == ErrorCode::RefusedStream as u32;
    let text = if refused {
        "the server is going away and did not take the call"
    } else {
        "transport is closing"
    };
    Status::new(Code::Unavailable, text)
}
