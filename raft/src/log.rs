//! The replicated log of one member, in memory from the compacted index on.
//!
//! ```text
//!   base            applied      handed_out      committed                last
//!    |  compactable   |  applying    |  to hand out  |  may be replaced     |
//!    +----------------+--------------+---------------+----------------------+
//!                                         stable            written         last
//!                          on this disk      |  being written  |  to write   |
//! ```
//!
//! Two rows of marks move along it. The upper one is Raft's: compacted <= applied <= handed out <= committed <= last. The
//! lower one is this disk's: stable <= written <= last. They are independent but for one thing: a leader may commit on a
//! quorum of others, so `committed` may pass `stable`.

mod writes;

use std::collections::VecDeque;

use crate::error::LogError;
use crate::mutant;
use crate::ready::PersistToken;
use crate::types::{Entry, Snapshot};
use writes::Writes;

pub(crate) struct Log {
    entries: VecDeque<Entry>,
    /// Payload of all of them.
    bytes: u64,
    base_index: u64,
    base_term: u64,
    committed: u64,
    handed_out: u64,
    handed_out_bytes: u64,
    applied: u64,
    stable: u64,
    written: u64,
    writes: Writes,
    /// A snapshot that replaced the log and is not durable yet, and whether it was handed to the writer.
    snapshot: Option<(Snapshot, bool)>,
}

/// What an acknowledged write made durable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Persisted {
    /// Whether the snapshot that replaced this log is among it.
    pub(crate) snapshot: bool,
}

impl Log {
    /// A log whose entries are all durable. The caller has checked that the parts fit together.
    pub(crate) fn new(base: (u64, u64), entries: Vec<Entry>, committed: u64, applied: u64) -> Log {
        let last = base.0 + entries.len() as u64;
        let log = Log {
            bytes: entries.iter().map(payload_bytes).sum(),
            entries: entries.into(),
            base_index: base.0,
            base_term: base.1,
            committed,
            handed_out: applied,
            handed_out_bytes: 0,
            applied,
            stable: last,
            written: last,
            writes: Writes::default(),
            snapshot: None,
        };
        log.assert_order();
        log
    }

    pub(crate) fn base_index(&self) -> u64 {
        self.base_index
    }

    pub(crate) fn first_index(&self) -> u64 {
        self.base_index + 1
    }

    #[inline]
    pub(crate) fn last_index(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    /// Where the newest entries up to `index` begin that are at most `entries_max` and `bytes_max`; one always counts.
    pub(crate) fn tail_start(&self, index: u64, entries_max: u64, bytes_max: u64) -> u64 {
        let held = index.min(self.last_index()).saturating_sub(self.base_index);
        let (mut start, mut bytes) = (self.base_index + held + 1, 0);
        for entry in self.entries.range(..held as usize).rev() {
            bytes += payload_bytes(entry);
            let kept = self.base_index + held + 1 - start;
            if kept > 0 && (kept >= entries_max || bytes > bytes_max) {
                break;
            }
            start = entry.index;
        }
        start
    }

    /// Payload of all entries. Units: bytes.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn last_term(&self) -> u64 {
        self.entries.back().map_or(self.base_term, |entry| entry.term)
    }

    #[inline]
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    pub(crate) fn stable(&self) -> u64 {
        self.stable
    }

    /// The term of an entry; the one before the first still counts.
    pub(crate) fn term(&self, index: u64) -> Result<u64, LogError> {
        if index < self.base_index {
            return Err(LogError::Compacted {
                index,
                log_start: self.base_index,
            });
        }
        if index == self.base_index {
            return Ok(self.base_term);
        }
        match self.entries.get((index - self.base_index - 1) as usize) {
            Some(entry) => Ok(entry.term),
            None => Err(LogError::OutOfRange {
                index,
                last_index: self.last_index(),
            }),
        }
    }

    /// Whether the log has this entry, from this leader.
    pub(crate) fn matches(&self, index: u64, term: u64) -> bool {
        self.term(index) == Ok(term)
    }

