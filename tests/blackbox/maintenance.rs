//! Status, alarms, defragmentation, hashes and leader transfer.

use crate::support::{
    pb::etcdserverpb::{alarm_request::AlarmAction, downgrade_request::DowngradeAction, *},
    *,
};
use tonic::Code;

#[tokio::test]
async fn status_describes_the_member() {
    let (server, client) = fresh().await;
    client.put("k", "v").await;
    let status = client.status().await;
    let header = status.header.unwrap();
    assert_eq!(status.version, server_version());
    assert_eq!((status.leader, header.revision), (header.member_id, 2));
    assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.db_size_in_use <= status.db_size);
    assert!(status.raft_index >= 4 && status.raft_applied_index >= 4, "{status:?}");
    assert_eq!(status.raft_term, header.raft_term);
    assert!(status.errors.is_empty() && !status.is_learner);
    if !server.is_3_5() {
        assert_eq!(status.storage_version, "3.6.0");
        assert_eq!(status.db_size_quota, 2 * 1024 * 1024 * 1024);
    }
}

#[tokio::test]
async fn the_applied_index_grows_with_writes_and_survives_a_restart() {
    let (mut server, client) = fresh().await;
    let before = client.status().await.raft_applied_index;
    for _ in 0..10 {
        client.put("k", "v").await;
    }
    let after = client.status().await.raft_applied_index;
    assert!(after >= before + 10, "{before} {after}");
    server.restart();
    assert!(server.client().status().await.raft_applied_index >= after);
}

#[tokio::test]
async fn alarms_can_be_raised_listed_and_cleared() {
    let (_server, client) = fresh().await;
    let member = client.status().await.header.unwrap().member_id;
    assert!(
        client
            .alarm(AlarmAction::Get, 0, AlarmType::None)
            .await
            .alarms
            .is_empty()
    );
    let raised = client.alarm(AlarmAction::Activate, member, AlarmType::Corrupt).await;
    let expected = AlarmMember {
        member_id: member,
        alarm: AlarmType::Corrupt.into(),
    };
    assert_eq!(raised.alarms, [expected]);
    for kind in [AlarmType::None, AlarmType::Corrupt] {
        assert_eq!(
            client.alarm(AlarmAction::Get, 12345, kind).await.alarms,
            [expected],
            "the member is ignored"
        );
    }
    assert!(
        client
            .alarm(AlarmAction::Get, 0, AlarmType::Nospace)
            .await
            .alarms
            .is_empty()
    );
    let cleared = client.alarm(AlarmAction::Deactivate, member, AlarmType::Corrupt).await;
    assert_eq!(cleared.alarms, [expected]);
    let again = client.alarm(AlarmAction::Deactivate, member, AlarmType::Corrupt).await;
    assert!(
        again.alarms.is_empty(),
        "clearing what is not raised is an empty success"
    );
    assert!(
        client
            .alarm(AlarmAction::Get, 0, AlarmType::None)
            .await
            .alarms
            .is_empty()
    );
}

#[tokio::test]
async fn a_corrupt_alarm_blocks_writes_and_not_reads() {
    let (_server, client) = fresh().await;
    client.put("k", "v").await;
    let lease = client.grant(100).await;
    let member = client.status().await.header.unwrap().member_id;
    client.alarm(AlarmAction::Activate, member, AlarmType::Corrupt).await;
    let text = "etcdserver: corrupt cluster";
    refused(client.try_put(put_request("k", "w")).await, Code::DataLoss, text);
    let delete = DeleteRangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    refused(client.try_delete(delete).await, Code::DataLoss, text);
    refused(
        client.try_txn(txn_of(vec![put_op("k", "w")])).await,
        Code::DataLoss,
        text,
    );
    refused(client.try_compact(2).await, Code::DataLoss, text);
    refused(client.try_grant(0, 100).await, Code::DataLoss, text);
    refused(client.try_revoke(lease).await, Code::DataLoss, text);
    assert_eq!(client.get("k").await.unwrap(), b"v");
    assert!(client.txn(txn_of(vec![get_op("k")])).await.succeeded);
    let errors = client.status().await.errors;
    assert_eq!(errors, [format!("memberID:{member} alarm:CORRUPT ")]);
    client.alarm(AlarmAction::Deactivate, member, AlarmType::Corrupt).await;
    assert_eq!(client.put("k", "w").await, 3);
}

#[tokio::test]
async fn alarms_survive_a_restart() {
    let (mut server, client) = fresh().await;
    let member = client.status().await.header.unwrap().member_id;
    client.alarm(AlarmAction::Activate, member, AlarmType::Nospace).await;
    server.restart();
    let client = server.client();
    let alarms = client.alarm(AlarmAction::Get, 0, AlarmType::None).await.alarms;
    assert_eq!(
        alarms,
        [AlarmMember {
            member_id: member,
            alarm: AlarmType::Nospace.into()
        }]
    );
    let answer = client.try_put(put_request("k", "v")).await;
    refused(
        answer,
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
    );
}

#[tokio::test]
async fn defragmentation_keeps_everything_and_has_no_header() {
    let (_server, client) = fresh().await;
    for i in 0..200 {
        client.put(format!("k{}", i % 20), vec![b'v'; 5_000]).await;
    }
    client.compact(201).await;
    let (before, hash) = (
        client.range(all_range()).await,
        client.try_hash_kv(0).await.unwrap().hash,
    );
    let answer = client
        .maintenance
        .clone()
        .defragment(DefragmentRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.header, None);
    assert_eq!(client.range(all_range()).await, before);
    assert_eq!(client.try_hash_kv(0).await.unwrap().hash, hash);
    client.put("k", "after").await;
}

