//! Judges what clients and watchers wrote down against the history that the members tell in the end.
//!
//! Revisions are the order of all writes, so a search for an order is not needed. What must hold:
//!
//! - every answer is what the history says of its revision: writes that returned are there and found before them what
//!   they were told, reads show the state at the revision in their header, whole;
//! - what began after something had ended has no lower revision, and a write a higher one (reads that may be served from
//!   the past show some past state, which counts as seen by those who come later);
//! - a write without a good answer is there once, or not at all; a refused one never;
//! - nothing is there that nobody wrote;
//! - keys under leases go with them, neither early nor never ([`super::leases::judge`]).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    clients::PREFIX,
    leases::LEASED,
    record::{Ask, Outcome, Pair, Record, Told},
    watchers::Tale,
};
use crate::checker::history::{Change, Check, History, ensure, writer_of};

/// Checks all that clients were told; `seen` is what watchers knew.
pub fn judge(history: &mut History, records: &[Record], seen: Vec<Seen>) -> Check {
    for record in records {
        check_answer(history, record).map_err(|why| format!("{why}\n  {record:?}"))?;
    }
    check_authors(history, records)?;
    check_order(history, records, seen)
}

/// Checks all that a watcher was sent; what it saw counts as seen at that time.
pub fn judge_watcher(history: &History, tale: Tale) -> Result<Vec<Seen>, String> {
    let (mut watcher, mut seen) = (tale.expects, Vec::new());
    for session in tale.sessions {
        let member = session.member;
        let expected = watcher.next;
        ensure!(
            session.start == expected,
            "a watcher that has been told of everything below {expected} went on at {}",
            session.start
        );
        watcher.request();
        for (at_ns, answer) in session.answers {
            let taken = watcher.take(&answer, history);
            taken.map_err(|why| format!("a watcher of {:?} on member {member}: {why}", watcher.key))?;
            seen.push(Seen {
                at_ns,
                revision: watcher.next - 1,
            });
        }
    }
    Ok(seen)
}

/// Somebody knew of a revision at a time.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Units: nanoseconds.
    pub at_ns: u64,
    /// The revision.
    pub revision: i64,
}

fn check_answer(history: &mut History, record: &Record) -> Check {
    let (revision, told) = match &record.outcome {
        Outcome::Done(revision, told) => (*revision, told),
        Outcome::Refused(_) => return history.refuse(record.writer),
        Outcome::Unknown(_) => return Ok(()),
    };
    ensure!(
        revision <= history.revision(),
        "an answer of revision {revision}, but there are {} only",
        history.revision()
    );
    match (&record.ask, told) {
        (Ask::Put { key }, Told::Before(before)) => {
            check_before(history, key, revision, before)?;
            check_wrote(history, record.writer, revision, &[key])
        }
        (Ask::PutBoth { keys: [one, two] }, Told::Nothing) => {
            check_wrote(history, record.writer, revision, &[one, two])
        }
        (Ask::Delete { key }, Told::Before(None)) => check_pairs(history, key, b"", revision, &[]),
        (Ask::Delete { key }, Told::Before(before)) => {
            check_before(history, key, revision, before)?;
            let changes = history.changes(revision);
            let is_it = matches!(changes, [change] if change.deleted && change.key == key.as_bytes());
            ensure!(is_it, "revision {revision} is not this delete: {changes:?}");
            Ok(())
        }
        (Ask::Hold { key, .. }, Told::Nothing) => check_wrote(history, record.writer, revision, &[key]),
        (Ask::Compact { revision: to }, Told::Nothing) => {
            ensure!(*to <= revision, "{to} was compacted at {revision}, which is before it");
            Ok(())
        }
        (Ask::Swap { key, expected }, Told::Nothing) => {
            let found = history
                .get(key.as_bytes(), revision - 1)
                .map_or(0, |kv| kv.mod_revision);
            ensure!(
                found == *expected,
                "a swap went through at {revision}, where the key was changed at {found}"
            );
            check_wrote(history, record.writer, revision, &[key])
        }
        (Ask::Swap { key, expected }, Told::Instead(pair)) => {
            let found = history.get(key.as_bytes(), revision).map_or(0, |kv| kv.mod_revision);
            ensure!(
                found != *expected,
                "a swap was refused at {revision}, where the key was changed at {found}"
            );
            check_pairs(history, key, b"", revision, pair.as_slice())
        }
        (Ask::Get { key, .. }, Told::Pairs(pairs)) => check_pairs(history, key, b"", revision, pairs),
        (Ask::List { .. }, Told::Pairs(pairs)) => check_pairs(history, PREFIX, b"l", revision, pairs),
        _ => Err("an answer to another question".into()),
    }
}

/// The revision holds puts of just these keys, by this writer.
fn check_wrote(history: &History, writer: u64, revision: i64, keys: &[&String]) -> Check {
    let changes = history.changes(revision);
    let is_its = |change: &Change| !change.deleted && writer_of(change.kv().value) == Some(writer);
    let right = changes.len() == keys.len()
        && changes
            .iter()
            .zip(keys)
            .all(|(change, key)| is_its(change) && change.key == key.as_bytes());
    ensure!(right, "revision {revision} is not this write: {changes:?}");
    Ok(())
}

fn check_before(history: &History, key: &str, revision: i64, told: &Option<Pair>) -> Check {
    check_pairs(history, key, b"", revision - 1, told.as_slice())
}

