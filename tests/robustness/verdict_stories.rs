//! The judge finds what it is there to find: small histories with one thing wrong in each.

use prost::Message;

use super::{
    leases::{self, Holding},
    record::{Ask, Outcome, Pair, Record, Told},
    verdict::{Seen, judge, judge_watcher},
    watchers::{Answers, Session, Tale},
};
use crate::{
    checker::{
        history::{Change, History},
        watcher::Watcher as Expectation,
    },
    support::pb::{
        etcdserverpb::{ResponseHeader, WatchResponse},
        mvccpb::{Event, KeyValue, event::EventType},
    },
};

fn kv(writer: u64, revision: i64, version: i64, created: i64) -> KeyValue {
    KeyValue {
        key: b"k00".to_vec(),
        value: format!("{writer}.").into(),
        mod_revision: revision,
        version,
        create_revision: created,
        ..KeyValue::default()
    }
}

fn bytes(kv: KeyValue) -> Pair {
    kv.encode_to_vec()
}

/// `k00` is put at 2 by 1 and at 3 by 2, deleted at 4, and put at 5 by 4.
fn history() -> History {
    let mut history = History::default();
    let put = |kv: KeyValue| Change {
        key: kv.key.clone().into(),
        deleted: false,
        encoded: kv.encode_to_vec().into(),
    };
    let key = KeyValue {
        key: b"k00".to_vec(),
        ..KeyValue::default()
    };
    let gone = Change {
        deleted: true,
        ..put(key)
    };
    history.tell(2, vec![put(kv(1, 2, 1, 2))], &[None]).unwrap();
    history.tell(3, vec![put(kv(2, 3, 2, 2))], &[Some(2)]).unwrap();
    history.tell(4, vec![gone], &[Some(3)]).unwrap();
    history.tell(5, vec![put(kv(4, 5, 1, 5))], &[None]).unwrap();
    history
}

fn record(writer: u64, times: (u64, u64), ask: Ask, outcome: Outcome) -> Record {
    let (began_ns, ended_ns) = times;
    Record {
        writer,
        began_ns,
        ended_ns,
        member: 0,
        ask,
        outcome,
    }
}

fn key() -> String {
    "k00".into()
}

fn put(writer: u64, times: (u64, u64), revision: i64, before: Option<Pair>) -> Record {
    record(
        writer,
        times,
        Ask::Put { key: key() },
        Outcome::Done(revision, Told::Before(before)),
    )
}

fn get(times: (u64, u64), serializable: bool, revision: i64, pairs: Vec<Pair>) -> Record {
    let ask = Ask::Get {
        key: key(),
        serializable,
    };
    record(99, times, ask, Outcome::Done(revision, Told::Pairs(pairs)))
}

/// What happened, told as it was; the put at 5 had no answer.
fn true_records() -> Vec<Record> {
    let delete = Outcome::Done(4, Told::Before(Some(bytes(kv(2, 3, 2, 2)))));
    vec![
        put(1, (10, 20), 2, None),
        put(2, (30, 40), 3, Some(bytes(kv(1, 2, 1, 2)))),
        record(3, (50, 60), Ask::Delete { key: key() }, delete),
        record(
            4,
            (70, 75),
            Ask::Put { key: key() },
            Outcome::Unknown("no answer".into()),
        ),
    ]
}

#[track_caller]
fn is_blamed(records: Vec<Record>, text: &str) {
    let why = judge(&mut history(), &records, Vec::new()).expect_err(text);
    assert!(why.contains(text), "{why}");
}

fn with(more: Record) -> Vec<Record> {
    let mut records = true_records();
    records.push(more);
    records
}

#[test]
fn what_is_right_is_accepted() {
    let mut records = true_records();
    records.push(get((61, 69), false, 4, vec![]));
    records.push(get((76, 80), true, 2, vec![bytes(kv(1, 2, 1, 2))]));
    records.push(record(
        5,
        (76, 80),
        Ask::Put { key: key() },
        Outcome::Refused("full".into()),
    ));
    assert_eq!(judge(&mut history(), &records, Vec::new()), Ok(()));
}

#[test]
fn a_stale_read_is_found() {
    let stale = || vec![bytes(kv(1, 2, 1, 2))];
    is_blamed(with(get((45, 48), false, 2, stale())), "by what began when");
    let told = judge(&mut history(), &with(get((45, 48), true, 2, stale())), Vec::new());
    assert_eq!(told, Ok(()), "unless it asked for that");
}

#[test]
fn a_read_of_what_was_not_yet_asked_for_is_found() {
    is_blamed(
        with(get((21, 25), false, 3, vec![bytes(kv(2, 3, 2, 2))])),
        "by what began when",
    );
    let seen = Seen { at_ns: 25, revision: 3 };
    let why = judge(&mut history(), &true_records(), vec![seen]).expect_err("a watcher saw it");
    assert!(why.contains("by what began when"), "{why}");
}

#[test]
fn a_read_of_another_state_is_found() {
    is_blamed(
        with(get((41, 49), false, 3, vec![bytes(kv(1, 2, 1, 2))])),
        "the state at revision 3",
    );
    is_blamed(with(get((76, 80), false, 9, vec![])), "there are 5 only");
}

#[test]
fn a_lost_write_is_found() {
    let lost = put(5, (76, 80), 6, Some(bytes(kv(4, 5, 1, 5))));
    is_blamed(with(lost), "there are 5 only");
    let elsewhere = put(5, (76, 80), 5, None);
    is_blamed(with(elsewhere), "is not this write");
}

