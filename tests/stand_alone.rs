//! A member made a cluster of one: the engine over a simulated disk, with a crash at each of its calls.

#[path = "engine/options.rs"]
mod options;

use std::sync::{Arc, Mutex};

use etcore::{
    member::{BootError, Engine, Event, Outputs},
    metrics::CoreMetrics,
};
use net::pb::etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader};
use options::{MS, founders};
use prost::Message as _;
use raft::{Entry, EntryType, Message, MessageType};
use storage::io::SimDisk;

const ME: u64 = 2;
const LEADER: u64 = 1;
/// The founders' own changes take the first three.
const FIRST: u64 = 4;

fn boot(disk: &mut SimDisk, forced: bool) -> Result<Engine, BootError> {
    let mut options = options::options(ME, founders(&[LEADER, ME, 3]));
    options.force_new_cluster = forced;
    Engine::boot(disk, options, Arc::new(CoreMetrics::default()), 1)
}

/// Lets time pass without news from others.
fn run(engine: &mut Engine, disk: &mut SimDisk, events: Vec<Event>, turns: u64) {
    let mut events = events;
    for turn in 1..=turns {
        engine
            .turn(disk, &mut events, turn * MS, &mut Outputs::default())
            .expect("no fault");
    }
}

fn put(index: u64) -> Entry {
    let request = InternalRaftRequest {
        header: Some(RequestHeader {
            id: index,
            ..RequestHeader::default()
        }),
        put: Some(PutRequest {
            key: format!("key{index}").into(),
            value: "value".into(),
            ..PutRequest::default()
        }),
        ..InternalRaftRequest::default()
    };
    Entry {
        entry_type: EntryType::Normal,
        term: 2,
        index,
        data: request.encode_to_vec().into(),
    }
}

/// The disk of a follower that has `entries` puts from its leader and knows that `committed` of them are committed.
fn follower(entries: u64, committed: u64) -> SimDisk {
    let mut disk = SimDisk::new();
    let mut engine = boot(&mut disk, false).expect("it boots");
    run(&mut engine, &mut disk, Vec::new(), 5);
    let append = Message {
        msg_type: MessageType::MsgApp,
        from: LEADER,
        to: ME,
        term: 2,
        log_term: 1,
        index: FIRST - 1,
        entries: (FIRST..FIRST + entries).map(put).collect(),
        commit: FIRST - 1 + committed,
        ..Message::default()
    };
    run(&mut engine, &mut disk, vec![Event::Peer(Box::new(append))], 50);
    assert_eq!(engine.view().revision(), 1 + committed as i64);
    engine.hurry();
    run(&mut engine, &mut disk, Vec::new(), 50);
    disk.kill()
}

#[test]
fn it_leads_alone_with_what_was_committed_and_without_what_was_not() {
    let mut disk = follower(9, 6);
    let mut engine = boot(&mut disk, true).expect("it boots");
    run(&mut engine, &mut disk, Vec::new(), 50);
    let view = engine.view();
    assert_eq!((view.leader, view.revision()), (ME, 7));
    assert_eq!(view.members.members.keys().copied().collect::<Vec<_>>(), [ME]);
    assert_eq!(view.members.removed.iter().copied().collect::<Vec<_>>(), [LEADER, 3]);
    // Once it is done it stays so, with the flag or without.
    drop(engine);
    for forced in [false, true] {
        disk = disk.kill();
        let mut engine = boot(&mut disk, forced).expect("it boots");
        run(&mut engine, &mut disk, Vec::new(), 50);
        assert_eq!((engine.view().leader, engine.view().members.members.len()), (ME, 1));
    }
}

#[test]
fn a_crash_at_any_call_leaves_the_old_cluster_or_the_new_one_and_the_next_try_ends_well() {
    let mut disk = follower(9, 6);
    let images = Arc::new(Mutex::new(Vec::new()));
    let taken = images.clone();
    let mut seed = 0;
    disk.on_call(move |disk| {
        seed += 1;
        taken.lock().expect("no panic").push(disk.crash_image(seed));
    });
    let mut engine = boot(&mut disk, true).expect("it boots");
    run(&mut engine, &mut disk, Vec::new(), 30);
    disk.clear_hook();
    let images = std::mem::take(&mut *images.lock().expect("no panic"));
    assert!(images.len() > 5, "only {} calls", images.len());
    let (mut old, mut new) = (0, 0);
    for mut image in images {
        let mut plain = image.kill();
        let mut engine = boot(&mut plain, false).expect("it boots without the flag");
        run(&mut engine, &mut plain, Vec::new(), 50);
        let view = engine.view();
        match (view.members.members.len(), view.leader) {
            (3, 0) => old += 1,
            (1, ME) => new += 1,
            other => panic!("neither the old cluster nor the new one: {other:?}"),
        }
        let mut engine = boot(&mut image, true).expect("it boots with the flag");
        run(&mut engine, &mut image, Vec::new(), 50);
        let view = engine.view();
        assert_eq!((view.leader, view.members.members.len(), view.revision()), (ME, 1, 7));
    }
    assert!(old > 0 && new > 0, "{old} crashes before, {new} after");
}
