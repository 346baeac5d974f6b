//! The part of `/metrics` about the cluster: the other members, member changes, health checks, gates.

use std::collections::BTreeMap;

use crate::{
    api::Api,
    config::features::Stage,
    metrics::{CHECKS, Counter, Exposition, PeerMetrics, ShardMetrics, SnapshotMetrics},
};

/// A family with one sample for each other member: name, kind, label, help, number.
type OfPeer = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    fn(&PeerMetrics) -> u64,
);

#[rustfmt::skip] // one row a line
const OF_PEER: &[OfPeer] = &[
    ("etcd_network_peer_sent_bytes_total", "counter", "To", "The total number of bytes sent to peers.", |p| p.sent_bytes.get()),
    ("etcd_network_peer_received_bytes_total", "counter", "From", "The total number of bytes received from peers.", |p| p.received_bytes.get()),
    ("etcd_network_peer_sent_failures_total", "counter", "To", "The total number of send failures from peers.", |p| p.sent_failures.get()),
    ("etcd_network_peer_received_failures_total", "counter", "From", "The total number of receive failures from peers.", |p| p.received_failures.get()),
    ("etcd_network_snapshot_send_success", "counter", "To", "Total number of successful snapshot sends", |p| p.snapshot_sent.success.get()),
    ("etcd_network_snapshot_send_failures", "counter", "To", "Total number of snapshot send failures", |p| p.snapshot_sent.failures.get()),
    ("etcd_network_snapshot_send_inflights_total", "gauge", "To", "Total number of inflight snapshot sends", |p| p.snapshot_sent.inflight.get()),
    ("etcd_network_snapshot_receive_success", "counter", "From", "Total number of successful snapshot receives", |p| p.snapshot_received.success.get()),
    ("etcd_network_snapshot_receive_failures", "counter", "From", "Total number of snapshot receive failures", |p| p.snapshot_received.failures.get()),
    ("etcd_network_snapshot_receive_inflights_total", "gauge", "From", "Total number of inflight snapshot receives", |p| p.snapshot_received.inflight.get()),
    ("etcd_network_active_peers", "gauge", "Remote", "The current number of active peer connections.", |p| p.active.get()),
    ("etcd_network_disconnected_peers_total", "counter", "Remote", "The total number of disconnected peers.", |p| p.disconnected.get()),
];

impl Api {
    pub(super) fn cluster_metrics(&self, page: &mut Exposition) {
        self.peer_metrics(page);
        self.change_metrics(page);
        self.stream_metrics(page);
        self.check_metrics(page);
        let name = "etcd_server_feature_enabled";
        page.family(
            name,
            "gauge",
            "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
        );
        for (gate, enabled) in self.setup.features.iter() {
            let stage = match gate.stage {
                Stage::Alpha => "ALPHA",
                Stage::Beta => "BETA",
            };
            let labels = format!("{{name=\"{}\",stage=\"{stage}\"}}", gate.name);
            page.sample(name, &labels, u64::from(enabled));
        }
    }

    fn peer_metrics(&self, page: &mut Exposition) {
        let peers = self.setup.core_metrics.peers.all();
        let local = self.setup.member_id;
        for (name, kind, label, help, value) in OF_PEER {
            page.family(name, kind, help);
            for (id, peer) in &peers {
                let labels = match *label {
                    "Remote" => format!("{{Local=\"{local:x}\",Remote=\"{id:x}\"}}"),
                    label => format!("{{{label}=\"{id:x}\"}}"),
                };
                page.sample(name, &labels, value(peer));
            }
        }
        // Source: etcd `updateMembershipMetric`, which knows itself, too, and those that were removed as 0.
        let (name, members) = (
            "etcd_network_known_peers",
            self.setup.slot.reader().get().members.clone(),
        );
        page.family(name, "gauge", "The current number of known peers.");
        let removed = members.removed.iter().map(|id| (*id, 0));
        let known: BTreeMap<u64, u64> = members.members.keys().map(|id| (*id, 1)).chain(removed).collect();
        for (id, is_known) in known {
            page.sample(name, &format!("{{Local=\"{local:x}\",Remote=\"{id:x}\"}}"), is_known);
        }
        let name = "etcd_network_peer_round_trip_time_seconds";
        page.family(name, "histogram", "Round-Trip-Time histogram between peers");
        for (id, peer) in &peers {
            page.buckets(name, &format!("To=\"{id:x}\""), &[&peer.round_trip]);
        }
        let mut durations = |way: &str, label: &str, of: &dyn Fn(&PeerMetrics) -> &SnapshotMetrics| {
            let name = format!("etcd_network_snapshot_{way}_total_duration_seconds");
            let help = format!("Total latency distributions of v3 snapshot {way}s");
            page.family(&name, "histogram", &help);
            for (id, peer) in &peers {
                page.buckets(&name, &format!("{label}=\"{id:x}\""), &[&of(peer).duration]);
            }
        };
        durations("send", "To", &|peer| &peer.snapshot_sent);
        durations("receive", "From", &|peer| &peer.snapshot_received);
        let core = &self.setup.core_metrics;
        page.histogram(
            "etcd_snap_db_fsync_duration_seconds",
            "The latency distributions of fsyncing .snap.db file",
            &[&core.snapshot_fsync],
        );
        page.histogram(
            "etcd_snap_db_save_total_duration_seconds",
            "The total latency distributions of v3 snapshot save",
            &[&core.snapshot_save],
        );
    }

