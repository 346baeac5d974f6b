//! A DNS server that knows a few SRV records, over UDP and TCP on one port of the loopback interface.

use std::{
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    thread,
};

use simple_dns::{
    CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord,
    rdata::{RData, SRV},
};

/// SRV records of one name: the name, and targets with their ports.
pub type Records = (String, Vec<(String, u16)>);

/// Serves until the test ends; what to write into a resolv.conf. Over UDP every answer is cut off when `cut` says so.
pub fn serve(records: Vec<Records>, cut: bool) -> String {
    let (udp, tcp) = sockets();
    let address = udp.local_addr().expect("it is bound");
    let over_udp = records.clone();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = udp.recv_from(&mut query) {
            let _ = udp.send_to(&answer(&query[..len], &over_udp, cut), from);
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.expect("a connection");
            let mut len = [0; 2];
            stream.read_exact(&mut len).expect("a length");
            let mut query = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut query).expect("a query");
            let answer = answer(&query, &records, false);
            let len = u16::try_from(answer.len()).expect("a short answer");
            stream
                .write_all(&[&len.to_be_bytes()[..], &answer].concat())
                .expect("it is read");
        }
    });
    format!("nameserver [{}]:{}\noptions timeout:1\n", address.ip(), address.port())
}

fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        // Another program may have the same port for TCP.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("it is bound")) {
            return (udp, tcp);
        }
    }
}

fn answer(query: &[u8], records: &[Records], cut: bool) -> Vec<u8> {
    let query = Packet::parse(query).expect("a query");
    let wanted = query.questions[0].qname.to_string();
    let mut reply = Packet::new_reply(query.id());
    reply.questions = query.questions.clone();
    reply.set_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_AVAILABLE);
    match records.iter().find(|(name, _)| *name == wanted) {
        None => *reply.rcode_mut() = RCODE::NameError,
        Some(_) if cut => reply.set_flags(PacketFlag::TRUNCATION),
        Some((name, targets)) => {
            for (target, port) in targets {
                let srv = SRV {
                    priority: 10,
                    weight: 0,
                    port: *port,
                    target: Name::new_unchecked(target),
                };
                let name = Name::new_unchecked(name);
                reply
                    .answers
                    .push(ResourceRecord::new(name, CLASS::IN, 60, RData::SRV(srv)));
            }
        }
    }
    reply.build_bytes_vec().expect("a short answer")
}
