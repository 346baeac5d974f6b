//! Names that dashboards and suites ask for, of things that do not happen here: always zero.

use crate::metrics::{Exposition, Histogram};

const MS: u64 = 1_000_000;

/// (name, type, help).
#[rustfmt::skip] // one row a line
const NUMBERS: &[(&str, &str, &str)] = &[
    ("etcd_debugging_mvcc_pending_events_total", "gauge", "Total number of pending events to be sent."),
    ("etcd_debugging_store_expires_total", "counter", "Total number of expired keys."),
    ("etcd_debugging_store_watch_requests_total", "counter", "Total number of incoming watch requests (new or reestablished)."),
    ("etcd_debugging_store_watchers", "gauge", "Count of currently active watchers."),
    ("etcd_grpc_proxy_cache_hits_total", "gauge", "Total number of cache hits"),
    ("etcd_grpc_proxy_cache_keys_total", "gauge", "Total number of keys/ranges cached"),
    ("etcd_grpc_proxy_cache_misses_total", "gauge", "Total number of cache misses"),
    ("etcd_grpc_proxy_events_coalescing_total", "counter", "Total number of events coalescing"),
    ("etcd_grpc_proxy_watchers_coalescing_total", "gauge", "Total number of current watchers coalescing"),
    ("etcd_mvcc_db_open_read_transactions", "gauge", "The number of currently open read transactions"),
];

/// (name, help), with buckets from a millisecond up.
#[rustfmt::skip] // one row a line
const TIMES: &[(&str, &str)] = &[
    ("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "The latency distributions of commit.rebalance called by bboltdb backend."),
    ("etcd_debugging_disk_backend_commit_spill_duration_seconds", "The latency distributions of commit.spill called by bboltdb backend."),
    ("etcd_debugging_snap_save_marshalling_duration_seconds", "The marshalling cost distributions of save called by snapshot."),
    ("etcd_debugging_snap_save_total_duration_seconds", "The total latency distributions of save called by snapshot."),
    ("etcd_snap_fsync_duration_seconds", "The latency distributions of fsync called by snap."),
];

/// Adds them to the page.
pub(super) fn families(page: &mut Exposition) {
    for (name, kind, help) in NUMBERS {
        page.single(name, kind, help, 0);
    }
    // etcd's begins at 1.
    page.gauge("etcd_debugging_auth_revision", "The current revision of auth store.", 1);
    for (name, help) in TIMES {
        page.histogram(name, help, &[&Histogram::<14>::new(MS)]);
    }
    for (name, help, action) in [
        (
            "etcd_debugging_store_reads_total",
            "Total number of reads action by (get/getRecursive), local to this member.",
            "getRecursive",
        ),
        (
            "etcd_debugging_store_writes_total",
            "Total number of writes (e.g. set/compareAndDelete) seen by this member.",
            "set",
        ),
    ] {
        page.family(name, "counter", help);
        page.sample(name, &format!("{{action=\"{action}\"}}"), 0);
    }
    // A compaction works in slices between the turns of others, none of which waits for one.
    page.histogram(
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "Bucketed histogram of db compaction pause duration.",
        &[&Histogram::<13>::in_milliseconds(MS)],
    );
    page.histogram(
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "Bucketed histogram of index compaction pause duration.",
        &[&Histogram::<14>::in_milliseconds(MS / 2)],
    );
    let name = "etcd_server_go_version";
    let help = "Which Go version server is running with. 1 for 'server_go_version' label with current version.";
    page.family(name, "gauge", help);
    page.sample(name, "{server_go_version=\"none\"}", 1);
}
