//! Who this member is: what its log says; else, for a first start, what flags, DNS or a discovery service say, or the
//! cluster it joins. Nothing is served yet, so look-ups may block.

mod client;
mod compatible;
mod discovery;
mod dns;
mod peers;
mod srv;

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use storage::{
    io::Disk,
    wal::{Identity, Wal},
};

use super::{StartError, options::WAL_DIR};
use crate::{
    config::{Bootstrap, Config, InitialCluster, Url, cluster, identity},
    member::{BootError, MemberInfo},
};
use peers::Running;

/// A member of the cluster to join gets this long for the member list. Source: etcd, 10 s.
const JOIN_ASK_MAX: Duration = Duration::from_secs(10);
/// A member that may be there already gets this long. Source: etcd's `BootstrapTimeoutEffective`.
const FIRST_ASK_MAX: Duration = Duration::from_secs(1);
/// Host names of peer URLs may become known this late. Source: etcd's `advertiseMatchesCluster`.
const RESOLVE_MAX: Duration = Duration::from_secs(30);
/// Between two look-ups. Source: etcd's `retryInterval`.
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);

/// What a member begins with.
#[derive(Debug)]
pub struct Birth {
    /// Its ids.
    pub identity: Identity,
    /// The first members, or those of the cluster it joins; empty when only its log knows them.
    pub members: Vec<MemberInfo>,
    /// It joins a cluster that is there.
    pub joins: bool,
    /// It has a log of its own already.
    pub restarts: bool,
}

impl Birth {
    /// It relies on its log for everything.
    pub fn knows_nobody(&self) -> bool {
        self.members.is_empty() && !self.joins
    }
}

/// Finds out who this member is.
///
/// Errors: the log cannot be read, or as [`first`].
pub async fn resolve(config: &Config, disk: &mut dyn Disk, stop: &AtomicBool) -> Result<Birth, StartError> {
    let known = Wal::identity(disk, WAL_DIR).map_err(|error| StartError::Boot {
        path: config.data_dir.clone(),
        error: BootError::Wal(error),
    })?;
    match known {
        None => first(config, stop).await,
        Some(identity) => Ok(again(config, identity).await),
    }
}

/// A start with data: what the flags say of the cluster counts only until the log knows better.
async fn again(config: &Config, identity: Identity) -> Birth {
    let nobody = Birth {
        identity,
        members: Vec::new(),
        joins: config.joins_existing || config.force_new_cluster,
        restarts: true,
    };
    if config.force_new_cluster {
        // The others are gone, and are not to be found again.
        return nobody;
    }
    if config.bootstrap != Bootstrap::Static {
        tracing::info!("discovery is ignored since cluster already initialized; valid logs are found");
        return nobody;
    }
    if config.joins_existing {
        // It knows itself, and if nobody answers the others will find it.
        let running = peers::ask_any(&others(config, &config.initial_cluster), FIRST_ASK_MAX).await;
        let members = running.map_or(Vec::new(), |running| running.members);
        return Birth { members, ..nobody };
    }
    Birth {
        members: founders(&config.initial_cluster),
        ..nobody
    }
}

