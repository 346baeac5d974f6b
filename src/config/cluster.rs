//! `--initial-cluster`: who was there when the cluster was born, read by etcd's rules.

use std::collections::BTreeMap;

use super::urls::UrlError;
use super::{Url, identity};

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

    /// Whether the member of that name is there with exactly these peer URLs.
    ///
    /// Errors: etcd's text.
    pub fn check_member(&self, name: &str, advertised: &[Url]) -> Result<(), String> {
        let Some(named) = self.members.get(name) else {
            return Err(format!(
                "couldn't find local name {name:?} in the initial cluster configuration"
            ));
        };
        let only_named: Vec<&Url> = named.iter().filter(|url| !advertised.contains(url)).collect();
        if let Some(first) = only_named.first() {
            let missing: Vec<String> = only_named.iter().map(|url| format!("{name}={url}")).collect();
            return Err(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({})",
                missing.join(","),
                join(advertised),
                difference(advertised, named, first)
            ));
        }
        let only_advertised: Vec<&str> = advertised
            .iter()
            .filter(|url| !named.contains(url))
            .map(Url::as_str)
            .collect();
        if !only_advertised.is_empty() {
            return Err(format!(
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                only_advertised.join(","),
                from_name(name, named)
            ));
        }
        Ok(())
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

/// etcd's note on how two lists differ: their lengths, or the first pair.
fn difference(advertised: &[Url], named: &[Url], first_missing: &Url) -> String {
    if advertised.len() != named.len() {
        return format!("len({}) != len({})", quoted(advertised), quoted(named));
    }
    let pair = advertised.iter().zip(named).find(|(a, b)| a != b);
    let (a, b) = pair.unwrap_or((first_missing, first_missing));
    format!("resolved urls: \"{a}\" != \"{b}\"")
}

fn quoted(urls: &[Url]) -> String {
    let texts: Vec<String> = urls.iter().map(|url| format!("{:?}", url.as_str())).collect();
    format!("[{}]", texts.join(" "))
}
