//! The server's end of a connection.

use bytes::{Bytes, BytesMut};

use super::gzip;
use super::message::{put_message, put_packed, put_prefix};
use super::status::percent_encode;
use super::{CloseReason, Code, ErrorCode, HttpHead, Limits, MESSAGE_PREFIX_BYTES, RequestHead, Status, StreamId};
use crate::h2::{BlockMemo, Connection, FRAME_PAYLOAD_BYTES_MAX, Indexing, Role, Slot};

mod calls;

use calls::{Call, Calls, Phase};

/// What a client asked, in the order it asked.
#[derive(Debug)]
pub enum Event {
    /// A call began. Its messages follow.
    Request {
        /// The stream of the call.
        stream: StreamId,
        /// Path, timeout and metadata.
        head: RequestHead,
    },
    /// One whole message of a call. It shares memory with its neighbours (at most 16 KiB beyond its own length), so
    /// what lives for long had better be copied.
    Message {
        /// The stream of the call.
        stream: StreamId,
        /// The message without its prefix.
        message: Bytes,
    },
    /// The client will send no more messages on this stream.
    HalfClose {
        /// The stream of the call.
        stream: StreamId,
    },
    /// The call is over: the client reset it, it broke the protocol, or the connection failed. Nothing sent on it
    /// arrives any more.
    Cancelled {
        /// The stream of the call.
        stream: StreamId,
    },
    /// What was queued for this stream had reached [`Limits::low_water_bytes`] and fell below it again.
    Writable {
        /// The stream of the call.
        stream: StreamId,
    },
    /// A whole plain HTTP/2 request (its content type is not gRPC), to be answered with `respond_http`.
    Http {
        /// The stream of the request.
        stream: StreamId,
        /// Method, path and headers.
        head: HttpHead,
        /// The body; at most [`Limits::message_bytes_max`] long.
        body: Bytes,
    },
}

/// The server's end of one connection.
pub struct ServerConn {
    h2: Connection<Call>,
    calls: Calls,
    answers: Answers,
}

/// Header blocks that every answer repeats.
#[derive(Default)]
struct Answers {
    head: BlockMemo,
    gzip_head: BlockMemo,
    ok: BlockMemo,
}

type Field<'a> = (&'a [u8], &'a [u8], Indexing);

