//! Members for tests that drive the engine by hand.

use etcore::member::{AutoCompaction, CommitPolicy, MemberInfo, MemberOptions};

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;

/// Members that found a cluster.
pub fn founders(ids: &[u64]) -> Vec<MemberInfo> {
    let founder = |id: &u64| MemberInfo {
        id: *id,
        peer_urls: vec![format!("http://127.0.0.1:{id}")],
        name: format!("m{id}"),
        ..MemberInfo::default()
    };
    ids.iter().map(founder).collect()
}

/// Options of a small member with fast ticks.
pub fn options(member_id: u64, initial_members: Vec<MemberInfo>) -> MemberOptions {
    MemberOptions {
        member_id,
        cluster_id: 7,
        name: format!("m{member_id}"),
        client_urls: Vec::new(),
        initial_members,
        force_new_cluster: false,
        tick_ns: 10 * MS,
        election_ticks: 10,
        election_timeout_ns: 100 * MS,
        pre_vote: true,
        initial_election_tick_advance: true,
        seed: member_id,
        request_timeout_ns: 5000 * MS,
        buffered_bytes_max: 4 << 20,
        lease_checkpoint_interval_ns: 300_000 * MS,
        catch_up_entries: 10,
        commit: CommitPolicy {
            interval_ns: 10 * MS,
            bytes_max: 1 << 20,
        },
        compaction_batch_rows: 1000,
        compaction_pause_ns: 10 * MS,
        auto_compaction: AutoCompaction::Off,
        max_learners: 1,
        strict_reconfig_check: true,
        wal_dir: "wal".to_owned(),
        wal_segment_bytes: Some(1 << 20),
        tree_reserve_bytes: 256 << 20,
        tree_page_bytes: 4096,
        tree_growth_bytes: 1 << 20,
        install_slice_rows: 1024,
    }
}
