//! Members that come, go and change.

use std::time::{Duration, Instant};

use tonic::{Code, Status};

use crate::{
    rig::Cluster,
    support::{pb::etcdserverpb::*, *},
};

/// Links count as good after five seconds, and member changes need good links.
const LINKS_GOOD: Duration = Duration::from_secs(5);
const UNHEALTHY: &str = "etcdserver: unhealthy cluster";

async fn add(client: &Client, url: String, is_learner: bool) -> Result<MemberAddResponse, Status> {
    let request = MemberAddRequest {
        peer_ur_ls: vec![url],
        is_learner,
    };
    Ok(client.cluster.clone().member_add(request).await?.into_inner())
}

async fn remove(client: &Client, id: u64) -> Result<MemberRemoveResponse, Status> {
    Ok(client
        .cluster
        .clone()
        .member_remove(MemberRemoveRequest { id })
        .await?
        .into_inner())
}

async fn promote(client: &Client, id: u64) -> Result<MemberPromoteResponse, Status> {
    Ok(client
        .cluster
        .clone()
        .member_promote(MemberPromoteRequest { id })
        .await?
        .into_inner())
}

/// Asks for a change until the members' links count as good.
async fn once_links_are_good<T>(change: impl AsyncFn() -> Result<T, Status>) -> T {
    let started = Instant::now();
    loop {
        match change().await {
            Err(status) if status.message() == UNHEALTHY && started.elapsed() < PATIENCE => pause_ms(200).await,
            other => return other.expect("the change is made"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_one_to_three_by_a_member_and_a_promoted_learner() {
    let mut cluster = Cluster::start(1, &[]).await;
    let first = cluster.nodes[0].client();
    first.put("before", "joining").await;

    let second = cluster.prepare(&[]);
    let added = add(&first, cluster.nodes[second].peer_url(), false).await.unwrap();
    assert_eq!((added.members.len(), added.header.unwrap().revision), (2, 0));
    assert!(added.member.unwrap().name.is_empty());
    let early = add(&first, "http://127.0.0.1:1".into(), false).await;
    refused(
        early,
        Code::Unknown,
        "etcdserver: re-configuration failed due to not enough started members",
    );
    cluster.join(second, &[0, second]);
    assert_eq!(
        cluster.nodes[second].client().get("before").await,
        Some(b"joining".to_vec())
    );

    let third = cluster.prepare(&[]);
    let (asked, url) = (cluster.nodes[second].client(), cluster.nodes[third].peer_url());
    let added = once_links_are_good(async || add(&asked, url.clone(), true).await).await;
    let learner = added.member.unwrap();
    cluster.join(third, &[0, second, third]);
    let client = cluster.nodes[third].client();
    eventually("the learner knows what it is", || async {
        client.status().await.is_learner
    })
    .await;
    let code = match is_3_5() {
        true => Code::Unavailable, // 3.6 changed it.
        false => Code::FailedPrecondition,
    };
    let not_supported = "etcdserver: rpc not supported for learner";
    refused(client.try_range(key_range("before")).await, code, not_supported);
    let list = client.cluster.clone().member_list(MemberListRequest::default()).await;
    refused(list, code, not_supported);
    let page = |path: &str| {
        let answer = http(&cluster.nodes[third].endpoint(), "GET", path);
        (answer.status, answer.body)
    };
    let not_ready = "[-]non_learner failed: not supported for learner\n\n";
    assert_eq!(page("/readyz/non_learner"), (503, not_ready.to_owned()));
    assert_eq!(page("/health"), (200, r#"{"health":"true","reason":""}"#.to_owned()));
    // Whichever member is asked, the leader decides.
    eventually("the learner is in sync", || async {
        promote(&cluster.nodes[second].client(), learner.id).await.is_ok()
    })
    .await;
    eventually("it knows that it votes", || async { !client.status().await.is_learner }).await;
    assert_eq!(client.get("before").await, Some(b"joining".to_vec()));
    let list = client.members().await;
    assert!(list.iter().all(|member| !member.is_learner));

    // Three voters: one may go.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill_9();
    cluster.leader().await;
    let left = cluster.running()[0];
    cluster.nodes[left].client().put("after", "joining").await;
    cluster.nodes[leader].start(true);
    cluster.leader().await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_members_stop_by_themselves_and_never_return() {
    let started = Instant::now();
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let gone = cluster.nodes[follower].id().await;
    // On a machine that takes this long to start three members the links may be good already.
    if started.elapsed() < LINKS_GOOD / 2 {
        let early = remove(&cluster.nodes[leader].client(), gone).await;
        refused(early, Code::Unavailable, UNHEALTHY);
    }

    let client = cluster.nodes[other].client();
    let removed = once_links_are_good(async || remove(&client, gone).await).await;
    assert_eq!((removed.members.len(), removed.header.unwrap().revision), (2, 0));
    let mut process = cluster.nodes[follower].process.take().unwrap();
    let status = process.wait(Duration::from_secs(15));
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}\n{}",
        process.log_tail()
    );
    refused(
        remove(&cluster.nodes[other].client(), gone).await,
        Code::NotFound,
        "etcdserver: member not found",
    );

    // Started again on its data, it is told so and stops.
    drop(process);
    cluster.nodes[follower].start(false);
    let mut process = cluster.nodes[follower].process.take().unwrap();
    assert!(
        process.wait(Duration::from_secs(15)).is_some(),
        "{}",
        process.log_tail()
    );

    cluster.nodes[other].client().put("two", "left").await;
    let leader = cluster.leader().await;
    let last = cluster.nodes[leader].id().await;
    // Of two, the leader goes: etcd calls that unhealthy only when the other is not connected.
    let client = cluster.nodes[leader].client();
    once_links_are_good(async || remove(&client, last).await).await;
    let mut process = cluster.nodes[leader].process.take().unwrap();
    assert!(
        process.wait(Duration::from_secs(15)).is_some(),
        "{}",
        process.log_tail()
    );
    let left = cluster.leader().await;
    cluster.nodes[left].client().put("one", "left").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_can_be_replaced_and_a_live_one_of_a_bare_majority_not_removed() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let (dead, live) = ((leader + 1) % 3, (leader + 2) % 3);
    let (dead_id, live_id) = (cluster.nodes[dead].id().await, cluster.nodes[live].id().await);
    cluster.nodes[dead].kill_9();
    let client = cluster.nodes[leader].client();
    let leader_id = cluster.nodes[leader].id().await;
    let link = format!("etcd_network_active_peers{{Local=\"{leader_id:x}\",Remote=\"{dead_id:x}\"}}");
    eventually("the leader to miss it", || async {
        cluster.nodes[leader].metric(&link) == Some(0.0)
    })
    .await;
    refused(remove(&client, live_id).await, Code::Unavailable, UNHEALTHY);
    once_links_are_good(async || remove(&client, dead_id).await).await;
    let fresh = cluster.prepare(&[]);
    let url = cluster.nodes[fresh].peer_url();
    once_links_are_good(async || add(&client, url.clone(), false).await).await;
    cluster.join(fresh, &[leader, live, fresh]);
    cluster.leader().await;
    cluster.nodes[fresh].client().put("replaced", "yes").await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_added_as_long_as_a_majority_of_the_grown_cluster_is_connected() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.nodes[0].client();
    once_links_are_good(|| add(&client, "http://127.0.0.1:1".into(), false)).await;
    // Three of the four voters are there, and three of five would be a majority.
    let learner = add(&client, "http://127.0.0.1:2".into(), true).await.unwrap();
    assert_eq!(learner.members.len(), 5);
    cluster.nodes[2].kill_9();
    eventually("a member is not added any more", || async {
        let refusal = add(&client, "http://127.0.0.1:3".into(), true).await.unwrap_err();
        refusal.message() == UNHEALTHY
    })
    .await;
}
