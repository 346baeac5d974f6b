//! Clients that others wrote; each is skipped where it is not installed.

use super::server::TestServer;
use std::process::{Command, Output};

/// Runs a tool; `None`, with a note, when it is not installed.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(_) => {
            println!("skipped: needs {tool}");
            None
        }
    }
}

fn text_of(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn curl_speaks_http1_and_http2_on_the_same_port() {
    let server = TestServer::start(1);
    let url = format!("http://{}/health", server.address);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let arguments = [
            "-sS",
            "--max-time",
            "10",
            version,
            "-w",
            "%{http_version} %{response_code}",
            &url,
        ];
        let Some(output) = run("curl", &arguments) else { return };
        let expected = if version == "--http1.1" {
            "GET /health\n1.1 200"
        } else {
            "GET /health\n2 200"
        };
        assert_eq!(text_of(&output), expected);
    }
    let arguments = [
        "-sS",
        "--max-time",
        "10",
        "--http1.1",
        "-d",
        "abc",
        &format!("http://{}/echo", server.address),
    ];
    assert_eq!(text_of(&run("curl", &arguments).expect("it was there before")), "abc");
}

#[test]
fn nghttp_gets_many_pages_over_one_connection() {
    let server = TestServer::start(1);
    let urls: Vec<_> = (0..20).map(|n| format!("http://{}/page{n}", server.address)).collect();
    let mut arguments = vec!["-t", "10"];
    arguments.extend(urls.iter().map(String::as_str));
    let Some(output) = run("nghttp", &arguments) else {
        return;
    };
    let text = text_of(&output);
    for n in 0..20 {
        assert!(text.contains(&format!("GET /page{n}\n")), "{text}");
    }
    assert_eq!(server.total(|seen| &seen.opened), 1);
}

#[test]
fn h2load_drives_unary_calls_over_many_connections() {
    let server = TestServer::start(2);
    let dir = tempfile::tempdir().unwrap();
    let frame = dir.path().join("frame");
    let mut bytes = vec![0, 0, 0, 1, 10];
    bytes.extend([b'k'; 266]);
    std::fs::write(&frame, bytes).unwrap();
    for path in ["/test/echo", "/test/late"] {
        let before = server.total(|seen| &seen.messages);
        let url = format!("http://{}{path}", server.address);
        let data = frame.to_str().expect("a temporary path in UTF-8");
        let headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
        let load = ["-n", "20000", "-c", "40", "-m", "10", "-t", "1", "-d", data];
        let arguments: Vec<_> = load.iter().chain(&headers).copied().chain([url.as_str()]).collect();
        let Some(output) = run("h2load", &arguments) else {
            return;
        };
        let text = text_of(&output);
        assert!(
            text.contains("20000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{path}: {text}"
        );
        assert_eq!(server.total(|seen| &seen.messages) - before, 20_000);
    }
}
