//! Put: what it answers, what it keeps, what it refuses.

use crate::support::{pb::etcdserverpb::PutRequest, *};
use tonic::Code;

#[tokio::test]
async fn a_put_takes_one_revision_and_counts_versions() {
    let (_server, client) = fresh().await;
    assert_eq!(client.revision().await, 1, "an empty store is at revision 1");
    assert_eq!(client.put("k", "a").await, 2);
    assert_eq!(client.put("k", "b").await, 3);
    assert_eq!(client.put("other", "c").await, 4);
    let kv = client.range(key_range("k")).await.kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    assert_eq!((kv.value.as_slice(), kv.lease), (b"b".as_slice(), 0));
}

#[tokio::test]
async fn a_put_returns_the_previous_pair_when_asked() {
    let (_server, client) = fresh().await;
    let asked = PutRequest {
        prev_kv: true,
        ..put_request("k", "1")
    };
    assert_eq!(
        client.try_put(asked.clone()).await.unwrap().prev_kv,
        None,
        "there was none before"
    );
    let previous = client
        .try_put(PutRequest {
            value: "2".into(),
            ..asked
        })
        .await
        .unwrap()
        .prev_kv
        .unwrap();
    assert_eq!(
        (previous.value.as_slice(), previous.mod_revision, previous.version),
        (b"1".as_slice(), 2, 1)
    );
    let unasked = client.try_put(put_request("k", "3")).await.unwrap();
    assert_eq!(unasked.prev_kv, None);
}

#[tokio::test]
async fn a_put_without_a_key_is_refused() {
    let (_server, client) = fresh().await;
    let answer = client.try_put(put_request("", "v")).await;
    refused(answer, Code::InvalidArgument, "etcdserver: key is not provided");
}

#[tokio::test]
async fn ignore_value_keeps_the_value_and_still_writes() {
    let (_server, client) = fresh().await;
    client.put("k", "kept").await;
    let touched = client
        .try_put(PutRequest {
            ignore_value: true,
            ..put_request("k", "")
        })
        .await
        .unwrap();
    assert_eq!(revision(&touched.header), 3, "a touch is a write");
    let kv = client.range(key_range("k")).await.kvs.remove(0);
    assert_eq!(
        (kv.value.as_slice(), kv.version, kv.mod_revision),
        (b"kept".as_slice(), 2, 3)
    );
}

#[tokio::test]
async fn ignore_value_needs_an_existing_key_and_no_value() {
    let (_server, client) = fresh().await;
    let missing = PutRequest {
        ignore_value: true,
        ..put_request("missing", "")
    };
    refused(
        client.try_put(missing).await,
        Code::InvalidArgument,
        "etcdserver: key not found",
    );
    client.put("k", "v").await;
    let both = PutRequest {
        ignore_value: true,
        ..put_request("k", "new")
    };
    refused(
        client.try_put(both).await,
        Code::InvalidArgument,
        "etcdserver: value is provided",
    );
    assert_eq!(client.revision().await, 2, "refused puts take no revision");
}

#[tokio::test]
async fn ignore_lease_keeps_the_lease_and_needs_an_existing_key() {
    let (_server, client) = fresh().await;
    let lease = client.grant(1000).await;
    client
        .try_put(PutRequest {
            lease,
            ..put_request("k", "1")
        })
        .await
        .unwrap();
    client
        .try_put(PutRequest {
            ignore_lease: true,
            ..put_request("k", "2")
        })
        .await
        .unwrap();
    let kv = client.range(key_range("k")).await.kvs.remove(0);
    assert_eq!((kv.value.as_slice(), kv.lease), (b"2".as_slice(), lease));
    let missing = PutRequest {
        ignore_lease: true,
        ..put_request("missing", "")
    };
    refused(
        client.try_put(missing).await,
        Code::InvalidArgument,
        "etcdserver: key not found",
    );
    let both = PutRequest {
        ignore_lease: true,
        lease,
        ..put_request("k", "3")
    };
    refused(
        client.try_put(both).await,
        Code::InvalidArgument,
        "etcdserver: lease is provided",
    );
}

#[tokio::test]
async fn a_put_without_a_lease_detaches_the_old_one() {
    let (_server, client) = fresh().await;
    let lease = client.grant(1000).await;
    client
        .try_put(PutRequest {
            lease,
            ..put_request("k", "1")
        })
        .await
        .unwrap();
    assert_eq!(client.time_to_live(lease).await.keys, [b"k"]);
    client.put("k", "2").await;
    assert_eq!(client.range(key_range("k")).await.kvs[0].lease, 0);
    assert!(client.time_to_live(lease).await.keys.is_empty());
    client.try_revoke(lease).await.unwrap();
    assert_eq!(
        client.get("k").await.as_deref(),
        Some(b"2".as_slice()),
        "the key outlives its old lease"
    );
}

