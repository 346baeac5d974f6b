//! The stages of a sealed commit, each a bounded step: plan, space, write, sync, meta, sync.
//!
//! Every stage waits until what the one before submitted has ended. Up to the first write everything can be undone.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use raft::mutant;

use super::{
    MetaUser, Progress, Root, TOKEN_SPAN, Tree, TreeError,
    draft::Draft,
    encode,
    format::{BucketRef, Meta, PageRef, pages_for},
    plan::Plan,
};
use crate::io::{Completion, Disk, DiskError, ErrorKind, Op, WriteBuf};

/// Neighbouring pages are written together up to this size. Units: bytes.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// How many writes may be under way at once.
const WRITES_IN_FLIGHT_MAX: usize = 16;

/// The file is grown to a round size, else to what is wanted with the reserve, else to what this commit needs.
const SPACE_ATTEMPTS: usize = 3;

/// The open commit.
#[derive(Debug)]
pub(super) struct Commit {
    pub draft: Draft,
    pub user: MetaUser,
    pub stage: Stage,
    plan: Plan,
    /// Where the directory goes; `None` when it stays or the tree is empty.
    directory_at: Option<PageRef>,
    directory: Vec<BucketRef>,
    /// How many nodes of the plan are encoded.
    encoded: usize,
    /// Encoded runs that lie together, not yet submitted, and the first page of them.
    buffer: BytesMut,
    buffer_page: u64,
    wrote_pages: bool,
    /// Which size the file is being grown to: the comfortable one, then less.
    space_attempt: usize,
    no_space: Option<DiskError>,
}

/// What a sealed commit does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Open,
    Plan,
    Space,
    Write,
    SyncPages,
    WriteMeta,
    SyncMeta,
    Finish,
}

/// What an operation in flight is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Job {
    Transfer,
    Grow { to: u64 },
    Cut { to: u64 },
}

impl Commit {
    pub fn new(base: Arc<Root>, user: MetaUser) -> Commit {
        Commit {
            draft: Draft::new(base),
            user,
            stage: Stage::Open,
            plan: Plan::default(),
            directory_at: None,
            directory: Vec::new(),
            encoded: 0,
            buffer: BytesMut::new(),
            buffer_page: 0,
            wrote_pages: false,
            space_attempt: 0,
            no_space: None,
        }
    }

    pub fn seal(&mut self) {
        self.plan = Plan::new(&self.draft);
        self.stage = Stage::Plan;
    }

    /// Whether nothing was submitted yet that could not be taken back.
    pub fn can_abandon(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Plan | Stage::Space)
    }

    /// The buckets of the new root: those of the old, with what the draft touched.
    fn new_directory(&self) -> Vec<BucketRef> {
        let touched = &self.draft.buckets;
        let kept = self
            .draft
            .base()
            .directory
            .iter()
            .filter(|old| !touched.contains_key(&old.bucket))
            .copied();
        let new = touched.iter().filter_map(|(&bucket, state)| {
            let root = encode::child_ref(&self.draft, state.root?);
            Some(BucketRef {
                bucket,
                height: state.height,
                root,
                entries: state.entries,
            })
        });
        let mut all: Vec<_> = kept.chain(new).collect();
        all.sort_unstable_by_key(|bucket| bucket.bucket);
        all
    }
}

impl Tree {
    pub(super) fn step_sealed(&mut self, disk: &mut dyn Disk, budget: usize) -> Result<Progress, TreeError> {
        let commit = self.commit.as_mut().expect("step is called between seal and done");
        assert!(commit.stage != Stage::Open, "step is called between seal and done");
        if commit.stage != Stage::Write && !self.in_flight.is_empty() {
            return Ok(Progress::Waiting);
        }
        match commit.stage {
            Stage::Open => unreachable!("asserted above"),
            Stage::Plan => self.plan_some(budget)?,
            Stage::Space => self.settle_space(disk)?,
            Stage::Write => return Ok(self.write_some(disk, budget)),
            Stage::SyncPages => {
                commit.stage = Stage::WriteMeta;
                if commit.wrote_pages && !mutant::on("meta_before_pages") {
                    self.submit(disk, Job::Transfer, Op::Sync(self.file));
                }
            }
            Stage::WriteMeta => {
                commit.stage = Stage::SyncMeta;
                self.write_meta(disk);
            }
            Stage::SyncMeta => {
                commit.stage = Stage::Finish;
                if mutant::on("meta_not_synced") {
                    return Ok(Progress::Working);
                }
                self.submit(disk, Job::Transfer, Op::Sync(self.file));
            }
            Stage::Finish => return Ok(Progress::Done(self.finish())),
        }
        Ok(if self.in_flight.is_empty() {
            Progress::Working
        } else {
            Progress::Waiting
        })
    }

