//! The disk of boot, of tools and of tests: ordinary blocking calls.
//!
//! [`Disk::submit`] performs the operation at once and queues its completion. Files opened with `direct_dsync` are
//! written through the page cache with `O_DSYNC`: as durable as direct I/O, without its alignment rules.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Completion, Disk, DiskError, FileId, Op, Output, Pages, Token,
    system::{self, OpenFile},
};

/// Blocking calls in one directory.
#[derive(Debug)]
pub struct StdDisk {
    root: PathBuf,
    /// The open files; a [`FileId`] is a position here and never used twice.
    files: Vec<Option<Arc<OpenFile>>>,
    ended: Vec<Completion>,
}

impl StdDisk {
    /// The disk of the directory `root`, which is created (mode 0700) when it is missing.
    ///
    /// Errors: the directory can not be created.
    pub fn new(root: impl AsRef<Path>) -> Result<StdDisk, DiskError> {
        let root = root.as_ref();
        let at_root = |error: io::Error| DiskError::from_io("resolve", &root.to_string_lossy(), None, &error);
        let absolute = std::path::absolute(root).map_err(at_root)?;
        system::on_path(&absolute, &Op::CreateDir(String::new())).map_err(|mut error| {
            error.path = root.to_string_lossy().into_owned();
            error
        })?;
        Ok(StdDisk {
            root: absolute,
            files: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// The absolute path of the root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn file(&self, id: FileId) -> &Arc<OpenFile> {
        let slot = self.files.get(id.0 as usize).and_then(Option::as_ref);
        slot.unwrap_or_else(|| panic!("file {} is not open", id.0))
    }

    pub(super) fn add(&mut self, file: OpenFile) -> FileId {
        let id = u32::try_from(self.files.len()).expect("fewer than 2^32 files are opened in a process");
        self.files.push(Some(Arc::new(file)));
        FileId(id)
    }

    pub(super) fn open_files(&self) -> Vec<FileId> {
        let open = self.files.iter().enumerate().filter(|(_, file)| file.is_some());
        open.map(|(at, _)| FileId(at as u32)).collect()
    }

    pub(super) fn close(&mut self, id: FileId) {
        self.file(id).unlock();
        self.files[id.0 as usize] = None;
    }
}

impl Op {
    /// The open file an operation is about, if it is about one.
    pub fn file(&self) -> Option<FileId> {
        match self {
            Op::Close(file) | Op::Len(file) | Op::Sync(file) | Op::SetLen(file, _) | Op::Lock(file) => Some(*file),
            Op::Read { file, .. } | Op::Write { file, .. } | Op::Allocate { file, .. } | Op::Punch { file, .. } => {
                Some(*file)
            }
            Op::Open { .. }
            | Op::Rename { .. }
            | Op::Remove(_)
            | Op::CreateDir(_)
            | Op::List(_)
            | Op::SyncDir(_)
            | Op::Space => None,
        }
    }
}

impl Disk for StdDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let result = self.call(op);
        self.ended.push(Completion { token, result });
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.ended);
    }

    fn call(&mut self, op: Op) -> Result<Output, DiskError> {
        match op {
            Op::Open { path, options } => {
                let file = system::open(&self.root, &path, options)?;
                Ok(Output::File(self.add(file)))
            }
            Op::Close(id) => {
                self.close(id);
                Ok(Output::Done)
            }
            op => match op.file() {
                Some(id) => self.file(id).perform(&op),
                None => system::on_path(&self.root, &op),
            },
        }
    }

    fn map(&mut self, file: FileId, reserve: u64) -> Result<Arc<dyn Pages>, DiskError> {
        self.file(file).map(reserve)
    }
}
