//! Put: what it answers, what it keeps, what it refuses.

use crate::support::{pb::etcdserverpb::PutRequest, *};
use tonic::Code;

#[tokio::test]
async fn a_put_takes_one_revision_and_counts_versions() {
    let server = Server::start(&[]).await;
    let client = server.client();
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
    let server = Server::start(&[]).await;
    let client = server.client();
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
    let server = Server::start(&[]).await;
    let answer = server.client().try_put(put_request("", "v")).await;
    refused(answer, Code::InvalidArgument, "etcdserver: key is not provided");
}
