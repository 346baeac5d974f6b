//! Histories made by hand, where chance would take long to find them.

use etcore::member::{Event, MemberChange, MemberInfo};
use net::pb::etcdserverpb::{InternalRaftRequest, LeaseRevokeBatchRequest};
use prost::Message as _;
use raft::{Entry, Message, MessageType};

use crate::{
    cluster::{Action, Cluster},
    leases::key_of,
    requests::{self, Ask},
    weather::{MS, SEC, Weather},
};

/// Healthy members with a leader.
fn healthy(members: u64, seed: u64) -> Cluster {
    healthy_in(Weather::fair(members), seed)
}

fn healthy_in(weather: Weather, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(seed, weather, false);
    cluster.calm = true;
    for index in 0..cluster.hosts.len() {
        cluster.plan(0, Action::Boot(index));
    }
    cluster.plan(100 * MS, Action::Links);
    cluster.plan(5 * SEC, Action::Operate);
    assert_eq!(cluster.run(20 * SEC, |cluster| cluster.is_settled()), Ok(true));
    cluster
}

fn go_on(cluster: &mut Cluster, ns: u64) {
    let until_ns = cluster.now_ns + ns;
    cluster.run(until_ns, |_| false).unwrap_or_else(|why| panic!("{why}"));
}

fn put(cluster: &mut Cluster, index: usize) {
    let weather = cluster.weather.clone();
    let put = requests::put(cluster.next_writer, "k000".into(), 0, &mut cluster.rng, &weather);
    cluster.ask(index, Ask::Put(put));
    let before = cluster.known;
    let until_ns = cluster.now_ns + SEC;
    let done = cluster.run(until_ns, |cluster| cluster.known > before);
    assert_eq!(done, Ok(true), "the put is answered");
}

fn read() -> Ask {
    Ask::Read {
        from: "k".into(),
        end: "l".into(),
        revision: 0,
    }
}

fn cut_off(cluster: &mut Cluster, index: usize) {
    for other in (0..cluster.hosts.len()).filter(|other| *other != index) {
        cluster.cut.extend([(index, other), (other, index)]);
    }
}

#[test]
fn the_answer_to_a_read_of_an_earlier_life_is_not_taken_for_one_of_this_life() {
    let mut cluster = healthy(3, 11);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let follower = (leader + 1) % 3;
    put(&mut cluster, leader);
    go_on(&mut cluster, SEC);

    cluster.intercept = Some(MessageType::MsgReadIndexResp);
    cluster.ask(follower, read());
    go_on(&mut cluster, 100 * MS);
    let late = std::mem::take(&mut cluster.intercepted);
    assert!(!late.is_empty(), "the leader has answered the read index");

    cut_off(&mut cluster, follower);
    cluster.crash(follower).unwrap();
    go_on(&mut cluster, 50 * MS);
    put(&mut cluster, leader);
    cluster.ask(follower, read());
    go_on(&mut cluster, 10 * MS);
    for message in late {
        cluster.hosts[follower].up().inbox.push(Event::Peer(Box::new(message)));
    }
    cluster.wake(follower, 0);
    go_on(&mut cluster, 200 * MS);
    assert!(
        cluster.pending.values().any(|pending| pending.host == follower),
        "a member that nobody talks to does not answer a linearizable read"
    );
}

#[test]
fn a_leader_that_stood_still_serves_no_old_reads() {
    let mut cluster = healthy(3, 12);
    let old = cluster.leader().expect("a healthy cluster has a leader");
    put(&mut cluster, old);
    cluster.hosts[old].paused = true;
    go_on(&mut cluster, 5 * SEC);
    let new = cluster.leader().expect("the others have elected one");
    assert_ne!(new, old);
    put(&mut cluster, new);
    cluster.ask(old, read());
    cluster.resume(old);
    go_on(&mut cluster, 5 * SEC);
    assert!(cluster.pending.is_empty(), "it answers, with the newest state");
}

