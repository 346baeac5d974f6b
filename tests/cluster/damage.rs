//! A member whose files rot: a tree is refilled by the others under the same member id, a log is not.

use std::{os::unix::fs::FileExt, path::Path, time::Duration};

use crate::{
    rig::{Cluster, Node},
    support::*,
};

/// The page size of a new tree.
const PAGE_BYTES: u64 = 4096;

/// What these stories damage.
const FILES: &str = "etcore's own files, which know their damage";

/// Flips a byte in every page of the tree but its two meta pages.
fn rot_tree(node: &Node) {
    let path = node.data_dir.join("tree");
    let len = std::fs::metadata(&path).expect("the tree is there").len();
    for page in 2..len / PAGE_BYTES {
        flip(&path, page * PAGE_BYTES + 200);
    }
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("a file of the member");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is as long");
    file.write_all_at(&[byte[0] ^ 0xff], offset).expect("it can be written");
}

async fn fill(client: &Client, from: usize, to: usize) {
    for number in from..to {
        client.put(format!("key{number:04}"), vec![b'v'; 500]).await;
    }
    // The tree takes it in.
    pause_ms(400).await;
}

fn refuses(node: &mut Node, text: &str) {
    node.start(false);
    let process = node.process.as_mut().expect("it was started");
    let status = process.wait(Duration::from_secs(30));
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(1),
        "{}",
        process.log_tail()
    );
    assert!(process.log().contains(text), "{}", process.log_tail());
    node.kill_9();
}

/// Waits until the member that was just started has its state again.
fn is_refilled(node: &Node) {
    let process = node.process.as_ref().expect("it runs");
    assert!(
        process.logged("the tree is damaged and the log is not", PATIENCE),
        "{}",
        process.log_tail()
    );
    assert!(
        process.logged("this member serves again", PATIENCE),
        "{}",
        process.log_tail()
    );
    node.wait_ready();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_tree_is_refilled_by_the_others_under_the_same_member_id() {
    if is_reference() {
        return skipped(FILES);
    }
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let (rotten, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = cluster.nodes[leader].client();
    fill(&client, 0, 300).await;
    let id = cluster.nodes[rotten].id().await;
    cluster.nodes[rotten].kill_9();
    rot_tree(&cluster.nodes[rotten]);
    fill(&client, 300, 320).await;
    cluster.nodes[rotten].start(false);
    is_refilled(&cluster.nodes[rotten]);
    cluster.leader().await;
    cluster.agree().await;
    let back = cluster.nodes[rotten].client();
    assert_eq!(back.status().await.header.expect("a header").member_id, id);
    assert_eq!(back.keys("key").await.len(), 320);

    // It counts: with another one gone, two of three go on.
    cluster.nodes[other].kill_9();
    cluster.leader().await;
    back.put("through", "it").await;
    cluster.nodes[other].start(true);

    // And it keeps what it got.
    cluster.nodes[rotten].kill_9();
    cluster.nodes[rotten].start(true);
    cluster.leader().await;
    let process = cluster.nodes[rotten].process.as_ref().expect("it runs");
    assert!(!process.log().contains("the tree is damaged"), "{}", process.log_tail());
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_whose_meta_pages_are_both_damaged_is_refilled_though_the_flags_name_nobody() {
    if is_reference() {
        return skipped(FILES);
    }
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let rotten = (leader + 1) % 3;
    let client = cluster.nodes[leader].client();
    fill(&client, 0, 300).await;
    let id = cluster.nodes[rotten].id().await;
    let roster = cluster.nodes[rotten].data_dir.join("members");
    eventually("the members are written down", || async {
        std::fs::read_to_string(&roster).is_ok_and(|text| text.matches("peerURLs").count() == 3)
    })
    .await;
    cluster.nodes[rotten].kill_9();
    let tree = cluster.nodes[rotten].data_dir.join("tree");
    flip(&tree, 40);
    flip(&tree, PAGE_BYTES + 40);
    rot_tree(&cluster.nodes[rotten]);
    fill(&client, 300, 320).await;
    let own = format!("m{rotten}={}", cluster.nodes[rotten].peer_url());
    cluster.nodes[rotten].name_in(&own);

    // Without its note there is nothing to tell that others have what it lost.
    let aside = roster.with_extension("aside");
    std::fs::rename(&roster, &aside).expect("it is there");
    refuses(&mut cluster.nodes[rotten], "the file is damaged");
    std::fs::rename(&aside, &roster).expect("it is there");

    cluster.nodes[rotten].start(false);
    is_refilled(&cluster.nodes[rotten]);
    cluster.leader().await;
    cluster.agree().await;
    assert_eq!(cluster.nodes[rotten].id().await, id);
    assert_eq!(cluster.nodes[rotten].client().keys("key").await.len(), 320);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_found_while_serving_ends_the_member_and_its_next_start_refills_it() {
    if is_reference() {
        return skipped(FILES);
    }
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let rotten = (leader + 1) % 3;
    // Pages that were read once are not looked at again, so the newest must still be unread.
    fill(&cluster.nodes[leader].client(), 0, 300).await;
    rot_tree(&cluster.nodes[rotten]);
    let request = pb::etcdserverpb::RangeRequest {
        serializable: true,
        ..prefix_range("key")
    };
    let reader = cluster.nodes[rotten].client();
    let process = cluster.nodes[rotten].process.as_mut().expect("it runs");
    let mut ended = None;
    for number in 0..200 {
        drop(reader.try_range(request.clone()).await);
        let put = pb::etcdserverpb::PutRequest {
            key: format!("key{number:04}").into_bytes(),
            value: vec![b'w'; 500],
            ..Default::default()
        };
        drop(reader.try_put(put).await);
        ended = process.wait(Duration::from_millis(10));
        if ended.is_some() {
            break;
        }
    }
    assert_eq!(
        ended.and_then(|status| status.code()),
        Some(1),
        "{}",
        process.log_tail()
    );
    assert!(process.log().contains("the file is damaged"), "{}", process.log_tail());
    cluster.nodes[rotten].kill_9();
    cluster.nodes[rotten].start(false);
    is_refilled(&cluster.nodes[rotten]);
    cluster.leader().await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_member_with_a_damaged_tree_and_any_with_a_damaged_log_refuse_to_start() {
    if is_reference() {
        return skipped(FILES);
    }
    let mut alone = Cluster::start(1, &[]).await;
    fill(&alone.nodes[0].client(), 0, 100).await;
    alone.nodes[0].kill_9();
    rot_tree(&alone.nodes[0]);
    refuses(&mut alone.nodes[0], "a single member: restore a backup");

    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let rotten = (leader + 1) % 3;
    fill(&cluster.nodes[leader].client(), 0, 100).await;
    cluster.nodes[rotten].kill_9();
    flip(&cluster.nodes[rotten].data_dir.join("wal/00000000.seg"), 2 * 4096 + 100);
    let text = "Remove this member from the cluster and add it anew, as a learner, with an empty data directory";
    refuses(&mut cluster.nodes[rotten], text);
}
