//! The links to the other members, on the core's executor.
//!
//! Each member dials every other and only sends on what it dialled ([`link`]); what others send comes in on the
//! connections they dialled ([`inbound`]) and goes to the core as events. A link that is down or full drops what it is
//! given and tells consensus, which sends again.

mod callers;
mod inbound;
mod link;
mod presence;
mod pulse;
mod snapshot;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
};

use net::{
    io::{Guest, Stream},
    peer::{Answer, Call, Handshake, PROTOCOL_MIN_VERSION, PROTOCOL_VERSION, Purpose, Verdict},
};
use raft::{Message, MessageType};
use storage::{tree::Root, wal::Identity};

use super::{mailbox::Sender, now_ns};
use crate::{
    bell::Bell,
    config::{Config, ETCD_VERSION},
    member::{ENTRY_KINDS, Event, Membership},
    metrics::CoreMetrics,
};
use callers::Callers;
pub(super) use link::resolve;
use link::{Link, Outgoing};
use presence::Presence;

/// What is said of a member that is refused is said again after this long. Units: nanoseconds.
const REFUSED_AGAIN_NS: u64 = 60_000_000_000;
/// Members that this is remembered of.
const REFUSED_MAX: usize = 256;

/// The links of one member.
pub struct Peers {
    ctx: Rc<Context>,
    links: BTreeMap<u64, Rc<Link>>,
    /// Whom to talk to before the members are known from the log.
    first: BTreeMap<u64, Vec<String>>,
}

/// What every connection needs to know.
struct Context {
    member_id: u64,
    cluster_id: u64,
    to_core: Sender<Event>,
    members: RefCell<Arc<Membership>>,
    data_dir: PathBuf,
    /// Counters of the other members.
    metrics: Arc<CoreMetrics>,
    /// A snapshot is being received, or received and not yet dealt with.
    receiving: Cell<bool>,
    /// Snapshots are sent no faster. Units: bytes a second.
    snapshot_rate: Option<u64>,
    /// Members that a snapshot is being sent to.
    sending: RefCell<BTreeSet<u64>>,
    /// Members that were refused, why, and when that was said.
    refused: RefCell<BTreeMap<u64, (Verdict, u64)>>,
    presence: Presence,
    callers: Callers,
    /// Of each link, to be rung when its member has dialled.
    knocks: RefCell<BTreeMap<u64, Bell>>,
}

impl Peers {
    /// No links yet. `first`: peer URLs of the members that a new or joining member begins with.
    pub fn new(
        identity: Identity,
        config: &Config,
        first: BTreeMap<u64, Vec<String>>,
        to_core: Sender<Event>,
        metrics: Arc<CoreMetrics>,
    ) -> Peers {
        let ctx = Context {
            member_id: identity.member_id,
            cluster_id: identity.cluster_id,
            to_core,
            members: RefCell::default(),
            data_dir: config.data_dir.clone(),
            metrics,
            receiving: Cell::new(false),
            snapshot_rate: config.snapshot_send_rate,
            sending: RefCell::default(),
            refused: RefCell::default(),
            presence: Presence::default(),
            callers: Callers::default(),
            knocks: RefCell::default(),
        };
        let mut peers = Peers {
            ctx: Rc::new(ctx),
            links: BTreeMap::new(),
            first,
        };
        peers.relink();
        peers
    }

    /// Follows the member list: new members are dialled, those that are gone let go.
    pub fn follow(&mut self, members: &Arc<Membership>) {
        if !Arc::ptr_eq(&self.ctx.members.borrow(), members) {
            *self.ctx.members.borrow_mut() = members.clone();
            self.relink();
        }
    }

    fn relink(&mut self) {
        let members = self.ctx.members.borrow().clone();
        let mut wanted: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        if !members.members.contains_key(&self.ctx.member_id) {
            wanted.extend(self.first.clone());
        }
        wanted.extend(
            members
                .members
                .iter()
                .map(|(id, member)| (*id, member.peer_urls.clone())),
        );
        wanted.retain(|id, _| *id != self.ctx.member_id && !members.removed.contains(id));
        self.links.retain(|id, link| {
            let stays = wanted.contains_key(id);
            if !stays {
                link.close();
            }
            stays
        });
        for (id, urls) in wanted {
            match self.links.get(&id) {
                Some(link) => link.set_urls(urls),
                None => {
                    let link = Link::start(self.ctx.clone(), id, urls);
                    self.links.insert(id, link);
                }
            }
        }
    }

