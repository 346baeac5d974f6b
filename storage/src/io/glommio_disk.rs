//! The disk of a serving member: io_uring through glommio.
//!
//! Writes and syncs go to the ring; everything else, which is rare, goes to the executor's blocking thread. Files opened
//! with `direct_dsync` are written with `O_DIRECT | O_DSYNC` where the file system can, else buffered with `O_DSYNC`.
//! A small write of such a file that has the disk to itself goes to a thread of its own instead: see [`super::lone`].
//! Whether it can is found out once, on a file that is not empty: a first direct file that is empty misleads glommio
//! about the device, and an unreadable sysfs makes it panic.

use std::{
    cell::{Cell, RefCell},
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use glommio::{
    io::{BufferedFile, DmaFile},
    sync::Semaphore,
};

use super::{
    BLOCK_SIZE, Completion, Disk, DiskError, FileId, Op, OpenOptions, Output, Pages, StdDisk, Token, WriteBuf,
    lone::{Job, LONE_BYTES_MAX, LoneWriter},
    system,
};

/// The file that tells what the file system can; stays in the root.
const PROBE: &str = ".io-probe";

/// Asynchronous calls in one directory, owned by the executor it was made on.
pub struct GlommioDisk {
    files: Rc<RefCell<Files>>,
    ended: Rc<RefCell<Ended>>,
    direct: bool,
    lone: Rc<Lone>,
    /// What was submitted and not yet launched.
    pending: RefCell<Vec<(Token, Op)>>,
}

/// The way of a durable write beside which there is no other.
struct Lone {
    writer: LoneWriter,
    /// What it writes.
    written: RefCell<Option<Written>>,
    /// Held by each durable write that is under way on the ring.
    on_ring: Rc<()>,
    /// How long the last one took; none was made yet: for ever.
    took: Cell<Duration>,
}

struct Written {
    file: Rc<RingFile>,
    offset: u64,
    len: usize,
}

struct Files {
    blocking: StdDisk,
    /// The ring's side of the open files, by their number; made at the first write.
    rings: Vec<Option<Rc<RingFile>>>,
}

#[derive(Default)]
struct Ended {
    completions: Vec<Completion>,
    waiting: Vec<Waker>,
}

/// A file as the ring knows it.
struct RingFile {
    path: RefCell<String>,
    options: OpenOptions,
    opening: Semaphore,
    handle: RefCell<Option<Handle>>,
    /// The same open file for the thread of lone writes, if it is durable with every write.
    for_lone: RefCell<Option<Arc<fs::File>>>,
}

#[derive(Clone)]
enum Handle {
    Direct(Rc<DmaFile>),
    Buffered(Rc<BufferedFile>),
}

impl GlommioDisk {
    /// The disk of the directory `root`, which is created (mode 0700) when it is missing.
    ///
    /// Call it on the executor that will use the disk. [`Disk::call`] blocks that executor: it is for boot.
    ///
    /// Errors: the directory can not be created, or its file system can not be probed.
    pub async fn new(root: impl AsRef<Path>) -> Result<GlommioDisk, DiskError> {
        let blocking = StdDisk::new(root)?;
        let reason = why_not_direct(blocking.root()).await;
        let reason = reason.map_err(|error| DiskError::from_io("probe", PROBE, None, &error))?;
        if let Some(reason) = &reason {
            tracing::info!(%reason, "no direct I/O here: the log is written through the page cache with O_DSYNC");
        }
        let files = Rc::new(RefCell::new(Files {
            blocking,
            rings: Vec::new(),
        }));
        let lone = Lone::new().map_err(|error| DiskError::from_io("start a thread for", "", None, &error))?;
        Ok(GlommioDisk {
            files,
            ended: Rc::default(),
            direct: reason.is_none(),
            lone: Rc::new(lone),
            pending: RefCell::default(),
        })
    }

    /// Ends when at least one completion waits for [`Disk::poll`]; at once when one waits already.
    ///
    /// Dropping the future loses nothing. The disk stays free for use: the future does not borrow it.
    pub fn completed(&self) -> impl Future<Output = ()> + use<> {
        self.launch(false);
        let (ended, lone) = (self.ended.clone(), self.lone.clone());
        std::future::poll_fn(move |context| {
            let mut ended = ended.borrow_mut();
            if lone.writer.poll_ended(context) || !ended.completions.is_empty() {
                return Poll::Ready(());
            }
            if !ended.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                ended.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Starts what was submitted, behind the tasks that are ready now; true when it may be worth to
    /// [wait](Self::wait_for_lone) once those have run. `alone`: the caller has nothing else for the disk soon.
    ///
    /// Without this it starts when [`completed`](Self::completed) or [`Disk::poll`] is called.
    pub fn launch(&self, alone: bool) -> bool {
        let pending = self.pending.take();
        let alone = alone && pending.len() == 1;
        pending.into_iter().for_each(|(token, op)| self.start(token, op, alone));
        alone
    }

    /// Spins until the durable write that is alone under way has ended, which then waits for [`Disk::poll`]; false when
    /// there is none, it was launched with others, or it or the one before took longer than `patience`.
    ///
    /// For a caller that has nothing else to do: asleep, its CPU halts, and to wake it costs half as much as the write.
    ///
    /// Bounds: `patience`; a write that takes longer ends as any other.
    pub fn wait_for_lone(&self, patience: Duration) -> bool {
        let lone = &self.lone;
        if lone.written.borrow().is_none() || lone.took.get() > patience {
            return false;
        }
        let ended = lone.writer.wait(patience);
        if !ended {
            lone.took.set(Duration::MAX);
        }
        ended
    }

    fn start(&self, token: Token, op: Op, alone: bool) {
        let (files, ended, direct) = (self.files.clone(), self.ended.clone(), self.direct);
        let (root, lone) = (files.borrow().blocking.root().to_owned(), self.lone.clone());
        glommio::spawn_local(async move {
            let Some((op, _on_ring)) = lone.try_begin(&files, token, op, alone) else {
                // Whoever waits already does so for the ring only.
                ended.borrow_mut().waiting.drain(..).for_each(Waker::wake);
                return;
            };
            let result = perform(&files, root, direct, op).await;
            ended.borrow_mut().push(token, result);
        })
        .detach();
    }

    /// Whether `direct_dsync` files bypass the page cache; if not, they are buffered with `O_DSYNC`.
    pub fn is_direct(&self) -> bool {
        self.direct
    }
}

impl Lone {
    fn new() -> io::Result<Lone> {
        Ok(Lone {
            writer: LoneWriter::start()?,
            written: RefCell::default(),
            on_ring: Rc::default(),
            took: Cell::new(Duration::MAX),
        })
    }

    /// Begins the operation if it is a small durable write, `alone` and beside no other; otherwise gives it back, with
    /// what a durable write holds while it is on the ring.
    fn try_begin(&self, files: &RefCell<Files>, token: Token, op: Op, alone: bool) -> Option<(Op, Option<Rc<()>>)> {
        let (file, offset, data) = match op {
            Op::Write { file, offset, data } => (file, offset, data),
            op => return Some((op, None)),
        };
        let ring = files.borrow_mut().ring(file);
        if !ring.options.direct_dsync {
            return Some((Op::Write { file, offset, data }, None));
        }
        let is_alone = alone && self.written.borrow().is_none() && Rc::strong_count(&self.on_ring) == 1;
        let open = ring
            .for_lone
            .borrow()
            .clone()
            .filter(|_| is_alone && data.len() <= LONE_BYTES_MAX);
        let Some(open) = open else {
            return Some((Op::Write { file, offset, data }, Some(self.on_ring.clone())));
        };
        ring.options.check_alignment(offset, data.len());
        self.written.replace(Some(Written {
            file: ring,
            offset,
            len: data.len(),
        }));
        self.writer.begin(Job {
            token,
            file: open,
            offset,
            data,
        });
        None
    }

    fn take(&self) -> Option<Completion> {
        let ended = self.writer.take()?;
        let written = self.written.take().expect("a write that ends was begun");
        self.took.set(ended.took);
        Some(Completion {
            token: ended.token,
            result: written.file.whole(ended.result, written.offset, written.len),
        })
    }
}

impl Ended {
    fn push(&mut self, token: Token, result: Result<Output, DiskError>) {
        self.completions.push(Completion { token, result });
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Files {
    /// The ring's side of an open file.
    fn ring(&mut self, id: FileId) -> Rc<RingFile> {
        let file = self.blocking.file(id);
        let (path, options) = (file.path.clone(), file.options);
        let at = id.0 as usize;
        if self.rings.len() <= at {
            self.rings.resize(at + 1, None);
        }
        let new = || {
            let opening = Semaphore::new(1);
            Rc::new(RingFile {
                path: RefCell::new(path),
                options,
                opening,
                handle: RefCell::default(),
                for_lone: RefCell::default(),
            })
        };
        self.rings[at].get_or_insert_with(new).clone()
    }

    /// Keeps the paths of open files right, for those the ring has yet to open.
    fn renamed(&mut self, from: &str, to: &str) {
        for id in self.blocking.open_files() {
            let ring = self.ring(id);
            if *ring.path.borrow() == from {
                ring.path.replace(to.to_owned());
            }
        }
    }

    fn close(&mut self, id: FileId) {
        self.blocking.close(id);
        if let Some(ring) = self.rings.get_mut(id.0 as usize) {
            *ring = None;
        }
    }
}

impl Handle {
    /// The same open file once more, so that its flags hold there too.
    fn duplicate(&self) -> io::Result<fs::File> {
        let descriptor = match self {
            Handle::Direct(file) => file.as_raw_fd(),
            Handle::Buffered(file) => file.as_raw_fd(),
        };
        // SAFETY: the file that owns the descriptor is borrowed through the call.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        borrowed.try_clone_to_owned().map(fs::File::from)
    }
}

impl RingFile {
    /// The file on the ring, opened at the first call.
    async fn handle(&self, root: &Path, direct: bool) -> Result<Handle, DiskError> {
        if let Some(handle) = &*self.handle.borrow() {
            return Ok(handle.clone());
        }
        let _permit = self
            .opening
            .acquire_permit(1)
            .await
            .expect("the semaphore is never closed");
        if let Some(handle) = &*self.handle.borrow() {
            return Ok(handle.clone());
        }
        let path = system::resolve(root, &self.path.borrow());
        let mut how = glommio::io::OpenOptions::new();
        how.read(true).write(self.options.write);
        if self.options.direct_dsync {
            how.custom_flags(libc::O_DSYNC);
        }
        let opened = match self.options.direct_dsync && direct {
            true => how.dma_open(&path).await.map(|file| Handle::Direct(Rc::new(file))),
            false => how
                .buffered_open(&path)
                .await
                .map(|file| Handle::Buffered(Rc::new(file))),
        };
        let handle = opened.map_err(|error| self.error("open", None, error))?;
        if self.options.direct_dsync {
            let again = handle.duplicate();
            self.for_lone.replace(Some(Arc::new(
                again.map_err(|error| self.plain_error("open", None, &error))?,
            )));
        }
        self.handle.replace(Some(handle.clone()));
        Ok(handle)
    }

    fn error(&self, op: &'static str, offset: Option<u64>, error: glommio::GlommioError<()>) -> DiskError {
        let plain = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(error.to_string()),
        };
        self.plain_error(op, offset, &plain)
    }

    fn plain_error(&self, op: &'static str, offset: Option<u64>, error: &io::Error) -> DiskError {
        DiskError::from_io(op, &self.path.borrow(), offset, error)
    }

    /// The answer to a write of `len` bytes.
    fn whole(&self, written: io::Result<usize>, offset: u64, len: usize) -> Result<Output, DiskError> {
        match written {
            Ok(whole) if whole == len => Ok(Output::Done),
            Ok(short) => {
                let error = io::Error::other(format!("only {short} of {len} bytes were written"));
                Err(self.plain_error("write", Some(offset), &error))
            }
            Err(error) => Err(self.plain_error("write", Some(offset), &error)),
        }
    }

    async fn write(&self, root: &Path, direct: bool, offset: u64, data: WriteBuf) -> Result<Output, DiskError> {
        let len = data.len();
        self.options.check_alignment(offset, len);
        #[cfg(feature = "failpoints")]
        self.reach("walBeforeSync", offset).await?;
        let written = match self.handle(root, direct).await? {
            Handle::Direct(file) => {
                let mut buffer = file.alloc_dma_buffer(len);
                data.copy_to(buffer.as_bytes_mut());
                file.write_at(buffer, offset).await
            }
            Handle::Buffered(file) => file.write_at(data.to_vec(), offset).await,
        };
        #[cfg(feature = "failpoints")]
        self.reach("walAfterSync", offset).await?;
        let written = written.map_err(|error| self.error("write", Some(offset), error))?;
        self.whole(Ok(written), offset, len)
    }

    /// Reaches a point of the log, whose files alone are durable with every write. A delay is the disk's, not the core's;
    /// a return is an error of the disk.
    #[cfg(feature = "failpoints")]
    async fn reach(&self, name: &'static str, offset: u64) -> Result<(), DiskError> {
        use crate::failpoint::{Reaction, reach};
        if !self.options.direct_dsync {
            return Ok(());
        }
        match reach(name) {
            Reaction::GoOn => Ok(()),
            Reaction::Delay(time) => {
                glommio::timer::sleep(time).await;
                Ok(())
            }
            Reaction::Return => {
                let error = io::Error::from_raw_os_error(libc::EIO);
                Err(DiskError::from_io("write", &self.path.borrow(), Some(offset), &error))
            }
        }
    }

    async fn sync(&self, root: &Path, direct: bool) -> Result<Output, DiskError> {
        let synced = match self.handle(root, direct).await? {
            Handle::Direct(file) => file.fdatasync().await,
            Handle::Buffered(file) => file.fdatasync().await,
        };
        synced.map_err(|error| self.error("sync", None, error))?;
        Ok(Output::Done)
    }
}

/// Performs one submitted operation.
async fn perform(files: &RefCell<Files>, root: PathBuf, direct: bool, op: Op) -> Result<Output, DiskError> {
    match op {
        Op::Write { file, offset, data } => {
            let ring = files.borrow_mut().ring(file);
            ring.write(&root, direct, offset, data).await
        }
        Op::Sync(file) => {
            let ring = files.borrow_mut().ring(file);
            ring.sync(&root, direct).await
        }
        Op::Close(file) => {
            files.borrow_mut().close(file);
            Ok(Output::Done)
        }
        Op::Open { path, options } => {
            let opened = glommio::executor()
                .spawn_blocking(move || system::open(&root, &path, options))
                .await?;
            Ok(Output::File(files.borrow_mut().blocking.add(opened)))
        }
        op => {
            let file = op.file().map(|id| files.borrow().blocking.file(id).clone());
            let rename = match &op {
                Op::Rename { from, to } => Some((from.clone(), to.clone())),
                _ => None,
            };
            let call = move || match file {
                Some(file) => file.perform(&op),
                None => system::on_path(&root, &op),
            };
            let output = glommio::executor().spawn_blocking(call).await?;
            if let Some((from, to)) = rename {
                files.borrow_mut().renamed(&from, &to);
            }
            Ok(output)
        }
    }
}

impl Disk for GlommioDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.pending.get_mut().push((token, op));
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.launch(false);
        completions.extend(self.lone.take());
        completions.append(&mut self.ended.borrow_mut().completions);
    }

    fn call(&mut self, op: Op) -> Result<Output, DiskError> {
        let mut files = self.files.borrow_mut();
        match op {
            Op::Close(file) => {
                files.close(file);
                Ok(Output::Done)
            }
            Op::Rename { from, to } => {
                let output = files.blocking.call(Op::Rename {
                    from: from.clone(),
                    to: to.clone(),
                })?;
                files.renamed(&from, &to);
                Ok(output)
            }
            op => files.blocking.call(op),
        }
    }

    fn map(&mut self, file: FileId, reserve: u64) -> Result<Arc<dyn Pages>, DiskError> {
        self.files.borrow_mut().blocking.map(file, reserve)
    }
}

/// Why `direct_dsync` files can not bypass the page cache under `root`; `None` when they can.
async fn why_not_direct(root: &Path) -> io::Result<Option<String>> {
    let path = root.join(PROBE);
    fs::write(&path, [0; BLOCK_SIZE])?;
    if let Some(reason) = file_system_objects(&path)? {
        return Ok(Some(reason));
    }
    let device = fs::metadata(&path)?.dev();
    if let Some(reason) = sysfs_objects(device) {
        return Ok(Some(reason));
    }
    // Order: this must be the first direct file that the executor opens on the device.
    let read = async {
        let file = DmaFile::open(&path).await?;
        let read = file.read_at_aligned(0, BLOCK_SIZE).await.map(|data| data.len());
        file.close().await?;
        read
    };
    match read.await {
        Ok(BLOCK_SIZE) => Ok(None),
        Ok(short) => Ok(Some(format!("a direct read answered {short} of {BLOCK_SIZE} bytes"))),
        Err(error) => Ok(Some(format!("a direct read failed: {error}"))),
    }
}

fn file_system_objects(path: &Path) -> io::Result<Option<String>> {
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return Ok(Some("the file system has no O_DIRECT".to_owned()));
        }
        Err(error) => return Err(error),
    };
    // SAFETY: statfs is plain data, for which all zeros is a value.
    let mut stats: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `stats` lives through the call.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &mut stats) } == -1 {
        return Err(io::Error::last_os_error());
    }
    const OVERLAYFS: u64 = 0x794c_7630;
    let magic = stats.f_type as u64;
    if magic == libc::TMPFS_MAGIC as u64 || magic == OVERLAYFS {
        return Ok(Some(format!(
            "the file system (type {magic:#x}) lies in memory or over another"
        )));
    }
    // SAFETY: statx is plain data, for which all zeros is a value.
    let mut extended: libc::statx = unsafe { std::mem::zeroed() };
    let empty = CString::default();
    // SAFETY: the descriptor is open, `empty` is a C string, and `extended` lives through the call.
    let answered = unsafe {
        libc::statx(
            file.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut extended,
        )
    };
    let known = answered == 0 && extended.stx_mask & libc::STATX_DIOALIGN != 0;
    let align = extended.stx_dio_offset_align.max(extended.stx_dio_mem_align);
    if known && (align == 0 || align as usize > BLOCK_SIZE) {
        return Ok(Some(format!("direct I/O asks for an alignment of {align} bytes")));
    }
    Ok(None)
}

/// Reads what glommio is about to read, and panics over when it can not.
fn sysfs_objects(device: u64) -> Option<String> {
    let dir = match fs::canonicalize(format!("/sys/dev/block/{}:0", libc::major(device))) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("sysfs can not be read: {error}")),
    };
    let numbers = [
        "rotational",
        "minimum_io_size",
        "optimal_io_size",
        "logical_block_size",
        "physical_block_size",
        "max_sectors_kb",
        "max_segment_size",
    ];
    let readable = |name: &&str| {
        let text = fs::read_to_string(dir.join("queue").join(name)).unwrap_or_default();
        text.trim().parse::<isize>().is_ok()
    };
    if let Some(name) = numbers.iter().find(|name| !readable(name)) {
        return Some(format!("sysfs does not tell {name} of the device"));
    }
    let cache = fs::read_to_string(dir.join("queue/write_cache")).unwrap_or_default();
    let known = ["write back", "write through"].contains(&cache.trim());
    (!known || fs::read_dir(dir.join("slaves")).is_err()).then(|| "sysfs does not tell the device's cache".to_owned())
}