#[test]
fn a_leader_that_was_succeeded_unawares_does_not_call_new_leases_gone() {
    let mut cluster = healthy(3, 12);
    let old = cluster.leader().expect("a healthy cluster has a leader");
    let (id, before) = (cluster.hosts[old].id, term(&cluster, old));
    cut_off(&mut cluster, old);
    let others: Vec<usize> = (0..3).filter(|other| *other != old).collect();
    for other in &others {
        cluster.take_for_gone(*other, id, MS);
    }
    let new = others[0];
    let until_ns = cluster.now_ns + 500 * MS;
    let elected = cluster.run(until_ns, |cluster| term(cluster, new) > before);
    assert_eq!(elected, Ok(true));
    let lease = 7;
    cluster.ask(new, Ask::Grant { lease, ttl: 60 });
    go_on(&mut cluster, 50 * MS);
    assert_eq!(cluster.leases.living(), [lease]);
    assert_eq!(term(&cluster, old), before, "it has not noticed");
    cluster.ask(old, Ask::Left(lease));
    // The checks would see an answer that there is no such lease.
    go_on(&mut cluster, 50 * MS);
    cluster.cut.clear();
    go_on(&mut cluster, 10 * SEC);
    assert!(cluster.pending.is_empty());
    assert_eq!(cluster.counts.answers.get("time to live"), Some(&1));
}

/// A cluster whose election time-out is ten seconds at least.
fn slow_to_elect(members: u64, seed: u64) -> Cluster {
    let mut cluster = healthy_in(
        Weather {
            tick_ns: SEC,
            ..Weather::fair(members)
        },
        seed,
    );
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    put(&mut cluster, leader);
    go_on(&mut cluster, 2 * SEC);
    cluster
}

fn term(cluster: &Cluster, index: usize) -> u64 {
    cluster.hosts[index].up.as_ref().expect("it is up").view.term
}

#[test]
fn a_leader_that_is_seen_to_end_is_succeeded_without_waiting_for_the_time_out() {
    for (members, seed) in (0..12).flat_map(|seed| [(3, seed), (5, seed)]) {
        let mut cluster = slow_to_elect(members, seed);
        let old = cluster.leader().expect("a healthy cluster has a leader");
        let before = term(&cluster, old);
        // They notice at different times, some of them after they were asked for a vote already.
        cluster.weather.noticed = 100;
        cluster.crash(old).unwrap();
        cluster.hosts[old].stands = false;
        go_on(&mut cluster, 1200 * MS);
        let new = cluster
            .leader()
            .unwrap_or_else(|| panic!("{members} members, seed {seed}: nobody leads"));
        assert_ne!(new, old);
        assert_eq!(term(&cluster, new), before + 1, "one election is enough");
        put(&mut cluster, new);
    }
}

#[test]
fn a_false_alarm_costs_a_follower_a_heartbeat_and_the_cluster_nothing() {
    for (members, seed) in [(3, 1), (3, 2), (5, 3)] {
        let mut cluster = slow_to_elect(members, seed);
        let leader = cluster.leader().expect("a healthy cluster has a leader");
        let (id, before) = (cluster.hosts[leader].id, term(&cluster, leader));
        for index in (0..cluster.hosts.len()).filter(|index| *index != leader) {
            if cluster.hosts[index].up.is_none() {
                continue;
            }
            cluster.take_for_gone(index, id, 0);
            go_on(&mut cluster, 100 * MS);
            let view = cluster.hosts[index].up().view.clone();
            assert_eq!((view.leader, view.term), (0, before), "it believes what it was told");
            go_on(&mut cluster, 2 * SEC);
            assert_eq!(cluster.leader(), Some(leader));
            let view = cluster.hosts[index].up().view.clone();
            assert_eq!((view.leader, view.term), (id, before), "it follows again");
        }
    }
}

#[test]
fn reads_without_a_quorum_do_not_breed_messages() {
    let mut cluster = healthy(3, 13);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let follower = (leader + 1) % 3;
    cluster.intercept = Some(MessageType::MsgReadIndexResp);
    let before = cluster.counts.turns;
    cluster.ask(follower, read());
    go_on(&mut cluster, 4 * SEC);
    let turns = cluster.counts.turns - before;
    let asked = cluster.intercepted.len();
    assert!((2..=10).contains(&asked), "asked for {asked} times in 4 s");
    assert!(turns < 10_000, "{turns} turns in 4 s of three members");
}

#[test]
fn a_lone_member_gives_its_log_back() {
    let mut cluster = healthy(1, 14);
    cluster.weather.catch_up_entries = 5;
    cluster.weather.wal_segment_bytes = 16 << 10;
    cluster.crash(0).unwrap();
    go_on(&mut cluster, SEC);
    for _ in 0..300 {
        put(&mut cluster, 0);
        go_on(&mut cluster, 20 * MS);
    }
    let segments = cluster.hosts[0].disk.file_names();
    let segments = segments.iter().filter(|name| name.ends_with(".seg")).count();
    assert!(segments <= 8, "{segments} segments for five kept entries");
}

