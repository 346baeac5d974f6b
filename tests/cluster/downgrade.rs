//! `Maintenance.Downgrade` in a cluster: any member takes it, all know of it.

use tonic::{Code, Status};

use crate::{
    rig::{Cluster, Node},
    support::{
        pb::etcdserverpb::{downgrade_request::DowngradeAction, *},
        *,
    },
};

async fn ask(node: &Node, action: DowngradeAction, version: &str) -> Result<String, Status> {
    let request = DowngradeRequest {
        action: action.into(),
        version: version.into(),
    };
    let answer = node.client().maintenance.downgrade(request).await?.into_inner();
    assert_ne!(answer.header.expect("a header").member_id, 0);
    Ok(answer.version)
}

/// Waits until every member tells this version of the cluster, and this target.
async fn told_by_all(cluster: &Cluster, version: &str, target: &str) {
    eventually("a version that all members tell", || async {
        for node in &cluster.nodes {
            let told = http(&node.endpoint(), "GET", "/version").body;
            let info = node.client().status().await.downgrade_info.unwrap_or_default();
            let enabled = http(&node.peer_endpoint(), "GET", "/downgrade/enabled").body;
            let wanted = DowngradeInfo {
                enabled: !target.is_empty(),
                target_version: target.into(),
            };
            if !told.contains(&format!("\"etcdcluster\":\"{version}\""))
                || info != wanted
                || enabled != wanted.enabled.to_string()
            {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_checked_begun_and_taken_back_on_any_member() {
    use DowngradeAction::{Cancel, Enable, Validate};
    if is_3_5() {
        return skipped("3.6: a server of 3.5 does not start again while a downgrade goes on");
    }
    let mut cluster = Cluster::start(3, &[]).await;
    told_by_all(&cluster, "3.6.0", "").await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;

    for action in [Validate, Enable] {
        let text = "etcdserver: wrong downgrade target version format";
        refused(
            ask(&cluster.nodes[follower], action, "3.x").await,
            Code::InvalidArgument,
            text,
        );
        let text = "etcdserver: invalid downgrade target version";
        for target in ["3.6.0", "3.4.0", "3.7", "2.5.0"] {
            refused(
                ask(&cluster.nodes[follower], action, target).await,
                Code::InvalidArgument,
                text,
            );
        }
    }
    let node = &cluster.nodes[follower];
    assert_eq!(ask(node, Validate, "3.5").await.unwrap(), "3.6");
    assert_eq!(
        ask(node, Cancel, "").await.unwrap(),
        "3.6",
        "there is none, and that is no error"
    );
    told_by_all(&cluster, "3.6.0", "").await;

    ask(node, Enable, "3.5.0").await.unwrap();
    // Until the leader has followed it is under way; behind that its target is no longer below.
    let again = ask(&cluster.nodes[leader], Enable, "3.5.0")
        .await
        .expect_err("it is under way");
    let texts = [
        "etcdserver: cluster has a downgrade job in progress",
        "etcdserver: invalid downgrade target version",
    ];
    assert!(texts.contains(&again.message()), "{again:?}");
    told_by_all(&cluster, "3.5.0", "3.5.0").await;
    refused(
        ask(&cluster.nodes[leader], Validate, "3.4.0").await,
        Code::FailedPrecondition,
        "etcdserver: cluster has a downgrade job in progress",
    );

    // It is in the log and in the tree.
    cluster.nodes[follower].kill_9();
    cluster.nodes[follower].start(true);
    cluster.leader().await;
    told_by_all(&cluster, "3.5.0", "3.5.0").await;
    cluster.nodes[follower].client().put("still", "served").await;

    assert_eq!(ask(&cluster.nodes[follower], Cancel, "").await.unwrap(), "3.5");
    told_by_all(&cluster, "3.6.0", "").await;
    cluster.agree().await;
}
