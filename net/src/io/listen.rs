//! Listening: one exclusive socket and one accepting thread per address.
//!
//! SO_REUSEPORT would hide that a port is in use and would spread few long connections unevenly, so one acceptor hands
//! sockets to the shard that has the fewest (ADR 5). It is a thread of its own, in a blocking accept, that does nothing
//! between connections; a busy or stalled executor does not keep clients from connecting.

use super::intake::Intake;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Connections that the kernel completes ahead of `accept`.
const BACKLOG: i32 = 4096;

/// How long to wait for a free descriptor or connection slot before looking again.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Time without traffic after which the kernel asks whether the peer is still there.
///
/// Source: etcd's keepalive listener, 30 s.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is no `host:port`, or the host has no address.
    #[error("cannot listen on {address}: {error}; give an IP address and a port, like 127.0.0.1:2379 or [::1]:2379")]
    Resolve {
        /// As given.
        address: String,
        /// Why it has no meaning.
        error: io::Error,
    },
    /// Another socket listens there.
    #[error(
        "cannot listen on {address}: address already in use; find the process with \"ss -ltnp 'sport = :{}'\" and stop it, or \
         choose another address",
        address.port()
    )]
    InUse {
        /// The address wanted.
        address: SocketAddr,
    },
    /// No interface has that address.
    #[error(
        "cannot listen on {address}: this machine has no interface with that address; see 'ip address', or listen on all \
         with 0.0.0.0 or [::]"
    )]
    NotLocal {
        /// The address wanted.
        address: SocketAddr,
    },
    /// The port is reserved.
    #[error(
        "cannot listen on {address}: ports below 1024 need the capability CAP_NET_BIND_SERVICE; grant it or choose a \
         higher port"
    )]
    Denied {
        /// The address wanted.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {error}")]
    Other {
        /// The address wanted.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

impl ListenError {
    fn at(address: SocketAddr, error: io::Error) -> ListenError {
        match error.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address },
            io::ErrorKind::AddrNotAvailable => ListenError::NotLocal { address },
            io::ErrorKind::PermissionDenied => ListenError::Denied { address },
            _ => ListenError::Other { address, error },
        }
    }
}

/// A bound socket that no other process can share.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tag: u32,
}

/// A connection that no executor has taken yet.
#[derive(Debug)]
pub struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) tag: u32,
}

/// The accepting threads of a server; they end with [`stop`](Acceptor::stop) or when this is dropped.
#[derive(Debug)]
pub struct Acceptor {
    stopping: Arc<AtomicBool>,
    threads: Vec<(Arc<Listener>, JoinHandle<()>)>,
}

impl Listener {
    /// Listens on `host:port`; a host name is resolved and its first IPv4 address preferred. Port 0 picks a free one.
    /// `tag` comes back in each connection's [`ConnInfo`](super::ConnInfo), to tell the server's addresses apart.
    ///
    /// Errors: [`ListenError`], `InUse` also when the other socket would share the port.
    pub fn bind(address: &str, tag: u32) -> Result<Listener, ListenError> {
        let listener = Listener::reserve(address, tag)?;
        listener.listen()?;
        Ok(listener)
    }

    /// As [`bind`](Self::bind), but whoever connects is turned away until an [`Acceptor`] takes over.
    pub fn reserve(address: &str, tag: u32) -> Result<Listener, ListenError> {
        let wanted = resolve(address).map_err(|error| ListenError::Resolve {
            address: address.to_owned(),
            error,
        })?;
        let explain = |error: io::Error| ListenError::at(wanted, error);
        let socket = open(wanted).map_err(explain)?;
        let address = socket.local_addr().map_err(explain)?;
        Ok(Listener { socket, address, tag })
    }

    fn listen(&self) -> Result<(), ListenError> {
        let listened = SockRef::from(&self.socket).listen(BACKLOG);
        listened.map_err(|error| ListenError::at(self.address, error))
    }

    /// The address, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> io::Result<Accepted> {
        let (socket, peer) = self.socket.accept()?;
        // A peer that is gone already makes these fail; reading from the socket will tell.
        let _ = socket.set_nodelay(true);
        let _ = SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE));
        Ok(Accepted {
            socket,
            peer,
            tag: self.tag,
        })
    }
}

impl Acceptor {
    /// Starts accepting. Each socket goes to the shard with the fewest connections; while all shards together have
    /// `connections_max`, further ones wait in the kernel.
    ///
    /// Errors: when a thread cannot be started, or an address that was only reserved cannot be listened on.
    pub fn start(listeners: Vec<Listener>, shards: Vec<Intake>, connections_max: usize) -> io::Result<Acceptor> {
        assert!(!shards.is_empty(), "an acceptor needs a shard to hand connections to");
        let mut acceptor = Acceptor {
            stopping: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        for listener in listeners {
            // One that listens already only hears its backlog again.
            listener.listen().map_err(io::Error::other)?;
            let listener = Arc::new(listener);
            let (own, stopping, shards) = (Arc::clone(&listener), Arc::clone(&acceptor.stopping), shards.clone());
            let thread = thread::Builder::new()
                .name("accept".to_owned())
                .spawn(move || accept_until_stopped(&own, &stopping, &shards, connections_max))?;
            acceptor.threads.push((listener, thread));
        }
        Ok(acceptor)
    }

    /// Stops accepting and closes the listening sockets; connections handed over go on.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for (listener, thread) in self.threads.drain(..) {
            // On Linux this makes a blocked accept return.
            let _ = SockRef::from(&listener.socket).shutdown(Shutdown::Both);
            thread.join().expect("the accepting thread has no code that panics");
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.end();
    }
}

impl Accepted {
    /// The peer's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }
}

fn accept_until_stopped(listener: &Listener, stopping: &AtomicBool, shards: &[Intake], connections_max: usize) {
    while !stopping.load(Ordering::SeqCst) {
        if shards.iter().map(Intake::load).sum::<usize>() >= connections_max {
            thread::sleep(FULL_PAUSE);
            continue;
        }
        match listener.accept() {
            Ok(accepted) => {
                let least = shards
                    .iter()
                    .min_by_key(|shard| shard.load())
                    .expect("checked at start: not empty");
                least.hand_over(accepted);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !stopping.load(Ordering::SeqCst) {
                    tracing::warn!(address = %listener.address, %error, "cannot accept connections, trying again");
                    thread::sleep(FULL_PAUSE);
                }
            }
        }
    }
}

/// Whether the error concerns the connection that was to be accepted, and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::ENETDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH)
    )
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let all: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let first = all.iter().find(|a| a.is_ipv4()).or(all.first());
    first
        .copied()
        .ok_or_else(|| io::Error::other("the host name has no address"))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Only lets a restart bind beside closed connections that linger; two listeners still exclude each other.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
