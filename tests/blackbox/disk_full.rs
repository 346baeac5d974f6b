//! A small disk that fills up: writes fail clearly, reads go on, room heals, and nothing acknowledged is lost.
//!
//! Needs root and loop devices. etcd itself dies when its disk is full; that is allowed for the reference alone.

use crate::support::{
    pb::etcdserverpb::{AlarmType, alarm_request::AlarmAction},
    *,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;
use tonic::Code;

const DISK: u64 = 512 << 20;
/// What the server may still take once the balloon is inflated.
const LEFT: u64 = 48 << 20;

/// An ext4 file system in a file, unmounted when dropped.
struct SmallDisk {
    mount: PathBuf,
    _dir: TempDir,
}

impl SmallDisk {
    fn new() -> Option<SmallDisk> {
        let dir = TempDir::new().ok()?;
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        File::create(&image).and_then(|file| file.set_len(DISK)).ok()?;
        std::fs::create_dir(&mount).ok()?;
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        let mounted = made && succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount));
        mounted.then_some(SmallDisk { mount, _dir: dir })
    }

    fn balloon(&self) -> PathBuf {
        self.mount.join("balloon")
    }

    /// Takes all space but [`LEFT`].
    fn inflate(&self) {
        let size = free_bytes(&self.mount).saturating_sub(LEFT).to_string();
        assert!(
            succeeds(Command::new("fallocate").args(["-l", &size]).arg(self.balloon())),
            "the balloon inflates"
        );
    }

    fn deflate(&self) {
        std::fs::remove_file(self.balloon()).expect("the balloon can be removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        for _ in 0..50 {
            if succeeds(Command::new("umount").arg(&self.mount)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("cannot unmount {}", self.mount.display());
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn free_bytes(mount: &Path) -> u64 {
    let said = tools::run(Command::new("df").args(["--output=avail", "-B1"]).arg(mount));
    said.ok()
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok())
        .expect("df tells the free bytes")
}

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
    let Some(disk) = SmallDisk::new() else {
        return skipped("root, loop devices and mkfs.ext4");
    };
    let mut server = Server::start_on(&disk.mount.join("data"), &["--quota-backend-bytes=8000000000"]).await;
    let client = server.client();
    client.put("before", "v").await;
    disk.inflate();

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
