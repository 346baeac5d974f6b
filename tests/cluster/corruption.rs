//! Members whose data differs: they are found, named and kept from doing more harm.

use std::path::Path;

use net::pb::mvccpb::KeyValue;
use prost::Message as _;
use storage::{
    buckets::Bucket,
    io::StdDisk,
    tree::{Tree, TreeOptions},
};
use tonic::Code;

use crate::{
    rig::{Cluster, Node},
    support::{
        pb::etcdserverpb::{alarm_request::AlarmAction, *},
        *,
    },
};

/// Alters a value in the data of a stopped member, checksums included, as a bug would.
fn alter(node: &Node, key: &str) {
    assert!(node.process.is_none(), "only a stopped member's data may be altered");
    if is_reference() {
        return alter_bbolt(&node.data_dir().join("member/snap/db"), key);
    }
    let mut disk = StdDisk::new(node.data_dir()).unwrap();
    let options = TreeOptions {
        growth_step_bytes: 1 << 20,
        reserve_address_bytes: 1 << 30,
        ..TreeOptions::default()
    };
    let mut tree = Tree::open(&mut disk, options).unwrap();
    let root = tree.root();
    let mut found = None;
    let mut rows = root.cursor(Bucket::Key.id());
    let mut row = rows.first().unwrap();
    while let Some((name, value)) = row {
        let mut kv = KeyValue::decode(value).unwrap();
        if kv.key == key.as_bytes() {
            kv.value = "altered".into();
            found = Some((name.to_vec(), kv.encode_to_vec()));
        }
        row = rows.next().unwrap();
    }
    let (name, value) = found.expect("the key is in the tree");
    tree.begin(root.user().clone()).unwrap();
    tree.put(Bucket::Key.id(), &name, value.into()).unwrap();
    tree.seal();
    drop(root);
    tree.commit_blocking(&mut disk).unwrap();
    tree.close(&mut disk).unwrap();
}

/// The same in an etcd's file, whose pages of data have no checksums: every copy of the value is overwritten where it is.
fn alter_bbolt(path: &Path, key: &str) {
    const RIGHT: &[u8] = b"right";
    let mut file = std::fs::read(path).unwrap();
    let mut start = KeyValue {
        key: key.as_bytes().to_vec().into(),
        ..Default::default()
    }
    .encode_to_vec();
    // The field behind it: the revision that created it.
    start.push(2 << 3);
    let found: Vec<usize> = (0..file.len()).filter(|at| file[*at..].starts_with(&start)).collect();
    assert!(!found.is_empty(), "the key is in the file");
    for at in found {
        let rest = &mut file[at..];
        if let Some(value) = rest.windows(RIGHT.len()).take(40).position(|window| window == RIGHT) {
            rest[value..][..RIGHT.len()].copy_from_slice(b"wrong");
        }
    }
    std::fs::write(path, file).unwrap();
}

/// Members that the CORRUPT alarm names.
async fn named(node: &Node) -> Vec<u64> {
    let alarms = node.client().alarm(AlarmAction::Get, 0, AlarmType::None).await.alarms;
    let corrupt = alarms.iter().filter(|alarm| alarm.alarm() == AlarmType::Corrupt);
    corrupt.map(|alarm| alarm.member_id).collect()
}

async fn wait_named(node: &Node, member: u64) {
    eventually("the alarm for the altered member", || async {
        named(node).await == [member]
    })
    .await;
}

