//! The blocking system calls behind [`StdDisk`](super::StdDisk) and the slow path of `GlommioDisk`.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, FileExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{DiskError, ErrorKind, Op, OpenOptions, Output, Pages, WriteBuf, map::MappedFile};

/// One open file: the descriptor, and what errors say about it.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) path: String,
    pub(super) options: OpenOptions,
    known_len: Arc<AtomicU64>,
}

impl ErrorKind {
    fn of(error: &io::Error) -> ErrorKind {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => return ErrorKind::NoSpace,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => return ErrorKind::Denied,
            _ => {}
        }
        match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            _ => ErrorKind::Io,
        }
    }
}

impl DiskError {
    pub(super) fn from_io(op: &'static str, path: &str, offset: Option<u64>, error: &io::Error) -> DiskError {
        let kind = ErrorKind::of(error);
        DiskError {
            kind,
            op,
            path: path.to_owned(),
            offset,
            message: error.to_string(),
        }
    }
}

/// Joins a path of the [`Disk`](super::Disk) contract to the root.
pub(super) fn resolve(root: &Path, path: &str) -> PathBuf {
    assert!(
        !path.starts_with('/') && path.split('/').all(|part| part != ".."),
        "disk paths are relative to the root and never leave it: {path:?}"
    );
    if path.is_empty() {
        root.to_owned()
    } else {
        root.join(path)
    }
}

pub(super) fn open(root: &Path, path: &str, options: OpenOptions) -> Result<OpenFile, DiskError> {
    let mut how = fs::OpenOptions::new();
    how.read(true).write(options.write).mode(0o600);
    if options.create && options.exclusive {
        how.create_new(true);
    } else {
        how.create(options.create);
    }
    if options.direct_dsync {
        how.custom_flags(libc::O_DSYNC);
    }
    let file = how
        .open(resolve(root, path))
        .map_err(|error| DiskError::from_io("open", path, None, &error))?;
    Ok(OpenFile {
        file,
        path: path.to_owned(),
        options,
        known_len: Arc::default(),
    })
}

/// Performs an operation that names no open file.
pub(super) fn on_path(root: &Path, op: &Op) -> Result<Output, DiskError> {
    match op {
        Op::Rename { from, to } => {
            fs::rename(resolve(root, from), resolve(root, to))
                .map_err(|e| DiskError::from_io("rename", from, None, &e))?;
            Ok(Output::Done)
        }
        Op::Remove(path) => {
            fs::remove_file(resolve(root, path)).map_err(|e| DiskError::from_io("remove", path, None, &e))?;
            Ok(Output::Done)
        }
        Op::CreateDir(path) => {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(resolve(root, path));
            made.map_err(|e| DiskError::from_io("create directory", path, None, &e))?;
            Ok(Output::Done)
        }
        Op::List(path) => list(root, path).map_err(|e| DiskError::from_io("list", path, None, &e)),
        Op::SyncDir(path) => {
            let synced = File::open(resolve(root, path)).and_then(|dir| dir.sync_all());
            synced.map_err(|e| DiskError::from_io("sync directory", path, None, &e))?;
            Ok(Output::Done)
        }
        Op::Space => space(root).map_err(|e| DiskError::from_io("statvfs", "", None, &e)),
        _ => unreachable!("the operation names an open file"),
    }
}

