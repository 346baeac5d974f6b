//! The JSON gateway: the same calls over HTTP/1.1.
//!
//! Spaces between tokens are not part of the contract, so answers are compared as parsed JSON.

use crate::support::*;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

fn call(server: &Server, path: &str, body: Value) -> Value {
    let answer = post(&server.endpoint(), path, &body.to_string());
    assert_eq!(
        (answer.status, answer.headers["content-type"].as_str()),
        (200, "application/json"),
        "{answer:?}"
    );
    serde_json::from_str(&answer.body).expect("the answer is JSON")
}

fn refusal(server: &Server, path: &str, body: &str) -> (u16, i64, String) {
    let answer = post(&server.endpoint(), path, body);
    let value: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("JSON, not {answer:?}"));
    (
        answer.status,
        value["code"].as_i64().unwrap(),
        value["message"].as_str().unwrap().to_owned(),
    )
}

#[tokio::test]
async fn put_range_and_delete() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let (server, client) = fresh().await;
    // base64 of "a" and "1".
    let put = call(&server, "/v3/kv/put", json!({"key": "YQ==", "value": "MQ=="}));
    let header = client.status().await.header.unwrap();
    assert_eq!(put["header"]["revision"], "2", "64-bit numbers are strings");
    assert_eq!(put["header"]["cluster_id"], header.cluster_id.to_string());
    let range = call(&server, "/v3/kv/range", json!({"key": "YQ=="}));
    let kv = json!({"key": "YQ==", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "MQ=="});
    assert_eq!(range["kvs"], json!([kv]));
    assert_eq!(
        (&range["count"], range.get("more")),
        (&json!("1"), None),
        "fields of value zero are left out"
    );
    let deleted = call(&server, "/v3/kv/deleterange", json!({"key": "YQ==", "prev_kv": true}));
    assert_eq!(
        (&deleted["deleted"], &deleted["prev_kvs"][0]["value"]),
        (&json!("1"), &json!("MQ=="))
    );
    assert_eq!(client.get("a").await, None);
}

#[tokio::test]
async fn both_spellings_of_fields_numbers_and_enums_are_read() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let (server, client) = fresh().await;
    for key in ["a", "b", "c"] {
        client.put(key, key).await;
    }
    for body in [
        json!({"key": "AA==", "range_end": "AA==", "sort_order": "DESCEND", "limit": "2", "revision": 4}),
        json!({"key": "AA==", "rangeEnd": "AA==", "sortOrder": 2, "limit": 2, "unknown": {"is": "ignored"}}),
    ] {
        let answer = call(&server, "/v3/kv/range", body);
        assert_eq!(
            (&answer["kvs"][0]["key"], &answer["more"]),
            (&json!("Yw=="), &json!(true))
        );
    }
}

#[tokio::test]
async fn a_transaction_with_its_unions() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let (server, client) = fresh().await;
    client.put("a", "1").await;
    let body = json!({
        "compare": [{"target": "VERSION", "key": "YQ==", "version": "1"}],
        "success": [{"requestPut": {"key": "Yg==", "value": "Mg=="}}, {"request_range": {"key": "Yg=="}}],
    });
    let answer = call(&server, "/v3/kv/txn", body);
    assert_eq!(answer["succeeded"], true);
    assert_eq!(answer["responses"][0]["response_put"]["header"]["revision"], "3");
    assert_eq!(answer["responses"][1]["response_range"]["kvs"][0]["value"], "Mg==");
}

#[tokio::test]
async fn errors_carry_code_and_message() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let (server, _) = fresh().await;
    let empty = refusal(&server, "/v3/kv/range", r#"{"key": ""}"#);
    assert_eq!(empty, (400, 3, "etcdserver: key is not provided".into()));
    let missing = refusal(&server, "/v3/lease/revoke", r#"{"ID": "77"}"#);
    assert_eq!(missing, (404, 5, "etcdserver: requested lease not found".into()));
    let future = refusal(&server, "/v3/kv/range", r#"{"key": "YQ==", "revision": "99"}"#);
    assert_eq!(
        future,
        (
            400,
            11,
            "etcdserver: mvcc: required revision is a future revision".into()
        )
    );
    for garbage in ["garbage", r#"{"key": 5}"#, r#"{"key""#, "[]"] {
        let (status, code, _) = refusal(&server, "/v3/kv/range", garbage);
        assert_eq!((status, code), (400, 3), "{garbage}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let (server, _) = fresh().await;
    assert_eq!(refusal(&server, "/v3/nothing", "{}").0, 404);
    assert_eq!(http(&server.endpoint(), "GET", "/v3/kv/range").status, 501);
    assert_eq!(post(&server.endpoint(), "/v3alpha/kv/range", "{}").status, 404);
}

#[tokio::test]
async fn the_older_prefix_v3beta_is_still_served() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let (server, client) = fresh().await;
    client.put("a", "1").await;
    assert_eq!(call(&server, "/v3beta/kv/range", json!({"key": "YQ=="}))["count"], "1");
}

#[tokio::test]
async fn leases_members_and_maintenance() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let (server, _) = fresh().await;
    let granted = call(&server, "/v3/lease/grant", json!({"TTL": "100", "ID": "5"}));
    assert_eq!((&granted["ID"], &granted["TTL"]), (&json!("5"), &json!("100")));
    for path in ["/v3/lease/leases", "/v3/kv/lease/leases"] {
        assert_eq!(call(&server, path, json!({}))["leases"], json!([{"ID": "5"}]));
    }
    let renewed = call(&server, "/v3/lease/keepalive", json!({"ID": "5"}));
    assert_eq!(renewed["result"]["TTL"], "100");
    let status = call(&server, "/v3/maintenance/status", json!({}));
    assert_eq!(status["version"], server_version());
    let members = call(&server, "/v3/cluster/member/list", json!({}));
    assert_eq!(members["members"][0]["peerURLs"], json!([server.peer_url()]));
    assert!(
        call(&server, "/v3/maintenance/hash", json!({}))["hash"].is_u64(),
        "32-bit numbers are numbers"
    );
}

#[tokio::test]
async fn a_watch_streams_one_result_per_line() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let (server, client) = fresh().await;
    client.put("a", "1").await;
    let mut stream = TcpStream::connect(server.endpoint()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let body = r#"{"create_request": {"key": "YQ==", "start_revision": "2"}}"#;
    let head = format!(
        "POST /v3/watch HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let (mut seen, mut buffer, started) = (String::new(), [0; 4096], Instant::now());
    while !seen.contains("\"MQ==\"") {
        assert!(started.elapsed() < PATIENCE, "no event in {seen:?}");
        let count = stream.read(&mut buffer).unwrap_or(0);
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    let results: Vec<Value> = seen
        .lines()
        .filter(|line| line.starts_with("{\"result\""))
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert_eq!(results[0]["result"]["created"], true);
    assert_eq!(results[1]["result"]["events"][0]["kv"]["key"], "YQ==");
}

#[tokio::test]
async fn the_gateway_can_be_switched_off() {
    if !is_reference() {
        return println!("skipped: needs the JSON gateway, not there yet");
    }
    let server = Server::start(&["--enable-grpc-gateway=false"]).await;
    assert_eq!(
        post(&server.endpoint(), "/v3/kv/range", r#"{"key": "YQ=="}"#).status,
        404
    );
    assert_eq!(http(&server.endpoint(), "GET", "/health").status, 200);
}
