//! The command line: what is accepted, what is refused and how, and how the process ends.

use crate::support::*;
use std::{os::unix::process::ExitStatusExt, process::Command, time::Duration};
use tempfile::TempDir;

const ENOUGH: Duration = Duration::from_secs(15);

/// Starts the binary with exactly these flags, for stories in which it should not come up.
fn spawn(flags: &[String]) -> Process {
    Process::spawn(&binary_under_test(), flags, &[])
}

#[test]
fn called_as_etcd_it_prints_the_version_of_etcd() {
    let dir = TempDir::new().unwrap();
    let etcd = dir.path().join("etcd");
    std::os::unix::fs::symlink(binary_under_test(), &etcd).unwrap();
    let said = tools::run(Command::new(etcd).arg("--version"));
    let lines: Vec<&str> = said.ok().lines().collect();
    assert_eq!(lines[0], format!("etcd Version: {}", server_version()));
    for (line, start) in lines[1..].iter().zip(["Git SHA: ", "Go Version: ", "Go OS/Arch: "]) {
        assert!(line.starts_with(start), "{line:?} starts with {start:?}");
    }
    assert!(lines.len() >= 4);
}

#[test]
fn help_goes_to_stdout_and_ends_well() {
    let said = tools::run(Command::new(binary_under_test()).arg("--help"));
    let help = said.ok().to_owned() + &said.err;
    for flag in [
        "--data-dir",
        "--listen-client-urls",
        "--quota-backend-bytes",
        "--initial-cluster",
    ] {
        assert!(help.contains(flag), "the help names {flag}");
    }
}

#[test]
fn an_unknown_flag_ends_with_code_2_and_says_which() {
    let said = tools::run(Command::new(binary_under_test()).arg("--no-such-flag=1"));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(
        said.err.contains("flag provided but not defined: -no-such-flag"),
        "{}",
        said.err
    );
}

#[test]
fn a_malformed_value_ends_with_code_2_and_says_where() {
    let said = tools::run(Command::new(binary_under_test()).arg("--quota-backend-bytes=lots"));
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(
        said.err.contains("quota-backend-bytes") && said.err.contains("lots"),
        "{}",
        said.err
    );
}

#[test]
fn a_positional_argument_is_refused() {
    let said = tools::run(Command::new(binary_under_test()).args(["--name=x", "surplus"]));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("'surplus' is not a valid flag"), "{}", said.err);
}

#[test]
fn flags_that_are_not_supported_are_refused_by_name() {
    if is_reference() {
        return skipped("a server that does not support every flag of etcd");
    }
    let flags = [
        "--discovery=http://127.0.0.1:1/x",
        "--enable-v2=true",
        "--experimental-enable-v2v3=/v2",
    ];
    for flag in flags {
        let mut process = spawn(&[flag.to_owned()]);
        let status = process.wait(ENOUGH).unwrap_or_else(|| panic!("{flag} was accepted"));
        assert!(!status.success(), "{flag}");
        let name = flag.trim_start_matches('-').split('=').next().unwrap();
        assert!(
            process.log().contains(name),
            "the message names {name}:\n{}",
            process.log()
        );
    }
}

#[test]
fn an_election_timeout_too_near_the_heartbeat_is_refused() {
    let mut process = spawn(&["--heartbeat-interval=100".into(), "--election-timeout=200".into()]);
    let status = process.wait(ENOUGH).expect("it ends by itself");
    assert_eq!(status.code(), Some(1));
    assert!(process.log().contains("election-timeout"), "{}", process.log());
}

#[tokio::test]
async fn both_spellings_of_a_flag_are_accepted() {
    let server = Server::start(&["-max-txn-ops", "200", "--max-request-bytes", "2000000"]).await;
    let client = server.client();
    client.txn(txn_of(vec![get_op("k"); 200])).await;
}

