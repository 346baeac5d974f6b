//! The guards of a transaction: every target, every relation, ranges of keys, missing keys.

use crate::support::{
    pb::etcdserverpb::{
        Compare, PutRequest,
        compare::{CompareResult, TargetUnion},
    },
    *,
};
use CompareResult::{Equal, Greater, Less, NotEqual};
use TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
use tonic::Code;

/// Makes the expected side of a compare from a number.
type Target = fn(i64) -> TargetUnion;

async fn holds(client: &Client, compares: Vec<Compare>) -> bool {
    client.txn(txn(compares, vec![], vec![])).await.succeeded
}

async fn check(client: &Client, key: &str, expected: TargetUnion, true_for: &[CompareResult]) {
    for result in [Equal, Greater, Less, NotEqual] {
        let answer = holds(client, vec![compare(key, result, expected.clone())]).await;
        assert_eq!(answer, true_for.contains(&result), "{key} {result:?} {expected:?}");
    }
}

fn over_prefix(prefix: &str, result: CompareResult, expected: TargetUnion) -> Compare {
    Compare {
        range_end: prefix_end(prefix),
        ..compare(prefix, result, expected)
    }
}

/// `k`: created at 2, modified at 3, version 2, value `m`, leased.
async fn store() -> (Server, Client, i64) {
    let (server, client) = fresh().await;
    let lease = client.try_grant(500, 1000).await.unwrap().id;
    client.put("k", "a").await;
    client
        .try_put(PutRequest {
            lease,
            ..put_request("k", "m")
        })
        .await
        .unwrap();
    (server, client, lease)
}

#[tokio::test]
async fn every_number_target_compares_in_every_relation() {
    let (_server, client, lease) = store().await;
    let targets: [(Target, i64); 4] = [(Version, 2), (CreateRevision, 2), (ModRevision, 3), (Lease, lease)];
    for (target, actual) in targets {
        check(&client, "k", target(actual), &[Equal]).await;
        check(&client, "k", target(actual - 1), &[Greater, NotEqual]).await;
        check(&client, "k", target(actual + 1), &[Less, NotEqual]).await;
    }
}

#[tokio::test]
async fn values_compare_as_bytes() {
    let (_server, client, _) = store().await;
    check(&client, "k", Value("m".into()), &[Equal]).await;
    check(&client, "k", Value("l".into()), &[Greater, NotEqual]).await;
    check(&client, "k", Value("ma".into()), &[Less, NotEqual]).await;
    check(&client, "k", Value("".into()), &[Greater, NotEqual]).await;
    check(&client, "k", Value(vec![0xff]), &[Less, NotEqual]).await;
}

#[tokio::test]
async fn a_missing_key_compares_as_zero() {
    let (_server, client, _) = store().await;
    for target in [Version, CreateRevision, ModRevision, Lease] as [Target; 4] {
        check(&client, "missing", target(0), &[Equal]).await;
        check(&client, "missing", target(1), &[Less, NotEqual]).await;
    }
}

#[tokio::test]
async fn the_value_of_a_missing_key_compares_as_nothing() {
    let (_server, client, _) = store().await;
    check(&client, "missing", Value("".into()), &[]).await;
    check(&client, "missing", Value("v".into()), &[]).await;
    let over_nothing = over_prefix("missing", NotEqual, Value("v".into()));
    assert!(!holds(&client, vec![over_nothing]).await);
}

#[tokio::test]
async fn a_compare_over_a_range_holds_when_it_holds_for_every_key() {
    let (_server, client) = fresh().await;
    for (key, value) in [("r1", "a"), ("r2", "a"), ("r3", "b")] {
        client.put(key, value).await;
    }
    assert!(holds(&client, vec![over_prefix("r", Greater, ModRevision(1))]).await);
    assert!(!holds(&client, vec![over_prefix("r", Greater, ModRevision(2))]).await);
    assert!(!holds(&client, vec![over_prefix("r", Equal, Value("a".into()))]).await);
    assert!(holds(&client, vec![over_prefix("r", NotEqual, Value("c".into()))]).await);
    assert!(holds(&client, vec![over_prefix("none", Equal, Version(0))]).await);
    let from_r2 = Compare {
        range_end: vec![0],
        ..compare("r2", Greater, CreateRevision(2))
    };
    assert!(holds(&client, vec![from_r2]).await);
}

#[tokio::test]
async fn all_compares_must_hold_and_none_always_do() {
    let (_server, client, _) = store().await;
    let (good, bad) = (compare("k", Equal, Version(2)), compare("k", Equal, Version(9)));
    assert!(holds(&client, vec![]).await);
    assert!(holds(&client, vec![good.clone(), good.clone()]).await);
    assert!(!holds(&client, vec![good, bad]).await);
}

#[tokio::test]
async fn a_compare_without_a_key_is_refused() {
    let (_server, client, _) = store().await;
    let answer = client
        .try_txn(txn(vec![compare("", Equal, Version(0))], vec![], vec![]))
        .await;
    refused(answer, Code::InvalidArgument, "etcdserver: key is not provided");
}

#[tokio::test]
async fn a_compare_without_an_expected_value_compares_with_zero() {
    let (_server, client, _) = store().await;
    let bare = Compare {
        target_union: None,
        ..compare("missing", Equal, Version(0))
    };
    assert!(holds(&client, vec![bare.clone()]).await);
    assert!(
        !holds(
            &client,
            vec![Compare {
                key: "k".into(),
                ..bare
            }]
        )
        .await
    );
}
