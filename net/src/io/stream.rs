//! One connected TCP socket, bound to the executor it was made on.

use super::listen::Accepted;
use glommio::GlommioError;
use glommio::net::TcpStream;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use socket2::{SockRef, TcpKeepalive};

/// A connected socket; reads and writes try the system call first and wait only when it would block.
pub struct Stream {
    tcp: TcpStream,
}

/// Ends a connection that somebody else reads from, who then comes to its end.
pub struct Ender {
    socket: socket2::Socket,
}

impl Ender {
    /// Ends the connection, in both directions. What has come and was not read is still read.
    pub fn end(&self) {
        // It fails when the connection has ended by itself.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Connects to an address, without delay of small writes.
///
/// Errors: of the system call, or `TimedOut`.
pub async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Stream> {
    let tcp = TcpStream::connect_timeout(address, timeout).await.map_err(io_error)?;
    tcp.set_nodelay(true).map_err(io_error)?;
    Ok(Stream { tcp })
}

impl Stream {
    /// Binds an accepted socket to the current executor.
    pub fn adopt(accepted: Accepted) -> Stream {
        Stream {
            tcp: TcpStream::from(socket2::Socket::from(accepted.socket)),
        }
    }

    pub(super) fn from_tcp(tcp: TcpStream) -> Stream {
        Stream { tcp }
    }

    /// Gives up on the connection when the other machine acknowledges nothing for this long; it is asked when there is
    /// nothing to write. Bounds: whole seconds, at least two.
    pub fn set_silence_max(&self, span: Duration) -> io::Result<()> {
        let ask = TcpKeepalive::new()
            .with_time(span / 2)
            .with_interval(Duration::from_secs(1));
        let socket = SockRef::from(&self.tcp);
        socket.set_tcp_user_timeout(Some(span))?;
        socket.set_tcp_keepalive(&ask)
    }

    /// Reads what there is, at most `buf.len()` bytes; 0 at the end of the stream.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// The polling form of [`read`](Self::read).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }

    /// Writes some of `bytes`; when the socket is full, the task of `cx` is woken once it has room.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    /// Ends our half of the stream, so that the peer reads to the end of what was written.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        socket2::SockRef::from(&self.tcp).shutdown(Shutdown::Write)
    }

    /// What others can end the connection by.
    ///
    /// Errors: the process has no file descriptor left.
    pub fn ender(&self) -> io::Result<Ender> {
        let socket = socket2::SockRef::from(&self.tcp).try_clone()?;
        Ok(Ender { socket })
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr().map_err(io_error)
    }
}

fn io_error(error: GlommioError<()>) -> io::Error {
    io::Error::from(error)
}
