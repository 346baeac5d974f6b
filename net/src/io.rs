//! The sockets, on glommio: listening, handing connections to shards, and driving HTTP/2 and HTTP/1.1 on them.
//!
//! ```text
//!  Acceptor (one thread per address) ──Intake──► Shard 1..N (one per executor)
//!                                                 connection task: read ► ServerConn ► Application::on_event
//!                                                 turn task:       Application::on_turn_end, then one write per connection
//! ```
//!
//! - An [`Acceptor`] hands each socket to the shard that has the fewest (ADR 5); [`Listener::bind`] fails when a port is
//!   in use.
//! - A [`Shard`] owns its connections, on one executor. It tells HTTP/2 from HTTP/1.x by the first bytes, feeds an
//!   [`Application`], and writes the output of a turn with one system call per connection.
//! - A *turn* is everything that was ready when the executor came round: all reads, then one
//!   [`Application::on_turn_end`], then all writes.
//! - Answers that come later go in by [`Shard::with_conn`], which marks the connection; the next flush writes it.

mod body;
mod http1;
mod intake;
mod listen;
mod notify;
mod peer;
mod shard;
mod stream;
mod within;

pub use body::{BodySender, Http1Body, body_channel};
pub use http1::{Http1Answer, Http1Reply, Http1Request};
pub use intake::Intake;
pub use listen::{Accepted, Acceptor, ListenError, Listener};
pub use peer::{Guest, peer_door};
pub use shard::{Application, ConnId, ConnInfo, Shard, ShardLimits};
pub use stream::{Ender, Stream, connect};
pub use within::within;

pub use hyper::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
