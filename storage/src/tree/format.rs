//! The bytes of meta pages, and the sizes of everything else. All numbers are little-endian.
//!
//! ```text
//! meta page                              page run (directory, branch, leaf)
//!   0  u8[8] magic "ETCTREE\n"             0  u8  kind: 1 directory, 2 branch, 3 leaf
//!   8  u32   format version                1  u8[3] zero
//!  12  u32   min_reader                    4  u32 count of elements
//!  16  u32   page_size_bytes               8  u64 number of the first page of the run
//!  20  u32   zero                         16  elements, then keys and values
//!  24  u64   txid
//!  32  u64   directory page (0: none)    directory element (32 bytes): u32 bucket, u32 height, u64 page, u32 crc,
//!  40  u32   directory crc32c               u32 pages, u64 entries
//!  44  u32   directory pages             branch element (24): u32 key position, u32 key length, u64 page, u32 crc,
//!  48  u64   end page                       u32 pages
//!  56  u64   applied index               leaf element (12): u32 key position, u32 key length, u32 value length;
//!  64  u64   applied term                   the value stands behind its key
//!  72  u32   length of conf state        A position counts from the start of the run. What is left of the run is zero.
//!  76  u32   length of extra
//!  80        conf state, extra, zeros
//!  -4  u32   crc32c of all before it
//! ```

use bytes::Bytes;
use raft::mutant;

use super::{MetaUser, TreeError};

pub(super) const FORMAT_VERSION: u32 = 1;
/// Files that ask for a newer reader than this are refused.
pub(super) const READER_VERSION: u32 = 1;
pub(super) const PAGE_SIZE_BYTES_MIN: usize = 512;
pub(super) const PAGE_SIZE_BYTES_MAX: usize = 65536;
/// Pages 0 and 1 are metas.
pub(super) const FIRST_PAGE: u64 = 2;
pub(super) const HEADER_BYTES: usize = 16;
pub(super) const DIRECTORY_ELEMENT_BYTES: usize = 32;
pub(super) const BRANCH_ELEMENT_BYTES: usize = 24;
pub(super) const LEAF_ELEMENT_BYTES: usize = 12;

const MAGIC: &[u8; 8] = b"ETCTREE\n";
const META_FIXED_BYTES: usize = 80;
const CRC_BYTES: usize = 4;

/// Where a page run is and what its bytes must sum up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PageRef {
    pub page: u64,
    pub crc: u32,
    pub pages: u32,
}

/// What the directory says of one bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BucketRef {
    pub bucket: u8,
    /// 1 when the root is a leaf.
    pub height: u32,
    pub root: PageRef,
    pub entries: u64,
}

/// What a meta page says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Meta {
    pub page_size: usize,
    pub txid: u64,
    /// `None` when the tree is empty.
    pub directory: Option<PageRef>,
    /// First page beyond the used part of the file.
    pub end_page: u64,
    pub user: MetaUser,
}

