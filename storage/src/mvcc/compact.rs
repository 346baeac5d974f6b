//! Compaction: logical at once, physical in slices.

use super::{Pins, Store, StoreError};

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

impl Store {
    /// Compacts at `revision`: reads below it are refused from now on; [`Store::compact_step`] does the work.
    ///
    /// Errors: [`StoreError::Compacted`] at or below the compacted revision, [`StoreError::FutureRevision`].
    pub fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        let _ = revision;
        todo!()
    }

    /// Does up to about `budget` rows of physical compaction. Its removals go into the open block.
    pub fn compact_step(&mut self, budget: usize, wait_for_pins: bool) -> CompactProgress {
        let _ = (budget, wait_for_pins);
        todo!()
    }

    /// Where running ranges register the revision they read at; a clone goes to every shard.
    pub fn pins(&self) -> Pins {
        todo!()
    }
}
