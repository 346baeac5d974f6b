//! Members of different versions in one cluster: the engine as leader, with the other member played by hand.

#[path = "engine/options.rs"]
mod options;

use std::sync::Arc;

use etcore::{
    member::{ENTRY_KINDS, Engine, Event, Outputs, Request},
    metrics::CoreMetrics,
};
use net::pb::{
    etcdserverpb::{InternalRaftRequest, LeaseGrantRequest, RequestHeader},
    membershippb::DowngradeInfoSetRequest,
};
use options::{MS, founders};
use prost::Message as _;
use raft::{Entry, EntryType, Message, MessageType};
use storage::io::SimDisk;

const ME: u64 = 1;
const OTHER: u64 = 2;
/// Every kind that etcd 3.6 has.
const ETCDS_KINDS: u64 = 1;

/// A leader whose one follower agrees with everything.
struct Leader {
    engine: Engine,
    disk: SimDisk,
    now_ns: u64,
    events: Vec<Event>,
    /// What it put into the log, from its own messages.
    entries: Vec<Entry>,
}

impl Leader {
    fn new() -> Leader {
        let mut disk = SimDisk::new();
        let options = options::options(ME, founders(&[ME, OTHER]));
        let engine = Engine::boot(&mut disk, options, Arc::new(CoreMetrics::default()), 1).expect("it boots");
        let mut leader = Leader {
            engine,
            disk,
            now_ns: 1,
            events: Vec::new(),
            entries: Vec::new(),
        };
        for _ in 0..1000 {
            leader.turn();
            if leader.engine.view().leader == ME {
                return leader;
            }
        }
        panic!("it does not become leader");
    }

    fn turn(&mut self) {
        self.now_ns += MS;
        let mut out = Outputs::default();
        let mut events = std::mem::take(&mut self.events);
        self.engine
            .turn(&mut self.disk, &mut events, self.now_ns, &mut out)
            .expect("no fault");
        for message in out.messages {
            self.entries.extend(message.entries.iter().cloned());
            let reply = agree(&message);
            self.events.extend(reply.map(|reply| Event::Peer(Box::new(reply))));
        }
    }

    fn run(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.turn());
    }

    fn greet(&mut self, entry_kinds: u64, etcd_version: &str) {
        self.events.push(Event::Greeted {
            id: OTHER,
            entry_kinds,
            etcd_version: etcd_version.to_owned(),
        });
    }

    /// Grants a short lease, lets it expire, and gives the requests that revoked it.
    fn expire_lease(&mut self, id: i64) -> Vec<InternalRaftRequest> {
        let request = InternalRaftRequest {
            header: Some(RequestHeader {
                id: id as u64,
                ..RequestHeader::default()
            }),
            lease_grant: Some(LeaseGrantRequest { id, ttl: 1 }),
            ..InternalRaftRequest::default()
        };
        let data = request.encode_to_vec().into();
        self.events.push(Event::Request {
            shard: 0,
            id: id as u64,
            request: Request::Propose { data },
        });
        self.run(100);
        self.entries.clear();
        self.run(2500);
        let requests = self
            .entries
            .iter()
            .filter(|entry| entry.entry_type == EntryType::Normal);
        let requests = requests.map(|entry| InternalRaftRequest::decode(entry.data.clone()).expect("a request"));
        requests
            .filter(|request| request.lease_revoke.is_some() || request.lease_revoke_batch.is_some())
            .collect()
    }
}

/// What a follower that has all it is sent answers.
fn agree(message: &Message) -> Option<Message> {
    let (msg_type, index) = match message.msg_type {
        MessageType::MsgPreVote => (MessageType::MsgPreVoteResp, 0),
        MessageType::MsgVote => (MessageType::MsgVoteResp, 0),
        MessageType::MsgApp => (MessageType::MsgAppResp, message.index + message.entries.len() as u64),
        MessageType::MsgHeartbeat => (MessageType::MsgHeartbeatResp, 0),
        _ => return None,
    };
    Some(Message {
        msg_type,
        from: OTHER,
        to: ME,
        term: message.term,
        index,
        context: message.context.clone(),
        ..Message::default()
    })
}