/// Source: gRPC over HTTP2, "Response-Headers"; the fields and their order are grpc-go's.
const HEAD: [Field<'static>; 2] = [
    (b":status", b"200", Indexing::Keep),
    (b"content-type", b"application/grpc", Indexing::Keep),
];
const GZIP_HEAD: [Field<'static>; 3] = [HEAD[0], HEAD[1], (b"grpc-encoding", gzip::NAME, Indexing::Keep)];
const OK: [Field<'static>; 1] = [(b"grpc-status", b"0", Indexing::Keep)];

impl ServerConn {
    /// A fresh connection; its SETTINGS are pending output at once.
    ///
    /// Units: `now_ns` is nanoseconds of a monotonic clock with any origin, here and in [`on_time`](Self::on_time).
    pub fn new(limits: Limits, now_ns: u64) -> ServerConn {
        ServerConn {
            h2: Connection::new(Role::Server, limits, now_ns),
            calls: Calls::default(),
            answers: Answers::default(),
        }
    }

    /// Takes bytes from the socket, starting with the client's preface; any cut is fine.
    pub fn receive(&mut self, input: &[u8]) {
        self.h2.receive(input, &mut self.calls);
    }

    /// The socket was closed or broke: every open call is `Cancelled`, and the connection is done.
    pub fn hang_up(&mut self) {
        self.h2.break_off(CloseReason::Disconnected, &mut self.calls);
    }

    /// The next event, if any.
    ///
    /// Bounds: while more than [`Limits::queued_bytes_max`] of answers wait for the client to read, requests and their
    /// messages are withheld, and flow control then stops the client. Ask again after `advance_output` and `receive`.
    /// Of compressed messages a turn brings some 64 KiB, or one that is longer: see [`wants_turn`](Self::wants_turn).
    pub fn next_event(&mut self) -> Option<Event> {
        while let Some(id) = self.h2.take_writable() {
            let Some(slot) = self.h2.find(id) else { continue };
            if self.h2.user(slot).phase.is_answerable() {
                return Some(Event::Writable { stream: StreamId(id) });
            }
        }
        if self.h2.queued_total() > self.h2.limits().queued_bytes_max || self.calls.is_tired() {
            return None;
        }
        self.calls.next(&mut self.h2)
    }

    /// A turn begins: compressed messages may be unpacked again.
    pub fn begin_turn(&mut self) {
        self.calls.begin_turn();
    }

    /// Whether events are withheld until the next [`begin_turn`](Self::begin_turn), which nothing else will bring about.
    pub fn wants_turn(&self) -> bool {
        self.calls.is_tired() && !self.calls.is_empty()
    }

    /// Whether events wait, withheld or not.
    pub fn has_events(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Answers a unary call with one message and status OK, and ends it. `write` appends the message, straight into the
    /// output where the windows allow; `len_hint` is its expected length.
    #[inline]
    pub fn reply(&mut self, stream: StreamId, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        let Some(slot) = self.begin(stream) else { return };
        self.calls.let_go(&mut self.h2, slot);
        self.put(slot, len_hint, write);
        self.h2.send_trailers(slot, Some(&mut self.answers.ok), || OK);
    }

    /// Sends one message and leaves the call open. `write` appends the message; `len_hint` is its expected length.
    pub fn send_message(&mut self, stream: StreamId, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        let Some(slot) = self.begin(stream) else { return };
        self.put(slot, len_hint, write);
    }

    /// Sends one message, compressed if the client's are.
    #[inline]
    fn put(&mut self, slot: Slot, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        let hint = len_hint + MESSAGE_PREFIX_BYTES;
        if !self.h2.user(slot).is_gzip {
            return self.h2.send_data(slot, hint, false, |out| put_message(out, write));
        }
        let mut message = BytesMut::with_capacity(len_hint);
        write(&mut message);
        let packed = gzip::pack(&message);
        let hint = packed.len() + MESSAGE_PREFIX_BYTES;
        self.h2.send_data(slot, hint, false, |out| put_packed(out, &packed));
    }

    /// Begins a message of exactly `len` bytes, which [`write_piece`](Self::write_piece) then brings. Pace the pieces:
    /// stop when [`queued`](Self::queued) reaches [`Limits::low_water_bytes`] and go on at `Writable`. Such a message is
    /// never compressed, since its compressed length would have to come first.
    pub fn begin_message(&mut self, stream: StreamId, len: u32) {
        let Some(slot) = self.begin(stream) else { return };
        self.h2.user(slot).owed_bytes = len as u64;
        self.h2
            .send_data(slot, MESSAGE_PREFIX_BYTES, false, |out| put_prefix(out, len));
    }

    /// Sends the next bytes of the message begun, or of a plain HTTP body; they are copied.
    pub fn write_piece(&mut self, stream: StreamId, piece: &[u8]) {
        let Some(slot) = self.take_owed(stream, piece.len()) else {
            return;
        };
        for part in piece.chunks(FRAME_PAYLOAD_BYTES_MAX) {
            self.h2
                .send_data(slot, part.len(), false, |out| out.extend_from_slice(part));
        }
    }

    /// As [`write_piece`](Self::write_piece), for bytes that need no copy until they go out.
    pub fn write_bytes(&mut self, stream: StreamId, piece: Bytes) {
        let Some(slot) = self.take_owed(stream, piece.len()) else {
            return;
        };
        self.h2.send_bytes(slot, piece, false);
    }

    /// The slot of a stream in the middle of a message that still lacks at least `len` bytes.
    fn take_owed(&mut self, stream: StreamId, len: usize) -> Option<Slot> {
        let slot = self.h2.find(stream.0)?;
        let call = self.h2.user(slot);
        match call.phase {
            Phase::Grpc => {
                let owed = call.owed_bytes.checked_sub(len as u64);
                call.owed_bytes = owed.expect("the pieces of a message are no longer than it was said to be");
            }
            Phase::HttpAnswer => {}
            _ => return None,
        }
        Some(slot)
    }

    /// Sends response metadata (names in lower case) ahead of the first message. Without it the first message brings
    /// the usual headers.
    pub fn send_headers(&mut self, stream: StreamId, metadata: &[(&str, &str)]) {
        let Some(slot) = self.h2.find(stream.0) else { return };
        let call = self.h2.user(slot);
        if call.phase != Phase::Grpc || std::mem::replace(&mut call.head_sent, true) {
            return;
        }
        let head = if call.is_gzip { &GZIP_HEAD[..] } else { &HEAD[..] };
        let extra = metadata
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes(), Indexing::Pass));
        self.h2.send_head(slot, false, |encoder, out| {
            encoder.encode(head.iter().copied().chain(extra), out)
        });
    }

    /// The slot of a gRPC call that may be answered, its response headers sent.
    #[inline]
    fn begin(&mut self, stream: StreamId) -> Option<Slot> {
        let slot = self.h2.find(stream.0)?;
        let call = self.h2.user(slot);
        if call.phase != Phase::Grpc {
            return None;
        }
        assert_eq!(
            call.owed_bytes, 0,
            "a message is sent whole before the next thing is said on its stream"
        );
        if !std::mem::replace(&mut call.head_sent, true) {
            let is_gzip = call.is_gzip;
            let Answers { head, gzip_head, .. } = &mut self.answers;
            self.h2.send_head(slot, false, |encoder, out| {
                if is_gzip {
                    encoder.encode_memo(gzip_head, || GZIP_HEAD, out)
                } else {
                    encoder.encode_memo(head, || HEAD, out)
                }
            });
        }
        Some(slot)
    }

    /// Bytes queued for this stream that have not reached the output; 0 for a stream not open.
    pub fn queued(&self, stream: StreamId) -> usize {
        self.h2.queued(stream.0)
    }

    /// Bytes queued for all streams together, without the pending output.
    pub fn queued_total(&self) -> usize {
        self.h2.queued_total()
    }

    /// Whether the stream can still be answered.
    pub fn is_open(&mut self, stream: StreamId) -> bool {
        let slot = self.h2.find(stream.0);
        slot.is_some_and(|slot| self.h2.user(slot).phase.is_answerable())
    }

    /// Ends a call with a status, after what is queued for it; headers and trailers are one when nothing was sent.
    /// A message begun and not brought whole makes it a reset with INTERNAL_ERROR instead.
    pub fn finish(&mut self, stream: StreamId, status: &Status) {
        let Some(slot) = self.h2.find(stream.0) else { return };
        if self.h2.user(slot).phase == Phase::Grpc {
            calls::finish(&mut self.h2, &mut self.calls, slot, status, &mut self.answers.ok);
        }
    }

    /// Answers a plain HTTP/2 request and ends it; `headers` without `content-length`, which is added.
    pub fn respond_http(&mut self, stream: StreamId, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let length = body.len().to_string();
        let mut all = headers.to_vec();
        all.push(("content-length", &length));
        self.begin_http(stream, status, &all);
        self.write_piece(stream, body);
        self.end_http(stream);
    }

    /// Begins an answer to a plain HTTP/2 request whose body comes by [`write_piece`](Self::write_piece) and
    /// [`end_http`](Self::end_http); `headers` have names in lower case.
    pub fn begin_http(&mut self, stream: StreamId, status: u16, headers: &[(&str, &str)]) {
        let Some(slot) = self.h2.find(stream.0) else { return };
        let call = self.h2.user(slot);
        if call.phase != Phase::Http {
            return;
        }
        call.phase = Phase::HttpAnswer;
        calls::put_http_head(&mut self.h2, slot, status, headers);
    }

    /// Ends the answer begun by [`begin_http`](Self::begin_http).
    pub fn end_http(&mut self, stream: StreamId) {
        let Some(slot) = self.h2.find(stream.0) else { return };
        if self.h2.user(slot).phase == Phase::HttpAnswer {
            self.calls.let_go(&mut self.h2, slot);
            self.h2.send_end(slot);
        }
    }

    /// Gives the stream up with that error code and drops what is queued for it.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        let Some(slot) = self.h2.find(stream.0) else { return };
        self.calls.let_go(&mut self.h2, slot);
        self.h2.reset(slot, code);
    }

    /// Announces the end (GOAWAY): new calls are refused after a grace of one round trip, open ones go on.
    /// [`is_done`](Self::is_done) once the last has ended.
    pub fn shutdown(&mut self) {
        self.h2.shutdown();
    }

    /// What must go to the socket next.
    pub fn pending_output(&self) -> &[u8] {
        self.h2.pending_output()
    }

    /// Drops the first `n` bytes of the pending output, which the socket has taken, and refills it from the queues.
    pub fn advance_output(&mut self, n: usize) {
        self.h2.advance_output(n);
    }

    /// Whether the socket is to be closed: the connection failed or was shut down, no stream is open, and all output
    /// is taken.
    pub fn is_done(&self) -> bool {
        self.h2.is_done()
    }

    /// Why the connection ends, once it does.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.h2.close_reason()
    }

    /// Tells the time, and returns when to tell it next at the latest (nanoseconds of the same clock).
    pub fn on_time(&mut self, now_ns: u64) -> u64 {
        self.h2.on_time(now_ns, &mut self.calls)
    }

    /// When to tell the time next, at the latest: sooner, perhaps, since something was received.
    pub fn deadline_ns(&self) -> u64 {
        self.h2.deadline_ns()
    }

    /// Streams open now.
    pub fn open_streams(&self) -> usize {
        self.h2.open_streams()
    }

    /// Memory this connection holds for buffers and queues, without the fixed part of each stream.
    #[doc(hidden)]
    pub fn held_bytes(&self) -> usize {
        self.h2.held_bytes() + self.calls.held_bytes()
    }
}
