//! One test, or a few, for each section of the Raft paper ("In Search of an Understandable Consensus Algorithm", extended
//! version) and for what the thesis adds. Each name says what the section demands.

#[path = "rig/member.rs"]
#[allow(dead_code, reason = "each test uses its own part of the rig")]
mod member;

use bytes::Bytes;
use member::{Disk, Member};
use raft::{
    ConfChangeType, ConfChangeV2, ConfState, Config, Entry, EntryType, HardState, Message, MessageType, RawNode, Role,
    Start,
};

fn config(id: u64) -> Config {
    Config {
        pre_vote: false,
        check_quorum: false,
        ..Config::new(id)
    }
}

/// Member 1 of a group of `voters`, with this term and a log of these terms, all of it durable.
fn member(voters: u64, term: u64, log: &[u64]) -> Member {
    let entries = log
        .iter()
        .zip(1..)
        .map(|(&term, index)| Entry::normal(term, index, "x"))
        .collect();
    let state = member::State {
        conf_state: ConfState::of_voters(1..=voters),
        ..Default::default()
    };
    let disk = Disk {
        hard_state: HardState {
            term,
            ..Default::default()
        },
        entries,
        state,
        ..Default::default()
    };
    Member::from_disk(config(1), disk)
}

fn message(msg_type: MessageType, from: u64, term: u64) -> Message {
    Message {
        msg_type,
        to: 1,
        from,
        term,
        ..Default::default()
    }
}

fn append(from: u64, term: u64, after: (u64, u64), terms: &[u64], commit: u64) -> Message {
    let entries = terms
        .iter()
        .zip(after.1 + 1..)
        .map(|(&term, index)| Entry::normal(term, index, "x"))
        .collect();
    Message {
        log_term: after.0,
        index: after.1,
        entries,
        commit,
        ..message(MessageType::MsgApp, from, term)
    }
}

/// Everything durable, everything applied; the messages that leave.
fn settle(member: &mut Member) -> Vec<Message> {
    let mut messages = Vec::new();
    while member.raw.has_ready() || member.writes_in_flight() > 0 {
        messages.extend(member.take_ready().messages);
        let in_flight = member.writes_in_flight();
        member.persist(in_flight);
        member.apply(usize::MAX);
    }
    messages
}

/// Makes member 1 lead the next term with the votes of a majority.
fn lead(member: &mut Member) -> Vec<Message> {
    member.raw.campaign();
    settle(member);
    let term = member.raw.term();
    let quorum = member.raw.conf_state().voters.len() / 2 + 1;
    for from in 2..=quorum as u64 {
        member.raw.step(message(MessageType::MsgVoteResp, from, term)).unwrap();
    }
    assert_eq!(member.raw.role(), Role::Leader);
    settle(member)
}

fn acknowledge(member: &mut Member, from: u64, index: u64) -> Vec<Message> {
    let term = member.raw.term();
    member
        .raw
        .step(Message {
            index,
            ..message(MessageType::MsgAppResp, from, term)
        })
        .unwrap();
    settle(member)
}

fn terms(raw: &RawNode) -> Vec<u64> {
    let entries = raw
        .entries(raw.first_index(), raw.last_index() + 1, u64::MAX)
        .unwrap_or_default();
    entries.iter().map(|entry| entry.term).collect()
}

#[test]
fn section_5_1_a_newer_term_is_adopted_and_makes_a_follower_of_everybody() {
    for role in [Role::Follower, Role::Candidate, Role::Leader] {
        let mut one = member(3, 1, &[]);
        match role {
            Role::Leader => drop(lead(&mut one)),
            Role::Candidate => one.raw.campaign(),
            _ => {}
        }
        assert_eq!(one.raw.role(), role);
        one.raw.step(append(2, 9, (0, 0), &[], 0)).unwrap();
        assert_eq!(
            (one.raw.term(), one.raw.role(), one.raw.leader_id()),
            (9, Role::Follower, 2)
        );
    }
}

