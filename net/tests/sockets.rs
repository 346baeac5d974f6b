//! The sockets, met by foreign clients, hostile ones and slow ones.

#[path = "sockets/server.rs"]
mod server;

#[path = "sockets/foreign.rs"]
mod foreign;
#[path = "sockets/hostile.rs"]
mod hostile;
#[path = "sockets/http1.rs"]
mod http1;
#[path = "sockets/http2.rs"]
mod http2;
#[path = "sockets/listening.rs"]
mod listening;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything that happens at all on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

/// Sends `request` and reads until the answer holds `until`; returns all of it.
fn ask(stream: &mut TcpStream, request: &str, until: &str) -> String {
    stream.write_all(request.as_bytes()).expect("the server reads");
    let (mut text, mut buf) = (String::new(), [0; 4096]);
    while !text.contains(until) {
        let n = stream.read(&mut buf).expect("the server answers");
        assert!(n > 0, "closed after {text:?}");
        text.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
    text
}

/// Reads to the end of the stream, however it ends, and says how long that took.
fn read_to_close(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                panic!("the server did not close within {PATIENCE:?}")
            }
            Err(_) => break,
        }
    }
    start.elapsed()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
