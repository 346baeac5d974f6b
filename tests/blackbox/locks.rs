//! The lock and election services, which live on leases, keys and watches inside the server.

use crate::support::{
    pb::{v3electionpb::*, v3lockpb::*},
    *,
};
use tonic::Code;

async fn lock(client: &Client, lease: i64) -> Vec<u8> {
    let request = LockRequest {
        name: "mutex".into(),
        lease,
    };
    within("the lock", client.lock.clone().lock(request))
        .await
        .unwrap()
        .into_inner()
        .key
}

async fn campaign(client: &Client, lease: i64, value: &str) -> LeaderKey {
    let request = CampaignRequest {
        name: "post".into(),
        lease,
        value: value.into(),
    };
    let won = within("the election", client.election.clone().campaign(request))
        .await
        .unwrap()
        .into_inner();
    won.leader.expect("the winner has a key")
}

async fn leader(client: &Client) -> Result<Vec<u8>, tonic::Status> {
    let answer = client
        .election
        .clone()
        .leader(LeaderRequest { name: "post".into() })
        .await?
        .into_inner();
    Ok(answer.kv.expect("a leader has a pair").value)
}

#[tokio::test]
async fn a_lock_is_a_leased_key_and_unlocking_deletes_it() {
    if !is_reference() {
        return println!("skipped: needs the lock and election services, not there yet");
    }
    let (_server, client) = fresh().await;
    let lease = client.grant(1000).await;
    let key = lock(&client, lease).await;
    assert_eq!(String::from_utf8_lossy(&key), format!("mutex/{lease:x}"));
    assert_eq!(client.range(key_range(key.clone())).await.kvs[0].lease, lease);
    assert_eq!(lock(&client, lease).await, key, "the same lease holds it already");
    client
        .lock
        .clone()
        .unlock(UnlockRequest { key: key.clone() })
        .await
        .unwrap();
    assert!(client.range(key_range(key.clone())).await.kvs.is_empty());
    client
        .lock
        .clone()
        .unlock(UnlockRequest { key })
        .await
        .expect("unlocking twice is fine");
}

#[tokio::test]
async fn waiters_get_the_lock_in_their_order() {
    if !is_reference() {
        return println!("skipped: needs the lock and election services, not there yet");
    }
    let (_server, client) = fresh().await;
    let first = lock(&client, client.grant(1000).await).await;
    let (sender, mut turns) = tokio::sync::mpsc::unbounded_channel();
    for turn in 0..4 {
        let (client, sender) = (client.clone(), sender.clone());
        tokio::spawn(async move {
            let key = lock(&client, client.grant(1000).await).await;
            sender.send(turn).unwrap();
            client.lock.clone().unlock(UnlockRequest { key }).await.unwrap();
        });
        pause_ms(100).await;
    }
    assert!(turns.try_recv().is_err(), "it is still held");
    client.lock.clone().unlock(UnlockRequest { key: first }).await.unwrap();
    for expected in 0..4 {
        assert_eq!(within("a turn", turns.recv()).await, Some(expected));
    }
}

#[tokio::test]
async fn a_lock_goes_on_when_the_lease_of_its_holder_ends() {
    if !is_reference() {
        return println!("skipped: needs the lock and election services, not there yet");
    }
    let (_server, client) = fresh().await;
    let holder = client.grant(1000).await;
    lock(&client, holder).await;
    let waiter = client.grant(1000).await;
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { lock(&client, waiter).await })
    };
    pause_ms(200).await;
    client.try_revoke(holder).await.unwrap();
    let key = within("the lock", waiting).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&key), format!("mutex/{waiter:x}"));
}

#[tokio::test]
async fn a_lock_without_a_lease_gets_one() {
    if !is_reference() {
        return println!("skipped: needs the lock and election services, not there yet");
    }
    let (_server, client) = fresh().await;
    let key = lock(&client, 0).await;
    let lease = client.range(key_range(key)).await.kvs[0].lease;
    assert_eq!(client.time_to_live(lease).await.granted_ttl, 60);
}

#[tokio::test]
async fn a_lock_with_an_unknown_lease_is_refused() {
    if !is_reference() {
        return println!("skipped: needs the lock and election services, not there yet");
    }
    let (_server, client) = fresh().await;
    let request = LockRequest {
        name: "mutex".into(),
        lease: 12345,
    };
    refused(
        client.lock.clone().lock(request).await,
        Code::Unknown,
        "etcdserver: requested lease not found",
    );
}

#[tokio::test]
async fn an_election_has_one_leader_at_a_time() {
    if !is_reference() {
        return println!("skipped: needs the lock and election services, not there yet");
    }
    let (_server, client) = fresh().await;
    refused(leader(&client).await, Code::Unknown, "election: no leader");
    let lease = client.grant(1000).await;
    let won = campaign(&client, lease, "first").await;
    assert_eq!((won.name.as_slice(), won.lease), (b"post".as_slice(), lease));
    assert_eq!(String::from_utf8_lossy(&won.key), format!("post/{lease:x}"));
    assert_eq!(leader(&client).await.unwrap(), b"first");
    let next = {
        let client = client.clone();
        tokio::spawn(async move { campaign(&client, client.grant(1000).await, "second").await })
    };
    pause_ms(200).await;
    assert!(!next.is_finished());
    client
        .election
        .clone()
        .resign(ResignRequest {
            leader: Some(won.clone()),
        })
        .await
        .unwrap();
    within("the next leader", next).await.unwrap();
    assert_eq!(leader(&client).await.unwrap(), b"second");
    let late = ProclaimRequest {
        leader: Some(won),
        value: "late".into(),
    };
    refused(
        client.election.clone().proclaim(late).await,
        Code::Unknown,
        "election: not leader",
    );
}

#[tokio::test]
async fn observers_see_each_proclamation() {
    if !is_reference() {
        return println!("skipped: needs the lock and election services, not there yet");
    }
    let (_server, client) = fresh().await;
    let won = campaign(&client, client.grant(1000).await, "1").await;
    let request = LeaderRequest { name: "post".into() };
    let mut stream = client.election.clone().observe(request).await.unwrap().into_inner();
    for next in ["2", "3", ""] {
        let seen = within("a leader", stream.message())
            .await
            .unwrap()
            .unwrap()
            .kv
            .unwrap()
            .value;
        let current: u8 = String::from_utf8(seen).unwrap().parse().unwrap();
        assert!((1..=3).contains(&current));
        if !next.is_empty() {
            let request = ProclaimRequest {
                leader: Some(won.clone()),
                value: next.into(),
            };
            client.election.clone().proclaim(request).await.unwrap();
        }
    }
}

#[tokio::test]
async fn proclaiming_and_resigning_need_a_leader_key() {
    if !is_reference() {
        return println!("skipped: needs the lock and election services, not there yet");
    }
    let (_server, client) = fresh().await;
    let text = "\"leader\" field must be provided";
    let proclaim = ProclaimRequest {
        leader: None,
        value: "v".into(),
    };
    refused(client.election.clone().proclaim(proclaim).await, Code::Unknown, text);
    refused(
        client.election.clone().resign(ResignRequest { leader: None }).await,
        Code::Unknown,
        text,
    );
}
