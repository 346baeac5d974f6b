//! A blocking client of an etcd, for the start: our own gRPC over a plain socket, one call at a time.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use net::grpc::{ClientConn, ClientEvent, Code, Limits, StreamId};
use prost::Message;

use crate::config::Discovery;

/// A server may take pings that come faster for an attack. Source: grpc-go's minimum.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);
/// A wait looks up this often to see whether the server is to stop.
const LOOK_UP: Duration = Duration::from_millis(250);

/// The endpoints, and the connection to one of them while it is good.
pub struct Client<'a> {
    service: &'a Discovery,
    stop: &'a AtomicBool,
    turn: usize,
    conn: Option<Conn>,
}

struct Conn {
    stream: TcpStream,
    wire: ClientConn,
    since: Instant,
}

impl<'a> Client<'a> {
    /// Not connected yet; `stop` ends every wait.
    pub fn new(service: &'a Discovery, stop: &'a AtomicBool) -> Client<'a> {
        Client {
            service,
            stop,
            turn: 0,
            conn: None,
        }
    }

    /// One request, one answer.
    ///
    /// Errors: the connection is closed then, and the next call goes to the next endpoint.
    pub fn call<A: Message + Default>(&mut self, path: &str, request: &impl Message) -> Result<A, String> {
        let deadline = Instant::now() + self.service.request_timeout;
        let answer = self.run(path, request, true, Some(deadline), |_| true);
        answer.and_then(|message| A::decode(message).map_err(|error| error.to_string()))
    }

    /// One request, and the first answer that `wanted` wants; waits without end.
    ///
    /// Errors: as for [`call`](Self::call).
    pub fn wait_for(
        &mut self,
        path: &str,
        request: &impl Message,
        wanted: impl Fn(&Bytes) -> bool,
    ) -> Result<Bytes, String> {
        self.run(path, request, false, None, wanted)
    }

    fn run(
        &mut self,
        path: &str,
        request: &impl Message,
        last: bool,
        deadline: Option<Instant>,
        wanted: impl Fn(&Bytes) -> bool,
    ) -> Result<Bytes, String> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect()?,
        };
        let stream = conn
            .wire
            .start_call(path, &[])
            .ok_or("the server takes no more calls")?;
        let len = request.encoded_len();
        let write = |out: &mut bytes::BytesMut| request.encode(out).expect("a buffer grows");
        match last {
            true => conn.wire.send_last_message(stream, len, write),
            false => conn.wire.send_message(stream, len, write),
        }
        let answer = self.await_message(&mut conn, stream, deadline, wanted);
        match answer {
            Ok((answer, over)) => {
                if !over {
                    conn.wire.cancel(stream);
                }
                self.conn = Some(conn);
                Ok(answer)
            }
            Err(error) => {
                self.turn += 1;
                Err(error)
            }
        }
    }

    /// The message, and whether the call has ended with it.
    fn await_message(
        &self,
        conn: &mut Conn,
        stream: StreamId,
        deadline: Option<Instant>,
        wanted: impl Fn(&Bytes) -> bool,
    ) -> Result<(Bytes, bool), String> {
        let mut found = None;
        loop {
            while let Some(event) = conn.wire.next_event() {
                match event {
                    ClientEvent::Message { stream: of, message } if of == stream && found.is_none() => {
                        found = wanted(&message).then_some(message);
                        if deadline.is_none()
                            && let Some(message) = found.take()
                        {
                            return Ok((message, false));
                        }
                    }
                    ClientEvent::End { stream: of, status, .. } if of == stream => {
                        return match (status.code, found) {
                            (Code::Ok, Some(message)) => Ok((message, true)),
                            (code, _) => Err(format!("rpc error: code = {code:?} desc = {}", status.message)),
                        };
                    }
                    _ => {}
                }
            }
            if self.stop.load(Ordering::SeqCst) {
                return Err("the server is told to stop".into());
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err("context deadline exceeded".into());
            }
            conn.turn().map_err(|error| error.to_string())?;
        }
    }

    fn connect(&mut self) -> Result<Conn, String> {
        let endpoints = &self.service.endpoints;
        let endpoint = &endpoints[self.turn % endpoints.len()];
        let conn = connect(endpoint, self.service).map_err(|error| format!("{endpoint}: {error}"));
        if conn.is_err() {
            self.turn += 1;
        }
        conn
    }
}

fn connect(endpoint: &str, service: &Discovery) -> io::Result<Conn> {
    let authority = endpoint.trim_start_matches("http://").trim_end_matches('/');
    let address = authority.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other("the host name has no address"))?;
    let stream = TcpStream::connect_timeout(&address, service.dial_timeout)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(service.request_timeout))?;
    let limits = Limits {
        message_bytes_max: u32::MAX,
        keepalive_interval_ns: service.keepalive_time.max(PING_INTERVAL_MIN).as_nanos() as u64,
        keepalive_timeout_ns: service.keepalive_timeout.as_nanos() as u64,
        ..Limits::default()
    };
    Ok(Conn {
        stream,
        wire: ClientConn::new(limits, "http", authority, 0),
        since: Instant::now(),
    })
}

impl Conn {
    /// Writes what is there to write, then waits a little for something to read.
    fn turn(&mut self) -> io::Result<()> {
        self.wire.on_time(self.since.elapsed().as_nanos() as u64);
        while !self.wire.pending_output().is_empty() {
            let written = self.stream.write(self.wire.pending_output())?;
            self.wire.advance_output(written);
        }
        if self.wire.is_done() {
            return Err(io::Error::other(format!(
                "the connection ended: {:?}",
                self.wire.close_reason()
            )));
        }
        self.stream.set_read_timeout(Some(LOOK_UP))?;
        let mut buf = [0; 16 << 10];
        match self.stream.read(&mut buf) {
            Ok(0) => self.wire.hang_up(),
            Ok(read) => self.wire.receive(&buf[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