    /// Whether a log that ends like this is at least as good as ours.
    ///
    /// Source: Raft paper, section 5.4.1.
    pub(crate) fn is_up_to_date(&self, last_index: u64, last_term: u64) -> bool {
        if mutant::on("longer_log_wins") {
            return last_index >= self.last_index();
        }
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    /// The last entry at or before `index` whose term is at most `term`: past it, no log with that term at `index` agrees.
    /// Term 0 stands for a compacted entry, about which nothing is known.
    pub(crate) fn find_conflict_by_term(&self, index: u64, term: u64) -> (u64, u64) {
        let index = index.min(self.last_index());
        if index < self.base_index {
            return (index, 0);
        }
        let held = (index - self.base_index) as usize;
        let below = self.entries.partition_point(|entry| entry.term <= term).min(held);
        match below {
            0 if self.base_term <= term => (self.base_index, self.base_term),
            0 => (self.base_index.saturating_sub(1), 0),
            _ => (self.base_index + below as u64, self.entries[below - 1].term),
        }
    }

    /// Appends entries behind the last one.
    pub(crate) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            assert_eq!(entry.index, self.last_index() + 1, "entries are appended without gaps");
            assert!(entry.term >= self.last_term(), "terms never go down along the log");
            self.bytes += payload_bytes(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Takes over a leader's entries behind `(index, term)`, which this log holds. Entries that are there already stay, so
    /// that a delayed append does not cut off what came after it.
    ///
    /// Source: Raft paper, section 5.3.
    pub(crate) fn merge(&mut self, entries: Vec<Entry>) {
        let conflicts =
            |entry: &Entry| !self.matches(entry.index, entry.term) || mutant::on("late_append_cuts_the_log");
        let conflict = entries.iter().position(conflicts);
        if let Some(at) = conflict {
            if entries[at].index <= self.last_index() {
                self.truncate_from(entries[at].index);
            }
            self.append(entries.into_iter().skip(at));
        }
    }

    /// Raises the commit index.
    pub(crate) fn commit_to(&mut self, index: u64) {
        if index > self.committed {
            assert!(
                index <= self.last_index(),
                "entry {index} is committed but the log ends at {}",
                self.last_index()
            );
            self.committed = index;
        }
    }

    /// The member has applied everything up to `index`.
    pub(crate) fn applied_to(&mut self, index: u64) {
        if index <= self.applied {
            return;
        }
        assert!(
            index <= self.handed_out,
            "entry {index} was applied, but only {} were handed out",
            self.handed_out
        );
        if self.snapshot.is_some() {
            // The entries are gone already; installing the snapshot settles the account.
            self.applied = index;
            return;
        }
        let bytes: u64 = self.range(self.applied + 1, index + 1).map(Entry::size_bytes).sum();
        self.handed_out_bytes -= bytes;
        self.applied = index;
    }

    /// The member's state now holds exactly the entries up to `index`: those behind it are handed out, anew if need be.
    pub(crate) fn restart_at(&mut self, index: u64) {
        assert!(
            self.snapshot.is_none() && (self.base_index()..=self.committed()).contains(&index),
            "a state at entry {index} does not fit the log"
        );
        (self.applied, self.handed_out, self.handed_out_bytes) = (index, index, 0);
    }

    /// Drops entries up to `index`, which are applied and durable.
    pub(crate) fn compact(&mut self, index: u64) {
        let term = self
            .term(index)
            .expect("the caller has checked that the log holds the entry");
        let dropped = self.entries.drain(..(index - self.base_index) as usize);
        self.bytes -= dropped.map(|entry| payload_bytes(&entry)).sum::<u64>();
        (self.base_index, self.base_term) = (index, term);
        self.assert_order();
    }

    /// Replaces the whole log by a snapshot that lies ahead of everything committed here.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        let (index, term) = (snapshot.metadata.index, snapshot.metadata.term);
        assert!(index > self.committed, "a snapshot never takes back what is committed");
        self.stable = self.stable.min(self.committed);
        self.writes.replaced_after(0);
        self.entries.clear();
        self.bytes = 0;
        (self.base_index, self.base_term) = (index, term);
        self.committed = index;
        self.written = index;
        self.snapshot = Some((snapshot, false));
    }

    /// Whether a snapshot waits to become durable; until then nothing is applied and no campaign is begun.
    pub(crate) fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Entries `low .. high`, cut at the limits but never to nothing.
    pub(crate) fn slice(
        &self,
        low: u64,
        high: u64,
        max_bytes: u64,
        max_entries: usize,
    ) -> Result<Vec<Entry>, LogError> {
        if low < self.first_index() {
            return Err(LogError::Compacted {
                index: low,
                log_start: self.base_index,
            });
        }
        if high > self.last_index() + 1 || low > high {
            return Err(LogError::OutOfRange {
                index: high.max(low),
                last_index: self.last_index(),
            });
        }
        let mut bytes = 0u64;
        let fitting = self.range(low, high).take(max_entries).take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.size_bytes();
            first || bytes <= max_bytes
        });
        let count = fitting.count() as u64;
        Ok(self.range(low, low + count).cloned().collect())
    }

    /// The entries `low .. high`, which the log holds.
    pub(crate) fn range(&self, low: u64, high: u64) -> impl Iterator<Item = &Entry> {
        let start = (low - self.first_index()) as usize;
        self.entries.range(start..start + (high - low) as usize)
    }

    /// Whether [`Log::next_committed`] would hand out something.
    pub(crate) fn has_committed(&self, unpersisted_too: bool, max_bytes: u64) -> bool {
        self.snapshot.is_none()
            && self.handed_out < self.committed_limit(unpersisted_too)
            && self.handed_out_bytes < max_bytes
    }

    /// Hands out the next committed entries, as long as less than `max_bytes` are handed out and not applied.
    pub(crate) fn next_committed(&mut self, unpersisted_too: bool, max_bytes: u64, max_entries: usize) -> Vec<Entry> {
        if !self.has_committed(unpersisted_too, max_bytes) {
            return Vec::new();
        }
        let high = self.committed_limit(unpersisted_too) + 1;
        let room = max_bytes - self.handed_out_bytes;
        let entries = self
            .slice(self.handed_out + 1, high, room, max_entries)
            .expect("committed entries that are not applied are neither compacted nor missing");
        self.handed_out += entries.len() as u64;
        self.handed_out_bytes += entries.iter().map(Entry::size_bytes).sum::<u64>();
        entries
    }

    /// Whether there is something to write that was not handed out.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.written < self.last_index() || matches!(self.snapshot, Some((_, false)))
    }

    /// Hands out the entries and the snapshot to write.
    pub(crate) fn take_unwritten(&mut self) -> (Vec<Entry>, Option<Snapshot>) {
        let entries: Vec<Entry> = self.range(self.written + 1, self.last_index() + 1).cloned().collect();
        self.written = self.last_index();
        let snapshot = match &mut self.snapshot {
            Some((snapshot, handed_out @ false)) => {
                *handed_out = true;
                Some(snapshot.clone())
            }
            _ => None,
        };
        (entries, snapshot)
    }

    /// Numbers the write that was just handed out.
    pub(crate) fn begin_write(&mut self, term: u64, snapshot: Option<u64>) -> PersistToken {
        self.writes.begin(term, self.last_index(), self.last_term(), snapshot)
    }

    /// The writes up to this token are durable; `None` if it names no write in flight.
    pub(crate) fn persisted(&mut self, token: PersistToken) -> Option<Persisted> {
        let write = self.writes.finish(token)?;
        self.stable = self.stable.max(write.stable);
        let installed = match (&self.snapshot, write.snapshot) {
            (Some((pending, true)), Some(index)) => pending.metadata.index <= index,
            _ => false,
        };
        if installed {
            let (snapshot, _) = self.snapshot.take().expect("the snapshot was just seen");
            let index = snapshot.metadata.index;
            self.stable = self.stable.max(index);
            (self.applied, self.handed_out, self.handed_out_bytes) = (index, index, 0);
        }
        self.assert_order();
        Some(Persisted { snapshot: installed })
    }

    /// Whether everything this member promised so far is durable, or else the write that will make it so.
    pub(crate) fn awaited_write(&self, unwritten: bool) -> Option<u64> {
        self.writes.awaited(unwritten)
    }

    fn committed_limit(&self, unpersisted_too: bool) -> u64 {
        if unpersisted_too {
            self.committed
        } else {
            self.committed.min(self.stable)
        }
    }

    fn truncate_from(&mut self, index: u64) {
        assert!(
            index > self.committed,
            "entry {index} is committed (up to {} are) and never replaced",
            self.committed
        );
        let replaced = self.entries.drain((index - self.base_index - 1) as usize..);
        self.bytes -= replaced.map(|entry| payload_bytes(&entry)).sum::<u64>();
        self.stable = self.stable.min(index - 1);
        self.written = self.written.min(index - 1);
        self.writes.replaced_after(index - 1);
    }

    fn assert_order(&self) {
        let last = self.last_index();
        assert!(
            self.committed <= last,
            "committed {} beyond the last entry {last}",
            self.committed
        );
        assert!(
            self.stable <= self.written && self.written <= last,
            "stable {} written {}",
            self.stable,
            self.written
        );
        if self.snapshot.is_none() {
            let marks = [self.base_index, self.applied, self.handed_out, self.committed];
            assert!(
                marks.is_sorted(),
                "base, applied, handed out, committed out of order: {marks:?}"
            );
        }
    }
}

fn payload_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64
}

#[cfg(test)]
mod tests;
