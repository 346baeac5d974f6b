//! Comparing this member's data with the others': at start, from time to time, and after compactions.
//!
//! What the hashes mean is decided by [`crate::member::corruption`]; here they are gathered. The leader's checks run as
//! tasks beside the first shard and take their hashes in slices, so that no request waits for them.

use std::{cell::RefCell, rc::Rc, time::Duration};

use super::{Shared, StartError, pause::breathe, peer_http};
use crate::{
    api::{Api, HashKvAnswer},
    config::features::COMPACT_HASH_CHECK,
    member::{
        HashCache, Membership, View,
        corruption::{self, PeerHash, Taken, Verdict},
    },
};

/// Bytes hashed before others get their turn. Units: bytes.
const HASH_SLICE: usize = 512 << 10;

/// Whom to ask for hashes, and as whom.
struct Asker {
    member_id: u64,
    cluster_id: u64,
    patience: Duration,
}

/// Compares the data of a member that starts with that of every other member it can reach, before anything is served.
///
/// Errors: another member has other data.
pub async fn check_at_start(shared: &Shared, view: &View) -> Result<(), StartError> {
    let asker = Asker::new(shared);
    tracing::info!(timeout = ?asker.patience, "starting initial corruption check");
    let failed = |error: storage::mvcc::StoreError| StartError::Corrupt {
        member: asker.member_id,
        why: format!("failed to fetch hash ({error})"),
    };
    let mut job = view.store.hash_kv(0).map_err(failed)?;
    let own = loop {
        match job.step(HASH_SLICE).map_err(failed)? {
            Some(hash) => break hash,
            None => breathe().await,
        }
    };
    let peers = asker.ask_all(&view.members, own.revision).await;
    if corruption::disagrees(&own, &peers) {
        return Err(StartError::Corrupt {
            member: asker.member_id,
            why: format!(
                "found data inconsistency with peers at revision {}; remove this member from the cluster and add it anew \
                 with an empty data directory",
                own.revision
            ),
        });
    }
    tracing::info!("initial corruption checking passed; no corruption");
    Ok(())
}

/// Starts the leader's checks, as far as they are wanted.
pub fn start_checks(app: &Rc<RefCell<Api>>, shared: &Shared, hashes: HashCache) {
    if let Some(interval) = shared.config.corrupt_check_interval {
        tracing::info!(?interval, "enabled corruption checking");
        glommio::spawn_local(compare_newest(app.clone(), shared.clone(), interval)).detach();
    }
    if shared.config.features.is_on(COMPACT_HASH_CHECK) {
        let interval = shared.config.compact_hash_check_interval;
        tracing::info!(?interval, "enabled compact hash checking");
        glommio::spawn_local(compare_compactions(app.clone(), shared.clone(), hashes, interval)).detach();
    }
}

async fn compare_newest(app: Rc<RefCell<Api>>, shared: Shared, interval: Duration) {
    let asker = Asker::new(&shared);
    loop {
        glommio::timer::sleep(interval).await;
        let members = match asker.leads(&app) {
            Some(members) => members,
            None => continue,
        };
        if let Err(error) = asker.compare_once(&app, &members).await {
            tracing::warn!(error, "failed to check hash KV");
        }
    }
}

/// From the newest compaction back until all members could be compared.
async fn compare_compactions(app: Rc<RefCell<Api>>, shared: Shared, hashes: HashCache, interval: Duration) {
    let asker = Asker::new(&shared);
    let mut checked = 0;
    loop {
        glommio::timer::sleep(interval).await;
        for own in hashes.above(checked) {
            let Some(members) = asker.leads(&app) else { break };
            let peers = asker.ask_all(&members, own.revision).await;
            if peers.is_empty() {
                continue;
            }
            match corruption::judge(asker.member_id, &own, &peers) {
                Verdict::Incomplete => continue,
                Verdict::Same => {
                    checked = own.revision;
                    tracing::info!(revision = checked, "successfully checked hash on whole cluster");
                }
                Verdict::Corrupt(members) => {
                    tracing::error!(revision = own.revision, "Detected compaction hash mismatch");
                    members.into_iter().for_each(|member| raise(&app, member));
                }
            }
            break;
        }
    }
}

fn raise(app: &RefCell<Api>, member: u64) {
    tracing::error!(
        member = format!("{member:x}"),
        "the data of this member differs; alarm CORRUPT"
    );
    app.borrow_mut().raise_corrupt(member);
}

impl Asker {
    fn new(shared: &Shared) -> Asker {
        Asker {
            member_id: shared.identity.member_id,
            cluster_id: shared.identity.cluster_id,
            patience: shared.config.request_timeout(),
        }
    }

    /// The members, when this one leads.
    fn leads(&self, app: &RefCell<Api>) -> Option<std::sync::Arc<Membership>> {
        let view = app.borrow_mut().view();
        (view.leader == self.member_id).then(|| view.members.clone())
    }

    async fn compare_once(&self, app: &RefCell<Api>, members: &Membership) -> Result<(), &'static str> {
        let before = hash(app).await?;
        let peers = self.ask_all(members, before.hash.revision).await;
        let barrier = app.borrow_mut().barrier();
        barrier.wait().await.map_err(|failure| failure.text)?;
        let after = hash(app).await?;
        if let Some(member) = corruption::suspect(self.member_id, &before, &after, &peers) {
            raise(app, member);
        }
        let checked = peers.iter().filter(|peer| peer.taken.is_some()).count();
        tracing::info!(checked, "finished peer corruption check");
        Ok(())
    }

    /// The hash of every other member at a revision.
    async fn ask_all(&self, members: &Membership, revision: i64) -> Vec<PeerHash> {
        let mut hashes = Vec::new();
        let others = members.members.values().filter(|member| member.id != self.member_id);
        for member in others.filter(|member| !member.peer_urls.is_empty()) {
            let mut taken = None;
            for url in &member.peer_urls {
                match self.ask(url, revision).await {
                    Ok(answer) => taken = Some(answer),
                    Err(error) => {
                        let peer = format!("{:x}", member.id);
                        tracing::warn!(peer, url, revision, error, "failed hash kv request");
                        continue;
                    }
                }
                break;
            }
            hashes.push(PeerHash {
                member: member.id,
                taken,
            });
        }
        hashes
    }

    async fn ask(&self, url: &str, revision: i64) -> Result<Taken, String> {
        let body = format!(r#"{{"revision":{revision}}}"#);
        let answer = peer_http::get(url, "/members/hashkv", Some(self.cluster_id), &body, self.patience).await?;
        if answer.status != 200 {
            return Err(answer.body);
        }
        let answer: HashKvAnswer = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        Ok(answer.into())
    }
}

async fn hash(app: &RefCell<Api>) -> Result<Taken, &'static str> {
    let hash = app.borrow_mut().hash_at(0);
    app.borrow_mut().flush_outbox();
    hash.wait().await.map_err(|failure| failure.text)
}