fn list(root: &Path, path: &str) -> io::Result<Output> {
    let mut names = Vec::new();
    for entry in fs::read_dir(resolve(root, path))? {
        let entry = entry?;
        if entry.file_type()?.is_file()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(Output::Names(names))
}

fn space(root: &Path) -> io::Result<Output> {
    let path = CString::new(root.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain data, for which all zeros is a value.
    let mut stats: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a C string and `stats` a place for the answer; both live through the call.
    check(unsafe { libc::statvfs(path.as_ptr(), &mut stats) })?;
    let block = stats.f_frsize;
    Ok(Output::Space {
        total: stats.f_blocks * block,
        free: stats.f_bavail * block,
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

impl OpenFile {
    fn error(&self, op: &'static str, offset: Option<u64>, error: &io::Error) -> DiskError {
        DiskError::from_io(op, &self.path, offset, error)
    }

    /// Performs an operation on this file, whichever [`FileId`](super::FileId) the operation carries.
    pub(super) fn perform(&self, op: &Op) -> Result<Output, DiskError> {
        match op {
            Op::Len(_) => {
                let metadata = self.file.metadata().map_err(|e| self.error("stat", None, &e))?;
                Ok(Output::Len(metadata.len()))
            }
            Op::Read { offset, len, .. } => self.read(*offset, *len),
            Op::Write { offset, data, .. } => {
                self.options.check_alignment(*offset, data.len());
                self.write(*offset, data)
                    .map_err(|e| self.error("write", Some(*offset), &e))?;
                Ok(Output::Done)
            }
            Op::Sync(_) => {
                self.file.sync_data().map_err(|e| self.error("sync", None, &e))?;
                Ok(Output::Done)
            }
            Op::SetLen(_, len) => {
                self.known_len.fetch_min(*len, Ordering::AcqRel);
                self.file
                    .set_len(*len)
                    .map_err(|e| self.error("set length", Some(*len), &e))?;
                Ok(Output::Done)
            }
            Op::Allocate { offset, len, .. } => self.fallocate("allocate", 0, *offset, *len),
            Op::Punch { offset, len, .. } => self.fallocate(
                "punch",
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                *offset,
                *len,
            ),
            Op::Lock(_) => self.lock(),
            _ => unreachable!("the operation names no open file"),
        }
    }

    fn read(&self, offset: u64, len: usize) -> Result<Output, DiskError> {
        let mut data = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error("read", Some(offset), &error)),
            }
        }
        data.truncate(filled);
        Ok(Output::Data(Bytes::from(data)))
    }

    fn write(&self, offset: u64, data: &WriteBuf) -> io::Result<()> {
        match data {
            WriteBuf::Bytes(data) => self.file.write_all_at(data, offset),
            WriteBuf::Pieces(_) => self.file.write_all_at(&data.to_vec(), offset),
        }
    }

    fn fallocate(&self, op: &'static str, mode: libc::c_int, offset: u64, len: u64) -> Result<Output, DiskError> {
        let convert = |value: u64| libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into());
        let done = convert(offset).and_then(|start| {
            let len = convert(len)?;
            // SAFETY: the descriptor is open for as long as `self.file` lives; no memory is passed.
            check(unsafe { libc::fallocate(self.file.as_raw_fd(), mode, start, len) })
        });
        done.map_err(|e: io::Error| self.error(op, Some(offset), &e))?;
        Ok(Output::Done)
    }

    fn lock(&self) -> Result<Output, DiskError> {
        match self.set_lock(libc::F_WRLCK) {
            Ok(()) => Ok(Output::Done),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Err(DiskError {
                kind: ErrorKind::Locked,
                op: "lock",
                path: self.path.clone(),
                offset: None,
                message: "another process holds the lock".to_owned(),
            }),
            Err(error) => Err(self.error("lock", None, &error)),
        }
    }

    /// Gives the lock up, if there is one: a mapping may keep the open file alive for longer.
    pub(super) fn unlock(&self) {
        let _ = self.set_lock(libc::F_UNLCK);
    }

    fn set_lock(&self, kind: libc::c_int) -> io::Result<()> {
        // SAFETY: flock is plain data, for which all zeros is a value: the whole file, owner 0 as OFD locks demand.
        let mut range: libc::flock = unsafe { std::mem::zeroed() };
        range.l_type = kind as libc::c_short;
        range.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: the descriptor is open for as long as `self.file` lives, and `range` lives through the call.
        check(unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &range) })
    }

    pub(super) fn map(&self, reserve: u64) -> Result<Arc<dyn Pages>, DiskError> {
        let mapped = MappedFile::new(&self.file, reserve, self.known_len.clone());
        Ok(Arc::new(mapped.map_err(|e| self.error("map", None, &e))?))
    }
}