#[test]
fn leases_are_revoked_in_batches_only_once_every_member_is_known_to_apply_them() {
    let mut leader = Leader::new();
    let revoked = leader.expire_lease(11);
    assert!(!revoked.is_empty(), "nothing revoked the lease");
    assert!(
        revoked.iter().all(|request| request.lease_revoke.is_some()),
        "{revoked:?}"
    );

    leader.greet(ETCDS_KINDS, "3.6.14");
    let revoked = leader.expire_lease(12);
    assert!(
        !revoked.is_empty() && revoked.iter().all(|request| request.lease_revoke.is_some()),
        "{revoked:?}"
    );

    leader.greet(ENTRY_KINDS, "3.6.14");
    let revoked = leader.expire_lease(13);
    assert!(
        !revoked.is_empty() && revoked.iter().all(|request| request.lease_revoke_batch.is_some()),
        "{revoked:?}"
    );
}

#[test]
fn a_downgrade_waits_until_every_member_is_known_to_apply_it() {
    let mut leader = Leader::new();
    let enable = |leader: &mut Leader, id: u64, kinds: u64| {
        leader.greet(kinds, "3.6.14");
        let request = InternalRaftRequest {
            header: Some(RequestHeader {
                id,
                ..RequestHeader::default()
            }),
            downgrade_info_set: Some(DowngradeInfoSetRequest {
                enabled: true,
                ver: "3.5.0".into(),
            }),
            ..InternalRaftRequest::default()
        };
        let data = request.encode_to_vec().into();
        leader.events.push(Event::Request {
            shard: 0,
            id,
            request: Request::ProposeDowngrade { data },
        });
        leader.run(3000);
        leader.engine.view().members.downgrade_target.clone()
    };
    assert_eq!(enable(&mut leader, 21, 0b11), None, "the other member would stop at it");
    assert_eq!(enable(&mut leader, 22, ENTRY_KINDS).as_deref(), Some("3.5.0"));
    let members = leader.engine.view().members.clone();
    assert_eq!(
        members.cluster_version.as_deref(),
        Some("3.5.0"),
        "the leader follows it"
    );
}

#[test]
fn the_clusters_version_waits_for_all_members_and_is_the_lowest_of_them() {
    let version = |leader: &Leader| leader.engine.view().members.cluster_version.clone();
    let mut leader = Leader::new();
    leader.run(3000);
    assert_eq!(version(&leader), None, "one member has not said its version");
    leader.run(3000);
    assert_eq!(version(&leader).as_deref(), Some("3.0.0"), "that is the least there is");
    leader.greet(ENTRY_KINDS, "3.5.30");
    leader.run(2000);
    assert_eq!(version(&leader).as_deref(), Some("3.5.0"));
    leader.greet(ENTRY_KINDS, "3.6.14");
    leader.run(2000);
    assert_eq!(version(&leader).as_deref(), Some("3.6.0"));
}

#[test]
fn a_committed_entry_of_an_unknown_kind_stops_the_member() {
    let mut disk = SimDisk::new();
    let options = options::options(ME, founders(&[ME, OTHER]));
    let mut engine = Engine::boot(&mut disk, options, Arc::new(CoreMetrics::default()), 1).expect("it boots");
    // A field that no version has yet, beside the header.
    let mut data = InternalRaftRequest::default().encode_to_vec();
    data.extend([0xfa, 0xff, 0x0f, 0x00]);
    let append = Message {
        msg_type: MessageType::MsgApp,
        from: OTHER,
        to: ME,
        term: 2,
        log_term: 1,
        index: 2,
        entries: vec![Entry {
            entry_type: EntryType::Normal,
            term: 2,
            index: 3,
            data: data.into(),
        }],
        commit: 3,
        ..Message::default()
    };
    let mut events = vec![Event::Peer(Box::new(append))];
    let fault = (1..100).find_map(|turn| {
        engine
            .turn(&mut disk, &mut events, turn * MS, &mut Outputs::default())
            .err()
    });
    let text = fault.expect("it stops").to_string();
    assert!(
        text.starts_with("log entry 3 cannot be applied: it holds a kind of request"),
        "{text}"
    );
}
