//! The reader. It trusts no number of the file: every position is checked before it is followed.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    export::TRAILER_LEN,
    format::{BRANCH, BUCKET, HEADER_LEN, LEAF, Meta, u16_at, u32_at, u64_at},
};
use crate::{
    buckets::Bucket,
    mvcc::{Base, BaseError, Row, Rows},
};

/// Deepest tree followed; a deeper one is a loop.
const DEPTH_MAX: usize = 64;

/// Why a file is not a good bbolt file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BboltError {
    /// Neither meta page is valid.
    #[error("not a bbolt file: {0}; check that it is an etcd snapshot or a member/snap/db file")]
    NoMeta(String),
    /// A page or element is damaged.
    #[error("damaged bbolt file: page {page}: {problem}; take a new snapshot")]
    Damaged {
        /// The page.
        page: u64,
        /// What is wrong.
        problem: String,
    },
    /// The trailing SHA-256 does not match.
    #[error("snapshot hash mismatch: the file holds {expected}, its content has {found}; take a new snapshot")]
    HashMismatch {
        /// What the file says.
        expected: String,
        /// What its content gives.
        found: String,
    },
}

impl From<BboltError> for BaseError {
    fn from(error: BboltError) -> BaseError {
        BaseError(Arc::new(error))
    }
}

/// Splits the SHA-256 trailer off a snapshot file and checks it; a file without one comes back whole.
///
/// A file has a trailer when its length is 32 more than a multiple of 512.
pub fn split_trailer(file: Bytes) -> Result<Bytes, BboltError> {
    if file.len() % 512 != TRAILER_LEN {
        return Ok(file);
    }
    let body = file.slice(..file.len() - TRAILER_LEN);
    let expected = file.slice(body.len()..);
    let found = Bytes::copy_from_slice(&Sha256::digest(&body));
    if expected != found {
        return Err(BboltError::HashMismatch {
            expected: format!("{expected:x}"),
            found: format!("{found:x}"),
        });
    }
    Ok(body)
}

/// A bbolt file in memory. A [`Base`], so a store can be restored straight from it.
///
/// Order: [`BboltFile::check`] first, where the file comes from outside. Reading a damaged one is safe but may walk shared
/// pages over and over.
#[derive(Clone, Debug)]
pub struct BboltFile {
    file: Bytes,
    meta: Meta,
}

/// A page, or the leaf inside the value of an inline bucket.
#[derive(Clone, Copy)]
struct PageRef<'a> {
    id: u64,
    bytes: &'a [u8],
    flags: u16,
    count: usize,
}

/// An element: a row, a bucket, or a child.
struct Element<'a> {
    key: &'a [u8],
    value: &'a [u8],
    is_bucket: bool,
    child: u64,
}

fn damaged<T>(page: u64, problem: impl Into<String>) -> Result<T, BboltError> {
    Err(BboltError::Damaged {
        page,
        problem: problem.into(),
    })
}

impl<'a> PageRef<'a> {
    fn element(&self, n: usize) -> Result<Element<'a>, BboltError> {
        let at = HEADER_LEN * (n + 1);
        let Some(head) = self.bytes.get(at..at + HEADER_LEN) else {
            return damaged(self.id, format!("element {n} of {} is outside the page", self.count));
        };
        let leaf = self.flags == LEAF;
        let field = |n: usize| u32_at(head, 4 * n) as usize;
        let (pos, key_len, value_len) = if leaf {
            (field(1), field(2), field(3))
        } else {
            (field(0), field(1), 0)
        };
        // Sums of a few u32 fit into 64 bits.
        let (start, end) = (at + pos, at + pos + key_len + value_len);
        let Some(data) = self.bytes.get(start..end) else {
            return damaged(
                self.id,
                format!("the data of element {n}, {start} to {end}, is outside the page"),
            );
        };
        let (key, value) = data.split_at(key_len);
        let is_bucket = leaf && u32_at(head, 0) & BUCKET != 0;
        Ok(Element {
            key,
            value,
            is_bucket,
            child: if leaf { 0 } else { u64_at(head, 8) },
        })
    }

    /// The first element whose key is not less than `key`, and whether it is equal.
    fn search(&self, key: &[u8]) -> Result<(usize, bool), BboltError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.element(middle)?.key.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok((middle, true)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok((low, false))
    }
}

