use super::server::TestServer;
use super::{ask, dial, eventually, read_to_close};
use net::io::ShardLimits;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

#[test]
fn one_connection_serves_get_head_and_post_one_after_another() {
    let server = TestServer::start(1);
    let mut client = dial(server.address);
    let answer = ask(
        &mut client,
        "GET /health?x=1 HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /health?x=1\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/plain; charset=utf-8\r\n"),
        "{answer}"
    );
    let head = ask(&mut client, "HEAD /health HTTP/1.1\r\nhost: a\r\n\r\n", "\r\n\r\n");
    assert!(
        head.contains("content-length: 13\r\n") && head.ends_with("\r\n\r\n"),
        "a HEAD has no body: {head}"
    );
    let post = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    assert!(ask(&mut client, post, "hello").contains("content-length: 5\r\n"));
    let later = ask(&mut client, "GET /later HTTP/1.1\r\nhost: a\r\n\r\n", "later\n");
    assert!(later.starts_with("HTTP/1.1 200 OK\r\n"), "{later}");
    assert_eq!(server.seen[0].http1.load(Ordering::SeqCst), 4);
}

#[test]
fn a_request_that_arrives_byte_by_byte_is_understood() {
    let server = TestServer::start(1);
    let mut client = dial(server.address);
    // It begins as the HTTP/2 preface does.
    for byte in b"PRI /a HTTP/1.1\r\nhost: a\r\n\r" {
        client.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let answer = ask(&mut client, "\n", "\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn a_body_past_the_bound_is_refused() {
    let limits = ShardLimits {
        http1_body_bytes_max: 1000,
        ..ShardLimits::default()
    };
    let server = TestServer::start_with(1, limits, 10);
    for (len, status) in [(1000, "200 OK"), (1001, "413 Payload Too Large")] {
        let mut client = dial(server.address);
        let request = format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {len}\r\n\r\n{}",
            "z".repeat(len)
        );
        let answer = ask(&mut client, &request, "\r\n\r\n");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{len}: {answer}");
    }
}

#[test]
fn a_streamed_answer_waits_for_a_slow_reader_and_ends_when_it_goes_away() {
    let server = TestServer::start(1);
    let seen = &server.seen[0];
    let mut client = dial(server.address);
    ask(&mut client, "GET /endless HTTP/1.1\r\nhost: a\r\n\r\n", "yyyy");
    // It pauses when its count stands still for a while.
    let mut last = 0;
    while last != seen.big_bytes.load(Ordering::SeqCst) {
        last = seen.big_bytes.load(Ordering::SeqCst);
        assert!(
            last < 64 << 20,
            "{last} bytes were written for a client that does not read"
        );
        thread::sleep(Duration::from_millis(100));
    }
    drop(client);
    eventually("the writer learns that the client is gone", || {
        seen.streams_abandoned.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn silence_and_half_requests_are_cut_after_the_header_timeout_and_long_answers_are_not() {
    let limits = ShardLimits {
        header_timeout: Duration::from_millis(1500),
        ..ShardLimits::default()
    };
    let server = TestServer::start_with(1, limits, 10);
    let mut streaming = dial(server.address);
    ask(&mut streaming, "GET /endless HTTP/1.1\r\nhost: a\r\n\r\n", "yyyy");
    let half = [
        "",
        "PRI * HT",
        "GET / HT",
        "GET / HTTP/1.1\r\nhost: a\r\n",
        "POST /echo HTTP/1.1\r\ncontent-length: 9\r\n\r\nx",
    ];
    let mut clients: Vec<_> = half.iter().map(|text| (text, dial(server.address))).collect();
    for (text, client) in &mut clients {
        client.write_all(text.as_bytes()).unwrap();
    }
    for (text, client) in &mut clients {
        let took = read_to_close(client);
        assert!(took < Duration::from_secs(8), "{text:?} was cut after {took:?}");
    }
    ask(&mut streaming, "", "yyyy");
    let mut polite = dial(server.address);
    ask(&mut polite, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /\n");
}

#[test]
fn a_shutdown_lets_the_running_request_finish_and_closes_idle_connections() {
    let mut server = TestServer::start(1);
    let mut idle = dial(server.address);
    ask(&mut idle, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /\n");
    let mut silent = dial(server.address);
    let mut running = dial(server.address);
    running.write_all(b"GET /later HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    eventually("the request runs", || server.seen[0].http1.load(Ordering::SeqCst) == 2);
    let answer = thread::spawn(move || ask(&mut running, "", "later\n"));
    server.stop();
    assert!(answer.join().expect("an answer").starts_with("HTTP/1.1 200 OK"));
    read_to_close(&mut idle);
    read_to_close(&mut silent);
}
