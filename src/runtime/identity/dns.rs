//! A look-up of SRV records: the servers of a resolv.conf, one after the other, over UDP and, where the answer does not
//! fit, over TCP. Blocking; the system's own resolver knows addresses only.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE, rdata::RData};

/// Where DNS servers listen.
const PORT: u16 = 53;
/// Longest answer over UDP: nothing larger was asked for. Units: bytes.
const UDP_BYTES_MAX: usize = 4096;
/// Servers that are tried. Source: resolv.conf(5), MAXNS.
const SERVERS_MAX: usize = 3;
/// Longest time-out a resolv.conf may ask for. Units: seconds. Source: resolv.conf(5).
const TIMEOUT_S_MAX: u64 = 30;
/// Most rounds it may ask for. Source: resolv.conf(5).
const ATTEMPTS_MAX: u64 = 5;

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Srv {
    /// The lowest comes first.
    pub priority: u16,
    /// The host, without a dot at its end.
    pub target: String,
    /// Its port.
    pub port: u16,
}

/// Whom to ask, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    timeout: Duration,
    attempts: u64,
    dots: usize,
}

/// Why there is no answer; the texts are those of Go's resolver.
#[derive(Debug)]
pub struct LookupError {
    name: String,
    server: SocketAddr,
    why: Failure,
}

#[derive(Debug)]
enum Failure {
    /// The name does not exist, or has no such records.
    NoSuchHost,
    Refused(RCODE),
    Nonsense,
    Io(io::Error),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lookup {} on {}: ", self.name, self.server)?;
        match &self.why {
            Failure::NoSuchHost => f.write_str("no such host"),
            Failure::Refused(code) => write!(f, "server misbehaving ({code:?})"),
            Failure::Nonsense => f.write_str("cannot unmarshal DNS message"),
            Failure::Io(error) => write!(f, "{error}"),
        }
    }
}

impl Resolver {
    /// As that file says; without it, the server of this machine. Source: resolv.conf(5).
    pub fn from_file(path: &Path) -> Resolver {
        Resolver::parse(&std::fs::read_to_string(path).unwrap_or_default())
    }

    fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver {
            servers: Vec::new(),
            search: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            dots: 1,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().and_then(server)),
                Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| resolver.set(word)),
                _ => {}
            }
        }
        resolver.servers.truncate(SERVERS_MAX);
        if resolver.servers.is_empty() {
            resolver.servers.push(SocketAddr::from(([127, 0, 0, 1], PORT)));
        }
        resolver
    }

    fn set(&mut self, option: &str) {
        let Some((name, Ok(value))) = option.split_once(':').map(|(name, value)| (name, value.parse::<u64>())) else {
            return;
        };
        match name {
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, TIMEOUT_S_MAX)),
            "attempts" => self.attempts = value.clamp(1, ATTEMPTS_MAX),
            "ndots" => self.dots = value.min(15) as usize,
            _ => {}
        }
    }

    /// The SRV records of that name, by priority.
    ///
    /// Errors: of the last name that was tried.
    pub fn srv(&self, name: &str) -> Result<Vec<Srv>, LookupError> {
        let mut last = None;
        for name in self.names(name) {
            match self.ask_all(&name) {
                Ok(found) => return Ok(found),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("at least the name itself was tried"))
    }

    /// The name itself and below each domain of the search list; the name first when it has dots enough.
    fn names(&self, name: &str) -> Vec<String> {
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let below = self
            .search
            .iter()
            .map(|domain| format!("{name}.{}", domain.trim_end_matches('.')));
        let mut names: Vec<String> = below.collect();
        let first = name.matches('.').count() >= self.dots;
        names.insert(if first { 0 } else { names.len() }, name.to_owned());
        names
    }

    fn ask_all(&self, name: &str) -> Result<Vec<Srv>, LookupError> {
        let mut last = None;
        for _ in 0..self.attempts {
            for server in &self.servers {
                let error = match ask(*server, name, self.timeout) {
                    Ok(found) if !found.is_empty() => return Ok(found),
                    Ok(_) => Failure::NoSuchHost,
                    Err(why) => why,
                };
                let server = *server;
                let error = LookupError {
                    name: name.to_owned(),
                    server,
                    why: error,
                };
                if matches!(error.why, Failure::NoSuchHost) {
                    return Err(error);
                }
                last = Some(error);
            }
        }
        Err(last.expect("there is a server and an attempt"))
    }
}