impl BboltFile {
    /// Opens a file: picks its meta page and checks that the file is as long as it says.
    pub fn open(file: Bytes) -> Result<BboltFile, BboltError> {
        let meta = pick_meta(&file)?;
        let pages = file.len() as u64 / u64::from(meta.page_size);
        if meta.high_water > pages {
            let problem = format!("the file has {pages} pages, its meta page says {}", meta.high_water);
            return damaged(meta.txid % 2, problem);
        }
        Ok(BboltFile { file, meta })
    }

    /// Names of the top-level buckets, in order.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, BboltError> {
        let mut walk = Walk::seek(self, self.page(self.meta.root)?, b"")?;
        let mut names = Vec::new();
        while let Some(element) = walk.next_element()? {
            if element.is_bucket {
                names.push(element.key.to_vec());
            }
        }
        Ok(names)
    }

    /// Walks every page of every bucket: structure, order of keys, no page twice. Number of rows.
    pub fn check(&self) -> Result<u64, BboltError> {
        let mut seen = vec![false; self.meta.high_water as usize];
        self.check_tree(self.page(self.meta.root)?, &mut seen, &mut Vec::new(), 0)
    }

    fn check_tree<'a>(
        &'a self,
        page: PageRef<'a>,
        seen: &mut [bool],
        last: &mut Vec<u8>,
        depth: usize,
    ) -> Result<u64, BboltError> {
        let inline = page.id == 0;
        if depth > DEPTH_MAX {
            return damaged(page.id, "the tree is too deep");
        }
        if !inline && std::mem::replace(&mut seen[page.id as usize], true) {
            return damaged(page.id, "it is reached twice");
        }
        let mut rows = 0;
        for n in 0..page.count {
            let element = page.element(n)?;
            if page.flags == BRANCH {
                rows += self.check_tree(self.page(element.child)?, seen, last, depth + 1)?;
                continue;
            }
            if element.key.is_empty() || (!last.is_empty() && element.key <= last.as_slice()) {
                return damaged(
                    page.id,
                    format!("the key of element {n} is not greater than the one before"),
                );
            }
            *last = element.key.to_vec();
            rows += match element.is_bucket {
                true => self.check_tree(
                    self.bucket_root(page.id, element.value)?,
                    seen,
                    &mut Vec::new(),
                    depth + 1,
                )?,
                false => 1,
            };
        }
        Ok(rows)
    }

    fn page(&self, id: u64) -> Result<PageRef<'_>, BboltError> {
        if id < 2 || id >= self.meta.high_water {
            return damaged(
                id,
                format!("it is outside the {} pages of the file", self.meta.high_water),
            );
        }
        let size = self.meta.page_size as usize;
        let start = id as usize * size;
        let head = &self.file[start..start + HEADER_LEN];
        let end = start + size * (1 + u32_at(head, 12) as usize);
        let Some(bytes) = self.file.get(start..end) else {
            return damaged(id, "its overflow reaches beyond the file");
        };
        if u64_at(head, 0) != id {
            return damaged(id, format!("it says it is page {}", u64_at(head, 0)));
        }
        page_ref(id, bytes)
    }

    /// The root of the bucket whose value, found on page `parent`, is `value`.
    fn bucket_root<'a>(&'a self, parent: u64, value: &'a [u8]) -> Result<PageRef<'a>, BboltError> {
        if value.len() < HEADER_LEN {
            return damaged(parent, "the value of a bucket is too short");
        }
        match u64_at(value, 0) {
            0 if value.len() < 2 * HEADER_LEN => damaged(parent, "an inline bucket is too short"),
            0 => page_ref(0, &value[HEADER_LEN..]),
            root => self.page(root),
        }
    }

    fn bucket(&self, bucket: Bucket) -> Result<Option<PageRef<'_>>, BboltError> {
        let mut walk = Walk::seek(self, self.page(self.meta.root)?, bucket.name().as_bytes())?;
        match walk.next_element()? {
            Some(element) if element.is_bucket && element.key == bucket.name().as_bytes() => {
                self.bucket_root(self.meta.root, element.value).map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn page_ref(id: u64, bytes: &[u8]) -> Result<PageRef<'_>, BboltError> {
    let (flags, count) = (u16_at(bytes, 8), usize::from(u16_at(bytes, 10)));
    match flags {
        LEAF => Ok(PageRef {
            id,
            bytes,
            flags,
            count,
        }),
        BRANCH if id != 0 && count > 0 => Ok(PageRef {
            id,
            bytes,
            flags,
            count,
        }),
        BRANCH => damaged(id, "it is a branch without children"),
        _ => damaged(id, format!("its flags are {flags:#x}, neither branch nor leaf")),
    }
}

/// The valid meta with the higher txid. The second stands at the page size, which only a valid meta tells.
fn pick_meta(file: &[u8]) -> Result<Meta, BboltError> {
    let at = |offset: usize| Meta::decode(file.get(offset + HEADER_LEN..).unwrap_or_default());
    let first = at(0);
    let sizes = (9..=16).map(|shift| 1usize << shift);
    let second = sizes
        .filter_map(|size| at(size).ok().filter(|meta| meta.page_size as usize == size))
        .next();
    match (first, second) {
        (Ok(first), Some(second)) => Ok(if second.txid > first.txid { second } else { first }),
        (Ok(only), None) | (Err(_), Some(only)) => Ok(only),
        (Err(problem), None) => Err(BboltError::NoMeta(problem)),
    }
}

/// A walk over the elements of one bucket in key order.
struct Walk<'a> {
    file: &'a BboltFile,
    /// Pages from the root to the leaf, each with the place of its next element.
    path: Vec<(PageRef<'a>, usize)>,
}

impl<'a> Walk<'a> {
    fn seek(file: &'a BboltFile, root: PageRef<'a>, from: &[u8]) -> Result<Walk<'a>, BboltError> {
        let mut walk = Walk { file, path: Vec::new() };
        let mut page = root;
        loop {
            let (at, equal) = page.search(from)?;
            if page.flags == LEAF {
                walk.push(page, at)?;
                return Ok(walk);
            }
            let child = if equal { at } else { at.saturating_sub(1) };
            walk.push(page, child + 1)?;
            page = file.page(page.element(child)?.child)?;
        }
    }

    fn push(&mut self, page: PageRef<'a>, at: usize) -> Result<(), BboltError> {
        if self.path.len() >= DEPTH_MAX {
            return damaged(page.id, "the tree is too deep");
        }
        self.path.push((page, at));
        Ok(())
    }

    fn next_element(&mut self) -> Result<Option<Element<'a>>, BboltError> {
        while let Some((page, at)) = self.path.last_mut() {
            if *at >= page.count {
                self.path.pop();
                continue;
            }
            let element = page.element(*at)?;
            *at += 1;
            if page.flags == LEAF {
                return Ok(Some(element));
            }
            let child = self.file.page(element.child)?;
            self.push(child, 0)?;
        }
        Ok(None)
    }
}

impl<'a> Rows<'a> for Walk<'a> {
    fn next(&mut self) -> Result<Option<Row<'a>>, BaseError> {
        // Buckets nest in bbolt, but etcd has none below the top.
        while let Some(element) = self.next_element()? {
            if !element.is_bucket {
                return Ok(Some((element.key, element.value)));
            }
        }
        Ok(None)
    }
}

impl Base for BboltFile {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, BaseError> {
        let mut rows = self.scan(bucket, key)?;
        Ok(rows.next()?.filter(|(found, _)| *found == key).map(|(_, value)| value))
    }

    fn scan<'a>(&'a self, bucket: Bucket, from: &[u8]) -> Result<Box<dyn Rows<'a> + 'a>, BaseError> {
        let root = self.bucket(bucket)?;
        Ok(match root {
            Some(root) => Box::new(Walk::seek(self, root, from)?),
            None => Box::new(Walk {
                file: self,
                path: Vec::new(),
            }),
        })
    }
}
