//! Watch: creating, filtering, cancelling, and what an event carries.

use crate::support::{
    pb::{
        etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest, watch_create_request::FilterType},
        mvccpb::{Event, event::EventType},
    },
    *,
};

/// Kind, key, value and revision of each event.
fn told(events: &[Event]) -> Vec<(EventType, String, String, i64)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let tell = |event: &Event| {
        let kv = event.kv.as_ref().expect("an event has a pair");
        (event.r#type(), text(&kv.key), text(&kv.value), kv.mod_revision)
    };
    events.iter().map(tell).collect()
}

#[tokio::test]
async fn the_first_answer_of_a_watch_carries_the_term_that_puts_carry() {
    let (_server, client) = fresh().await;
    let put = PutRequest {
        key: "k".into(),
        ..Default::default()
    };
    let term = client.try_put(put).await.unwrap().header.unwrap().raft_term;
    let mut stream = Watcher::open_with(&client, vec![create_request(create("k"))]).await;
    assert_eq!(stream.next().await.header.unwrap().raft_term, term);
}

#[tokio::test]
async fn a_watcher_sees_puts_and_deletes_of_its_key_only() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    client.put("other", "x").await;
    client.put("k", "1").await;
    client.put("kk", "x").await;
    client.delete("k").await;
    let events = watcher.events(2).await;
    assert_eq!(
        told(&events),
        [
            (EventType::Put, "k".into(), "1".into(), 3),
            (EventType::Delete, "k".into(), "".into(), 5),
        ]
    );
    let tombstone = events[1].kv.as_ref().unwrap();
    assert_eq!(
        (tombstone.version, tombstone.create_revision, tombstone.lease),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn created_comes_first_with_the_current_revision() {
    let (_server, client) = fresh().await;
    client.put("k", "v").await;
    let mut watcher = Watcher::open_with(&client, vec![create_request(create("k"))]).await;
    let created = watcher.next().await;
    assert!(created.created && !created.canceled && created.events.is_empty());
    assert_eq!((created.watch_id, revision(&created.header)), (0, 2));
    assert_eq!((created.compact_revision, created.cancel_reason.as_str()), (0, ""));
    watcher.is_silent_for_ms(200).await;
}

#[tokio::test]
async fn ranges_prefixes_and_everything_can_be_watched() {
    let (_server, client) = fresh().await;
    let mut prefix = Watcher::open(&client, create_prefix("a")).await;
    let between = WatchCreateRequest {
        range_end: "c".into(),
        ..create("ab")
    };
    let mut between = Watcher::open(&client, between).await;
    let from = WatchCreateRequest {
        range_end: vec![0],
        ..create("b")
    };
    let mut from = Watcher::open(&client, from).await;
    let everything = WatchCreateRequest {
        range_end: vec![0],
        ..create("")
    };
    let mut everything = Watcher::open(&client, everything).await;
    for key in ["a", "ab", "b", "c"] {
        client.put(key, "v").await;
    }
    let keys = |events: Vec<Event>| told(&events).into_iter().map(|event| event.1).collect::<Vec<_>>();
    assert_eq!(keys(prefix.events(2).await), ["a", "ab"]);
    assert_eq!(keys(between.events(2).await), ["ab", "b"]);
    assert_eq!(keys(from.events(2).await), ["b", "c"]);
    assert_eq!(keys(everything.events(4).await), ["a", "ab", "b", "c"]);
}

#[tokio::test]
async fn filters_drop_puts_or_deletes() {
    let (_server, client) = fresh().await;
    let with = |filter: FilterType| WatchCreateRequest {
        filters: vec![filter.into()],
        ..create("k")
    };
    let mut no_puts = Watcher::open(&client, with(FilterType::Noput)).await;
    let mut no_deletes = Watcher::open(&client, with(FilterType::Nodelete)).await;
    for value in ["1", "2"] {
        client.put("k", value).await;
        client.delete("k").await;
    }
    let kinds = |events: Vec<Event>| told(&events).into_iter().map(|event| event.0).collect::<Vec<_>>();
    assert_eq!(kinds(no_puts.events(2).await), [EventType::Delete; 2]);
    assert_eq!(kinds(no_deletes.events(2).await), [EventType::Put; 2]);
    no_puts.is_silent_for_ms(100).await;
}

#[tokio::test]
async fn both_filters_leave_silence() {
    let (_server, client) = fresh().await;
    let filters = vec![FilterType::Noput.into(), FilterType::Nodelete.into()];
    let mut watcher = Watcher::open(&client, WatchCreateRequest { filters, ..create("k") }).await;
    client.put("k", "v").await;
    client.delete("k").await;
    watcher.is_silent_for_ms(200).await;
}

#[tokio::test]
async fn previous_pairs_come_when_asked() {
    let (_server, client) = fresh().await;
    let mut asked = Watcher::open(
        &client,
        WatchCreateRequest {
            prev_kv: true,
            ..create("k")
        },
    )
    .await;
    let mut unasked = Watcher::open(&client, create("k")).await;
    client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    let events = asked.events(3).await;
    assert_eq!(events[0].prev_kv, None, "nothing was there before");
    let previous = |i: usize| events[i].prev_kv.as_ref().unwrap();
    assert_eq!(
        (previous(1).value.as_slice(), previous(1).mod_revision),
        (b"1".as_slice(), 2)
    );
    assert_eq!(
        (previous(2).value.as_slice(), previous(2).version),
        (b"2".as_slice(), 2)
    );
    assert!(unasked.events(3).await.iter().all(|event| event.prev_kv.is_none()));
}

#[tokio::test]
async fn a_put_event_says_whether_the_key_is_new() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    client.put("k", "1").await;
    client.put("k", "2").await;
    client.delete("k").await;
    client.put("k", "3").await;
    let seen: Vec<_> = watcher
        .events(4)
        .await
        .iter()
        .map(|event| event.kv.clone().unwrap())
        .collect();
    let created: Vec<bool> = seen.iter().map(|kv| kv.create_revision == kv.mod_revision).collect();
    assert_eq!(created, [true, false, false, true]);
    assert_eq!(seen.iter().map(|kv| kv.version).collect::<Vec<_>>(), [1, 2, 0, 1]);
}

