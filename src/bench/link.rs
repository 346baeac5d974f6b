//! A socket and the session on it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use mio::net::TcpStream;

use super::BenchError;
use super::session::Session;

/// Bytes read at once at most.
pub(super) const READ_BYTES: usize = 256 * 1024;

/// Where a server listens.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) authority: String,
    /// All that the name stands for; the first that answers is taken.
    addresses: Vec<SocketAddr>,
}

impl Endpoint {
    /// Errors: not an address of a plaintext server, or a name that nobody knows.
    pub(super) fn parse(text: &str) -> Result<Endpoint, BenchError> {
        let bad = |why: String| BenchError::Endpoint {
            endpoint: text.to_string(),
            why,
        };
        if text.starts_with("https://") || text.starts_with("unix") {
            return Err(bad("only plaintext TCP is supported; use http://HOST:PORT".to_string()));
        }
        let authority = text.trim_start_matches("http://").trim_end_matches('/').to_string();
        let addresses = authority.to_socket_addrs().map_err(|error| bad(error.to_string()))?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        if addresses.is_empty() {
            return Err(bad("the name has no address".to_string()));
        }
        Ok(Endpoint { authority, addresses })
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: TcpStream,
    pub(super) session: Session,
    /// How much of the session's output the socket has taken.
    sent: usize,
    pub(super) is_alive: bool,
}

impl Link {
    /// Connects, for calls of one path; waits for the TCP handshake.
    pub(super) fn connect(endpoint: &Endpoint, path: &'static str, timeout: Duration) -> io::Result<Link> {
        let stream = connect_any(&endpoint.addresses, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Link {
            stream: TcpStream::from_std(stream),
            session: Session::new(path, &endpoint.authority),
            sent: 0,
            is_alive: true,
        })
    }

    /// Writes what the socket takes.
    #[inline]
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let out = &mut self.session.out;
        while self.sent < out.len() {
            match self.stream.write(&out[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads once; `None` when there is nothing now.
    ///
    /// Errors: the end of the stream, too.
    #[inline]
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server")),
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Errors: that of the last address.
fn connect_any(addresses: &[SocketAddr], timeout: Duration) -> io::Result<std::net::TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match std::net::TcpStream::connect_timeout(address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
