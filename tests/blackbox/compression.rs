//! Calls in gzip: answered in gzip, unary and streaming, and no way to make a server unpack more than a request may be.

use crate::support::{
    pb::etcdserverpb::{LeaseKeepAliveRequest, PutRequest, PutResponse, SnapshotRequest},
    *,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery, metadata::MetadataMap};
use tonic_prost::ProstCodec;

fn is_in_gzip(metadata: &MetadataMap) -> bool {
    metadata.get("grpc-encoding").is_some_and(|encoding| encoding == "gzip")
}

#[tokio::test]
async fn a_compressed_call_gets_a_compressed_answer() {
    let (server, plain) = fresh().await;
    let client = server.client().compressing();
    let answer = client
        .kv
        .clone()
        .put(put_request("k", vec![b'v'; 10_000]))
        .await
        .unwrap();
    assert!(is_in_gzip(answer.metadata()), "{:?}", answer.metadata());
    assert_eq!(plain.get("k").await.unwrap(), [b'v'; 10_000]);
    let answer = client.kv.clone().range(key_range("k")).await.unwrap();
    assert!(is_in_gzip(answer.metadata()));
    assert_eq!(answer.into_inner().kvs[0].value, [b'v'; 10_000]);
    let answer = plain.kv.clone().range(key_range("k")).await.unwrap();
    assert!(!is_in_gzip(answer.metadata()), "who asks plainly is answered plainly");
    let answer = client.try_put(put_request("", "v")).await;
    refused(answer, Code::InvalidArgument, "etcdserver: key is not provided");
}

#[tokio::test]
async fn answers_of_any_length_reach_a_compressing_client() {
    let (server, plain) = fresh().await;
    let client = server.client().compressing();
    for i in 0..20 {
        plain.put(format!("k{i:02}"), vec![b'a' + i; 100_000]).await;
    }
    let kvs = client.range(prefix_range("k")).await.kvs;
    assert_eq!(kvs.len(), 20);
    assert!((0..).zip(&kvs).all(|(i, kv)| kv.value == [b'a' + i; 100_000]));
    let mut snapshot = client
        .maintenance
        .clone()
        .snapshot(SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut bytes = 0;
    while let Some(part) = snapshot.message().await.unwrap() {
        bytes += part.blob.len();
        if part.remaining_bytes == 0 {
            break;
        }
    }
    assert!(bytes > 2_000_000, "{bytes} bytes");
}

#[tokio::test]
async fn compressed_streams_work_in_both_directions() {
    let (server, plain) = fresh().await;
    let client = server.client().compressing();
    let mut watcher = Watcher::open(&client, create_prefix("k")).await;
    for i in 0..5 {
        plain.put(format!("k{i}"), vec![b'v'; 5000]).await;
    }
    let mut seen = 0;
    while seen < 5 {
        seen += watcher.next().await.events.len();
    }
    watcher.create(create("other")).await;
    assert!(watcher.next().await.created);

    let id = client.grant(100).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    sender.send(LeaseKeepAliveRequest { id }).await.unwrap();
    let answer = client
        .lease
        .clone()
        .lease_keep_alive(ReceiverStream::new(receiver))
        .await
        .unwrap();
    assert!(is_in_gzip(answer.metadata()));
    let mut answers = answer.into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 100);
    sender.send(LeaseKeepAliveRequest { id }).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 100);
}

#[tokio::test]
async fn a_bomb_is_refused_by_its_size_unpacked() {
    let (server, plain) = fresh().await;
    let client = server.client().compressing();
    let text = "grpc: received message after decompression larger than max 2097152";
    let bombs = (0..8).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.try_put(put_request("k", vec![0; 50_000_000])).await })
    });
    for bomb in bombs.collect::<Vec<_>>() {
        refused(bomb.await.unwrap(), Code::ResourceExhausted, text);
    }
    assert!(plain.get("k").await.is_none());
    client.put("k", "the connection still works").await;
}

/// A call that announces `encoding` and does not compress.
async fn announce(client: &Client, encoding: &'static str) -> Result<PutResponse, tonic::Status> {
    let mut grpc = Grpc::new(client.channel.clone()).accept_compressed(tonic::codec::CompressionEncoding::Gzip);
    grpc.ready().await.expect("the channel is ready");
    let mut request = Request::new(put_request("k", "v"));
    request
        .metadata_mut()
        .insert("grpc-encoding", encoding.parse().unwrap());
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = ProstCodec::<PutRequest, PutResponse>::default();
    Ok(grpc.unary(request, path, codec).await?.into_inner())
}

#[tokio::test]
async fn other_compressions_are_unimplemented() {
    let (_server, client) = fresh().await;
    announce(&client, "identity").await.unwrap();
    announce(&client, "gzip").await.unwrap();
    let revision = client.revision().await;
    for encoding in ["snappy", "deflate", "zstd"] {
        let text = format!("grpc: Decompressor is not installed for grpc-encoding \"{encoding}\"");
        let answer = announce(&client, encoding).await;
        refused(answer, Code::Unimplemented, &text);
    }
    assert_eq!(
        client.revision().await,
        revision,
        "a call that is refused has no effect"
    );
}
