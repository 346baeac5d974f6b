//! `etcore bench` against a real server: what it prints, and that it tells a failed request from a good one.

use std::process::Command;

use serde_json::Value;

use crate::support::{tools::run, *};

/// Runs our own `etcore bench --json` against the server; returns exit code and report.
fn bench(server: &Server, arguments: &str) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcore"));
    command
        .args(["bench", "--json", "--endpoints", &server.endpoint()])
        .args(arguments.split(' '));
    let said = run(&mut command);
    let report = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("no JSON ({error}): {said:?}"));
    (said.code, report)
}

#[tokio::test]
async fn bench_counts_every_put_and_reports_percentiles_in_order() {
    let (server, client) = fresh().await;
    let (code, report) = bench(
        &server,
        "--conns 3 --clients 20 --warmup 50 put --total 200 --val-size 256 --key-space-size 40 --sequential-keys",
    );
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(
        (&report["ok"], &report["failed"], &report["unsent"]),
        (&200.into(), &0.into(), &0.into())
    );
    assert_eq!(
        (&report["conns"], &report["clients"], &report["errors"]),
        (&3.into(), &20.into(), &serde_json::json!({}))
    );
    let latency = &report["latency_ms"];
    let steps =
        ["min", "p50", "p90", "p95", "p99", "p999", "max"].map(|name| latency[name].as_f64().unwrap_or(f64::NAN));
    assert!(steps[0] > 0.0 && steps.is_sorted(), "{latency}");
    assert!(
        report["throughput_per_s"].as_f64().is_some_and(|rate| rate > 1.0),
        "{report}"
    );

    let all = client.range(range_between("\0", "\0")).await;
    assert_eq!(all.count, 40);
    assert_eq!(
        all.header.map(|header| header.revision),
        Some(251),
        "50 to warm up and 200 more"
    );
}

#[tokio::test]
async fn bench_runs_every_shape_of_load() {
    let (server, _client) = fresh().await;
    for load in [
        "put --total 100",
        "put --total 20 --rate 200",
        "range x --total 100",
        "range a z --limit 5 --consistency s --total 100",
        "--conns 4 --clients 8 --threads 2 txn-put --txn-ops 3 --key-space-size 10 --total 100",
        "txn-mixed --total 100 --limit 3",
        "--conns 2 --clients 2 watch --streams 4 --watch-per-stream 5 --watched-key-total 3 --put-total 30",
        "watch-latency --total 20 --put-rate 200 --prevkv",
    ] {
        let (code, report) = bench(&server, load);
        assert_eq!(code, Some(0), "{load}: {report}");
        assert_eq!(report["failed"], 0, "{load}: {report}");
        assert_eq!(report["events"], report["events_expected"], "{load}: {report}");
    }
}

#[tokio::test]
async fn bench_names_what_failed_and_exits_with_1() {
    let (server, _client) = fresh().await;
    let (code, report) = bench(&server, "put --total 7 --val-size 1600000");
    assert_eq!(code, Some(1), "{report}");
    assert_eq!((&report["ok"], &report["failed"]), (&0.into(), &7.into()));
    assert_eq!(
        report["errors"]["InvalidArgument: etcdserver: request is too large"], 7,
        "{report}"
    );
}
