//! HTTP/2 (RFC 9113) and HPACK (RFC 7541) as a codec without I/O, for both roles.
//!
//! `bytes ─► Connection::receive ─► events to a Handler`, and `Connection::send_* ─► pending_output ─► bytes`. The gRPC
//! layer is the one user; it is given each event while the connection is in the state the event left it in, so there is
//! no queue between the two. Time comes in as an argument; nothing here reads a clock or touches a socket.

mod connection;
mod fields;
mod frame;
pub(crate) mod hpack;
pub mod limits;
mod stream;

pub(crate) use connection::{Connection, Data, Event, Handler, Role};
pub use frame::PREFACE;
pub(crate) use frame::{PAYLOAD_BYTES_MAX as FRAME_PAYLOAD_BYTES_MAX, put_head as put_frame_head};
pub use hpack::Headers;
pub(crate) use hpack::{BlockMemo, Indexing};
pub use limits::Limits;
pub(crate) use stream::Slot;

/// The number of a stream, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// Why a stream or a connection was given up.
///
/// Source: RFC 9113 section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum ErrorCode {
    NoError = 0,
    ProtocolError = 1,
    InternalError = 2,
    FlowControlError = 3,
    SettingsTimeout = 4,
    StreamClosed = 5,
    FrameSizeError = 6,
    RefusedStream = 7,
    Cancel = 8,
    CompressionError = 9,
    ConnectError = 10,
    EnhanceYourCalm = 11,
    InadequateSecurity = 12,
    Http11Required = 13,
}

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// This end shut down in good order.
    #[error("shut down")]
    ShutDown,
    /// The peer announced its end in good order.
    #[error("the peer is going away")]
    PeerGoAway,
    /// The peer gave the connection up with an error.
    #[error("the peer gave up with HTTP/2 error {code}: {debug}")]
    PeerError {
        /// The error code the peer sent, which may be none of [`ErrorCode`].
        code: u32,
        /// The debug text the peer sent.
        debug: String,
    },
    /// The peer broke the protocol or a limit.
    #[error("the peer broke HTTP/2 ({code:?}): {detail}")]
    Violation {
        /// The code told to the peer.
        code: ErrorCode,
        /// What was wrong.
        detail: &'static str,
    },
    /// The socket was closed or broke.
    #[error("the connection was lost")]
    Disconnected,
    /// The peer did not answer a keepalive ping in time.
    #[error("the peer did not answer a keepalive ping in time")]
    KeepaliveTimeout,
    /// The peer left its handshake or a frame unfinished for too long.
    #[error("the peer left its handshake or a frame unfinished")]
    Unfinished,
}
