//! The first members from a discovery service: an etcd in which each of them registers under the cluster's token.
//!
//! ```text
//!  /_etcd/registry/<token>/_config/size       how many first members there are, set by the operator
//!  /_etcd/registry/<token>/members/<id>       name=peerURL,..., one key a member, in the order of their creation
//! ```
//!
//! Source: etcd's `v3discovery`. A service that does not answer is asked again without end, with pauses that grow.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use net::pb::etcdserverpb::{
    PutRequest, PutResponse, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse,
    watch_request::RequestUnion,
};
use prost::Message;

use super::client::Client;
use crate::config::{Discovery, Url, cluster};

const PREFIX: &str = "/_etcd/registry";
const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Pauses double up to two to the power of this. Units: seconds. Source: etcd's `maxExponentialRetries`.
const DOUBLINGS_MAX: u32 = 8;
/// A pause looks up this often to see whether the server is to stop.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Why the service gives no cluster; the texts are etcd's where etcd has one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// Nobody has set the size.
    #[error(
        "discovery: size key not found: put the number of members under {PREFIX}/<token>/_config/size of the discovery \
         service first"
    )]
    SizeNotFound,
    /// The size is no number above 0.
    #[error("discovery: size key is bad: it must be a number above 0")]
    BadSize,
    /// As many as are wanted have registered, and this member is not among them.
    #[error("discovery: cluster is full: do not reuse discovery token; generate a new one to bootstrap a cluster")]
    Full,
    /// A member registered something that is no URL.
    #[error("discovery: invalid peer URL")]
    InvalidUrl,
    /// Two members have one name.
    #[error("discovery: found duplicate name: every member needs a --name of its own, and a new token")]
    DuplicateName,
    /// The operator lost patience.
    #[error("the server was told to stop before the cluster was complete")]
    Stopped,
}

/// One registered member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registered {
    key: String,
    /// `name=peerURL,...`
    urls: String,
    created: i64,
}

/// Registers this member and waits until all are there; the first members.
pub fn join(
    service: &Discovery,
    id: u64,
    own: &str,
    stop: &AtomicBool,
) -> Result<BTreeMap<String, Vec<Url>>, DiscoveryError> {
    let mut registry = Registry {
        client: Client::new(service, stop),
        root: format!("{PREFIX}/{}", service.token),
        id,
        retries: 0,
        stop,
    };
    registry.check()?;
    registry.register(own)?;
    loop {
        let (members, size, revision) = registry.check()?;
        if members.len() >= size {
            tracing::info!(size, "found all needed peers from discovery service");
            return cluster_of(&members[..size]);
        }
        tracing::info!(size, found = members.len(), "waiting for peers from discovery service");
        registry.wait(revision)?;
    }
}

struct Registry<'a> {
    client: Client<'a>,
    root: String,
    id: u64,
    retries: u32,
    stop: &'a AtomicBool,
}

