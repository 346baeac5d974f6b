use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::types::SnapshotMetadata;

/// A log after `base` whose entries have these terms.
fn log(base: (u64, u64), terms: &[u64]) -> Log {
    Log::new(base, entries(base.0 + 1, terms), base.0, base.0)
}

fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    terms
        .iter()
        .zip(first..)
        .map(|(&term, index)| Entry::normal(term, index, vec![b'x'; 10]))
        .collect()
}

fn terms(log: &Log) -> Vec<u64> {
    log.entries.iter().map(|entry| entry.term).collect()
}

/// Hands the unwritten part to a disk and returns its token.
fn write(log: &mut Log) -> PersistToken {
    let (_, snapshot) = log.take_unwritten();
    log.begin_write(9, snapshot.map(|snapshot| snapshot.metadata.index))
}

#[test]
fn terms_are_known_from_the_base_to_the_end() {
    let log = log((4, 2), &[2, 3]);
    assert_eq!(log.term(3), Err(LogError::Compacted { index: 3, log_start: 4 }));
    assert_eq!([log.term(4), log.term(5), log.term(6)], [Ok(2), Ok(2), Ok(3)]);
    assert_eq!(
        log.term(7),
        Err(LogError::OutOfRange {
            index: 7,
            last_index: 6
        })
    );
}

#[test]
fn the_better_log_is_the_one_with_the_later_last_term_then_the_longer_one() {
    let log = log((0, 0), &[1, 2, 2]);
    assert!(log.is_up_to_date(1, 3));
    assert!(log.is_up_to_date(3, 2));
    assert!(log.is_up_to_date(4, 2));
    assert!(!log.is_up_to_date(2, 2));
    assert!(!log.is_up_to_date(9, 1));
}

#[test]
fn merging_keeps_what_agrees_and_replaces_from_the_first_conflict() {
    let mut log = log((0, 0), &[1, 1, 2, 2]);
    log.merge(entries(2, &[1, 2]));
    assert_eq!(terms(&log), [1, 1, 2, 2], "a delayed append cuts nothing off");
    log.merge(entries(3, &[3, 3, 3]));
    assert_eq!(terms(&log), [1, 1, 3, 3, 3]);
}

#[test]
#[should_panic(expected = "never replaced")]
fn a_committed_entry_is_never_replaced() {
    let mut log = log((0, 0), &[1, 1]);
    log.commit_to(2);
    log.merge(entries(2, &[2]));
}

#[test]
fn the_end_of_a_slice_respects_limits_but_it_is_never_empty() {
    let log = log((2, 1), &[1, 1, 1, 1]);
    let count = |max_bytes, max_entries| log.slice(3, 7, max_bytes, max_entries).unwrap().len();
    assert_eq!(count(u64::MAX, 100), 4);
    assert_eq!(count(2 * (10 + Entry::OVERHEAD_BYTES), 100), 2);
    assert_eq!(count(0, 100), 1);
    assert_eq!(count(u64::MAX, 3), 3);
    assert!(log.slice(2, 4, 1, 1).is_err());
    assert!(log.slice(3, 8, 1, 1).is_err());
}

#[test]
fn an_acknowledged_write_makes_its_entries_stable() {
    let mut log = log((0, 0), &[]);
    log.append(entries(1, &[1, 1]));
    let first = write(&mut log);
    log.append(entries(3, &[1]));
    let second = write(&mut log);
    assert_eq!(log.awaited_write(false), Some(2));
    log.persisted(first).unwrap();
    assert_eq!(log.stable(), 2);
    log.persisted(second).unwrap();
    assert_eq!((log.stable(), log.awaited_write(false)), (3, None));
    assert_eq!(log.persisted(second), None, "a token counts once");
}

#[test]
fn a_later_token_answers_for_the_earlier_ones() {
    let mut log = log((0, 0), &[]);
    log.append(entries(1, &[1]));
    let first = write(&mut log);
    log.append(entries(2, &[1]));
    let second = write(&mut log);
    log.persisted(second).unwrap();
    assert_eq!(log.stable(), 2);
    assert_eq!(log.persisted(first), None);
}

#[test]
fn a_write_whose_entries_were_replaced_makes_only_the_rest_stable() {
    let mut log = log((0, 0), &[]);
    log.append(entries(1, &[1, 1, 1]));
    let old = write(&mut log);
    log.merge(entries(2, &[2, 2]));
    let new = write(&mut log);
    log.persisted(old).unwrap();
    assert_eq!(log.stable(), 1);
    // The same term and length again: only the sequence tells the writes apart.
    log.persisted(new).unwrap();
    assert_eq!(log.stable(), 3);
}

#[test]
fn a_token_of_another_life_is_ignored() {
    let mut log = log((0, 0), &[]);
    log.append(entries(1, &[1]));
    let token = write(&mut log);
    assert_eq!(log.persisted(PersistToken { last_term: 7, ..token }), None);
    assert_eq!(log.stable(), 0);
}

