//! A small HTTP/1.1 client: one request, one connection.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// Headers by lower-case name; a repeated one keeps its last value.
    pub headers: HashMap<String, String>,
    /// The body, unchunked.
    pub body: String,
}

/// Sends one request to `endpoint` (`host:port`) and reads the whole answer.
pub fn http(endpoint: &str, method: &str, path: &str) -> HttpAnswer {
    exchange(endpoint, method, path, "", "")
}

/// GETs with a body and further header lines, each ended by CR LF, and reads the whole answer.
pub fn get_with_body(endpoint: &str, path: &str, headers: &str, body: &str) -> HttpAnswer {
    exchange(endpoint, "GET", path, headers, body)
}

/// Posts a body to the JSON gateway and reads the whole answer.
pub fn post(endpoint: &str, path: &str, body: &str) -> HttpAnswer {
    exchange(endpoint, "POST", path, "", body)
}

/// Sends one request with a body and reads the whole answer.
#[allow(dead_code)] // tests/failpoints.rs needs it
pub fn http_with(endpoint: &str, method: &str, path: &str, body: &str) -> HttpAnswer {
    exchange(endpoint, method, path, "", body)
}

fn exchange(endpoint: &str, method: &str, path: &str, headers: &str, body: &str) -> HttpAnswer {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = TcpStream::connect(endpoint).expect("the server accepts connections");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout can be set");
    stream.write_all(request.as_bytes()).expect("the request can be sent");
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).expect("the answer ends");
    parse(&raw)
}

fn parse(raw: &[u8]) -> HttpAnswer {
    let split = raw
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("the head ends");
    let head = String::from_utf8_lossy(&raw[..split]).into_owned();
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = &raw[split + 4..];
    let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
    let body = if chunked { unchunk(body) } else { body.to_vec() };
    HttpAnswer {
        status: status.expect("the status line has a code"),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line_end = body
            .windows(2)
            .position(|window| window == b"\r\n")
            .expect("a chunk has a size line");
        let size = std::str::from_utf8(&body[..line_end])
            .ok()
            .and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.expect("a chunk size is hexadecimal");
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[line_end + 2..line_end + 2 + size]);
        body = &body[line_end + 2 + size + 2..];
    }
}
