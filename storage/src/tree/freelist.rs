//! The free pages of the file, in memory only.
//!
//! Single pages are handed out lowest first, so that the commits of a busy tree drift to the front of the file and
//! its end can be cut. Runs take the lowest of the best-fitting lengths.

use std::collections::{BTreeMap, BTreeSet};

/// How many lengths of runs are looked at for a low place before the best of them is taken.
const LENGTHS_LOOKED_AT: usize = 16;

#[derive(Clone, Debug, Default)]
pub(super) struct Freelist {
    /// First page -> length, never adjacent to one another.
    runs: BTreeMap<u64, u64>,
    by_length: BTreeMap<u64, BTreeSet<u64>>,
    pages: u64,
}

impl Freelist {
    /// How many pages are free.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The free runs, ascending.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|(&start, &len)| (start, len))
    }

    /// Takes `pages` pages that lie together.
    pub fn take(&mut self, pages: u64) -> Option<u64> {
        let start = if pages == 1 {
            *self.runs.first_key_value()?.0
        } else {
            let lengths = self.by_length.range(pages..).take(LENGTHS_LOOKED_AT);
            lengths.filter_map(|(_, starts)| starts.first().copied()).min()?
        };
        let len = self.remove(start);
        assert!(
            len >= pages,
            "free run of {len} pages at {start} is shorter than its index says"
        );
        if len > pages {
            self.insert(start + pages, len - pages);
        }
        Some(start)
    }

    /// Gives pages back, joining them with their neighbours.
    pub fn give(&mut self, page: u64, pages: u64) {
        let (mut start, mut len) = (page, pages);
        if let Some((&before, &before_len)) = self.runs.range(..page).next_back() {
            assert!(before + before_len <= page, "page {page} is given back twice");
            if before + before_len == page {
                self.remove(before);
                start = before;
                len += before_len;
            }
        }
        if let Some((&after, &after_len)) = self.runs.range(page..).next() {
            assert!(page + pages <= after, "page {after} is given back twice");
            if page + pages == after {
                self.remove(after);
                len += after_len;
            }
        }
        self.insert(start, len);
    }

    /// Takes the free run that ends at `end`, if there is one, and gives its first page.
    pub fn take_tail(&mut self, end: u64) -> Option<u64> {
        let (&start, &len) = self.runs.last_key_value()?;
        if start + len != end {
            return None;
        }
        self.remove(start);
        Some(start)
    }

    fn insert(&mut self, start: u64, len: u64) {
        self.runs.insert(start, len);
        self.by_length.entry(len).or_default().insert(start);
        self.pages += len;
    }

    fn remove(&mut self, start: u64) -> u64 {
        let len = self.runs.remove(&start).expect("a run that the index names");
        let starts = self
            .by_length
            .get_mut(&len)
            .expect("every run is in the index by length");
        starts.remove(&start);
        if starts.is_empty() {
            self.by_length.remove(&len);
        }
        self.pages -= len;
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_and_singles_come_lowest_first() {
        let mut free = Freelist::default();
        free.give(10, 2);
        free.give(14, 1);
        free.give(12, 2);
        assert_eq!(free.runs().collect::<Vec<_>>(), [(10, 5)]);
        free.give(3, 1);
        assert_eq!(free.take(1), Some(3));
        assert_eq!(free.take(1), Some(10));
        assert_eq!(free.take(4), Some(11));
        assert_eq!(free.take(1), None);
        assert_eq!(free.pages(), 0);
    }

    #[test]
    fn a_run_prefers_a_low_place() {
        let mut free = Freelist::default();
        free.give(100, 3);
        free.give(20, 8);
        assert_eq!(free.take(3), Some(20));
        assert_eq!(free.take(6), None);
        assert_eq!(free.take_tail(103), Some(100));
        assert_eq!(free.take_tail(103), None);
        assert_eq!(free.pages(), 5);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn giving_a_page_back_twice_is_noticed() {
        let mut free = Freelist::default();
        free.give(5, 4);
        free.give(7, 1);
    }
}
