//! Progress: a watcher that hears nothing can still learn how far it has seen.

use crate::support::{pb::etcdserverpb::WatchCreateRequest, *};

/// The flag was experimental in 3.5 and kept that name as an alias in 3.6.
const OFTEN: &str = "--experimental-watch-progress-notify-interval=200ms";

#[tokio::test]
async fn manual_progress_speaks_for_the_whole_stream() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    client.put("other", "v").await;
    watcher.ask_progress().await;
    let progress = watcher.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert!(!progress.created && !progress.canceled);
    assert_eq!(revision(&progress.header), 2);
}

#[tokio::test]
async fn manual_progress_comes_behind_the_events_of_its_revision() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create_prefix("k")).await;
    for round in 0..100 {
        client.put("k", "v").await;
        watcher.ask_progress().await;
        let (mut seen, mut progress) = (0, 0);
        while progress == 0 {
            let response = watcher.next().await;
            match response.watch_id {
                -1 => progress = revision(&response.header),
                _ => seen = response.events.last().unwrap().kv.as_ref().unwrap().mod_revision,
            }
        }
        assert!(
            progress == round + 2 && seen == progress,
            "progress {progress} before event {seen}"
        );
    }
}

#[tokio::test]
async fn a_stream_without_watchers_hears_no_progress() {
    let (_server, client) = fresh().await;
    let mut watcher = Watcher::open(&client, create("k")).await;
    watcher.cancel(0).await;
    assert!(watcher.next().await.canceled);
    watcher.ask_progress().await;
    watcher.is_silent_for_ms(300).await;
}

#[tokio::test]
async fn a_watcher_of_the_future_silences_manual_progress() {
    let (_server, client) = fresh().await;
    let future = WatchCreateRequest {
        start_revision: 100,
        ..create("k")
    };
    let mut watcher = Watcher::open(&client, future).await;
    watcher.ask_progress().await;
    watcher.is_silent_for_ms(300).await;
}

#[tokio::test]
async fn an_idle_watcher_that_asked_hears_of_progress_by_itself() {
    let server = Server::start(&[OFTEN]).await;
    let client = server.client();
    let asked = WatchCreateRequest {
        progress_notify: true,
        ..create("k")
    };
    let mut watcher = Watcher::open(&client, asked).await;
    watcher.create(create("k")).await;
    assert_eq!(watcher.next().await.watch_id, 1);
    client.put("other", "v").await;
    eventually_progress(&mut watcher, 2).await;
    client.put("other", "v").await;
    eventually_progress(&mut watcher, 3).await;
    client.put("k", "v").await;
    let mut told = 0;
    while told < 2 {
        let response = watcher.next().await;
        told += response.events.len();
    }
}

/// Skips older notifications; only watcher 0 asked for any.
async fn eventually_progress(watcher: &mut Watcher, expected: i64) {
    loop {
        let response = watcher.next().await;
        assert_eq!((response.watch_id, response.events.len()), (0, 0), "{response:?}");
        assert!(!response.created && !response.canceled);
        if revision(&response.header) == expected {
            return;
        }
    }
}

#[tokio::test]
async fn a_watcher_that_did_not_ask_hears_nothing() {
    let server = Server::start(&[OFTEN]).await;
    let client = server.client();
    let mut watcher = Watcher::open(&client, create("k")).await;
    client.put("other", "v").await;
    watcher.is_silent_for_ms(800).await;
}

#[tokio::test]
async fn periodic_progress_never_overtakes_events() {
    let server = Server::start(&["--experimental-watch-progress-notify-interval=100ms"]).await;
    let client = server.client();
    let asked = WatchCreateRequest {
        progress_notify: true,
        start_revision: 1,
        ..create_prefix("k")
    };
    let mut watcher = Watcher::open(&client, asked).await;
    let writer = tokio::spawn(async move {
        for i in 0..60 {
            client.put("k", "v").await;
            pause_ms(if i % 20 == 0 { 250 } else { 2 }).await;
        }
    });
    let (mut last, mut bookmark) = (1, 0);
    while last < 61 {
        let response = watcher.next().await;
        for event in &response.events {
            let revision = event.kv.as_ref().unwrap().mod_revision;
            assert_eq!(revision, last + 1, "in order, without a gap");
            assert!(
                revision > bookmark,
                "revision {revision} came after progress {bookmark}"
            );
            last = revision;
        }
        if response.events.is_empty() {
            bookmark = revision(&response.header);
            assert!(
                bookmark <= last,
                "progress {bookmark} claims what was not told yet ({last})"
            );
        }
    }
    writer.await.unwrap();
}