#[test]
fn an_idle_member_sleeps_from_tick_to_tick() {
    let mut cluster = healthy(1, 15);
    put(&mut cluster, 0);
    go_on(&mut cluster, 5 * SEC);
    let before = cluster.counts.turns;
    go_on(&mut cluster, 10 * SEC);
    let turns = cluster.counts.turns - before;
    assert!(turns <= 110, "{turns} turns in 10 s of ticks of 100 ms");
}

#[test]
fn a_follower_that_was_away_for_longer_than_the_log_is_caught_up_by_a_snapshot() {
    let weather = Weather {
        catch_up_entries: 5,
        wal_segment_bytes: 16 << 10,
        ..Weather::fair(3)
    };
    let mut cluster = healthy_in(weather, 16);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let follower = (leader + 1) % 3;
    cut_off(&mut cluster, follower);
    for _ in 0..100 {
        put(&mut cluster, leader);
        go_on(&mut cluster, 20 * MS);
    }
    cluster.cut.clear();
    let until_ns = cluster.now_ns + 20 * SEC;
    assert_eq!(cluster.run(until_ns, |cluster| cluster.is_settled()), Ok(true));
    assert!(cluster.counts.events.get("snapshots installed") >= Some(&1));
}

#[test]
fn a_leader_that_removes_itself_hands_over_and_stops() {
    let mut cluster = healthy(3, 17);
    // Changes need links that have been good for a while.
    go_on(&mut cluster, 8 * SEC);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let change = MemberChange::Remove(cluster.hosts[leader].id);
    let what = "remove";
    cluster.ask(leader, Ask::Change { what, change });
    let until_ns = cluster.now_ns + 10 * SEC;
    let gone = cluster.run(until_ns, |cluster| !cluster.hosts[leader].stands);
    assert_eq!(gone, Ok(true), "it stops by itself");
    let until_ns = cluster.now_ns + 10 * SEC;
    assert_eq!(cluster.run(until_ns, |cluster| cluster.is_settled()), Ok(true));
    put(&mut cluster, (leader + 1) % 3);
}

#[test]
fn a_leader_that_removes_itself_leaves_once_another_knows_of_it() {
    for seed in 60..72 {
        let mut cluster = healthy(3, seed);
        // Changes need links that have been good for a while.
        go_on(&mut cluster, 8 * SEC);
        let leader = cluster.leader().expect("a healthy cluster has a leader");
        let id = cluster.hosts[leader].id;
        cluster.weather.loss = 20;
        cluster.calm = false;
        let (what, change) = ("remove", MemberChange::Remove(id));
        cluster.ask(leader, Ask::Change { what, change });
        let until_ns = cluster.now_ns + 10 * SEC;
        let gone = cluster.run(until_ns, |cluster| !cluster.hosts[leader].stands);
        assert_eq!(gone, Ok(true), "seed {seed}: it stops by itself");
        let others = cluster.hosts.iter().filter_map(|host| host.up.as_ref());
        let knowing = others.filter(|up| up.view.members.removed.contains(&id)).count();
        assert!(knowing > 0, "seed {seed}: nobody knows that the leader was removed");
    }
}

/// A lease on a healthy cluster, checkpointed every 5 s, after 12 s; and the leader.
fn checkpointed_lease(seed: u64, lease: i64, ttl: i64) -> (Cluster, usize) {
    let weather = Weather {
        lease_checkpoint_ns: 5 * SEC,
        ..Weather::fair(3)
    };
    let mut cluster = healthy_in(weather, seed);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    cluster.ask(leader, Ask::Grant { lease, ttl });
    go_on(&mut cluster, 12 * SEC);
    assert_eq!(cluster.leader(), Some(leader));
    (cluster, leader)
}

#[test]
fn what_was_left_of_a_lease_survives_its_leader() {
    let (mut cluster, leader) = checkpointed_lease(16, 7, 30);
    cluster.hosts[leader].paused = true;
    // At the last checkpoint no more than 25 s were left; a whole TTL anew would last until 30 s from here.
    go_on(&mut cluster, 27 * SEC);
    assert!(cluster.leases.all[&7].gone_ns.is_some(), "it has ended, and not early");
}

