//! etcore: an etcd v3 server in one Rust binary. `docs/ARCHITECTURE.md` is the map.

pub mod api;
pub mod bell;
pub mod bench;
pub mod config;
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod latest;
pub mod logging;
pub mod member;
pub mod metrics;
pub mod runtime;
pub mod version;
