//! Packs rows that come in key order into bbolt pages, bottom-up, in one pass and bounded memory.
//!
//! Pages are numbered in the order they fill: a leaf when the next row does not fit, a branch when the next child does
//! not. The same rows give the same pages, so a first pass that only counts tells where everything will be.

use super::format::{BRANCH, BUCKET, HEADER_LEN, INLINE_MAX, LEAF, META, META_LEN, Meta, PAGE_SIZE, page_header};

/// The pages of a file, handed out in order.
pub struct PageSink {
    next: u64,
    /// The bytes not yet taken, when pages are wanted and not only counted.
    out: Option<Vec<u8>>,
}

impl PageSink {
    /// A sink that only counts.
    pub fn counting() -> PageSink {
        PageSink { next: 2, out: None }
    }

    /// A sink that makes the file whose layout is known.
    pub fn writing(root: u64, pages: u64) -> PageSink {
        let mut out = vec![0; 2 * PAGE_SIZE];
        for (id, txid) in [(0, 2), (1, 1)] {
            let page = &mut out[id as usize * PAGE_SIZE..];
            let meta = Meta {
                page_size: PAGE_SIZE as u32,
                root,
                high_water: pages,
                txid,
            };
            page[..HEADER_LEN].copy_from_slice(&page_header(id, META, 0, 0));
            page[HEADER_LEN..HEADER_LEN + META_LEN].copy_from_slice(&meta.encode());
        }
        PageSink {
            next: 2,
            out: Some(out),
        }
    }

    /// Pages so far, the two meta pages included.
    pub fn pages(&self) -> u64 {
        self.next
    }

    /// Bytes waiting to be taken.
    pub fn waiting(&self) -> usize {
        self.out.as_ref().map_or(0, Vec::len)
    }

    /// Takes the bytes made so far.
    pub fn take(&mut self) -> Vec<u8> {
        self.out.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn is_writing(&self) -> bool {
        self.out.is_some()
    }

    fn place(&mut self, page: &Page) -> u64 {
        let id = self.next;
        let pages = page.size.div_ceil(PAGE_SIZE);
        self.next += pages as u64;
        if let Some(out) = &mut self.out {
            let end = out.len() + pages * PAGE_SIZE;
            page.write(id, pages as u32 - 1, out);
            out.resize(end, 0);
        }
        id
    }
}

/// One page being filled.
struct Page {
    flags: u16,
    first_key: Vec<u8>,
    count: usize,
    size: usize,
    /// Elements without their positions: (flags, key length, value length) of a leaf, (key length, child) of a branch.
    elements: Vec<(u32, u32, u32, u64)>,
    data: Vec<u8>,
}

impl Page {
    fn new(flags: u16) -> Page {
        Page {
            flags,
            first_key: Vec::new(),
            count: 0,
            size: HEADER_LEN,
            elements: Vec::new(),
            data: Vec::new(),
        }
    }

    fn has_room(&self, key: &[u8], value_len: usize) -> bool {
        self.count == 0 || self.size + HEADER_LEN + key.len() + value_len <= PAGE_SIZE
    }

    fn push(&mut self, element: (u32, u32, u32, u64), key: &[u8], value: &[u8], keep: bool) {
        if self.count == 0 {
            self.first_key = key.to_vec();
        }
        self.count += 1;
        self.size += HEADER_LEN + key.len() + value.len();
        if keep {
            self.elements.push(element);
            self.data.extend_from_slice(key);
            self.data.extend_from_slice(value);
        }
    }

    fn write(&self, id: u64, overflow: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&page_header(id, self.flags, self.count as u16, overflow));
        let mut data_at = self.elements.len() * HEADER_LEN;
        for (n, (flags, key_len, value_len, child)) in self.elements.iter().enumerate() {
            let pos = (data_at - n * HEADER_LEN) as u32;
            if self.flags == LEAF {
                [*flags, pos, *key_len, *value_len]
                    .iter()
                    .for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            } else {
                [pos, *key_len]
                    .iter()
                    .for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
                out.extend_from_slice(&child.to_le_bytes());
            }
            data_at += (*key_len + *value_len) as usize;
        }
        out.extend_from_slice(&self.data);
    }
}

/// The tree of one bucket being packed.
pub struct BucketPacker {
    leaf: Page,
    /// Branches being filled, from the lowest level up.
    branches: Vec<Page>,
}

impl BucketPacker {
    /// An empty bucket.
    pub fn new() -> BucketPacker {
        BucketPacker {
            leaf: Page::new(LEAF),
            branches: Vec::new(),
        }
    }

    /// Adds the next row, in key order.
    pub fn push(&mut self, sink: &mut PageSink, key: &[u8], value: &[u8]) {
        self.push_element(sink, 0, key, value);
    }

    /// Adds a bucket with the value that [`BucketPacker::finish`] gave, in order of names.
    pub fn push_bucket(&mut self, sink: &mut PageSink, name: &[u8], value: &[u8]) {
        self.push_element(sink, BUCKET, name, value);
    }

    fn push_element(&mut self, sink: &mut PageSink, flags: u32, key: &[u8], value: &[u8]) {
        if !self.leaf.has_room(key, value.len()) {
            self.flush_leaf(sink);
        }
        self.leaf.push(
            (flags, key.len() as u32, value.len() as u32, 0),
            key,
            value,
            sink.is_writing(),
        );
    }

    /// Ends the bucket: the value that stands for it in the root bucket.
    pub fn finish(self, sink: &mut PageSink) -> Vec<u8> {
        if self.branches.is_empty() && self.leaf.size <= INLINE_MAX {
            let mut value = vec![0; HEADER_LEN];
            self.leaf.write(0, 0, &mut value);
            value.resize(HEADER_LEN + self.leaf.size, 0);
            return value;
        }
        let root = self.finish_root(sink);
        let mut value = root.to_le_bytes().to_vec();
        value.resize(HEADER_LEN, 0);
        value
    }

    /// Ends the bucket with all of it in pages: the page id of its root.
    pub fn finish_root(mut self, sink: &mut PageSink) -> u64 {
        if self.branches.is_empty() {
            return sink.place(&self.leaf);
        }
        self.flush_leaf(sink);
        let mut level = 0;
        loop {
            let id = sink.place(&self.branches[level]);
            if level + 1 == self.branches.len() {
                return id;
            }
            let first_key = std::mem::take(&mut self.branches[level].first_key);
            self.push_child(sink, level + 1, &first_key, id);
            level += 1;
        }
    }

    fn flush_leaf(&mut self, sink: &mut PageSink) {
        let leaf = std::mem::replace(&mut self.leaf, Page::new(LEAF));
        let id = sink.place(&leaf);
        self.push_child(sink, 0, &leaf.first_key, id);
    }

    fn push_child(&mut self, sink: &mut PageSink, level: usize, first_key: &[u8], child: u64) {
        if level == self.branches.len() {
            self.branches.push(Page::new(BRANCH));
        }
        let page = &mut self.branches[level];
        // A branch with one child would be of no use, however long its keys are.
        if page.count >= 2 && !page.has_room(first_key, 0) {
            let full = std::mem::replace(page, Page::new(BRANCH));
            let id = sink.place(&full);
            self.push_child(sink, level + 1, &full.first_key, id);
        }
        self.branches[level].push((0, first_key.len() as u32, 0, child), first_key, b"", sink.is_writing());
    }
}
