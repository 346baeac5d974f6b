//! Reading page runs: bounds, checksum on first touch, binary search.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use raft::mutant;

use super::{
    TreeError,
    format::{
        BRANCH_ELEMENT_BYTES, BucketRef, DIRECTORY_ELEMENT_BYTES, FIRST_PAGE, HEADER_BYTES, LEAF_ELEMENT_BYTES,
        PageRef, u32_at, u64_at,
    },
};
use crate::io::Pages;

/// What a page run holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Directory = 1,
    Branch = 2,
    Leaf = 3,
}

impl Kind {
    /// The kind of a node at this height above the ground.
    pub fn at_height(height: u32) -> Kind {
        if height <= 1 { Kind::Leaf } else { Kind::Branch }
    }

    fn element_bytes(self) -> usize {
        match self {
            Kind::Directory => DIRECTORY_ELEMENT_BYTES,
            Kind::Branch => BRANCH_ELEMENT_BYTES,
            Kind::Leaf => LEAF_ELEMENT_BYTES,
        }
    }
}

/// The mapped file and what all its roots share.
pub(super) struct Shared {
    pub map: Arc<dyn Pages>,
    pub verified: Verified,
    pub path: String,
    pub page_size: usize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("path", &self.path)
            .field("page_size", &self.page_size)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The run a reference names, checked when it is touched for the first time.
    ///
    /// `end` is the first page beyond the root it was reached from.
    #[inline]
    pub fn run(&self, at: PageRef, kind: Kind, end: u64) -> Result<Page<'_>, TreeError> {
        let page = self.run_unchecked(at, end)?;
        if !self.verified.get(at.page) {
            self.verify(page, at, kind)?;
            self.verified.set(at.page);
        }
        Ok(page)
    }

    /// The run a reference names, checked whether or not it was before.
    pub fn run_rechecked(&self, at: PageRef, kind: Kind, end: u64) -> Result<Page<'_>, TreeError> {
        let page = self.run_unchecked(at, end)?;
        self.verify(page, at, kind)?;
        Ok(page)
    }

    #[inline]
    fn run_unchecked(&self, at: PageRef, end: u64) -> Result<Page<'_>, TreeError> {
        let beyond = at.page.saturating_add(u64::from(at.pages));
        if at.page < FIRST_PAGE || at.pages == 0 || beyond > end {
            return Err(self.corrupt(at.page, "end of a run, bounded by the file", end, beyond));
        }
        let bytes = self
            .map
            .bytes(at.page * self.page_size as u64, at.pages as usize * self.page_size);
        Ok(Page { bytes })
    }

    #[cold]
    fn verify(&self, page: Page<'_>, at: PageRef, kind: Kind) -> Result<(), TreeError> {
        let crc = crc32c::crc32c(page.bytes);
        if crc != at.crc && !mutant::on("page_checksum_ignored") {
            return Err(self.corrupt(at.page, "crc32c", u64::from(at.crc), u64::from(crc)));
        }
        if page.bytes[0] != kind as u8 {
            return Err(self.corrupt(at.page, "kind of page", kind as u64, u64::from(page.bytes[0])));
        }
        let number = u64_at(page.bytes, 8);
        if number != at.page {
            return Err(self.corrupt(at.page, "number of page", at.page, number));
        }
        match page.first_bad_element(kind) {
            Some((expected, found)) => Err(self.corrupt(at.page, "bound of an element", expected, found)),
            None => Ok(()),
        }
    }

    pub fn corrupt(&self, page: u64, what: &'static str, expected: u64, found: u64) -> TreeError {
        let offset = page.saturating_mul(self.page_size as u64);
        TreeError::Corrupt {
            path: self.path.clone(),
            page,
            offset,
            what,
            expected,
            found,
        }
    }
}

/// One bit a page: whether the run that starts there has passed its check since it was written.
///
/// The owner clears a bit when it hands the page out for a new run; at that time no root can reach the page.
pub(super) struct Verified {
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

const WORDS_PER_CHUNK: usize = 1024;
const PAGES_PER_CHUNK: u64 = WORDS_PER_CHUNK as u64 * 64;

impl Verified {
    pub fn new(pages_max: u64) -> Verified {
        let chunks = usize::try_from(pages_max.div_ceil(PAGES_PER_CHUNK)).expect("address space fits the address");
        Verified {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
        }
    }

    #[inline]
    fn get(&self, page: u64) -> bool {
        let Some(chunk) = self
            .chunks
            .get((page / PAGES_PER_CHUNK) as usize)
            .and_then(OnceLock::get)
        else {
            return false;
        };
        let bit = page % PAGES_PER_CHUNK;
        chunk[(bit / 64) as usize].load(Relaxed) >> (bit % 64) & 1 == 1
    }

