//! `--force-new-cluster`: one member goes on without the others.

use std::time::Duration;

use crate::{
    rig::Cluster,
    support::{pb::etcdserverpb::*, *},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_cluster_goes_on_alone_and_takes_in_others_anew() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let before = cluster.nodes[leader].client().status().await.header.unwrap();
    for at in 0..20 {
        cluster.nodes[leader].client().put(format!("k{at}"), "v").await;
    }
    cluster.agree().await;
    let survivor = (leader + 1) % 3;
    let id = cluster.nodes[survivor]
        .client()
        .status()
        .await
        .header
        .unwrap()
        .member_id;
    for node in &mut cluster.nodes {
        // In order: then all that was acknowledged is known to be committed everywhere.
        let mut process = node.process.take().unwrap();
        process.signal("TERM");
        assert!(process.wait(PATIENCE).is_some());
    }

    let node = &mut cluster.nodes[survivor];
    node.flags.push("--force-new-cluster".into());
    node.start(true);
    if !is_reference() {
        let process = node.process.as_ref().unwrap();
        assert!(process.logged("start it without --force-new-cluster from now on", PATIENCE));
    }
    let client = node.client();
    assert_eq!(client.keys("k").await.len(), 20);
    let header = client.status().await.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id), (before.cluster_id, id));
    assert_eq!(client.members().await.len(), 1);
    client.put("alone", "yes").await;

    // A crash loses nothing, and without the flag it stays alone.
    node.kill_9();
    node.flags.clear();
    node.start(true);
    let client = node.client();
    assert_eq!(client.get("alone").await, Some(b"yes".to_vec()));
    assert_eq!(client.members().await.len(), 1);

    // A member of before is told that it is out, and stops.
    let old = (survivor + 1) % 3;
    cluster.nodes[old].start(false);
    let mut process = cluster.nodes[old].process.take().unwrap();
    assert!(
        process.wait(Duration::from_secs(15)).is_some(),
        "{}",
        process.log_tail()
    );
    assert!(
        process.log().contains("removed from the cluster"),
        "{}",
        process.log_tail()
    );

    // Others come in anew, with empty directories.
    let fresh = cluster.prepare(&[]);
    let request = MemberAddRequest {
        peer_ur_ls: vec![cluster.nodes[fresh].peer_url()],
        is_learner: false,
    };
    client.cluster.clone().member_add(request).await.unwrap();
    cluster.join(fresh, &[survivor, fresh]);
    assert_eq!(cluster.nodes[fresh].client().get("alone").await, Some(b"yes".to_vec()));
    cluster.agree().await;
}
