//! `/metrics`.

mod absent;
mod cluster;
mod process;

use std::collections::BTreeMap;

use net::grpc::Code;

use super::{Api, METHODS};
use crate::{
    metrics::{Counter, Exposition, Histogram, MethodMetrics, ShardMetrics},
    version::{CLUSTER_VERSION, ETCD_VERSION},
};

/// Services whose counters exist before they are used.
const PRECREATED: [&str; 7] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "grpc.health.v1.Health",
];

impl Api {
    /// The whole page, in the Prometheus text format.
    pub(super) fn metrics_page(&mut self) -> String {
        let mut page = Exposition::default();
        self.server(&mut page);
        self.cluster_metrics(&mut page);
        self.store(&mut page);
        absent::families(&mut page);
        self.leases_and_watches(&mut page);
        self.grpc(&mut page);
        self.scrapes(&mut page);
        process::families(&mut page);
        page.finish()
    }

    /// Source: the handler of Prometheus's Go library counts itself.
    fn scrapes(&self, page: &mut Exposition) {
        page.gauge(
            "promhttp_metric_handler_requests_in_flight",
            "Current number of scrapes being served.",
            1,
        );
        let name = "promhttp_metric_handler_requests_total";
        page.family(name, "counter", "Total number of scrapes by HTTP status code.");
        for (code, count) in [(200, self.sum(|shard| &shard.scrapes)), (500, 0), (503, 0)] {
            page.sample(name, &format!("{{code=\"{code}\"}}"), count);
        }
        // Those before this one are done.
        self.setup.metrics.scrapes.add(1);
    }

    fn sum(&self, of: impl Fn(&ShardMetrics) -> &Counter) -> u64 {
        self.setup.all_metrics.iter().map(|shard| of(shard).get()).sum()
    }

