//! `--force-new-cluster`: a member of a cluster that lost its majority goes on as a cluster of one, with its data.
//!
//! Entries that are not known to be committed are dropped, and behind the committed ones stand changes that remove every
//! other member, committed by decree. They are in the log, in one append, before anything is served: a crash before that
//! leaves the old cluster, a crash after it the new one, with or without the flag. The entries carry a term of their own,
//! so that none of them passes for an entry that a leader of the old cluster made.
//!
//! Source: etcd's bootstrap (`CommitedEntries`, `NewConfigChangeEntries`, `AppendAndCommitEntries`).

use std::collections::BTreeMap;

use raft::{ConfChange, ConfChangeType, Entry, EntryType, Start};

use super::{BootError, reconfigure};

/// Turns what was recovered into the state of a lone member; the entries to append to the log, none when it is alone already.
///
/// Errors: the log does not know this member.
pub(super) fn stand_alone(start: &mut Start, me: u64) -> Result<Vec<Entry>, BootError> {
    let commit = start.hard_state.commit;
    let dropped = start.entries.iter().filter(|entry| entry.index > commit).count();
    start.entries.retain(|entry| entry.index <= commit);
    let members = members(start)?;
    let votes = *members.get(&me).ok_or(BootError::NotInCluster)?;
    let promote = (!votes).then(|| reconfigure::promotion(me));
    let others = members.keys().filter(|id| **id != me);
    let changes: Vec<ConfChange> = promote.into_iter().chain(others.map(|id| removal(*id))).collect();
    tracing::warn!(
        member = format!("{me:x}"),
        commit,
        dropped,
        removed = members.len() - 1,
        "forcing a new cluster of this member alone; start it without --force-new-cluster from now on"
    );
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let term = start.hard_state.term + 1;
    let entry = |(change, index): (ConfChange, u64)| Entry {
        entry_type: EntryType::ConfChange,
        term,
        index,
        data: change.encode(),
    };
    let entries: Vec<Entry> = changes.into_iter().zip(commit + 1..).map(entry).collect();
    start.entries.extend(entries.iter().cloned());
    start.hard_state.term = term;
    start.hard_state.vote = me;
    start.hard_state.commit = commit + entries.len() as u64;
    Ok(entries)
}

/// The members as of the last committed entry, each with whether it votes.
fn members(start: &Start) -> Result<BTreeMap<u64, bool>, BootError> {
    let conf = &start.conf_state;
    let mut members = BTreeMap::new();
    members.extend(conf.learners.iter().chain(&conf.learners_next).map(|id| (*id, false)));
    members.extend(conf.voters.iter().chain(&conf.voters_outgoing).map(|id| (*id, true)));
    for entry in start.entries.iter().filter(|entry| entry.index > start.applied) {
        let bad = |error: raft::WireError| BootError::Raft(error.to_string());
        for single in entry
            .conf_change()
            .map_err(bad)?
            .into_iter()
            .flat_map(|change| change.changes)
        {
            match single.change_type {
                ConfChangeType::AddNode => drop(members.insert(single.node_id, true)),
                ConfChangeType::AddLearnerNode => drop(members.entry(single.node_id).or_insert(false)),
                ConfChangeType::RemoveNode => drop(members.remove(&single.node_id)),
                ConfChangeType::UpdateNode => {}
            }
        }
    }
    Ok(members)
}

fn removal(id: u64) -> ConfChange {
    ConfChange {
        id: 0,
        change_type: ConfChangeType::RemoveNode,
        node_id: id,
        context: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use raft::{ConfState, HardState};

    use super::*;

    fn log(voters: &[u64], learners: &[u64], commit: u64, last: u64) -> Start {
        let entry = |index| Entry {
            entry_type: EntryType::Normal,
            term: 3,
            index,
            data: Default::default(),
        };
        Start {
            hard_state: HardState {
                term: 3,
                vote: 2,
                commit,
            },
            conf_state: ConfState {
                voters: voters.to_vec(),
                learners: learners.to_vec(),
                ..ConfState::default()
            },
            entries: (1..=last).map(entry).collect(),
            ..Start::default()
        }
    }

    fn changes(entries: &[Entry]) -> Vec<(u64, ConfChangeType, u64)> {
        let one = |entry: &Entry| {
            let change = ConfChange::decode(&entry.data).expect("a change");
            (entry.index, change.change_type, change.node_id)
        };
        entries.iter().map(one).collect()
    }

    #[test]
    fn the_others_are_removed_behind_the_last_committed_entry() {
        let mut start = log(&[1, 2, 3], &[4], 5, 7);
        let added = stand_alone(&mut start, 2).unwrap();
        let remove = ConfChangeType::RemoveNode;
        assert_eq!(changes(&added), [(6, remove, 1), (7, remove, 3), (8, remove, 4)]);
        assert!(added.iter().all(|entry| entry.term == 4));
        assert_eq!(
            (start.hard_state.term, start.hard_state.vote, start.hard_state.commit),
            (4, 2, 8)
        );
        assert_eq!(start.entries.len(), 8);
        start.validate().unwrap();
    }

    #[test]
    fn changes_that_are_committed_but_not_applied_count() {
        let mut start = log(&[1, 2], &[], 5, 5);
        start.applied = 3;
        start.entries[3].entry_type = EntryType::ConfChange;
        start.entries[3].data = removal(1).encode();
        assert_eq!(stand_alone(&mut start, 2).unwrap(), []);
        assert_eq!(start.hard_state.term, 3, "it is alone already");
    }

    #[test]
    fn a_learner_is_promoted_first() {
        let mut start = log(&[1], &[2], 5, 5);
        let added = stand_alone(&mut start, 2).unwrap();
        let (add, remove) = (ConfChangeType::AddNode, ConfChangeType::RemoveNode);
        assert_eq!(changes(&added), [(6, add, 2), (7, remove, 1)]);
    }

    #[test]
    fn a_member_that_its_log_does_not_know_cannot_stand_alone() {
        assert!(matches!(
            stand_alone(&mut log(&[1, 3], &[], 5, 5), 2),
            Err(BootError::NotInCluster)
        ));
    }
}