    /// Takes the end of an operation of the open commit.
    pub(super) fn complete(&mut self, completion: Completion) -> Result<(), TreeError> {
        let place = self.in_flight.iter().position(|&(token, _)| token == completion.token);
        let (_, job) = self
            .in_flight
            .swap_remove(place.expect("a completion of an operation that is in flight"));
        match (job, completion.result) {
            (Job::Transfer, Ok(_)) => {}
            (Job::Grow { to } | Job::Cut { to }, Ok(_)) => self.file_len = to,
            (Job::Grow { .. }, Err(error)) if error.kind == ErrorKind::NoSpace => self.grew_not(error),
            (_, Err(error)) => {
                self.poisoned = Some(error.clone());
                return Err(TreeError::Io(error));
            }
        }
        Ok(())
    }

    fn submit(&mut self, disk: &mut dyn Disk, job: Job, op: Op) {
        let token = self.options.token_base + self.next_token % TOKEN_SPAN;
        self.next_token += 1;
        self.in_flight.push((token, job));
        disk.submit(token, op);
    }

    fn plan_some(&mut self, budget: usize) -> Result<(), TreeError> {
        let commit = self.commit.as_mut().expect("in a commit");
        if !commit.plan.step(&mut commit.draft, &mut self.space, budget)? {
            return Ok(());
        }
        if !commit.draft.buckets.is_empty() {
            let base = commit.draft.base().clone();
            commit
                .draft
                .freed
                .extend(base.meta.directory.map(|at| (at.page, at.pages)));
            let touched = &commit.draft.buckets;
            let kept = base
                .directory
                .iter()
                .filter(|old| !touched.contains_key(&old.bucket))
                .count();
            let buckets = kept + touched.values().filter(|state| state.root.is_some()).count();
            if buckets > 0 {
                let pages = pages_for(encode::directory_bytes(buckets), base.page_size());
                commit.directory_at = Some(PageRef {
                    page: self.space.take(pages),
                    crc: 0,
                    pages,
                });
            }
        }
        commit.stage = Stage::Space;
        Ok(())
    }

    /// Grows or cuts the file, one operation a call, until it has the length the commit needs.
    fn settle_space(&mut self, disk: &mut dyn Disk) -> Result<(), TreeError> {
        let commit = self.commit.as_mut().expect("in a commit");
        let page_size = self.shared.page_size as u64;
        let needed = self.space.end_page() * page_size;
        if let Some(error) = commit.no_space.take() {
            let needed_bytes = needed.saturating_sub(self.file_len);
            return Err(TreeError::NoSpace {
                needed_bytes,
                source: error,
            });
        }
        if needed > self.options.reserve_address_bytes {
            return Err(self.out_of_address_space(needed));
        }
        let step = self.options.growth_step_bytes;
        let limit = self.options.reserve_address_bytes;
        let wanted = (needed + self.options.reserve_bytes).min(limit);
        if self.file_len < wanted {
            let sizes: [u64; SPACE_ATTEMPTS] = [wanted.next_multiple_of(step).min(limit), wanted, needed];
            if let Some(&to) = sizes.get(commit.space_attempt)
                && to > self.file_len
            {
                let len = to - self.file_len;
                self.submit(
                    disk,
                    Job::Grow { to },
                    Op::Allocate {
                        file: self.file,
                        offset: self.file_len,
                        len,
                    },
                );
                return Ok(());
            }
        }
        commit.stage = Stage::Write;
        self.space_low = self.file_len < wanted;
        let reached = self.space.reached_page(&self.newest) * page_size;
        let enough = (reached + self.options.reserve_bytes).next_multiple_of(step).min(limit);
        if self.file_len >= enough + step {
            self.submit(disk, Job::Cut { to: enough }, Op::SetLen(self.file, enough));
        }
        Ok(())
    }

    /// There is no room for the size asked for: try less, and give up when not even the pages to write fit.
    fn grew_not(&mut self, error: DiskError) {
        let commit = self.commit.as_mut().expect("files grow in commits only");
        commit.space_attempt += 1;
        if commit.space_attempt == SPACE_ATTEMPTS {
            commit.space_attempt = 0;
            commit.no_space = Some(error);
        }
    }

