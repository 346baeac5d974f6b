//! Range: which keys, in which order, at which revision, and how they are counted.

use crate::support::{
    pb::etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
    *,
};
use tonic::Code;

/// A store with keys whose attributes all sort differently: name, value, creation, modification and version.
async fn mixed_store() -> (Server, Client) {
    let (server, client) = fresh().await;
    // Revision 2..=8. Versions: a 1, b 3, c 2, d 1. Creation: c, a, b, d. Modification: a, d, c, b.
    for (key, value) in [
        ("c", "4"),
        ("a", "3"),
        ("b", "0"),
        ("b", "0"),
        ("d", "1"),
        ("c", "2"),
        ("b", "5"),
    ] {
        client.put(key, value).await;
    }
    (server, client)
}

async fn keys_of(client: &Client, range: RangeRequest) -> Vec<String> {
    keys(&client.range(range).await.kvs)
}

#[tokio::test]
async fn one_key_a_half_open_range_a_prefix_and_everything() {
    let (_server, client) = fresh().await;
    for key in ["a", "ab", "abc", "b", "c"] {
        client.put(key, key).await;
    }
    assert_eq!(keys_of(&client, key_range("ab")).await, ["ab"]);
    assert_eq!(
        keys_of(&client, range_between("ab", "b")).await,
        ["ab", "abc"],
        "the end is not part of the range"
    );
    assert_eq!(keys_of(&client, prefix_range("a")).await, ["a", "ab", "abc"]);
    assert_eq!(
        keys_of(&client, range_between("b", [0])).await,
        ["b", "c"],
        "an end of zero means no end"
    );
    assert_eq!(keys_of(&client, all_range()).await, ["a", "ab", "abc", "b", "c"]);
}

#[tokio::test]
async fn an_empty_or_backward_range_finds_nothing() {
    let (_server, client) = mixed_store().await;
    for range in [
        range_between("b", "b"),
        range_between("c", "a"),
        key_range("missing"),
        range_between("x", "y"),
    ] {
        let answer = client.range(range).await;
        assert_eq!((answer.kvs.len(), answer.count, answer.more), (0, 0, false));
        assert_eq!(revision(&answer.header), 8, "an empty answer has a whole header");
    }
}

#[tokio::test]
async fn a_limit_cuts_and_says_that_there_is_more() {
    let (_server, client) = mixed_store().await;
    for (limit, expected, more) in [(1, 1, true), (3, 3, true), (4, 4, false), (5, 4, false), (0, 4, false)] {
        let answer = client.range(RangeRequest { limit, ..all_range() }).await;
        assert_eq!(
            (answer.kvs.len(), answer.more, answer.count),
            (expected, more, 4),
            "limit {limit}"
        );
    }
}

#[tokio::test]
async fn a_negative_limit_or_revision_means_none() {
    let (_server, client) = mixed_store().await;
    let answer = client
        .range(RangeRequest {
            limit: -1,
            revision: -5,
            ..all_range()
        })
        .await;
    assert_eq!((answer.kvs.len(), answer.more), (4, false));
}

#[tokio::test]
async fn count_only_answers_no_pairs_and_ignores_limit_and_filters() {
    let (_server, client) = mixed_store().await;
    let plain = client
        .range(RangeRequest {
            count_only: true,
            ..all_range()
        })
        .await;
    assert_eq!((plain.kvs.len(), plain.count, plain.more), (0, 4, false));
    let filtered = RangeRequest {
        count_only: true,
        limit: 1,
        min_mod_revision: 100,
        ..all_range()
    };
    let answer = client.range(filtered).await;
    assert_eq!((answer.kvs.len(), answer.count), (0, 4));
    let past = RangeRequest {
        count_only: true,
        revision: 3,
        ..all_range()
    };
    assert_eq!(client.range(past).await.count, 2);
}