#[test]
fn section_5_1_messages_of_older_terms_change_nothing() {
    let mut one = member(3, 5, &[1, 2]);
    for old in [
        append(2, 4, (2, 2), &[4], 2),
        message(MessageType::MsgVote, 2, 4),
        message(MessageType::MsgVoteResp, 2, 4),
        message(MessageType::MsgTimeoutNow, 2, 4),
        message(MessageType::MsgAppResp, 2, 4),
    ] {
        let before = one.raw.status();
        one.raw.step(old).unwrap();
        assert_eq!(one.raw.status(), before);
    }
}

#[test]
fn section_5_2_members_start_as_followers_and_campaign_after_a_time_out() {
    let mut one = member(3, 1, &[]);
    assert_eq!(one.raw.role(), Role::Follower);
    (0..20).for_each(|_| one.raw.tick());
    assert_eq!((one.raw.role(), one.raw.term()), (Role::Candidate, 2));
    let asked: Vec<u64> = settle(&mut one).iter().map(|message| message.to).collect();
    assert_eq!(asked, [2, 3]);
}

#[test]
fn section_5_2_heartbeats_keep_a_follower_from_campaigning() {
    let mut one = member(3, 1, &[]);
    for _ in 0..100 {
        (0..9).for_each(|_| one.raw.tick());
        one.raw.step(message(MessageType::MsgHeartbeat, 2, 1)).unwrap();
    }
    assert_eq!((one.raw.role(), one.raw.leader_id()), (Role::Follower, 2));
}

#[test]
fn a_member_that_is_held_back_does_not_campaign_and_steps_down_when_it_leads() {
    let mut one = member(3, 1, &[]);
    one.raw.hold_back(true);
    (0..50).for_each(|_| one.raw.tick());
    one.raw.step(message(MessageType::MsgTimeoutNow, 2, 1)).unwrap();
    assert_eq!((one.raw.role(), one.raw.term()), (Role::Follower, 1));
    one.raw.hold_back(false);
    lead(&mut one);
    one.raw.hold_back(true);
    (0..9).for_each(|_| one.raw.tick());
    assert_eq!(one.raw.role(), Role::Leader);
    one.raw.tick();
    assert_eq!((one.raw.role(), one.raw.leader_id()), (Role::Follower, 0));
    // The vote of the term it led is not given anew.
    let term = one.raw.term();
    one.raw.step(message(MessageType::MsgVote, 2, term)).unwrap();
    let messages = settle(&mut one);
    let answers = messages
        .iter()
        .filter(|message| message.msg_type == MessageType::MsgVoteResp);
    assert_eq!(answers.map(|answer| answer.reject).collect::<Vec<_>>(), [true]);
    one.raw.hold_back(false);
    (0..20).for_each(|_| one.raw.tick());
    assert_eq!(one.raw.role(), Role::Candidate);
}

#[test]
fn behind_a_state_that_was_put_in_place_the_log_goes_on_and_before_it_nothing_is_applied() {
    let indexes = |one: &mut Member| -> Vec<u64> {
        let committed = one.raw.ready().committed;
        committed.iter().map(|entry| entry.index).collect()
    };
    let (three, four) = (ConfState::of_voters(1..=3), ConfState::of_voters(1..=4));
    let mut one = member(3, 1, &[1, 1, 1]);
    one.raw.step(append(2, 1, (1, 3), &[], 3)).unwrap();
    assert_eq!(indexes(&mut one), [1, 2, 3]);
    assert!(one.raw.restart_at(4, &three).is_err());
    one.raw.restart_at(1, &four).unwrap();
    assert_eq!((one.raw.conf_state(), one.raw.applied_index()), (four, 1));
    assert_eq!(indexes(&mut one), [2, 3]);
    one.raw.restart_at(3, &three).unwrap();
    assert_eq!(indexes(&mut one), [0; 0]);
    assert_eq!((one.raw.conf_state(), one.raw.applied_index()), (three, 3));
}

