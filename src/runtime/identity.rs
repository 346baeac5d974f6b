//! Who this member is: what its log says, else what the flags say, else what the cluster it joins says.

use std::time::Duration;

use storage::{
    io::Disk,
    wal::{Identity, Wal},
};

use super::{StartError, options::WAL_DIR, peer_http};
use crate::{
    config::{Config, Url, identity},
    member::{BootError, MemberInfo},
};

/// A member that is asked for the member list gets this long.
const ASK_MAX: Duration = Duration::from_secs(5);

/// What a member begins with.
#[derive(Debug)]
pub struct Birth {
    /// Its ids.
    pub identity: Identity,
    /// The first members, or those of the cluster it joins.
    pub members: Vec<MemberInfo>,
    /// It joins a cluster that is there.
    pub joins: bool,
    /// It has a log of its own already.
    pub restarts: bool,
}

/// Finds out who this member is. Nothing is served yet.
///
/// Errors: the log cannot be read, or no member of the cluster to join gives a fitting answer.
pub async fn resolve(config: &Config, disk: &mut dyn Disk) -> Result<Birth, StartError> {
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
            restarts: true,
        });
    }
    if config.joins_existing {
        return match (ask_cluster(config).await, known) {
            (Ok(birth), None) => Ok(birth),
            (Ok(birth), Some(identity)) => Ok(Birth {
                identity,
                restarts: true,
                ..birth
            }),
            // It knows itself, and the others will find it.
            (Err(_), Some(identity)) => Ok(Birth {
                identity,
                members: Vec::new(),
                joins: true,
                restarts: true,
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
        restarts: known.is_some(),
    })
}

/// Asks the other members of `--initial-cluster`, one after the other.
///
/// Source: etcd's bootstrap of a member that joins: the lists must agree, and the ids are the cluster's.
async fn ask_cluster(config: &Config) -> Result<Birth, StartError> {
    let own = &config.initial_advertise_peer_urls;
    let others = config.initial_cluster.members.values().flatten();
    let mut why = "--initial-cluster names no other member".to_owned();
    for url in others.filter(|url| !own.contains(url)) {
        match ask(url).await {
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
        restarts: false,
    })
}

/// GETs the member list from a peer URL: the cluster's id and its members.
async fn ask(url: &Url) -> Result<(u64, Vec<MemberInfo>), String> {
    let answer = peer_http::get(url.as_str(), "/members", None, "", ASK_MAX).await?;
    if answer.status != 200 {
        return Err(format!("it answered with status {}", answer.status));
    }
    let cluster = answer.cluster_id.ok_or("it names no cluster id")?;
    let members = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    Ok((cluster, members))
}
