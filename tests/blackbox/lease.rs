//! Leases: granting, keeping alive, ending, and the keys that end with them.

use crate::support::{
    pb::etcdserverpb::{
        LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, PutRequest,
    },
    *,
};
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

const NOT_FOUND: &str = "etcdserver: requested lease not found";

/// With a tick of 20 ms the least TTL is one second.
async fn leased(client: &Client, id: i64, key: &str) {
    client
        .try_put(PutRequest {
            lease: id,
            ..put_request(key, "v")
        })
        .await
        .unwrap();
}

struct KeepAlive {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    responses: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    async fn open(client: &Client, id: i64) -> (KeepAlive, LeaseKeepAliveResponse) {
        let (requests, receiver) = mpsc::channel(100);
        requests.send(LeaseKeepAliveRequest { id }).await.unwrap();
        let mut lease = client.lease.clone();
        let opened = within(
            "a keepalive stream",
            lease.lease_keep_alive(ReceiverStream::new(receiver)),
        )
        .await;
        let mut responses = opened.expect("the stream opens").into_inner();
        let first = within("the first renewal", responses.message()).await.unwrap().unwrap();
        (KeepAlive { requests, responses }, first)
    }

    async fn renew(&mut self, id: i64) -> LeaseKeepAliveResponse {
        self.requests.send(LeaseKeepAliveRequest { id }).await.unwrap();
        within("a renewal", self.responses.message()).await.unwrap().unwrap()
    }
}

async fn lease_ids(client: &Client) -> Vec<i64> {
    let answer = client
        .lease
        .clone()
        .lease_leases(LeaseLeasesRequest {})
        .await
        .unwrap()
        .into_inner();
    answer.leases.iter().map(|lease| lease.id).collect()
}

#[tokio::test]
async fn a_grant_answers_id_and_ttl() {
    let (_server, client) = fresh().await;
    let chosen = client.try_grant(42, 100).await.unwrap();
    assert_eq!((chosen.id, chosen.ttl, chosen.error.as_str()), (42, 100, ""));
    assert_eq!(revision(&chosen.header), 1, "a grant takes no revision");
    let picked = client.try_grant(0, 100).await.unwrap();
    assert!(picked.id > 0, "the server picks a positive id: {}", picked.id);
    assert_ne!(client.grant(100).await, picked.id);
}

#[tokio::test]
async fn an_id_in_use_or_a_huge_ttl_is_refused() {
    let (_server, client) = fresh().await;
    client.try_grant(7, 100).await.unwrap();
    refused(
        client.try_grant(7, 200).await,
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
    );
    let answer = client.try_grant(8, 9_000_000_001).await;
    refused(answer, Code::OutOfRange, "etcdserver: too large lease TTL");
    assert_eq!(client.try_grant(9, 9_000_000_000).await.unwrap().ttl, 9_000_000_000);
}

#[tokio::test]
async fn a_small_ttl_is_raised_to_the_minimum() {
    let server = Server::start(&["--heartbeat-interval=100", "--election-timeout=1000"]).await;
    let client = server.client();
    for (wanted, granted) in [(1, 2), (0, 2), (-5, 2), (2, 2), (3, 3)] {
        let answer = client
            .lease
            .clone()
            .lease_grant(LeaseGrantRequest { ttl: wanted, id: 0 })
            .await;
        assert_eq!(answer.unwrap().into_inner().ttl, granted, "asked for {wanted}");
    }
}

#[tokio::test]
async fn time_to_live_tells_what_is_left_and_which_keys() {
    let (_server, client) = fresh().await;
    let id = client.grant(100).await;
    for key in ["b", "a"] {
        leased(&client, id, key).await;
    }
    let mut answer = client.time_to_live(id).await;
    assert_eq!((answer.id, answer.granted_ttl), (id, 100));
    assert!((95..=100).contains(&answer.ttl), "{}", answer.ttl);
    answer.keys.sort();
    assert_eq!(answer.keys, [b"a", b"b"]);
    let request = pb::etcdserverpb::LeaseTimeToLiveRequest { id, keys: false };
    assert!(
        client
            .lease
            .clone()
            .lease_time_to_live(request)
            .await
            .unwrap()
            .into_inner()
            .keys
            .is_empty()
    );
}

#[tokio::test]
async fn an_unknown_lease_is_no_error_to_ask_about() {
    let (_server, client) = fresh().await;
    let answer = client.time_to_live(99).await;
    assert_eq!((answer.id, answer.ttl, answer.granted_ttl), (99, -1, 0));
    assert!(answer.header.is_some());
    let (_stream, renewed) = KeepAlive::open(&client, 99).await;
    assert_eq!((renewed.id, renewed.ttl), (99, 0));
}

#[tokio::test]
async fn leases_lists_them_all_by_expiry() {
    let (_server, client) = fresh().await;
    assert!(lease_ids(&client).await.is_empty());
    for (id, ttl) in [(1, 3000), (2, 1000), (3, 2000)] {
        client.try_grant(id, ttl).await.unwrap();
    }
    assert_eq!(lease_ids(&client).await, [2, 3, 1]);
    client.try_revoke(3).await.unwrap();
    assert_eq!(lease_ids(&client).await, [2, 1]);
}