#[test]
fn section_5_2_an_election_is_won_with_a_majority_lost_against_one_and_open_between() {
    let cases: [(u64, &[bool], Role); 7] = [
        (3, &[true], Role::Leader),
        (3, &[false], Role::Candidate),
        (3, &[false, false], Role::Follower),
        (5, &[true], Role::Candidate),
        (5, &[true, true], Role::Leader),
        (5, &[true, false, false], Role::Candidate),
        (5, &[false, false, false], Role::Follower),
    ];
    for (voters, answers, role) in cases {
        let mut one = member(voters, 1, &[]);
        one.raw.campaign();
        settle(&mut one);
        for (&granted, from) in answers.iter().zip(2..) {
            let answer = Message {
                reject: !granted,
                ..message(MessageType::MsgVoteResp, from, 2)
            };
            one.raw.step(answer).unwrap();
        }
        assert_eq!(one.raw.role(), role, "{voters} voters, answers {answers:?}");
    }
}

#[test]
fn section_5_2_a_vote_counts_once() {
    let mut one = member(5, 1, &[]);
    one.raw.campaign();
    settle(&mut one);
    for _ in 0..3 {
        one.raw.step(message(MessageType::MsgVoteResp, 2, 2)).unwrap();
    }
    assert_eq!(one.raw.role(), Role::Candidate);
}

#[test]
fn section_5_2_one_vote_per_term_first_come_first_served() {
    let mut one = member(3, 1, &[]);
    let answer_to = |one: &mut Member, from| {
        one.raw.step(message(MessageType::MsgVote, from, 2)).unwrap();
        settle(one)
            .iter()
            .find(|message| message.msg_type == MessageType::MsgVoteResp)
            .map(|message| !message.reject)
    };
    assert_eq!(answer_to(&mut one, 2), Some(true));
    assert_eq!(answer_to(&mut one, 3), Some(false));
    assert_eq!(answer_to(&mut one, 2), Some(true), "the same candidate may ask again");
    let mut again = one.restarted();
    assert_eq!(answer_to(&mut again, 3), Some(false), "a restart forgets no vote");
}

#[test]
fn section_5_2_a_candidate_yields_to_the_leader_of_its_term() {
    let mut one = member(3, 1, &[]);
    one.raw.campaign();
    settle(&mut one);
    one.raw.step(append(2, 2, (0, 0), &[], 0)).unwrap();
    assert_eq!((one.raw.role(), one.raw.leader_id()), (Role::Follower, 2));
}

#[test]
fn section_5_2_time_outs_are_spread_over_the_interval() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let start = Start {
            conf_state: ConfState::of_voters(1..=3),
            ..Default::default()
        };
        let mut raw = RawNode::new(Config { seed, ..config(1) }, start).unwrap();
        let ticks = (1..).find(|_| {
            raw.tick();
            raw.role() == Role::Candidate
        });
        seen.insert(ticks.expect("a follower campaigns in the end"));
    }
    assert_eq!(seen.into_iter().collect::<Vec<i32>>(), (10..20).collect::<Vec<i32>>());
}

#[test]
fn section_5_3_a_leader_appends_and_sends_to_everybody() {
    let mut one = member(3, 1, &[]);
    lead(&mut one);
    for from in [2, 3] {
        acknowledge(&mut one, from, 1);
    }
    one.raw.propose(Bytes::from_static(b"value")).unwrap();
    let ready = one.take_ready();
    assert_eq!(ready.entries, [Entry::normal(2, 2, "value")]);
    let to: Vec<(u64, u64, u64)> = ready.messages.iter().map(|m| (m.to, m.log_term, m.index)).collect();
    assert_eq!(to, [(2, 2, 1), (3, 2, 1)]);
    assert!(ready.messages.iter().all(|message| message.entries == ready.entries));
}

#[test]
fn section_5_3_an_entry_is_committed_when_a_majority_has_it_durably() {
    let mut one = member(5, 1, &[]);
    lead(&mut one);
    one.raw.propose(Bytes::from_static(b"value")).unwrap();
    settle(&mut one);
    acknowledge(&mut one, 2, 2);
    assert_eq!(one.raw.commit_index(), 0);
    acknowledge(&mut one, 2, 2);
    assert_eq!(one.raw.commit_index(), 0, "the same member twice is no majority");
    let messages = acknowledge(&mut one, 3, 2);
    assert_eq!(one.raw.commit_index(), 2);
    assert_eq!(one.state.index, 2, "committed entries are applied");
    assert!(
        messages.iter().any(|message| message.commit == 2),
        "the followers learn of it"
    );
}