#[test]
fn a_write_that_was_refused_or_that_nobody_asked_for_is_found() {
    let mut records = true_records();
    records[3].outcome = Outcome::Refused("full".into());
    is_blamed(records.clone(), "was refused, but it wrote revision 5");
    records.pop();
    is_blamed(records.clone(), "nobody wrote revision 5");
    records[2].outcome = Outcome::Refused("full".into());
    is_blamed(records, "nobody deleted");
}

#[test]
fn a_swap_that_should_not_have_gone_through_is_found() {
    let swap = |expected, told| {
        let mut records = true_records();
        let ask = Ask::Swap { key: key(), expected };
        records[1] = record(2, (30, 40), ask, told);
        records
    };
    let done = || Outcome::Done(3, Told::Nothing);
    assert_eq!(judge(&mut history(), &swap(2, done()), Vec::new()), Ok(()));
    is_blamed(swap(0, done()), "a swap went through");
    is_blamed(swap(0, Outcome::Unknown("no answer".into())), "a swap went through");
    is_blamed(swap(3, Outcome::Done(3, Told::Instead(None))), "a swap was refused");
}

/// The events of these revisions in one answer.
fn answer(revisions: &[i64]) -> (u64, Vec<u8>) {
    let history = history();
    let event = |revision: &i64| {
        let change = &history.changes(*revision)[0];
        let mut kv = KeyValue::decode(&change.encoded[..]).expect("it was encoded above");
        kv.mod_revision = *revision;
        let kind = if change.deleted {
            EventType::Delete
        } else {
            EventType::Put
        };
        Event {
            r#type: kind.into(),
            kv: Some(kv),
            prev_kv: None,
        }
    };
    let response = WatchResponse {
        header: Some(header(5)),
        events: revisions.iter().map(event).collect(),
        ..WatchResponse::default()
    };
    (0, response.encode_to_vec())
}

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        revision,
        ..ResponseHeader::default()
    }
}

fn watched(sessions: Vec<(i64, Answers)>) -> Result<Vec<Seen>, String> {
    let created = WatchResponse {
        header: Some(header(5)),
        created: true,
        ..WatchResponse::default()
    };
    let session = |(start, mut answers): (i64, Answers)| {
        answers.insert(0, (0, created.encode_to_vec()));
        let member = 0;
        Session { member, start, answers }
    };
    let expects = Expectation {
        key: b"k00".as_slice().into(),
        next: 1,
        ..Expectation::default()
    };
    let sessions = sessions.into_iter().map(session).collect();
    judge_watcher(&history(), Tale { expects, sessions })
}

#[test]
fn a_watcher_may_go_on_elsewhere() {
    let seen = watched(vec![(1, vec![answer(&[2, 3])]), (4, vec![answer(&[4]), answer(&[5])])]);
    assert_eq!(seen.expect("all is right").last().map(|seen| seen.revision), Some(5));
}

#[test]
fn lost_repeated_and_reordered_events_are_found() {
    for wrong in [
        vec![answer(&[2, 4])],
        vec![answer(&[2]), answer(&[2])],
        vec![answer(&[3, 2])],
        vec![answer(&[2, 3]), answer(&[5])],
    ] {
        assert!(watched(vec![(1, wrong)]).is_err());
    }
    assert!(watched(vec![(1, vec![answer(&[2])]), (2, vec![answer(&[2])])]).is_err());
}

#[test]
fn a_lease_that_ends_early_or_never_is_found() {
    const SECOND: u64 = 1_000_000_000;
    let held = |renewed_ns: &[u64]| Holding {
        key: "t1".into(),
        ttl: 2,
        renewed_ns: renewed_ns.to_vec(),
    };
    let gone = WatchResponse {
        events: vec![Event {
            r#type: EventType::Delete as i32,
            kv: Some(KeyValue {
                key: b"t1".to_vec(),
                ..KeyValue::default()
            }),
            prev_kv: None,
        }],
        ..WatchResponse::default()
    };
    let scribe = |at_ns: u64| Tale {
        expects: Expectation::default(),
        sessions: vec![Session {
            member: 0,
            start: 1,
            answers: vec![(at_ns, gone.encode_to_vec())],
        }],
    };
    let nothing = History::default();
    leases::judge(&nothing, &[held(&[0, SECOND])], &scribe(3 * SECOND)).unwrap();
    let early = leases::judge(&nothing, &[held(&[0, SECOND])], &scribe(3 * SECOND - 1));
    assert!(early.unwrap_err().contains("before the time of its lease"));
    let strange = leases::judge(&nothing, &[], &scribe(3 * SECOND));
    assert!(strange.unwrap_err().contains("nobody held"));

    let mut history = History::default();
    let kv = KeyValue {
        key: b"t1".to_vec(),
        ..kv(1, 2, 1, 2)
    };
    let put = Change {
        key: kv.key.clone().into(),
        deleted: false,
        encoded: bytes(kv).into(),
    };
    history.tell(2, vec![put], &[None]).unwrap();
    let silent = Tale {
        expects: Expectation::default(),
        sessions: Vec::new(),
    };
    let never = leases::judge(&history, &[held(&[0])], &silent);
    assert!(never.unwrap_err().contains("never ended"));
}
