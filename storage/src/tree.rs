//! The memory-mapped copy-on-write B+tree.
//!
//! One file. A commit never overwrites a page that the newest durable root can reach: it writes changed nodes to
//! free pages from the leaves up, syncs, writes one of two meta pages, syncs again. Readers hold an [`Arc<Root>`] and
//! read through the map without copying; one owner writes through [`Tree`].
//!
//! ```text
//! page 0: meta (even txids)      page 1: meta (odd txids)      pages 2..: directory, branches, leaves, free
//!
//!   meta ──{page, crc, pages}──► directory: bucket id ──{page, crc, pages, height, entries}──► bucket root
//!   branch: key ──{page, crc, pages}──► branch or leaf          leaf: key ──► value
//! ```
//!
//! The checksum of a page stands in the element that points at it, so a lost or misdirected write is seen as well as
//! rot. A checksum is verified when a page is first touched after it was written or the file was opened.
//!
//! Contract of a commit: [`Tree::begin`], any number of [`Tree::put`] and [`Tree::delete`], [`Tree::seal`], then
//! [`Tree::step`] until it answers [`Progress::Done`]; completions of the disk go into [`Tree::on_completion`].
//! One commit is open at a time. Nothing of it can be read before `Done`; at `Done` it is durable. A failed write or
//! sync poisons the tree for good.
//!
//! Freed pages: those that commit T no longer reaches are handed out again by a commit that begins when no root
//! older than T is held by anyone. Only [`Tree::begin`] looks at who holds what. Free pages are not stored: opening
//! walks the branch pages and takes what it does not meet.

mod error;

use std::sync::Arc;

use bytes::Bytes;

pub use error::TreeError;

use crate::io::{Completion, Disk, Token};

/// Names a bucket; chosen by the caller.
pub type BucketId = u8;

/// Longest key. Units: bytes.
pub const KEY_BYTES_MAX: usize = 32768;
/// Longest value. Units: bytes.
pub const VALUE_BYTES_MAX: usize = (1 << 31) - 1;
/// How many tokens above [`TreeOptions::token_base`] belong to the tree.
pub const TOKEN_SPAN: u64 = 1 << 32;

/// How a tree is opened.
#[derive(Clone, Debug)]
pub struct TreeOptions {
    /// Path of the file on its disk.
    pub path: String,
    /// Page size of a file to be created; an existing file keeps its own.
    /// Units: bytes. Bounds: a power of two from 512 to 65536.
    pub page_size: usize,
    /// The file grows and shrinks in steps of this. Units: bytes.
    pub growth_step_bytes: u64,
    /// Space kept allocated beyond what is used, so that deletes still commit on a full disk. Units: bytes.
    pub reserve_bytes: u64,
    /// Address space taken for the map; the file never grows beyond it. Units: bytes.
    pub reserve_address_bytes: u64,
    /// First of the [`TOKEN_SPAN`] tokens that are the tree's own on its disk.
    pub token_base: Token,
}

impl Default for TreeOptions {
    fn default() -> TreeOptions {
        TreeOptions {
            path: "tree".to_owned(),
            page_size: 4096,
            growth_step_bytes: 16 << 20,
            reserve_bytes: 0,
            reserve_address_bytes: 64 << 30,
            token_base: 1 << 40,
        }
    }
}

/// What the owner keeps in the meta page beside the root.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetaUser {
    /// Index of the last log entry whose effects are in the tree.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// The configuration as of that entry, encoded by the caller.
    pub conf_state: Bytes,
    /// Anything else. Bounds: with `conf_state` it must fit a page, less 96 bytes.
    pub extra: Bytes,
}

/// How far a commit is.
#[derive(Clone, Debug)]
pub enum Progress {
    /// There is work: step again.
    Working,
    /// Nothing to do before a completion arrives.
    Waiting,
    /// Durable; the new root.
    Done(Arc<Root>),
}

