//! Compaction: logical at once, physical in slices.
//!
//! A slice of the index walk drops the revisions of one leaf of keys from the index and notes them; the notes are sorted
//! in runs and merged, so that rows leave the tree in ascending order and each of its pages is touched once. After a
//! restart the rows not yet removed are back in the index, and the walk finds them again.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{Key, Pins, Revision, RowKey, Store, StoreError, chain::Rev, revision::PUT_LEN};
use crate::buckets::{Bucket, meta};

/// Revisions noted before their rows are removed and the walk goes on. Bounds the memory to 128 MiB.
const NOTED_MAX: usize = if cfg!(test) { 50 } else { 8 << 20 };
/// Revisions sorted at a time.
const RUN_MAX: usize = if cfg!(test) { 8 } else { 16 << 10 };

/// How far a compaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompactProgress {
    /// Nothing to do.
    Idle,
    /// A reader holds a revision below the target; call again, or with `wait_for_pins = false` past its deadline.
    Waiting,
    /// A slice is done, more to do.
    Working,
    /// This revision's compaction is physically done.
    Done(i64),
}

/// A physical compaction in progress.
pub(super) struct Compaction {
    revision: i64,
    /// Where the index walk goes on; nothing when it is through.
    next: Option<Key>,
    noted: Noted,
    removing: bool,
}

/// Dropped revisions: sorted runs, the last of which is still growing and not sorted.
#[derive(Default)]
struct Noted {
    runs: Vec<Vec<Rev>>,
    len: usize,
    /// Heads of the runs, each with its run and its place, once merging has begun.
    heads: BinaryHeap<Reverse<(Rev, usize, usize)>>,
}

impl Compaction {
    pub fn new(revision: i64) -> Compaction {
        Compaction {
            revision,
            next: Some(Key::new(b"")),
            noted: Noted::default(),
            removing: false,
        }
    }
}

impl Noted {
    fn push(&mut self, rev: Rev) {
        match self.runs.last_mut().filter(|run| run.len() < RUN_MAX) {
            Some(run) => run.push(rev),
            None => self.runs.push(vec![rev]),
        }
        self.len += 1;
        if let Some(run) = self.runs.last_mut().filter(|run| run.len() == RUN_MAX) {
            run.sort_unstable();
        }
    }

    fn start_merge(&mut self) {
        if let Some(run) = self.runs.last_mut().filter(|run| run.len() < RUN_MAX) {
            run.sort_unstable();
        }
        self.heads = self
            .runs
            .iter()
            .enumerate()
            .map(|(run, revs)| Reverse((revs[0], run, 0)))
            .collect();
    }

    fn pop(&mut self) -> Option<Rev> {
        let Reverse((rev, run, at)) = self.heads.pop()?;
        if let Some(next) = self.runs[run].get(at + 1) {
            self.heads.push(Reverse((*next, run, at + 1)));
        }
        Some(rev)
    }
}

impl Store {
    /// Compacts at `revision`: reads below it are refused from now on; [`Store::compact_step`] does the work.
    ///
    /// Errors: [`StoreError::Compacted`] at or below the compacted revision, [`StoreError::FutureRevision`].
    pub fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        if revision <= self.compact_revision {
            return Err(StoreError::Compacted {
                requested: revision,
                compacted: self.compact_revision,
            });
        }
        if revision > self.revision {
            return Err(StoreError::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        self.compact_revision = revision;
        let mark = RowKey::new(Revision::new(revision, 0), false);
        self.bucket_put(Bucket::Meta, meta::SCHEDULED_COMPACT, mark.as_slice());
        match &mut self.compaction {
            // What it has dropped and noted stays dropped; the walk begins anew with the higher target.
            Some(running) => (running.revision, running.next) = (revision, Some(Key::new(b""))),
            None => self.compaction = Some(Compaction::new(revision)),
        }
        Ok(())
    }

    /// Does up to about `budget` rows of physical compaction. Its removals go into the open block.
    ///
    /// Order: seal the block behind it, as after any change.
    pub fn compact_step(&mut self, budget: usize, wait_for_pins: bool) -> CompactProgress {
        let Some(mut running) = self.compaction.take() else {
            return CompactProgress::Idle;
        };
        let pinned = self.pins.oldest().is_some_and(|oldest| oldest < running.revision);
        let progress = if wait_for_pins && pinned && self.removed_revision < running.revision {
            CompactProgress::Waiting
        } else {
            self.removed_revision = running.revision;
            if running.removing {
                self.remove_rows(&mut running, budget)
            } else {
                self.walk_index(&mut running, budget)
            }
        };
        if !matches!(progress, CompactProgress::Done(_)) {
            self.compaction = Some(running);
        }
        progress
    }

    /// The newest revision whose compaction is done in the tree itself, durably; -1 when there is none.
    pub fn durable_compact_revision(&self) -> Result<i64, StoreError> {
        Ok(super::restore::compact_mark(&*self.base, meta::FINISHED_COMPACT)?.unwrap_or(-1))
    }

    /// Where running ranges register the revision they read at; a clone goes to every shard.
    pub fn pins(&self) -> Pins {
        self.pins.clone()
    }

    /// Goes on with the register of a store that this one takes the place of.
    pub fn share_pins(&mut self, pins: Pins) {
        self.pins = pins;
    }

    fn walk_index(&mut self, running: &mut Compaction, budget: usize) -> CompactProgress {
        let mut seen = 0;
        let noted_before = running.noted.len;
        while seen + (running.noted.len - noted_before) < budget.max(1) && running.noted.len < NOTED_MAX {
            let Some(from) = running.next.take() else { break };
            let noted = &mut running.noted;
            let (next, entries) = self
                .index
                .compact_leaf(running.revision, &from, budget, |rev| noted.push(rev));
            running.next = next;
            seen += entries.max(1);
        }
        if running.next.is_none() || running.noted.len >= NOTED_MAX {
            running.noted.start_merge();
            running.removing = true;
        }
        CompactProgress::Working
    }

    fn remove_rows(&mut self, running: &mut Compaction, budget: usize) -> CompactProgress {
        for _ in 0..budget.max(1) {
            let Some(rev) = running.noted.pop() else {
                (running.noted, running.removing) = (Noted::default(), false);
                return self.end_round(running);
            };
            let row = RowKey::new(rev.revision(), rev.is_tombstone());
            self.set_row(Bucket::Key, row.as_slice(), None);
            self.rows -= 1;
            self.row_bytes -= u64::from(rev.len) + PUT_LEN as u64 + u64::from(rev.is_tombstone());
        }
        CompactProgress::Working
    }

    fn end_round(&mut self, running: &Compaction) -> CompactProgress {
        if running.next.is_some() {
            return CompactProgress::Working;
        }
        let mark = RowKey::new(Revision::new(running.revision, 0), false);
        crate::failpoint!("compactBeforeSetFinishedCompact");
        self.bucket_put(Bucket::Meta, meta::FINISHED_COMPACT, mark.as_slice());
        crate::failpoint!("compactAfterSetFinishedCompact");
        CompactProgress::Done(running.revision)
    }
}
