//! etcd's services on one shard: decode, check, ask the core or read the view, answer.
//!
//! [`Api`] is the application of one shard's connections. It does no I/O of its own: bytes come and go through the gRPC
//! codec of each connection, requests for the core gather in an outbox that the runtime empties at the end of a turn, and
//! what the core says comes in by [`Api::on_core`].
//!
//! Reads are answered here, from a [`View`](crate::member::View): serializable ones at once, linearizable ones behind one
//! leadership round that serves every read of the turn. Whatever may be long (large ranges, watch history, snapshots,
//! hashes) is a job that runs in slices, [`Api::run_jobs`].

mod answer;
mod cluster;
mod core;
mod downgrade;
mod hashing;
mod http;
mod ids;
mod jobs;
mod kv;
mod lease;
mod maintenance;
mod method;
mod metrics_page;
pub mod past;
mod peer_http;
mod promise;
mod shard;
mod status;
mod validate;
pub mod watch;

pub use hashing::Hash;
pub use ids::RequestIds;
pub use method::{Flow, METHODS, Method, MethodInfo};
pub use peer_http::HashKvAnswer;
pub use promise::Promise;
pub use shard::{Api, ApiLimits, ApiSetup, FromCore, Outlet, Wires};
pub use status::{ALL as FAILURES, Failure};

/// How a leadership round ended for whoever awaits it.
pub type Verdict = Promise<Result<(), Failure>>;

#[cfg(test)]
mod tests;
