//! A small disk that fills up: writes fail clearly, reads go on, room heals, and nothing acknowledged is lost.
//!
//! Needs root, loop devices and tmpfs. etcd itself dies when its disk is full; that is allowed for the reference alone.

use crate::support::{
    pb::etcdserverpb::{AlarmType, DefragmentRequest, alarm_request::AlarmAction},
    *,
};
use std::time::Duration;
use tonic::Code;

const DISK: u64 = 512 << 20;
/// What the server may still take once the balloon is inflated.
const LEFT: u64 = 48 << 20;
/// A disk that the log and the database soon fill by themselves.
const TINY_DISK: u64 = 40 << 20;
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const NO_QUOTA: &str = "--quota-backend-bytes=8000000000";

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
    let Some(disk) = SmallDisk::ext4(DISK) else {
        return skipped(SmallDisk::NEEDS);
    };
    let mut server = Server::start_on(&disk.path().join("data"), &[NO_QUOTA]).await;
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
        assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, NO_SPACE));
        alarm_is_raised(&client).await;
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

#[tokio::test]
async fn a_disk_filled_by_puts_is_freed_by_deletes_on_ext4() {
    match SmallDisk::ext4(TINY_DISK) {
        Some(disk) => fill_and_free(&disk).await,
        None => skipped(SmallDisk::NEEDS),
    }
}

#[tokio::test]
async fn a_disk_filled_by_puts_is_freed_by_deletes_on_tmpfs() {
    match SmallDisk::tmpfs(TINY_DISK) {
        Some(disk) => fill_and_free(&disk).await,
        None => skipped(SmallDisk::NEEDS),
    }
}

async fn fill_and_free(disk: &SmallDisk) {
    let mut server = Server::start_on(&disk.path().join("data"), &[NO_QUOTA]).await;
    if server.is_reference() {
        return println!("skipped: etcd ends when its disk is full");
    }
    let client = server.client();
    let leases = [client.grant(1000).await, client.grant(1000).await];
    let (acknowledged, refusal) = fill(&client).await;
    println!("{} puts, then: {refusal:?}", acknowledged.len());
    assert_eq!(refusal.message(), NO_SPACE);
    use_what_is_kept(&client, leases, acknowledged.len()).await;
    let newest = client.revision().await;
    client.compact(newest).await;
    client
        .maintenance
        .clone()
        .defragment(DefragmentRequest {})
        .await
        .unwrap();
    eventually("room for a put", || async { disarm_and_put(&client).await }).await;
    server.kill_9();
    server.start_again();
    let client = server.client();
    assert!(client.keys("k").await.is_empty());
    for i in 0..acknowledged.len() / 2 {
        let put = client
            .try_put(put_request(format!("again{i:04}"), vec![b'v'; 100_000]))
            .await;
        put.unwrap_or_else(|status| panic!("only {i} of {} fit again: {status:?}", acknowledged.len()));
    }
}

/// What a full disk still allows: reads, deletes of all keys, leases, the alarm.
async fn use_what_is_kept(client: &Client, leases: [i64; 2], keys: usize) {
    client.try_revoke(leases[0]).await.expect("a lease can be revoked");
    for i in 0..keys {
        client.delete(&format!("k{i:05}")).await;
    }
    for _ in 0..300 {
        client.delete("nothing").await;
    }
    assert_eq!(client.time_to_live(leases[1]).await.granted_ttl, 1000);
    alarm_is_raised(client).await;
}

#[tokio::test]
async fn a_disk_filled_to_the_brim_by_others_stops_writes_until_they_make_room() {
    let Some(disk) = SmallDisk::ext4(DISK) else {
        return skipped(SmallDisk::NEEDS);
    };
    let mut server = Server::start_on(&disk.path().join("data"), &[NO_QUOTA]).await;
    if server.is_reference() {
        return println!("skipped: etcd ends when its disk is full");
    }
    let client = server.client();
    let leases = [client.grant(1000).await, client.grant(1000).await];
    let mut kept = Vec::new();
    for i in 0..60 {
        let key = format!("kept{i:02}");
        let value = [key.as_bytes(), &[b'v'; 100_000]].concat();
        kept.push((key.clone(), client.put(key, value).await));
    }
    disk.burst();
    let (more, refusal) = fill(&client).await;
    println!("{} more puts, then: {refusal:?}", more.len());
    assert_eq!(refusal.message(), NO_SPACE);
    use_what_is_kept(&client, leases, more.len()).await;
    disarm(&client).await;
    alarm_is_raised(&client).await;

    server.kill_9();
    server.start_again();
    let client = server.client();
    check(&client, &kept).await;
    client.delete("nothing").await;
    client.compact(client.revision().await).await;
    disk.deflate();
    eventually("room for a put", || async { disarm_and_put(&client).await }).await;
    check(&client, &kept).await;
    server.restart();
    check(&server.client(), &kept).await;
}

#[tokio::test]
async fn once_there_is_room_the_alarm_is_disarmed_for_good() {
    let Some(disk) = SmallDisk::ext4(DISK) else {
        return skipped(SmallDisk::NEEDS);
    };
    let server = Server::start_on(&disk.path().join("data"), &[NO_QUOTA]).await;
    if server.is_reference() {
        return println!("skipped: etcd ends when its disk is full");
    }
    let client = server.client();
    disk.burst();
    fill(&client).await;
    alarm_is_raised(&client).await;
    // Long enough for whatever is under way to have found the disk full.
    pause_ms(500).await;
    disk.deflate();
    disk.sync();
    disarm(&client).await;
    for _ in 0..10 {
        pause_ms(100).await;
        let alarms = client.alarm(AlarmAction::Get, 0, AlarmType::None).await.alarms;
        assert!(alarms.is_empty(), "it came back: {alarms:?}");
    }
    client.put("after", "v").await;
}

/// The first put after the alarm is cleared may still find the disk as it was.
async fn disarm_and_put(client: &Client) -> bool {
    disarm(client).await;
    client.try_put(put_request("after", "v")).await.is_ok()
}

async fn disarm(client: &Client) {
    let member = client.status().await.header.expect("a status has a header").member_id;
    client.alarm(AlarmAction::Deactivate, member, AlarmType::Nospace).await;
}

async fn check(client: &Client, acknowledged: &[(String, i64)]) {
    for (key, revision) in acknowledged {
        let kv = client.range(key_range(key.as_str())).await.kvs.pop();
        let kv = kv.unwrap_or_else(|| panic!("{key} was acknowledged at revision {revision} and is gone"));
        assert_eq!(kv.mod_revision, *revision);
        assert!(kv.value.starts_with(key.as_bytes()) && kv.value.len() == key.len() + 100_000);
    }
}
