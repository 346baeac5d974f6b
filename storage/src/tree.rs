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

mod check;
mod commit;
mod cursor;
mod draft;
mod encode;
mod error;
mod format;
mod freelist;
mod open;
mod page;
mod plan;
mod root;
mod shrink;
mod space;
mod walk;

use std::sync::Arc;

use bytes::Bytes;
use commit::{Commit, Job, Stage};
pub use cursor::{Cursor, Pair};
pub use error::TreeError;
pub use open::Opening;
pub use root::Root;

use crate::io::{Completion, Disk, DiskError, FileId, Op, Output, Pages, Token};

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

/// What a tree that is closed leaves in memory: the list of its free pages and, as long as no root of it is held elsewhere,
/// the map of its file, which is the last of a file whose name is gone.
#[derive(Debug)]
pub struct Leftover {
    _space: space::Space,
    _newest: Arc<Root>,
}

/// The one owner and writer of a tree file.
#[derive(Debug)]
pub struct Tree {
    shared: Arc<page::Shared>,
    file: FileId,
    options: TreeOptions,
    newest: Arc<Root>,
    space: space::Space,
    file_len: u64,
    commit: Option<Commit>,
    in_flight: Vec<(Token, Job)>,
    next_token: u64,
    poisoned: Option<DiskError>,
    space_low: bool,
    shrink_from: Option<shrink::Place>,
}

impl Tree {
    /// The newest durable root.
    pub fn root(&self) -> Arc<Root> {
        self.newest.clone()
    }

    /// Opens a commit: looks at which roots are still held, and hands the pages of dropped ones to it.
    ///
    /// Errors: [`TreeError::TooLarge`] when `user` does not fit; [`TreeError::Io`] when poisoned.
    /// Panics when a commit is open.
    pub fn begin(&mut self, user: MetaUser) -> Result<(), TreeError> {
        self.check_alive()?;
        self.check_user(&user)?;
        assert!(self.commit.is_none(), "a commit is open already");
        self.space.begin(self.newest.txid());
        self.commit = Some(Commit::new(self.newest.clone(), user));
        Ok(())
    }

    /// Replaces what [`Tree::begin`] was given, up to [`Tree::seal`].
    pub fn set_user(&mut self, user: MetaUser) -> Result<(), TreeError> {
        self.check_user(&user)?;
        self.open_commit()?.user = user;
        Ok(())
    }

    /// Sets a key in the open commit. Keys may come in any order; ascending is fastest.
    ///
    /// Errors: [`TreeError::TooLarge`] beyond [`KEY_BYTES_MAX`] or [`VALUE_BYTES_MAX`]; [`TreeError::Corrupt`];
    /// [`TreeError::Io`] when poisoned. Panics when no commit is open.
    pub fn put(&mut self, bucket: BucketId, key: &[u8], value: Bytes) -> Result<(), TreeError> {
        check_bound("length of the key in bytes", key.len(), KEY_BYTES_MAX)?;
        check_bound("length of the value in bytes", value.len(), VALUE_BYTES_MAX)?;
        self.open_commit()?.draft.put(bucket, key, value)
    }

    /// Removes a key in the open commit; whether it was there.
    ///
    /// Errors: [`TreeError::Corrupt`]; [`TreeError::Io`] when poisoned. Panics when no commit is open.
    pub fn delete(&mut self, bucket: BucketId, key: &[u8]) -> Result<bool, TreeError> {
        self.open_commit()?.draft.delete(bucket, key)
    }

    /// Ends the operations of the open commit. Panics when no commit is open.
    pub fn seal(&mut self) {
        let commit = self.commit.as_mut().expect("a commit is open");
        assert!(commit.stage == Stage::Open, "the commit is sealed already");
        commit.seal();
    }

    /// Does at most about `budget` pages of work of the sealed commit.
    ///
    /// Errors: [`TreeError::NoSpace`] before anything was written (step again or [`Tree::abandon`]);
    /// [`TreeError::Corrupt`]; [`TreeError::Io`], final. Panics when no commit is sealed.
    pub fn step(&mut self, disk: &mut dyn Disk, budget: usize) -> Result<Progress, TreeError> {
        self.check_alive()?;
        self.step_sealed(disk, budget.max(1))
    }

    /// Takes the end of an operation that the tree submitted.
    ///
    /// Errors: [`TreeError::Io`], final. Panics when the tree has no such operation in flight.
    pub fn on_completion(&mut self, completion: Completion) -> Result<(), TreeError> {
        self.complete(completion)
    }

    /// Whether a token is one of the tree's.
    pub fn owns(&self, token: Token) -> bool {
        let base = self.options.token_base;
        (base..base + TOKEN_SPAN).contains(&token)
    }

