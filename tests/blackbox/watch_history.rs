//! Watching from the past or the future, through compactions, slowly, and in fragments.

use crate::support::{
    pb::etcdserverpb::{PutRequest, WatchCreateRequest},
    *,
};

fn from(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision,
        ..create_prefix("k")
    }
}

async fn revisions_of(watcher: &mut Watcher, count: usize) -> Vec<i64> {
    watcher
        .events(count)
        .await
        .iter()
        .map(|event| event.kv.as_ref().unwrap().mod_revision)
        .collect()
}

/// Puts `count` keys, so that the last has revision `count + 1`.
async fn filled(count: i64) -> (Server, Client) {
    let (server, client) = fresh().await;
    for i in 0..count {
        client.put(format!("k{}", i % 10), i.to_string()).await;
    }
    (server, client)
}

#[tokio::test]
async fn a_watch_from_the_past_catches_up_and_goes_on() {
    let (_server, client) = filled(50).await;
    let mut watcher = Watcher::open(&client, from(10)).await;
    assert_eq!(revisions_of(&mut watcher, 42).await, (10..=51).collect::<Vec<_>>());
    client.put("k", "now").await;
    assert_eq!(revisions_of(&mut watcher, 1).await, [52]);
}

#[tokio::test]
async fn a_watch_from_the_past_misses_nothing_while_writes_go_on() {
    let (_server, client) = filled(300).await;
    let writer = {
        let client = client.clone();
        tokio::spawn(async move {
            for i in 0..500 {
                client.put(format!("k{}", i % 10), "later").await;
            }
        })
    };
    let mut watchers = Vec::new();
    for start in [2, 100, 299, 301, 2, 150] {
        watchers.push((start, Watcher::open(&client, from(start)).await));
        pause_ms(20).await;
    }
    writer.await.unwrap();
    for (start, watcher) in &mut watchers {
        let expected: Vec<i64> = (*start..=801).collect();
        assert_eq!(revisions_of(watcher, expected.len()).await, expected);
        watcher.is_silent_for_ms(20).await;
    }
}

#[tokio::test]
async fn history_never_splits_a_revision() {
    let (_server, client) = fresh().await;
    for _ in 0..30 {
        client
            .txn(txn_of((0..100).map(|i| put_op(&format!("k{i:03}"), "v")).collect()))
            .await;
    }
    let mut watcher = Watcher::open(&client, from(2)).await;
    let mut last = 1;
    while last < 31 {
        let events = watcher.next().await.events;
        for revision in
            events.chunk_by(|a, b| a.kv.as_ref().unwrap().mod_revision == b.kv.as_ref().unwrap().mod_revision)
        {
            last += 1;
            assert_eq!(
                (revision[0].kv.as_ref().unwrap().mod_revision, revision.len()),
                (last, 100)
            );
        }
    }
}

#[tokio::test]
async fn a_watch_from_the_future_waits_for_it() {
    let (_server, client) = filled(3).await;
    let mut watcher = Watcher::open(&client, from(7)).await;
    for _ in 0..2 {
        client.put("k", "early").await;
    }
    watcher.is_silent_for_ms(150).await;
    client.put("k", "seven").await;
    client.put("k", "eight").await;
    assert_eq!(revisions_of(&mut watcher, 2).await, [7, 8]);
}

#[tokio::test]
async fn previous_pairs_of_the_past_come_too_until_they_are_compacted() {
    let (_server, client) = fresh().await;
    for value in ["2", "3", "4", "5"] {
        client.put("k", value).await;
    }
    let asked = |start| WatchCreateRequest {
        prev_kv: true,
        ..from(start)
    };
    let mut watcher = Watcher::open(&client, asked(3)).await;
    let events = watcher.events(3).await;
    let previous: Vec<_> = events
        .iter()
        .map(|event| event.prev_kv.as_ref().unwrap().value.clone())
        .collect();
    assert_eq!(previous, [b"2", b"3", b"4"]);
    client.compact(4).await;
    let mut watcher = Watcher::open(&client, asked(4)).await;
    let events = watcher.events(2).await;
    assert_eq!(
        events[0].prev_kv, None,
        "revision 3 is forgotten, so it is silently missing"
    );
    assert_eq!(events[1].prev_kv.as_ref().unwrap().value, b"4");
}

#[tokio::test]
async fn a_watch_from_a_compacted_revision_is_cancelled_with_the_revision() {
    let (_server, client) = filled(10).await;
    client.compact(8).await;
    let mut watcher = Watcher::open(&client, from(3)).await;
    let canceled = watcher.next().await;
    assert!(canceled.canceled && !canceled.created, "{canceled:?}");
    assert_eq!((canceled.compact_revision, canceled.watch_id), (8, 0));
    assert_eq!((revision(&canceled.header), canceled.cancel_reason.as_str()), (0, ""));
    watcher.create(from(9)).await;
    assert!(watcher.next().await.created, "the stream lives on");
    assert_eq!(revisions_of(&mut watcher, 3).await, [9, 10, 11]);
}

