//! Installing another member's state, with a crash at each step of it: the engine over a disk, without a network.

#[path = "engine/options.rs"]
mod options;

use std::{
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use etcore::{
    member::{Engine, Event, INCOMING, Inbound, MemberOptions, Outbound, Outputs, Request, Step},
    metrics::CoreMetrics,
};
use net::pb::etcdserverpb::{InternalRaftRequest, LeaseGrantRequest, PutRequest, RequestHeader};
use options::{MS, founders};
use prost::Message as _;
use raft::{Entry, Message, MessageType};
use storage::{
    io::{Completion, Disk, DiskError, FileId, Op, OpenOptions, Output, Pages, SimDisk, StdDisk, Token, WriteBuf},
    tree::Root,
};
use tempfile::TempDir;

const LEADER: u64 = 1;
const FOLLOWER: u64 = 2;
const PUTS_A_TURN: usize = 20;

fn options(member_id: u64) -> MemberOptions {
    // The follower joins: it begins with nothing.
    let first = if member_id == LEADER {
        founders(&[LEADER])
    } else {
        Vec::new()
    };
    options::options(member_id, first)
}

/// A member on a disk. Dropping it is a crash.
struct Member<D: Disk = StdDisk> {
    engine: Engine,
    disk: D,
    now_ns: u64,
}

impl Member {
    fn boot(dir: &Path, id: u64) -> Member {
        let disk = StdDisk::new(dir).expect("the directory can be used");
        Member::on(disk, options(id))
    }
}

impl<D: Disk> Member<D> {
    fn on(mut disk: D, options: MemberOptions) -> Self {
        let engine = Engine::boot(&mut disk, options, Arc::new(CoreMetrics::default()), 1).expect("it boots");
        Member {
            engine,
            disk,
            now_ns: 1,
        }
    }

    fn turn(&mut self, mut events: Vec<Event>) -> Outputs {
        self.now_ns += MS;
        let mut out = Outputs::default();
        self.engine
            .turn(&mut self.disk, &mut events, self.now_ns, &mut out)
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

/// A leader with some puts, all of them in its tree.
fn leader(dir: &Path) -> Member {
    leader_with(dir, 300, 300)
}

fn leader_with(dir: &Path, puts: u64, value_bytes: usize) -> Member {
    let put = |id| InternalRaftRequest {
        put: Some(PutRequest {
            key: format!("key{id}").into(),
            value: vec![b'v'; value_bytes].into(),
            ..PutRequest::default()
        }),
        ..InternalRaftRequest::default()
    };
    leader_of((0..puts).map(put), dir, options(LEADER))
}

/// A leader that has applied these requests, all of which are in its tree.
fn leader_of(requests: impl Iterator<Item = InternalRaftRequest>, dir: &Path, options: MemberOptions) -> Member {
    let disk = StdDisk::new(dir).expect("the directory can be used");
    let mut member = Member::on(disk, options);
    for _ in 0..50 {
        member.turn(Vec::new());
    }
    assert_eq!(member.engine.view().leader, LEADER);
    let mut events = Vec::new();
    for (id, request) in (1000..).zip(requests) {
        let header = RequestHeader {
            id,
            ..RequestHeader::default()
        };
        let request = InternalRaftRequest {
            header: Some(header),
            ..request
        };
        let data = request.encode_to_vec().into();
        events.push(Event::Request {
            shard: 0,
            id,
            request: Request::Propose { data },
        });
        if events.len() == PUTS_A_TURN {
            member.turn(std::mem::take(&mut events));
        }
    }
    member.turn(events);
    member.settle();
    member
}

/// Lays the leader's pages beside the follower's tree, as the shell does, and gives the message to go with them.
fn receive(root: Arc<Root>, disk: &mut dyn Disk) -> Box<Message> {
    let message = Message {
        msg_type: MessageType::MsgSnap,
        from: LEADER,
        to: FOLLOWER,
        term: root.user().applied_term,
        ..Message::default()
    };
    let options = OpenOptions {
        create: true,
        write: true,
        ..OpenOptions::default()
    };
    let path = INCOMING.to_owned();
    let Ok(Output::File(file)) = disk.call(Op::Open { path, options }) else {
        panic!("the disk can be written");
    };
    let mut outbound = Outbound::plan(root, 8 << 10).expect("the tree is whole");
    let mut inbound = Inbound::default();
    while let Some(piece) = outbound.next_piece() {
        let op = match inbound.take(&piece.into()).expect("pieces in order") {
            Step::Write { offset, bytes } => Op::Write {
                file,
                offset,
                data: WriteBuf::Bytes(bytes),
            },
            Step::End { len } => Op::SetLen(file, len),
        };
        disk.call(op).expect("the disk can be written");
    }
    for op in [Op::Sync(file), Op::Close(file), Op::SyncDir(String::new())] {
        disk.call(op).expect("the disk can be written");
    }
    Box::new(outbound.describe(message).expect("a configuration"))
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
    let message = receive(leader.engine.durable_root(), &mut follower.disk);
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
fn a_large_state_is_read_in_slices_and_heartbeats_are_answered_between_them() {
    const PUTS: u64 = 5000;
    let slice_rows = options(FOLLOWER).install_slice_rows as u64;
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let leader = leader_with(dirs.0.path(), PUTS, 10);
    let mut follower = Member::boot(dirs.1.path(), FOLLOWER);
    let message = receive(leader.engine.durable_root(), &mut follower.disk);
    let heartbeat = || {
        Event::Peer(Box::new(Message {
            msg_type: MessageType::MsgHeartbeat,
            from: LEADER,
            to: FOLLOWER,
            term: message.term,
            ..Message::default()
        }))
    };
    let mut events = vec![Event::SnapshotReceived(message.clone())];
    let (mut turns, mut waits, mut answered) = (0, 0, 0);
    loop {
        let out = follower.turn(std::mem::take(&mut events));
        answered += out
            .messages
            .iter()
            .filter(|m| m.msg_type == MessageType::MsgHeartbeatResp)
            .count() as u64;
        if out.installed {
            break;
        }
        if dirs.1.path().join(INCOMING).exists() {
            continue;
        }
        waits += u64::from(!out.more);
        assert!(waits <= 2, "but for the new name and its sync, it goes on by itself");
        assert_eq!(
            follower.engine.view().applied_index,
            0,
            "the old state stands until the new one is whole"
        );
        turns += 1;
        events.push(heartbeat());
        assert!(turns < 1000, "it ends");
    }
    // Each row once for the index, each key once for its lease, and no more of either in a turn; and what is few.
    let least = 2 * PUTS / slice_rows;
    assert!((least..least + 9).contains(&turns), "{turns} turns");
    assert!(answered >= turns - 1, "{answered} heartbeats of {turns} were answered");
    assert_same(&follower.engine, &leader.engine);
    drop(follower);
    assert_same(&Member::boot(dirs.1.path(), FOLLOWER).engine, &leader.engine);
}

/// A disk that counts what its user does itself, instead of having it done.
struct CountingDisk {
    inner: StdDisk,
    /// Pages that were looked at.
    pages: Arc<AtomicUsize>,
    /// Calls that wait for the disk.
    waits: usize,
}

struct CountingPages {
    inner: Arc<dyn Pages>,
    looks: Arc<AtomicUsize>,
}

impl Pages for CountingPages {
    fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        self.looks.fetch_add(1, Relaxed);
        self.inner.bytes(offset, len)
    }
}

impl Disk for CountingDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.inner.submit(token, op);
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.inner.poll(completions);
    }

    fn call(&mut self, op: Op) -> Result<Output, DiskError> {
        self.waits += usize::from(!matches!(
            op,
            Op::Open { .. } | Op::Len(_) | Op::Read { .. } | Op::Close(_)
        ));
        self.inner.call(op)
    }

    fn map(&mut self, file: FileId, reserve: u64) -> Result<Arc<dyn Pages>, DiskError> {
        let looks = self.pages.clone();
        let inner = self.inner.map(file, reserve)?;
        Ok(Arc::new(CountingPages { inner, looks }))
    }
}

#[test]
fn no_turn_of_an_installation_does_more_than_a_slice_or_waits_for_the_disk() {
    const SLICE: usize = 32;
    const PUTS: u64 = 8000;
    const LEASES: u64 = 2000;
    let small = |id| MemberOptions {
        tree_page_bytes: 512,
        install_slice_rows: SLICE,
        ..options(id)
    };
    let put = |id| InternalRaftRequest {
        put: Some(PutRequest {
            key: format!("key{id:05}").into(),
            value: "value".into(),
            ..PutRequest::default()
        }),
        ..InternalRaftRequest::default()
    };
    let grant = |id| InternalRaftRequest {
        lease_grant: Some(LeaseGrantRequest {
            id: id as i64,
            ttl: 600,
        }),
        ..InternalRaftRequest::default()
    };
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let requests = (1..=LEASES).map(grant).chain((0..PUTS).map(put));
    let leader = leader_of(requests, dirs.0.path(), small(LEADER));
    let pages = Arc::new(AtomicUsize::new(0));
    let disk = CountingDisk {
        inner: StdDisk::new(dirs.1.path()).expect("the directory can be used"),
        pages: pages.clone(),
        waits: 0,
    };
    let mut follower = Member::on(disk, small(FOLLOWER));
    let message = receive(leader.engine.durable_root(), &mut follower.disk);
    let mut events = vec![Event::SnapshotReceived(message)];
    let (mut most, mut all) = (0, 0);
    loop {
        pages.store(0, Relaxed);
        follower.disk.waits = 0;
        let out = follower.turn(std::mem::take(&mut events));
        assert_eq!(follower.disk.waits, 0, "it waits for the disk");
        let looks = pages.load(Relaxed);
        (most, all) = (most.max(looks), all + looks);
        if out.installed {
            break;
        }
    }
    // Several rows share a page.
    assert!(most <= SLICE, "{most} of {all} looks at pages in one turn");
    assert!(all > 50 * SLICE, "{all} looks at pages are too few to tell");
    assert_same(&follower.engine, &leader.engine);
}

#[test]
fn what_a_snapshot_replaced_is_given_out_to_be_freed_elsewhere() {
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let leader = leader(dirs.0.path());
    let mut follower = Member::boot(dirs.1.path(), FOLLOWER);
    let root = Arc::downgrade(&follower.engine.durable_root());
    let mut events = vec![Event::SnapshotReceived(receive(
        leader.engine.durable_root(),
        &mut follower.disk,
    ))];
    let (mut out, view) = loop {
        let view = Arc::downgrade(&follower.engine.view());
        let out = follower.turn(std::mem::take(&mut events));
        if out.installed {
            break (out, view);
        }
    };
    let outgrown = out.outgrown.take().expect("there was a state before");
    drop(out);
    assert!(
        view.strong_count() > 0 && root.strong_count() > 0,
        "nothing was freed yet"
    );
    drop(outgrown);
    assert_eq!((view.strong_count(), root.strong_count()), (0, 0), "nobody else has it");
    assert_same(&follower.engine, &leader.engine);
}

#[test]
fn a_crash_while_the_state_is_read_is_finished_at_the_next_start() {
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let leader = leader_with(dirs.0.path(), 3000, 10);
    let mut follower = Member::boot(dirs.1.path(), FOLLOWER);
    let mut events = vec![Event::SnapshotReceived(receive(
        leader.engine.durable_root(),
        &mut follower.disk,
    ))];
    while dirs.1.path().join(INCOMING).exists() {
        assert!(
            !follower.turn(std::mem::take(&mut events)).installed,
            "it takes more than a turn"
        );
    }
    drop(follower);
    assert_same(&Member::boot(dirs.1.path(), FOLLOWER).engine, &leader.engine);
}

#[test]
fn a_crash_before_the_marker_leaves_the_old_state() {
    let dirs = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let leader = leader(dirs.0.path());
    let mut follower = Member::boot(dirs.1.path(), FOLLOWER);
    let _ = receive(leader.engine.durable_root(), &mut follower.disk);
    drop(follower);
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
    let message = receive(leader.engine.durable_root(), &mut follower.disk);
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
fn a_damaged_member_that_ends_between_marker_and_rename_starts_with_what_it_received() {
    // Of its file all is left, or the meta pages only.
    for all_left in [true, false] {
        let dirs = [(); 3].map(|()| TempDir::new().unwrap());
        let [first, second, own] = dirs.each_ref().map(TempDir::path);
        let (before, leader) = (leader(first), leader_with(second, 500, 300));
        let mut follower = Member::boot(own, FOLLOWER);
        let message = receive(before.engine.durable_root(), &mut follower.disk);
        let mut events = vec![Event::SnapshotReceived(message)];
        while !follower.turn(std::mem::take(&mut events)).installed {}
        follower.settle();
        drop(follower);
        std::fs::write(own.join("tree.damaged"), "a test says so").unwrap();
        if !all_left {
            let tree = std::fs::OpenOptions::new().write(true).open(own.join("tree")).unwrap();
            tree.write_all_at(&[0; 64 << 10], 2 * 4096).unwrap();
        }

        let mut follower = Member::boot(own, FOLLOWER);
        assert!(follower.engine.is_refilling());
        let message = receive(leader.engine.durable_root(), &mut follower.disk);
        let out = follower.turn(vec![Event::SnapshotReceived(message)]);
        assert!(!out.installed && own.join(INCOMING).exists());
        drop(follower);
        for _ in 0..2 {
            let again = Member::boot(own, FOLLOWER);
            assert!(!again.engine.is_refilling() && !own.join("tree.damaged").exists());
            assert_same(&again.engine, &leader.engine);
        }
    }
}

#[test]
fn a_snapshot_that_finds_the_log_full_is_taken_over_once_there_is_room_again() {
    let dir = TempDir::new().unwrap();
    let leader = leader(dir.path());
    let disk = SimDisk::new();
    let small = MemberOptions {
        wal_segment_bytes: Some(16 << 10),
        ..options(FOLLOWER)
    };
    let mut follower = Member::on(disk.clone(), small);
    let message = receive(leader.engine.durable_root(), &mut follower.disk);
    disk.set_capacity(Some(disk.used()));
    // Entries that are not committed stay in the log until there is no room for more.
    for index in 1..=40 {
        let append = Message {
            msg_type: MessageType::MsgApp,
            from: LEADER,
            to: FOLLOWER,
            term: message.term,
            index: index - 1,
            log_term: if index == 1 { 0 } else { 1 },
            entries: vec![Entry::normal(1, index, vec![0; 3000])],
            ..Message::default()
        };
        follower.turn(vec![Event::Peer(Box::new(append))]);
    }
    let mut installed = follower.turn(vec![Event::SnapshotReceived(message)]).installed;
    for _ in 0..3000 {
        installed |= follower.turn(Vec::new()).installed;
    }
    assert!(!installed, "its marker has no room");
    disk.set_capacity(None);
    for _ in 0..3000 {
        installed |= follower.turn(Vec::new()).installed;
    }
    assert!(installed);
    assert_same(&follower.engine, &leader.engine);
}

#[test]
fn what_follows_an_installed_snapshot_survives_a_power_failure() {
    let dir = TempDir::new().unwrap();
    let root = leader(dir.path()).engine.durable_root();
    let (index, term) = (root.user().applied_index, root.user().applied_term);
    for seed in 0..10 {
        let disk = SimDisk::new();
        let mut follower = Member::on(disk.clone(), options(FOLLOWER));
        let message = receive(root.clone(), &mut follower.disk);
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
            entries: vec![Entry::normal(term, index + 1, "")],
            commit: index + 1,
            ..Message::default()
        };
        follower.turn(vec![Event::Peer(Box::new(next))]);
        for _ in 0..200 {
            follower.engine.hurry();
            follower.turn(Vec::new());
        }
        assert_eq!(follower.engine.durable_root().user().applied_index, index + 1);
        drop(follower);
        let again = Member::on(disk.crash_image(seed), options(FOLLOWER));
        assert_eq!(again.engine.view().applied_index, index + 1, "seed {seed}");
    }
}