    fn change_metrics(&self, page: &mut Exposition) {
        let core = &self.setup.core_metrics;
        page.counter(
            "etcd_server_learner_promote_successes",
            "The total number of successful learner promotions while this member is leader.",
            core.promotions.get(),
        );
        let name = "etcd_server_learner_promote_failures";
        page.family(
            name,
            "counter",
            "The total number of failed learner promotions (likely learner not ready) while this member is leader.",
        );
        for (reason, count) in [
            (
                super::super::status::LEARNER_NOT_READY.text,
                core.promotions_early.get(),
            ),
            (
                "membership: can only promote a learner member",
                core.promotions_of_voters.get(),
            ),
            ("membership: ID not found", core.promotions_of_strangers.get()),
        ] {
            if count > 0 {
                page.sample(name, &format!("{{Reason=\"{reason}\"}}"), count);
            }
        }
        page.counter(
            "etcd_server_heartbeat_send_failures_total",
            "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
            core.late_heartbeats.get(),
        );
        page.gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            "1 if the server is applying the incoming snapshot. 0 if none.",
            core.installing.get(),
        );
    }

    /// Source: etcd counts no streams that their clients ended, and shows a pair once it was counted.
    fn stream_metrics(&self, page: &mut Exposition) {
        let name = "etcd_network_server_stream_failures_total";
        page.family(
            name,
            "counter",
            "The total number of stream failures from the local server.",
        );
        let sum = |of: fn(&ShardMetrics) -> &Counter| self.setup.all_metrics.iter().map(|shard| of(shard).get()).sum();
        let counts: [(&str, u64); 2] = [
            ("lease-keepalive", sum(|shard| &shard.keep_alive_receive_failures)),
            ("watch", sum(|shard| &shard.watch_receive_failures)),
        ];
        for (api, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            page.sample(name, &format!("{{API=\"{api}\",Type=\"receive\"}}"), count);
        }
    }

    fn check_metrics(&self, page: &mut Exposition) {
        let ran = |at: usize| {
            let shards = self.setup.all_metrics.iter().map(move |shard| &shard.checks[at]);
            shards.filter(|check| check.last.get() > 0)
        };
        let name = "etcd_server_healthcheck";
        page.family(name, "gauge", "The result of each kind of healthcheck.");
        for (at, (kind, check)) in CHECKS.iter().enumerate() {
            if let Some(last) = ran(at).map(|check| check.last.get()).max() {
                let labels = format!("{{name=\"{check}\",type=\"{kind}\"}}");
                page.sample(name, &labels, last & 1);
            }
        }
        let name = "etcd_server_healthchecks_total";
        page.family(name, "counter", "The total number of each kind of healthcheck.");
        for (at, (kind, check)) in CHECKS.iter().enumerate() {
            let passed: u64 = ran(at).map(|check| check.passed.get()).sum();
            let failed: u64 = ran(at).map(|check| check.failed.get()).sum();
            for (status, count) in [("success", passed), ("error", failed)] {
                if count > 0 {
                    let labels = format!("{{name=\"{check}\",status=\"{status}\",type=\"{kind}\"}}");
                    page.sample(name, &labels, count);
                }
            }
        }
    }
}
