//! gRPC over HTTP/2 as a codec without I/O: bytes in, events out; commands in, bytes out.
//!
//! One [`ServerConn`] (or [`ClientConn`]) per connection. Its owner does, in every turn:
//!
//! 1. `on_time(now_ns)` when the clock has moved (it returns the next deadline; keepalive and the flood budgets need
//!    it);
//! 2. `receive(bytes)` with whatever the socket gave, in pieces of any size;
//! 3. `begin_turn()`, then `next_event()` until it returns `None`, acting on each event; once more later when
//!    `wants_turn()`;
//! 4. one write of `pending_output()`, then `advance_output(n)` with what the socket took. Space freed there, and
//!    window updates received, let queued messages flow, so `next_event()` may have `Writable` events after it;
//! 5. when `is_done()`, close the socket.
//!
//! Events of one stream come in order: `Request`, `Message`*, `HalfClose`, and `Cancelled` at any point after
//! `Request`. A stream is finished by exactly one of `reply`, `finish`, `respond_http`, `reset`, or the peer's
//! cancellation; a command on a stream that is no longer open does nothing, so late answers need no check.

mod client;
mod gzip;
mod head;
mod message;
mod server;
mod status;

pub use client::{ClientConn, ClientEvent};
pub use head::{HttpHead, RequestHead};
pub use server::{Event, ServerConn};
pub use status::{Code, Status};

pub use crate::h2::{CloseReason, ErrorCode, Headers, Limits, StreamId};

/// Bytes of the prefix of a message: one of flags, four of length.
///
/// Source: gRPC over HTTP2, "Length-Prefixed-Message".
pub const MESSAGE_PREFIX_BYTES: usize = 5;