#[tokio::test]
async fn the_hash_of_the_key_space_is_that_of_etcd() {
    let (_server, client) = fresh().await;
    client.try_grant(77, 1000).await.unwrap();
    for i in 0..20 {
        client.put(format!("key/{}", i % 7), format!("value {i}")).await;
    }
    client
        .try_put(PutRequest {
            lease: 77,
            ..put_request("leased", "v")
        })
        .await
        .unwrap();
    client
        .txn(txn_of(vec![
            delete_prefix_op("key/1"),
            put_op("t1", "1"),
            put_op("t2", "2"),
        ]))
        .await;
    client.delete("key/3").await;
    client.put("key/3", "again").await;
    // Computed by etcd 3.5.30 from the same requests.
    for (revision, hash) in [
        (2, GOLDEN[0]),
        (15, GOLDEN[1]),
        (22, GOLDEN[2]),
        (25, GOLDEN[3]),
        (0, GOLDEN[3]),
    ] {
        assert_eq!(
            client.try_hash_kv(revision).await.unwrap().hash,
            hash,
            "at revision {revision}"
        );
    }
    client.compact(23).await;
    for (revision, hash) in [(23, GOLDEN[4]), (25, GOLDEN[5])] {
        assert_eq!(
            client.try_hash_kv(revision).await.unwrap().hash,
            hash,
            "compacted, at revision {revision}"
        );
    }
}

const GOLDEN: [u32; 6] = [2142699210, 2012829672, 2892314889, 2776764027, 2592413952, 1582993649];

#[tokio::test]
async fn the_hash_answers_which_revisions_it_covers() {
    let (server, client) = fresh().await;
    for _ in 0..5 {
        client.put("k", "v").await;
    }
    let whole = client.try_hash_kv(0).await.unwrap();
    assert_eq!((revision(&whole.header), whole.compact_revision), (6, -1));
    let part = client.try_hash_kv(3).await.unwrap();
    assert_ne!(part.hash, whole.hash);
    if !server.is_3_5() {
        assert_eq!((whole.hash_revision, part.hash_revision), (6, 3));
    }
    let future = client.try_hash_kv(7).await;
    refused(
        future,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    client.compact(4).await;
    let past = client.try_hash_kv(3).await;
    refused(
        past,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    assert_eq!(client.try_hash_kv(6).await.unwrap().compact_revision, 4);
}

#[tokio::test]
async fn the_hash_of_an_earlier_compaction_is_remembered() {
    let (_server, client) = fresh().await;
    for i in 0..8 {
        client.put(format!("k{}", i % 3), "v").await;
    }
    client.compact(4).await;
    let first = client.try_hash_kv(4).await.unwrap();
    client.compact(7).await;
    let again = client.try_hash_kv(4).await.unwrap();
    assert_eq!(
        (again.hash, again.compact_revision),
        (first.hash, first.compact_revision)
    );
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(client.try_hash_kv(5).await, Code::OutOfRange, compacted);
}

#[tokio::test]
async fn the_hash_survives_a_restart() {
    let (mut server, client) = fresh().await;
    for i in 0..50 {
        client.put(format!("k{}", i % 5), i.to_string()).await;
    }
    client.compact(30).await;
    let before = client.try_hash_kv(40).await.unwrap();
    server.kill_9();
    server.start_again();
    let after = server.client().try_hash_kv(40).await.unwrap();
    assert_eq!(
        (after.hash, after.compact_revision),
        (before.hash, before.compact_revision)
    );
}

#[tokio::test]
async fn the_whole_hash_is_steady_while_nothing_changes() {
    let (_server, client) = fresh().await;
    client.put("k", "v").await;
    let mut maintenance = client.maintenance.clone();
    let first = maintenance.hash(HashRequest {}).await.unwrap().into_inner();
    let second = maintenance.hash(HashRequest {}).await.unwrap().into_inner();
    assert_eq!(first.hash, second.hash);
    client.put("k", "w").await;
    assert_ne!(
        maintenance.hash(HashRequest {}).await.unwrap().into_inner().hash,
        first.hash
    );
}

#[tokio::test]
async fn leadership_cannot_go_to_an_unknown_member() {
    let (_server, client) = fresh().await;
    let request = MoveLeaderRequest { target_id: 12345 };
    let answer = client.maintenance.clone().move_leader(request).await;
    refused(answer, Code::FailedPrecondition, "etcdserver: bad leader transferee");
}

#[tokio::test]
async fn bad_downgrade_targets_are_refused() {
    let (server, client) = fresh().await;
    eventually("a known cluster version", || async {
        !http(&server.endpoint(), "GET", "/version").body.contains("not_decided")
    })
    .await;
    let validate = |version: &str| {
        let request = DowngradeRequest {
            action: DowngradeAction::Validate.into(),
            version: version.into(),
        };
        let mut maintenance = client.maintenance.clone();
        async move { maintenance.downgrade(request).await }
    };
    let text = "etcdserver: wrong downgrade target version format";
    refused(validate("nonsense").await, Code::InvalidArgument, text);
    let text = "etcdserver: invalid downgrade target version";
    refused(validate("3.1.0").await, Code::InvalidArgument, text);
    refused(validate("3.6.0").await, Code::InvalidArgument, text);
    let (below, own) = match server.is_3_5() {
        true => ("3.4.0", "3.5.0"),
        false => ("3.5", "3.6"),
    };
    assert_eq!(validate(below).await.unwrap().into_inner().version, own);
    let request = DowngradeRequest {
        action: 7,
        version: "3.5".into(),
    };
    let answer = client.maintenance.clone().downgrade(request).await;
    refused(answer, Code::Unknown, "etcdserver: unknown method");
}
