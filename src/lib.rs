//! etcore: an etcd v3 server in one Rust binary. `docs/ARCHITECTURE.md` is the map.

pub mod bench;
pub mod config;
pub mod logging;