#[test]
fn committed_entries_are_handed_out_once_within_the_limit_on_what_is_being_applied() {
    let mut log = log((0, 0), &[1; 5]);
    log.commit_to(5);
    let room = 2 * (10 + Entry::OVERHEAD_BYTES);
    assert_eq!(log.next_committed(true, room, 100).len(), 2);
    assert!(!log.has_committed(true, room));
    log.applied_to(1);
    assert_eq!(log.next_committed(true, room, 100).len(), 1);
    log.applied_to(3);
    assert_eq!(log.next_committed(true, u64::MAX, 1).len(), 1);
}

#[test]
fn unpersisted_entries_are_handed_out_only_if_asked_for() {
    let mut log = log((0, 0), &[]);
    log.append(entries(1, &[1]));
    log.commit_to(1);
    assert!(!log.has_committed(false, 100));
    assert!(log.has_committed(true, 100));
}

fn snapshot_at(index: u64, term: u64) -> Snapshot {
    let metadata = SnapshotMetadata {
        index,
        term,
        ..Default::default()
    };
    Snapshot {
        data: Bytes::new(),
        metadata,
    }
}

#[test]
fn a_snapshot_replaces_the_log_and_counts_as_applied_once_durable() {
    let mut log = log((0, 0), &[1, 1, 1]);
    log.commit_to(2);
    log.append(entries(4, &[1]));
    let old = write(&mut log);
    log.restore(snapshot_at(10, 3));
    let new = write(&mut log);
    log.append(entries(11, &[3]));
    log.commit_to(11);
    log.persisted(old).unwrap();
    assert_eq!(
        (log.stable(), log.applied(), log.has_committed(true, 100)),
        (2, 0, false)
    );
    assert!(log.persisted(new).unwrap().snapshot);
    assert_eq!((log.stable(), log.applied(), log.first_index()), (10, 10, 11));
    assert_eq!(log.next_committed(true, 100, 100).len(), 1);
}

#[test]
fn compaction_keeps_the_term_of_the_base() {
    let mut log = log((0, 0), &[1, 2, 2]);
    log.commit_to(3);
    log.next_committed(true, u64::MAX, 100);
    log.applied_to(3);
    log.compact(2);
    assert_eq!((log.base_index(), log.term(2), log.last_index()), (2, Ok(2), 3));
    log.compact(3);
    assert_eq!((log.last_index(), log.last_term()), (3, 2));
}

#[test]
fn the_payload_of_all_entries_is_known_whatever_became_of_some() {
    // Ten bytes each.
    let mut log = log((0, 0), &[1, 1, 1, 1]);
    assert_eq!(log.payload_bytes(), 40);
    log.append(entries(5, &[1, 1]));
    log.merge(entries(4, &[2]));
    assert_eq!(
        (log.last_index(), log.payload_bytes()),
        (4, 40),
        "a new leader replaced three"
    );
    log.commit_to(3);
    log.next_committed(true, u64::MAX, 100);
    log.applied_to(3);
    log.compact(2);
    assert_eq!(log.payload_bytes(), 20);
    log.restore(snapshot_at(10, 3));
    assert_eq!(log.payload_bytes(), 0);
}

#[test]
fn the_tail_that_is_kept_is_bounded_by_entries_and_by_bytes() {
    // Ten bytes each, indexes 5 to 10.
    let log = log((4, 1), &[1; 6]);
    assert_eq!(log.tail_start(10, 2, 1000), 9);
    assert_eq!(log.tail_start(10, 100, 35), 8, "three fit");
    assert_eq!(
        log.tail_start(8, 100, 20),
        7,
        "what lies behind the index does not count"
    );
    assert_eq!(log.tail_start(10, 100, 1000), 5, "not more than there are");
    assert_eq!(log.tail_start(10, 1, 0), 10, "the last one counts whatever its size");
    assert_eq!(log.tail_start(3, 10, 1000), 5, "nothing to keep that far back");
}

proptest! {
    /// Against the definition: walk back until the term is low enough.
    #[test]
    fn the_conflict_by_term_is_found_as_by_walking_back(
        base in (0u64..3, 0u64..3),
        steps in prop::collection::vec(0u64..2, 0..12),
        index in 0u64..20,
        term in 0u64..12,
    ) {
        let mut last = base.1;
        let terms: Vec<u64> = steps.iter().map(|step| { last += step; last }).collect();
        let log = log(base, &terms);
        let mut at = index.min(log.last_index());
        while at >= base.0 && log.term(at).unwrap() > term {
            if at == 0 {
                break;
            }
            at -= 1;
        }
        let expected = (at, if at < base.0 { 0 } else { log.term(at).unwrap() });
        let found = log.find_conflict_by_term(index, term);
        if base.0 > 0 || base.1 <= term {
            prop_assert_eq!(found, expected);
        }
    }
}
