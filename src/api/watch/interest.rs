//! Who wants to hear of a key: single keys and prefixes by hash, other ranges by a walk over the distinct ones.
//!
//! Nearly every watch in the field is a single key or a prefix, so a lookup costs one probe per distinct length of
//! prefix that is watched, whatever the number of watchers.

use std::collections::BTreeMap;

use ahash::AHashMap;
use bytes::Bytes;

/// The keys a watcher asks for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum KeyRange {
    /// One key.
    Single(Bytes),
    /// Every key from the first on, below the second where there is one.
    Span(Bytes, Option<Bytes>),
}

impl KeyRange {
    /// The range of a request: an empty key means `\0`, an empty end the single key, the end `\0` no end.
    ///
    /// Errors: the end is not above the key: the range is empty (`None`).
    pub fn of(key: &[u8], end: &[u8]) -> Option<KeyRange> {
        // Copied: a watcher lives long and must not keep the buffer of its request alive.
        let copy = Bytes::copy_from_slice;
        let key = if key.is_empty() { &[0] } else { key };
        match end {
            [] => Some(KeyRange::Single(copy(key))),
            [0] => Some(KeyRange::Span(copy(key), None)),
            _ if end <= key => None,
            _ => Some(KeyRange::Span(copy(key), Some(copy(end)))),
        }
    }

    /// Whether the range holds `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(only) => key == only,
            KeyRange::Span(from, None) => key >= &from[..],
            KeyRange::Span(from, Some(end)) => key >= &from[..] && key < &end[..],
        }
    }

    /// The prefix the range stands for, if it stands for one.
    fn prefix(&self) -> Option<&Bytes> {
        match self {
            KeyRange::Span(from, Some(end)) if is_prefix_end(from, end) => Some(from),
            _ => None,
        }
    }
}

/// Whether `[from, end)` is exactly the keys that begin with `from`.
fn is_prefix_end(from: &[u8], end: &[u8]) -> bool {
    let Some((last, head)) = from.split_last() else {
        return false;
    };
    *last < 0xff && end.len() == from.len() && end[..head.len()] == *head && end[head.len()] == last + 1
}

/// Watchers by the keys they ask for.
#[derive(Debug)]
pub struct Interest<T> {
    singles: AHashMap<Bytes, Vec<T>>,
    prefixes: AHashMap<Bytes, Vec<T>>,
    /// Length of a watched prefix -> how many distinct prefixes have it.
    prefix_lengths: BTreeMap<usize, usize>,
    spans: BTreeMap<KeyRange, Vec<T>>,
}

impl<T> Default for Interest<T> {
    fn default() -> Self {
        Interest {
            singles: AHashMap::new(),
            prefixes: AHashMap::new(),
            prefix_lengths: BTreeMap::new(),
            spans: BTreeMap::new(),
        }
    }
}

impl<T: Copy + Eq> Interest<T> {
    /// Adds a watcher.
    pub fn insert(&mut self, range: &KeyRange, watcher: T) {
        match range {
            KeyRange::Single(key) => self.singles.entry(key.clone()).or_default().push(watcher),
            _ => match range.prefix() {
                Some(prefix) => {
                    let watchers = self.prefixes.entry(prefix.clone()).or_default();
                    if watchers.is_empty() {
                        *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
                    }
                    watchers.push(watcher);
                }
                None => self.spans.entry(range.clone()).or_default().push(watcher),
            },
        }
    }

    /// Takes a watcher out.
    pub fn remove(&mut self, range: &KeyRange, watcher: T) {
        match range {
            KeyRange::Single(key) => {
                drop_from(&mut self.singles, key, watcher);
            }
            _ => match range.prefix() {
                Some(prefix) => {
                    if drop_from(&mut self.prefixes, prefix, watcher) {
                        let count = self.prefix_lengths.get_mut(&prefix.len()).expect("counted at insert");
                        *count -= 1;
                        if *count == 0 {
                            self.prefix_lengths.remove(&prefix.len());
                        }
                    }
                }
                None => {
                    if let Some(watchers) = self.spans.get_mut(range) {
                        watchers.retain(|other| *other != watcher);
                        if watchers.is_empty() {
                            self.spans.remove(range);
                        }
                    }
                }
            },
        }
    }

    /// Calls `found` for every watcher of `key`.
    pub fn each(&self, key: &[u8], mut found: impl FnMut(T)) {
        if let Some(watchers) = self.singles.get(key) {
            watchers.iter().for_each(|watcher| found(*watcher));
        }
        for length in self.prefix_lengths.keys() {
            let Some(prefix) = key.get(..*length) else { break };
            if let Some(watchers) = self.prefixes.get(prefix) {
                watchers.iter().for_each(|watcher| found(*watcher));
            }
        }
        for (range, watchers) in &self.spans {
            if range.contains(key) {
                watchers.iter().for_each(|watcher| found(*watcher));
            }
        }
    }
}

/// Removes a watcher; true when it was the last of its key.
fn drop_from<T: Copy + Eq>(map: &mut AHashMap<Bytes, Vec<T>>, key: &Bytes, watcher: T) -> bool {
    let Some(watchers) = map.get_mut(key) else { return false };
    watchers.retain(|other| *other != watcher);
    let last = watchers.is_empty();
    if last {
        map.remove(key);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &str, end: &str) -> KeyRange {
        KeyRange::of(key.as_bytes(), end.as_bytes()).unwrap()
    }

    fn found(interest: &Interest<u32>, key: &str) -> Vec<u32> {
        let mut all = Vec::new();
        interest.each(key.as_bytes(), |watcher| all.push(watcher));
        all.sort_unstable();
        all
    }

    #[test]
    fn keys_prefixes_spans_and_open_ends_are_told_apart() {
        let mut interest = Interest::default();
        let ranges = [
            range("ab", ""),
            range("ab", "ac"),
            range("a", "b"),
            range("aa", "abz"),
            range("b", "\0"),
        ];
        for (id, range) in ranges.iter().enumerate() {
            interest.insert(range, id as u32);
        }
        assert_eq!(found(&interest, "ab"), [0, 1, 2, 3]);
        assert_eq!(found(&interest, "abz"), [1, 2]);
        assert_eq!(found(&interest, "a"), [2]);
        assert_eq!(found(&interest, "zz"), [4]);
        for (id, range) in ranges.iter().enumerate() {
            interest.remove(range, id as u32);
        }
        assert!(found(&interest, "ab").is_empty());
        assert!(interest.prefix_lengths.is_empty() && interest.spans.is_empty() && interest.singles.is_empty());
    }

    #[test]
    fn an_empty_key_watches_from_the_first_key_and_an_empty_range_is_refused() {
        assert_eq!(range("", ""), KeyRange::Single(Bytes::from_static(&[0])));
        assert_eq!(KeyRange::of(b"b", b"a"), None);
        assert_eq!(KeyRange::of(b"b", b"b"), None);
    }

    #[test]
    fn a_prefix_that_ends_in_ff_is_a_plain_span() {
        let odd = KeyRange::Span(Bytes::from_static(b"a\xff"), Some(Bytes::from_static(b"b")));
        assert!(odd.prefix().is_none());
        assert!(odd.contains(b"a\xff\xff") && !odd.contains(b"b"));
    }
}