#[tokio::test]
async fn the_environment_sets_flags() {
    let dir = TempDir::new().unwrap();
    let (client_port, peer_port) = (free_port(), free_port());
    let (client_url, peer_url) = (
        format!("http://127.0.0.1:{client_port}"),
        format!("http://127.0.0.1:{peer_port}"),
    );
    let environment: Vec<(String, String)> = [
        ("ETCD_NAME", "by-environment"),
        ("ETCD_DATA_DIR", dir.path().join("data").to_str().unwrap()),
        ("ETCD_LISTEN_CLIENT_URLS", &client_url),
        ("ETCD_ADVERTISE_CLIENT_URLS", &client_url),
        ("ETCD_LISTEN_PEER_URLS", &peer_url),
        ("ETCD_INITIAL_ADVERTISE_PEER_URLS", &peer_url),
        ("ETCD_INITIAL_CLUSTER", &format!("by-environment={peer_url}")),
        ("ETCD_MAX_TXN_OPS", "3"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let process = Process::spawn(&binary_under_test(), &[], &environment);
    assert!(
        process.logged("ready to serve client requests", PATIENCE),
        "{}",
        process.log_tail()
    );
    let client = Client::connect(&client_url);
    client.txn(txn_of(vec![get_op("k"); 3])).await;
    assert!(client.try_txn(txn_of(vec![get_op("k"); 4])).await.is_err());
    let request = pb::etcdserverpb::MemberListRequest { linearizable: true };
    let members = client
        .cluster
        .clone()
        .member_list(request)
        .await
        .unwrap()
        .into_inner()
        .members;
    assert_eq!(members[0].name, "by-environment");
    assert!(
        dir.path().join("data").exists(),
        "the data directory is the one of the environment"
    );
}

#[test]
fn a_variable_that_a_flag_shadows_is_refused() {
    let environment = [("ETCD_MAX_TXN_OPS".to_owned(), "3".to_owned())];
    let mut process = Process::spawn(&binary_under_test(), &["--max-txn-ops=5".into()], &environment);
    let status = process.wait(ENOUGH).expect("it ends by itself");
    assert_eq!(status.code(), Some(1));
    let text = "conflicting environment variable is shadowed by corresponding command-line flag";
    assert!(
        process.logged(text, ENOUGH) && process.log().contains("ETCD_MAX_TXN_OPS"),
        "{}",
        process.log()
    );
}

#[tokio::test]
async fn a_configuration_file_sets_flags() {
    if !is_reference() {
        return println!("skipped: needs --config-file, which is refused for now");
    }
    let dir = TempDir::new().unwrap();
    let (client_url, peer_url) = (
        format!("http://127.0.0.1:{}", free_port()),
        format!("http://127.0.0.1:{}", free_port()),
    );
    let config = format!(
        "name: by-file\ndata-dir: {}\nlisten-client-urls: {client_url}\nadvertise-client-urls: {client_url}\n\
         listen-peer-urls: {peer_url}\ninitial-advertise-peer-urls: {peer_url}\ninitial-cluster: by-file={peer_url}\n\
         max-txn-ops: 7\n",
        dir.path().join("data").display()
    );
    let path = dir.path().join("etcd.yml");
    std::fs::write(&path, config).unwrap();
    let process = spawn(&[format!("--config-file={}", path.display())]);
    assert!(
        process.logged("ready to serve client requests", PATIENCE),
        "{}",
        process.log_tail()
    );
    let client = Client::connect(&client_url);
    client.txn(txn_of(vec![get_op("k"); 7])).await;
    assert!(client.try_txn(txn_of(vec![get_op("k"); 8])).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_ends_the_second_server() {
    let (server, client) = fresh().await;
    let dir = TempDir::new().unwrap();
    let mut flags: Vec<String> = server.flags();
    flags.retain(|flag| !flag.starts_with("--data-dir") && !flag.contains("peer") && !flag.contains("cluster"));
    flags.push(format!("--data-dir={}", dir.path().display()));
    flags.push(format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()));
    let mut second = spawn(&flags);
    let status = second.wait(ENOUGH).expect("it ends by itself");
    assert_eq!(status.code(), Some(1));
    assert!(second.log().contains("address already in use"), "{}", second.log());
    assert!(
        second.log().contains(&server.endpoint()),
        "the message names the address"
    );
    client.put("k", "the first goes on").await;
}

#[tokio::test]
async fn a_data_directory_serves_one_process_only() {
    let (mut server, client) = fresh().await;
    let mut flags = server.flags();
    flags.retain(|flag| !flag.starts_with("--listen"));
    flags.push(format!("--listen-client-urls=http://127.0.0.1:{}", free_port()));
    flags.push(format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()));
    let mut second = spawn(&flags);
    // etcd 3.5 waits for the lock without a word; ours says what is wrong and ends.
    if server.is_reference() {
        assert!(!second.logged("ready to serve client requests", Duration::from_secs(2)));
    } else {
        let status = second.wait(ENOUGH).expect("it ends by itself");
        assert!(!status.success());
        let log = second.log();
        assert!(log.contains(server.data_dir().to_str().unwrap()), "{log}");
        assert!(log.contains("locked by another process"), "{log}");
    }
    drop(second);
    client.put("k", "the first goes on").await;
    server.restart();
    assert!(server.client().get("k").await.is_some());
}

#[test]
fn an_unusable_data_directory_is_refused_with_its_path() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let data_dir = file.join("data");
    let mut process = spawn(&[
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls=http://127.0.0.1:{}", free_port()),
        "--advertise-client-urls=http://127.0.0.1:1".into(),
        format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()),
    ]);
    let status = process.wait(ENOUGH).expect("it ends by itself");
    assert_eq!(status.code(), Some(1));
    assert!(process.log().contains(file.to_str().unwrap()), "{}", process.log());
}