#[tokio::test]
async fn the_events_of_one_revision_come_in_one_response() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create_prefix("k")).await;
    let puts = (0..100).map(|i| put_op(&format!("k{i:03}"), "v")).collect();
    client.txn(txn_of(puts)).await;
    let response = watcher.next().await;
    assert_eq!((response.events.len(), revision(&response.header)), (100, 2));
    client.txn(txn_of(vec![delete_prefix_op("k")])).await;
    let response = watcher.next().await;
    assert_eq!((response.events.len(), revision(&response.header)), (100, 3));
    let keys: Vec<_> = told(&response.events).into_iter().map(|event| event.1).collect();
    assert!(keys.is_sorted(), "a delete goes through its keys in order");
}

#[tokio::test]
async fn one_stream_carries_many_watchers() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k0")).await;
    for i in 1..100 {
        watcher.create(create(format!("k{i}"))).await;
        let created = watcher.next().await;
        assert!(created.created);
        assert_eq!(created.watch_id, i, "ids count up");
    }
    for i in 0..100 {
        client.put(format!("k{i}"), "v").await;
        let response = watcher.next().await;
        assert_eq!((response.watch_id, response.events.len()), (i, 1));
    }
}

#[tokio::test]
async fn each_stream_counts_its_own_ids() {
    let (_server, client) = fresh().await;
    for _ in 0..3 {
        let mut watcher = Watcher::open_with(&client, vec![create_request(create("k"))]).await;
        assert_eq!(watcher.next().await.watch_id, 0);
    }
}

#[tokio::test]
async fn a_client_may_choose_the_id_and_automatic_ids_step_around_it() {
    let (_server, client) = fresh().await;
    let chosen = |watch_id| WatchCreateRequest {
        watch_id,
        ..create("k")
    };
    let mut watcher = Watcher::open_with(&client, vec![create_request(chosen(1))]).await;
    assert_eq!(watcher.next().await.watch_id, 1);
    for expected in [0, 2, 3] {
        watcher.create(create("k")).await;
        assert_eq!(watcher.next().await.watch_id, expected);
    }
    watcher.create(chosen(1 << 40)).await;
    assert_eq!(watcher.next().await.watch_id, 1 << 40);
}

