//! Making a file, opening one, and finding its free pages.

use std::sync::Arc;

use raft::mutant;

use super::{
    MetaUser, Root, Tree, TreeError, TreeOptions,
    format::{FIRST_PAGE, Meta, PAGE_SIZE_BYTES_MAX, PAGE_SIZE_BYTES_MIN, PageRef, newest_meta, other_meta_problem},
    freelist::Freelist,
    page::{Kind, Shared, Verified},
    space::Space,
    walk::{Reached, Walk},
};
use crate::io::{Disk, DiskError, ErrorKind, FileId, Op, OpenOptions, Output, WriteBuf};

impl Tree {
    /// What the newest meta page of a file carries, whatever the state of its other pages. Blocks.
    ///
    /// Errors: there is no such file, or no meta page is valid.
    pub fn user(disk: &mut dyn Disk, path: &str) -> Result<MetaUser, TreeError> {
        let file = open_file(disk, path)?;
        let meta = read_meta(disk, file, path);
        disk.call(Op::Close(file))?;
        Ok(meta?.user)
    }

    /// Opens the file, creating it when missing, and finds its free pages. Blocks.
    ///
    /// Errors: [`TreeError::Corrupt`] when no meta page is valid or a branch page fails its check;
    /// [`TreeError::TooNew`]; [`TreeError::NoSpace`]; [`TreeError::Io`].
    pub fn open(disk: &mut dyn Disk, options: TreeOptions) -> Result<Tree, TreeError> {
        check_options(&options)?;
        let opening = match Opening::begin(disk, options.clone()) {
            Err(TreeError::Io(error)) if error.kind == ErrorKind::NotFound => {
                create(disk, &options)?;
                Opening::begin(disk, options)
            }
            other => other,
        };
        let mut opening = opening?;
        // What is read may so far stand in the page cache only. It must be durable before a page that the other meta
        // reaches is written to.
        if !mutant::on("opened_tree_not_synced") {
            disk.call(Op::Sync(opening.file))?;
        }
        while !opening.slice(usize::MAX)? {}
        Ok(opening.finish())
    }
}

/// A file on its way to being a [`Tree`]: its newest root is known, its free pages are looked for in slices that the caller
/// bounds.
///
/// Order: [`slice`](Self::slice) until it is done, then [`finish`](Self::finish).
#[derive(Debug)]
pub struct Opening {
    shared: Arc<Shared>,
    file: FileId,
    options: TreeOptions,
    newest: Arc<Root>,
    file_len: u64,
    walk: Walk,
    reached: Reached,
    /// Where to look for the next free pages; none while the walk goes on.
    free_from: Option<u64>,
    free: Freelist,
}

impl Opening {
    /// Opens a file that is durable. Makes a few calls of the disk that do not wait for it, as a rule.
    ///
    /// Errors: those of [`Tree::open`], and that there is no such file.
    pub fn begin(disk: &mut dyn Disk, options: TreeOptions) -> Result<Opening, TreeError> {
        check_options(&options)?;
        let file = open_file(disk, &options.path)?;
        let file_len = expect_len(disk.call(Op::Len(file))?);
        let meta = read_meta(disk, file, &options.path)?;
        let shared = Arc::new(Shared {
            map: disk.map(file, options.reserve_address_bytes)?,
            verified: Verified::new(options.reserve_address_bytes / meta.page_size as u64),
            path: options.path.clone(),
            page_size: meta.page_size,
        });
        let end_bytes = meta.end_page.saturating_mul(meta.page_size as u64);
        if end_bytes > file_len {
            return Err(shared.corrupt(meta.slot(), "length of the file in bytes", end_bytes, file_len));
        }
        if end_bytes > options.reserve_address_bytes {
            let text = format!("reserve_address_bytes is less than the {end_bytes} bytes the file has: raise it");
            return Err(TreeError::BadOption(text));
        }
        let newest = Arc::new(root_of(shared.clone(), meta)?);
        Ok(Opening {
            walk: Walk::over(&newest),
            reached: Reached::none(newest.meta.end_page),
            free_from: None,
            free: Freelist::default(),
            shared,
            file,
            options,
            newest,
            file_len,
        })
    }

    /// Looks at about `runs_max` runs of pages; true once all free ones are known.
    ///
    /// Errors: [`TreeError::Corrupt`] when a branch page fails its check or a page is reached twice.
    pub fn slice(&mut self, runs_max: usize) -> Result<bool, TreeError> {
        let Some(mut from) = self.free_from else {
            let (reached, shared) = (&mut self.reached, &self.shared);
            let walked = self
                .walk
                .go_on(&self.newest, runs_max, &mut |run| reached.add(run, shared))?;
            self.free_from = walked.then_some(FIRST_PAGE);
            return Ok(false);
        };
        for _ in 0..runs_max {
            let Some((start, end)) = self.reached.next_free(from) else {
                return Ok(true);
            };
            self.free.give(start, end - start);
            from = end;
        }
        self.free_from = Some(from);
        Ok(false)
    }

