//! What `/metrics` tells of a cluster.

use crate::{
    rig::{Cluster, sample},
    support::*,
};

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_leader_peers_and_lost_links() {
    let mut cluster = Cluster::start(3, &[]).await;
    cluster.nodes[0].client().put("k", "v").await;
    let leader = cluster.leader().await;
    let mut ids = Vec::new();
    for node in &cluster.nodes {
        ids.push(node.client().status().await.header.expect("a header").member_id);
    }
    let page = |cluster: &Cluster, at: usize| http(&cluster.nodes[at].endpoint(), "GET", "/metrics").body;
    eventually("each member knows two active peers and who leads", || async {
        let leader = cluster.leader().await;
        (0..3).all(|at| {
            let page = page(&cluster, at);
            let leads = f64::from(u8::from(at == leader));
            if sample(&page, "etcd_server_is_leader ") != Some(leads) {
                return false;
            }
            let mut others = ids.iter().filter(|id| **id != ids[at]);
            others.all(|other| {
                let pair = format!("{{Local=\"{:x}\",Remote=\"{other:x}\"}}", ids[at]);
                sample(&page, &format!("etcd_network_active_peers{pair}")) == Some(1.0)
            })
        })
    })
    .await;
    for at in 0..3 {
        let page = page(&cluster, at);
        let own = |name: &str| sample(&page, &format!("{name} ")).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(own("etcd_server_has_leader"), 1.0);
        assert!(own("etcd_server_leader_changes_seen_total") >= 1.0);
        assert!(own("etcd_server_proposals_committed_total") >= own("etcd_server_proposals_applied_total"));
        let other = ids[(at + 1) % 3];
        for (name, label) in [
            ("etcd_network_peer_sent_bytes_total", "To"),
            ("etcd_network_peer_received_bytes_total", "From"),
        ] {
            let bytes = sample(&page, &format!("{name}{{{label}=\"{other:x}\"}}"));
            // Two followers have little to say to each other, but each asked for votes or heard the leader.
            assert!(
                bytes.is_some() && (bytes > Some(0.0) || at != leader),
                "{name}: {bytes:?}"
            );
        }
    }
    eventually("each member knows the cluster's version", || async {
        let version = format!("etcd_cluster_version{{cluster_version=\"{}\"}}", minor_version());
        cluster.nodes.iter().all(|node| node.metric(&version) == Some(1.0))
    })
    .await;

    let gone = (leader + 1) % 3;
    cluster.nodes[gone].kill_9();
    let pair = format!("{{Local=\"{:x}\",Remote=\"{:x}\"}}", ids[leader], ids[gone]);
    eventually("the lost link is counted", || async {
        let page = page(&cluster, leader);
        sample(&page, &format!("etcd_network_active_peers{pair}")) == Some(0.0)
            && sample(&page, &format!("etcd_network_disconnected_peers_total{pair}")) >= Some(1.0)
            && sample(
                &page,
                &format!("etcd_network_peer_sent_failures_total{{To=\"{:x}\"}}", ids[gone]),
            ) > Some(0.0)
    })
    .await;
    http(&cluster.nodes[leader].endpoint(), "GET", "/readyz");
    let page = page(&cluster, leader);
    let checked = "etcd_server_healthchecks_total{name=\"linearizable_read\",status=\"success\",type=\"readyz\"}";
    assert_eq!(sample(&page, checked), Some(1.0));
    if is_3_5() {
        return; // It has no gates.
    }
    let gate = "etcd_server_feature_enabled{name=\"CompactHashCheck\",stage=\"ALPHA\"}";
    assert_eq!(sample(&page, gate), Some(0.0));
}
