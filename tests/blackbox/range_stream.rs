//! RangeStream: a range in chunks, which etcd has since 3.7 only.

use crate::support::{
    pb::{
        etcdserverpb::{RangeRequest, RangeResponse, range_request::SortOrder},
        mvccpb::KeyValue,
    },
    *,
};
use tonic::{Code, Status};

async fn store() -> Option<(Server, Client)> {
    if is_reference() {
        skipped("a server with RangeStream");
        return None;
    }
    let (server, client) = fresh().await;
    for i in 0..300 {
        client.put(format!("k{i:03}"), vec![b'v'; 20_000]).await;
    }
    Some((server, client))
}

async fn chunks(client: &Client, range: RangeRequest) -> Result<Vec<RangeResponse>, Status> {
    let mut stream = client.kv.clone().range_stream(range).await?.into_inner();
    let mut chunks = Vec::new();
    while let Some(message) = within("the next chunk", stream.message()).await? {
        chunks.push(message.range_response.expect("a chunk has a body"));
    }
    Ok(chunks)
}

fn merged(chunks: &[RangeResponse]) -> Vec<KeyValue> {
    chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect()
}

#[tokio::test]
async fn the_chunks_of_a_range_add_up_to_it() {
    let Some((_server, client)) = store().await else { return };
    for range in [
        prefix_range("k"),
        RangeRequest {
            limit: 120,
            ..prefix_range("k")
        },
        RangeRequest {
            keys_only: true,
            ..prefix_range("k")
        },
        RangeRequest {
            revision: 100,
            ..prefix_range("k")
        },
        RangeRequest {
            count_only: true,
            ..prefix_range("k")
        },
        RangeRequest {
            serializable: true,
            ..key_range("k007")
        },
        key_range("missing"),
    ] {
        let whole = client.range(range.clone()).await;
        let chunks = chunks(&client, range.clone()).await.unwrap();
        let last = chunks.last().expect("there is always a last chunk");
        assert_eq!(merged(&chunks), whole.kvs, "{range:?}");
        assert_eq!((last.count, last.more), (whole.count, whole.more), "{range:?}");
        assert_eq!(revision(&last.header), revision(&whole.header));
    }
}

#[tokio::test]
async fn only_the_last_chunk_has_header_count_and_more() {
    let Some((_server, client)) = store().await else { return };
    let chunks = chunks(
        &client,
        RangeRequest {
            limit: 299,
            ..prefix_range("k")
        },
    )
    .await
    .unwrap();
    assert!(chunks.len() > 1, "six megabytes do not come in one chunk");
    let (last, others) = chunks.split_last().unwrap();
    assert!(
        others
            .iter()
            .all(|chunk| chunk.header.is_none() && chunk.count == 0 && !chunk.more)
    );
    assert!(last.header.is_some() && last.count == 300 && last.more);
}

#[tokio::test]
async fn a_stream_stays_at_its_revision() {
    let Some((_server, client)) = store().await else { return };
    let mut stream = client
        .kv
        .clone()
        .range_stream(prefix_range("k"))
        .await
        .unwrap()
        .into_inner();
    let mut seen = stream.message().await.unwrap().unwrap().range_response.unwrap().kvs;
    for i in 0..300 {
        client.put(format!("k{i:03}"), "changed").await;
    }
    while let Some(chunk) = stream.message().await.unwrap() {
        seen.extend(chunk.range_response.unwrap().kvs);
    }
    assert_eq!(seen.len(), 300);
    assert!(seen.iter().all(|kv| kv.value.len() == 20_000));
}

#[tokio::test]
async fn a_sorted_stream_and_bad_ranges_are_refused() {
    let Some((_server, client)) = store().await else { return };
    let sorted = RangeRequest {
        sort_order: SortOrder::Descend.into(),
        ..prefix_range("k")
    };
    assert_eq!(chunks(&client, sorted).await.unwrap_err().code(), Code::Unimplemented);
    refused(
        chunks(&client, key_range("")).await,
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
    let future = RangeRequest {
        revision: 1000,
        ..prefix_range("k")
    };
    let text = "etcdserver: mvcc: required revision is a future revision";
    refused(chunks(&client, future).await, Code::OutOfRange, text);
    client.compact(100).await;
    let past = RangeRequest {
        revision: 50,
        ..prefix_range("k")
    };
    refused(
        chunks(&client, past).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
}
