//! The window of appends to one follower that are not yet acknowledged.

use std::collections::VecDeque;

/// A bounded queue of unacknowledged appends, each known by the index of its last entry.
///
/// Bounds: `max_messages` and `max_bytes`; the append that crosses `max_bytes` is still let in, so that one large append can
/// always be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inflights {
    queue: VecDeque<(u64, u64)>,
    bytes: u64,
    max_messages: usize,
    max_bytes: u64,
}

impl Inflights {
    /// An empty window. It allocates as it fills.
    pub fn new(max_messages: usize, max_bytes: u64) -> Inflights {
        Inflights {
            queue: VecDeque::new(),
            bytes: 0,
            max_messages,
            max_bytes,
        }
    }

    /// Records an append that ends at `last_index`.
    ///
    /// Order: indexes never go down.
    pub fn add(&mut self, last_index: u64, bytes: u64) {
        assert!(!self.is_full(), "an append was sent through a full window");
        assert!(
            self.queue.back().is_none_or(|&(before, _)| before <= last_index),
            "appends are sent in order"
        );
        self.queue.push_back((last_index, bytes));
        self.bytes += bytes;
    }

    /// Frees every append that ends at or before `index`.
    pub fn free_to(&mut self, index: u64) {
        while let Some(&(last, bytes)) = self.queue.front()
            && last <= index
        {
            self.queue.pop_front();
            self.bytes -= bytes;
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }

    /// Whether no more may be sent.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= self.max_messages || self.bytes >= self.max_bytes
    }

    /// Appends in flight.
    pub fn count(&self) -> usize {
        self.queue.len()
    }

    /// Size of the appends in flight.
    ///
    /// Units: bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_limit_closes_the_window_and_an_acknowledgement_opens_it() {
        let mut window = Inflights::new(3, u64::MAX);
        for index in [5, 7, 9] {
            assert!(!window.is_full());
            window.add(index, 100);
        }
        assert!(window.is_full());
        window.free_to(4);
        assert_eq!(window.count(), 3);
        window.free_to(7);
        assert_eq!((window.count(), window.bytes(), window.is_full()), (1, 100, false));
    }

    #[test]
    fn the_byte_limit_lets_the_append_that_crosses_it_in_and_none_after() {
        let mut window = Inflights::new(100, 250);
        window.add(1, 200);
        assert!(!window.is_full());
        window.add(2, 1000);
        assert!(window.is_full());
        window.free_to(1);
        assert!(window.is_full());
        window.free_to(2);
        assert_eq!((window.count(), window.bytes()), (0, 0));
    }

    #[test]
    fn a_reset_forgets_everything() {
        let mut window = Inflights::new(1, 1);
        window.add(3, 1);
        window.reset();
        window.add(1, 1);
        assert_eq!(window.count(), 1);
    }

    #[test]
    #[should_panic(expected = "full window")]
    fn sending_through_a_full_window_is_a_bug() {
        let mut window = Inflights::new(1, u64::MAX);
        window.add(1, 1);
        window.add(2, 1);
    }
}