    fn set(&self, page: u64) {
        let Some(chunk) = self.chunks.get((page / PAGES_PER_CHUNK) as usize) else {
            return;
        };
        let chunk = chunk.get_or_init(|| (0..WORDS_PER_CHUNK).map(|_| AtomicU64::new(0)).collect());
        let bit = page % PAGES_PER_CHUNK;
        chunk[(bit / 64) as usize].fetch_or(1 << (bit % 64), Relaxed);
    }

    pub fn clear(&self, page: u64) {
        let Some(chunk) = self
            .chunks
            .get((page / PAGES_PER_CHUNK) as usize)
            .and_then(OnceLock::get)
        else {
            return;
        };
        let bit = page % PAGES_PER_CHUNK;
        chunk[(bit / 64) as usize].fetch_and(!(1 << (bit % 64)), Relaxed);
    }
}

/// The bytes of a run whose elements are known to be in bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'p> {
    pub bytes: &'p [u8],
}

impl<'p> Page<'p> {
    #[inline]
    pub fn count(self) -> usize {
        u32_at(self.bytes, 4) as usize
    }

    #[inline]
    fn key_of(self, element_bytes: usize, index: usize) -> &'p [u8] {
        let at = HEADER_BYTES + index * element_bytes;
        let position = u32_at(self.bytes, at) as usize;
        let len = u32_at(self.bytes, at + 4) as usize;
        &self.bytes[position..position + len]
    }

    /// Key of a branch element.
    #[inline]
    pub fn branch_key(self, index: usize) -> &'p [u8] {
        self.key_of(BRANCH_ELEMENT_BYTES, index)
    }

    /// What a branch element points at.
    #[inline]
    pub fn child(self, index: usize) -> PageRef {
        let at = HEADER_BYTES + index * BRANCH_ELEMENT_BYTES;
        PageRef {
            page: u64_at(self.bytes, at + 8),
            crc: u32_at(self.bytes, at + 16),
            pages: u32_at(self.bytes, at + 20),
        }
    }

    /// Key of a leaf element.
    #[inline]
    pub fn leaf_key(self, index: usize) -> &'p [u8] {
        self.key_of(LEAF_ELEMENT_BYTES, index)
    }

    /// Key and value of a leaf element.
    #[inline]
    pub fn pair(self, index: usize) -> (&'p [u8], &'p [u8]) {
        let at = HEADER_BYTES + index * LEAF_ELEMENT_BYTES;
        let position = u32_at(self.bytes, at) as usize;
        let value_at = position + u32_at(self.bytes, at + 4) as usize;
        let end = value_at + u32_at(self.bytes, at + 8) as usize;
        (&self.bytes[position..value_at], &self.bytes[value_at..end])
    }

    /// One line of a directory.
    pub fn bucket(self, index: usize) -> BucketRef {
        let at = HEADER_BYTES + index * DIRECTORY_ELEMENT_BYTES;
        BucketRef {
            bucket: self.bytes[at],
            height: u32_at(self.bytes, at + 4),
            root: PageRef {
                page: u64_at(self.bytes, at + 8),
                crc: u32_at(self.bytes, at + 16),
                pages: u32_at(self.bytes, at + 20),
            },
            entries: u64_at(self.bytes, at + 24),
        }
    }

    /// Which child of a branch leads to `key`. The first child takes everything below the second key.
    #[inline]
    pub fn child_index(self, key: &[u8]) -> usize {
        let (mut low, mut high) = (1, self.count());
        while low < high {
            let middle = (low + high) / 2;
            if self.branch_key(middle) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low - 1
    }

    /// Where `key` is in a leaf, or where it would be.
    #[inline]
    pub fn search_leaf(self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = (low + high) / 2;
            match self.leaf_key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// How many bytes of the run are used; the rest is zero.
    pub fn used_bytes(self, kind: Kind) -> usize {
        let elements = self.count() * kind.element_bytes();
        let data = |index: usize| match kind {
            Kind::Directory => 0,
            Kind::Branch => self.branch_key(index).len(),
            Kind::Leaf => {
                let (key, value) = self.pair(index);
                key.len() + value.len()
            }
        };
        HEADER_BYTES + elements + (0..self.count()).map(data).sum::<usize>()
    }

    /// The first element that points outside the run, as (bound, what it says).
    fn first_bad_element(self, kind: Kind) -> Option<(u64, u64)> {
        let bound = self.bytes.len() as u64;
        let data_at = HEADER_BYTES as u64 + self.count() as u64 * kind.element_bytes() as u64;
        if data_at > bound || self.count() == 0 {
            return Some((bound, data_at));
        }
        for index in 0..self.count() {
            let at = HEADER_BYTES + index * kind.element_bytes();
            let word = |offset| u64::from(u32_at(self.bytes, at + offset));
            let end = match kind {
                Kind::Directory => 0,
                Kind::Branch => word(0) + word(4),
                Kind::Leaf => word(0) + word(4) + word(8),
            };
            if end > bound {
                return Some((bound, end));
            }
        }
        None
    }
}
