//! The oracle: what must hold of a Raft group at every moment, whatever happens.
//!
//! Source: Raft paper, figure 3 (election safety, log matching, leader completeness, state machine safety); thesis, section
//! 6.4 (reads).

use std::collections::BTreeMap;

use raft::{Entry, Role};

use crate::member::Member;

#[derive(Default)]
pub struct Checker {
    /// Who led each term.
    leaders: BTreeMap<u64, u64>,
    /// Every committed entry, as first seen, from index 1.
    committed: Vec<Entry>,
    /// Hash of the state after each entry: `hashes[index]`.
    hashes: Vec<u64>,
    /// Highest commit index seen anywhere when a read was asked for.
    reads: BTreeMap<u64, u64>,
    /// Term and commit index each member was last seen with, in its present life.
    marks: BTreeMap<u64, (u64, u64)>,
}

impl Checker {
    pub fn committed_len(&self) -> u64 {
        self.committed.len() as u64
    }

    pub fn leaders_len(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// A member lost its memory.
    pub fn forget(&mut self, id: u64) {
        self.marks.remove(&id);
    }

    /// A member answered for everything up to `commit`: nothing older may be read from now on.
    pub fn read_asked(&mut self, context: u64) {
        self.reads.insert(context, self.committed_len());
    }

    /// A read may be served from `index` on: it must not be behind what was committed when it was asked for.
    pub fn read_answered(&mut self, id: u64, context: u64, index: u64) {
        let asked = self.reads[&context];
        assert!(
            index >= asked,
            "stale read {context} on member {id}: index {index}, committed when asked {asked}"
        );
    }

    /// Entries that a member was told are committed.
    pub fn entries_committed(&mut self, id: u64, entries: &[Entry]) {
        for entry in entries {
            let at = entry.index as usize - 1;
            match self.committed.get(at) {
                Some(known) => assert_eq!(
                    known, entry,
                    "member {id} commits another entry than was committed before"
                ),
                None => {
                    assert_eq!(at, self.committed.len(), "member {id} commits past a gap");
                    self.committed.push(entry.clone());
                    let before = self.hashes.last().copied().unwrap_or(0);
                    if self.hashes.is_empty() {
                        self.hashes.push(0);
                    }
                    self.hashes.push(crate::member::next_hash(before, entry));
                }
            }
        }
    }

    /// Looks at one member after it did something.
    pub fn look(&mut self, member: &Member) {
        let raw = &member.raw;
        let id = raw.id();
        let (term, commit) = (raw.term(), raw.commit_index());
        let before = self.marks.insert(id, (term, commit)).unwrap_or_default();
        assert!(
            term >= before.0 && commit >= before.1,
            "member {id} went back from {before:?} to {:?}",
            (term, commit)
        );
        assert!(raw.applied_index() <= commit && commit <= raw.last_index());
        assert!(raw.persisted_index() <= raw.last_index());
        if raw.role() == Role::Leader {
            self.check_leader(member);
        }
        if member.state.index > 0 {
            let expected = self.hashes[member.state.index as usize];
            assert_eq!(
                member.state.hash, expected,
                "member {id} has another state at {}",
                member.state.index
            );
        }
        // What a member takes for committed is what was committed: the entry at its commit index is the one we know.
        self.record_commit(member);
    }

    /// Logs that agree at one point agree before it.
    pub fn check_log_matching(&self, members: &[&Member]) {
        for (at, one) in members.iter().enumerate() {
            for other in &members[at + 1..] {
                check_pair(one, other);
            }
        }
    }

    fn check_leader(&mut self, member: &Member) {
        let (id, term) = (member.raw.id(), member.raw.term());
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "two leaders in term {term}");
        // Only entries of terms up to its own must be there: a deposed leader may not know of later ones.
        let through = self.committed.partition_point(|entry| entry.term <= term);
        for entry in self.committed[..through].iter().rev().take(8) {
            if entry.index >= member.raw.first_index() && entry.term < term {
                let found = member.raw.entry_term(entry.index).ok();
                assert_eq!(
                    found,
                    Some(entry.term),
                    "leader {id} of term {term} lacks committed entry {}",
                    entry.index
                );
            }
        }
    }

    fn record_commit(&mut self, member: &Member) {
        let raw = &member.raw;
        let low = raw.first_index().max(self.committed_len() + 1);
        if low <= raw.commit_index() {
            let entries = raw
                .entries(low, raw.commit_index() + 1, u64::MAX)
                .expect("committed entries are there");
            self.entries_committed(raw.id(), &entries);
        }
        let index = raw.commit_index();
        if index > 0 && index >= raw.first_index() {
            let known = &self.committed[index as usize - 1];
            assert_eq!(
                raw.entry_term(index),
                Ok(known.term),
                "member {} committed another entry {index}",
                raw.id()
            );
        }
    }
}

fn check_pair(one: &Member, other: &Member) {
    let first = one.raw.first_index().max(other.raw.first_index());
    let last = one.raw.last_index().min(other.raw.last_index());
    let mut agreed = false;
    for index in (first..=last).rev() {
        let terms = (one.raw.entry_term(index).unwrap(), other.raw.entry_term(index).unwrap());
        assert!(
            !agreed || terms.0 == terms.1,
            "members {} and {} agree after entry {index} and not at it",
            one.raw.id(),
            other.raw.id()
        );
        if terms.0 == terms.1 {
            let read = |member: &Member| member.raw.entries(index, index + 1, 0).unwrap();
            assert_eq!(read(one), read(other), "the same term and index hold two entries");
            agreed = true;
        }
    }
}