#[test]
fn a_renewal_of_a_checkpointed_lease_outlives_the_leader_that_answered_it() {
    for seed in 17..27 {
        let (mut cluster, leader) = checkpointed_lease(seed, 7, 20);
        let renewed = cluster.leases.renewed;
        cluster.ask(leader, Ask::Renew(7));
        let until_ns = cluster.now_ns + SEC;
        let done = cluster.run(until_ns, |cluster| cluster.leases.renewed > renewed);
        assert_eq!(done, Ok(true), "the renewal is answered");
        cluster.hosts[leader].paused = true;
        // The checker of leases sees an early end.
        go_on(&mut cluster, 19 * SEC);
        assert!(cluster.leases.all[&7].gone_ns.is_none());
    }
}

#[test]
fn leases_are_not_ended_by_what_a_former_leader_decided() {
    let mut cluster = healthy(3, 27);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let former = (leader + 1) % 3;
    cluster.ask(leader, Ask::Grant { lease: 7, ttl: 60 });
    go_on(&mut cluster, SEC);
    let revision = cluster.history.revision();
    assert!(cluster.history.get(key_of(7).as_bytes(), revision).is_some());
    let term = cluster.hosts[leader].up().view.term;
    let batch = LeaseRevokeBatchRequest {
        term: term - 1,
        ids: vec![7],
    };
    let request = InternalRaftRequest {
        lease_revoke_batch: Some(batch),
        ..InternalRaftRequest::default()
    };
    let entry = Entry {
        data: request.encode_to_vec().into(),
        ..Entry::default()
    };
    let late = Message {
        msg_type: MessageType::MsgProp,
        from: cluster.hosts[former].id,
        to: cluster.hosts[leader].id,
        entries: vec![entry],
        ..Message::default()
    };
    let applied = cluster.hosts[leader].up().view.applied_index;
    cluster.hosts[leader].up().inbox.push(Event::Peer(Box::new(late)));
    cluster.wake(leader, 0);
    // The checker of leases sees an early end.
    go_on(&mut cluster, SEC);
    assert!(
        cluster.hosts[leader].up().view.applied_index > applied,
        "it was applied, to no effect"
    );
}

#[test]
fn a_disk_that_takes_half_a_second_deposes_nobody_however_short_the_time_outs_are() {
    let weather = Weather {
        tick_ns: 20 * MS,
        ..Weather::fair(3)
    };
    let mut cluster = healthy_in(weather, 28);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let before = term(&cluster, leader);
    // The members share a disk.
    cluster.calm = false;
    for index in 0..3 {
        cluster.hosts[index].stalled_until_ns = cluster.now_ns + 500 * MS;
    }
    let weather = cluster.weather.clone();
    let put_there = requests::put(cluster.next_writer, "k000".into(), 0, &mut cluster.rng, &weather);
    cluster.ask(leader, Ask::Put(put_there));
    go_on(&mut cluster, 2 * SEC);
    cluster.calm = true;
    assert_eq!((cluster.leader(), term(&cluster, leader)), (Some(leader), before));
    put(&mut cluster, leader);
}

#[test]
fn a_leader_whose_disk_hangs_hands_over_and_follows_when_it_is_back() {
    let mut cluster = healthy(3, 28);
    let old = cluster.leader().expect("a healthy cluster has a leader");
    // In a calm no disk stalls.
    cluster.calm = false;
    cluster.hosts[old].stalled_until_ns = cluster.now_ns + 15 * SEC;
    let weather = cluster.weather.clone();
    let put_there = requests::put(cluster.next_writer, "k000".into(), 0, &mut cluster.rng, &weather);
    cluster.ask(old, Ask::Put(put_there));
    go_on(&mut cluster, 5 * SEC);
    let new = cluster.leader().expect("another has taken over");
    assert_ne!(
        new, old,
        "nobody leads on a disk that hangs for five election time-outs"
    );
    assert!(cluster.hosts[old].up().view.is_stalled);
    put(&mut cluster, new);
    cluster.calm = true;
    let until_ns = cluster.now_ns + 20 * SEC;
    assert_eq!(cluster.run(until_ns, |cluster| cluster.is_settled()), Ok(true));
    assert!(!cluster.hosts[old].up().view.is_stalled);
}

