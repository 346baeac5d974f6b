//! A shared slot that holds the newest value, for Views: one publisher, many readers, each with its own cached copy.
//!
//! A reader compares one atomic version per [`Cached::get`] and takes the lock only when the value has changed.
//! Order: a value is in the slot before its version is visible, and `publish` returns after both. So whoever is told of
//! a publication by any message sent after it loads that value or a newer one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The slot; clones are handles to the same slot.
pub struct Slot<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    version: AtomicU64,
    value: Mutex<Arc<T>>,
}

/// A reader's copy of the newest value, not shared between threads.
pub struct Cached<T> {
    slot: Slot<T>,
    version: u64,
    value: Option<Arc<T>>,
}

impl<T> Slot<T> {
    /// Makes a slot that holds `value`.
    pub fn new(value: Arc<T>) -> Slot<T> {
        Slot {
            shared: Arc::new(Shared {
                version: AtomicU64::new(1),
                value: Mutex::new(value),
            }),
        }
    }

    /// Replaces the value.
    pub fn publish(&self, value: Arc<T>) {
        let mut held = self.shared.value.lock().expect(LOCK_INVARIANT);
        let old = std::mem::replace(&mut *held, value);
        self.shared.version.fetch_add(1, Ordering::Release);
        drop(held);
        // The last reference to a large old value may be this one: free it outside the lock.
        drop(old);
    }

    /// The newest value.
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.shared.value.lock().expect(LOCK_INVARIANT))
    }

    /// How often the slot was published, from 1.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// A reader with its own cached copy.
    pub fn reader(&self) -> Cached<T> {
        Cached {
            slot: self.clone(),
            version: 0,
            value: None,
        }
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Cached<T> {
    /// The newest value; one atomic load when it has not changed since the last call.
    pub fn get(&mut self) -> &Arc<T> {
        // The version is read first: if a publication falls between, the copy is newer than its version says and the
        // next call loads once more.
        let version = self.slot.version();
        if self.version != version || self.value.is_none() {
            self.value = Some(self.slot.load());
            self.version = version;
        }
        self.value.as_ref().expect("set just above when it was empty")
    }

    /// Lets go of the copy, so that an idle reader keeps no old value alive.
    pub fn release(&mut self) {
        self.value = None;
    }
}

const LOCK_INVARIANT: &str = "no code that can panic runs while the slot is locked";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_the_newest_value_and_reloads_only_on_change() {
        let slot = Slot::new(Arc::new(1));
        let mut reader = slot.reader();
        assert_eq!(**reader.get(), 1);
        let before = Arc::as_ptr(reader.get());
        assert_eq!(Arc::as_ptr(reader.get()), before);
        slot.publish(Arc::new(2));
        assert_eq!(**reader.get(), 2);
        assert_eq!((slot.version(), *slot.load()), (2, 2));
    }

    #[test]
    fn an_idle_reader_keeps_no_old_value_alive() {
        let first = Arc::new(1);
        let weak = Arc::downgrade(&first);
        let slot = Slot::new(first);
        let mut reader = slot.reader();
        reader.get();
        slot.publish(Arc::new(2));
        assert!(
            weak.upgrade().is_some(),
            "a reader that was not released keeps its copy"
        );
        reader.release();
        assert!(weak.upgrade().is_none());
        assert_eq!(**reader.get(), 2);
    }

    #[test]
    fn a_reader_on_another_thread_never_goes_back_and_ends_on_the_last_value() {
        let slot = Slot::new(Arc::new(0_u64));
        let mut reader = slot.reader();
        let last = 20_000;
        let thread = std::thread::spawn(move || {
            let mut seen = 0;
            while seen < last {
                let now = **reader.get();
                assert!(now >= seen, "went back from {seen} to {now}");
                seen = now;
            }
        });
        for n in 1..=last {
            slot.publish(Arc::new(n));
        }
        thread.join().expect("the reader panicked");
    }
}