/// A start without data, or with a log that nothing was written to.
///
/// Errors: etcd's texts for flags that contradict each other, for a discovery that finds nothing, and for a cluster that
/// cannot be joined.
pub async fn first(config: &Config, stop: &AtomicBool) -> Result<Birth, StartError> {
    let mut cluster = config.initial_cluster.clone();
    if let Bootstrap::Srv { domain, suffix } = &config.bootstrap {
        let members = srv::members(config, domain, suffix);
        cluster.members = members.map_err(|error| wrong(format!("error setting up initial cluster: {error}")))?;
    }
    let resolver = Hosts::new(stop);
    let resolve = |url: &Url| resolver.resolve(url);
    if config.joins_existing {
        return join(config, &cluster, &resolve).await;
    }
    cluster
        .check_founder(&config.name, &config.initial_advertise_peer_urls, &resolve)
        .map_err(StartError::Cluster)?;
    let member_id = identity::member_id(&cluster.members[&config.name], &cluster.token);
    refuse_second_birth(config, &cluster, member_id).await?;
    if let Bootstrap::Discovery(service) = &config.bootstrap {
        let found = discovery::join(service, member_id, &cluster.to_string(), stop);
        cluster.members = found.map_err(|error| wrong(format!("failed to join discovery cluster ({error})")))?;
        cluster
            .check_duplicates("discovery cluster")
            .map_err(StartError::Cluster)?;
    }
    Ok(Birth {
        identity: Identity {
            member_id,
            cluster_id: identity::cluster_id(&cluster.member_ids()),
        },
        members: founders(&cluster),
        joins: false,
        restarts: false,
    })
}

/// A member whose data is gone must not vote again under its id: what it acknowledged is lost with them.
///
/// Source: etcd's `isMemberBootstrapped`.
async fn refuse_second_birth(config: &Config, cluster: &InitialCluster, member_id: u64) -> Result<(), StartError> {
    let Ok(running) = peers::ask_any(&others(config, cluster), FIRST_ASK_MAX).await else {
        return Ok(());
    };
    refuse_the_forgetful(config, &running, member_id)
}

/// As [`refuse_second_birth`], in a cluster whose members are known.
fn refuse_the_forgetful(config: &Config, running: &Running, member_id: u64) -> Result<(), StartError> {
    let there = running.members.iter().find(|member| member.id == member_id);
    match there.is_some_and(|member| !member.client_urls.is_empty()) {
        false => Ok(()),
        true => Err(wrong(format!(
            "member {member_id:x} has already been bootstrapped: its data directory {} is lost or is not the right one. Put \
             the data back, or remove the member from the cluster (etcdctl member remove {member_id:x}), add it anew \
             (etcdctl member add) and start it with an empty directory and --initial-cluster-state=existing",
            config.data_dir.display()
        ))),
    }
}

/// Finds this member among those of a running cluster, which must be one that it can take part in.
///
/// Source: etcd's `bootstrapExistingClusterNoWAL` and `ValidateClusterAndAssignIDs`.
async fn join(config: &Config, cluster: &InitialCluster, resolve: cluster::Resolve<'_>) -> Result<Birth, StartError> {
    cluster.check_joiner(&config.name).map_err(StartError::Cluster)?;
    if matches!(config.bootstrap, Bootstrap::Discovery(_)) {
        let text = "discovery URL should not be set when joining existing initial cluster";
        return Err(wrong(text.into()));
    }
    let running = peers::ask_any(&others(config, cluster), JOIN_ASK_MAX).await;
    let running = running.map_err(|error| {
        wrong(format!(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs ({error})"
        ))
    })?;
    let member_id = own_id(config, cluster, &running, resolve).map_err(|error| {
        wrong(format!(
            "error validating peerURLs {}: {error}. --initial-cluster must name all members of the cluster, this one \
             included: add it first (etcdctl member add) and use what that prints",
            describe(&running)
        ))
    })?;
    // etcd lets it in, and ends with a panic when the leader speaks of what it no longer has.
    refuse_the_forgetful(config, &running, member_id)?;
    let learners = running.members.iter().filter(|member| member.is_learner).count() as u64;
    if learners > config.max_learners {
        return Err(wrong(format!(
            "membership: too many learner members in cluster: it has {learners}, and --max-learners is {}",
            config.max_learners
        )));
    }
    compatible::check(&running.members, member_id).await.map_err(wrong)?;
    Ok(Birth {
        identity: Identity {
            member_id,
            cluster_id: running.cluster_id,
        },
        members: running.members,
        joins: true,
        restarts: false,
    })
}

