//! Leases when their leader fails.

use std::time::{Duration, Instant};

use crate::{
    rig::Cluster,
    support::{pb::etcdserverpb::*, *},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_its_leader_by_its_time_and_then_ends() {
    const TTL: u64 = 4;
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let client = cluster.nodes[(leader + 1) % 3].client();
    let lease = client.grant(TTL as i64).await;
    let request = PutRequest {
        key: b"leased".to_vec(),
        lease,
        ..Default::default()
    };
    client.try_put(request).await.unwrap();
    pause_ms(1000).await;
    let asked = Instant::now();
    let mut lease_client = client.lease.clone();
    let asks = tokio_stream::iter([LeaseKeepAliveRequest { id: lease }]);
    let mut answers = lease_client.lease_keep_alive(asks).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, TTL as i64);
    cluster.nodes[leader].kill_9();
    cluster.leader().await;
    let info = client.time_to_live(lease).await;
    let is_there = info.ttl > 0 && info.keys == [b"leased".to_vec()];
    assert!(is_there || asked.elapsed() >= Duration::from_secs(TTL), "{info:?}");
    loop {
        let there = client.get("leased").await.is_some();
        let lived = asked.elapsed();
        if !there {
            assert!(lived >= Duration::from_secs(TTL), "it ended after {lived:?}");
            break;
        }
        assert!(lived < PATIENCE, "it does not end");
        pause_ms(50).await;
    }
    let asks = tokio_stream::iter([LeaseKeepAliveRequest { id: lease }]);
    let mut answers = lease_client.lease_keep_alive(asks).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 0);
    assert_eq!(client.time_to_live(lease).await.ttl, -1);
}