    fn out_of_address_space(&self, needed: u64) -> TreeError {
        let source = DiskError {
            kind: ErrorKind::NoSpace,
            op: "allocate",
            path: self.shared.path.clone(),
            offset: Some(needed),
            message: format!(
                "the address space kept for the map is {} bytes",
                self.options.reserve_address_bytes
            ),
        };
        TreeError::NoSpace {
            needed_bytes: needed - self.file_len.min(needed),
            source,
        }
    }

    fn write_some(&mut self, disk: &mut dyn Disk, budget: usize) -> Progress {
        let mut pages = 0;
        while pages < budget {
            if self.in_flight.len() >= WRITES_IN_FLIGHT_MAX {
                return Progress::Waiting;
            }
            let commit = self.commit.as_ref().expect("in a commit");
            if commit.encoded == commit.plan.order.len() {
                self.write_directory(disk);
                return Progress::Working;
            }
            pages += self.encode_next(disk);
        }
        Progress::Working
    }

    /// Encodes the next node into the buffer, submitting the buffer when it is full or the node lies elsewhere.
    fn encode_next(&mut self, disk: &mut dyn Disk) -> usize {
        let page_size = self.shared.page_size;
        let commit = self.commit.as_mut().expect("in a commit");
        let id = commit.plan.order[commit.encoded];
        let at = commit.draft.node(id).at.expect("the plan placed it");
        let buffer_end = commit.buffer_page + (commit.buffer.len() / page_size) as u64;
        let lone = encode::is_lone_value(&commit.draft, id);
        let run_bytes = at.pages as usize * page_size;
        if lone || at.page != buffer_end || commit.buffer.len() + run_bytes > WRITE_BYTES_MAX {
            self.flush(disk);
        }
        let commit = self.commit.as_mut().expect("in a commit");
        commit.encoded += 1;
        if lone {
            let pieces = encode::lone_value(&mut commit.draft, id, page_size);
            self.write_run(disk, at.page, WriteBuf::Pieces(pieces));
        } else {
            if commit.buffer.is_empty() {
                commit.buffer_page = at.page;
            }
            encode::node(&mut commit.draft, id, page_size, &mut commit.buffer);
        }
        at.pages as usize
    }

    fn flush(&mut self, disk: &mut dyn Disk) {
        let commit = self.commit.as_mut().expect("in a commit");
        let data = commit.buffer.split().freeze();
        if !data.is_empty() {
            let page = commit.buffer_page;
            self.write_run(disk, page, WriteBuf::Bytes(data));
        }
    }

    fn write_run(&mut self, disk: &mut dyn Disk, page: u64, data: WriteBuf) {
        self.commit.as_mut().expect("in a commit").wrote_pages = true;
        let offset = page * self.shared.page_size as u64;
        self.submit(
            disk,
            Job::Transfer,
            Op::Write {
                file: self.file,
                offset,
                data,
            },
        );
    }

    fn write_directory(&mut self, disk: &mut dyn Disk) {
        self.flush(disk);
        let page_size = self.shared.page_size;
        let commit = self.commit.as_mut().expect("in a commit");
        commit.stage = Stage::SyncPages;
        commit.directory = commit.new_directory();
        if let Some(at) = &mut commit.directory_at {
            let data: Bytes = encode::directory(&commit.directory, at.page, at.pages as usize * page_size);
            at.crc = crc32c::crc32c(&data);
            let page = at.page;
            self.write_run(disk, page, WriteBuf::Bytes(data));
        }
    }

    fn new_meta(&self) -> Meta {
        let commit = self.commit.as_ref().expect("in a commit");
        let base = commit.draft.base();
        let kept = if commit.draft.buckets.is_empty() {
            base.meta.directory
        } else {
            None
        };
        Meta {
            page_size: self.shared.page_size,
            txid: base.meta.txid + 1,
            directory: commit.directory_at.or(kept),
            end_page: self.space.end_page(),
            user: commit.user.clone(),
        }
    }

    fn write_meta(&mut self, disk: &mut dyn Disk) {
        let meta = self.new_meta();
        let offset = meta.slot() * self.shared.page_size as u64;
        let data = WriteBuf::Bytes(meta.encode().into());
        self.submit(
            disk,
            Job::Transfer,
            Op::Write {
                file: self.file,
                offset,
                data,
            },
        );
    }

    fn finish(&mut self) -> Arc<Root> {
        let meta = self.new_meta();
        let commit = self.commit.take().expect("in a commit");
        let txid = meta.txid;
        let root = Arc::new(Root {
            shared: self.shared.clone(),
            meta,
            directory: commit.directory,
        });
        let old = std::mem::replace(&mut self.newest, root.clone());
        self.space.commit(&old, txid, commit.draft.freed);
        root
    }
}
