//! Clients that hold a key by a lease for a while and then let it go, and the judge of when such keys went.

use std::collections::BTreeMap;

use prost::Message;
use tonic::Status;

use super::{
    clients::{ANSWER_PATIENCE, Worker},
    record::{Ask, Record},
    watchers::Tale,
};
use crate::{
    checker::history::{Check, History, ensure},
    support::{
        pb::{
            etcdserverpb::{LeaseKeepAliveRequest, WatchResponse},
            mvccpb::event::EventType,
        },
        *,
    },
};

/// What the names of all keys under leases begin with.
pub const LEASED: &str = "t";
/// Units: seconds.
const TTL: i64 = 2;

/// A key under a lease of its own.
#[derive(Clone, Debug)]
pub struct Holding {
    /// The key; it may not have been written.
    pub key: String,
    /// Units: seconds.
    pub ttl: i64,
    /// When each grant or renewal began that was acknowledged. Units: nanoseconds.
    pub renewed_ns: Vec<u64>,
}

impl Worker {
    /// Holds one key after the other until it is told to end.
    pub async fn hold(mut self) -> (Vec<Record>, Vec<Holding>) {
        let mut holdings = Vec::new();
        while !self.is_over() {
            match self.hold_one().await {
                Some(holding) => holdings.push(holding),
                None => pause_ms(50).await,
            }
        }
        (self.into_records(), holdings)
    }

    async fn hold_one(&mut self) -> Option<Holding> {
        let (member, began_ns) = (self.any_member(), self.now_ns());
        let client = self.client(member);
        let granted = tokio::time::timeout(ANSWER_PATIENCE, client.try_grant(0, TTL)).await;
        let lease = granted.ok()?.ok()?;
        let key = format!("{LEASED}{:x}", lease.id);
        let mut holding = Holding {
            key: key.clone(),
            ttl: lease.ttl,
            renewed_ns: vec![began_ns],
        };
        self.ask(member, Ask::Hold { key, lease: lease.id }, 0).await;
        for _ in 0..self.rng.below(8) {
            pause_ms(200 + self.rng.below(800)).await;
            let (member, began_ns) = (self.any_member(), self.now_ns());
            let client = self.client(member);
            match tokio::time::timeout(ANSWER_PATIENCE, renew(&client, lease.id)).await {
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => holding.renewed_ns.push(began_ns),
                // It may have been renewed or not.
                _ => {}
            }
            if self.is_over() {
                break;
            }
        }
        Some(holding)
    }
}

/// What is left of a lease that was just renewed; 0 if it is gone.
async fn renew(client: &Client, id: i64) -> Result<i64, Status> {
    let asks = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
    let mut answers = client.lease.clone().lease_keep_alive(asks).await?.into_inner();
    let answer = answers.message().await?;
    answer
        .map(|answer| answer.ttl)
        .ok_or_else(|| Status::unavailable("the stream ended"))
}

/// A key under a lease goes by its end alone, which is never before its time, counted from the last renewal that was
/// acknowledged; in the end all are gone.
pub fn judge(history: &History, holdings: &[Holding], scribe: &Tale) -> Check {
    let by_key: BTreeMap<&[u8], &Holding> = holdings.iter().map(|held| (held.key.as_bytes(), held)).collect();
    let gone = deletes(scribe)?;
    for (key, at_ns) in &gone {
        let holding = by_key.get(&key[..]);
        let Some(holding) = holding else {
            return Err(format!("nobody held {:?}", String::from_utf8_lossy(key)));
        };
        let last_ns = holding.renewed_ns.iter().max().copied().unwrap_or(0);
        ensure!(
            *at_ns >= last_ns + holding.ttl as u64 * 1_000_000_000,
            "a key was gone at {at_ns}, before the time of its lease: {holding:?}"
        );
    }
    for holding in holdings {
        let left = history.get(holding.key.as_bytes(), history.revision());
        ensure!(left.is_none(), "a lease never ended: {holding:?}");
    }
    Ok(())
}

/// When somebody heard that a key under a lease is gone.
fn deletes(tale: &Tale) -> Result<BTreeMap<Vec<u8>, u64>, String> {
    let mut gone = BTreeMap::new();
    for (at_ns, answer) in tale.sessions.iter().flat_map(|session| &session.answers) {
        let answer = WatchResponse::decode(answer.as_slice()).map_err(|error| error.to_string())?;
        let deletes = answer
            .events
            .into_iter()
            .filter(|event| event.r#type == EventType::Delete as i32);
        for key in deletes.filter_map(|event| event.kv).map(|kv| kv.key) {
            if key.starts_with(LEASED.as_bytes()) {
                gone.entry(key).or_insert(*at_ns);
            }
        }
    }
    Ok(gone)
}
