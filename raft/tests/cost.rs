//! What the hot path costs. Run by hand: `cargo test --release -p etcore-raft --test cost -- --ignored --nocapture`.

use std::time::Instant;

use bytes::Bytes;
use raft::{ConfState, Config, Message, MessageType, RawNode, Role, Start};

const BATCH: usize = 1000;
const ROUNDS: usize = 2000;

/// A leader of `voters` members whose followers answer at once.
fn leader(voters: u64) -> RawNode {
    let start = Start {
        conf_state: ConfState::of_voters(1..=voters),
        ..Default::default()
    };
    let mut raw = RawNode::new(
        Config {
            pre_vote: false,
            ..Config::new(1)
        },
        start,
    )
    .expect("the defaults are valid");
    raw.campaign();
    settle(&mut raw);
    for from in 2..=voters {
        let vote = Message {
            msg_type: MessageType::MsgVoteResp,
            from,
            to: 1,
            term: 1,
            ..Default::default()
        };
        raw.step(vote).expect("votes are welcome");
    }
    settle(&mut raw);
    assert_eq!(raw.role(), Role::Leader);
    raw
}

fn settle(raw: &mut RawNode) {
    while raw.has_ready() {
        let ready = raw.ready();
        if let Some(token) = ready.token {
            raw.on_persisted(token);
        }
        for message in ready
            .messages
            .iter()
            .filter(|message| message.msg_type == MessageType::MsgApp)
        {
            let index = message.index + message.entries.len() as u64;
            let answer = Message {
                msg_type: MessageType::MsgAppResp,
                from: message.to,
                to: 1,
                term: 1,
                index,
                ..Default::default()
            };
            raw.step(answer).expect("acknowledgements are welcome");
        }
        if let Some(last) = ready.committed.last() {
            raw.on_applied(last.index);
        }
    }
    if raw.applied_index() > 100_000 {
        let index = raw.applied_index();
        let term = raw.entry_term(index).expect("applied entries are there");
        raw.set_snapshot(raft::SnapshotMetadata {
            conf_state: raw.conf_state(),
            index,
            term,
        });
        raw.compact(index - 5000).ok();
    }
}

#[test]
#[ignore = "measures, and checks nothing but the release build"]
fn a_batch_of_a_thousand_proposals() {
    let payload = Bytes::from_static(&[7; 256]);
    for voters in [1, 3] {
        let mut raw = leader(voters);
        let (mut propose, mut whole) = (0, 0);
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            raw.propose_batch((0..BATCH).map(|_| payload.clone()))
                .expect("nothing is uncommitted");
            propose += begin.elapsed().as_nanos();
            settle(&mut raw);
            whole += begin.elapsed().as_nanos();
        }
        let rounds = ROUNDS as u128 * 1000;
        println!(
            "{voters} voters: {} us to propose, {} us to committed and applied",
            propose / rounds,
            whole / rounds
        );
    }
}