#[test]
fn a_data_directory_of_etcd_is_refused_and_left_as_it_was() {
    if is_reference() {
        return;
    }
    let dir = TempDir::new().unwrap();
    std::fs::create_dir_all(dir.path().join("member/wal")).unwrap();
    let mut process = spawn(&[
        format!("--data-dir={}", dir.path().display()),
        format!("--listen-client-urls=http://127.0.0.1:{}", free_port()),
        "--advertise-client-urls=http://127.0.0.1:1".into(),
        format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()),
    ]);
    let status = process.wait(ENOUGH).expect("it ends by itself");
    assert_eq!(status.code(), Some(1));
    let want = format!("the data directory {} is etcd's", dir.path().display());
    assert!(process.log().contains(&want), "{}", process.log());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
}

#[tokio::test]
async fn a_log_that_was_moved_away_is_missed_and_no_new_one_is_begun() {
    let (mut server, client) = fresh().await;
    if server.is_reference() {
        return;
    }
    client.put("k", "kept").await;
    server.stop();
    let (log, away) = (server.data_dir().join("wal"), server.data_dir().join("wal.away"));
    std::fs::rename(&log, &away).unwrap();
    for _ in 0..2 {
        let said = server.try_start_again().expect_err("it does not start without its log");
        assert!(said.contains("the log is missing or empty"), "{said}");
        assert!(!log.join("meta").exists(), "a new log stands where the old one belongs");
    }
    std::fs::rename(&away, &log).unwrap();
    server.start_again();
    assert!(server.client().get("k").await.is_some());
}

#[tokio::test]
async fn sigterm_and_sigint_end_the_server_in_order() {
    for (name, number) in [("TERM", 15), ("INT", 2)] {
        let (mut server, client) = fresh().await;
        client.put("k", name).await;
        let _open = Watcher::open(&client, create("k")).await;
        let reference = server.is_reference();
        server.process().signal(name);
        let status = server
            .process()
            .wait(Duration::from_secs(10))
            .expect("it ends within seconds");
        // etcd raises the signal again once it has cleaned up; ours exits 0.
        let orderly = status.code() == Some(0) || (reference && status.signal() == Some(number));
        assert!(orderly, "{name}: {status:?}\n{}", server.process().log_tail());
        server.process().kill_9();
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_an_orderly_stop_under_load() {
    let (mut server, client) = fresh().await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut acknowledged = 0;
                while client
                    .try_put(put_request(format!("k{writer}/{acknowledged:06}"), "v"))
                    .await
                    .is_ok()
                {
                    acknowledged += 1;
                }
                acknowledged
            })
        })
        .collect();
    pause_ms(500).await;
    server.process().signal("TERM");
    let ended = server.process().wait(Duration::from_secs(15)).expect("it ends");
    assert!(server.is_reference() || ended.code() == Some(0), "{ended:?}");
    let mut counts = Vec::new();
    for writer in writers {
        counts.push(within("the end of a writer", writer).await.unwrap());
    }
    server.kill_9();
    server.start_again();
    let client = server.client();
    for (writer, count) in counts.into_iter().enumerate() {
        let stored = client.range(prefix_range(&format!("k{writer}/"))).await.count;
        assert!(
            stored >= count,
            "writer {writer}: {stored} of {count} acknowledged puts are there"
        );
    }
}
