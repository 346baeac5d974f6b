//! The writes in flight to this member's disk.
//!
//! Writes become durable in order. While one is in flight the log under it may change (a new leader replaces a suffix), so
//! each remembers how much of what it wrote still stands in the log.

use std::collections::VecDeque;

use crate::mutant;
use crate::ready::PersistToken;

#[derive(Debug, Default)]
pub(super) struct Writes {
    in_flight: VecDeque<Write>,
    issued: u64,
    finished: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    token: PersistToken,
    /// The log up to here is durable when the write is.
    pub(super) stable: u64,
    /// Index of the snapshot in it.
    pub(super) snapshot: Option<u64>,
}

impl Writes {
    /// Numbers a write that leaves the disk with a log ending at `(last_index, last_term)`.
    pub(super) fn begin(&mut self, term: u64, last_index: u64, last_term: u64, snapshot: Option<u64>) -> PersistToken {
        self.issued += 1;
        let token = PersistToken {
            sequence: self.issued,
            term,
            last_index,
            last_term,
        };
        self.in_flight.push_back(Write {
            token,
            stable: last_index,
            snapshot,
        });
        token
    }

    /// Takes the write named by the token, and all before it, off the list. A token that does not name one, to the letter,
    /// changes nothing: it was answered already, or belongs to another life of the member.
    pub(super) fn finish(&mut self, token: PersistToken) -> Option<Write> {
        let at = self.in_flight.iter().position(|write| write.token == token)?;
        let mut finished: Option<Write> = None;
        for write in self.in_flight.drain(..=at) {
            assert!(write.token.sequence > self.finished, "writes finish in order");
            self.finished = write.token.sequence;
            // Later marks are lower where a suffix was replaced, and hold for the earlier writes too.
            let snapshot = write.snapshot.or(finished.and_then(|earlier| earlier.snapshot));
            finished = Some(Write { snapshot, ..write });
        }
        finished
    }

    /// The log after `index` was replaced: what the writes in flight say about it no longer holds.
    pub(super) fn replaced_after(&mut self, index: u64) {
        if mutant::on("replaced_write_counts") {
            return;
        }
        for write in &mut self.in_flight {
            write.stable = write.stable.min(index);
        }
    }

    /// The write to wait for until everything is durable, `None` if everything is. `unwritten` says whether there is
    /// something the next write will take.
    pub(super) fn awaited(&self, unwritten: bool) -> Option<u64> {
        match unwritten {
            true => Some(self.issued + 1),
            false => (self.issued > self.finished).then_some(self.issued),
        }
    }
}
