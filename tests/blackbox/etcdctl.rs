//! The real etcdctl against the server: the commands people type, and what they see.

use crate::support::{tools::Said, *};
use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

struct Etcdctl {
    program: PathBuf,
    endpoint: String,
}

impl Etcdctl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoint))
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        tools::run(&mut self.command(args))
    }

    #[track_caller]
    fn says(&self, args: &[&str], expected: &str) {
        assert_eq!(self.run(args).ok(), expected, "etcdctl {args:?}");
    }

    fn fed(&self, args: &[&str], input: &str) -> Said {
        let mut command = self.command(args);
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().expect("etcdctl runs");
        child
            .stdin
            .take()
            .expect("stdin is a pipe")
            .write_all(input.as_bytes())
            .expect("etcdctl reads its input");
        tools::said(child.wait_with_output().expect("etcdctl ends"))
    }
}

async fn start() -> Option<(Server, Etcdctl)> {
    let Some(program) = tools::on_path("etcdctl") else {
        skipped("etcdctl on PATH");
        return None;
    };
    let server = Server::start(&[]).await;
    let endpoint = server.endpoint();
    Some((server, Etcdctl { program, endpoint }))
}

#[tokio::test]
async fn put_get_and_del() {
    let Some((_server, ctl)) = start().await else { return };
    ctl.says(&["put", "a", "1"], "OK\n");
    ctl.says(&["put", "b", "2"], "OK\n");
    ctl.says(&["put", "a", "3", "--prev-kv"], "OK\na\n1\n");
    ctl.says(&["get", "a"], "a\n3\n");
    ctl.says(&["get", "a", "--print-value-only"], "3\n");
    ctl.says(&["get", "a", "--rev=2"], "a\n1\n");
    ctl.says(&["get", "", "--from-key", "--keys-only"], "a\n\nb\n\n");
    ctl.says(
        &[
            "get",
            "--prefix",
            "",
            "--limit=1",
            "--sort-by=MODIFY",
            "--order=DESCEND",
        ],
        "a\n3\n",
    );
    ctl.says(&["get", "missing"], "");
    ctl.says(&["del", "a", "--prev-kv"], "1\na\n3\n");
    ctl.says(&["del", "", "--from-key"], "1\n");
    ctl.says(&["del", "a"], "0\n");
    assert_eq!(ctl.fed(&["put", "stdin"], "from a pipe").ok(), "OK\n");
    ctl.says(&["get", "stdin", "--print-value-only"], "from a pipe\n");
}

#[tokio::test]
async fn get_as_json_and_fields() {
    let Some((_server, ctl)) = start().await else { return };
    ctl.run(&["put", "a", "1"]).ok();
    let json: serde_json::Value = serde_json::from_str(ctl.run(&["get", "a", "-w", "json"]).ok()).unwrap();
    assert_eq!((&json["count"], &json["header"]["revision"]), (&1.into(), &2.into()));
    let kv = serde_json::json!({"key": "YQ==", "create_revision": 2, "mod_revision": 2, "version": 1, "value": "MQ=="});
    assert_eq!(json["kvs"][0], kv);
    let fields = ctl.run(&["get", "a", "-w", "fields"]);
    for line in [
        "\"Key\" : \"a\"",
        "\"Version\" : 1",
        "\"More\" : false",
        "\"Count\" : 1",
    ] {
        assert!(fields.ok().lines().any(|found| found == line), "{line} in {fields:?}");
    }
}

#[tokio::test]
async fn a_transaction_from_a_script() {
    let Some((_server, ctl)) = start().await else { return };
    ctl.run(&["put", "a", "1"]).ok();
    let script = "value(\"a\") = \"1\"\nmod(\"a\") > \"0\"\n\nput b 2\nget a\n\ndel a\n\n";
    assert_eq!(ctl.fed(&["txn"], script).ok(), "SUCCESS\n\nOK\n\na\n1\n");
    let script = "value(\"a\") = \"9\"\n\nput b 2\n\ndel a\n\n";
    assert_eq!(ctl.fed(&["txn"], script).ok(), "FAILURE\n\n1\n");
}

