//! Installing another member's state, with a crash at each step of it: the engine over a disk, without a network.

#[path = "engine/options.rs"]
mod options;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use etcore::{
    member::{Engine, Event, INCOMING, MemberOptions, Outputs, Request},
    metrics::CoreMetrics,
};
use net::pb::etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader};
use options::{MS, founders};
use prost::Message as _;
use raft::{ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use storage::{
    io::{Disk, Op, OpenOptions, Output, SimDisk, StdDisk, WriteBuf},
    tree::Root,
};
use tempfile::TempDir;

const LEADER: u64 = 1;
const FOLLOWER: u64 = 2;

fn options(member_id: u64) -> MemberOptions {
    // The follower joins: it begins with nothing.
    let first = if member_id == LEADER {
        founders(&[LEADER])
    } else {
        Vec::new()
    };
    options::options(member_id, first)
}

/// A member on a directory. Dropping it is a crash.
struct Member {
    engine: Engine,
    disk: Box<dyn Disk>,
    now_ns: u64,
}

impl Member {
    fn boot(dir: &Path, id: u64) -> Member {
        Member::boot_on(StdDisk::new(dir).expect("the directory can be used"), id)
    }

    fn boot_on(mut disk: impl Disk + 'static, id: u64) -> Member {
        let engine = Engine::boot(&mut disk, options(id), Arc::new(CoreMetrics::default()), 1).expect("it boots");
        Member {
            engine,
            disk: Box::new(disk),
            now_ns: 1,
        }
    }

    fn turn(&mut self, mut events: Vec<Event>) -> Outputs {
        self.now_ns += MS;
        let mut out = Outputs::default();
        self.engine
            .turn(&mut *self.disk, &mut events, self.now_ns, &mut out)
            .expect("no fault");
        out
    }

    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.engine.hurry();
            self.turn(Vec::new());
            if self.engine.is_settled() {
                return;
            }
        }
        panic!("it never settles");
    }
}

/// What an entry of a put holds.
fn put(id: u64) -> Bytes {
    let put = PutRequest {
        key: format!("key{id}").into(),
        value: vec![b'v'; 300].into(),
        ..PutRequest::default()
    };
    let request = InternalRaftRequest {
        header: Some(RequestHeader {
            id: 1000 + id,
            ..RequestHeader::default()
        }),
        put: Some(put),
        ..InternalRaftRequest::default()
    };
    request.encode_to_vec().into()
}

/// A leader with some puts, all of them in its tree.
fn leader(dir: &Path) -> Member {
    let mut member = Member::boot(dir, LEADER);
    for _ in 0..50 {
        member.turn(Vec::new());
    }
    assert_eq!(member.engine.view().leader, LEADER);
    for id in 0..300 {
        let data = put(id);
        member.turn(vec![Event::Request {
            shard: 0,
            id: 1000 + id,
            request: Request::Propose { data },
        }]);
    }
    member.settle();
    member
}

/// The file that the pages of a root make.
fn pages(root: &Root) -> Vec<u8> {
    let mut file = vec![0; root.size_bytes() as usize];
    let metas = root.meta_bytes();
    file[..metas.len()].copy_from_slice(&metas);
    for run in root.runs().expect("the tree is whole") {
        let bytes = root.run_bytes(run);
        let start = run.0 as usize * root.page_size();
        file[start..start + bytes.len()].copy_from_slice(bytes);
    }
    file
}

/// Lays the leader's pages beside the follower's tree, as the shell does, and gives the message to go with them.
fn receive(root: &Root, dir: &Path) -> Box<Message> {
    std::fs::write(dir.join(INCOMING), pages(root)).expect("the directory can be written");
    received(root)
}

/// As [`receive`], durably, on a simulated disk.
fn receive_on(root: &Root, disk: &mut SimDisk) -> Box<Message> {
    let options = OpenOptions {
        create: true,
        write: true,
        ..OpenOptions::default()
    };
    let path = INCOMING.to_owned();
    let Ok(Output::File(file)) = disk.call(Op::Open { path, options }) else {
        panic!("a file can be made")
    };
    let data = WriteBuf::Bytes(pages(root).into());
    for op in [
        Op::Write { file, offset: 0, data },
        Op::Sync(file),
        Op::Close(file),
        Op::SyncDir(String::new()),
    ] {
        disk.call(op).expect("this disk is well");
    }
    received(root)
}

