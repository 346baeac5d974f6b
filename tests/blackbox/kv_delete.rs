//! DeleteRange: what goes, what is answered, what costs a revision.

use crate::support::{pb::etcdserverpb::DeleteRangeRequest, *};
use tonic::Code;

fn delete_between(key: &str, end: &[u8]) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.into(),
        range_end: end.to_vec(),
        prev_kv: false,
    }
}

#[tokio::test]
async fn deleting_one_key_leaves_its_neighbours() {
    let (_server, client) = fresh().await;
    for key in ["a", "aa", "b"] {
        client.put(key, "v").await;
    }
    let answer = client.try_delete(delete_between("a", b"")).await.unwrap();
    assert_eq!((answer.deleted, revision(&answer.header)), (1, 5));
    assert!(answer.prev_kvs.is_empty(), "nobody asked for them");
    assert_eq!(keys(&client.range(all_range()).await.kvs), ["aa", "b"]);
}

#[tokio::test]
async fn deleting_a_range_takes_one_revision_for_all() {
    let (_server, client) = fresh().await;
    for key in ["a", "b", "c", "d"] {
        client.put(key, "v").await;
    }
    let answer = client.try_delete(delete_between("b", b"d")).await.unwrap();
    assert_eq!((answer.deleted, revision(&answer.header)), (2, 6));
    assert_eq!(keys(&client.range(all_range()).await.kvs), ["a", "d"]);
}

#[tokio::test]
async fn deleting_from_a_key_on_takes_all_above() {
    let (_server, client) = fresh().await;
    for key in ["a", "b", "c"] {
        client.put(key, "v").await;
    }
    assert_eq!(client.try_delete(delete_between("b", b"\0")).await.unwrap().deleted, 2);
    assert_eq!(keys(&client.range(all_range()).await.kvs), ["a"]);
}

#[tokio::test]
async fn a_delete_that_finds_nothing_takes_no_revision() {
    let (_server, client) = fresh().await;
    client.put("k", "v").await;
    let answer = client.try_delete(delete_between("missing", b"")).await.unwrap();
    assert_eq!((answer.deleted, revision(&answer.header)), (0, 2));
    let empty_range = client.try_delete(delete_between("z", b"a")).await.unwrap();
    assert_eq!((empty_range.deleted, revision(&empty_range.header)), (0, 2));
}

#[tokio::test]
async fn a_delete_returns_the_previous_pairs_when_asked() {
    let (_server, client) = fresh().await;
    client.put("a", "1").await;
    client.put("b", "2").await;
    client.put("b", "3").await;
    let asked = DeleteRangeRequest {
        prev_kv: true,
        ..delete_between("a", b"\0")
    };
    let previous = client.try_delete(asked).await.unwrap().prev_kvs;
    let seen: Vec<_> = previous
        .iter()
        .map(|kv| (kv.value.as_slice(), kv.mod_revision, kv.version))
        .collect();
    assert_eq!(seen, [(b"1".as_slice(), 2, 1), (b"3".as_slice(), 4, 2)]);
}

#[tokio::test]
async fn a_key_put_again_after_its_delete_starts_anew() {
    let (_server, client) = fresh().await;
    client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    client.put("k", "3").await;
    let kv = client.range(key_range("k")).await.kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[tokio::test]
async fn a_deleted_key_is_still_there_in_the_past() {
    let (_server, client) = fresh().await;
    client.put("k", "1").await;
    client.delete("k").await;
    assert_eq!(client.get("k").await, None);
    let past = pb::etcdserverpb::RangeRequest {
        revision: 2,
        ..key_range("k")
    };
    assert_eq!(client.range(past).await.kvs[0].value, b"1");
}

#[tokio::test]
async fn a_delete_without_a_key_is_refused() {
    let (_server, client) = fresh().await;
    let answer = client.try_delete(delete_between("", b"")).await;
    refused(answer, Code::InvalidArgument, "etcdserver: key is not provided");
}