    /// Sends messages of consensus, each to its member.
    ///
    /// A snapshot goes on a connection of its own, with the pages of the newest durable root, which `root` gives.
    pub fn send(&self, messages: Vec<Message>, root: impl Fn() -> Arc<Root>) {
        for message in messages {
            let Some(link) = self.links.get(&message.to) else {
                if message.msg_type == MessageType::MsgSnap {
                    // Consensus waits for the end of every snapshot.
                    let (to, ok) = (message.to, false);
                    self.ctx.tell(Event::SnapshotSent { to, ok });
                }
                continue;
            };
            if message.msg_type == MessageType::MsgSnap {
                snapshot::start(self.ctx.clone(), link.urls(), message, root());
            } else {
                link.send(Outgoing::Message(message));
            }
        }
    }

    /// The snapshot that was received is dealt with; `installed`, or not wanted.
    pub fn snapshot_done(&self, installed: bool) {
        let ctx = self.ctx.clone();
        match installed {
            true => ctx.receiving.set(false),
            false => drop(glommio::spawn_local(async move { snapshot::discard(&ctx).await }).detach()),
        }
    }

    /// Sends requests to the leader.
    pub fn call(&self, calls: Vec<(u64, Call)>) {
        for (to, call) in calls {
            if let Some(link) = self.links.get(&to) {
                link.send(Outgoing::Call(call));
            }
        }
    }

    /// Sends answers.
    pub fn answer(&self, answers: Vec<(u64, Answer)>) {
        for (to, answer) in answers {
            if let Some(link) = self.links.get(&to) {
                link.send(Outgoing::Answer(answer));
            }
        }
    }

    /// What to do with a connection that another member dialled.
    pub fn door(&self) -> impl Fn(Stream, Guest) + 'static {
        let ctx = self.ctx.clone();
        move |stream, guest| drop(glommio::spawn_local(inbound::serve(ctx.clone(), stream, guest)).detach())
    }

    /// Lets all links go, once what they hold is sent.
    pub fn close(&self) {
        self.links.values().for_each(|link| link.close());
    }
}

impl Context {
    fn handshake(&self, to: u64, purpose: Purpose) -> Handshake {
        Handshake {
            version: PROTOCOL_VERSION,
            min_version: PROTOCOL_MIN_VERSION,
            cluster_id: self.cluster_id,
            from: self.member_id,
            to,
            entry_kinds: ENTRY_KINDS,
            etcd_version: ETCD_VERSION.to_owned(),
            purpose,
            verdict: Verdict::Accepted,
        }
    }

    /// What to say to a member that dialled.
    fn judge(&self, theirs: &Handshake) -> Verdict {
        if theirs.cluster_id != self.cluster_id {
            Verdict::WrongCluster
        } else if theirs.min_version > PROTOCOL_VERSION || theirs.version < PROTOCOL_MIN_VERSION {
            Verdict::WrongVersion
        } else if self.members.borrow().removed.contains(&theirs.from) {
            Verdict::Removed
        } else if theirs.to != self.member_id || theirs.from == self.member_id {
            Verdict::WrongMember
        } else {
            Verdict::Accepted
        }
    }

    /// Says that a member is refused, and why; of one that keeps trying, from time to time only.
    fn refuse(&self, theirs: &Handshake, verdict: Verdict) {
        let (mut refused, now_ns) = (self.refused.borrow_mut(), now_ns());
        let said = refused.get(&theirs.from);
        if said.is_some_and(|(why, since_ns)| *why == verdict && now_ns < since_ns + REFUSED_AGAIN_NS) {
            return;
        }
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        refused.insert(theirs.from, (verdict, now_ns));
        tracing::warn!(
            peer = format!("{:x}", theirs.from),
            its_cluster = format!("{:x}", theirs.cluster_id),
            our_cluster = format!("{:x}", self.cluster_id),
            ?verdict,
            reason = match verdict {
                Verdict::WrongCluster =>
                    "it belongs to another cluster; check --initial-cluster-token and its peer URLs",
                Verdict::WrongMember => "it looks for another member at this address; check the peer URLs",
                Verdict::Removed => "it was removed from the cluster",
                Verdict::WrongVersion => "its version of the peer protocol is too far from ours; upgrade step by step",
                Verdict::Accepted => "",
            },
            "a member that dialled us is refused"
        );
    }

    /// A member has shaken hands and was accepted.
    fn greeted(&self, id: u64, theirs: &Handshake) {
        self.tell(Event::Greeted {
            id,
            entry_kinds: theirs.entry_kinds,
            etcd_version: theirs.etcd_version.clone(),
        });
    }

    /// The process of a member has ended.
    fn gone(&self, id: u64) {
        tracing::info!(peer = format!("{id:x}"), "the peer's process has ended");
        self.tell(Event::Gone(id));
    }

    fn tell(&self, event: Event) {
        // The core outlives its links.
        let _ = self.to_core.send(event);
    }
}