fn received(root: &Root) -> Box<Message> {
    let user = root.user();
    let metadata = SnapshotMetadata {
        conf_state: ConfState::decode(&user.conf_state).expect("a configuration"),
        index: user.applied_index,
        term: user.applied_term,
    };
    Box::new(Message {
        msg_type: MessageType::MsgSnap,
        from: LEADER,
        to: FOLLOWER,
        term: user.applied_term,
        snapshot: Some(Snapshot {
            metadata,
            ..Snapshot::default()
        }),
        ..Message::default()
    })
}

fn assert_same(follower: &Engine, leader: &Engine) {
    let (theirs, ours) = (leader.view(), follower.view());
    assert_eq!(ours.applied_index, theirs.applied_index);
    assert_eq!(ours.revision(), theirs.revision());
    assert_eq!(ours.members, theirs.members);
}

#[test]
fn an_installed_snapshot_is_acknowledged_after_its_marker_and_survives_a_crash() {
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let leader = leader(dirs.0.path());
    let mut follower = Member::boot(dirs.1.path(), FOLLOWER);
    let message = receive(&leader.engine.durable_root(), dirs.1.path());
    let index = message.snapshot.as_ref().unwrap().metadata.index;
    let (mut done, mut installed, mut answers) = (false, false, Vec::new());
    let mut events = vec![Event::SnapshotReceived(message)];
    for _ in 0..20 {
        let out = follower.turn(std::mem::take(&mut events));
        assert!(
            installed || out.installed || out.messages.is_empty(),
            "acknowledged before it is installed"
        );
        done |= out.snapshot_done;
        installed |= out.installed;
        answers.extend(out.messages);
    }
    assert!(done && installed);
    assert!(
        answers
            .iter()
            .any(|m| m.msg_type == MessageType::MsgAppResp && m.index == index)
    );
    assert_same(&follower.engine, &leader.engine);
    drop(follower);
    assert!(!dirs.1.path().join(INCOMING).exists());
    let again = Member::boot(dirs.1.path(), FOLLOWER);
    assert_same(&again.engine, &leader.engine);
}

#[test]
fn a_crash_before_the_marker_leaves_the_old_state() {
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let leader = leader(dirs.0.path());
    drop(Member::boot(dirs.1.path(), FOLLOWER));
    let _ = receive(&leader.engine.durable_root(), dirs.1.path());
    let follower = Member::boot(dirs.1.path(), FOLLOWER);
    assert_eq!(follower.engine.view().applied_index, 0);
    assert!(
        !dirs.1.path().join(INCOMING).exists(),
        "what was received is thrown away"
    );
}

#[test]
fn a_crash_between_marker_and_rename_is_finished_at_the_next_start() {
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let leader = leader(dirs.0.path());
    let mut follower = Member::boot(dirs.1.path(), FOLLOWER);
    let message = receive(&leader.engine.durable_root(), dirs.1.path());
    // This disk performs what is submitted at once, and the engine hears of it one turn later.
    let out = follower.turn(vec![Event::SnapshotReceived(message)]);
    assert!(!out.installed && dirs.1.path().join(INCOMING).exists());
    drop(follower);
    let mut again = Member::boot(dirs.1.path(), FOLLOWER);
    assert_same(&again.engine, &leader.engine);
    assert!(!dirs.1.path().join(INCOMING).exists());
    again.settle();
    drop(again);
    assert_same(&Member::boot(dirs.1.path(), FOLLOWER).engine, &leader.engine);
}

#[test]
fn what_follows_an_installed_snapshot_survives_a_power_failure() {
    let dir = TempDir::new().unwrap();
    let root = leader(dir.path()).engine.durable_root();
    for seed in 0..10 {
        let mut disk = SimDisk::new();
        let mut follower = Member::boot_on(disk.clone(), FOLLOWER);
        let message = receive_on(&root, &mut disk);
        let (index, term) = (root.user().applied_index, root.user().applied_term);
        let mut out = follower.turn(vec![Event::SnapshotReceived(message)]);
        while !out.installed {
            out = follower.turn(Vec::new());
        }
        let next = Message {
            msg_type: MessageType::MsgApp,
            from: LEADER,
            to: FOLLOWER,
            term,
            log_term: term,
            index,
            entries: vec![Entry::normal(term, index + 1, put(300))],
            commit: index + 1,
            ..Message::default()
        };
        follower.turn(vec![Event::Peer(Box::new(next))]);
        follower.settle();
        assert_eq!(follower.engine.durable_root().user().applied_index, index + 1);
        drop(follower);
        let again = Member::boot_on(disk.crash_image(seed), FOLLOWER);
        assert_eq!(again.engine.view().applied_index, index + 1, "seed {seed}");
    }
}
