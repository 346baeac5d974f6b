//! Revisions that running ranges still read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The register of revisions in use, shared by the core and the shards. Only ranges that last longer than a turn
/// register, so its lock is seldom taken.
#[derive(Clone, Default)]
pub struct Pins {
    held: Arc<Mutex<BTreeMap<i64, usize>>>,
}

/// Holds a revision against physical removal until dropped.
pub struct Pin {
    pins: Pins,
    revision: i64,
}

impl Pins {
    /// Registers a reader at `revision`.
    pub fn pin(&self, revision: i64) -> Pin {
        *self.lock().entry(revision).or_default() += 1;
        Pin {
            pins: self.clone(),
            revision,
        }
    }

    /// The oldest revision in use.
    pub fn oldest(&self) -> Option<i64> {
        self.lock().keys().next().copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, usize>> {
        // Every change is a single map operation, so a panic elsewhere leaves the map whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.pins.lock();
        let count = held.get_mut(&self.revision).expect("a pin is registered until dropped");
        *count -= 1;
        if *count == 0 {
            held.remove(&self.revision);
        }
    }
}