    /// Drops the open commit, if nothing of it was written and nothing is in flight; whether none is open any more.
    pub fn abandon(&mut self) -> bool {
        match &self.commit {
            None => true,
            Some(commit) if commit.can_abandon() && self.in_flight.is_empty() => {
                self.space.abandon();
                self.commit = None;
                true
            }
            Some(_) => false,
        }
    }

    /// Whether a commit is open or sealed.
    pub fn is_committing(&self) -> bool {
        self.commit.is_some()
    }

    /// Seals the open commit and steps it to its end, blocking. For boot and tools.
    ///
    /// Errors: those of [`Tree::step`].
    pub fn commit_blocking(&mut self, disk: &mut dyn Disk) -> Result<Arc<Root>, TreeError> {
        if self.commit.as_ref().is_some_and(|commit| commit.stage == Stage::Open) {
            self.seal();
        }
        let mut blocking = Blocking { disk, done: Vec::new() };
        loop {
            let progress = self.step(&mut blocking, usize::MAX)?;
            for completion in std::mem::take(&mut blocking.done) {
                self.on_completion(completion)?;
            }
            if let Progress::Done(root) = progress {
                return Ok(root);
            }
        }
    }

    /// Closes the file. Roots that are still held stay readable. What is left in memory may take long to free.
    ///
    /// Errors: [`TreeError::Io`]. Panics when an operation is in flight.
    pub fn close(self, disk: &mut dyn Disk) -> Result<Leftover, TreeError> {
        assert!(self.in_flight.is_empty(), "a tree is closed between commits");
        disk.call(Op::Close(self.file))?;
        Ok(Leftover {
            _space: self.space,
            _newest: self.newest,
        })
    }

    /// Where the used part of the file ends. Units: bytes.
    pub fn size_bytes(&self) -> u64 {
        self.space.end_page() * self.shared.page_size as u64
    }

    /// The used part less the free pages in it. Units: bytes.
    pub fn in_use_bytes(&self) -> u64 {
        (self.space.end_page() - self.space.free().pages()) * self.shared.page_size as u64
    }

    /// Length of the file, with what was taken ahead. Units: bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_len
    }

    /// Pages free for the next commit, and those that wait for older roots to be dropped.
    pub fn free_pages(&self) -> (u64, u64) {
        (self.space.free().pages(), self.space.pending_pages())
    }

    /// Changes [`TreeOptions::reserve_bytes`], from the next commit on.
    pub fn keep_in_reserve(&mut self, bytes: u64) {
        self.options.reserve_bytes = bytes;
    }

    /// What [`TreeOptions::reserve_bytes`] is now.
    pub fn reserve_bytes(&self) -> u64 {
        self.options.reserve_bytes
    }

    /// Whether the last attempt to keep [`TreeOptions::reserve_bytes`] ahead failed for lack of space.
    pub fn space_low(&self) -> bool {
        self.space_low
    }

    fn check_alive(&self) -> Result<(), TreeError> {
        match &self.poisoned {
            Some(error) => Err(TreeError::Io(error.clone())),
            None => Ok(()),
        }
    }

    fn check_user(&self, user: &MetaUser) -> Result<(), TreeError> {
        let bound = format::user_bytes_max(self.shared.page_size);
        check_bound(
            "length of conf state and extra in bytes",
            user.conf_state.len() + user.extra.len(),
            bound,
        )
    }

    fn open_commit(&mut self) -> Result<&mut Commit, TreeError> {
        self.check_alive()?;
        let commit = self.commit.as_mut().expect("a commit is open");
        assert!(commit.stage == Stage::Open, "the commit is sealed");
        Ok(commit)
    }
}

fn check_bound(what: &'static str, found: usize, bound: usize) -> Result<(), TreeError> {
    if found <= bound {
        return Ok(());
    }
    Err(TreeError::TooLarge {
        what,
        found: found as u64,
        bound: bound as u64,
    })
}

/// A disk whose submitted operations are done at once.
struct Blocking<'d> {
    disk: &'d mut dyn Disk,
    done: Vec<Completion>,
}

impl Disk for Blocking<'_> {
    fn submit(&mut self, token: Token, op: Op) {
        let result = self.disk.call(op);
        self.done.push(Completion { token, result });
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.done);
    }

    fn call(&mut self, op: Op) -> Result<Output, DiskError> {
        self.disk.call(op)
    }

    fn map(&mut self, file: FileId, reserve: u64) -> Result<Arc<dyn Pages>, DiskError> {
        self.disk.map(file, reserve)
    }
}