#[tokio::test]
async fn a_put_moves_a_key_from_one_lease_to_another() {
    let (_server, client) = fresh().await;
    let (old, new) = (client.grant(1000).await, client.grant(1000).await);
    client
        .try_put(PutRequest {
            lease: old,
            ..put_request("k", "1")
        })
        .await
        .unwrap();
    client
        .try_put(PutRequest {
            lease: new,
            ..put_request("k", "2")
        })
        .await
        .unwrap();
    assert!(client.time_to_live(old).await.keys.is_empty());
    assert_eq!(client.time_to_live(new).await.keys, [b"k"]);
}

#[tokio::test]
async fn a_put_with_an_unknown_lease_is_refused() {
    let (_server, client) = fresh().await;
    let answer = client
        .try_put(PutRequest {
            lease: 12345,
            ..put_request("k", "v")
        })
        .await;
    refused(answer, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(client.revision().await, 1);
    assert_eq!(client.get("k").await, None);
}

#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let (_server, client) = fresh().await;
    let key: Vec<u8> = (0..=255).collect();
    let value: Vec<u8> = (0..=255).rev().cycle().take(70_000).collect();
    client.put(key.clone(), value.clone()).await;
    client.put([0], []).await;
    client.put([255, 255], "last").await;
    let all = client.range(all_range()).await;
    let found: Vec<&[u8]> = all.kvs.iter().map(|kv| kv.key.as_slice()).collect();
    assert_eq!(found, [&[0][..], &key, &[255, 255]], "keys sort as bytes");
    assert_eq!(all.kvs[1].value, value);
    assert!(all.kvs[0].value.is_empty());
}

#[tokio::test]
async fn a_request_above_the_limit_is_too_large() {
    let (_server, client) = fresh().await;
    let fits = vec![b'v'; 1_572_864 - 300];
    client.put("fits", fits.clone()).await;
    assert_eq!(client.get("fits").await, Some(fits));
    let answer = client.try_put(put_request("k", vec![b'v'; 1_572_864 + 1])).await;
    refused(answer, Code::InvalidArgument, "etcdserver: request is too large");
    assert_eq!(client.revision().await, 2);
}

#[tokio::test]
async fn max_request_bytes_moves_the_limit() {
    let server = Server::start(&["--max-request-bytes=10000"]).await;
    let client = server.client();
    client.put("k", vec![b'v'; 9_000]).await;
    let answer = client.try_put(put_request("k", vec![b'v'; 10_001])).await;
    refused(answer, Code::InvalidArgument, "etcdserver: request is too large");
}

#[tokio::test]
async fn concurrent_puts_each_get_a_revision_of_their_own() {
    let (_server, client) = fresh().await;
    let puts = (0..200).map(|i| {
        let client = client.clone();
        tokio::spawn(async move { client.put(format!("k{i:03}"), "v").await })
    });
    let mut revisions = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        revisions.push(put.await.unwrap());
    }
    let stored = client.range(prefix_range("k")).await;
    for (i, kv) in stored.kvs.iter().enumerate() {
        assert_eq!(
            kv.mod_revision, revisions[i],
            "the header names the revision of the write"
        );
    }
    revisions.sort();
    assert_eq!(revisions, (2..202).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_header_names_cluster_member_revision_and_term() {
    let (_server, client) = fresh().await;
    let first = client.try_put(put_request("k", "v")).await.unwrap().header.unwrap();
    let second = client.range(key_range("k")).await.header.unwrap();
    assert!(
        first.cluster_id != 0 && first.member_id != 0 && first.raft_term >= 2,
        "{first:?}"
    );
    assert_eq!(first, second, "a read right after sees the same state");
}

#[tokio::test]
async fn what_was_put_survives_a_restart() {
    let mut server = Server::start(&[]).await;
    let client = server.client();
    for i in 0..50 {
        client.put(format!("k{i:02}"), format!("v{i}")).await;
    }
    client.delete("k00").await;
    let before = client.range(all_range()).await;
    server.restart();
    let client = server.client();
    let after = client.range(all_range()).await;
    assert_eq!(after.kvs, before.kvs);
    assert_eq!(revision(&after.header), revision(&before.header));
    assert_eq!(client.put("next", "v").await, revision(&before.header) + 1);
}

#[tokio::test]
async fn an_unknown_lease_is_noticed_before_a_missing_key_by_a_put_and_after_it_by_a_transaction() {
    let (_server, client) = fresh().await;
    let put = PutRequest {
        lease: 9,
        ignore_value: true,
        ..put_request("missing", "")
    };
    let answer = client.try_put(put.clone()).await;
    refused(answer, Code::NotFound, "etcdserver: requested lease not found");
    let answer = client
        .try_txn(txn_of(vec![op(pb::etcdserverpb::request_op::Request::RequestPut(put))]))
        .await;
    refused(answer, Code::InvalidArgument, "etcdserver: key not found");
}