#[tokio::test]
async fn a_watch_from_the_compacted_revision_itself_is_served() {
    let (_server, client) = filled(10).await;
    client.compact(8).await;
    let mut watcher = Watcher::open(&client, from(8)).await;
    assert_eq!(revisions_of(&mut watcher, 4).await, [8, 9, 10, 11]);
}

#[tokio::test]
async fn a_negative_start_is_refused_as_compacted() {
    let (_server, client) = filled(3).await;
    let mut watcher = Watcher::open_with(&client, vec![create_request(from(-1))]).await;
    let rejected = watcher.next().await;
    assert!(rejected.created && rejected.canceled, "{rejected:?}");
    assert_eq!(rejected.watch_id, -1);
    assert_eq!(
        rejected.cancel_reason,
        "etcdserver: mvcc: required revision has been compacted"
    );
}

#[tokio::test]
async fn a_slow_reader_gets_every_event_in_the_end() {
    let (server, client) = fresh().await;
    // Its own connection, so that only this stream fills up.
    let slow = Client::connect(&server.url());
    let mut watcher = Watcher::open(&slow, create_prefix("k")).await;
    let value = vec![b'v'; 50_000];
    for i in 0..400 {
        client.put(format!("k{}", i % 7), value.clone()).await;
    }
    // Twenty megabytes wait for a reader that has not read yet, and nobody else suffered.
    assert_eq!(revisions_of(&mut watcher, 400).await, (2..402).collect::<Vec<_>>());
    client.put("k", "after").await;
    assert_eq!(revisions_of(&mut watcher, 1).await, [402]);
}

#[tokio::test]
async fn a_slow_reader_does_not_delay_its_neighbours() {
    let (server, client) = fresh().await;
    let slow = Client::connect(&server.url());
    let _stuck = Watcher::open(&slow, create_prefix("k")).await;
    let mut quick = Watcher::open(&client, create_prefix("k")).await;
    let value = vec![b'v'; 100_000];
    for i in 0..100 {
        client.put("k", value.clone()).await;
        assert_eq!(revisions_of(&mut quick, 1).await, [i + 2]);
    }
}

#[tokio::test]
async fn a_large_response_comes_in_fragments_when_asked() {
    let server = Server::start(&["--max-request-bytes=100000"]).await;
    let client = server.client();
    // A part holds at most 100,000 + 512 KiB bytes; 30 values of 60,000 need several.
    for i in 0..30 {
        client.put(format!("k{i:02}"), vec![b'v'; 60_000]).await;
    }
    let mut watcher = Watcher::open(
        &client,
        WatchCreateRequest {
            fragment: true,
            ..from(2)
        },
    )
    .await;
    let (mut events, mut parts) = (0, 0);
    while events < 30 {
        let response = watcher.next().await;
        let size: usize = response
            .events
            .iter()
            .map(|event| event.kv.as_ref().unwrap().value.len())
            .sum();
        assert!(size < 100_000 + 512 * 1024, "a part stays below the threshold: {size}");
        assert!(!response.events.is_empty());
        events += response.events.len();
        parts += 1;
        assert_eq!(
            response.fragment,
            events < 30,
            "all but the last part say that more follow"
        );
    }
    assert!(parts >= 3, "{parts} parts");
    let mut whole = Watcher::open(&client, from(2)).await;
    let response = whole.next().await;
    assert_eq!(
        (response.events.len(), response.fragment),
        (30, false),
        "who does not ask gets one piece"
    );
}

#[tokio::test]
async fn a_watch_resumes_after_a_restart_where_it_stopped() {
    let (mut server, client) = filled(5).await;
    let mut watcher = Watcher::open(&client, from(2)).await;
    assert_eq!(revisions_of(&mut watcher, 5).await, [2, 3, 4, 5, 6]);
    client.put("k", "seen by none").await;
    server.kill_9();
    server.start_again();
    let client = server.client();
    client.put("k", "after").await;
    let mut watcher = Watcher::open(&client, from(7)).await;
    assert_eq!(revisions_of(&mut watcher, 2).await, [7, 8]);
}

#[tokio::test]
async fn an_open_stream_ends_with_an_error_when_the_server_stops() {
    let (mut server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    server.kill_9();
    assert!(watcher.try_next().await.is_err());
}

#[tokio::test]
async fn leased_keys_carry_their_lease_in_events() {
    let (_server, client) = fresh().await;
    let lease = client.grant(1000).await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    client
        .try_put(PutRequest {
            lease,
            ..put_request("k", "v")
        })
        .await
        .unwrap();
    assert_eq!(watcher.events(1).await[0].kv.as_ref().unwrap().lease, lease);
}
