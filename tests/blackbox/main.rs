//! Black-box tests: a real server process, driven through its public API alone.
//!
//! By default the server is this project's own binary. With `ETCORE_TEST_SERVER` set to the path of another etcd (the
//! reference), the same stories run against that one; every story here holds for etcd 3.5 too, or says where the two
//! differ through [`support::Server::is_reference`].
//!
//! Environment: `ETCORE_TEST_SERVER` (binary under test), `ETCORE_TEST_ETCD` (reference binary for the differential
//! tests, else `etcd` on PATH), `ETCORE_TEST_SCALE` (multiplier of volumes, default 1), `ETCORE_TEST_SEED` (replays one
//! seed).

mod auth;
mod bench;
mod cluster;
mod compaction;
mod compression;
mod crash;
mod differential;
mod disk_full;
mod etcdctl;
mod flags;
mod gateway;
mod health;
mod hostile;
mod http;
mod kv_delete;
mod kv_put;
mod kv_range;
mod lease;
mod locks;
mod maintenance;
mod pressure;
mod quota;
mod range_stream;
mod snapshot;
#[allow(dead_code, unused_imports)] // the stories of clusters need the rest
mod support;
mod transport;
mod txn;
mod txn_compare;
mod watch;
mod watch_history;
mod watch_progress;