/// What [`Tree::check`] found in an intact tree. Units: pages, metas not counted as reachable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// Pages the root reaches.
    pub reachable_pages: u64,
    /// Pages free for the next commit.
    pub free_pages: u64,
    /// Pages that wait for older roots to be dropped.
    pub pending_pages: u64,
    /// Branch nodes.
    pub branches: u64,
    /// Leaf nodes.
    pub leaves: u64,
    /// Key-value pairs.
    pub entries: u64,
}

/// One durable state of the tree, readable from any thread for as long as it is held.
#[derive(Debug)]
pub struct Root {}

impl Root {
    /// Number of the commit that made it.
    pub fn txid(&self) -> u64 {
        todo!()
    }

    /// What the owner stored with that commit.
    pub fn user(&self) -> &MetaUser {
        todo!()
    }

    /// The value of a key.
    ///
    /// Errors: [`TreeError::Corrupt`].
    pub fn get(&self, _bucket: BucketId, _key: &[u8]) -> Result<Option<&[u8]>, TreeError> {
        todo!()
    }

    /// A cursor over a bucket, standing before the first pair.
    pub fn cursor(&self, _bucket: BucketId) -> Cursor<'_> {
        todo!()
    }

    /// How many pairs a bucket holds.
    pub fn count(&self, _bucket: BucketId) -> u64 {
        todo!()
    }

    /// The buckets that hold something, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = BucketId> + '_ {
        [].into_iter()
    }

    /// Where the used part of the file ends. Units: bytes.
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// The page runs this root reaches, `(first page, pages)` ascending, metas left out: with [`Root::run_bytes`] and
    /// [`Root::meta_bytes`] they make a file that opens as this root.
    ///
    /// Errors: [`TreeError::Corrupt`].
    pub fn runs(&self) -> Result<Vec<(u64, u32)>, TreeError> {
        todo!()
    }

    /// The bytes of a run that [`Root::runs`] named.
    pub fn run_bytes(&self, _run: (u64, u32)) -> &[u8] {
        todo!()
    }

    /// The two meta pages of a file that opens as this root.
    pub fn meta_bytes(&self) -> Vec<u8> {
        todo!()
    }

    /// Units: bytes.
    pub fn page_size(&self) -> usize {
        todo!()
    }
}

/// Walks the pairs of one bucket in key order, borrowing them from the map.
#[derive(Debug)]
pub struct Cursor<'r> {
    _root: &'r Root,
}

/// A key and its value.
pub type Pair<'r> = (&'r [u8], &'r [u8]);

impl<'r> Cursor<'r> {
    /// Goes to the first pair whose key is `key` or greater, and gives it.
    pub fn seek(&mut self, _key: &[u8]) -> Result<Option<Pair<'r>>, TreeError> {
        todo!()
    }

    /// Goes to the first pair and gives it.
    pub fn first(&mut self) -> Result<Option<Pair<'r>>, TreeError> {
        todo!()
    }

    /// Goes to the last pair and gives it.
    pub fn last(&mut self) -> Result<Option<Pair<'r>>, TreeError> {
        todo!()
    }

    /// Goes one pair on and gives it; from a fresh cursor, the first.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and it goes both ways")]
    pub fn next(&mut self) -> Result<Option<Pair<'r>>, TreeError> {
        todo!()
    }

    /// Goes one pair back and gives it; from behind the end, the last.
    pub fn prev(&mut self) -> Result<Option<Pair<'r>>, TreeError> {
        todo!()
    }
}

/// The one owner and writer of a tree file.
#[derive(Debug)]
pub struct Tree {}

impl Tree {
    /// Opens the file, creating it when missing, and finds its free pages. Blocks.
    ///
    /// Errors: [`TreeError::Corrupt`] when no meta page is valid or a branch page fails its check;
    /// [`TreeError::TooNew`]; [`TreeError::Io`].
    pub fn open(_disk: &mut dyn Disk, _options: TreeOptions) -> Result<Tree, TreeError> {
        todo!()
    }

