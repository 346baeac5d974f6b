//! gRPC itself: names that do not exist, sizes, metadata, deadlines and calls given up.

use crate::support::{
    pb::{
        etcdserverpb::{PutRequest, PutResponse, RangeRequest},
        v3lockpb::LockRequest,
    },
    *,
};
use std::time::Duration;
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

async fn call(client: &Client, path: &'static str, request: Request<PutRequest>) -> Result<PutResponse, Status> {
    let mut grpc = Grpc::new(client.channel.clone());
    grpc.ready().await.expect("the channel is ready");
    let codec = ProstCodec::<PutRequest, PutResponse>::default();
    Ok(grpc
        .unary(request, PathAndQuery::from_static(path), codec)
        .await?
        .into_inner())
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    let (_server, client) = fresh().await;
    let put = || Request::new(put_request("k", "v"));
    let answer = call(&client, "/etcdserverpb.KV/Nothing", put()).await;
    refused(
        answer,
        Code::Unimplemented,
        "unknown method Nothing for service etcdserverpb.KV",
    );
    let answer = call(&client, "/no.Such/Thing", put()).await;
    refused(answer, Code::Unimplemented, "unknown service no.Such");
    let answer = call(
        &client,
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        put(),
    )
    .await;
    refused(
        answer,
        Code::Unimplemented,
        "unknown service grpc.reflection.v1.ServerReflection",
    );
    call(&client, "/etcdserverpb.KV/Put", put()).await.unwrap();
}

#[tokio::test]
async fn a_message_above_the_receive_limit_is_refused_by_size() {
    let (_server, client) = fresh().await;
    let request = put_request("k", vec![b'v'; 2_500_000]);
    let size = prost::Message::encoded_len(&request);
    let text = format!("grpc: received message larger than max ({size} vs. 2097152)");
    refused(client.try_put(request).await, Code::ResourceExhausted, &text);
    client.put("k", "the connection still works").await;
}

#[tokio::test]
async fn calls_that_demand_a_leader_are_served_while_there_is_one() {
    let (_server, client) = fresh().await;
    let mut request = Request::new(put_request("k", "v"));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request
        .metadata_mut()
        .insert("client-api-version", "3.6".parse().unwrap());
    client.kv.clone().put(request).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(create_request(create("k"))).await.unwrap();
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let mut stream = client.watch.clone().watch(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().unwrap().created);
}

#[tokio::test]
async fn unknown_metadata_is_ignored() {
    let (_server, client) = fresh().await;
    let mut request = Request::new(put_request("k", "v"));
    request.metadata_mut().insert("x-whatever", "1".parse().unwrap());
    request.metadata_mut().insert_bin(
        "x-whatever-bin",
        tonic::metadata::MetadataValue::from_bytes(&[0, 1, 255]),
    );
    request
        .metadata_mut()
        .insert("token", "nonsense, but auth is off".parse().unwrap());
    client.kv.clone().put(request).await.unwrap();
}

#[tokio::test]
async fn a_call_given_up_at_its_deadline_leaves_nothing_behind() {
    let (server, client) = fresh().await;
    if !server.is_reference() {
        return println!("skipped: needs the lock service, which is not there yet");
    }
    let lock = |lease| LockRequest {
        name: "lock".into(),
        lease,
    };
    let (holder, waiter) = (client.grant(100).await, client.grant(100).await);
    client.lock.clone().lock(lock(holder)).await.unwrap();
    let mut request = Request::new(lock(waiter));
    request.set_timeout(Duration::from_millis(300));
    assert!(client.lock.clone().lock(request).await.is_err());
    eventually("the end of the waiter", || async {
        client.keys("lock/").await.len() == 1
    })
    .await;
    client.put("k", "the connection still works").await;
}

#[tokio::test]
async fn a_dropped_watch_stream_frees_its_watchers() {
    let (server, client) = fresh().await;
    let watchers = || {
        let body = http(&server.endpoint(), "GET", "/metrics").body;
        let line = body
            .lines()
            .find(|line| line.starts_with("etcd_debugging_mvcc_watcher_total "))
            .unwrap()
            .to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(Watcher::open(&client, create("k")).await);
    }
    eventually("twenty watchers", || async { watchers() == 20.0 }).await;
    drop(streams);
    eventually("no watchers", || async { watchers() == 0.0 }).await;
}

#[tokio::test]
async fn hundreds_of_cancelled_calls_do_no_harm() {
    let (_server, client) = fresh().await;
    for i in 0..50 {
        client.put(format!("k{i:02}"), vec![b'v'; 20_000]).await;
    }
    for i in 0..300 {
        let client = client.clone();
        let call = async move {
            client
                .try_range(RangeRequest {
                    limit: 0,
                    ..prefix_range("k")
                })
                .await
        };
        let _ = tokio::time::timeout(Duration::from_micros(i * 10), call).await;
    }
    assert_eq!(client.range(prefix_range("k")).await.kvs.len(), 50);
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let (_server, client) = fresh().await;
    let calls = (0..1000).map(|i| {
        let client = client.clone();
        tokio::spawn(async move {
            client.put(format!("k{i}"), "v").await;
            client.get(&format!("k{i}")).await
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().as_deref(), Some(b"v".as_slice()));
    }
}

#[tokio::test]
async fn many_connections_work_side_by_side() {
    let (server, _) = fresh().await;
    let clients: Vec<Client> = (0..200).map(|_| server.client()).collect();
    let calls = clients.into_iter().enumerate().map(|(i, client)| {
        tokio::spawn(async move {
            client.put(format!("k{i}"), "v").await;
            client
        })
    });
    let mut last = None;
    for call in calls.collect::<Vec<_>>() {
        last = Some(call.await.unwrap());
    }
    assert_eq!(last.unwrap().revision().await, 201);
}