#[tokio::test]
async fn keys_only_drops_the_values_alone() {
    let (_server, client) = mixed_store().await;
    let answer = client
        .range(RangeRequest {
            keys_only: true,
            ..all_range()
        })
        .await;
    assert_eq!(keys(&answer.kvs), ["a", "b", "c", "d"]);
    assert!(
        answer
            .kvs
            .iter()
            .all(|kv| kv.value.is_empty() && kv.mod_revision > 0 && kv.version > 0)
    );
}

#[tokio::test]
async fn every_sort_target_sorts_both_ways() {
    let (_server, client) = mixed_store().await;
    let expected = [
        (SortTarget::Key, ["a", "b", "c", "d"]),
        (SortTarget::Create, ["c", "a", "b", "d"]),
        (SortTarget::Mod, ["a", "d", "c", "b"]),
        (SortTarget::Value, ["d", "c", "a", "b"]),
    ];
    for (target, ascending) in expected {
        let range = RangeRequest {
            sort_target: target.into(),
            ..all_range()
        };
        let up = RangeRequest {
            sort_order: SortOrder::Ascend.into(),
            ..range.clone()
        };
        assert_eq!(keys_of(&client, up).await, ascending, "{target:?} ascending");
        let down = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            ..range.clone()
        };
        let mut descending = ascending;
        descending.reverse();
        assert_eq!(keys_of(&client, down).await, descending, "{target:?} descending");
        assert_eq!(keys_of(&client, range).await, ascending, "{target:?} without an order");
    }
}

#[tokio::test]
async fn sorting_by_version_orders_the_versions() {
    let (_server, client) = mixed_store().await;
    let sorted = RangeRequest {
        sort_target: SortTarget::Version.into(),
        sort_order: SortOrder::Descend.into(),
        ..all_range()
    };
    let versions: Vec<i64> = client.range(sorted).await.kvs.iter().map(|kv| kv.version).collect();
    assert_eq!(versions, [3, 2, 1, 1]);
}

#[tokio::test]
async fn a_sorted_range_is_cut_after_the_sort() {
    let (_server, client) = mixed_store().await;
    let newest = RangeRequest {
        sort_target: SortTarget::Mod.into(),
        sort_order: SortOrder::Descend.into(),
        limit: 2,
        ..all_range()
    };
    let answer = client.range(newest).await;
    assert_eq!(keys(&answer.kvs), ["b", "c"]);
    assert_eq!((answer.more, answer.count), (true, 4));
}

#[tokio::test]
async fn a_sort_target_without_an_order_sorts_what_the_limit_left_and_one_more() {
    let (_server, client) = mixed_store().await;
    // By name the first three are a (3), b (8), c (7); sorted by modification a, c, b; then cut to two.
    let range = RangeRequest {
        sort_target: SortTarget::Mod.into(),
        limit: 2,
        ..all_range()
    };
    let answer = client.range(range).await;
    assert_eq!(keys(&answer.kvs), ["a", "c"]);
    assert_eq!((answer.more, answer.count), (true, 4));
}

#[tokio::test]
async fn revision_filters_keep_what_lies_between() {
    let (_server, client) = mixed_store().await;
    let mods = RangeRequest {
        min_mod_revision: 6,
        max_mod_revision: 7,
        ..all_range()
    };
    assert_eq!(keys_of(&client, mods).await, ["c", "d"]);
    let creates = RangeRequest {
        min_create_revision: 3,
        max_create_revision: 4,
        ..all_range()
    };
    assert_eq!(keys_of(&client, creates).await, ["a", "b"]);
    let both = RangeRequest {
        min_create_revision: 3,
        max_mod_revision: 6,
        ..all_range()
    };
    assert_eq!(keys_of(&client, both).await, ["a", "d"]);
}

#[tokio::test]
async fn a_filter_applies_before_the_limit_and_not_to_the_count() {
    let (_server, client) = mixed_store().await;
    let answer = client
        .range(RangeRequest {
            min_mod_revision: 6,
            limit: 2,
            ..all_range()
        })
        .await;
    assert_eq!(keys(&answer.kvs), ["b", "c"]);
    assert_eq!((answer.more, answer.count), (true, 4));
    let exact = client
        .range(RangeRequest {
            min_mod_revision: 6,
            limit: 3,
            ..all_range()
        })
        .await;
    assert_eq!(
        (exact.kvs.len(), exact.more),
        (3, false),
        "more speaks of the filtered pairs"
    );
}

