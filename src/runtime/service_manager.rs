//! Tells the service manager that the server is ready, as systemd wants it of units with `Type=notify`.
//!
//! Source: sd_notify(3); etcd tells its readiness the same way, and its unit files rely on it.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The variable that names the service manager's socket.
pub const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Says that the server is ready, if somebody wants to know. `socket`: the value of [`SOCKET_VARIABLE`].
pub fn tell_ready(socket: Option<OsString>) {
    let Some(socket) = socket.filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = tell(&socket, b"READY=1") {
        tracing::error!(?socket, %error, "the service manager cannot be told that the server is ready");
    }
}

fn tell(socket: &OsStr, state: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not listen must not keep the server from serving.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_by_its_path_or_abstractly() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let name = format!("etcore-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).expect("a short name");
        let table = [
            (UnixDatagram::bind(&path), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name), format!("@{name}").into()),
        ];
        for (manager, socket) in table {
            let manager = manager.expect("a new socket");
            tell_ready(Some(socket));
            let mut told = [0; 64];
            let len = manager.recv(&mut told).expect("a message");
            assert_eq!(&told[..len], b"READY=1");
        }
    }

    #[test]
    fn a_manager_that_is_not_there_is_no_obstacle() {
        assert!(tell(OsStr::new("/nonexistent/notify"), b"READY=1").is_err());
        tell_ready(Some("/nonexistent/notify".into()));
        tell_ready(Some("".into()));
        tell_ready(None);
    }
}
