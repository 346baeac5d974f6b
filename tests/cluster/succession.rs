//! Leaders whose process ends, and who leads next.

use std::time::{Duration, Instant};

use crate::{
    rig::Cluster,
    support::{pb::etcdserverpb::PutRequest, *},
};

/// Far longer than anything in these stories takes. Units: milliseconds.
const TIME_OUT_MS: u64 = 20_000;

/// Three members that would wait for a silent leader for twenty seconds at least.
async fn slow_to_elect() -> Cluster {
    let mut cluster = Cluster::start(3, &[]).await;
    // The first election would take as long, so they get their patience one by one, the leader last.
    let leader = cluster.leader().await;
    for at in [(leader + 1) % 3, (leader + 2) % 3, leader] {
        cluster.nodes[at].stop();
        cluster.nodes[at]
            .flags
            .push(format!("--election-timeout={TIME_OUT_MS}"));
        cluster.nodes[at].start(true);
        cluster.leader().await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_killed_is_succeeded_in_one_election_and_before_any_time_out() {
    if is_reference() {
        return skipped("etcore: other leaders are waited for until the time-out");
    }
    let mut cluster = slow_to_elect().await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let other = cluster.nodes[(leader + 1) % 3].client();
        other.put("before", "the end").await;
        let term = other.status().await.raft_term;
        let killed = Instant::now();
        cluster.nodes[leader].kill_9();
        // One that is already on its way to the dead leader is lost, so it is asked for anew.
        eventually("a put", || async {
            let put = other.try_put(PutRequest {
                key: b"after".to_vec(),
                value: b"the end".to_vec(),
                ..Default::default()
            });
            matches!(tokio::time::timeout(Duration::from_secs(1), put).await, Ok(Ok(_)))
        })
        .await;
        let took = killed.elapsed();
        let logs = cluster.logs();
        assert!(took < Duration::from_millis(TIME_OUT_MS / 2), "{took:?}\n{logs}");
        assert_eq!(other.status().await.raft_term, term + 1, "elections\n{logs}");
        println!("a put begun at the leader's death was acknowledged after {took:?}");
        cluster.nodes[leader].start(true);
        assert_eq!(
            cluster.nodes[leader].client().get("after").await,
            Some(b"the end".to_vec())
        );
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_killed_and_a_leader_that_stands_still_are_not_taken_for_a_leader_that_ended() {
    if is_reference() {
        return skipped("etcore: others do not look for the end of a process");
    }
    let mut cluster = slow_to_elect().await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[leader].client().status().await.raft_term;
    let (killed, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[killed].kill_9();
    let process = cluster.nodes[other].process.as_ref().expect("it runs");
    assert!(process.logged("the peer's process has ended", PATIENCE));
    cluster.nodes[killed].start(true);
    let process = cluster.nodes[leader].process.as_ref().expect("it runs");
    process.signal("STOP");
    pause_ms(1500).await;
    process.signal("CONT");
    cluster.nodes[other].client().put("k", "v").await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.nodes[leader].client().status().await.raft_term, term);
}