    fn parts<'a, const N: usize>(&'a self, of: impl Fn(&'a ShardMetrics) -> &'a Histogram<N>) -> Vec<&'a Histogram<N>> {
        self.setup.all_metrics.iter().map(|shard| of(shard)).collect()
    }

    fn server(&mut self, page: &mut Exposition) {
        let view = self.view();
        let core = &self.setup.core_metrics;
        let cluster = view.members.cluster_version.as_deref().unwrap_or(CLUSTER_VERSION);
        let short = cluster.rsplit_once('.').map_or(cluster, |(short, _)| short);
        page.family(
            "etcd_cluster_version",
            "gauge",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
        );
        page.sample("etcd_cluster_version", &format!("{{cluster_version=\"{short}\"}}"), 1);
        page.family(
            "etcd_server_version",
            "gauge",
            "Which version is running. 1 for 'server_version' label with current version.",
        );
        page.sample(
            "etcd_server_version",
            &format!("{{server_version=\"{ETCD_VERSION}\"}}"),
            1,
        );
        page.family(
            "etcd_server_id",
            "gauge",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
        );
        page.sample(
            "etcd_server_id",
            &format!("{{server_id=\"{:x}\"}}", self.setup.member_id),
            1,
        );
        page.gauge(
            "etcd_server_has_leader",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            core.has_leader.get(),
        );
        page.gauge(
            "etcd_server_is_leader",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            core.is_leader.get(),
        );
        page.gauge(
            "etcd_server_is_learner",
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            u64::from(view.is_learner),
        );
        page.counter(
            "etcd_server_leader_changes_seen_total",
            "The number of leader changes seen.",
            core.leader_changes.get(),
        );
        page.gauge(
            "etcd_server_proposals_committed_total",
            "The total number of consensus proposals committed.",
            core.committed.get(),
        );
        page.gauge(
            "etcd_server_proposals_applied_total",
            "The total number of consensus proposals applied.",
            core.applied.get(),
        );
        page.gauge(
            "etcd_server_proposals_pending",
            "The current number of pending proposals to commit.",
            core.pending.get(),
        );
        page.counter(
            "etcd_server_proposals_failed_total",
            "The total number of failed proposals seen.",
            core.failed.get(),
        );
        page.counter(
            "etcd_server_slow_apply_total",
            "The total number of slow apply requests.",
            core.slow_applies.get(),
        );
        page.counter(
            "etcd_server_slow_read_indexes_total",
            "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
            core.slow_reads.get(),
        );
        page.counter(
            "etcd_server_read_indexes_failed_total",
            "The total number of failed read indexes seen.",
            core.failed_reads.get(),
        );
        page.counter(
            "etcd_server_health_success",
            "The total number of successful health checks",
            self.sum(|shard| &shard.health_success),
        );
        page.counter(
            "etcd_server_health_failures",
            "The total number of failed health checks",
            self.sum(|shard| &shard.health_failures),
        );
        page.gauge(
            "etcd_server_quota_backend_bytes",
            "Current backend storage quota size in bytes.",
            self.setup.limits.quota_bytes.unwrap_or(0),
        );
        let apply = "etcd_server_apply_duration_seconds";
        page.family(
            apply,
            "histogram",
            "The latency distributions of v2 apply called by backend.",
        );
        page.buckets(apply, "version=\"v3\",op=\"batch\",success=\"true\"", &[&core.apply]);
        page.histogram(
            "etcd_server_range_duration_seconds",
            "The latency distributions of txn range",
            &self.parts(|shard| &shard.range_duration),
        );
        page.family("etcd_debugging_server_alarms", "gauge", "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm");
        for (member, kind) in view.alarms.iter() {
            let kind = if *kind == crate::member::NOSPACE {
                "NOSPACE"
            } else {
                "CORRUPT"
            };
            page.sample(
                "etcd_debugging_server_alarms",
                &format!("{{server_id=\"{member:x}\",alarm_type=\"{kind}\"}}"),
                1,
            );
        }
        page.family(
            "etcd_server_client_requests_total",
            "counter",
            "The total number of client requests per client version.",
        );
        let mut calls = BTreeMap::new();
        for shard in &self.setup.all_metrics {
            shard.clients.add_to(&mut calls);
        }
        for ((version, is_stream), count) in calls {
            let kind = if is_stream { "stream" } else { "unary" };
            page.sample(
                "etcd_server_client_requests_total",
                &format!("{{client_api_version=\"{version}\",type=\"{kind}\"}}"),
                count,
            );
        }
    }

    fn store(&self, page: &mut Exposition) {
        let core = &self.setup.core_metrics;
        page.histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "The latency distributions of fsync called by WAL.",
            &[&core.wal_fsync],
        );
        page.gauge(
            "etcd_disk_wal_write_bytes_total",
            "Total number of bytes written in WAL.",
            core.wal_write_bytes.get(),
        );
        page.histogram(
            "etcd_disk_wal_write_duration_seconds",
            // The write is the sync.
            "The latency distributions of write called by WAL.",
            &[&core.wal_fsync],
        );
        page.histogram(
            "etcd_disk_backend_commit_duration_seconds",
            "The latency distributions of commit called by backend.",
            &[&core.backend_commit],
        );
        page.histogram(
            "etcd_debugging_disk_backend_commit_write_duration_seconds",
            "The latency distributions of commit.write called by bboltdb backend.",
            &[&core.commit_write],
        );
        page.histogram(
            "etcd_disk_backend_defrag_duration_seconds",
            "The latency distribution of backend defragmentation.",
            &[&core.defrag],
        );
        page.gauge(
            "etcd_disk_defrag_inflight",
            "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            u64::from(self.setup.slot.reader().get().defrag.running),
        );
        page.histogram(
            "etcd_disk_backend_snapshot_duration_seconds",
            "The latency distribution of backend snapshots.",
            &self.parts(|shard| &shard.snapshot),
        );
        page.histogram(
            "etcd_mvcc_hash_duration_seconds",
            "The latency distribution of storage hash operation.",
            &self.parts(|shard| &shard.hash),
        );
        page.histogram(
            "etcd_mvcc_hash_rev_duration_seconds",
            "The latency distribution of storage hash by revision operation.",
            &self.parts(|shard| &shard.hash_rev),
        );
        page.gauge(
            "etcd_mvcc_db_total_size_in_bytes",
            "Total size of the underlying database physically allocated in bytes.",
            core.db_size.get(),
        );
        page.gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Total size of the underlying database logically in use in bytes.",
            core.db_in_use.get(),
        );
        page.counter(
            "etcd_mvcc_put_total",
            "Total number of puts seen by this member.",
            core.puts.get(),
        );
        page.counter(
            "etcd_mvcc_delete_total",
            "Total number of deletes seen by this member.",
            core.deletes.get(),
        );
        page.counter(
            "etcd_mvcc_txn_total",
            "Total number of txns seen by this member.",
            core.txns.get(),
        );
        page.counter(
            "etcd_mvcc_range_total",
            "Total number of ranges seen by this member.",
            self.sum(|shard| &shard.ranges) + core.ranges.get(),
        );
        page.gauge(
            "etcd_debugging_mvcc_keys_total",
            "Total number of keys.",
            core.keys.get(),
        );
        page.gauge(
            "etcd_debugging_mvcc_current_revision",
            "The current revision of store.",
            core.current_revision.get(),
        );
        page.gauge(
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.",
            core.compact_revision.get(),
        );
        page.counter(
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Total number of db keys compacted.",
            core.compaction_keys.get(),
        );
        page.histogram(
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Bucketed histogram of db compaction total duration.",
            &[&core.compaction_total],
        );
        let last = match core.compaction_last_ns.get() {
            0 => 0,
            ns => (self.setup.unix_ms + ns / 1_000_000) / 1000,
        };
        page.gauge(
            "etcd_debugging_mvcc_db_compaction_last",
            "The unix time of the last db compaction. Resets to 0 on start.",
            last,
        );
        page.gauge(
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            "The total size of put kv pairs seen by this member.",
            core.put_bytes.get(),
        );
    }

    fn leases_and_watches(&self, page: &mut Exposition) {
        let core = &self.setup.core_metrics;
        page.counter(
            "etcd_debugging_lease_granted_total",
            "The total number of granted leases.",
            core.leases_granted.get(),
        );
        page.counter(
            "etcd_debugging_lease_revoked_total",
            "The total number of revoked leases.",
            core.leases_revoked.get(),
        );
        page.counter(
            "etcd_debugging_lease_renewed_total",
            "The number of renewed leases seen by the leader.",
            core.leases_renewed.get(),
        );
        page.counter(
            "etcd_debugging_server_lease_expired_total",
            "The total number of expired leases.",
            core.leases_expired.get(),
        );
        page.histogram(
            "etcd_debugging_lease_ttl_total",
            "Bucketed histogram of lease TTLs.",
            &[&core.lease_ttl],
        );
        page.gauge(
            "etcd_debugging_mvcc_watch_stream_total",
            "Total number of watch streams.",
            self.sum(|shard| &shard.watch_streams),
        );
        page.gauge(
            "etcd_debugging_mvcc_watcher_total",
            "Total number of watchers.",
            self.sum(|shard| &shard.watchers),
        );
        page.gauge(
            "etcd_debugging_mvcc_slow_watcher_total",
            "Total number of unsynced slow watchers.",
            self.sum(|shard| &shard.slow_watchers),
        );
        page.counter(
            "etcd_debugging_mvcc_events_total",
            "Total number of events sent by this member.",
            self.sum(|shard| &shard.watch_events),
        );
    }

    fn grpc(&self, page: &mut Exposition) {
        let total = |index: usize, of: &dyn Fn(&MethodMetrics) -> u64| -> u64 {
            self.setup
                .all_metrics
                .iter()
                .map(|shard| of(&shard.methods[index]))
                .sum()
        };
        let labels = |index: usize| {
            let info = &METHODS[index];
            format!(
                "grpc_method=\"{}\",grpc_service=\"{}\",grpc_type=\"{}\"",
                info.name,
                info.service,
                info.flow.label()
            )
        };
        let shown: Vec<usize> = (0..METHODS.len())
            .filter(|index| PRECREATED.contains(&METHODS[*index].service))
            .collect();
        let mut family = |name: &str, help: &str, of: &dyn Fn(&MethodMetrics) -> u64| {
            page.family(name, "counter", help);
            for index in &shown {
                page.sample(name, &format!("{{{}}}", labels(*index)), total(*index, of));
            }
        };
        family(
            "grpc_server_started_total",
            "Total number of RPCs started on the server.",
            &|m| m.started.get(),
        );
        family(
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            &|m| m.received.get(),
        );
        family(
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            &|m| m.sent.get(),
        );
        let name = "grpc_server_handled_total";
        page.family(
            name,
            "counter",
            "Total number of RPCs completed on the server, regardless of success or failure.",
        );
        for index in &shown {
            for code in 0..17 {
                let label = format!(
                    "{{grpc_code=\"{}\",{}}}",
                    Code::from_number(code).name(),
                    labels(*index)
                );
                page.sample(name, &label, total(*index, &|m| m.handled[code as usize].get()));
            }
        }
        if self.setup.limits.extensive_metrics {
            let name = "grpc_server_handling_seconds";
            page.family(name, "histogram", "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.");
            for index in &shown {
                let parts: Vec<_> = self
                    .setup
                    .all_metrics
                    .iter()
                    .map(|shard| &shard.methods[*index].handling)
                    .collect();
                page.buckets(name, &labels(*index), &parts);
            }
        }
        page.counter(
            "etcd_network_client_grpc_received_bytes_total",
            "The total number of bytes received from grpc clients.",
            self.sum(|shard| &shard.bytes_received),
        );
        page.counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "The total number of bytes sent to grpc clients.",
            self.sum(|shard| &shard.bytes_sent),
        );
    }
}