#[tokio::test]
async fn the_past_reads_as_it_was() {
    let (_server, client) = mixed_store().await;
    client.delete("a").await;
    let seen = |revision| RangeRequest {
        revision,
        ..all_range()
    };
    assert_eq!(keys_of(&client, seen(2)).await, ["c"]);
    assert_eq!(keys_of(&client, seen(4)).await, ["a", "b", "c"]);
    assert_eq!(keys_of(&client, seen(9)).await, ["b", "c", "d"]);
    let old = client
        .range(RangeRequest {
            revision: 4,
            ..key_range("b")
        })
        .await;
    assert_eq!((old.kvs[0].version, old.kvs[0].value.as_slice()), (1, b"0".as_slice()));
    assert_eq!(revision(&old.header), 9, "the header names the present");
}

#[tokio::test]
async fn a_future_revision_is_refused() {
    let (_server, client) = mixed_store().await;
    let answer = client
        .try_range(RangeRequest {
            revision: 9,
            ..all_range()
        })
        .await;
    refused(
        answer,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
}

#[tokio::test]
async fn a_range_without_a_key_is_refused() {
    let (_server, client) = fresh().await;
    refused(
        client.try_range(key_range("")).await,
        Code::InvalidArgument,
        "etcdserver: key is not provided",
    );
    let answer = client.try_range(range_between("", [0])).await;
    refused(answer, Code::InvalidArgument, "etcdserver: key is not provided");
}

#[tokio::test]
async fn unknown_sort_options_are_refused_since_3_6() {
    let (server, client) = mixed_store().await;
    for range in [
        RangeRequest {
            sort_order: 7,
            ..all_range()
        },
        RangeRequest {
            sort_target: 9,
            ..all_range()
        },
        RangeRequest {
            sort_order: -1,
            ..all_range()
        },
    ] {
        let answer = client.try_range(range).await;
        if server.is_3_5() {
            continue;
        }
        refused(answer, Code::InvalidArgument, "etcdserver: invalid sort option");
    }
}

#[tokio::test]
async fn a_serializable_range_reads_the_same_on_a_lone_member() {
    let (_server, client) = mixed_store().await;
    let serializable = client
        .range(RangeRequest {
            serializable: true,
            ..all_range()
        })
        .await;
    assert_eq!(serializable, client.range(all_range()).await);
}

#[tokio::test]
async fn pages_by_limit_and_pinned_revision_add_up_to_one_picture() {
    let (_server, client) = fresh().await;
    for i in 0..100 {
        client.put(format!("k{i:03}"), "old").await;
    }
    let whole = client.range(prefix_range("k")).await;
    let (mut pages, mut from) = (Vec::new(), b"k".to_vec());
    loop {
        let page = RangeRequest {
            limit: 7,
            revision: 101,
            ..range_between(from.clone(), "l")
        };
        let answer = client.range(page).await;
        pages.extend(answer.kvs);
        if !answer.more {
            break;
        }
        // Writes between the pages must not show.
        client.put(format!("k{:03}x", pages.len()), "new").await;
        client.put(format!("k{:03}", 99 - pages.len() / 2), "new").await;
        from = [pages.last().unwrap().key.as_slice(), &[0]].concat();
    }
    assert_eq!(pages, whole.kvs);
}

#[tokio::test]
async fn a_large_answer_comes_whole() {
    let (_server, client) = fresh().await;
    let value = vec![b'v'; 100_000];
    for i in 0..80 {
        client.put(format!("k{i:03}"), value.clone()).await;
    }
    let answer = client.range(prefix_range("k")).await;
    assert_eq!((answer.kvs.len(), answer.count), (80, 80));
    assert!(answer.kvs.iter().all(|kv| kv.value == value));
}
