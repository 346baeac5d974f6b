//! Watches on followers while leaders fail and members restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    rig::Cluster,
    support::{pb::etcdserverpb::*, *},
};

/// Watches a prefix through every failure, as clients do: anew at any member, from the revision after the last it saw.
/// It ends with the revision `last`, once that is known; what came behind it is left out.
async fn watch_through(urls: Vec<String>, first: usize, last: Arc<AtomicI64>) -> Vec<(i64, Vec<u8>, Vec<u8>)> {
    let (mut seen, mut next, mut turn) = (Vec::new(), 1, first);
    let is_done = |next: i64| (1..next).contains(&last.load(Ordering::Relaxed));
    while !is_done(next) {
        let client = Client::connect(&urls[turn % urls.len()]);
        turn += 1;
        let (asks, receiver) = mpsc::channel(4);
        let request = WatchCreateRequest {
            start_revision: next,
            ..create_prefix("k")
        };
        asks.send(create_request(request)).await.expect("there is room");
        let Ok(stream) = client.watch.clone().watch(ReceiverStream::new(receiver)).await else {
            pause_ms(50).await;
            continue;
        };
        let mut stream = stream.into_inner();
        loop {
            match tokio::time::timeout(Duration::from_millis(200), stream.message()).await {
                Ok(Ok(Some(told))) => {
                    for event in told.events {
                        let kv = event.kv.expect("an event has a pair");
                        seen.push((kv.mod_revision, kv.key, kv.value));
                        next = kv.mod_revision + 1;
                    }
                }
                Ok(_) => break,
                Err(_) => {}
            }
            if is_done(next) {
                break;
            }
        }
    }
    seen.retain(|(revision, ..)| *revision <= last.load(Ordering::Relaxed));
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_lose_repeat_and_reorder_nothing_while_leaders_are_killed() {
    let mut cluster = Cluster::start(3, &[]).await;
    let urls: Vec<String> = cluster.nodes.iter().map(|node| node.url()).collect();
    let last = Arc::new(AtomicI64::new(0));
    let watchers: Vec<_> = (0..3)
        .map(|first| tokio::spawn(watch_through(urls.clone(), first, last.clone())))
        .collect();
    let writing = Arc::new(AtomicBool::new(true));
    let writer = tokio::spawn({
        let (urls, writing) = (urls.clone(), writing.clone());
        async move {
            let clients: Vec<Client> = urls.iter().map(|url| Client::connect(url)).collect();
            for number in 0.. {
                if !writing.load(Ordering::Relaxed) {
                    return;
                }
                let put = put_request(format!("k{}", number % 7), format!("{number}"));
                let put = clients[number % 3].try_put(put);
                if !matches!(tokio::time::timeout(Duration::from_millis(500), put).await, Ok(Ok(_))) {
                    pause_ms(20).await;
                }
            }
        }
    });
    for _ in 0..scaled(2) {
        pause_ms(600).await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill_9();
        cluster.leader().await;
        pause_ms(300).await;
        cluster.nodes[leader].start(true);
    }
    pause_ms(500).await;
    writing.store(false, Ordering::Relaxed);
    writer.await.expect("the writer does not panic");
    cluster.leader().await;

    // What happened is what a member that was never asked to forget tells from the beginning. A put that its client gave
    // up may still be on its way, and comes behind this one.
    let newest = cluster.nodes[0].client().put("k", "the end").await;
    last.store(newest, Ordering::Relaxed);
    let history = watch_through(vec![urls[0].clone()], 0, last.clone());
    let history = within("the whole history", history).await;
    let revisions: Vec<i64> = history.iter().map(|(revision, ..)| *revision).collect();
    assert_eq!(
        revisions,
        (2..=newest).collect::<Vec<_>>(),
        "one event for each revision"
    );
    assert!(newest > 50, "only {newest} revisions were made");
    for watcher in watchers {
        let seen = within("a watcher to be told of everything", watcher).await;
        let seen = seen.expect("a watcher does not panic");
        assert!(
            seen == history,
            "a watcher saw {} events of {}",
            seen.len(),
            history.len()
        );
    }
}
