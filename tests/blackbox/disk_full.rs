//! A small disk that fills up: writes fail clearly, reads go on, room heals, and nothing acknowledged is lost.
//!
//! Needs root and loop devices. etcd itself dies when its disk is full; that is allowed for the reference alone.

use crate::support::{
    pb::etcdserverpb::{AlarmType, alarm_request::AlarmAction},
    *,
};
use std::time::Duration;
use tonic::Code;

const DISK: u64 = 512 << 20;
/// What the server may still take once the balloon is inflated.
const LEFT: u64 = 48 << 20;

/// Puts until the disk is full; returns the acknowledged keys with their revisions, and the refusal.
async fn fill(client: &Client) -> (Vec<(String, i64)>, tonic::Status) {
    let mut acknowledged = Vec::new();
    loop {
        let key = format!("k{:05}", acknowledged.len());
        let value = [key.as_bytes(), &[b'v'; 100_000]].concat();
        match client.try_put(put_request(key.clone(), value)).await {
            Ok(answer) => acknowledged.push((key, revision(&answer.header))),
            Err(status) => return (acknowledged, status),
        }
        assert!(acknowledged.len() < 10_000, "a gigabyte fits on a disk of half of that");
    }
}

#[tokio::test]
async fn a_full_disk_stops_writes_and_heals_without_loss() {
    let Some(disk) = SmallDisk::new(DISK) else {
        return skipped(SmallDisk::NEEDS);
    };
    let mut server = Server::start_on(&disk.path().join("data"), &["--quota-backend-bytes=8000000000"]).await;
    let client = server.client();
    client.put("before", "v").await;
    disk.inflate(LEFT);

    let (acknowledged, refusal) = fill(&client).await;
    println!(
        "{} puts of 100 kB were acknowledged, then: {refusal:?}",
        acknowledged.len()
    );
    let died = server.process().wait(Duration::from_secs(2)).is_some();
    if died {
        assert!(
            server.is_reference(),
            "a full disk is no reason to die:\n{}",
            server.process().log_tail()
        );
    } else {
        assert_eq!(
            (refusal.code(), refusal.message()),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded",)
        );
        let alarms = client.alarm(AlarmAction::Get, 0, AlarmType::None).await.alarms;
        assert_eq!(alarms.len(), 1, "the alarm is raised");
        assert_eq!(
            client.get("before").await.as_deref(),
            Some(b"v".as_slice()),
            "reads go on"
        );
        client.delete("before").await;
    }

    disk.deflate();
    if died {
        server.kill_9();
        server.start_again();
    }
    let client = server.client();
    eventually("room for a put", || async { disarm_and_put(&client).await }).await;
    check(&client, &acknowledged).await;
    server.kill_9();
    server.start_again();
    check(&server.client(), &acknowledged).await;
}

/// The first put after the alarm is cleared may still find the disk as it was.
async fn disarm_and_put(client: &Client) -> bool {
    let member = client.status().await.header.expect("a status has a header").member_id;
    client.alarm(AlarmAction::Deactivate, member, AlarmType::Nospace).await;
    client.try_put(put_request("after", "v")).await.is_ok()
}

async fn check(client: &Client, acknowledged: &[(String, i64)]) {
    for (key, revision) in acknowledged {
        let kv = client.range(key_range(key.as_str())).await.kvs.pop();
        let kv = kv.unwrap_or_else(|| panic!("{key} was acknowledged at revision {revision} and is gone"));
        assert_eq!(kv.mod_revision, *revision);
        assert!(kv.value.starts_with(key.as_bytes()) && kv.value.len() == key.len() + 100_000);
    }
}
