//! Compaction: what is forgotten, what stays, and what is said to those who ask for the forgotten.

use crate::support::{
    pb::etcdserverpb::{CompactionRequest, DeleteRangeRequest, RangeRequest, request_op::Request},
    *,
};
use tonic::Code;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

/// `k` has the values 2..=9, each at its own revision.
async fn store_at_9() -> (Server, Client) {
    let (server, client) = fresh().await;
    for value in 2..=9 {
        client.put("k", value.to_string()).await;
    }
    (server, client)
}

fn at(revision: i64) -> RangeRequest {
    RangeRequest {
        revision,
        ..key_range("k")
    }
}

#[tokio::test]
async fn below_the_compacted_revision_reads_fail_and_at_it_they_work() {
    let (_server, client) = store_at_9().await;
    client.compact(5).await;
    for revision in 1..5 {
        refused(client.try_range(at(revision)).await, Code::OutOfRange, COMPACTED);
    }
    for revision in 5..=9 {
        assert_eq!(
            client.range(at(revision)).await.kvs[0].value,
            revision.to_string().into_bytes()
        );
    }
}

#[tokio::test]
async fn compaction_takes_no_revision_and_keeps_the_present() {
    let (_server, client) = store_at_9().await;
    let request = CompactionRequest {
        revision: 9,
        physical: false,
    };
    let answer = client.kv.clone().compact(request).await.unwrap().into_inner();
    assert_eq!(revision(&answer.header), 9);
    assert_eq!(client.get("k").await.unwrap(), b"9");
    assert_eq!(client.put("k", "10").await, 10);
}

#[tokio::test]
async fn compacting_what_is_compacted_or_not_yet_there_fails() {
    let (_server, client) = store_at_9().await;
    client.compact(5).await;
    for revision in [-1, 0, 1, 4, 5] {
        refused(client.try_compact(revision).await, Code::OutOfRange, COMPACTED);
    }
    refused(client.try_compact(10).await, Code::OutOfRange, FUTURE);
    client.compact(6).await;
}

#[tokio::test]
async fn the_first_compaction_at_zero_succeeds() {
    let (_server, client) = store_at_9().await;
    client.try_compact(0).await.unwrap();
    refused(client.try_compact(0).await, Code::OutOfRange, COMPACTED);
    assert_eq!(client.range(at(2)).await.kvs[0].value, b"2", "nothing is gone");
}

#[tokio::test]
async fn a_key_deleted_before_the_compaction_is_gone_for_good() {
    let (_server, client) = fresh().await;
    client.put("gone", "1").await;
    client.delete("gone").await;
    client.put("stays", "1").await;
    client.compact(3).await;
    assert!(
        client
            .range(RangeRequest {
                revision: 3,
                ..key_range("gone")
            })
            .await
            .kvs
            .is_empty()
    );
    client.put("gone", "2").await;
    let kv = client.range(key_range("gone")).await.kvs.remove(0);
    assert_eq!((kv.create_revision, kv.version), (5, 1));
    assert_eq!(client.get("stays").await.unwrap(), b"1");
}

#[tokio::test]
async fn an_untouched_key_survives_every_compaction() {
    let (_server, client) = fresh().await;
    client.put("old", "first").await;
    for i in 0..20 {
        client.put("busy", i.to_string()).await;
        client.compact(3 + i).await;
    }
    let kv = client.range(key_range("old")).await.kvs.remove(0);
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.value.as_slice()),
        (2, 2, b"first".as_slice())
    );
    assert_eq!(client.range(key_range("busy")).await.kvs[0].version, 20);
}

#[tokio::test]
async fn the_compacted_revision_survives_a_restart() {
    let (mut server, client) = store_at_9().await;
    client.compact(6).await;
    server.restart();
    let client = server.client();
    refused(client.try_range(at(5)).await, Code::OutOfRange, COMPACTED);
    refused(client.try_compact(6).await, Code::OutOfRange, COMPACTED);
    assert_eq!(client.range(at(6)).await.kvs[0].value, b"6");
}

#[tokio::test]
async fn a_compaction_asked_for_just_before_a_crash_holds_after_it() {
    let (mut server, client) = store_at_9().await;
    client.try_compact(7).await.unwrap();
    server.kill_9();
    server.start_again();
    let client = server.client();
    refused(client.try_range(at(6)).await, Code::OutOfRange, COMPACTED);
    assert_eq!(client.range(at(7)).await.kvs[0].value, b"7");
    client.compact(9).await;
}

#[tokio::test]
async fn a_large_compaction_answers_reads_and_writes_meanwhile() {
    let (_server, client) = fresh().await;
    for round in 0..5 {
        let puts = (0..200).map(|i| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("k{i:03}"), format!("{round}")).await })
        });
        for put in puts.collect::<Vec<_>>() {
            put.await.unwrap();
        }
    }
    client.try_compact(1001).await.unwrap();
    for i in 0..50 {
        client.put("meanwhile", i.to_string()).await;
        assert_eq!(
            client
                .range(RangeRequest {
                    count_only: true,
                    ..prefix_range("k")
                })
                .await
                .count,
            200
        );
    }
    let kvs = client.range(prefix_range("k")).await.kvs;
    assert!(kvs.iter().all(|kv| kv.value == b"4" && kv.version == 5));
}

#[tokio::test]
async fn both_modes_of_auto_compaction_are_accepted() {
    // By revision the first compaction comes after five minutes: too long to wait for here.
    let server = Server::start(&["--auto-compaction-mode=revision", "--auto-compaction-retention=100"]).await;
    server.client().put("k", "v").await;
    let server = Server::start(&["--auto-compaction-mode=periodic", "--auto-compaction-retention=1h"]).await;
    server.client().put("k", "v").await;
}

#[tokio::test]
async fn periodic_mode_forgets_what_is_older_than_the_period() {
    let server = Server::start(&["--auto-compaction-mode=periodic", "--auto-compaction-retention=1s"]).await;
    let client = server.client();
    client.put("k", "2").await;
    client.put("k", "3").await;
    eventually("the compaction of revision 2", || async {
        let answer = client.try_range(at(2)).await;
        answer.is_err_and(|status| status.message() == COMPACTED)
    })
    .await;
    assert_eq!(client.get("k").await.unwrap(), b"3");
}

#[tokio::test]
async fn a_key_put_and_deleted_in_one_transaction_stays_away_after_compaction_and_restart() {
    let (mut server, client) = fresh().await;
    let delete_from = |key: &str| {
        op(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            range_end: vec![0],
            prev_kv: false,
        }))
    };
    client.put("k", "before").await;
    // etcd misses that these touch the same key, since the end of the range is not a key.
    client.txn(txn_of(vec![put_op("k", "gone"), delete_from("k")])).await;
    client.put("m", "before").await;
    let twice = client.txn(txn_of(vec![delete_from("m"), put_op("m", "stays")])).await;
    let newest = client.put("other", "v").await;
    for compacted in [revision(&twice.header) + 1, newest] {
        let _ = client.try_compact(compacted).await;
    }
    pause_ms(300).await;
    assert_eq!(client.get("k").await, None);
    let hash = client.try_hash_kv(0).await.unwrap().hash;
    server.restart();
    let client = server.client();
    assert_eq!(client.get("k").await, None, "what was compacted came back");
    let m = client.range(key_range("m")).await.kvs.remove(0);
    assert_eq!((m.value.as_slice(), m.version), (b"stays".as_slice(), 1));
    assert_eq!(client.try_hash_kv(0).await.unwrap().hash, hash);
}