fn own_id(
    config: &Config,
    cluster: &InitialCluster,
    running: &Running,
    resolve: cluster::Resolve<'_>,
) -> Result<u64, String> {
    if running.members.len() != cluster.members.len() {
        return Err("member count is unequal".into());
    }
    let mut own = None;
    for member in &running.members {
        let urls = Url::parse_list(&member.peer_urls.join(",")).unwrap_or_default();
        let mut last = String::new();
        let named = cluster.members.iter().find(|(_, named)| {
            let same = cluster::same_urls(&urls, named, resolve);
            same.map_err(|why| last = why).is_ok()
        });
        match named {
            Some((name, _)) if *name == config.name => own = Some(member.id),
            Some(_) => {}
            None => {
                return Err(format!(
                    "PeerURLs: no match found for existing member ({:x}, [{}]), last resolver error ({last})",
                    member.id,
                    member.peer_urls.join(" ")
                ));
            }
        }
    }
    own.ok_or_else(|| format!("no member has the peer URLs of {:?}", config.name))
}

/// A cluster in etcd's words.
fn describe(running: &Running) -> String {
    let member = |member: &MemberInfo| {
        format!(
            "&{{ID:{:x} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
            member.id,
            member.peer_urls.join(" "),
            member.is_learner,
            member.name,
            member.client_urls.join(" ")
        )
    };
    let members: Vec<String> = running.members.iter().map(member).collect();
    format!(
        "{{ClusterID:{:x} Members:[{}] RemovedMemberIDs:[]}}",
        running.cluster_id,
        members.join(" ")
    )
}

/// The peer URLs of the other members, in the order of their texts.
fn others<'c>(config: &Config, cluster: &'c InitialCluster) -> Vec<&'c Url> {
    let others = cluster.members.iter().filter(|(name, _)| **name != config.name);
    let mut urls: Vec<&Url> = others.flat_map(|(_, urls)| urls).collect();
    urls.sort_unstable();
    urls
}

fn founders(cluster: &InitialCluster) -> Vec<MemberInfo> {
    let member = |(name, urls): (&String, &Vec<Url>)| MemberInfo {
        id: identity::member_id(urls, &cluster.token),
        peer_urls: urls.iter().map(|url| url.as_str().to_owned()).collect(),
        name: name.clone(),
        ..MemberInfo::default()
    };
    cluster.members.iter().map(member).collect()
}

fn wrong(text: String) -> StartError {
    StartError::Cluster(text)
}

/// Looks host names up, again and again for a while: in a pod that starts, DNS may not know it yet.
struct Hosts<'a> {
    stop: &'a AtomicBool,
    deadline: Instant,
}

impl Hosts<'_> {
    fn new(stop: &AtomicBool) -> Hosts<'_> {
        Hosts {
            stop,
            deadline: Instant::now() + RESOLVE_MAX,
        }
    }

    /// Source: etcd's `resolveURL`, which leaves addresses and `localhost` alone.
    fn resolve(&self, url: &Url) -> Result<String, String> {
        let host = url.host();
        if host == "localhost" || host.parse::<std::net::IpAddr>().is_ok() {
            return Ok(url.as_str().to_owned());
        }
        loop {
            let error = match (host, url.port()).to_socket_addrs().map(best) {
                Ok(Some(address)) => return Ok(format!("{}://{address}", url.scheme())),
                Ok(None) => "no address".to_owned(),
                Err(error) => error.to_string(),
            };
            let over = Instant::now() + RESOLVE_PAUSE > self.deadline || self.stop.load(Ordering::SeqCst);
            tracing::warn!(%url, host, error, "failed to resolve URL Host");
            if over {
                return Err(format!("failed to resolve {url} ({error})"));
            }
            std::thread::sleep(RESOLVE_PAUSE);
        }
    }
}

fn best(found: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let all: Vec<SocketAddr> = found.collect();
    all.iter().find(|address| address.is_ipv4()).or(all.first()).copied()
}