/// Three members with a key, one of them altered and running again.
async fn altered_cluster(flags: &[&str]) -> (Cluster, usize) {
    let mut cluster = Cluster::start(3, flags).await;
    let victim = (cluster.leader().await + 1) % 3;
    cluster.nodes[victim].client().put("k", "right").await;
    cluster.nodes[victim].client().put("other", "right").await;
    cluster.agree().await;
    cluster.nodes[victim].stop();
    alter(&cluster.nodes[victim], "k");
    cluster.nodes[victim].start(true);
    cluster.leader().await;
    (cluster, victim)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_finds_a_member_with_other_data_and_writes_are_refused_from_then_on() {
    let (cluster, victim) = altered_cluster(&["--experimental-corrupt-check-time=1s"]).await;
    let member = cluster.nodes[victim].id().await;
    let witness = &cluster.nodes[(victim + 1) % 3];
    wait_named(witness, member).await;

    let client = witness.client();
    let corrupt = "etcdserver: corrupt cluster";
    let put = PutRequest {
        key: b"k".to_vec(),
        ..Default::default()
    };
    refused(client.try_put(put).await, Code::DataLoss, corrupt);
    let delete = DeleteRangeRequest {
        key: b"k".to_vec(),
        ..Default::default()
    };
    refused(client.try_delete(delete).await, Code::DataLoss, corrupt);
    refused(client.try_grant(0, 60).await, Code::DataLoss, corrupt);
    refused(client.try_revoke(7).await, Code::DataLoss, corrupt);
    refused(client.try_compact(2).await, Code::DataLoss, corrupt);
    assert_eq!(client.get("k").await, Some(b"right".to_vec()), "reads go on");
    let health = http(&witness.endpoint(), "GET", "/health");
    assert_eq!(
        (health.status, health.body.as_str()),
        (503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n")
    );
    let ready = http(&witness.endpoint(), "GET", "/readyz/data_corruption");
    assert_eq!(
        (ready.status, ready.body.as_str()),
        (503, "[-]data_corruption failed: alarm activated: CORRUPT\n\n")
    );
    assert_eq!(http(&witness.endpoint(), "GET", "/livez").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_compaction_the_minority_is_named_even_when_it_leads() {
    let flags = [
        "--experimental-compact-hash-check-enabled=true",
        "--experimental-compact-hash-check-time=1s",
    ];
    let (cluster, victim) = altered_cluster(&flags).await;
    let member = cluster.nodes[victim].id().await;
    let leader = cluster.leader().await;
    let request = MoveLeaderRequest { target_id: member };
    let mut maintenance = cluster.nodes[leader].client().maintenance;
    maintenance.move_leader(request).await.expect("leadership moves");
    assert_eq!(cluster.leader().await, victim);

    let witness = &cluster.nodes[(victim + 1) % 3];
    let client = witness.client();
    // A put forwarded to a leader that is just leaving would be lost with it.
    eventually("the witness follows the new leader", || async {
        client.status().await.leader == member
    })
    .await;
    let revision = client.put("k", "newer").await;
    client.try_compact(revision).await.expect("it compacts");
    wait_named(witness, member).await;

    // Without what was altered the data is the same again, and the alarm can be disarmed for good.
    eventually("a second compaction", || async {
        let client = witness.client();
        client.alarm(AlarmAction::Deactivate, member, AlarmType::Corrupt).await;
        let put = PutRequest {
            key: b"other".to_vec(),
            ..Default::default()
        };
        let put = client.try_put(put).await;
        match put {
            Ok(answer) => client.try_compact(answer.header.unwrap().revision).await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
    eventually("a check that finds nothing", || async {
        witness
            .client()
            .alarm(AlarmAction::Deactivate, member, AlarmType::Corrupt)
            .await;
        let leader = cluster.nodes[victim].process.as_ref().unwrap();
        let checked = leader.log().contains("successfully checked hash on whole cluster");
        checked && named(witness).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_checks_first_does_not_start_with_other_data() {
    let mut cluster = Cluster::start(3, &["--experimental-initial-corrupt-check=true"]).await;
    cluster.nodes[0].client().put("k", "right").await;
    cluster.agree().await;
    cluster.nodes[0].stop();
    cluster.nodes[0].start(true);
    let log = cluster.nodes[0].process.as_ref().unwrap().log();
    assert!(log.contains("initial corruption checking passed"), "{log}");
    cluster.leader().await;

    let member = cluster.nodes[0].id().await;
    cluster.nodes[0].stop();
    alter(&cluster.nodes[0], "k");
    cluster.nodes[0].start(false);
    let process = cluster.nodes[0].process.as_mut().unwrap();
    assert_eq!(process.wait(PATIENCE).and_then(|status| status.code()), Some(1));
    let text = format!("{member:x} found data inconsistency with peers");
    assert!(process.log().contains(&text), "{}", process.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_tell_their_hash_over_http() {
    let cluster = Cluster::start(3, &[]).await;
    let revision = cluster.nodes[0].client().put("k", "v").await;
    cluster.agree().await;
    let ours = cluster.nodes[0].client().try_hash_kv(revision).await.unwrap();
    let endpoint = cluster.nodes[1].peer_endpoint();
    let ask = |headers: &str, body: &str| get_with_body(&endpoint, "/members/hashkv", headers, body);
    let answer = ask("", &format!(r#"{{"revision":{revision}}}"#));
    assert_eq!(answer.status, 200);
    let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (&told["header"]["revision"], &told["hash"], &told["compact_revision"]),
        (&revision.into(), &ours.hash.into(), &ours.compact_revision.into())
    );
    let cluster_id = ours.header.unwrap().cluster_id;
    assert_eq!(answer.headers["x-etcd-cluster-id"], format!("{cluster_id:x}"));

    let text = |answer: HttpAnswer| (answer.status, answer.body);
    let future = ask("", r#"{"revision":99}"#);
    let future_text = "mvcc: required revision is a future revision\n";
    assert_eq!(text(future), (400, future_text.to_owned()));
    assert_eq!(text(ask("", "?")), (400, "error unmarshalling request\n".to_owned()));
    let stranger = ask("X-Etcd-Cluster-ID: 1\r\n", "{}");
    assert_eq!(text(stranger), (412, "cluster ID mismatch\n".to_owned()));
    let post = http(&endpoint, "POST", "/members/hashkv");
    assert_eq!(text(post), (405, "Method Not Allowed\n".to_owned()));
}
