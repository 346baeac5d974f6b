//! The client's end of a connection: for load generators, tools and tests.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{CloseReason, Headers, Limits, Status, StreamId};

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
pub struct ClientConn {}

#[allow(unused_variables)]
impl ClientConn {
    /// A fresh connection to `authority`; the preface is pending output at once. `scheme` is `http` or `https`.
    pub fn new(limits: Limits, scheme: &str, authority: &str, now_ns: u64) -> ClientConn {
        todo!()
    }

    /// Takes bytes from the socket; any cut is fine.
    pub fn receive(&mut self, input: &[u8]) {
        todo!()
    }

    /// The next event, if any.
    pub fn next_event(&mut self) -> Option<ClientEvent> {
        todo!()
    }

    /// Starts a call with that metadata (names in lower case, values in wire form); `None` while the connection takes no
    /// more: the server's limit of streams is reached, or it is going away.
    pub fn start_call(&mut self, path: &str, metadata: &[(&str, &str)]) -> Option<StreamId> {
        todo!()
    }

    /// Sends one message; `write` appends it.
    pub fn send_message(&mut self, stream: StreamId, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        todo!()
    }

    /// Sends one message and says that it is the last, in one frame where it fits.
    pub fn send_last_message(&mut self, stream: StreamId, len_hint: usize, write: impl FnOnce(&mut BytesMut)) {
        todo!()
    }

    /// Says that no more messages come.
    pub fn half_close(&mut self, stream: StreamId) {
        todo!()
    }

    /// Gives the call up (RST_STREAM CANCEL); no `End` follows.
    pub fn cancel(&mut self, stream: StreamId) {
        todo!()
    }

    /// Bytes queued for this stream that have not reached the output.
    pub fn queued(&self, stream: StreamId) -> usize {
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

    /// Says GOAWAY; [`is_done`](Self::is_done) once the open calls have ended.
    pub fn shutdown(&mut self) {
        todo!()
    }

    /// Whether the socket is to be closed.
    pub fn is_done(&self) -> bool {
        todo!()
    }

    /// Why the connection ends, once it does.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        todo!()
    }

    /// Tells the time, and returns when to tell it next at the latest.
    pub fn on_time(&mut self, now_ns: u64) -> u64 {
        todo!()
    }

    /// Calls open now.
    pub fn open_streams(&self) -> usize {
        todo!()
    }
}