    /// The newest durable root.
    pub fn root(&self) -> Arc<Root> {
        todo!()
    }

    /// Opens a commit: looks at which roots are still held, and hands the pages of dropped ones to it.
    ///
    /// Errors: [`TreeError::TooLarge`] when `user` does not fit; [`TreeError::Io`] when poisoned.
    /// Panics when a commit is open.
    pub fn begin(&mut self, _user: MetaUser) -> Result<(), TreeError> {
        todo!()
    }

    /// Replaces what [`Tree::begin`] was given, up to [`Tree::seal`].
    pub fn set_user(&mut self, _user: MetaUser) -> Result<(), TreeError> {
        todo!()
    }

    /// Sets a key in the open commit. Keys may come in any order; ascending is fastest.
    ///
    /// Bounds: [`KEY_BYTES_MAX`], [`VALUE_BYTES_MAX`].
    pub fn put(&mut self, _bucket: BucketId, _key: &[u8], _value: Bytes) -> Result<(), TreeError> {
        todo!()
    }

    /// Removes a key in the open commit; whether it was there.
    pub fn delete(&mut self, _bucket: BucketId, _key: &[u8]) -> Result<bool, TreeError> {
        todo!()
    }

    /// Ends the operations of the open commit.
    pub fn seal(&mut self) {
        todo!()
    }

    /// Does at most about `budget` pages of work of the sealed commit.
    ///
    /// Errors: [`TreeError::NoSpace`] before anything was written (step again or [`Tree::abandon`]);
    /// [`TreeError::Corrupt`]; [`TreeError::Io`], final.
    pub fn step(&mut self, _disk: &mut dyn Disk, _budget: usize) -> Result<Progress, TreeError> {
        todo!()
    }

    /// Takes the end of an operation that the tree submitted.
    ///
    /// Errors: [`TreeError::Io`], final.
    pub fn on_completion(&mut self, _completion: Completion) -> Result<(), TreeError> {
        todo!()
    }

    /// Whether a token is one of the tree's.
    pub fn owns(&self, _token: Token) -> bool {
        todo!()
    }

    /// Drops the open commit, if nothing of it was written yet; whether it could.
    pub fn abandon(&mut self) -> bool {
        todo!()
    }

    /// Moves up to `pages_max` pages from the end of the file to free pages nearer the start, as part of the open
    /// commit. The end is cut off by itself once nobody holds a root that reaches it. Gives the pages moved: zero
    /// when there is nothing to gain.
    pub fn shrink_step(&mut self, _pages_max: usize) -> Result<usize, TreeError> {
        todo!()
    }

    /// Commits at once, blocking: seal and step to the end. For boot and tools.
    pub fn commit_blocking(&mut self, _disk: &mut dyn Disk) -> Result<Arc<Root>, TreeError> {
        todo!()
    }

    /// Walks everything the root reaches: each page once, keys ordered, checksums right, and when it is the newest
    /// root, free, pending and reachable pages make up the file.
    pub fn check(&self, _root: &Root) -> Result<CheckReport, TreeError> {
        todo!()
    }

    /// Where the used part of the file ends. Units: bytes.
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// The used part less the free pages in it. Units: bytes.
    pub fn in_use_bytes(&self) -> u64 {
        todo!()
    }

    /// Length of the file, with what was taken ahead. Units: bytes.
    pub fn file_bytes(&self) -> u64 {
        todo!()
    }

    /// Pages free for the next commit, and those that wait for older roots to be dropped.
    pub fn free_pages(&self) -> (u64, u64) {
        todo!()
    }

    /// Whether the last attempt to keep [`TreeOptions::reserve_bytes`] ahead failed for lack of space.
    pub fn space_low(&self) -> bool {
        todo!()
    }
}
