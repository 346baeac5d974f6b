//! Who this member is: what its log says, else what the flags say, else what the cluster it joins says.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use storage::{
    io::Disk,
    wal::{Identity, Wal},
};

use super::{StartError, options::WAL_DIR};
use crate::{
    config::{Config, Url, identity},
    member::{BootError, MemberInfo},
};

/// A member that is asked for the member list gets this long.
const ASK_MAX: Duration = Duration::from_secs(5);
/// Longest answer that is read. Units: bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What a member begins with.
#[derive(Debug)]
pub struct Birth {
    /// Its ids.
    pub identity: Identity,
    /// The first members, or those of the cluster it joins.
    pub members: Vec<MemberInfo>,
    /// It joins a cluster that is there.
    pub joins: bool,
}

/// Finds out who this member is. Blocks; nothing is served yet.
///
/// Errors: the log cannot be read, or no member of the cluster to join gives a fitting answer.
pub fn resolve(config: &Config, disk: &mut dyn Disk) -> Result<Birth, StartError> {
    let known = Wal::identity(disk, WAL_DIR).map_err(|error| StartError::Boot {
        path: config.data_dir.clone(),
        error: BootError::Wal(error),
    })?;
    if let Some(identity) = known.filter(|_| config.force_new_cluster) {
        // The others are gone, and are not to be found again.
        return Ok(Birth {
            identity,
            members: Vec::new(),
            joins: true,
        });
    }
    if config.joins_existing {
        return match (ask_cluster(config), known) {
            (Ok(birth), None) => Ok(birth),
            (Ok(birth), Some(identity)) => Ok(Birth { identity, ..birth }),
            // It knows itself, and the others will find it.
            (Err(_), Some(identity)) => Ok(Birth {
                identity,
                members: Vec::new(),
                joins: true,
            }),
            (Err(error), None) => Err(error),
        };
    }
    let token = &config.initial_cluster.token;
    let member = |(name, urls): (&String, &Vec<Url>)| MemberInfo {
        id: identity::member_id(urls, token),
        peer_urls: urls.iter().map(|url| url.as_str().to_owned()).collect(),
        name: name.clone(),
        ..MemberInfo::default()
    };
    let flags = Identity {
        member_id: config.member_id(),
        cluster_id: config.cluster_id(),
    };
    Ok(Birth {
        identity: known.unwrap_or(flags),
        members: config.initial_cluster.members.iter().map(member).collect(),
        joins: false,
    })
}

/// Asks the other members of `--initial-cluster`, one after the other.
///
/// Source: etcd's bootstrap of a member that joins: the lists must agree, and the ids are the cluster's.
fn ask_cluster(config: &Config) -> Result<Birth, StartError> {
    let own = &config.initial_advertise_peer_urls;
    let others = config.initial_cluster.members.values().flatten();
    let mut why = "--initial-cluster names no other member".to_owned();
    for url in others.filter(|url| !own.contains(url)) {
        match ask(url) {
            Ok((cluster_id, members)) => return choose(config, cluster_id, members),
            Err(error) => why = format!("{url}: {error}"),
        }
    }
    Err(StartError::Join(format!(
        "could not get the member list from any member of --initial-cluster ({why})"
    )))
}

fn choose(config: &Config, cluster_id: u64, members: Vec<MemberInfo>) -> Result<Birth, StartError> {
    if members.len() != config.initial_cluster.members.len() {
        return Err(StartError::Join(format!(
            "error validating peerURLs: member count is unequal: the cluster has {} members and --initial-cluster names {}",
            members.len(),
            config.initial_cluster.members.len()
        )));
    }
    let mut own: Vec<&str> = config.initial_advertise_peer_urls.iter().map(Url::as_str).collect();
    own.sort_unstable();
    let is_own = |member: &&MemberInfo| {
        let mut theirs: Vec<&str> = member.peer_urls.iter().map(String::as_str).collect();
        theirs.sort_unstable();
        theirs == own
    };
    let Some(me) = members.iter().find(is_own) else {
        return Err(StartError::Join(format!(
            "error validating peerURLs: no member of the cluster has the peer URLs {}; add this member first \
             (etcdctl member add)",
            own.join(",")
        )));
    };
    Ok(Birth {
        identity: Identity {
            member_id: me.id,
            cluster_id,
        },
        members,
        joins: true,
    })
}

/// GETs the member list from a peer URL: the cluster's id and its members.
fn ask(url: &Url) -> Result<(u64, Vec<MemberInfo>), String> {
    let text = |error: std::io::Error| error.to_string();
    let host = format!("{}:{}", url.host(), url.port());
    let address = host.to_socket_addrs().map_err(text)?.next().ok_or("no address")?;
    let mut stream = TcpStream::connect_timeout(&address, ASK_MAX).map_err(text)?;
    stream.set_read_timeout(Some(ASK_MAX)).map_err(text)?;
    let request = format!("GET /members HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(text)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<(u64, Vec<MemberInfo>), String> {
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
    let cluster = u64::from_str_radix(&cluster, 16).map_err(|error| error.to_string())?;
    let members = serde_json::from_str(body.trim()).map_err(|error| error.to_string())?;
    Ok((cluster, members))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_member_tells_cluster_and_members() {
        let answer = "HTTP/1.1 200 OK\r\nx-etcd-cluster-id: cdf818194e3a8c32\r\n\r\n[{\"id\":1,\"peerURLs\":[\"http://a:1\"]}]\n";
        let (cluster, members) = parse(answer.as_bytes()).unwrap();
        assert_eq!(cluster, 0xcdf8_1819_4e3a_8c32);
        assert_eq!((members[0].id, members[0].peer_urls[0].as_str()), (1, "http://a:1"));
        assert!(parse(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(parse(b"junk").is_err());
    }
}
