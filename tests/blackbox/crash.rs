//! Kill -9 in the middle of writing, again and again: nothing acknowledged is lost, and history has no holes.

use crate::support::{
    pb::{
        etcdserverpb::{DefragmentRequest, PutRequest, SnapshotRequest, WatchCreateRequest},
        mvccpb::{Event, event::EventType},
    },
    *,
};
use std::collections::BTreeMap;

const WRITERS: u64 = 6;

/// A write that the server said yes to.
#[derive(Debug, PartialEq)]
struct Acknowledged {
    key: String,
    /// `None` for a delete.
    value: Option<Vec<u8>>,
    lease: i64,
}

/// What must be there after every restart.
#[derive(Default)]
struct Promised {
    writes: BTreeMap<i64, Acknowledged>,
    leases: Vec<i64>,
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let seed = seed(42);
    let mut rng = Rng::new(seed);
    let mut server = Server::start(&[]).await;
    let mut promised = Promised::default();
    let mut checked = 1;
    for round in 0..scaled(10) {
        write_until_killed(&mut server, &mut promised, round, rng.bits()).await;
        server.start_again();
        checked = check(&server.client(), &promised, checked).await;
    }
    println!(
        "{} acknowledged writes and {} leases",
        promised.writes.len(),
        promised.leases.len()
    );
    assert!(
        promised.writes.len() as u64 > scaled(10) * 20,
        "there was something to lose"
    );
}

async fn write_until_killed(server: &mut Server, promised: &mut Promised, round: u64, seed: u64) {
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            // Half of them share a connection.
            let client = server.client();
            tokio::spawn(write(client, format!("r{round}w{writer}"), Rng::new(seed ^ writer)))
        })
        .collect();
    let granting = tokio::spawn(grant(server.client()));
    pause_ms(20 + seed % 300).await;
    server.kill_9();
    for writer in writers {
        for (revision, write) in within("the end of a writer", writer)
            .await
            .expect("writers do not panic")
        {
            let other = promised.writes.insert(revision, write);
            assert_eq!(other, None, "revision {revision} was given out twice");
        }
    }
    promised.leases.extend(
        within("the end of granting", granting)
            .await
            .expect("granting does not panic"),
    );
}

/// Puts, overwrites and deletes keys of its own until the server is gone.
async fn write(client: Client, name: String, mut rng: Rng) -> Vec<(i64, Acknowledged)> {
    let mut acknowledged = Vec::new();
    let mut count = 0;
    loop {
        count += 1;
        let key = format!("{name}/{}", rng.below(50));
        let length = if rng.chance(5) { 20_000 } else { 30 };
        let value = [format!("{name} {count} ").as_bytes(), &rng.bytes(length)].concat();
        let (header, value) = if rng.chance(15) {
            let request = pb::etcdserverpb::DeleteRangeRequest {
                key: key.clone().into(),
                ..Default::default()
            };
            match client.try_delete(request).await {
                Ok(answer) if answer.deleted == 0 => continue,
                Ok(answer) => (answer.header, None),
                Err(_) => return acknowledged,
            }
        } else {
            match client.try_put(put_request(key.clone(), value.clone())).await {
                Ok(answer) => (answer.header, Some(value)),
                Err(_) => return acknowledged,
            }
        };
        acknowledged.push((revision(&header), Acknowledged { key, value, lease: 0 }));
    }
}

/// Grants leases until the server is gone.
async fn grant(client: Client) -> Vec<i64> {
    let mut granted = Vec::new();
    while let Ok(answer) = client.try_grant(0, 10_000).await {
        granted.push(answer.id);
        pause_ms(10).await;
    }
    granted
}

/// Reads the history since `checked`: every revision changes exactly one key, and the acknowledged ones as promised.
async fn check(client: &Client, promised: &Promised, checked: i64) -> i64 {
    let newest = client.revision().await;
    let promised_newest = promised.writes.last_key_value().map_or(1, |(revision, _)| *revision);
    assert!(
        newest >= promised_newest,
        "revision {promised_newest} was acknowledged, but the store is at {newest}"
    );
    let events = history(client, checked + 1, newest).await;
    for (event, expected) in events.iter().zip(checked + 1..) {
        let kv = event.kv.as_ref().expect("an event has a pair");
        assert_eq!(kv.mod_revision, expected, "each revision has exactly one change");
        if let Some(write) = promised.writes.get(&expected) {
            let value = (event.r#type() == EventType::Put).then(|| kv.value.clone());
            let found = Acknowledged {
                key: String::from_utf8_lossy(&kv.key).into_owned(),
                value,
                lease: kv.lease,
            };
            assert_eq!(&found, write, "revision {expected}");
        }
    }
    check_present(client, newest).await;
    for lease in &promised.leases {
        assert_eq!(
            client.time_to_live(*lease).await.granted_ttl,
            10_000,
            "lease {lease} is gone"
        );
    }
    newest
}

async fn history(client: &Client, from: i64, to: i64) -> Vec<Event> {
    let mut events = Vec::new();
    if from > to {
        return events;
    }
    let create = WatchCreateRequest {
        start_revision: from,
        range_end: vec![0],
        ..create("")
    };
    let mut watcher = Watcher::open(client, create).await;
    while (events.len() as i64) < to - from + 1 {
        events.extend(watcher.next().await.events);
    }
    events
}

/// The present must be what the whole history adds up to.
async fn check_present(client: &Client, newest: i64) {
    let mut expected = BTreeMap::new();
    for event in history(client, 2, newest).await {
        let kv = event.kv.clone().expect("an event has a pair");
        match event.r#type() {
            EventType::Put => expected.insert(kv.key.clone(), kv),
            EventType::Delete => expected.remove(&kv.key),
        };
    }
    let found = client.range(all_range()).await.kvs;
    assert!(
        found.iter().eq(expected.values()),
        "the present is not the sum of its history"
    );
}

