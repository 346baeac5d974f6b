//! What happens to both clusters.

use std::time::Duration;

use super::{PATIENT, Side, in_time, probes::NOBODY, told_of_both};
use crate::support::{
    pb::etcdserverpb::{alarm_request::AlarmAction, *},
    *,
};

/// Links count as good after five seconds, and member changes need good links.
const LINKS_GOOD_MS: u64 = 6000;

fn add(client: &Client, url: &str, is_learner: bool) -> impl Future<Output = Result<MemberAddResponse, tonic::Status>> {
    let (mut cluster, peer_ur_ls) = (client.cluster.clone(), vec![url.to_owned()]);
    async move {
        Ok(cluster
            .member_add(MemberAddRequest { peer_ur_ls, is_learner })
            .await?
            .into_inner())
    }
}

fn remove(client: &Client, id: u64) -> impl Future<Output = Result<MemberRemoveResponse, tonic::Status>> {
    let mut cluster = client.cluster.clone();
    async move { Ok(cluster.member_remove(MemberRemoveRequest { id }).await?.into_inner()) }
}

fn promote(client: &Client, id: u64) -> impl Future<Output = Result<MemberPromoteResponse, tonic::Status>> {
    let mut cluster = client.cluster.clone();
    async move { Ok(cluster.member_promote(MemberPromoteRequest { id }).await?.into_inner()) }
}

fn update(
    client: &Client,
    id: u64,
    urls: &[&str],
) -> impl Future<Output = Result<MemberUpdateResponse, tonic::Status>> {
    let mut cluster = client.cluster.clone();
    let peer_ur_ls = urls.iter().map(|url| url.to_string()).collect();
    async move {
        Ok(cluster
            .member_update(MemberUpdateRequest { id, peer_ur_ls })
            .await?
            .into_inner())
    }
}

fn move_leader(client: &Client, target_id: u64) -> impl Future<Output = Result<MoveLeaderResponse, tonic::Status>> {
    let mut maintenance = client.maintenance.clone();
    async move {
        Ok(maintenance
            .move_leader(MoveLeaderRequest { target_id })
            .await?
            .into_inner())
    }
}

