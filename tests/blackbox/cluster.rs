//! The member list of a cluster of one, and changes to it that are refused or harmless.

use crate::support::{pb::etcdserverpb::*, *};
use tonic::{Code, Status};

async fn members(client: &Client, linearizable: bool) -> MemberListResponse {
    let request = MemberListRequest { linearizable };
    client
        .cluster
        .clone()
        .member_list(request)
        .await
        .expect("listing members succeeds")
        .into_inner()
}

async fn add(client: &Client, urls: &[&str], is_learner: bool) -> Result<MemberAddResponse, Status> {
    let peer_ur_ls = urls.iter().map(|url| url.to_string()).collect();
    Ok(client
        .cluster
        .clone()
        .member_add(MemberAddRequest { peer_ur_ls, is_learner })
        .await?
        .into_inner())
}

#[tokio::test]
async fn a_lone_member_lists_itself() {
    let (server, client) = fresh().await;
    client.put("k", "v").await;
    for linearizable in [true, false] {
        let answer = members(&client, linearizable).await;
        let header = answer.header.unwrap();
        assert_eq!(header.revision, 0, "answers about the cluster carry no revision");
        let [member] = answer.members.as_slice() else {
            panic!("one member")
        };
        assert_eq!(member.id, header.member_id);
        assert_eq!(member.name, "default");
        assert_eq!(member.peer_ur_ls, [server.peer_url()]);
        assert_eq!(member.client_ur_ls, [server.url()]);
        assert!(!member.is_learner);
    }
}

#[tokio::test]
async fn ids_survive_a_restart() {
    let (mut server, client) = fresh().await;
    let before = members(&client, true).await;
    server.restart();
    let after = members(&server.client(), true).await;
    assert_eq!(after.members, before.members);
    assert_eq!(after.header.unwrap().cluster_id, before.header.unwrap().cluster_id);
}

#[tokio::test]
async fn a_learner_can_be_added_and_removed() {
    let (_server, client) = fresh().await;
    let answer = add(&client, &["http://127.0.0.1:1"], true).await.unwrap();
    let learner = answer.member.unwrap();
    assert!(learner.is_learner && learner.id != 0 && learner.name.is_empty() && learner.client_ur_ls.is_empty());
    assert_eq!((answer.members.len(), revision(&answer.header)), (2, 0));
    let listed = members(&client, true).await.members;
    assert!(listed.is_sorted_by_key(|member| member.id), "sorted by id");
    assert!(listed.contains(&learner));
    client.put("k", "a learner is no part of the quorum").await;

    let second = add(&client, &["http://127.0.0.1:2"], true).await;
    refused(
        second,
        Code::FailedPrecondition,
        "etcdserver: too many learner members in cluster",
    );
    let promoted = client
        .cluster
        .clone()
        .member_promote(MemberPromoteRequest { id: learner.id })
        .await;
    let text = "etcdserver: can only promote a learner member which is in sync with leader";
    refused(promoted, Code::FailedPrecondition, text);

    let removed = client
        .cluster
        .clone()
        .member_remove(MemberRemoveRequest { id: learner.id })
        .await;
    assert_eq!(removed.unwrap().into_inner().members.len(), 1);
    let again = client
        .cluster
        .clone()
        .member_remove(MemberRemoveRequest { id: learner.id })
        .await;
    refused(again, Code::NotFound, "etcdserver: member not found");
}

#[tokio::test]
async fn bad_or_taken_peer_urls_are_refused() {
    let (server, client) = fresh().await;
    for urls in [&[][..], &["nonsense"], &["http://without-port"]] {
        let answer = add(&client, urls, false).await;
        refused(
            answer,
            Code::InvalidArgument,
            "etcdserver: given member URLs are invalid",
        );
    }
    let taken = server.peer_url();
    let answer = add(&client, &[&taken], true).await;
    refused(answer, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
}

#[tokio::test]
async fn unknown_members_and_voters_are_refused() {
    let (_server, client) = fresh().await;
    let mut cluster = client.cluster.clone();
    let not_found = "etcdserver: member not found";
    refused(
        cluster.member_remove(MemberRemoveRequest { id: 77 }).await,
        Code::NotFound,
        not_found,
    );
    refused(
        cluster.member_promote(MemberPromoteRequest { id: 77 }).await,
        Code::NotFound,
        not_found,
    );
    let update = MemberUpdateRequest {
        id: 77,
        peer_ur_ls: vec!["http://127.0.0.1:1".into()],
    };
    refused(cluster.member_update(update).await, Code::NotFound, not_found);
    let own = members(&client, true).await.members[0].id;
    let answer = cluster.member_promote(MemberPromoteRequest { id: own }).await;
    refused(
        answer,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member",
    );
}

#[tokio::test]
async fn a_member_can_change_its_peer_urls() {
    let (mut server, client) = fresh().await;
    let own = members(&client, true).await.members[0].id;
    let peer_ur_ls = vec!["http://127.0.0.1:7777".to_owned()];
    let update = MemberUpdateRequest {
        id: own,
        peer_ur_ls: peer_ur_ls.clone(),
    };
    let updated = client.cluster.clone().member_update(update).await.unwrap().into_inner();
    assert_eq!(updated.members[0].peer_ur_ls, peer_ur_ls);
    server.restart();
    let member = members(&server.client(), true).await.members.remove(0);
    assert_eq!((member.id, member.peer_ur_ls), (own, peer_ur_ls));
}
