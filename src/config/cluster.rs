//! `--initial-cluster`: who was there when the cluster was born, read by etcd's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::urls::UrlError;
use super::{Url, identity};

/// A URL with the address that its host stands for in the host's place, or why it has none.
pub type Resolve<'a> = &'a dyn Fn(&Url) -> Result<String, String>;

/// How a member without data learns of the others.
#[derive(Debug, Clone, PartialEq)]
pub enum Bootstrap {
    /// From `--initial-cluster`.
    Static,
    /// From SRV records of DNS.
    Srv {
        /// The domain they belong to.
        domain: String,
        /// What follows `etcd-server` in the service's name, with a dash; may be empty.
        suffix: String,
    },
    /// From a discovery service, which is an etcd.
    Discovery(Discovery),
}

/// Where the discovery service is, and what this cluster is called there.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovery {
    /// The cluster's token.
    pub token: String,
    /// The service's client URLs. Bounds: at least one.
    pub endpoints: Vec<String>,
    /// How long connecting may take.
    pub dial_timeout: Duration,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How often a silent service is pinged.
    pub keepalive_time: Duration,
    /// How long the answer to a ping may take.
    pub keepalive_timeout: Duration,
}

/// The members at the cluster's birth and the token that tells one cluster from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster {
    /// Name to peer URLs, which are sorted.
    pub members: BTreeMap<String, Vec<Url>>,
    /// Mixed into every member's id.
    pub token: String,
}

impl InitialCluster {
    /// The ids of all first members, ascending.
    pub fn member_ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self
            .members
            .values()
            .map(|urls| identity::member_id(urls, &self.token))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Whether that member may found the cluster: named, with its own peer URLs, and no URL twice.
    ///
    /// `resolve` gives the addresses a URL's host stands for; a URL that says the same in other words will do.
    ///
    /// Errors: etcd's text. Source: etcd `VerifyBootstrap`.
    pub fn check_founder(&self, name: &str, advertised: &[Url], resolve: Resolve<'_>) -> Result<(), String> {
        self.check_own(name, advertised, resolve)?;
        self.check_duplicates("initial cluster")
    }

    /// Whether that member may join the cluster: named, and no URL twice.
    ///
    /// Errors: etcd's text. Source: etcd `VerifyJoinExisting`.
    pub fn check_joiner(&self, name: &str) -> Result<(), String> {
        self.named(name)?;
        self.check_duplicates("initial cluster")
    }

    /// Whether a URL stands there twice; `what` begins the text.
    pub fn check_duplicates(&self, what: &str) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        match self.members.values().flatten().all(|url| seen.insert(url)) {
            true => Ok(()),
            false => Err(format!("{what} {self} has duplicate url")),
        }
    }

    fn named(&self, name: &str) -> Result<&[Url], String> {
        let named = self.members.get(name).map(Vec::as_slice);
        named.ok_or_else(|| format!("couldn't find local name {name:?} in the initial cluster configuration"))
    }

    fn check_own(&self, name: &str, advertised: &[Url], resolve: Resolve<'_>) -> Result<(), String> {
        let named = self.named(name)?;
        let Err(difference) = same_urls(advertised, named, resolve) else {
            return Ok(());
        };
        let only_named = named.iter().filter(|url| !advertised.contains(url));
        let only_named: Vec<String> = only_named.map(|url| format!("{name}={url}")).collect();
        if !only_named.is_empty() {
            return Err(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({difference})",
                only_named.join(","),
                join(advertised),
            ));
        }
        let only_advertised = advertised.iter().filter(|url| !named.contains(url)).map(Url::as_str);
        Err(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            only_advertised.collect::<Vec<_>>().join(","),
            from_name(name, named)
        ))
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = self.members.iter().map(|(name, urls)| from_name(name, urls));
        f.write_str(&items.collect::<Vec<_>>().join(","))
    }
}

/// Whether two sorted lists of URLs mean the same, by their words or by the addresses of their hosts.
///
/// Errors: etcd's note on how they differ.
pub fn same_urls(a: &[Url], b: &[Url], resolve: Resolve<'_>) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("len({}) != len({})", quoted(a), quoted(b)));
    }
    if a == b {
        return Ok(());
    }
    let resolved = |urls: &[Url]| {
        let mut all = urls.iter().map(resolve).collect::<Result<Vec<String>, String>>()?;
        all.sort_unstable();
        Ok::<_, String>(all)
    };
    let (a, b) = (resolved(a)?, resolved(b)?);
    match a.iter().zip(&b).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("resolved urls: {a:?} != {b:?}")),
        None => Ok(()),
    }
}

/// Reads `name=url,name=url,...`; a name may come several times.
pub fn parse(text: &str) -> Result<BTreeMap<String, Vec<Url>>, UrlError> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (name, url) = item.split_once('=').unwrap_or((item, ""));
        members.entry(name.to_string()).or_default().push(Url::parse(url)?);
    }
    for urls in members.values_mut() {
        urls.sort();
    }
    Ok(members)
}

/// The text of `--initial-cluster` for one member with these peer URLs.
pub fn from_name(name: &str, peer_urls: &[Url]) -> String {
    let items: Vec<String> = peer_urls.iter().map(|url| format!("{name}={url}")).collect();
    items.join(",")
}

/// The URLs with commas between them.
pub fn join(urls: &[Url]) -> String {
    let texts: Vec<&str> = urls.iter().map(Url::as_str).collect();
    texts.join(",")
}

fn quoted(urls: &[Url]) -> String {
    let texts: Vec<String> = urls.iter().map(|url| format!("{:?}", url.as_str())).collect();
    format!("[{}]", texts.join(" "))
}
