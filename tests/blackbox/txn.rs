//! Transactions: branches, order of effects, revisions, nesting, and what is refused as a whole.

use crate::support::{
    pb::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult::Equal, TargetUnion},
        request_op::Request,
    },
    *,
};
use tonic::{Code, Request as Call, Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";
const TOO_MANY: &str = "etcdserver: too many operations in txn request";

#[tokio::test]
async fn the_guards_choose_the_branch() {
    let (_server, client) = fresh().await;
    let create = txn(
        vec![compare("k", Equal, TargetUnion::CreateRevision(0))],
        vec![put_op("k", "mine")],
        vec![get_op("k")],
    );
    let first = client.txn(create.clone()).await;
    assert!(first.succeeded);
    assert_eq!(revision(&as_put(&first.responses[0].response).header), 2);
    let second = client.txn(create).await;
    assert!(!second.succeeded);
    assert_eq!(as_range(&second.responses[0].response).kvs[0].value, b"mine");
    assert_eq!(revision(&second.header), 2, "a branch of reads takes no revision");
}

#[tokio::test]
async fn all_writes_of_a_transaction_share_one_revision() {
    let (_server, client) = fresh().await;
    client.put("old", "v").await;
    let answer = client
        .txn(txn_of(vec![put_op("a", "1"), put_op("b", "2"), delete_op("old")]))
        .await;
    assert_eq!(revision(&answer.header), 3);
    let kvs = client.range(all_range()).await.kvs;
    assert_eq!(keys(&kvs), ["a", "b"]);
    assert!(kvs.iter().all(|kv| kv.mod_revision == 3 && kv.create_revision == 3));
    assert_eq!(client.revision().await, 3);
}

#[tokio::test]
async fn an_empty_transaction_takes_no_revision() {
    let (_server, client) = fresh().await;
    let answer = client.txn(txn_of(vec![])).await;
    assert!(answer.succeeded && answer.responses.is_empty());
    assert_eq!(revision(&answer.header), 1);
}

#[tokio::test]
async fn deletes_that_find_nothing_take_no_revision() {
    let (_server, client) = fresh().await;
    let answer = client.txn(txn_of(vec![delete_op("x"), delete_op("y")])).await;
    assert_eq!(revision(&answer.header), 1);
    assert_eq!(as_delete(&answer.responses[0].response).deleted, 0);
    assert_eq!(client.revision().await, 1);
}

#[tokio::test]
async fn a_range_sees_the_writes_before_it_and_not_those_after() {
    let (_server, client) = fresh().await;
    client.put("k", "old").await;
    let ops = vec![
        get_op("k"),
        put_op("k", "new"),
        get_op("k"),
        delete_prefix_op("z"),
        put_op("l", "1"),
        get_op("l"),
    ];
    let answer = client.txn(txn_of(ops)).await;
    let value = |i: usize| as_range(&answer.responses[i].response).kvs[0].value.clone();
    assert_eq!(
        (value(0), value(2), value(5)),
        (b"old".to_vec(), b"new".to_vec(), b"1".to_vec())
    );
    let inside = as_range(&answer.responses[2].response);
    assert_eq!(
        (inside.kvs[0].mod_revision, inside.kvs[0].version, inside.count),
        (3, 2, 1)
    );
}

#[tokio::test]
async fn a_delete_sees_the_puts_of_a_later_neighbour_only_after_them() {
    let (_server, client) = fresh().await;
    client.put("a1", "v").await;
    let ops = vec![
        delete_prefix_op("a"),
        range_op(prefix_range("a")),
        put_op("b1", "v"),
        delete_prefix_op("c"),
    ];
    let answer = client.txn(txn_of(ops)).await;
    assert_eq!(as_delete(&answer.responses[0].response).deleted, 1);
    assert_eq!(as_range(&answer.responses[1].response).count, 0);
    assert_eq!(as_delete(&answer.responses[3].response).deleted, 0);
}

#[tokio::test]
async fn a_range_with_an_old_revision_reads_the_past_inside_a_transaction() {
    let (_server, client) = fresh().await;
    client.put("k", "2").await;
    client.put("k", "3").await;
    let past = range_op(RangeRequest {
        revision: 2,
        ..key_range("k")
    });
    let answer = client.txn(txn_of(vec![put_op("k", "4"), past])).await;
    assert_eq!(as_range(&answer.responses[1].response).kvs[0].value, b"2");
}

#[tokio::test]
async fn a_future_or_compacted_revision_fails_the_whole_transaction() {
    let (_server, client) = fresh().await;
    for i in 2..6 {
        client.put("k", i.to_string()).await;
    }
    client.compact(4).await;
    let future = "etcdserver: mvcc: required revision is a future revision";
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    for (revision, text) in [(6, future), (100, future), (3, compacted)] {
        let bad = range_op(RangeRequest {
            revision,
            ..key_range("k")
        });
        let answer = client.try_txn(txn_of(vec![put_op("k", "never"), bad])).await;
        refused(answer, Code::OutOfRange, text);
        assert_eq!(
            (client.get("k").await.unwrap(), client.revision().await),
            (b"5".to_vec(), 5)
        );
    }
    let not_taken = range_op(RangeRequest {
        revision: 100,
        ..key_range("k")
    });
    client.txn(txn(vec![], vec![put_op("k", "new")], vec![not_taken])).await;
    assert_eq!(
        client.get("k").await.unwrap(),
        b"new",
        "the branch not taken is not checked"
    );
}

#[tokio::test]
async fn a_negative_revision_is_compacted_inside_a_transaction_that_writes() {
    let (_server, client) = fresh().await;
    client.put("k", "2").await;
    let ops = |revision| {
        txn_of(vec![
            put_op("l", "v"),
            range_op(RangeRequest {
                revision,
                ..key_range("k")
            }),
        ])
    };
    client.txn(ops(-1)).await;
    client.compact(2).await;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(client.try_txn(ops(-1)).await, Code::OutOfRange, compacted);
    refused(client.try_txn(ops(-7)).await, Code::OutOfRange, compacted);
    let reads = txn_of(vec![range_op(RangeRequest {
        revision: -1,
        ..key_range("k")
    })]);
    refused(client.try_txn(reads).await, Code::OutOfRange, compacted);
}

#[tokio::test]
async fn all_puts_are_checked_before_any_range() {
    let (_server, client) = fresh().await;
    let future = range_op(RangeRequest {
        revision: 100,
        ..key_range("k")
    });
    let unknown_lease = op(Request::RequestPut(PutRequest {
        lease: 777,
        ..put_request("k", "v")
    }));
    let answer = client
        .try_txn(txn_of(vec![future, txn_op(txn_of(vec![unknown_lease]))]))
        .await;
    refused(answer, Code::NotFound, "etcdserver: requested lease not found");
}

#[tokio::test]
async fn headers_inside_carry_the_revision_alone() {
    let (_server, client) = fresh().await;
    client.put("old", "v").await;
    let nested = txn_op(txn_of(vec![put_op("n", "1")]));
    let answer = client
        .txn(txn_of(vec![put_op("k", "1"), get_op("k"), delete_op("old"), nested]))
        .await;
    let outer = answer.header.as_ref().unwrap();
    assert!(outer.cluster_id != 0 && outer.member_id != 0 && outer.raft_term != 0 && outer.revision == 3);
    let (put, range) = (
        as_put(&answer.responses[0].response),
        as_range(&answer.responses[1].response),
    );
    let delete = as_delete(&answer.responses[2].response);
    for header in [&put.header, &range.header, &delete.header] {
        let header = header.as_ref().expect("the header is there");
        assert_eq!((header.cluster_id, header.member_id, header.raft_term), (0, 0, 0));
        assert_eq!(header.revision, 3);
    }
    let inner = as_txn(&answer.responses[3].response);
    let empty = inner
        .header
        .as_ref()
        .expect("the header of a nested transaction is there");
    assert_eq!(
        (empty.cluster_id, empty.member_id, empty.raft_term, empty.revision),
        (0, 0, 0, 0)
    );
    assert_eq!(revision(&as_put(&inner.responses[0].response).header), 3);
}

#[tokio::test]
async fn previous_pairs_come_when_asked() {
    let (_server, client) = fresh().await;
    client.put("k", "old").await;
    let put = op(Request::RequestPut(PutRequest {
        prev_kv: true,
        ..put_request("k", "new")
    }));
    let answer = client.txn(txn_of(vec![put])).await;
    assert_eq!(
        as_put(&answer.responses[0].response).prev_kv.as_ref().unwrap().value,
        b"old"
    );
}

#[tokio::test]
async fn a_key_is_put_at_most_once_in_a_branch() {
    let (_server, client) = fresh().await;
    let nested_put = || txn_op(txn_of(vec![put_op("a", "2")]));
    let duplicates: Vec<Vec<RequestOp>> = vec![
        vec![put_op("a", "1"), put_op("a", "2")],
        vec![put_op("a", "1"), delete_op("a")],
        vec![delete_op("a"), put_op("a", "1")],
        vec![delete_prefix_op("a"), put_op("ab", "1")],
        vec![put_op("a", "1"), nested_put()],
        vec![nested_put(), nested_put()],
        vec![delete_op("a"), nested_put()],
    ];
    for ops in duplicates {
        refused(
            client.try_txn(txn_of(ops.clone())).await,
            Code::InvalidArgument,
            DUPLICATE,
        );
        refused(
            client.try_txn(txn(vec![], vec![], ops)).await,
            Code::InvalidArgument,
            DUPLICATE,
        );
    }
    assert_eq!(client.revision().await, 1);
}

#[tokio::test]
async fn overlaps_that_cannot_conflict_are_allowed() {
    let (_server, client) = fresh().await;
    let put = |value| vec![put_op("a", value)];
    client
        .txn(txn_of(vec![delete_op("a"), delete_op("a"), delete_prefix_op("a")]))
        .await;
    client.txn(txn(vec![], put("then"), put("else"))).await;
    client
        .txn(txn_of(vec![txn_op(txn(vec![], put("then"), put("else")))]))
        .await;
    client
        .txn(txn_of(vec![put_op("b", "1"), get_op("b"), range_op(all_range())]))
        .await;
}

#[tokio::test]
async fn a_delete_without_an_end_escapes_the_check_for_duplicates() {
    // etcd reads the end "\0" as a key there, not as "no end"; clients may rely on what it accepts.
    let (_server, client) = fresh().await;
    let delete = DeleteRangeRequest {
        key: "a".into(),
        range_end: vec![0],
        prev_kv: false,
    };
    let delete = op(Request::RequestDeleteRange(delete));
    client
        .txn(txn_of(vec![put_op("b", "1"), delete.clone(), put_op("c", "2")]))
        .await;
    assert_eq!(keys(&client.range(all_range()).await.kvs), ["c"]);
    client.txn(txn_of(vec![delete, put_op("c", "3")])).await;
    assert_eq!(client.range(key_range("c")).await.kvs[0].version, 1);
}

#[tokio::test]
async fn a_nested_put_conflicts_with_deletes_of_earlier_siblings_only() {
    let (_server, client) = fresh().await;
    let put = || txn_op(txn_of(vec![put_op("a", "v")]));
    let delete = || txn_op(txn_of(vec![delete_op("a")]));
    client.txn(txn_of(vec![put(), delete()])).await;
    assert_eq!(client.get("a").await, None);
    refused(
        client.try_txn(txn_of(vec![delete(), put()])).await,
        Code::InvalidArgument,
        DUPLICATE,
    );
    refused(
        client.try_txn(txn_of(vec![put(), delete_op("a")])).await,
        Code::InvalidArgument,
        DUPLICATE,
    );
}

#[tokio::test]
async fn a_list_holds_at_most_128_entries() {
    let (_server, client) = fresh().await;
    let puts = |count: usize| (0..count).map(|i| put_op(&format!("k{i}"), "v")).collect::<Vec<_>>();
    let compares = |count| vec![compare("k", Equal, TargetUnion::Version(0)); count];
    client.txn(txn(compares(128), puts(128), puts(128))).await;
    for request in [
        txn_of(puts(129)),
        txn(vec![], vec![], puts(129)),
        txn(compares(129), vec![], vec![]),
    ] {
        refused(client.try_txn(request).await, Code::InvalidArgument, TOO_MANY);
    }
}

#[tokio::test]
async fn max_txn_ops_moves_the_limit_and_nesting_eats_from_it() {
    let server = Server::start(&["--max-txn-ops=4"]).await;
    let client = server.client();
    let gets = |count| vec![get_op("k"); count];
    client.txn(txn_of(gets(4))).await;
    refused(client.try_txn(txn_of(gets(5))).await, Code::InvalidArgument, TOO_MANY);
    // The outer list is one long, so three are left for the inner one.
    client.txn(txn_of(vec![txn_op(txn_of(gets(3)))])).await;
    refused(
        client.try_txn(txn_of(vec![txn_op(txn_of(gets(4)))])).await,
        Code::InvalidArgument,
        TOO_MANY,
    );
}

/// `levels` transactions, one in the other; the innermost puts `key`.
fn nested(levels: usize, key: &str) -> TxnRequest {
    (1..levels).fold(txn_of(vec![put_op(key, "v")]), |inner, _| txn_of(vec![txn_op(inner)]))
}

/// Sends a transaction whose answer may be deeper than `prost` reads: of that only the outside is read.
async fn try_deep(client: &Client, request: TxnRequest) -> Result<(), Status> {
    let mut grpc = Grpc::new(client.channel.clone());
    grpc.ready().await.expect("the channel is ready");
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Txn");
    let codec = ProstCodec::<TxnRequest, ()>::default();
    grpc.unary(Call::new(request), path, codec).await.map(drop)
}

#[tokio::test]
async fn transactions_nest_as_deep_as_they_may_have_operations() {
    let (mut server, client) = fresh().await;
    for levels in [49, 50, 51, 127, 128] {
        try_deep(&client, nested(levels, &format!("{levels:03}")))
            .await
            .unwrap_or_else(|status| panic!("{levels} levels: {status}"));
    }
    for levels in [129, 1000, 1001, 5000] {
        let answer = try_deep(&client, nested(levels, "never")).await;
        refused(answer, Code::InvalidArgument, TOO_MANY);
    }
    let taken = ["049", "050", "051", "127", "128"];
    assert_eq!(keys(&client.range(all_range()).await.kvs), taken);
    server.kill_9();
    server.start_again();
    let kept = server.client().range(all_range()).await.kvs;
    assert_eq!(keys(&kept), taken, "the log is read as deep");
}

#[tokio::test]
async fn a_thousand_levels_are_taken_where_max_txn_ops_allows_them() {
    let server = Server::start(&["--max-txn-ops=100000"]).await;
    let client = server.client();
    try_deep(&client, nested(1000, "deep")).await.unwrap();
    assert!(client.get("deep").await.is_some());
    if server.is_reference() {
        return; // etcd goes on, until its time runs out at some thousands of levels.
    }
    refused(
        try_deep(&client, nested(1001, "never")).await,
        Code::InvalidArgument,
        TOO_MANY,
    );
    assert_eq!(client.get("never").await, None);
}

#[tokio::test]
async fn an_operation_without_a_body_or_key_is_refused() {
    let (_server, client) = fresh().await;
    let empty = RequestOp { request: None };
    refused(
        client.try_txn(txn_of(vec![empty])).await,
        Code::InvalidArgument,
        "etcdserver: key not found",
    );
    for bad in [
        put_op("", "v"),
        get_op(""),
        delete_op(""),
        txn_op(txn_of(vec![put_op("", "v")])),
    ] {
        let answer = client.try_txn(txn(vec![], vec![], vec![bad])).await;
        refused(answer, Code::InvalidArgument, "etcdserver: key is not provided");
    }
}

#[tokio::test]
async fn an_unknown_lease_or_missing_key_fails_the_whole_transaction() {
    let (_server, client) = fresh().await;
    let leased = op(Request::RequestPut(PutRequest {
        lease: 777,
        ..put_request("b", "v")
    }));
    let answer = client.try_txn(txn_of(vec![put_op("a", "v"), leased])).await;
    refused(answer, Code::NotFound, "etcdserver: requested lease not found");
    let touch = op(Request::RequestPut(PutRequest {
        ignore_value: true,
        ..put_request("b", "")
    }));
    let answer = client.try_txn(txn_of(vec![put_op("a", "v"), touch])).await;
    refused(answer, Code::InvalidArgument, "etcdserver: key not found");
    assert_eq!(client.revision().await, 1, "nothing was written");
}

#[tokio::test]
async fn guards_of_nested_transactions_see_the_state_before_all() {
    let (_server, client) = fresh().await;
    let absent = || vec![compare("k", Equal, TargetUnion::Version(0))];
    let inner = txn_op(txn(
        absent(),
        vec![put_op("inner", "then")],
        vec![put_op("inner", "else")],
    ));
    let answer = client.txn(txn(absent(), vec![put_op("k", "v"), inner], vec![])).await;
    assert!(
        as_txn(&answer.responses[1].response).succeeded,
        "the put of k comes too late for the guard"
    );
    assert_eq!(client.get("inner").await.unwrap(), b"then");
    let kvs = client.range(all_range()).await.kvs;
    assert!(
        kvs.iter().all(|kv| kv.mod_revision == 2),
        "nesting takes no further revision"
    );
}

#[tokio::test]
async fn transactions_nest_deeply() {
    let (_server, client) = fresh().await;
    let mut request = txn_of(vec![put_op("deep", "v")]);
    for _ in 0..10 {
        request = txn_of(vec![txn_op(request)]);
    }
    let answer = client.txn(request).await;
    let mut response = &answer;
    for _ in 0..10 {
        response = as_txn(&response.responses[0].response);
    }
    assert_eq!(revision(&as_put(&response.responses[0].response).header), 2);
}

#[tokio::test]
async fn a_transaction_applies_its_options_to_its_ranges() {
    let (_server, client) = fresh().await;
    for i in 0..10 {
        client.put(format!("k{i}"), "v").await;
    }
    let limited = range_op(RangeRequest {
        limit: 3,
        keys_only: true,
        ..prefix_range("k")
    });
    let counted = range_op(RangeRequest {
        count_only: true,
        ..prefix_range("k")
    });
    let answer = client.txn(txn_of(vec![limited, counted])).await;
    let first = as_range(&answer.responses[0].response);
    assert_eq!(
        (keys(&first.kvs), first.more, first.count),
        (vec!["k0".into(), "k1".into(), "k2".into()], true, 10)
    );
    let second = as_range(&answer.responses[1].response);
    assert_eq!((second.kvs.len(), second.count), (0, 10));
}

#[tokio::test]
async fn increments_by_compare_and_swap_lose_none() {
    let (_server, client) = fresh().await;
    client.put("counter", "0").await;
    let workers = (0..4).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..25 {
                increment(&client).await;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    assert_eq!(client.get("counter").await.unwrap(), b"100");
}

async fn increment(client: &Client) {
    loop {
        let kv = client.range(key_range("counter")).await.kvs.remove(0);
        let next = String::from_utf8(kv.value).unwrap().parse::<u32>().unwrap() + 1;
        let guard = compare("counter", Equal, TargetUnion::ModRevision(kv.mod_revision));
        let swap = txn(vec![guard], vec![put_op("counter", &next.to_string())], vec![]);
        if client.txn(swap).await.succeeded {
            return;
        }
    }
}