impl Registry<'_> {
    /// Who has registered, how many are wanted, and the revision that says so. Source: etcd's `checkCluster`.
    fn check(&mut self) -> Result<(Vec<Registered>, usize, i64), DiscoveryError> {
        loop {
            let looked = self.size().and_then(|size| match size {
                Ok(size) => self.members().map(|(members, revision)| Ok((members, size, revision))),
                Err(error) => Ok(Err(error)),
            });
            match looked {
                Ok(found) => {
                    let (members, size, revision) = found?;
                    self.retries = 0;
                    let own = self.member_key();
                    // Only the first so many count.
                    let place = members.iter().position(|member| member.key == own);
                    if place.unwrap_or(members.len()) >= size {
                        return Err(DiscoveryError::Full);
                    }
                    return Ok((members, size, revision));
                }
                Err(error) => self.pause("cluster status check", &error)?,
            }
        }
    }

    /// Outside: the service did not answer. Inside: what it holds is no size.
    fn size(&mut self) -> Result<Result<usize, DiscoveryError>, String> {
        let key = format!("{}/_config/size", self.root);
        let request = RangeRequest {
            key: key.into(),
            ..RangeRequest::default()
        };
        let answer: RangeResponse = self.client.call(RANGE, &request)?;
        Ok(parse_size(answer.kvs.first().map(|kv| &kv.value[..])))
    }

    fn members(&mut self) -> Result<(Vec<Registered>, i64), String> {
        let prefix = format!("{}/members", self.root);
        let request = RangeRequest {
            range_end: end_of(&prefix).into(),
            key: prefix.into(),
            ..RangeRequest::default()
        };
        let answer: RangeResponse = self.client.call(RANGE, &request)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let mut members = Vec::new();
        for kv in &answer.kvs {
            let (key, urls, created) = (text(&kv.key), text(&kv.value), kv.create_revision);
            match urls.contains('=') {
                true => members.push(Registered { key, urls, created }),
                false => tracing::warn!(key, urls, "invalid peer info returned from discovery service"),
            }
        }
        members.sort_by_key(|member| member.created);
        Ok((members, answer.header.map_or(0, |header| header.revision)))
    }

    fn register(&mut self, own: &str) -> Result<(), DiscoveryError> {
        let key = self.member_key();
        let request = PutRequest {
            key: key.clone().into(),
            value: own.to_owned().into(),
            ..PutRequest::default()
        };
        loop {
            match self.client.call::<PutResponse>(PUT, &request) {
                Ok(_) => {
                    self.retries = 0;
                    tracing::info!(key, info = own, "register member itself successfully");
                    return Ok(());
                }
                Err(error) => self.pause("register member itself", &error)?,
            }
        }
    }

    /// Waits for another member to register.
    fn wait(&mut self, revision: i64) -> Result<(), DiscoveryError> {
        let prefix = format!("{}/members", self.root);
        let create = WatchCreateRequest {
            range_end: end_of(&prefix).into(),
            key: prefix.into(),
            start_revision: revision + 1,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // A watch that was cancelled is news too: everything is read anew then.
        let is_news = |message: &bytes::Bytes| {
            WatchResponse::decode(message.clone()).map_or(true, |news| news.canceled || !news.events.is_empty())
        };
        match self.client.wait_for(WATCH, &request, is_news) {
            Ok(_) => Ok(()),
            Err(error) => self.pause("watch", &error),
        }
    }

    fn member_key(&self) -> String {
        format!("{}/members/{:x}", self.root, self.id)
    }

    /// Source: etcd's `logAndBackoffForRetry`.
    fn pause(&mut self, step: &str, error: &str) -> Result<(), DiscoveryError> {
        self.retries += 1;
        let pause = Duration::from_secs(1 << self.retries.min(DOUBLINGS_MAX));
        if !self.stop.load(Ordering::SeqCst) {
            tracing::warn!(reason = step, error, backoff = ?pause, "retry connecting to discovery service");
        }
        let deadline = Instant::now() + pause;
        while Instant::now() < deadline {
            if self.stop.load(Ordering::SeqCst) {
                return Err(DiscoveryError::Stopped);
            }
            std::thread::sleep(LOOK_UP);
        }
        Ok(())
    }
}

fn parse_size(value: Option<&[u8]>) -> Result<usize, DiscoveryError> {
    let text = std::str::from_utf8(value.ok_or(DiscoveryError::SizeNotFound)?).unwrap_or_default();
    let size = text.parse::<usize>().map_err(|_| DiscoveryError::BadSize)?;
    if size == 0 {
        Err(DiscoveryError::BadSize)
    } else {
        Ok(size)
    }
}

fn cluster_of(members: &[Registered]) -> Result<BTreeMap<String, Vec<Url>>, DiscoveryError> {
    let mut all: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for member in members {
        let of_member = cluster::parse(&member.urls).map_err(|_| DiscoveryError::InvalidUrl)?;
        for (name, urls) in of_member {
            if all.insert(name, urls).is_some() {
                return Err(DiscoveryError::DuplicateName);
            }
        }
    }
    Ok(all)
}

/// The end of the range of all keys with this prefix, which ends in no 0xff.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(urls: &str) -> Registered {
        Registered {
            key: String::new(),
            urls: urls.into(),
            created: 0,
        }
    }

    #[test]
    fn the_size_is_a_number_above_zero() {
        assert_eq!(parse_size(None), Err(DiscoveryError::SizeNotFound));
        assert_eq!(parse_size(Some(b"3")), Ok(3));
        for bad in [&b""[..], b"0", b"-1", b"three", b" 3", b"\xff"] {
            assert_eq!(parse_size(Some(bad)), Err(DiscoveryError::BadSize), "{bad:?}");
        }
    }

    #[test]
    fn members_with_one_name_or_no_url_are_refused() {
        let two = [registered("a=http://a:1,a=http://a:2"), registered("b=http://b:1")];
        assert_eq!(cluster_of(&two).unwrap()["a"].len(), 2);
        let same = [registered("a=http://a:1"), registered("a=http://b:1")];
        assert_eq!(cluster_of(&same), Err(DiscoveryError::DuplicateName));
        assert_eq!(cluster_of(&[registered("a=nonsense")]), Err(DiscoveryError::InvalidUrl));
    }
}