/// The state of these keys as of a revision is just these pairs.
fn check_pairs(history: &History, from: &str, end: &[u8], revision: i64, pairs: &[Pair]) -> Check {
    let expected = history.range(from.as_bytes(), end, revision);
    ensure!(
        expected.len() == pairs.len()
            && expected
                .iter()
                .zip(pairs)
                .all(|(expected, pair)| **expected == pair[..]),
        "the state at revision {revision} is {:?}, but {:?} was told",
        expected.iter().map(|pair| brief(pair)).collect::<Vec<_>>(),
        pairs.iter().map(|pair| brief(pair)).collect::<Vec<_>>()
    );
    Ok(())
}

fn brief(pair: &[u8]) -> String {
    let kv = storage::mvcc::Kv::decode(pair);
    let text = kv.map(|kv| {
        let (key, writer) = (String::from_utf8_lossy(kv.key).into_owned(), writer_of(kv.value));
        format!("{key} at {} version {} by {writer:?}", kv.mod_revision, kv.version)
    });
    text.unwrap_or_else(|error| error.to_string())
}

/// Every change was asked for by somebody, and by one request only.
fn check_authors(history: &History, records: &[Record]) -> Check {
    let by_writer: BTreeMap<u64, &Record> = records.iter().map(|record| (record.writer, record)).collect();
    let mut deletes: BTreeMap<Bytes, i64> = BTreeMap::new();
    let mut claimed: BTreeMap<i64, u64> = BTreeMap::new();
    for record in records {
        match (&record.ask, &record.outcome) {
            (Ask::Delete { key }, Outcome::Unknown(_)) => *deletes.entry(key.clone().into()).or_default() += 1,
            (Ask::Delete { .. }, Outcome::Done(revision, Told::Before(Some(_)))) => {
                let other = claimed.insert(*revision, record.writer);
                ensure!(
                    other.is_none(),
                    "two deletes made revision {revision}: {other:?} and {record:?}"
                );
            }
            _ => {}
        }
    }
    for revision in 2..=history.revision() {
        for change in history.changes(revision) {
            if change.deleted {
                // These end with their leases: see [`super::leases::judge`].
                if change.key.starts_with(LEASED.as_bytes()) {
                    continue;
                }
                if !claimed.contains_key(&revision) {
                    let left = deletes.entry(change.key.clone()).or_default();
                    *left -= 1;
                    ensure!(*left >= 0, "nobody deleted {:?} at revision {revision}", change.key);
                }
                continue;
            }
            let author = writer_of(change.kv().value).and_then(|writer| by_writer.get(&writer));
            let Some(author) = author else {
                return Err(format!("nobody wrote revision {revision}: {change:?}"));
            };
            check_author(history, author, revision, change)?;
        }
    }
    Ok(())
}

fn check_author(history: &History, author: &Record, revision: i64, change: &Change) -> Check {
    let keys: &[String] = match &author.ask {
        Ask::Put { key } | Ask::Swap { key, .. } | Ask::Hold { key, .. } => std::slice::from_ref(key),
        Ask::PutBoth { keys } => keys,
        _ => &[],
    };
    let changes = history.changes(revision);
    ensure!(
        changes.len() == keys.len() && keys.iter().any(|key| change.key == key.as_bytes()),
        "revision {revision} is {changes:?}, but this was asked for: {author:?}"
    );
    if let Ask::Swap { key, expected } = &author.ask {
        let found = history
            .get(key.as_bytes(), revision - 1)
            .map_or(0, |kv| kv.mod_revision);
        ensure!(
            found == *expected,
            "a swap went through although {found} was there: {author:?}"
        );
    }
    match &author.outcome {
        Outcome::Done(known, Told::Before(_) | Told::Nothing) => {
            ensure!(*known == revision, "it is at revision {revision} as well: {author:?}")
        }
        Outcome::Unknown(_) => {}
        _ => {
            return Err(format!(
                "revision {revision} was written, but its writer was told otherwise: {author:?}"
            ));
        }
    }
    Ok(())
}

/// Whatever began after something had ended or been seen has no lower revision; a write a higher one.
fn check_order(history: &History, records: &[Record], mut seen: Vec<Seen>) -> Check {
    let mut by_begin: Vec<_> = records.iter().filter_map(|record| placed(history, record)).collect();
    by_begin.sort_by_key(|(record, ..)| record.began_ns);
    seen.extend(records.iter().filter_map(|record| match &record.outcome {
        Outcome::Done(revision, _) => Some(Seen {
            at_ns: record.ended_ns,
            revision: *revision,
        }),
        _ => None,
    }));
    seen.sort_by_key(|seen| seen.at_ns);
    let (mut seen, mut floor) = (seen.into_iter().peekable(), Seen { at_ns: 0, revision: 0 });
    for (record, revision, is_write) in by_begin {
        while let Some(earlier) = seen.next_if(|earlier| earlier.at_ns < record.began_ns) {
            if earlier.revision > floor.revision {
                floor = earlier;
            }
        }
        ensure!(
            revision >= floor.revision + i64::from(is_write) || record.is_serializable(),
            "revision {revision} by what began when {floor:?} was known:\n  {record:?}"
        );
    }
    Ok(())
}

/// A request with its place in the history, and whether it made that revision; none if it has no place.
fn placed<'a>(history: &History, record: &'a Record) -> Option<(&'a Record, i64, bool)> {
    match (&record.ask, &record.outcome) {
        (_, Outcome::Refused(_)) => None,
        (Ask::Delete { .. }, Outcome::Done(revision, Told::Before(before))) => {
            Some((record, *revision, before.is_some()))
        }
        (Ask::Compact { .. }, Outcome::Done(revision, _)) => Some((record, *revision, false)),
        (_, Outcome::Done(revision, Told::Before(_) | Told::Nothing)) => Some((record, *revision, true)),
        (_, Outcome::Done(revision, _)) => Some((record, *revision, false)),
        (_, Outcome::Unknown(_)) => history
            .written_at(record.writer)
            .map(|revision| (record, revision, true)),
    }
}