/// How many bytes of conf state and extra a meta page of this size takes.
pub(super) fn user_bytes_max(page_size: usize) -> usize {
    page_size - META_FIXED_BYTES - CRC_BYTES
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

impl Meta {
    /// The page number this meta goes to.
    pub fn slot(&self) -> u64 {
        self.txid % 2
    }

    pub fn encode(&self) -> Vec<u8> {
        let directory = self.directory.unwrap_or_default();
        let (conf, extra) = (&self.user.conf_state, &self.user.extra);
        assert!(
            conf.len() + extra.len() <= user_bytes_max(self.page_size),
            "checked when the commit began"
        );
        let mut out = Vec::with_capacity(self.page_size);
        out.extend_from_slice(MAGIC);
        for word in [FORMAT_VERSION, READER_VERSION, self.page_size as u32, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.txid.to_le_bytes());
        out.extend_from_slice(&directory.page.to_le_bytes());
        out.extend_from_slice(&directory.crc.to_le_bytes());
        out.extend_from_slice(&directory.pages.to_le_bytes());
        for word in [self.end_page, self.user.applied_index, self.user.applied_term] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&(conf.len() as u32).to_le_bytes());
        out.extend_from_slice(&(extra.len() as u32).to_le_bytes());
        out.extend_from_slice(conf);
        out.extend_from_slice(extra);
        out.resize(self.page_size - CRC_BYTES, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a meta page of this size; `None` when it is not one, or torn.
    ///
    /// Errors: [`TreeError::TooNew`].
    fn decode(bytes: &[u8], path: &str) -> Result<Option<Meta>, TreeError> {
        let sum_at = bytes.len() - CRC_BYTES;
        if meta_problem(bytes).is_some() {
            return Ok(None);
        }
        let min_reader = u32_at(bytes, 12);
        if min_reader > READER_VERSION {
            return Err(TreeError::TooNew {
                path: path.to_owned(),
                min_reader,
                supported: READER_VERSION,
            });
        }
        let conf_end = META_FIXED_BYTES + u32_at(bytes, 72) as usize;
        let extra_end = conf_end + u32_at(bytes, 76) as usize;
        if extra_end > sum_at {
            return Ok(None);
        }
        let directory = PageRef {
            page: u64_at(bytes, 32),
            crc: u32_at(bytes, 40),
            pages: u32_at(bytes, 44),
        };
        Ok(Some(Meta {
            page_size: bytes.len(),
            txid: u64_at(bytes, 24),
            directory: (directory.page != 0).then_some(directory),
            end_page: u64_at(bytes, 48),
            user: MetaUser {
                applied_index: u64_at(bytes, 56),
                applied_term: u64_at(bytes, 64),
                conf_state: Bytes::copy_from_slice(&bytes[META_FIXED_BYTES..conf_end]),
                extra: Bytes::copy_from_slice(&bytes[conf_end..extra_end]),
            },
        }))
    }
}

/// The newest valid meta in the start of a file (two pages of the largest size, or all of a smaller file).
pub(super) fn newest_meta(start: &[u8], path: &str) -> Result<Meta, TreeError> {
    let mut newest: Option<Meta> = None;
    let mut page_size = PAGE_SIZE_BYTES_MIN;
    while page_size <= PAGE_SIZE_BYTES_MAX {
        for slot in 0..2 {
            let Some(bytes) = start.get(slot * page_size..(slot + 1) * page_size) else {
                continue;
            };
            let Some(meta) = Meta::decode(bytes, path)? else {
                continue;
            };
            let newer = |other: &Meta| (other.txid < meta.txid) != mutant::on("older_meta_picked");
            if newest.as_ref().is_none_or(newer) {
                newest = Some(meta);
            }
        }
        page_size *= 2;
    }
    newest.ok_or_else(|| {
        let stated = start.get(16..20).map_or(0, |_| u32_at(start, 16)) as usize;
        let size = if stated.is_power_of_two() {
            stated
        } else {
            PAGE_SIZE_BYTES_MIN
        };
        let first = start.get(..size.clamp(PAGE_SIZE_BYTES_MIN, PAGE_SIZE_BYTES_MAX));
        let problem = first.and_then(meta_problem).unwrap_or(MetaProblem {
            what: "length of the file in bytes",
            expected: 2 * size as u64,
            found: start.len() as u64,
        });
        TreeError::Corrupt {
            path: path.to_owned(),
            page: 0,
            offset: 0,
            what: problem.what,
            expected: problem.expected,
            found: problem.found,
        }
    })
}

/// What is wrong with a meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MetaProblem {
    pub what: &'static str,
    pub expected: u64,
    pub found: u64,
}

/// What is wrong with the meta page that a tree does not go by; `start` is the start of the file.
///
/// There always is another: a new tree gets two, and a commit replaces the older one.
pub(super) fn other_meta_problem(start: &[u8], newest: &Meta) -> Option<(u64, MetaProblem)> {
    let other = 1 - newest.slot();
    let at = other as usize * newest.page_size;
    let problem = start.get(at..at + newest.page_size).and_then(meta_problem)?;
    Some((other, problem))
}

fn meta_problem(bytes: &[u8]) -> Option<MetaProblem> {
    let sum_at = bytes.len() - CRC_BYTES;
    let wrong = |what, expected, found| MetaProblem { what, expected, found };
    let size = u32_at(bytes, 16);
    let (sum, stored) = (crc32c::crc32c(&bytes[..sum_at]), u32_at(bytes, sum_at));
    if &bytes[..8] != MAGIC {
        Some(wrong(
            "first bytes of the meta page",
            u64_at(MAGIC, 0),
            u64_at(bytes, 0),
        ))
    } else if size as usize != bytes.len() {
        Some(wrong("page size in the meta page", bytes.len() as u64, size.into()))
    } else if sum != stored {
        Some(wrong("checksum of the meta page", sum.into(), stored.into()))
    } else {
        None
    }
}

/// How many pages hold this many bytes.
pub(super) fn pages_for(bytes: usize, page_size: usize) -> u32 {
    u32::try_from(bytes.div_ceil(page_size)).expect("a run is bounded by the largest key and value")
}
