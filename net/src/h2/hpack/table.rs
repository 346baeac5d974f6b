//! The static and the dynamic table.

use std::collections::VecDeque;

use super::ENTRY_OVERHEAD_BYTES;

/// The static table; its first entry has index 1.
///
/// Source: RFC 7541 appendix A.
#[rustfmt::skip]
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// The table of one direction: entries by index, newest first, oldest evicted.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size_bytes: usize,
    capacity_bytes: usize,
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    /// The name, then the value.
    bytes: Box<[u8]>,
    name_len: u32,
}

impl Entry {
    fn field(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.name_len as usize)
    }

    fn size_bytes(&self) -> usize {
        self.bytes.len() + ENTRY_OVERHEAD_BYTES
    }
}

impl Table {
    pub(super) fn new(capacity_bytes: usize) -> Table {
        Table {
            entries: VecDeque::new(),
            size_bytes: 0,
            capacity_bytes,
            generation: 0,
        }
    }

    /// A number that changes whenever the meaning of an index does.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// The field at that index, static entries first.
    pub(super) fn get(&self, index: u64) -> Option<(&[u8], &[u8])> {
        let index = usize::try_from(index).ok()?.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(index - STATIC.len()).map(Entry::field),
        }
    }

    /// The index of exactly that field, or else of some field of that name.
    pub(super) fn find(&self, name: &[u8], value: &[u8]) -> Found {
        let fixed = STATIC.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        let mut by_name = Found::Nothing;
        for (i, field) in fixed.chain(self.entries.iter().map(Entry::field)).enumerate() {
            if field.0 != name {
                continue;
            }
            if field.1 == value {
                return Found::Field(i as u64 + 1);
            }
            if by_name == Found::Nothing {
                by_name = Found::Name(i as u64 + 1);
            }
        }
        by_name
    }

    /// Adds a field; one that is larger than the table empties it instead.
    ///
    /// Source: RFC 7541 section 4.4.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.generation += 1;
        let size = name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        self.evict_to(self.capacity_bytes.saturating_sub(size));
        if size <= self.capacity_bytes {
            let mut bytes = Vec::with_capacity(name.len() + value.len());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value);
            self.entries.push_front(Entry {
                bytes: bytes.into(),
                name_len: name.len() as u32,
            });
            self.size_bytes += size;
        }
    }

    /// Whether that field could be added without evicting another.
    pub(super) fn has_room_for(&self, name: &[u8], value: &[u8]) -> bool {
        self.size_bytes + name.len() + value.len() + ENTRY_OVERHEAD_BYTES <= self.capacity_bytes
    }

    pub(super) fn set_capacity(&mut self, capacity_bytes: usize) {
        self.generation += 1;
        self.capacity_bytes = capacity_bytes;
        self.evict_to(capacity_bytes);
    }

    fn evict_to(&mut self, size_bytes: usize) {
        while self.size_bytes > size_bytes {
            let oldest = self.entries.pop_back().expect("a table without entries has size 0");
            self.size_bytes -= oldest.size_bytes();
        }
    }

    #[cfg(test)]
    pub(super) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// What the table knows of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Field(u64),
    Name(u64),
    Nothing,
}