fn alarm(
    client: &Client,
    action: AlarmAction,
    member_id: u64,
    kind: AlarmType,
) -> impl Future<Output = Result<AlarmResponse, tonic::Status>> {
    let mut maintenance = client.maintenance.clone();
    let request = AlarmRequest {
        action: action.into(),
        member_id,
        alarm: kind.into(),
    };
    async move { Ok(maintenance.alarm(request).await?.into_inner()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_and_followers_answer_as_those_of_etcd() {
    told_of_both(3, async |side: &mut Side| {
        let [leader, follower, other] = side.name_members().await;
        let clients: Vec<Client> = side.cluster.nodes.iter().map(|node| node.client()).collect();
        clients[leader].put("k", "v").await;
        let ids = [
            side.cluster.nodes[leader].id().await,
            side.cluster.nodes[other].id().await,
        ];
        pause_ms(LINKS_GOOD_MS).await;
        side.cluster.agree().await;
        side.ask_everything(leader, "leader").await;
        side.ask_everything(follower, "follower").await;

        let other_url = side.cluster.nodes[other].peer_url();
        for (at, part) in [(leader, "leader"), (follower, "follower")] {
            let asked = &clients[at];
            side.ask(&format!("{part}: promotion of a voter"), promote(asked, ids[1]))
                .await;
            side.ask(
                &format!("{part}: update to a taken URL"),
                update(asked, ids[0], &[&other_url]),
            )
            .await;
            side.ask(
                &format!("{part}: update to its own URL"),
                update(asked, ids[1], &[&other_url]),
            )
            .await;
            side.ask(
                &format!("{part}: move leader to the leader"),
                move_leader(asked, ids[0]),
            )
            .await;
        }
        side.ask("add of two URLs, one of them taken", async {
            let peer_ur_ls = vec!["http://127.0.0.1:1".to_owned(), other_url.clone()];
            let request = MemberAddRequest {
                peer_ur_ls,
                is_learner: false,
            };
            clients[leader].cluster.clone().member_add(request).await
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_told_by_every_member_as_by_those_of_etcd() {
    told_of_both(3, async |side: &mut Side| {
        let [leader, follower, other] = side.name_members().await;
        let clients: Vec<Client> = side.cluster.nodes.iter().map(|node| node.client()).collect();
        clients[leader].put("k", "v").await;
        let id = side.cluster.nodes[other].id().await;
        pause_ms(LINKS_GOOD_MS).await;
        for kind in [AlarmType::Nospace, AlarmType::Corrupt] {
            let name = kind.as_str_name();
            for (member, who) in [(id, "other"), (NOBODY as u64, "nobody")] {
                let raise = alarm(&clients[follower], AlarmAction::Activate, member, kind);
                let answer = side.ask(&format!("{name} for {who}"), raise).await;
                side.note(
                    "what is told of it",
                    format!("{:?}", answer.map(|answer| answer.alarms)),
                );
            }
            side.cluster.agree().await;
            side.ask_everything(leader, &format!("{name}, leader")).await;
            side.ask_everything(follower, &format!("{name}, follower")).await;
            for member in [id, NOBODY as u64, NOBODY as u64] {
                let clear = alarm(&clients[other], AlarmAction::Deactivate, member, kind);
                let answer = side.ask(&format!("{name} cleared"), clear).await;
                side.note(
                    "what is told of it",
                    format!("{:?}", answer.map(|answer| answer.alarms)),
                );
            }
        }
        side.ask("put", clients[other].try_put(put_request("k", "w"))).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_answers_as_one_of_etcd_and_its_cluster_too() {
    told_of_both(3, async |side: &mut Side| {
        let [leader, follower, other] = side.name_members().await;
        let clients: Vec<Client> = side.cluster.nodes.iter().map(|node| node.client()).collect();
        clients[leader].put("k", "v").await;
        pause_ms(LINKS_GOOD_MS).await;
        let fresh = side.cluster.prepare(&PATIENT);
        let url = side.cluster.nodes[fresh].peer_url();
        let added = side.ask("add of a learner", add(&clients[follower], &url, true)).await;
        let added = added.expect("a learner is added");
        let learner = added.member.expect("the learner").id;
        side.names.push((learner.to_string(), "<learner>".into()));
        let words = format!("{} members, {}", added.members.len(), revision(&added.header));
        side.note("its answer", words);
        // An id comes from the URLs and the second of the day: within that second the same member would be asked for.
        pause_ms(1100).await;
        for (at, part) in [(leader, "leader"), (follower, "follower")] {
            let asked = &clients[at];
            side.ask(
                &format!("{part}: a second learner"),
                add(asked, "http://127.0.0.1:1", true),
            )
            .await;
            side.ask(&format!("{part}: the same once more"), add(asked, &url, true))
                .await;
            side.ask(
                &format!("{part}: promotion of who never started"),
                promote(asked, learner),
            )
            .await;
            side.ask(
                &format!("{part}: move leader to who never started"),
                move_leader(asked, learner),
            )
            .await;
        }
        side.cluster.join(fresh, &[leader, follower, other, fresh]);
        let client = side.cluster.nodes[fresh].client();
        eventually("the learner to catch up", || async {
            let status = client.status().await;
            let local = RangeRequest {
                serializable: true,
                ..key_range("k")
            };
            status.is_learner && status.leader != 0 && client.range(local).await.count == 1
        })
        .await;
        side.ask_everything(fresh, "learner").await;
        side.ask_everything_of_a_leader(fresh, "learner").await;
        side.ask_everything(leader, "leader of a learner").await;
        side.ask("move leader to a learner", move_leader(&clients[leader], learner))
            .await;
        side.ask("promotion asked of the learner", promote(&client, learner))
            .await;
        eventually("the learner is in sync", || async {
            promote(&clients[follower], learner).await.is_ok()
        })
        .await;
        side.ask("promotion once more", promote(&clients[follower], learner))
            .await;
        eventually("it knows that it votes", || async { !client.status().await.is_learner }).await;
        pause_ms(LINKS_GOOD_MS).await;
        side.cluster.agree().await;
        side.ask_everything(fresh, "a learner of before").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_quorum_answers_as_one_of_etcd() {
    told_of_both(3, async |side: &mut Side| {
        let [leader, follower, other] = side.name_members().await;
        let client = side.cluster.nodes[follower].client();
        client.put("k", "v").await;
        let everywhere = async |side: &Side| {
            for node in &side.cluster.nodes {
                let list = node.client().members().await;
                if list.iter().any(|member| member.client_ur_ls.is_empty()) {
                    return false;
                }
            }
            true
        };
        eventually("all members are known", || everywhere(side)).await;
        side.cluster.nodes[leader].kill_9();
        side.cluster.nodes[other].kill_9();
        eventually("no leader", || async { client.status().await.leader == 0 }).await;
        // What is asked right after may be told of the leader that failed.
        pause_ms(4000).await;
        side.tells_time = true;
        side.ask_everything_of_a_leader(follower, "without a quorum").await;
        side.ask_everything_at_once(follower, "without a quorum").await;
        side.cluster.nodes[other].start(true);
        side.cluster.leader().await;
        side.tells_time = false;
        side.ask("put", client.try_put(put_request("k", "w"))).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_dead_member_takes_the_changes_that_etcd_takes() {
    told_of_both(3, async |side: &mut Side| {
        let [leader, follower, other] = side.name_members().await;
        let client = side.cluster.nodes[leader].client();
        let mut ids = Vec::new();
        for at in [leader, follower, other] {
            ids.push(side.cluster.nodes[at].id().await);
        }
        pause_ms(LINKS_GOOD_MS).await;
        side.cluster.nodes[other].kill_9();
        let link = format!(
            "etcd_network_active_peers{{Local=\"{:x}\",Remote=\"{:x}\"}}",
            ids[0], ids[2]
        );
        eventually("the leader to miss it", || async {
            side.cluster.nodes[leader].metric(&link) == Some(0.0)
        })
        .await;
        side.ask("put", client.try_put(put_request("k", "w"))).await;
        side.ask("add of a voter", add(&client, "http://127.0.0.1:1", false))
            .await;
        side.ask("add of a learner", add(&client, "http://127.0.0.1:1", true))
            .await;
        side.ask("removal of a live follower", remove(&client, ids[1])).await;
        side.ask("removal of the leader", remove(&client, ids[0])).await;
        side.ask("move leader to the dead", move_leader(&client, ids[2])).await;
        eventually("the old leader still leads, or another", || async {
            client.try_put(put_request("k", "w")).await.is_ok()
        })
        .await;
        side.ask("update of the dead", update(&client, ids[2], &["http://127.0.0.1:2"]))
            .await;
        side.ask("removal of the dead", remove(&client, ids[2])).await;
        side.ask("removal of who is gone", remove(&client, ids[2])).await;
        side.ask("promotion of who is gone", promote(&client, ids[2])).await;
        side.ask(
            "update of who is gone",
            update(&client, ids[2], &["http://127.0.0.1:3"]),
        )
        .await;

        // It comes back to hear that it is gone.
        side.cluster.nodes[other].start(false);
        let mut process = side.cluster.nodes[other].process.take().expect("just started");
        let ended = process.wait(Duration::from_secs(20));
        side.note("who is gone ends", ended.is_some().to_string());
        let told = process
            .log()
            .contains("the member has been permanently removed from the cluster");
        side.note("what it says in the end", told.to_string());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_member_grows_and_shrinks_as_one_of_etcd() {
    told_of_both(1, async |side: &mut Side| {
        let client = side.cluster.nodes[0].client();
        let id = side.cluster.nodes[0].id().await;
        side.name_member(0, "first").await;
        side.ask("removal of the only one", remove(&client, id)).await;
        side.ask("add of a second", add(&client, "http://127.0.0.1:1", false))
            .await;
        let put = async { client.try_put(put_request("k", "w")).await.map(|_| "put".to_owned()) };
        let third = async {
            add(&client, "http://127.0.0.1:2", false)
                .await
                .map(|_| "added".to_owned())
        };
        let (put, third) = tokio::join!(in_time(put, true), in_time(third, true));
        side.note("put with one of two", put);
        side.note("add of a third", third);
        side.ask("removal of the only one that started", remove(&client, id))
            .await;
    })
    .await;
}

/// Starts a member that is to refuse, and writes down which of these words it says.
fn refuses(side: &mut Side, what: &str, at: usize, words: &[&str]) {
    let log = side.cluster.nodes[at].start_refused();
    for word in words {
        side.note(format!("{what}: says {word:?}"), log.contains(word).to_string());
    }
}

async fn starts_again(side: &mut Side, what: &str) {
    side.cluster.nodes[0].start(true);
    let client = side.cluster.nodes[0].client();
    eventually("it writes", || async {
        client.try_put(put_request("k", "v")).await.is_ok()
    })
    .await;
    let list = client.members().await;
    let words: Vec<String> = list
        .iter()
        .map(|one| format!("{} {:?} {:?}", one.name, one.peer_ur_ls, one.client_ur_ls))
        .collect();
    side.note(what, format!("{words:?}"));
    side.cluster.nodes[0].stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_of_a_second_start_count_as_little_as_with_etcd() {
    told_of_both(1, async |side: &mut Side| {
        side.name_member(0, "first").await;
        let own = side.cluster.list();
        side.cluster.nodes[0].stop();
        starts_again(side, "a second start").await;
        side.cluster.nodes[0].name_in("m0=http://127.0.0.1:1,m1=http://127.0.0.1:2");
        starts_again(side, "another --initial-cluster").await;
        side.cluster.nodes[0].name_in(&own);
        side.cluster.nodes[0]
            .flags
            .push("--initial-cluster-token=another".into());
        starts_again(side, "another --initial-cluster-token").await;
        side.cluster.nodes[0].flags.clear();
        side.cluster.nodes[0].name = "renamed".into();
        starts_again(side, "another --name").await;
        side.cluster.nodes[0].name_in("");
        starts_again(side, "another --name and no --initial-cluster").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_join_is_refused_as_by_etcd() {
    told_of_both(2, async |side: &mut Side| {
        let list = side.cluster.list();
        let client = side.cluster.nodes[0].client();
        eventually("all members are known", || async {
            client
                .members()
                .await
                .iter()
                .all(|member| !member.client_ur_ls.is_empty())
        })
        .await;
        let fresh = side.cluster.prepare(&PATIENT);
        let own = format!("m2={}", side.cluster.nodes[fresh].peer_url());
        side.cluster.nodes[fresh].name_in(&format!("{own},{list}"));
        refuses(
            side,
            "one that was not added",
            fresh,
            &["error validating peerURLs", "member count is unequal"],
        );
        side.cluster.nodes[fresh].name_in(&format!("{own},m9=http://127.0.0.1:1"));
        refuses(
            side,
            "one that reaches nobody",
            fresh,
            &[
                "cannot fetch cluster info from peer urls",
                "could not retrieve cluster information from the given URLs",
            ],
        );
        pause_ms(LINKS_GOOD_MS).await;
        let url = side.cluster.nodes[fresh].peer_url();
        side.ask("add", add(&client, &url, true)).await;
        let (first, _) = list.split_once(',').expect("two members");
        side.cluster.nodes[fresh].name_in(&format!("{own},{first}"));
        refuses(side, "one that names too few", fresh, &["member count is unequal"]);
        side.cluster.nodes[fresh].name_in(&format!("{own},{first},m1=http://127.0.0.1:1"));
        refuses(
            side,
            "one that names a wrong URL",
            fresh,
            &["error validating peerURLs", "no match found for existing member"],
        );
        side.cluster.join(fresh, &[0, 1, fresh]);
        let joined = side.cluster.nodes[fresh].client();
        eventually("it is a learner", || async { joined.status().await.is_learner }).await;
    })
    .await;
}
