//! From the configuration to the options of the parts.

use std::time::Duration;

use net::grpc::Limits;
use net::io::ShardLimits;

use crate::{
    api::ApiLimits,
    config::{self, Config, MetricsLevel},
    member::{AutoCompaction, CommitPolicy, MemberOptions},
};

use super::identity::Birth;

/// The log's directory, within the data directory.
pub const WAL_DIR: &str = "wal";

/// A commit of the tree starts early once this much is buffered. Units: bytes.
const COMMIT_BYTES: usize = 16 << 20;
/// Above this much that is not in the tree yet, proposals are refused. Units: bytes.
const BUFFERED_BYTES_MAX: usize = 64 << 20;
/// Source: etcd `defaultLeaseCheckpointInterval`. Units: nanoseconds.
const LEASE_CHECKPOINT_INTERVAL_NS: u64 = 300_000_000_000;
/// Address space for the tree. Units: bytes.
const TREE_RESERVE_BYTES: u64 = 1 << 40;
/// The tree's file grows, and shrinks, in steps of this size. Units: bytes.
const TREE_GROWTH_BYTES: u64 = 1 << 20;
/// Rows that one turn reads of a state that is taken over: about half a millisecond of work.
const INSTALL_SLICE_ROWS: usize = 1024;

/// Options of the member.
pub fn member(config: &Config, birth: &Birth, seed: u64) -> MemberOptions {
    let tick_ns = config.heartbeat_interval_ms * 1_000_000;
    let urls = |urls: &[crate::config::Url]| urls.iter().map(|url| url.as_str().to_owned()).collect::<Vec<_>>();
    MemberOptions {
        member_id: birth.identity.member_id,
        cluster_id: birth.identity.cluster_id,
        name: config.name.clone(),
        client_urls: urls(&config.advertise_client_urls),
        initial_members: if birth.joins { Vec::new() } else { birth.members.clone() },
        force_new_cluster: config.force_new_cluster,
        tick_ns,
        election_ticks: config.election_ticks() as u32,
        election_timeout_ns: config.election_timeout_ms * 1_000_000,
        strict_reconfig_check: config.strict_reconfig_check,
        max_learners: config.max_learners,
        pre_vote: config.pre_vote,
        initial_election_tick_advance: config.initial_election_tick_advance,
        seed,
        request_timeout_ns: config.request_timeout().as_nanos() as u64,
        lease_checkpoint_interval_ns: LEASE_CHECKPOINT_INTERVAL_NS,
        buffered_bytes_max: BUFFERED_BYTES_MAX,
        catch_up_entries: config.snapshot_catchup_entries,
        commit: CommitPolicy {
            interval_ns: config.backend_batch_interval.as_nanos() as u64,
            bytes_max: COMMIT_BYTES,
        },
        compaction_batch_rows: config.compaction_batch_limit_revisions,
        compaction_pause_ns: config.compaction_sleep_interval.as_nanos() as u64,
        auto_compaction: match config.auto_compaction {
            config::AutoCompaction::Off => AutoCompaction::Off,
            config::AutoCompaction::Periodic(period) => AutoCompaction::Periodic(period.as_nanos() as u64),
            config::AutoCompaction::Revision(kept) => AutoCompaction::Revision(kept as i64),
        },
        wal_dir: WAL_DIR.to_owned(),
        wal_segment_bytes: config.wal_segment_bytes,
        tree_reserve_bytes: TREE_RESERVE_BYTES,
        tree_page_bytes: 4096,
        tree_growth_bytes: TREE_GROWTH_BYTES,
        install_slice_rows: INSTALL_SLICE_ROWS,
    }
}

/// Bounds of the API.
pub fn api(config: &Config) -> ApiLimits {
    ApiLimits {
        request_bytes_max: config.max_request_bytes as usize,
        txn_ops_max: config.max_txn_ops as usize,
        quota_bytes: config.quota_backend_bytes,
        progress_interval_ns: config.watch_progress_notify_interval.as_nanos() as u64,
        election_timeout_ns: config.election_timeout_ms * 1_000_000,
        slow_request_ns: config.warning_unary_request_duration.as_nanos() as u64,
        extensive_metrics: config.metrics == MetricsLevel::Extensive,
    }
}

/// Bounds of connections.
pub fn shard(config: &Config) -> ShardLimits {
    let ns = |time: Option<Duration>| time.map_or(u64::MAX, |time| time.as_nanos() as u64);
    let wire = Limits {
        message_bytes_max: (config.max_request_bytes + 512 * 1024).min(u64::from(u32::MAX)) as u32,
        streams_max: config.max_concurrent_streams,
        ping_interval_min_ns: config.grpc_keepalive_min_time.as_nanos() as u64,
        keepalive_interval_ns: ns(config.grpc_keepalive_interval),
        keepalive_timeout_ns: ns(config.grpc_keepalive_timeout),
        ..Limits::default()
    };
    ShardLimits {
        wire,
        ..ShardLimits::default()
    }
}
