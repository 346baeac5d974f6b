use super::server::TestServer;
use super::{ask, dial, eventually};
use net::io::{ListenError, Listener};
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

#[test]
fn a_port_in_use_is_refused_with_its_address_and_what_to_do() {
    let first = Listener::bind("127.0.0.1:0", 0).unwrap();
    let address = first.local_addr();
    let error = Listener::bind(&address.to_string(), 0).unwrap_err();
    let port = address.port();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on 127.0.0.1:{port}: address already in use; find the process with \"ss -ltnp 'sport = :{port}'\" and \
             stop it, or choose another address"
        )
    );
    drop(first);
    Listener::bind(&address.to_string(), 0).expect("the port is free again");
}

#[test]
fn a_port_that_another_server_would_share_is_in_use_all_the_same() {
    let sharing = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    sharing.set_reuse_port(true).unwrap();
    sharing
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    sharing.listen(1).unwrap();
    let sharing = TcpListener::from(sharing);
    let error = Listener::bind(&sharing.local_addr().unwrap().to_string(), 0).unwrap_err();
    assert!(matches!(error, ListenError::InUse { .. }), "{error}");
}

#[test]
fn addresses_without_meaning_or_interface_are_refused_with_a_remedy() {
    let text = |address| Listener::bind(address, 0).unwrap_err().to_string();
    assert_eq!(
        text("nonsense"),
        "cannot listen on nonsense: invalid socket address; give an IP address and a port, like 127.0.0.1:2379 or [::1]:2379"
    );
    assert_eq!(
        text("192.0.2.1:0"),
        "cannot listen on 192.0.2.1:0: this machine has no interface with that address; see 'ip address', or listen on all \
         with 0.0.0.0 or [::]"
    );
}

#[test]
fn host_names_and_ipv6_addresses_are_listened_on() {
    assert!(
        Listener::bind("localhost:0", 0)
            .unwrap()
            .local_addr()
            .ip()
            .is_loopback()
    );
    match Listener::bind("[::1]:0", 0) {
        Ok(listener) => assert!(listener.local_addr().is_ipv6()),
        Err(error) => println!("skipped: needs IPv6 ({error})"),
    }
}

#[test]
fn a_restart_binds_beside_connections_of_the_last_run_that_linger() {
    let mut server = TestServer::start(1);
    let mut client = dial(server.address);
    ask(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /\n");
    server.stop();
    Listener::bind(&server.address.to_string(), 0).expect("a restart needs no pause");
}

#[test]
fn connections_are_handed_to_the_least_loaded_of_two_executors() {
    let server = TestServer::start(2);
    let mut clients: Vec<_> = (0..10).map(|_| dial(server.address)).collect();
    for client in &mut clients {
        ask(client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /\n");
    }
    let loads = || server.intakes.iter().map(|intake| intake.load()).collect::<Vec<_>>();
    assert_eq!(loads(), [5, 5]);
    let served: Vec<_> = server
        .seen
        .iter()
        .map(|seen| seen.http1.load(Ordering::SeqCst))
        .collect();
    assert_eq!(served, [5, 5], "each executor serves what it was handed");
    // The gap that a leaving client makes is filled by the next.
    clients.truncate(6);
    eventually("the closed connections are noticed", || {
        loads().iter().sum::<usize>() == 6
    });
    for _ in 0..4 {
        let mut client = dial(server.address);
        ask(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /\n");
        clients.push(client);
    }
    assert_eq!(loads(), [5, 5]);
}

#[test]
fn connections_past_the_bound_wait_until_another_ends() {
    let server = TestServer::start_with(1, Default::default(), 2);
    let mut clients: Vec<_> = (0..2).map(|_| dial(server.address)).collect();
    for client in &mut clients {
        ask(client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET /\n");
    }
    let mut third = dial(server.address);
    third.write_all(b"GET /third HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(150));
    assert_eq!(server.intakes[0].load(), 2);
    drop(clients.pop());
    ask(&mut third, "", "GET /third\n");
}