#[test]
fn section_5_3_the_leader_counts_itself_only_for_what_its_own_disk_holds() {
    let mut one = member(3, 1, &[]);
    lead(&mut one);
    acknowledge(&mut one, 2, 1);
    one.raw.propose(Bytes::from_static(b"value")).unwrap();
    let ready = one.take_ready();
    assert!(ready.token.is_some());
    let term = one.raw.term();
    one.raw
        .step(Message {
            index: 2,
            ..message(MessageType::MsgAppResp, 2, term)
        })
        .unwrap();
    assert_eq!(
        one.raw.commit_index(),
        1,
        "one follower and a write in flight are no majority of three"
    );
    one.persist(1);
    assert_eq!(one.raw.commit_index(), 2);
}

#[test]
fn section_5_3_appends_are_checked_for_consistency() {
    // (log, append after, answer is no, hint)
    type Case = (&'static [u64], (u64, u64), bool, u64);
    let cases: [Case; 4] = [
        (&[1, 2], (2, 2), false, 0),
        (&[1, 2], (1, 1), false, 0),
        (&[1, 2], (3, 3), true, 2),
        (&[1, 2], (3, 2), true, 2),
    ];
    for (log, after, refused, hint) in cases {
        let mut one = member(3, 3, log);
        one.raw.step(append(2, 3, after, &[], 0)).unwrap();
        let answer = settle(&mut one).pop().unwrap();
        assert_eq!(
            (answer.reject, answer.reject_hint),
            (refused, hint),
            "log {log:?}, append after {after:?}"
        );
    }
}

#[test]
fn section_5_3_conflicting_entries_are_replaced_and_others_kept() {
    type Case = ((u64, u64), &'static [u64], &'static [u64]);
    let cases: [Case; 4] = [
        ((2, 2), &[3], &[1, 2, 3]),
        ((1, 1), &[3, 4], &[1, 3, 4]),
        ((0, 0), &[1], &[1, 2]),
        ((0, 0), &[3], &[3]),
    ];
    for (after, entries, expected) in cases {
        let mut one = member(3, 4, &[1, 2]);
        one.raw.step(append(2, 4, after, entries, 0)).unwrap();
        settle(&mut one);
        assert_eq!(terms(&one.raw), expected);
        let on_disk: Vec<u64> = one.disk.entries.iter().map(|entry| entry.term).collect();
        assert_eq!(on_disk, expected, "the disk follows");
    }
}

#[test]
fn section_5_3_figure_7_the_leader_brings_every_kind_of_log_to_its_own() {
    let leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for log in followers {
        let mut leader = member(3, 7, &leader_log);
        let mut messages = lead(&mut leader);
        let mut disk = member(3, 7, log).disk;
        disk.hard_state.term = 7;
        let mut follower = Member::from_disk(config(2), disk);
        let mut rounds = 0;
        while terms(&follower.raw) != terms(&leader.raw) {
            rounds += 1;
            assert!(rounds < 8, "follower {log:?} is not brought along");
            for message in messages.drain(..).filter(|message| message.to == 2) {
                follower.raw.step(message).unwrap();
            }
            for message in settle(&mut follower) {
                leader.raw.step(message).unwrap();
            }
            messages = settle(&mut leader);
        }
    }
}

#[test]
fn section_5_3_a_follower_commits_what_the_leader_committed_and_it_has() {
    let cases = [(1, &[2][..], 1), (9, &[2][..], 2), (9, &[][..], 1)];
    for (commit, entries, expected) in cases {
        // Its entry 2 is not the leader's, so that a commit index alone must not reach it.
        let mut one = member(3, 2, &[1, 1]);
        one.raw.step(append(2, 2, (1, 1), entries, commit)).unwrap();
        assert_eq!(one.raw.commit_index(), expected);
    }
}

#[test]
fn section_5_4_1_votes_go_only_to_logs_that_are_up_to_date() {
    let cases = [
        ((2, 3), true),
        ((2, 4), true),
        ((3, 1), true),
        ((2, 2), false),
        ((1, 9), false),
    ];
    for ((last_term, last_index), granted) in cases {
        let mut one = member(3, 3, &[1, 2, 2]);
        let request = Message {
            log_term: last_term,
            index: last_index,
            ..message(MessageType::MsgVote, 2, 4)
        };
        one.raw.step(request).unwrap();
        let answer = settle(&mut one).pop().unwrap();
        assert_eq!(
            !answer.reject, granted,
            "candidate's last entry {last_term}/{last_index}"
        );
    }
}

#[test]
fn section_5_4_2_figure_8_entries_of_earlier_terms_are_not_committed_by_counting() {
    let mut one = member(3, 2, &[1, 2]);
    lead(&mut one);
    acknowledge(&mut one, 2, 2);
    assert_eq!(
        one.raw.commit_index(),
        0,
        "a majority holds entry 2, which is of an earlier term"
    );
    acknowledge(&mut one, 2, 3);
    assert_eq!(
        one.raw.commit_index(),
        3,
        "an entry of the own term commits all before it"
    );
}

#[test]
fn section_5_5_repeated_requests_do_no_harm() {
    let mut one = member(3, 2, &[1]);
    let request = append(2, 2, (1, 1), &[2, 2], 3);
    for _ in 0..3 {
        one.raw.step(request.clone()).unwrap();
        assert_eq!(settle(&mut one).pop().unwrap().index, 3);
        assert_eq!((terms(&one.raw), one.raw.commit_index()), (vec![1, 2, 2], 3));
    }
    one.raw.step(append(2, 2, (1, 1), &[2], 2)).unwrap();
    settle(&mut one);
    assert_eq!(terms(&one.raw), [1, 2, 2], "a delayed shorter append cuts nothing off");
}

#[test]
fn section_5_6_hard_state_is_durable_before_it_is_answered_for() {
    let mut one = member(3, 1, &[]);
    one.raw.step(message(MessageType::MsgVote, 2, 2)).unwrap();
    let ready = one.take_ready();
    assert!(ready.messages.is_empty() && ready.token.is_some());
    assert_eq!(
        ready.hard_state,
        Some(HardState {
            term: 2,
            vote: 2,
            commit: 0
        })
    );
    one.persist(1);
    assert_eq!(one.take_ready().messages.len(), 1);
    let mut two = member(3, 1, &[]);
    two.raw.step(append(2, 1, (0, 0), &[1], 0)).unwrap();
    assert!(
        two.take_ready().messages.is_empty(),
        "an entry is acknowledged once it is durable"
    );
    two.persist(1);
    assert_eq!(two.take_ready().messages.len(), 1);
}

#[test]
fn section_6_a_joint_configuration_needs_both_majorities() {
    let mut one = member(3, 1, &[]);
    lead(&mut one);
    acknowledge(&mut one, 2, 1);
    let change = ConfChangeV2 {
        transition: raft::ConfChangeTransition::JointExplicit,
        changes: [
            (ConfChangeType::AddNode, 4),
            (ConfChangeType::AddNode, 5),
            (ConfChangeType::RemoveNode, 2),
        ]
        .map(|(change_type, node_id)| raft::ConfChangeSingle { change_type, node_id })
        .to_vec(),
        ..Default::default()
    };
    one.raw.propose_conf_change(change).unwrap();
    settle(&mut one);
    acknowledge(&mut one, 2, 2);
    assert!(one.raw.conf_state().is_joint());
    one.raw.propose(Bytes::from_static(b"value")).unwrap();
    settle(&mut one);
    acknowledge(&mut one, 2, 3);
    assert_eq!(one.raw.commit_index(), 2, "a majority of the old half alone");
    acknowledge(&mut one, 4, 3);
    assert_eq!(one.raw.commit_index(), 2, "1 and 4 of 1, 3, 4, 5 are no majority");
    acknowledge(&mut one, 5, 3);
    assert_eq!(one.raw.commit_index(), 3);
    one.raw.propose(Bytes::from_static(b"another")).unwrap();
    settle(&mut one);
    acknowledge(&mut one, 4, 4);
    acknowledge(&mut one, 5, 4);
    assert_eq!(one.raw.commit_index(), 3, "a majority of the new half alone");
    acknowledge(&mut one, 2, 4);
    assert_eq!(one.raw.commit_index(), 4);
}

#[test]
fn section_6_one_change_at_a_time_also_when_another_leader_began_it() {
    let mut one = member(3, 1, &[]);
    let change = |id| ConfChangeV2::single(ConfChangeType::AddNode, id);
    let mut from_two = append(2, 1, (0, 0), &[1], 0);
    (from_two.entries[0].entry_type, from_two.entries[0].data) = (EntryType::ConfChangeV2, change(4).encode());
    one.raw.step(from_two).unwrap();
    settle(&mut one);
    lead(&mut one);
    let unapplied = one.raw.propose_conf_change(change(5)).unwrap_err();
    assert!(unapplied.to_string().contains("not yet applied"), "{unapplied}");
    acknowledge(&mut one, 2, 2);
    assert_eq!(one.raw.conf_state().voters, [1, 2, 3, 4]);
    one.raw.propose_conf_change(change(5)).unwrap();
    settle(&mut one);
    one.raw.propose_conf_change(change(6)).unwrap_err();
}

#[test]
fn section_6_a_removed_leader_no_longer_counts_itself() {
    let mut one = member(3, 1, &[]);
    lead(&mut one);
    acknowledge(&mut one, 2, 1);
    one.raw
        .propose_conf_change(ConfChangeV2::single(ConfChangeType::RemoveNode, 1))
        .unwrap();
    settle(&mut one);
    let messages = acknowledge(&mut one, 2, 2);
    assert_eq!(one.raw.conf_state().voters, [2, 3]);
    assert!(
        messages
            .iter()
            .any(|message| message.msg_type == MessageType::MsgTimeoutNow && message.to == 2)
    );
}

#[test]
fn section_6_disruptive_members_are_ignored_while_a_leader_is_heard() {
    let state = member::State {
        conf_state: ConfState::of_voters(1..=3),
        ..Default::default()
    };
    let disk = Disk {
        hard_state: HardState {
            term: 1,
            ..Default::default()
        },
        state,
        ..Default::default()
    };
    let mut one = Member::from_disk(
        Config {
            check_quorum: true,
            ..config(1)
        },
        disk,
    );
    one.raw.step(message(MessageType::MsgHeartbeat, 2, 1)).unwrap();
    one.raw.step(message(MessageType::MsgVote, 3, 5)).unwrap();
    assert_eq!(one.raw.term(), 1);
    (0..10).for_each(|_| one.raw.tick());
    one.raw.step(message(MessageType::MsgVote, 3, 5)).unwrap();
    assert_eq!(one.raw.term(), 5);
}

#[test]
fn section_7_a_snapshot_replaces_the_log_and_the_configuration() {
    let mut one = member(3, 1, &[1, 1]);
    let metadata = raft::SnapshotMetadata {
        conf_state: ConfState::of_voters(1..=4),
        index: 9,
        term: 2,
    };
    let snapshot = raft::Snapshot {
        data: Bytes::from(7u64.to_be_bytes().to_vec()),
        metadata,
    };
    one.raw
        .step(Message {
            snapshot: Some(snapshot),
            ..message(MessageType::MsgSnap, 2, 2)
        })
        .unwrap();
    let ready = one.take_ready();
    assert!(ready.messages.is_empty() && ready.snapshot.is_some() && ready.committed.is_empty());
    one.raw.campaign();
    assert_eq!(one.raw.role(), Role::Follower, "no campaign with half a state");
    one.persist(1);
    assert_eq!(one.take_ready().messages[0].index, 9);
    assert_eq!((one.raw.applied_index(), one.raw.first_index()), (9, 10));
    assert_eq!(one.raw.conf_state(), ConfState::of_voters(1..=4));
}

#[test]
fn section_7_a_snapshot_without_a_configuration_is_refused_and_never_sent() {
    let mut one = member(3, 1, &[]);
    let metadata = raft::SnapshotMetadata {
        index: 9,
        term: 2,
        ..Default::default()
    };
    let snapshot = raft::Snapshot {
        data: Bytes::new(),
        metadata: metadata.clone(),
    };
    one.raw
        .step(Message {
            snapshot: Some(snapshot),
            ..message(MessageType::MsgSnap, 2, 2)
        })
        .unwrap_err();
    let start = Start {
        hard_state: HardState {
            term: 2,
            vote: 0,
            commit: 9,
        },
        conf_state: ConfState::of_voters(1..=2),
        snapshot: metadata,
        applied: 9,
        ..Default::default()
    };
    let mut raw = RawNode::new(config(1), start).unwrap();
    raw.campaign();
    let token = raw_token(&mut raw);
    raw.on_persisted(token);
    raw.step(message(MessageType::MsgVoteResp, 2, 3)).unwrap();
    let refusal = Message {
        index: 9,
        reject: true,
        ..message(MessageType::MsgAppResp, 2, 3)
    };
    raw.step(refusal).unwrap();
    assert!(
        raw.ready()
            .messages
            .iter()
            .all(|message| message.msg_type != MessageType::MsgSnap)
    );
    let named = raft::SnapshotMetadata {
        conf_state: ConfState::of_voters(1..=2),
        index: 9,
        term: 2,
    };
    raw.set_snapshot(named);
    raw.step(message(MessageType::MsgHeartbeatResp, 2, 3)).unwrap();
    assert!(
        raw.ready()
            .messages
            .iter()
            .any(|message| message.msg_type == MessageType::MsgSnap)
    );
}

fn raw_token(raw: &mut RawNode) -> raft::PersistToken {
    raw.ready().token.expect("a campaign must be durable")
}

#[test]
fn section_7_an_old_snapshot_changes_nothing() {
    let mut one = member(3, 2, &[1, 1, 2]);
    one.raw.step(append(2, 2, (2, 3), &[], 3)).unwrap();
    settle(&mut one);
    let metadata = raft::SnapshotMetadata {
        conf_state: ConfState::of_voters(1..=3),
        index: 2,
        term: 1,
    };
    let snapshot = raft::Snapshot {
        data: Bytes::new(),
        metadata,
    };
    one.raw
        .step(Message {
            snapshot: Some(snapshot),
            ..message(MessageType::MsgSnap, 2, 2)
        })
        .unwrap();
    let ready = one.take_ready();
    assert!(ready.snapshot.is_none());
    assert_eq!((ready.messages[0].index, terms(&one.raw)), (3, vec![1, 1, 2]));
}

#[test]
fn section_8_a_new_leader_commits_an_empty_entry_of_its_term() {
    let mut one = member(3, 3, &[1, 2]);
    let messages = lead(&mut one);
    assert_eq!(terms(&one.raw), [1, 2, 4]);
    assert!(
        messages
            .iter()
            .all(|message| message.entries.last().is_some_and(|entry| entry.data.is_empty()))
    );
}

#[test]
fn section_8_a_read_waits_for_a_quorum_that_still_follows() {
    let mut one = member(3, 1, &[]);
    lead(&mut one);
    one.raw.read_index(77).unwrap();
    let reads = |one: &mut Member| one.take_ready().read_states;
    assert!(reads(&mut one).is_empty(), "nothing is committed in this term yet");
    acknowledge(&mut one, 2, 1);
    let term = one.raw.term();
    one.raw.step(message(MessageType::MsgHeartbeatResp, 2, term)).unwrap();
    assert!(reads(&mut one).is_empty(), "an answer to no round is no answer");
    let context = Bytes::from(1u64.to_be_bytes().to_vec());
    one.raw
        .step(Message {
            context,
            ..message(MessageType::MsgHeartbeatResp, 2, term)
        })
        .unwrap();
    assert_eq!(reads(&mut one), [raft::ReadState { index: 1, context: 77 }]);
}

#[test]
fn thesis_9_6_a_pre_vote_leaves_no_trace() {
    let mut one = member(3, 4, &[1]);
    let request = Message {
        log_term: 1,
        index: 1,
        ..message(MessageType::MsgPreVote, 2, 5)
    };
    one.raw.step(request).unwrap();
    let ready = one.take_ready();
    assert_eq!((one.raw.term(), ready.hard_state, ready.token), (4, None, None));
    let answer = &ready.messages[0];
    assert_eq!(
        (answer.msg_type, answer.term, answer.reject),
        (MessageType::MsgPreVoteResp, 5, false)
    );
}
