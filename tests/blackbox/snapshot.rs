//! The snapshot stream, and etcd's own tools reading it.

use crate::support::{pb::etcdserverpb::*, *};
use sha2::{Digest, Sha256};
use std::{path::Path, process::Command};
use tempfile::TempDir;

async fn chunks(client: &Client) -> Vec<SnapshotResponse> {
    let mut stream = client
        .maintenance
        .clone()
        .snapshot(SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = within("the next chunk", stream.message()).await.unwrap() {
        chunks.push(chunk);
    }
    chunks
}

async fn file(client: &Client) -> Vec<u8> {
    chunks(client)
        .await
        .iter()
        .flat_map(|chunk| chunk.blob.clone())
        .collect()
}

async fn filled() -> (Server, Client) {
    let (server, client) = fresh().await;
    client.try_grant(9, 5000).await.unwrap();
    for i in 0..300 {
        let lease = if i % 3 == 0 { 9 } else { 0 };
        let request = PutRequest {
            lease,
            ..put_request(format!("k{:02}", i % 60), vec![b'0' + (i % 10) as u8; 500])
        };
        client.try_put(request).await.unwrap();
    }
    client.delete("k00").await;
    client.compact(100).await;
    (server, client)
}

#[tokio::test]
async fn the_stream_is_a_bolt_file_with_its_checksum_behind() {
    let (server, client) = filled().await;
    let chunks = chunks(&client).await;
    let (trailer, body) = chunks.split_last().expect("there are chunks");
    let file: Vec<u8> = body.iter().flat_map(|chunk| chunk.blob.clone()).collect();
    assert_eq!(
        trailer.blob,
        Sha256::digest(&file).as_slice(),
        "the last message is the sha256 of all before"
    );
    assert_eq!(trailer.remaining_bytes, 0);
    assert_eq!(file.len() % 512, 0, "a whole number of pages");
    assert_eq!(
        file[16..20],
        0xED0C_DAED_u32.to_le_bytes(),
        "page 0 is a meta page of bolt"
    );
    let mut left = file.len() as u64;
    for chunk in body {
        left -= chunk.blob.len() as u64;
        assert_eq!(chunk.remaining_bytes, left);
        assert!(chunk.blob.len() <= 32 * 1024);
        assert_eq!(chunk.header, None);
        assert_eq!(chunk.version, if server.is_3_5() { "" } else { "3.6.0" });
    }
}

#[tokio::test]
async fn a_snapshot_holds_one_moment_while_writes_go_on() {
    let (_server, client) = filled().await;
    let writer = {
        let client = client.clone();
        tokio::spawn(async move {
            for i in 0..300 {
                client.put("busy", i.to_string()).await;
            }
        })
    };
    for _ in 0..5 {
        let whole = file(&client).await;
        let (body, trailer) = whole.split_at(whole.len() - 32);
        assert_eq!(trailer, Sha256::digest(body).as_slice());
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn etcdutl_accepts_a_snapshot_and_finds_the_revision() {
    let Some(etcdutl) = tools::on_path("etcdutl") else {
        return skipped("etcdutl on PATH");
    };
    let (_server, client) = filled().await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("snapshot.db");
    std::fs::write(&path, file(&client).await).unwrap();
    let said = tools::run(
        Command::new(etcdutl)
            .args(["snapshot", "status", "-w", "json"])
            .arg(&path),
    );
    let status: serde_json::Value = serde_json::from_str(said.ok()).unwrap();
    assert_eq!(status["revision"], 302);
    assert!(status["totalKey"].as_u64().unwrap() >= 59, "{status}");
}

#[tokio::test]
async fn etcdutl_restores_a_snapshot_and_etcd_serves_it() {
    let Some(etcdutl) = tools::on_path("etcdutl") else {
        return skipped("etcdutl on PATH");
    };
    let Some(etcd) = tools::reference_etcd() else {
        return skipped("etcd on PATH");
    };
    let (_server, client) = filled().await;
    let (expected, hash) = (client.range(all_range()).await, client.try_hash_kv(302).await.unwrap());
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("snapshot.db");
    std::fs::write(&path, file(&client).await).unwrap();

    let restored = dir.path().join("restored");
    let (client_url, peer_url) = (
        format!("http://127.0.0.1:{}", free_port()),
        format!("http://127.0.0.1:{}", free_port()),
    );
    let cluster = format!("--initial-cluster=default={peer_url}");
    let advertise = format!("--initial-advertise-peer-urls={peer_url}");
    let data_dir = format!("--data-dir={}", restored.display());
    let said = tools::run(
        Command::new(etcdutl)
            .args(["snapshot", "restore", &data_dir, &cluster, &advertise])
            .arg(&path),
    );
    said.ok();
    let _etcd = serve(&etcd, &restored, &client_url, &peer_url);
    let restored = Client::connect(&client_url);
    let found = restored.range(all_range()).await;
    assert_eq!(found.kvs, expected.kvs);
    assert_eq!(revision(&found.header), 302);
    assert_eq!(restored.try_hash_kv(302).await.unwrap().hash, hash.hash);
    let lease = restored.time_to_live(9).await;
    assert_eq!(lease.granted_ttl, 5000, "leases come along");
    assert!(!lease.keys.is_empty());
}

fn serve(etcd: &Path, data_dir: &Path, client_url: &str, peer_url: &str) -> Process {
    let flags = [
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=default={peer_url}"),
    ];
    let process = Process::spawn(etcd, &flags, &[]);
    assert!(
        process.logged("ready to serve client requests", PATIENCE),
        "{}",
        process.log_tail()
    );
    process
}
