//! The first members from SRV records of DNS.
//!
//! Source: etcd's `srv.GetCluster` and `GetDNSClusterNames`: the records of both services together; whoever has this
//! member's address has its name, the others are numbered.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
};

use super::dns::Resolver;
use crate::config::{Config, Url, cluster};

/// Asks for the members below that domain.
///
/// Errors: etcd's text; nobody was found, or this member is not among them.
pub fn members(config: &Config, domain: &str, suffix: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let resolver = Resolver::from_file(&config.resolv_conf);
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = format!("{service}{suffix}");
        let of_service = one_service(config, &resolver, domain, scheme, &service);
        tracing::info!(
            service_scheme = scheme,
            service_name = service,
            server_name = config.name,
            discovery_srv = domain,
            found_cluster = ?of_service.as_deref().unwrap_or_default(),
            error = of_service.as_ref().err(),
            "get cluster for {} SRV", if scheme == "https" { "etcd-server-ssl" } else { "etcd-server" }
        );
        match of_service {
            Ok(members) => found.extend(members),
            Err(error) => errors.push(format!("error querying DNS SRV records for _{service} {error}")),
        }
    }
    if found.is_empty() {
        return Err(errors.join("; "));
    }
    for member in &found {
        tracing::info!(node = member, "got bootstrap from DNS for etcd-server");
    }
    let members = cluster::parse(&found.join(",")).map_err(|error| error.to_string())?;
    if !members.contains_key(&config.name) {
        return Err(format!(
            "cannot find local etcd member {:?} in SRV records",
            config.name
        ));
    }
    Ok(members)
}

/// `name=url` for each record of one service.
fn one_service(
    config: &Config,
    resolver: &Resolver,
    domain: &str,
    scheme: &str,
    service: &str,
) -> Result<Vec<String>, String> {
    let mut own: BTreeMap<SocketAddr, &Url> = BTreeMap::new();
    for url in &config.initial_advertise_peer_urls {
        own.insert(address(url.host(), url.port())?, url);
    }
    let records = resolver.srv(&format!("_{service}._tcp.{domain}"));
    let (mut members, mut number, mut problem) = (Vec::new(), 0, String::new());
    for record in records.map_err(|error| error.to_string())? {
        let mine = match address(&record.target, record.port) {
            Ok(address) => own.get(&address),
            Err(error) => {
                problem = error;
                continue;
            }
        };
        let host = match record.target.contains(':') {
            true => format!("[{}]", record.target),
            false => record.target,
        };
        let url = format!("{scheme}://{host}:{}", record.port);
        match mine {
            Some(mine) if mine.scheme() != scheme => {
                problem =
                    format!("bootstrap at {url} from DNS for {service} has scheme mismatch with expected peer {mine}");
            }
            Some(_) => members.push(format!("{}={url}", config.name)),
            None => {
                members.push(format!("{number}={url}"));
                number += 1;
            }
        }
    }
    if members.is_empty() { Err(problem) } else { Ok(members) }
}

/// The address of a host; of several the first, IPv4 preferred, as Go does.
fn address(host: &str, port: u16) -> Result<SocketAddr, String> {
    let found = (host, port).to_socket_addrs();
    let all: Vec<SocketAddr> = found.map_err(|error| format!("lookup {host}: {error}"))?.collect();
    let best = all.iter().find(|address| address.is_ipv4()).or(all.first());
    best.copied().ok_or_else(|| format!("lookup {host}: no such host"))
}
