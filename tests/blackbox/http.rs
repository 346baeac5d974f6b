//! The plain HTTP endpoints on the client port.

use crate::support::{
    pb::etcdserverpb::{AlarmType, DeleteRangeRequest, PutRequest, alarm_request::AlarmAction},
    *,
};

fn lines(body: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = body.lines().collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn health_is_true_and_json() {
    let (server, _) = fresh().await;
    for path in [
        "/health",
        "/health?serializable=true",
        "/health?exclude=NOSPACE&exclude=CORRUPT",
    ] {
        let answer = http(&server.endpoint(), "GET", path);
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, r#"{"health":"true","reason":""}"#),
            "{path}"
        );
        assert!(answer.headers["content-type"].starts_with("text/plain"));
    }
}

#[tokio::test]
async fn health_is_false_under_an_alarm_unless_it_is_excluded() {
    let (server, client) = fresh().await;
    let member = client.status().await.header.unwrap().member_id;
    for (alarm, name) in [(AlarmType::Nospace, "NOSPACE"), (AlarmType::Corrupt, "CORRUPT")] {
        client.alarm(AlarmAction::Activate, member, alarm).await;
        let answer = http(&server.endpoint(), "GET", "/health");
        let body = format!(r#"{{"health":"false","reason":"ALARM {name}"}}"#);
        assert_eq!((answer.status, answer.body.trim_end()), (503, body.as_str()));
        let excluded = http(&server.endpoint(), "GET", &format!("/health?exclude={name}"));
        assert_eq!(excluded.status, 200);
        client.alarm(AlarmAction::Deactivate, member, alarm).await;
    }
    assert_eq!(http(&server.endpoint(), "GET", "/health").status, 200);
}

#[tokio::test]
async fn livez_and_readyz_are_ok() {
    let (server, _) = fresh().await;
    for path in [
        "/livez",
        "/readyz",
        "/livez/serializable_read",
        "/readyz/serializable_read",
        "/readyz/linearizable_read",
        "/readyz/data_corruption",
        "/readyz/non_learner",
        "/readyz?exclude=data_corruption",
        "/readyz?exclude=nonsense",
    ] {
        let answer = http(&server.endpoint(), "GET", path);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn verbose_checks_name_each_part() {
    let (server, _) = fresh().await;
    let live = http(&server.endpoint(), "GET", "/livez?verbose");
    assert_eq!(live.body, "[+]serializable_read ok\nok\n");
    let ready = http(&server.endpoint(), "GET", "/readyz?verbose");
    assert_eq!(
        lines(&ready.body),
        [
            "[+]data_corruption ok",
            "[+]linearizable_read ok",
            "[+]non_learner ok",
            "[+]serializable_read ok",
            "ok",
        ]
    );
    let fewer = http(
        &server.endpoint(),
        "GET",
        "/readyz?verbose&exclude=non_learner&exclude=linearizable_read",
    );
    assert_eq!(
        lines(&fewer.body),
        ["[+]data_corruption ok", "[+]serializable_read ok", "ok"]
    );
}

#[tokio::test]
async fn readyz_fails_under_a_corrupt_alarm_and_livez_does_not() {
    let (server, client) = fresh().await;
    let member = client.status().await.header.unwrap().member_id;
    client.alarm(AlarmAction::Activate, member, AlarmType::Corrupt).await;
    let ready = http(&server.endpoint(), "GET", "/readyz");
    assert_eq!(ready.status, 503);
    assert!(
        ready
            .body
            .contains("[-]data_corruption failed: alarm activated: CORRUPT"),
        "{}",
        ready.body
    );
    assert_eq!(http(&server.endpoint(), "GET", "/readyz/data_corruption").status, 503);
    assert_eq!(
        http(&server.endpoint(), "GET", "/readyz?exclude=data_corruption").status,
        200
    );
    assert_eq!(http(&server.endpoint(), "GET", "/livez").status, 200);
}

#[tokio::test]
async fn version_names_server_and_cluster() {
    let (server, _) = fresh().await;
    eventually("a known cluster version", || async {
        !http(&server.endpoint(), "GET", "/version").body.contains("not_decided")
    })
    .await;
    let answer = http(&server.endpoint(), "GET", "/version");
    assert_eq!(
        (answer.status, answer.headers["content-type"].as_str()),
        (200, "application/json")
    );
    let version: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(version["etcdserver"], server_version());
    let (minor, _) = server_version().rsplit_once('.').unwrap();
    assert_eq!(version["etcdcluster"], format!("{minor}.0"));
    if !server.is_3_5() {
        assert_eq!(version["storage"], format!("{minor}.0"));
    }
}

#[tokio::test]
async fn metrics_carry_the_names_that_dashboards_use() {
    let (server, client) = fresh().await;
    client.put("k", "v").await;
    client.get("k").await;
    client.delete("k").await;
    let answer = http(&server.endpoint(), "GET", "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    // Source: metrics table, those that etcd shows from the start.
    let mut missing = Vec::new();
    for name in [
        "etcd_cluster_version",
        "etcd_debugging_auth_revision",
        "etcd_debugging_disk_backend_commit_rebalance_duration_seconds_bucket",
        "etcd_debugging_disk_backend_commit_spill_duration_seconds_bucket",
        "etcd_debugging_disk_backend_commit_write_duration_seconds_bucket",
        "etcd_debugging_lease_granted_total",
        "etcd_debugging_lease_renewed_total",
        "etcd_debugging_lease_revoked_total",
        "etcd_debugging_lease_ttl_total_bucket",
        "etcd_debugging_mvcc_compact_revision",
        "etcd_debugging_mvcc_current_revision",
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "etcd_debugging_mvcc_db_compaction_last",
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_bucket",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_bucket",
        "etcd_debugging_mvcc_events_total",
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_bucket",
        "etcd_debugging_mvcc_keys_total",
        "etcd_debugging_mvcc_pending_events_total",
        "etcd_debugging_mvcc_slow_watcher_total",
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "etcd_debugging_mvcc_watch_stream_total",
        "etcd_debugging_mvcc_watcher_total",
        "etcd_debugging_server_lease_expired_total",
        "etcd_debugging_snap_save_marshalling_duration_seconds_bucket",
        "etcd_debugging_snap_save_total_duration_seconds_bucket",
        "etcd_debugging_store_expires_total",
        "etcd_debugging_store_reads_total",
        "etcd_debugging_store_watch_requests_total",
        "etcd_debugging_store_watchers",
        "etcd_debugging_store_writes_total",
        "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_disk_backend_defrag_duration_seconds_bucket",
        "etcd_disk_backend_snapshot_duration_seconds_bucket",
        "etcd_disk_defrag_inflight",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_disk_wal_write_bytes_total",
        "etcd_disk_wal_write_duration_seconds_bucket",
        "etcd_grpc_proxy_cache_hits_total",
        "etcd_grpc_proxy_cache_keys_total",
        "etcd_grpc_proxy_cache_misses_total",
        "etcd_grpc_proxy_events_coalescing_total",
        "etcd_grpc_proxy_watchers_coalescing_total",
        "etcd_mvcc_db_open_read_transactions",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_mvcc_delete_total",
        "etcd_mvcc_hash_duration_seconds_bucket",
        "etcd_mvcc_hash_rev_duration_seconds_bucket",
        "etcd_mvcc_put_total",
        "etcd_mvcc_range_total",
        "etcd_mvcc_txn_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_server_apply_duration_seconds_bucket",
        "etcd_server_client_requests_total",
        "etcd_server_go_version",
        "etcd_server_has_leader",
        "etcd_server_health_failures",
        "etcd_server_health_success",
        "etcd_server_heartbeat_send_failures_total",
        "etcd_server_id",
        "etcd_server_is_leader",
        "etcd_server_is_learner",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_learner_promote_successes",
        "etcd_server_proposals_applied_total",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_failed_total",
        "etcd_server_proposals_pending",
        "etcd_server_quota_backend_bytes",
        "etcd_server_read_indexes_failed_total",
        "etcd_server_slow_apply_total",
        "etcd_server_slow_read_indexes_total",
        "etcd_server_snapshot_apply_in_progress_total",
        "etcd_server_version",
        "etcd_snap_db_fsync_duration_seconds_bucket",
        "etcd_snap_db_save_total_duration_seconds_bucket",
        "etcd_snap_fsync_duration_seconds_bucket",
        "grpc_server_handled_total",
        "grpc_server_msg_received_total",
        "grpc_server_msg_sent_total",
        "grpc_server_started_total",
        "os_fd_limit",
        "os_fd_used",
        "process_cpu_seconds_total",
        "process_max_fds",
        "process_network_receive_bytes_total",
        "process_network_transmit_bytes_total",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
        "promhttp_metric_handler_requests_in_flight",
        "promhttp_metric_handler_requests_total",
    ] {
        let starts = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        if !answer.body.lines().any(starts) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "/metrics lacks {missing:?}");
    for line in [
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_debugging_mvcc_current_revision 3",
        "etcd_debugging_mvcc_keys_total 0",
        "# TYPE etcd_disk_wal_fsync_duration_seconds histogram",
        "# TYPE grpc_server_handled_total counter",
    ] {
        assert!(
            answer.body.lines().any(|found| found == line),
            "/metrics has no line {line:?}"
        );
    }
}

#[tokio::test]
async fn metrics_count_what_was_called() {
    let (server, client) = fresh().await;
    for i in 0..7 {
        client.put(format!("k{i}"), vec![b'v'; 1000]).await;
    }
    client.get("k0").await;
    let mut told = tonic::Request::new(key_range("k0"));
    told.metadata_mut()
        .insert("client-api-version", "3.9".parse().expect("plain text"));
    client.kv.clone().range(told).await.expect("it is answered");
    if !server.is_3_5() {
        let mut unreadable = tonic::Request::new(key_range("k0"));
        let bytes = tonic::metadata::MetadataValue::try_from(&b"\xff\xfe"[..]).expect("opaque bytes");
        unreadable.metadata_mut().insert("client-api-version", bytes);
        let answer = client.kv.clone().range(unreadable).await;
        refused(
            answer,
            tonic::Code::InvalidArgument,
            "etcdserver: invalid client api version",
        );
    }
    let answer = client.try_put(put_request("", "v")).await;
    assert!(answer.is_err());
    let body = http(&server.endpoint(), "GET", "/metrics").body;
    let handled = |code: &str| {
        body.lines().find_map(|line| {
            let fits = line.starts_with("grpc_server_handled_total{")
                && line.contains(r#"grpc_method="Put""#)
                && line.contains(r#"grpc_service="etcdserverpb.KV""#)
                && line.contains(r#"grpc_type="unary""#)
                && line.contains(&format!(r#"grpc_code="{code}""#));
            fits.then(|| line.rsplit(' ').next().unwrap().to_owned())
        })
    };
    assert_eq!(handled("OK").as_deref(), Some("7"));
    assert_eq!(handled("InvalidArgument").as_deref(), Some("1"));
    let sample = |name: &str| {
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("/metrics has no line {name}"));
        value.parse::<f64>().expect("a number")
    };
    assert_eq!(
        sample(r#"etcd_server_client_requests_total{client_api_version="3.9",type="unary"}"#),
        1.0
    );
    assert!(sample("etcd_network_client_grpc_received_bytes_total") > 7000.0);
    assert!(sample("etcd_network_client_grpc_sent_bytes_total") > 2000.0);
    assert_eq!(
        handled("Aborted").as_deref(),
        Some("0"),
        "counters exist before their first call"
    );
}

#[tokio::test]
async fn metrics_count_operations_as_etcd_does() {
    let (server, client) = fresh().await;
    for i in 0..5 {
        client.put(format!("k{i}"), "v").await;
    }
    let all = DeleteRangeRequest {
        key: b"k".to_vec(),
        range_end: prefix_end("k"),
        prev_kv: false,
    };
    client.try_delete(all).await.expect("it is deleted");
    client.delete("nothing").await;
    client.txn(txn_of(vec![put_op("a", "1"), put_op("b", "2")])).await;
    client.txn(txn_of(vec![put_op("a", "3")])).await;
    let lease = client.grant(600).await;
    let leased = PutRequest {
        lease,
        ..put_request("leased", "v")
    };
    client.try_put(leased).await.expect("it is put");
    client.try_revoke(lease).await.expect("it is revoked");
    let body = http(&server.endpoint(), "GET", "/metrics").body;
    let line = |wanted: &str| assert!(body.lines().any(|line| line == wanted), "no {wanted} in {body}");
    line("etcd_mvcc_put_total 9");
    // One that hits five keys, one that hits none, and a lease's.
    line("etcd_mvcc_delete_total 3");
    line("etcd_mvcc_txn_total 1");
    let applied = |line: &str| line.starts_with("etcd_server_apply_duration_seconds_count{") && !line.ends_with(" 0");
    assert!(body.lines().any(applied), "{body}");
}

#[tokio::test]
async fn a_metrics_listener_of_its_own_serves_health_and_metrics() {
    let port = free_port();
    let server = Server::start(&[&format!("--listen-metrics-urls=http://127.0.0.1:{port}")]).await;
    let metrics = format!("127.0.0.1:{port}");
    for path in ["/metrics", "/health", "/livez", "/readyz"] {
        assert_eq!(http(&metrics, "GET", path).status, 200, "{path}");
    }
    assert_eq!(http(&metrics, "GET", "/version").status, 404);
    assert_eq!(http(&server.endpoint(), "GET", "/health").status, 200);
}

#[tokio::test]
async fn unknown_paths_are_not_found() {
    let (server, _) = fresh().await;
    for path in [
        "/",
        "/nothing",
        "/livez/nothing",
        "/readyz/nothing",
        "/debug/pprof/",
        "/config/local/log",
    ] {
        let answer = http(&server.endpoint(), "GET", path);
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (404, "404 page not found\n"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let (server, _) = fresh().await;
    for path in ["/health", "/livez", "/readyz", "/version"] {
        for method in ["POST", "PUT", "DELETE", "HEAD"] {
            let answer = http(&server.endpoint(), method, path);
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.headers["allow"], "GET");
        }
    }
}

#[tokio::test]
async fn cross_origin_headers_are_there() {
    let (server, _) = fresh().await;
    let preflight = http(&server.endpoint(), "OPTIONS", "/v3/kv/range");
    assert_eq!((preflight.status, preflight.body.as_str()), (200, ""));
    for answer in [preflight, http(&server.endpoint(), "GET", "/health")] {
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert_eq!(
            answer.headers["access-control-allow-methods"],
            "POST, GET, OPTIONS, PUT, DELETE"
        );
        assert_eq!(
            answer.headers["access-control-allow-headers"],
            "accept, content-type, authorization"
        );
    }
}

#[tokio::test]
async fn both_protocols_share_a_port_under_load() {
    let (server, client) = fresh().await;
    for i in 0..50 {
        client.put("k", i.to_string()).await;
        assert_eq!(http(&server.endpoint(), "GET", "/health").status, 200);
    }
}