#[tokio::test]
async fn revoking_deletes_the_keys_in_one_revision() {
    let (_server, client) = fresh().await;
    let id = client.grant(1000).await;
    for key in ["b", "a", "c"] {
        leased(&client, id, key).await;
    }
    client.put("free", "v").await;
    let answer = client.try_revoke(id).await.unwrap();
    assert_eq!(revision(&answer.header), 6);
    assert_eq!(keys(&client.range(all_range()).await.kvs), ["free"]);
    assert_eq!(client.time_to_live(id).await.ttl, -1);
    refused(client.try_revoke(id).await, Code::NotFound, NOT_FOUND);
}

#[tokio::test]
async fn revoking_a_lease_without_keys_takes_no_revision() {
    let (_server, client) = fresh().await;
    let id = client.grant(1000).await;
    assert_eq!(revision(&client.try_revoke(id).await.unwrap().header), 1);
    refused(client.try_revoke(12345).await, Code::NotFound, NOT_FOUND);
}

#[tokio::test]
async fn a_lease_that_nobody_keeps_alive_ends_and_takes_its_keys() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    let started = Instant::now();
    let id = client.grant(1).await;
    leased(&client, id, "k").await;
    let event = watcher.events(2).await.remove(1);
    assert_eq!(event.r#type(), pb::mvccpb::event::EventType::Delete);
    let lived = started.elapsed();
    assert!(lived.as_millis() >= 1000, "never early, but it was {lived:?}");
    assert_eq!((client.get("k").await, client.time_to_live(id).await.ttl), (None, -1));
}

#[tokio::test]
async fn a_lease_kept_alive_lives_on() {
    let (_server, client) = fresh().await;
    let id = client.grant(3).await;
    leased(&client, id, "k").await;
    let (mut stream, first) = KeepAlive::open(&client, id).await;
    assert_eq!((first.id, first.ttl), (id, 3));
    assert_eq!(revision(&first.header), 2);
    for _ in 0..12 {
        pause_ms(500).await;
        assert_eq!(stream.renew(id).await.ttl, 3);
    }
    assert!(client.get("k").await.is_some(), "twice its time has passed");
    client.try_revoke(id).await.unwrap();
    assert_eq!(
        stream.renew(id).await.ttl,
        0,
        "the stream tells that it is gone and stays open"
    );
}

#[tokio::test]
async fn one_stream_keeps_many_leases() {
    let (_server, client) = fresh().await;
    let (mut stream, _) = KeepAlive::open(&client, 1).await;
    for id in 1..50 {
        client.try_grant(id, 100 + id).await.unwrap();
        let renewed = stream.renew(id).await;
        assert_eq!((renewed.id, renewed.ttl), (id, 100 + id));
    }
}

#[tokio::test]
async fn a_renewal_takes_no_revision() {
    let (_server, client) = fresh().await;
    let id = client.grant(100).await;
    let (mut stream, _) = KeepAlive::open(&client, id).await;
    for _ in 0..10 {
        stream.renew(id).await;
    }
    assert_eq!(client.revision().await, 1);
}

#[tokio::test]
async fn a_key_deleted_leaves_its_lease() {
    let (_server, client) = fresh().await;
    let id = client.grant(1000).await;
    leased(&client, id, "k").await;
    client.delete("k").await;
    assert!(client.time_to_live(id).await.keys.is_empty());
    client.put("k", "free").await;
    client.try_revoke(id).await.unwrap();
    assert_eq!(client.get("k").await.unwrap(), b"free");
}

#[tokio::test]
async fn leases_and_their_keys_survive_a_restart() {
    let mut server = Server::start(&[]).await;
    let client = server.client();
    let id = client.grant(1000).await;
    leased(&client, id, "k").await;
    server.restart();
    let client = server.client();
    let answer = client.time_to_live(id).await;
    assert_eq!((answer.granted_ttl, answer.keys), (1000, vec![b"k".to_vec()]));
    client.try_revoke(id).await.unwrap();
    assert_eq!(client.get("k").await, None);
}

#[tokio::test]
async fn a_lease_still_ends_after_a_restart() {
    let mut server = Server::start(&[]).await;
    let client = server.client();
    let id = client.grant(1).await;
    leased(&client, id, "k").await;
    server.kill_9();
    server.start_again();
    let client = server.client();
    eventually("the end of the lease", || async { client.get("k").await.is_none() }).await;
}

#[tokio::test]
async fn many_leases_end_together_without_losing_a_key_too_many() {
    let (_server, client) = fresh().await;
    for id in 1..=200 {
        client.try_grant(id, 1).await.unwrap();
        leased(&client, id, &format!("k{id}")).await;
    }
    client.try_grant(1000, 1000).await.unwrap();
    leased(&client, 1000, "stays").await;
    eventually("the end of all short leases", || async {
        client.keys("k").await.is_empty()
    })
    .await;
    assert_eq!(lease_ids(&client).await, [1000]);
    assert!(client.get("stays").await.is_some());
}