#[tokio::test]
async fn a_duplicate_id_is_rejected_and_the_stream_lives_on() {
    let (_server, client) = fresh().await;
    let chosen = WatchCreateRequest {
        watch_id: 5,
        ..create("k")
    };
    let mut watcher = Watcher::open(&client, chosen.clone()).await;
    watcher.create(chosen).await;
    let rejected = watcher.next().await;
    assert!(rejected.created && rejected.canceled, "{rejected:?}");
    assert_eq!(rejected.watch_id, -1);
    assert_eq!(
        rejected.cancel_reason,
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    client.put("k", "v").await;
    let response = watcher.next().await;
    assert_eq!((response.watch_id, response.events.len()), (5, 1));
}

#[tokio::test]
async fn an_empty_range_is_rejected_and_the_stream_lives_on() {
    let (_server, client) = fresh().await;
    let empty = WatchCreateRequest {
        range_end: "a".into(),
        ..create("b")
    };
    let mut watcher = Watcher::open_with(&client, vec![create_request(empty.clone())]).await;
    for _ in 0..2 {
        let rejected = watcher.next().await;
        assert!(rejected.created && rejected.canceled, "{rejected:?}");
        assert_eq!(
            (rejected.watch_id, rejected.cancel_reason.as_str()),
            (-1, "mvcc: watcher range is empty")
        );
        watcher
            .create(WatchCreateRequest {
                range_end: "b".into(),
                ..create("b")
            })
            .await;
    }
    watcher.next().await;
    watcher.create(create("k")).await;
    assert!(watcher.next().await.created);
    client.put("k", "v").await;
    assert_eq!(watcher.events(1).await.len(), 1);
}

#[tokio::test]
async fn a_cancelled_watcher_says_so_and_is_silent_after() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    watcher.create(create("k")).await;
    assert_eq!(watcher.next().await.watch_id, 1);
    watcher.cancel(0).await;
    let canceled = watcher.next().await;
    assert!(canceled.canceled && !canceled.created);
    assert_eq!(
        (
            canceled.watch_id,
            canceled.cancel_reason.as_str(),
            canceled.compact_revision
        ),
        (0, "", 0)
    );
    client.put("k", "v").await;
    assert_eq!(watcher.next().await.watch_id, 1, "the other one goes on");
    watcher.is_silent_for_ms(100).await;
}

#[tokio::test]
async fn cancelling_an_unknown_watcher_gets_no_reply() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    watcher.cancel(77).await;
    watcher.is_silent_for_ms(200).await;
    watcher.cancel(0).await;
    assert!(watcher.next().await.canceled);
    watcher.cancel(0).await;
    watcher.is_silent_for_ms(200).await;
}

#[tokio::test]
async fn an_empty_request_is_ignored() {
    let (_server, client) = fresh().await;
    let requests = vec![WatchRequest { request_union: None }, create_request(create("k"))];
    let mut watcher = Watcher::open_with(&client, requests).await;
    assert!(watcher.next().await.created);
    watcher.send_empty().await;
    client.put("k", "v").await;
    assert_eq!(watcher.events(1).await.len(), 1);
}

#[tokio::test]
async fn a_half_closed_stream_goes_on_telling() {
    let (_server, client) = fresh().await;
    let mut responses = Watcher::open(&client, create("k")).await.into_responses();
    for expected in 2..5 {
        pause_ms(50).await;
        client.put("k", "v").await;
        let response = within("an event", responses.message())
            .await
            .unwrap()
            .expect("the stream is open");
        assert_eq!(revision(&response.header), expected);
    }
}

#[tokio::test]
async fn a_lease_that_ends_is_seen_as_deletes() {
    let (_server, client) = fresh().await;
    let lease = client.grant(1000).await;
    for key in ["kb", "ka"] {
        let request = pb::etcdserverpb::PutRequest {
            lease,
            ..put_request(key, "v")
        };
        client.try_put(request).await.unwrap();
    }
    let mut watcher = Watcher::open(&client, create_prefix("k")).await;
    client.try_revoke(lease).await.unwrap();
    let response = watcher.next().await;
    assert_eq!(
        told(&response.events),
        [
            (EventType::Delete, "ka".into(), "".into(), 4),
            (EventType::Delete, "kb".into(), "".into(), 4),
        ]
    );
}

#[tokio::test]
async fn a_transaction_tells_its_events_in_the_order_of_its_operations() {
    let (_server, client) = fresh().await;
    client.put("kc", "old").await;
    let mut watcher = Watcher::open(&client, create_prefix("k")).await;
    client
        .txn(txn_of(vec![put_op("kz", "1"), delete_op("kc"), put_op("ka", "2")]))
        .await;
    let keys: Vec<_> = told(&watcher.next().await.events)
        .into_iter()
        .map(|event| event.1)
        .collect();
    assert_eq!(keys, ["kz", "kc", "ka"]);
}

#[tokio::test]
async fn many_streams_all_see_everything_in_order() {
    let (_server, client) = fresh().await;
    let mut watchers = Vec::new();
    for _ in 0..50 {
        watchers.push(Watcher::open(&client, create_prefix("k")).await);
    }
    let writers = (0..4).map(|writer| {
        let client = client.clone();
        tokio::spawn(async move {
            for i in 0..50 {
                client.put(format!("k{writer}/{i}"), "v").await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for watcher in &mut watchers {
        let revisions: Vec<i64> = told(&watcher.events(200).await)
            .into_iter()
            .map(|event| event.3)
            .collect();
        assert_eq!(
            revisions,
            (2..202).collect::<Vec<_>>(),
            "each revision once and in order"
        );
    }
}