#[tokio::test]
async fn a_transaction_is_whole_or_absent_after_kill_9() {
    let mut rng = Rng::new(seed(43));
    let mut server = Server::start(&[]).await;
    let mut acknowledged = 0;
    for round in 0..scaled(5) {
        let client = server.client();
        let writer = tokio::spawn(async move {
            let mut done = 0;
            loop {
                let ops = (0..20)
                    .map(|i| put_op(&format!("r{round}/{done:05}/{i}"), &"v".repeat(500)))
                    .collect();
                if client.try_txn(txn_of(ops)).await.is_err() {
                    return done;
                }
                done += 1;
            }
        });
        pause_ms(50 + rng.below(200)).await;
        server.kill_9();
        let done = within("the end of the writer", writer)
            .await
            .expect("the writer does not panic");
        acknowledged += done;
        server.start_again();
        let kvs = server.client().range(prefix_range(&format!("r{round}/"))).await.kvs;
        assert!(
            kvs.len() as u64 >= 20 * done,
            "{} keys of {done} transactions",
            kvs.len()
        );
        for whole in kvs.chunk_by(|a, b| a.mod_revision == b.mod_revision) {
            assert_eq!(whole.len(), 20, "a transaction is whole");
        }
    }
    println!("{acknowledged} acknowledged transactions");
}

#[tokio::test]
async fn keys_of_a_lease_survive_kill_9_and_end_with_it() {
    let mut server = Server::start(&[]).await;
    let client = server.client();
    let (long, short) = (client.grant(10_000).await, client.grant(1).await);
    for i in 0..20 {
        let lease = if i % 2 == 0 { long } else { short };
        client
            .try_put(PutRequest {
                lease,
                ..put_request(format!("k{i:02}"), "v")
            })
            .await
            .unwrap();
    }
    server.kill_9();
    server.start_again();
    let client = server.client();
    assert_eq!(client.time_to_live(long).await.keys.len(), 10);
    eventually("the end of the short lease", || async {
        client.keys("k").await.len() == 10
    })
    .await;
    client.try_revoke(long).await.unwrap();
    assert!(client.keys("k").await.is_empty());
}

#[tokio::test]
async fn kill_9_during_compaction_keeps_what_compaction_keeps() {
    let mut server = Server::start(&[]).await;
    let client = server.client();
    let mut hash = 0;
    for round in 0..scaled(4) {
        let client = server.client();
        for i in 0..300 {
            client.put(format!("k{:02}", i % 30), format!("{round} {i}")).await;
        }
        let newest = client.revision().await;
        client.try_compact(newest - 10).await.unwrap();
        pause_ms(round * 3).await;
        server.kill_9();
        server.start_again();
        let client = server.client();
        assert_eq!(client.revision().await, newest);
        let kvs = client.range(prefix_range("k")).await.kvs;
        assert_eq!(kvs.len(), 30);
        assert!(kvs.iter().all(|kv| kv.mod_revision > newest - 30));
        let next = client.try_hash_kv(newest).await.unwrap();
        assert_eq!(next.compact_revision, newest - 10);
        assert_ne!(next.hash, hash);
        hash = next.hash;
    }
    drop(client);
}

#[tokio::test]
async fn kill_9_in_the_middle_of_maintenance_keeps_everything() {
    let mut rng = Rng::new(seed(44));
    let mut server = Server::start(&[]).await;
    let mut expected = BTreeMap::new();
    for round in 0..scaled(9) {
        let client = server.client();
        for i in 0..40 {
            let key = format!("k{:02}", (round * 7 + i) % 60);
            let value = rng.bytes(8000);
            client.put(key.clone(), value.clone()).await;
            expected.insert(key.into_bytes(), value);
        }
        let newest = client.revision().await;
        let (working, kind) = (client.clone(), round % 3);
        let work = tokio::spawn(async move {
            let mut maintenance = working.maintenance.clone();
            match kind {
                0 => drop(maintenance.defragment(DefragmentRequest {}).await),
                1 => drop(working.try_compact(newest - 5).await),
                _ => {
                    if let Ok(answer) = maintenance.snapshot(SnapshotRequest {}).await {
                        let mut parts = answer.into_inner();
                        while parts.message().await.is_ok_and(|part| part.is_some()) {}
                    }
                }
            }
        });
        pause_ms(rng.below(12)).await;
        server.kill_9();
        within("the end of the work", work)
            .await
            .expect("the work does not panic");
        server.start_again();
        let kvs = server.client().range(prefix_range("k")).await.kvs;
        let found = kvs.into_iter().map(|kv| (kv.key, kv.value));
        assert!(
            found.eq(expected.clone()),
            "round {round}: a key is not as it was acknowledged"
        );
    }
}