#[test]
fn a_member_whose_tree_rots_is_refilled_by_the_others() {
    for seed in 29..61 {
        let mut cluster = healthy(3, seed);
        let leader = cluster.leader().expect("a healthy cluster has a leader");
        for _ in 0..20 {
            put(&mut cluster, leader);
        }
        go_on(&mut cluster, SEC);
        // The leader too may be the one.
        let index = (leader + seed as usize) % 3;
        cluster.rot_tree(index).unwrap();
        assert!(cluster.is_damaged());
        let until_ns = cluster.now_ns + 20 * SEC;
        let whole = cluster.run(until_ns, |cluster| !cluster.is_damaged() && cluster.is_settled());
        assert_eq!(whole, Ok(true), "seed {seed}");
        put(&mut cluster, index);
        // What was noted of the damage does not come back with a power failure.
        let refills = |cluster: &Cluster| cluster.counts.events.get("refills begun").copied();
        let before = refills(&cluster);
        for _ in 0..3 {
            cluster.crash(index).unwrap();
            let until_ns = cluster.now_ns + 20 * SEC;
            assert_eq!(cluster.run(until_ns, |cluster| cluster.is_settled()), Ok(true));
        }
        assert_eq!(refills(&cluster), before, "seed {seed}: it throws its good tree away");
    }
}

#[test]
fn a_damaged_member_that_has_fallen_behind_is_refilled() {
    let mut cluster = healthy(3, 29);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    put(&mut cluster, leader);
    go_on(&mut cluster, SEC);
    let index = (leader + 1) % 3;
    cluster.rot_tree(index).unwrap();
    assert!(cluster.is_damaged());
    // More than a turn applies while it waits, without room for a snapshot.
    cluster.hosts[index].limit_space(Some(0));
    for _ in 0..600 {
        put(&mut cluster, leader);
    }
    cluster.hosts[index].limit_space(None);
    let until_ns = cluster.now_ns + 20 * SEC;
    let whole = cluster.run(until_ns, |cluster| !cluster.is_damaged() && cluster.is_settled());
    assert_eq!(whole, Ok(true));
    put(&mut cluster, index);
}

#[test]
fn a_learner_that_lags_is_not_promoted() {
    let mut cluster = healthy(3, 37);
    // Changes need links that have been good for a while.
    go_on(&mut cluster, 8 * SEC);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let id = 0x2000_0001;
    let learner = MemberInfo {
        id,
        peer_urls: vec!["http://learner:2380".to_owned()],
        is_learner: true,
        ..MemberInfo::default()
    };
    let add = Ask::Change {
        what: "add a learner",
        change: MemberChange::Add(learner),
    };
    cluster.ask(leader, add);
    let until_ns = cluster.now_ns + SEC;
    let added = cluster.run(until_ns, |cluster| cluster.counts.answers.contains_key("add a learner"));
    assert_eq!(added, Ok(true));
    // It has not even started.
    let promote = Ask::Change {
        what: "promote",
        change: MemberChange::Promote(id),
    };
    cluster.ask(leader, promote);
    go_on(&mut cluster, 10 * MS);
    assert_eq!(
        cluster.counts.refused.get("promote"),
        Some(&1),
        "it has none of the log"
    );
}

#[test]
fn requests_to_a_former_leader_do_not_go_to_and_fro() {
    let near = Weather {
        net_ns: 100_000,
        ..Weather::fair(3)
    };
    let mut cluster = healthy_in(near, 29);
    let leader = cluster.leader().expect("a healthy cluster has a leader");
    let (asker, heir) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.ask(leader, Ask::Grant { lease: 7, ttl: 60 });
    go_on(&mut cluster, SEC);
    // The asker hears nothing of the new leader, and the former one answers that it leads no more.
    cluster.cut.extend([(asker, heir), (heir, asker)]);
    cluster.ask(leader, Ask::MoveLeader(cluster.hosts[heir].id));
    go_on(&mut cluster, 50 * MS);
    assert_eq!(cluster.leader(), Some(heir));
    let former = cluster.hosts[leader].id;
    assert_eq!(cluster.hosts[asker].up().view.leader, former);
    let before = cluster.counts.turns;
    for _ in 0..20 {
        cluster.ask(asker, Ask::Renew(7));
        go_on(&mut cluster, MS);
    }
    go_on(&mut cluster, 480 * MS);
    let turns = cluster.counts.turns - before;
    assert_eq!(
        cluster.hosts[asker].up().view.leader,
        former,
        "it has heard of no other"
    );
    assert!(turns < 500, "{turns} turns in half a second of three members");
    cluster.cut.clear();
    go_on(&mut cluster, 5 * SEC);
    assert!(cluster.pending.is_empty(), "the new leader answers them");
}