    /// The tree, once all free pages are known.
    pub fn finish(self) -> Tree {
        let space = Space::new(self.shared.clone(), self.free, self.newest.meta.end_page);
        Tree {
            shared: self.shared,
            file: self.file,
            options: self.options,
            newest: self.newest,
            space,
            file_len: self.file_len,
            commit: None,
            in_flight: Vec::new(),
            next_token: 0,
            poisoned: None,
            space_low: false,
            shrink_from: None,
        }
    }
}

fn check_options(options: &TreeOptions) -> Result<(), TreeError> {
    let size = options.page_size;
    if !size.is_power_of_two() || !(PAGE_SIZE_BYTES_MIN..=PAGE_SIZE_BYTES_MAX).contains(&size) {
        let bounds = format!("a power of two from {PAGE_SIZE_BYTES_MIN} to {PAGE_SIZE_BYTES_MAX}");
        return Err(TreeError::BadOption(format!(
            "page_size is {size}, it must be {bounds}"
        )));
    }
    let step = options.growth_step_bytes;
    if step == 0 || !step.is_multiple_of(size as u64) {
        return Err(TreeError::BadOption(format!(
            "growth_step_bytes is {step}, it must be a multiple of the page size"
        )));
    }
    Ok(())
}

fn open_file(disk: &mut dyn Disk, path: &str) -> Result<FileId, DiskError> {
    let options = OpenOptions {
        write: true,
        ..OpenOptions::default()
    };
    disk.call(Op::Open {
        path: path.to_owned(),
        options,
    })
    .map(expect_file)
}

fn expect_file(output: Output) -> FileId {
    match output {
        Output::File(file) => file,
        other => unreachable!("open answers a file, not {other:?}"),
    }
}

fn expect_len(output: Output) -> u64 {
    match output {
        Output::Len(len) => len,
        other => unreachable!("len answers a length, not {other:?}"),
    }
}

/// Writes an empty tree aside and renames it, so that a crash leaves either no tree or a whole one.
fn create(disk: &mut dyn Disk, options: &TreeOptions) -> Result<(), TreeError> {
    let aside = format!("{}.new", options.path);
    match disk.call(Op::Remove(aside.clone())) {
        Err(error) if error.kind != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let how = OpenOptions {
        create: true,
        exclusive: true,
        write: true,
        direct_dsync: false,
    };
    let file = expect_file(disk.call(Op::Open {
        path: aside.clone(),
        options: how,
    })?);
    let meta = |txid| Meta {
        page_size: options.page_size,
        txid,
        directory: None,
        end_page: FIRST_PAGE,
        user: MetaUser::default(),
    };
    let metas = [meta(0).encode(), meta(1).encode()].concat();
    let len = metas.len() as u64;
    disk.call(Op::Allocate { file, offset: 0, len })
        .map_err(|error| match error.kind {
            ErrorKind::NoSpace => TreeError::NoSpace {
                needed_bytes: len,
                source: error,
            },
            _ => TreeError::Io(error),
        })?;
    disk.call(Op::Write {
        file,
        offset: 0,
        data: WriteBuf::Bytes(metas.into()),
    })?;
    disk.call(Op::Sync(file))?;
    disk.call(Op::Close(file))?;
    disk.call(Op::Rename {
        from: aside,
        to: options.path.clone(),
    })?;
    let directory = options.path.rsplit_once('/').map_or("", |(directory, _)| directory);
    disk.call(Op::SyncDir(directory.to_owned()))?;
    Ok(())
}

fn read_meta(disk: &mut dyn Disk, file: FileId, path: &str) -> Result<Meta, TreeError> {
    match disk.call(Op::Read {
        file,
        offset: 0,
        len: 2 * PAGE_SIZE_BYTES_MAX,
    })? {
        Output::Data(start) => {
            let newest = newest_meta(&start, path)?;
            if let Some((page, problem)) = other_meta_problem(&start, &newest) {
                let txid = newest.txid;
                tracing::warn!(
                    path,
                    page,
                    ?problem,
                    txid,
                    "a meta page is not valid: going on with the other one"
                );
            }
            Ok(newest)
        }
        other => unreachable!("read answers data, not {other:?}"),
    }
}

fn root_of(shared: Arc<Shared>, meta: Meta) -> Result<Root, TreeError> {
    let mut directory = Vec::new();
    if let Some(at) = meta.directory {
        let page = shared.run(at, Kind::Directory, meta.end_page)?;
        directory.extend((0..page.count()).map(|index| page.bucket(index)));
        check_heights(&shared, at, &directory)?;
    }
    Ok(Root {
        shared,
        meta,
        directory,
    })
}

/// A height beyond reason would send every walk astray.
fn check_heights(shared: &Shared, at: PageRef, directory: &[super::format::BucketRef]) -> Result<(), TreeError> {
    const HEIGHT_MAX: u32 = 64;
    match directory
        .iter()
        .find(|bucket| !(1..=HEIGHT_MAX).contains(&bucket.height))
    {
        Some(bad) => Err(shared.corrupt(at.page, "height of a bucket", HEIGHT_MAX.into(), bad.height.into())),
        None => Ok(()),
    }
}
