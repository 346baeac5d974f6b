//! Members that come as learners, are promoted, and go, under load.

use std::time::Instant;

use tonic::Status;

use super::story::Story;
use crate::{
    rig::Cluster,
    support::{
        pb::etcdserverpb::{MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest},
        *,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_come_as_learners_are_promoted_and_go() {
    let (seed, rounds) = (seed(6), scaled(1) as usize);
    let mut cluster = Cluster::start(3, &[]).await;
    let coming: Vec<usize> = (0..rounds).map(|_| cluster.prepare(&[])).collect();
    let mut story = Story::begin(cluster, seed);
    for fresh in coming {
        story.calm_ms(100, 500).await;
        let members = story.cluster.running();
        let url = story.cluster.nodes[fresh].peer_url();
        let leader = story.cluster.leader().await;
        let client = story.cluster.nodes[leader].client();
        until_it_works("a learner to be added", async || {
            let request = MemberAddRequest {
                peer_ur_ls: vec![url.clone()],
                is_learner: true,
            };
            client.cluster.clone().member_add(request).await.map(drop)
        })
        .await;
        let all = [&members[..], &[fresh]].concat();
        story.cluster.join(fresh, &all);
        let id = story.cluster.nodes[fresh].id().await;
        until_it_works("the learner to be promoted", async || {
            let request = MemberPromoteRequest { id };
            client.cluster.clone().member_promote(request).await.map(drop)
        })
        .await;
        story.calm_ms(100, 1000).await;
        let gone = *story.rng.pick(&members);
        remove(&mut story, gone, fresh).await;
    }
    story.end().await;
}

async fn remove(story: &mut Story, gone: usize, asked: usize) {
    let id = story.cluster.nodes[gone].id().await;
    let client = story.cluster.nodes[asked].client();
    until_it_works("a member to be removed", async || {
        let request = MemberRemoveRequest { id };
        client.cluster.clone().member_remove(request).await.map(drop)
    })
    .await;
    let mut process = story.cluster.nodes[gone].process.take().expect("it runs");
    assert!(
        process.wait(PATIENCE).is_some(),
        "a removed member stops by itself\n{}",
        process.log_tail()
    );
}

/// Asks for a change again and again: links may be too young for it, a learner behind, or a leader busy with another one.
async fn until_it_works(what: &str, change: impl AsyncFn() -> Result<(), Status>) {
    let started = Instant::now();
    while let Err(status) = change().await {
        // An earlier try may have worked without an answer.
        let done = [
            "member not found",
            "Peer URLs already exists",
            "can only promote a learner member",
        ];
        if done.iter().any(|text| status.message().ends_with(text)) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: {status:?}");
        pause_ms(100).await;
    }
}