#[tokio::test]
async fn watching_from_a_revision() {
    let Some((_server, ctl)) = start().await else { return };
    ctl.run(&["put", "a", "1"]).ok();
    ctl.run(&["del", "a"]).ok();
    ctl.run(&["put", "ab", "2"]).ok();
    let mut command = ctl.command(&["watch", "--prefix", "--rev=2", "a"]);
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut seen = String::new();
    let mut output = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while seen.len() < "PUT\na\n1\nDELETE\na\n\nPUT\nab\n2\n".len() {
            let count = std::io::Read::read(&mut output, &mut bytes).unwrap_or(0);
            if count == 0 {
                break;
            }
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        seen
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !reader.is_finished() && std::time::Instant::now() < deadline {
        pause_ms(20).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(reader.join().unwrap(), "PUT\na\n1\nDELETE\na\n\nPUT\nab\n2\n");
}

#[tokio::test]
async fn a_watch_of_the_compacted_past_fails() {
    let Some((_server, ctl)) = start().await else { return };
    for value in ["1", "2", "3"] {
        ctl.run(&["put", "a", value]).ok();
    }
    ctl.says(&["compaction", "3"], "compacted revision 3\n");
    let said = ctl.run(&["watch", "--rev=2", "a"]);
    assert_eq!(said.code, Some(5));
    assert!(
        said.err.contains("required revision has been compacted"),
        "{}",
        said.err
    );
    let said = ctl.run(&["compaction", "3"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err
            .contains("etcdserver: mvcc: required revision has been compacted"),
        "{}",
        said.err
    );
    ctl.says(&["compaction", "4", "--physical"], "compacted revision 4\n");
}

#[tokio::test]
async fn leases_from_grant_to_revoke() {
    let Some((_server, ctl)) = start().await else { return };
    let granted = ctl.run(&["lease", "grant", "500"]);
    let id = granted.ok().split(' ').nth(1).unwrap().to_owned();
    assert_eq!(granted.out, format!("lease {id} granted with TTL(500s)\n"));
    ctl.says(&["put", "a", "1", &format!("--lease={id}")], "OK\n");
    ctl.says(&["lease", "list"], &format!("found 1 leases\n{id}\n"));
    let left = ctl.run(&["lease", "timetolive", &id, "--keys"]);
    assert!(
        left.ok()
            .starts_with(&format!("lease {id} granted with TTL(500s), remaining(")),
        "{left:?}"
    );
    assert!(left.out.contains("attached keys([a])"), "{left:?}");
    ctl.says(
        &["lease", "keep-alive", "--once", &id],
        &format!("lease {id} keepalived with TTL(500)\n"),
    );
    ctl.says(&["lease", "revoke", &id], &format!("lease {id} revoked\n"));
    ctl.says(&["get", "a"], "");
    ctl.says(&["lease", "timetolive", &id], &format!("lease {id} already expired\n"));
}

#[tokio::test]
async fn endpoint_status_health_and_hash() {
    let Some((server, ctl)) = start().await else { return };
    ctl.run(&["put", "a", "1"]).ok();
    let status: serde_json::Value = serde_json::from_str(ctl.run(&["endpoint", "status", "-w", "json"]).ok()).unwrap();
    assert_eq!(status[0]["Endpoint"], server.endpoint());
    assert_eq!(status[0]["Status"]["version"], server_version());
    assert_eq!(
        status[0]["Status"]["leader"],
        status[0]["Status"]["header"]["member_id"]
    );
    let simple = ctl.run(&["endpoint", "status"]);
    assert!(
        simple.ok().starts_with(&format!("{}, ", server.endpoint())),
        "{simple:?}"
    );
    let health = ctl.run(&["endpoint", "health"]);
    let said = health.ok().to_owned() + &health.err;
    assert!(
        said.contains("is healthy: successfully committed proposal: took = "),
        "{said}"
    );
    let hash: serde_json::Value = serde_json::from_str(ctl.run(&["endpoint", "hashkv", "-w", "json"]).ok()).unwrap();
    let expected = server.client().try_hash_kv(0).await.unwrap().hash;
    assert_eq!(hash[0]["HashKV"]["hash"], expected);
}

#[tokio::test]
async fn alarms_members_and_defragmentation() {
    let Some((server, ctl)) = start().await else { return };
    ctl.says(&["alarm", "list"], "");
    ctl.says(&["alarm", "disarm"], "");
    ctl.says(
        &["defrag"],
        &format!("Finished defragmenting etcd member[{}]\n", server.endpoint()),
    );
    let header = server.client().status().await.header.unwrap();
    let line = format!(
        "{:x}, started, default, {}, {}, false\n",
        header.member_id,
        server.peer_url(),
        server.url()
    );
    ctl.says(&["member", "list"], &line);
    let list: serde_json::Value = serde_json::from_str(ctl.run(&["member", "list", "-w", "json"]).ok()).unwrap();
    assert_eq!(list["header"]["cluster_id"], header.cluster_id);
    assert_eq!(list["members"][0]["name"], "default");
}

#[tokio::test]
async fn a_snapshot_can_be_saved_and_read() {
    let Some((_server, ctl)) = start().await else { return };
    for i in 0..100 {
        ctl.run(&["put", &format!("k{}", i % 10), "v"]).ok();
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("snapshot.db");
    let path = path.to_str().unwrap();
    let saved = ctl.run(&["snapshot", "save", path]);
    assert!(saved.ok().contains(&format!("Snapshot saved at {path}")), "{saved:?}");
    let Some(etcdutl) = tools::on_path("etcdutl") else {
        return skipped("etcdutl on PATH");
    };
    let status = tools::run(Command::new(etcdutl).args(["snapshot", "status", path, "-w", "json"]));
    let status: serde_json::Value = serde_json::from_str(status.ok()).unwrap();
    assert_eq!(status["revision"], 101);
}

#[tokio::test]
async fn errors_end_with_code_1_and_the_text_of_the_server() {
    let Some((server, ctl)) = start().await else { return };
    for (args, text) in [
        (
            &["get", "a", "--rev=100"][..],
            "etcdserver: mvcc: required revision is a future revision",
        ),
        (
            &["put", "a", "1", "--lease=1234"],
            "etcdserver: requested lease not found",
        ),
        (&["put", "a", "--ignore-value"], "etcdserver: key not found"),
        (&["lease", "revoke", "1234"], "etcdserver: requested lease not found"),
        (&["member", "remove", "1234"], "etcdserver: member not found"),
    ] {
        if args[0] == "member" && !server.is_reference() {
            println!("skipped: needs member changes, which are not there yet");
            continue;
        }
        let said = ctl.run(args);
        assert_eq!(said.code, Some(1), "etcdctl {args:?}: {said:?}");
        assert!(said.err.contains(text), "etcdctl {args:?}: {said:?}");
    }
}

#[tokio::test]
async fn a_lock_runs_its_command_alone() {
    let Some((_server, ctl)) = start().await else { return };
    let held = ctl.run(&["lock", "mutex", "--", "sh", "-c", "echo held by $ETCD_LOCK_KEY"]);
    assert!(held.ok().starts_with("held by mutex/"), "{held:?}");
    assert_eq!(
        ctl.run(&["get", "--prefix", "mutex"]).ok(),
        "",
        "the lock is free again"
    );
}

#[tokio::test]
async fn the_performance_check_passes() {
    let Some((_server, ctl)) = start().await else { return };
    if scaled(1) < 2 {
        return skipped("ETCORE_TEST_SCALE of 2 or more, as it takes a minute");
    }
    let said = ctl.run(&["check", "perf", "--load=s"]);
    assert!(said.ok().contains("PASS: Throughput"), "{said:?}");
}
