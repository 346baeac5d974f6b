//! What running members tell over HTTP on their peer URLs.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use crate::{config::Url, member::MemberInfo};

/// Longest answer that is read. Units: bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// A cluster as one of its members describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub cluster_id: u64,
    /// Its members, by id.
    pub members: Vec<MemberInfo>,
}

/// Asks one after the other; the first answer counts.
///
/// Errors: what went wrong with the last one.
pub fn ask_any(urls: &[&Url], each_max: Duration) -> Result<Running, String> {
    let mut why = "--initial-cluster names no other member".to_owned();
    for url in urls {
        match ask(url, each_max) {
            Ok(running) => return Ok(running),
            Err(error) => why = format!("{url}: {error}"),
        }
    }
    Err(why)
}

/// GETs the member list from a peer URL.
fn ask(url: &Url, max: Duration) -> Result<Running, String> {
    let text = |error: std::io::Error| error.to_string();
    let deadline = Instant::now() + max;
    let address = (url.host(), url.port()).to_socket_addrs().map_err(text)?.next();
    let mut stream = TcpStream::connect_timeout(&address.ok_or("no address")?, max).map_err(text)?;
    let host = url.as_str().split_once("://").map_or("", |(_, host)| host);
    let request = format!("GET /members HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.set_write_timeout(Some(max)).map_err(text)?;
    stream.write_all(request.as_bytes()).map_err(text)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while answer.len() as u64 <= ANSWER_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no answer in time".into());
        }
        stream.set_read_timeout(Some(left)).map_err(text)?;
        match stream.read(&mut piece) {
            Ok(0) => return parse(&answer),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("its answer is longer than {ANSWER_BYTES_MAX} bytes"))
}

fn parse(answer: &[u8]) -> Result<Running, String> {
    let answer = std::str::from_utf8(answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("its answer is cut off")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("it answered {status:?}"));
    }
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("X-Etcd-Cluster-ID")
            .then(|| value.trim().to_owned())
    };
    let cluster = head.lines().find_map(header).ok_or("it names no cluster id")?;
    let cluster_id = u64::from_str_radix(&cluster, 16).map_err(|error| error.to_string())?;
    let members: Vec<MemberInfo> = serde_json::from_str(body.trim()).map_err(|error| error.to_string())?;
    if members.is_empty() {
        return Err("it knows no members yet".into());
    }
    Ok(Running { cluster_id, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_member_tells_cluster_and_members() {
        let answer = "HTTP/1.1 200 OK\r\nx-etcd-cluster-id: cdf818194e3a8c32\r\n\r\n[{\"id\":1,\"peerURLs\":[\"http://a:1\"]}]\n";
        let running = parse(answer.as_bytes()).unwrap();
        assert_eq!(running.cluster_id, 0xcdf8_1819_4e3a_8c32);
        assert_eq!(
            (running.members[0].id, running.members[0].peer_urls[0].as_str()),
            (1, "http://a:1")
        );
        assert!(parse(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nX-Etcd-Cluster-ID: 1\r\n\r\n[]").is_err());
        assert!(parse(b"junk").is_err());
    }
}