/// `ADDRESS` or `[ADDRESS]:PORT`.
fn server(text: &str) -> Option<SocketAddr> {
    if let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        return Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?));
    }
    text.parse::<IpAddr>()
        .ok()
        .map(|address| SocketAddr::new(address, PORT))
}

fn ask(server: SocketAddr, name: &str, timeout: Duration) -> Result<Vec<Srv>, Failure> {
    // Two words of fresh randomness: this id, and the port that the system picks.
    let id = RandomState::new().build_hasher().finish() as u16;
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let subject = Name::new(name).map_err(|_| Failure::NoSuchHost)?;
    query
        .questions
        .push(Question::new(subject, QTYPE::TYPE(TYPE::SRV), CLASS::IN.into(), false));
    let query = query.build_bytes_vec().map_err(|_| Failure::NoSuchHost)?;
    let answer = over_udp(server, &query, id, timeout).map_err(Failure::Io)?;
    match read(&answer, id)? {
        Some(found) => Ok(found),
        None => {
            let answer = over_tcp(server, &query, timeout).map_err(Failure::Io)?;
            read(&answer, id)?.ok_or(Failure::Nonsense)
        }
    }
}

fn over_udp(server: SocketAddr, query: &[u8], id: u16, timeout: Duration) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    // The kernel then drops what comes from elsewhere.
    socket.connect(server)?;
    socket.send(query)?;
    let deadline = Instant::now() + timeout;
    let mut answer = vec![0; UDP_BYTES_MAX];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"));
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut answer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if answer[..len].starts_with(&id.to_be_bytes()) {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

fn over_tcp(server: SocketAddr, query: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], query].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// The SRV records of an answer, or none when it was cut off.
fn read(answer: &[u8], id: u16) -> Result<Option<Vec<Srv>>, Failure> {
    let packet = Packet::parse(answer).map_err(|_| Failure::Nonsense)?;
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return Err(Failure::Nonsense);
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Ok(None);
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Err(Failure::NoSuchHost),
        code => return Err(Failure::Refused(code)),
    }
    let mut found: Vec<Srv> = Vec::new();
    for record in &packet.answers {
        if let RData::SRV(srv) = &record.rdata {
            found.push(Srv {
                priority: srv.priority,
                target: srv.target.to_string().trim_end_matches('.').to_owned(),
                port: srv.port,
            });
        }
    }
    found.sort();
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_manual_says() {
        let resolver = Resolver::parse(
            "# comment\nnameserver 10.0.0.1 # first\nnameserver ::1\nnameserver [127.0.0.1]:5353\nnameserver 10.0.0.4\n\
             search a.example. b.example\noptions timeout:99 attempts:3 ndots:2 rotate\n",
        );
        let servers: Vec<String> = resolver.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "127.0.0.1:5353"]);
        assert_eq!((resolver.timeout, resolver.attempts), (Duration::from_secs(30), 3));
        assert_eq!(resolver.names("x.y"), ["x.y.a.example", "x.y.b.example", "x.y"]);
        assert_eq!(resolver.names("x.y.z")[0], "x.y.z");
        assert_eq!(resolver.names("x."), ["x"]);
        let servers: Vec<String> = Resolver::parse("").servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["127.0.0.1:53"]);
    }

    #[test]
    fn answers_to_other_questions_and_garbage_are_refused() {
        assert!(matches!(read(b"", 1), Err(Failure::Nonsense)));
        assert!(matches!(read(&[0xff; 40], 0xffff), Err(Failure::Nonsense)));
        let reply = |flags| {
            let mut reply = Packet::new_reply(7);
            reply.set_flags(flags);
            reply.build_bytes_vec().expect("an empty answer")
        };
        assert!(matches!(read(&reply(PacketFlag::RESPONSE), 8), Err(Failure::Nonsense)));
        assert!(matches!(read(&reply(PacketFlag::RESPONSE), 7), Ok(Some(found)) if found.is_empty()));
        assert!(matches!(
            read(&reply(PacketFlag::RESPONSE | PacketFlag::TRUNCATION), 7),
            Ok(None)
        ));
    }
}
