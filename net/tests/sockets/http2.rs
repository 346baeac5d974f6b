use super::dial;
use super::server::{GRACE, TestServer};
use net::grpc::{ClientConn, ClientEvent, Code, Limits, StreamId};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// A client on a blocking socket.
pub struct Client {
    pub wire: ClientConn,
    pub socket: TcpStream,
}

impl Client {
    pub fn dial(server: &TestServer) -> Client {
        Client::with(server, Limits::default())
    }

    pub fn with(server: &TestServer, limits: Limits) -> Client {
        Client {
            wire: ClientConn::new(limits, "http", "test", 0),
            socket: dial(server.address),
        }
    }

    pub fn call(&mut self, path: &str, message: &[u8]) -> StreamId {
        let stream = self.wire.start_call(path, &[]).expect("the connection takes calls");
        self.wire
            .send_last_message(stream, message.len(), |out| out.extend_from_slice(message));
        stream
    }

    pub fn flush(&mut self) {
        while !self.wire.pending_output().is_empty() {
            let n = self.socket.write(self.wire.pending_output()).expect("the server reads");
            self.wire.advance_output(n);
        }
    }

    /// The next event; `None` when the server has closed.
    pub fn next(&mut self) -> Option<ClientEvent> {
        let mut buf = [0; 16 << 10];
        loop {
            self.flush();
            if let Some(event) = self.wire.next_event() {
                return Some(event);
            }
            match self.socket.read(&mut buf) {
                Ok(0) => return None,
                Ok(n) => self.wire.receive(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no event: {error}"),
            }
        }
    }

    /// Waits for the end of a call and returns its messages' bytes and its code.
    pub fn finish(&mut self, call: StreamId) -> (Vec<u8>, Code) {
        let mut body = Vec::new();
        loop {
            match self.next().expect("the server does not close") {
                ClientEvent::Message { stream, message } if stream == call => body.extend_from_slice(&message),
                ClientEvent::End { stream, status } if stream == call => return (body, status.code),
                _ => {}
            }
        }
    }
}

#[test]
fn calls_are_answered_within_the_turn_and_from_outside_of_it() {
    let server = TestServer::start(1);
    let mut client = Client::dial(&server);
    for path in ["/test/echo", "/test/late"] {
        let calls: Vec<_> = (0..100)
            .map(|n| client.call(path, format!("{path} {n}").as_bytes()))
            .collect();
        client.flush();
        let mut answers = std::collections::BTreeMap::new();
        let mut ended = 0;
        while ended < calls.len() {
            match client.next().expect("open") {
                ClientEvent::Message { stream, message } => drop(answers.insert(stream, message)),
                ClientEvent::End { status, .. } => {
                    assert_eq!(status.code, Code::Ok);
                    ended += 1;
                }
                _ => {}
            }
        }
        for (n, call) in calls.iter().enumerate() {
            assert_eq!(answers[call], format!("{path} {n}").as_bytes());
        }
    }
    let (messages, turns) = (server.total(|seen| &seen.messages), server.total(|seen| &seen.turns));
    assert!(
        messages == 200 && turns < 150,
        "{messages} messages came in {turns} turns: they are not batched"
    );
}

#[test]
fn a_long_answer_arrives_whole_and_in_pieces() {
    let server = TestServer::start(1);
    let limits = Limits {
        message_bytes_max: 64 << 20,
        ..Limits::default()
    };
    let mut client = Client::with(&server, limits);
    let call = client.call("/test/big", b"20000000");
    let (body, code) = client.finish(call);
    assert_eq!((body.len(), code), (20_000_000, Code::Ok));
    assert!(body.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_client_that_never_reads_is_not_buffered_for_and_goes_unharmed() {
    let server = TestServer::start(1);
    let mut client = Client::with(
        &server,
        Limits {
            message_bytes_max: 64 << 20,
            ..Limits::default()
        },
    );
    for _ in 0..20 {
        client.call("/test/big", b"10000000");
    }
    client.flush();
    let seen = &server.seen[0];
    super::eventually("the calls arrive", || seen.messages.load(Ordering::SeqCst) == 20);
    thread::sleep(Duration::from_millis(300));
    let written = seen.big_bytes.load(Ordering::SeqCst);
    assert!(
        written < 40 << 20,
        "{written} bytes of 200 MB were made for a client that does not read"
    );
    let mut other = Client::dial(&server);
    let call = other.call("/test/echo", b"hello");
    assert_eq!(other.finish(call), (b"hello".to_vec(), Code::Ok));
    // Once it reads it gets everything.
    let (mut ended, mut bytes) = (0, 0);
    while ended < 20 {
        match client.next().expect("open") {
            ClientEvent::Message { message, .. } => bytes += message.len(),
            ClientEvent::End { .. } => ended += 1,
            _ => {}
        }
    }
    assert_eq!(bytes, 200_000_000);
}

#[test]
fn a_shutdown_says_goaway_waits_for_open_calls_and_cuts_them_after_the_grace() {
    let mut server = TestServer::start(2);
    let mut idle = Client::dial(&server);
    let call = idle.call("/test/echo", b"hello");
    idle.finish(call);
    let mut busy = Client::dial(&server);
    busy.call("/test/never", b"hello");
    busy.flush();
    super::eventually("the call arrives", || server.total(|seen| &seen.messages) == 2);
    let stopping = thread::spawn(move || {
        let start = Instant::now();
        server.stop();
        (
            start.elapsed(),
            server.total(|seen| &seen.opened),
            server.total(|seen| &seen.closed),
        )
    });
    let mut told = false;
    while let Some(event) = idle.next() {
        told |= matches!(event, ClientEvent::GoAway);
    }
    assert!(told, "an idle client is told before the close");
    while busy.next().is_some() {}
    let (took, opened, closed) = stopping.join().expect("the shutdown panicked");
    assert_eq!((opened, closed), (2, 2));
    assert!(
        took >= GRACE && took < GRACE + Duration::from_secs(5),
        "the open call was cut after {took:?}"
    );
}
