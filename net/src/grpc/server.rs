//! The server's end of a connection.

use bytes::{Bytes, BytesMut};

use super::{CloseReason, ErrorCode, HttpHead, Limits, RequestHead, Status, StreamId};

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
    /// One whole message of a call. It shares memory with its neighbours (at most 16 KiB beyond its own length), so what
    /// lives for long had better be copied.
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
pub struct ServerConn {}

#[allow(unused_variables)]
impl ServerConn {
    /// A fresh connection; its SETTINGS are pending output at once.
    ///
    /// Units: `now_ns` is nanoseconds of a monotonic clock with any origin, here and in [`on_time`](Self::on_time).
    pub fn new(limits: Limits, now_ns: u64) -> ServerConn {
        todo!()
    }

    /// Takes bytes from the socket, starting with the client's preface; any cut is fine.
    pub fn receive(&mut self, input: &[u8]) {
        todo!()
    }

    /// The next event, if any.
    ///
    /// Bounds: while more than [`Limits::queued_bytes_max`] of answers wait for the client to read, requests and their
    /// messages are withheld, and flow control then stops the client.
    pub fn next_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// Answers a unary call with one message and status OK, and ends it. `write` appends the message, straight into the
    /// output where the windows allow; `len_hint` is its expected length.
    pub fn reply(&mut self, stream: StreamId, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        todo!()
    }

    /// Sends one message and leaves the call open. `write` appends the message; `len_hint` is its expected length.
    pub fn send_message(&mut self, stream: StreamId, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        todo!()
    }

    /// Begins a message of exactly `len` bytes, which [`write_piece`](Self::write_piece) then brings. Pace the pieces:
    /// stop when [`queued`](Self::queued) reaches [`Limits::low_water_bytes`] and go on at `Writable`.
    pub fn begin_message(&mut self, stream: StreamId, len: u32) {
        todo!()
    }

    /// Sends the next bytes of the message begun; they are copied.
    pub fn write_piece(&mut self, stream: StreamId, piece: &[u8]) {
        todo!()
    }

    /// Sends response metadata ahead of the first message. Without it the first message brings the usual headers.
    pub fn send_headers(&mut self, stream: StreamId, metadata: &[(&str, &str)]) {
        todo!()
    }

    /// Bytes queued for this stream that have not reached the output; 0 for a stream not open.
    pub fn queued(&self, stream: StreamId) -> usize {
        todo!()
    }

    /// Bytes queued for all streams together, without the pending output.
    pub fn queued_total(&self) -> usize {
        todo!()
    }

    /// Whether the stream can still be answered.
    pub fn is_open(&self, stream: StreamId) -> bool {
        todo!()
    }

    /// Ends a call with a status, after what is queued for it; headers and trailers are one when nothing was sent.
    pub fn finish(&mut self, stream: StreamId, status: &Status) {
        todo!()
    }

    /// Answers a plain HTTP/2 request and ends it; `headers` without `content-length`, which is added.
    pub fn respond_http(&mut self, stream: StreamId, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        todo!()
    }

    /// Begins an answer to a plain HTTP/2 request whose body comes by [`write_piece`](Self::write_piece) and
    /// [`end_http`](Self::end_http).
    pub fn begin_http(&mut self, stream: StreamId, status: u16, headers: &[(&str, &str)]) {
        todo!()
    }

    /// Ends the answer begun by [`begin_http`](Self::begin_http).
    pub fn end_http(&mut self, stream: StreamId) {
        todo!()
    }

    /// Gives the stream up with that error code and drops what is queued for it.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        todo!()
    }

    /// Announces the end (GOAWAY): new calls are refused after a grace of one round trip, open ones go on.
    /// [`is_done`](Self::is_done) once the last has ended.
    pub fn shutdown(&mut self) {
        todo!()
    }

    /// What must go to the socket next.
    pub fn pending_output(&self) -> &[u8] {
        todo!()
    }

    /// Drops the first `n` bytes of the pending output, which the socket has taken, and refills it from the queues.
    pub fn advance_output(&mut self, n: usize) {
        todo!()
    }

    /// Whether the socket is to be closed: the connection failed or was shut down, no stream is open, and all output
    /// is taken.
    pub fn is_done(&self) -> bool {
        todo!()
    }

    /// Why the connection ends, once it does.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        todo!()
    }

    /// Tells the time, and returns when to tell it next at the latest (nanoseconds of the same clock).
    pub fn on_time(&mut self, now_ns: u64) -> u64 {
        todo!()
    }

    /// Streams open now.
    pub fn open_streams(&self) -> usize {
        todo!()
    }
}
