//! A disk in memory that behaves as badly as the fault model allows, and always the same way for the same seed.
//!
//! - A write is visible at once and durable only when something makes it so: the end of a `direct_dsync` write, a
//!   [`Op::Sync`] for the writes that had ended before it, an [`Op::SyncDir`] for names.
//! - [`SimDisk::crash_image`] and [`SimDisk::legal_images`] are the disks a power failure may leave behind now: each
//!   operation that is not durable is kept, lost, or torn at 512 bytes. [`SimDisk::kill`] is the end of the process only.
//! - Completions may be held back and released in a seeded order, calls may fail, space may run out, bytes may rot.
//! - A hook sees the disk before every call: that is where a crash explorer takes its images.
//!
//! Simplifications: a rename within a directory is atomic; space taken by `Allocate` is not counted after a crash until
//! it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;

use self::files::{Fate, Inode, Names, Node, OpNumber, parent};
use super::{Completion, Disk, DiskError, ErrorKind, FileId, Op, OpenOptions, Output, Pages, Token, map};

mod content;
mod files;

/// A small seeded generator of numbers (splitmix64), for tests and simulations.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One call as the disk saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The verb: `write`, `sync`, ...
    pub op: &'static str,
    /// The file or directory.
    pub path: String,
    /// Where, for calls that have an offset or a length.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// A call that shall fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Only calls with this verb; any call when `None`.
    pub op: Option<&'static str>,
    /// Only paths that contain this.
    pub path: String,
    /// How many such calls go through first.
    pub after: u64,
    /// How it fails. A failing write may leave any part of itself behind.
    pub kind: ErrorKind,
}

type Hook = Box<dyn FnMut(&SimDisk) + Send>;

/// A handle of a simulated disk; clones share the disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    hook: Arc<Mutex<Option<Hook>>>,
}

struct Handle {
    inode: usize,
    path: String,
    options: OpenOptions,
}

/// What the end of an operation makes durable.
#[derive(Clone)]
enum Effect {
    Nothing,
    Write {
        inode: usize,
        offset: u64,
        len: u64,
    },
    Sync {
        inode: usize,
        below: OpNumber,
        except: BTreeSet<OpNumber>,
    },
    SyncDir(String),
}

struct Held {
    op: OpNumber,
    effect: Effect,
    completion: Completion,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    open: Vec<Option<Handle>>,
    locks: BTreeMap<usize, FileId>,
    next_op: OpNumber,
    calls: u64,
    trace: Option<Vec<Call>>,
    holding: Option<Rng>,
    held: Vec<Held>,
    ended: Vec<Completion>,
    capacity: Option<u64>,
    faults: Vec<Fault>,
    powered_off: bool,
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk without limits or faults.
    pub fn new() -> SimDisk {
        SimDisk::with(State::default())
    }

    fn with(state: State) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(state)),
            hook: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds the simulated disk")
    }

    /// Limits the space; writes and allocations that pass it fail with [`ErrorKind::NoSpace`]. `None` lifts the limit.
    ///
    /// Units: bytes.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Space taken by all files, in bytes.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Adds a call that shall fail, once.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Calls that were to fail go through.
    pub fn forget_faults(&self) {
        self.state().faults.clear();
    }

    /// Every further call fails.
    pub fn power_off(&self) {
        self.state().powered_off = true;
    }

    /// From now on completions of submitted operations stay back until they are released.
    ///
    /// The seed decides the order in which [`SimDisk::release`] lets them go. `None` releases all and stops holding.
    pub fn hold_completions(&self, seed: Option<u64>) {
        let mut state = self.state();
        state.holding = seed.map(Rng::new);
        if seed.is_none() {
            while state.release_one() {}
        }
    }

    /// Lets up to `count` held operations end; says how many did.
    pub fn release(&self, count: usize) -> usize {
        let mut state = self.state();
        (0..count).take_while(|_| state.release_one()).count()
    }

    /// How many operations are held back.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// How many calls were made so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Starts to record calls.
    pub fn record(&self) {
        self.state().trace = Some(Vec::new());
    }

    /// The calls recorded since [`SimDisk::record`] or the last time they were taken.
    pub fn take_trace(&self) -> Vec<Call> {
        self.state().trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Calls `hook` before every call, with the disk as it stands. The hook must not call the disk it is given.
    pub fn on_call(&self, hook: impl FnMut(&SimDisk) + Send + 'static) {
        *self.hook.lock().expect("no hook panics") = Some(Box::new(hook));
    }

    /// Ends the hook.
    pub fn clear_hook(&self) {
        *self.hook.lock().expect("no hook panics") = None;
    }

    /// Turns bits over: each byte of the range is XORed with `mask`, durably.
    pub fn flip(&self, path: &str, offset: u64, len: usize, mask: u8) {
        let mut state = self.state();
        let inode = state.inode_of(path).expect("the file to rot exists");
        state.inodes[inode].rot(offset, |data| data.iter_mut().for_each(|byte| *byte ^= mask), len);
    }

    /// Replaces bytes durably, as a misdirected write does.
    pub fn overwrite(&self, path: &str, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.inode_of(path).expect("the file to overwrite exists");
        state.inodes[inode].rot(offset, |data| data.copy_from_slice(bytes), bytes.len());
    }

    /// The bytes of a file as the process sees them.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let live = &state.inodes[state.inode_of(path)?].live;
        Some(live.read(0, live.len() as usize))
    }

    /// Every file name, sorted.
    pub fn file_names(&self) -> Vec<String> {
        let state = self.state();
        let files = state
            .names
            .live
            .iter()
            .filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// The disk after the process is gone and the machine lives on: everything written is there, nothing is open.
    pub fn kill(&self) -> SimDisk {
        let state = self.state();
        SimDisk::with(State {
            inodes: state.inodes.clone(),
            names: state.names.clone(),
            next_op: state.next_op,
            capacity: state.capacity,
            ..State::default()
        })
    }

    /// A disk that a power failure may leave behind now; the seed chooses which.
    pub fn crash_image(&self, seed: u64) -> SimDisk {
        let state = self.state();
        let pending = state.pending();
        state.image(&draw(&pending, &mut Rng::new(seed)))
    }

    /// How many operations are not durable.
    pub fn pending_ops(&self) -> usize {
        self.state().pending().len()
    }

    /// Disks that a power failure may leave behind now, at most `max`.
    ///
    /// All subsets of whole operations come first when they fit half of `max`; the rest are drawn with the seed, torn
    /// writes included. Without anything pending there is one image.
    pub fn legal_images(&self, max: usize, seed: u64) -> Vec<SimDisk> {
        let state = self.state();
        let pending = state.pending();
        if pending.is_empty() {
            return vec![state.image(&BTreeMap::new())];
        }
        let mut rng = Rng::new(seed);
        let mut images = Vec::with_capacity(max);
        let subsets = 1usize.checked_shl(pending.len() as u32).unwrap_or(usize::MAX);
        let whole: Vec<u64> = if subsets <= max.div_ceil(2) {
            (0..subsets as u64).collect()
        } else {
            vec![0, u64::MAX]
        };
        for subset in whole.into_iter().take(max) {
            let fates = pending.keys().enumerate().map(|(bit, op)| {
                let kept = subset.checked_shr(bit as u32).unwrap_or(subset) & 1 == 1;
                (*op, if kept { Fate::Kept } else { Fate::Lost })
            });
            images.push(state.image(&fates.collect()));
        }
        while images.len() < max {
            images.push(state.image(&draw(&pending, &mut rng)));
        }
        images
    }

    fn before_call(&self) {
        let hook = self.hook.lock().expect("no hook panics").take();
        if let Some(mut hook) = hook {
            hook(self);
            self.hook.lock().expect("no hook panics").get_or_insert(hook);
        }
    }
}

/// Draws the fate of every pending operation.
fn draw(pending: &BTreeMap<OpNumber, (u64, u64)>, rng: &mut Rng) -> BTreeMap<OpNumber, Fate> {
    let mut fates = BTreeMap::new();
    for (op, (first, end)) in pending {
        let inside = |rng: &mut Rng| first + rng.below(end.saturating_sub(*first).max(1));
        let fate = match rng.below(10) {
            0..=3 => Fate::Kept,
            4..=6 => Fate::Lost,
            7 => Fate::Head(inside(rng)),
            8 => Fate::Tail(inside(rng)),
            _ => Fate::Coin(rng.next()),
        };
        fates.insert(*op, fate);
    }
    fates
}

impl Op {
    /// The verb of the call, as errors and traces say it.
    pub fn verb(&self) -> &'static str {
        match self {
            Op::Open { .. } => "open",
            Op::Close(_) => "close",
            Op::Len(_) => "stat",
            Op::Read { .. } => "read",
            Op::Write { .. } => "write",
            Op::Sync(_) => "sync",
            Op::SetLen(..) => "set length",
            Op::Allocate { .. } => "allocate",
            Op::Punch { .. } => "punch",
            Op::Rename { .. } => "rename",
            Op::Remove(_) => "remove",
            Op::CreateDir(_) => "create directory",
            Op::List(_) => "list",
            Op::SyncDir(_) => "sync directory",
            Op::Lock(_) => "lock",
            Op::Space => "statvfs",
        }
    }

    /// Where the call goes and how many bytes it is about; zero where it has none.
    fn range(&self) -> (u64, u64) {
        match self {
            Op::Read { offset, len, .. } => (*offset, *len as u64),
            Op::Write { offset, data, .. } => (*offset, data.len() as u64),
            Op::Allocate { offset, len, .. } | Op::Punch { offset, len, .. } => (*offset, *len),
            Op::SetLen(_, len) => (*len, 0),
            _ => (0, 0),
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        let mut inodes: BTreeSet<usize> = self.open.iter().flatten().map(|handle| handle.inode).collect();
        inodes.extend(self.names.live.values().filter_map(|node| match node {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        }));
        inodes.into_iter().map(|inode| self.inodes[inode].live.taken()).sum()
    }

    fn inode_of(&self, path: &str) -> Option<usize> {
        match self.names.live.get(path)? {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        }
    }

    fn handle(&self, id: FileId) -> &Handle {
        let slot = self.open.get(id.0 as usize).and_then(Option::as_ref);
        slot.unwrap_or_else(|| panic!("file {} is not open", id.0))
    }

    fn path_of(&self, op: &Op) -> String {
        match op {
            Op::Open { path, .. } | Op::Remove(path) | Op::CreateDir(path) | Op::List(path) | Op::SyncDir(path) => {
                path.clone()
            }
            Op::Rename { from, .. } => from.clone(),
            Op::Space => String::new(),
            _ => self
                .handle(op.file().expect("all other calls name a file"))
                .path
                .clone(),
        }
    }

    fn error(&self, op: &Op, kind: ErrorKind, message: &str) -> DiskError {
        let offset = Some(op.range().0).filter(|_| matches!(op, Op::Read { .. } | Op::Write { .. }));
        DiskError {
            kind,
            op: op.verb(),
            path: self.path_of(op),
            offset,
            message: message.to_owned(),
        }
    }

    /// Performs an operation as far as the process can see; the effect says what its end makes durable.
    fn perform(&mut self, number: OpNumber, op: &Op) -> (Effect, Result<Output, DiskError>) {
        self.calls += 1;
        if self.trace.is_some() {
            let (offset, len) = op.range();
            let call = Call {
                op: op.verb(),
                path: self.path_of(op),
                offset,
                len,
            };
            self.trace.get_or_insert_default().push(call);
        }
        if self.powered_off {
            return (Effect::Nothing, Err(self.error(op, ErrorKind::Io, "the power is off")));
        }
        if let Some(kind) = self.take_fault(op) {
            if matches!(op, Op::Write { .. }) && kind == ErrorKind::Io {
                let _ = self.data_op(number, op);
            }
            return (Effect::Nothing, Err(self.error(op, kind, "injected fault")));
        }
        match op.file() {
            Some(_) => self.data_op(number, op),
            None => self.name_op(number, op),
        }
    }

    fn take_fault(&mut self, op: &Op) -> Option<ErrorKind> {
        let path = self.path_of(op);
        let matching = |fault: &Fault| fault.op.is_none_or(|verb| verb == op.verb()) && path.contains(&fault.path);
        let mut due = None;
        for (at, fault) in self.faults.iter_mut().enumerate().filter(|(_, fault)| matching(fault)) {
            match fault.after.checked_sub(1) {
                Some(rest) => fault.after = rest,
                None => due = due.or(Some(at)),
            }
        }
        due.map(|at| self.faults.remove(at).kind)
    }

    fn data_op(&mut self, number: OpNumber, op: &Op) -> (Effect, Result<Output, DiskError>) {
        let id = op.file().expect("the caller checked that the call names a file");
        let Handle { inode, options, .. } = *self.handle(id);
        if let Err(error) = self.check_space(inode, op) {
            return (Effect::Nothing, Err(error));
        }
        let writes = matches!(
            op,
            Op::Write { .. } | Op::SetLen(..) | Op::Allocate { .. } | Op::Punch { .. }
        );
        assert!(options.write || !writes, "{} of a file opened for reading", op.verb());
        let file = &mut self.inodes[inode];
        let output = match op {
            Op::Len(_) => Output::Len(file.live.len()),
            Op::Read { offset, len, .. } => Output::Data(Bytes::from(file.live.read(*offset, *len))),
            Op::Write { offset, data, .. } => {
                let data = data.to_vec();
                options.check_alignment(*offset, data.len());
                file.write(number, *offset, &data);
                if options.direct_dsync {
                    return (
                        Effect::Write {
                            inode,
                            offset: *offset,
                            len: data.len() as u64,
                        },
                        Ok(Output::Done),
                    );
                }
                Output::Done
            }
            Op::Sync(_) => {
                let except = self.held.iter().map(|held| held.op).collect();
                return (
                    Effect::Sync {
                        inode,
                        below: number,
                        except,
                    },
                    Ok(Output::Done),
                );
            }
            Op::SetLen(_, len) => {
                file.set_len(number, *len);
                Output::Done
            }
            Op::Allocate { offset, len, .. } => {
                file.allocate(number, *offset, *len);
                Output::Done
            }
            Op::Punch { offset, len, .. } => {
                file.punch(number, *offset, *len);
                Output::Done
            }
            Op::Lock(_) if self.locks.contains_key(&inode) => {
                return (
                    Effect::Nothing,
                    Err(self.error(op, ErrorKind::Locked, "another holder has the lock")),
                );
            }
            Op::Lock(_) => {
                self.locks.insert(inode, id);
                Output::Done
            }
            Op::Close(_) => {
                self.locks.retain(|_, holder| *holder != id);
                self.open[id.0 as usize] = None;
                Output::Done
            }
            _ => unreachable!("the other calls name no open file"),
        };
        (Effect::Nothing, Ok(output))
    }

    fn check_space(&self, inode: usize, op: &Op) -> Result<(), DiskError> {
        let (Some(capacity), Op::Write { .. } | Op::Allocate { .. }) = (self.capacity, op) else {
            return Ok(());
        };
        let (offset, len) = op.range();
        if self.used() + self.inodes[inode].live.growth(offset, len) <= capacity {
            return Ok(());
        }
        Err(self.error(op, ErrorKind::NoSpace, "no space left on device"))
    }

    fn name_op(&mut self, number: OpNumber, op: &Op) -> (Effect, Result<Output, DiskError>) {
        let not_found = |state: &State| {
            (
                Effect::Nothing,
                Err(state.error(op, ErrorKind::NotFound, "no such file")),
            )
        };
        let output = match op {
            Op::Open { path, options } => match self.open(number, path, *options) {
                Ok(id) => Output::File(id),
                Err(kind) => return (Effect::Nothing, Err(self.error(op, kind, "can not open"))),
            },
            Op::Rename { from, to } => {
                if !self.names.live.contains_key(from) || !self.names.is_dir(parent(to)) {
                    return not_found(self);
                }
                self.names.rename(number, from, to);
                for handle in self.open.iter_mut().flatten().filter(|handle| handle.path == *from) {
                    handle.path = to.clone();
                }
                Output::Done
            }
            Op::Remove(path) => {
                if self.inode_of(path).is_none() {
                    return not_found(self);
                }
                self.names.unlink(number, path);
                Output::Done
            }
            Op::CreateDir(path) => {
                let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
                for dir in ends.map(|end| &path[..end]) {
                    if !self.names.is_dir(dir) {
                        self.names.link(number, dir, Node::Dir);
                    }
                }
                Output::Done
            }
            Op::List(path) => {
                if !self.names.is_dir(path) {
                    return not_found(self);
                }
                let files = self
                    .names
                    .live
                    .iter()
                    .filter(|(name, node)| **node != Node::Dir && parent(name) == path);
                Output::Names(
                    files
                        .map(|(name, _)| name[path.len()..].trim_start_matches('/').to_owned())
                        .collect(),
                )
            }
            Op::SyncDir(path) => {
                if !self.names.is_dir(path) {
                    return not_found(self);
                }
                return (Effect::SyncDir(path.clone()), Ok(Output::Done));
            }
            Op::Space => {
                let total = self.capacity.unwrap_or(1 << 40);
                Output::Space {
                    total,
                    free: total.saturating_sub(self.used()),
                }
            }
            _ => unreachable!("the other calls name an open file"),
        };
        (Effect::Nothing, Ok(output))
    }

    fn open(&mut self, number: OpNumber, path: &str, options: OpenOptions) -> Result<FileId, ErrorKind> {
        let inode = match self.names.live.get(path) {
            Some(Node::Dir) => return Err(ErrorKind::Io),
            Some(Node::File(_)) if options.create && options.exclusive => return Err(ErrorKind::Exists),
            Some(Node::File(inode)) => *inode,
            None if !options.create || !self.names.is_dir(parent(path)) => return Err(ErrorKind::NotFound),
            None => {
                self.inodes.push(Inode::default());
                self.names.link(number, path, Node::File(self.inodes.len() - 1));
                self.inodes.len() - 1
            }
        };
        self.open.push(Some(Handle {
            inode,
            path: path.to_owned(),
            options,
        }));
        Ok(FileId(self.open.len() as u32 - 1))
    }

    fn settle(&mut self, op: OpNumber, effect: &Effect) {
        let in_flight: BTreeSet<OpNumber> = self.held.iter().map(|held| held.op).collect();
        match effect {
            Effect::Nothing => {}
            Effect::Write { inode, offset, len } => {
                let covered = |other: OpNumber| other == op || (other < op && !in_flight.contains(&other));
                self.inodes[*inode].settle_range(*offset, *len, covered);
            }
            Effect::Sync { inode, below, except } => {
                self.inodes[*inode].settle(|other| other < *below && !except.contains(&other));
            }
            Effect::SyncDir(dir) => self.names.settle(dir),
        }
    }

    fn release_one(&mut self) -> bool {
        if self.held.is_empty() {
            return false;
        }
        let count = self.held.len() as u64;
        let at = self.holding.as_mut().map_or(0, |rng| rng.below(count)) as usize;
        let Held { op, effect, completion } = self.held.remove(at);
        self.settle(op, &effect);
        self.ended.push(completion);
        true
    }

    /// The operations that are not durable, each with the sectors it changed.
    fn pending(&self) -> BTreeMap<OpNumber, (u64, u64)> {
        let mut pending = BTreeMap::new();
        self.inodes.iter().for_each(|inode| inode.pending(&mut pending));
        self.names.pending(&mut pending);
        pending
    }

    fn image(&self, fates: &BTreeMap<OpNumber, Fate>) -> SimDisk {
        let fate = |op: OpNumber| fates.get(&op).copied().unwrap_or(Fate::Lost);
        SimDisk::with(State {
            inodes: self.inodes.iter().map(|inode| inode.image(fate)).collect(),
            names: self.names.image(fate),
            next_op: self.next_op,
            capacity: self.capacity,
            ..State::default()
        })
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.before_call();
        let mut state = self.state();
        let number = state.next_op;
        state.next_op += 1;
        let (effect, result) = state.perform(number, &op);
        let completion = Completion { token, result };
        if state.holding.is_some() {
            state.held.push(Held {
                op: number,
                effect,
                completion,
            });
        } else {
            state.settle(number, &effect);
            state.ended.push(completion);
        }
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.state().ended);
    }

    fn call(&mut self, op: Op) -> Result<Output, DiskError> {
        self.before_call();
        let mut state = self.state();
        let number = state.next_op;
        state.next_op += 1;
        let (effect, result) = state.perform(number, &op);
        state.settle(number, &effect);
        result
    }

    fn map(&mut self, file: FileId, reserve: u64) -> Result<Arc<dyn Pages>, DiskError> {
        let mut state = self.state();
        let Handle { inode, ref path, .. } = *state.handle(file);
        let path = path.clone();
        let mapped = state.inodes[inode].memory(map::memory_file);
        let mapped = mapped.and_then(|(memory, len)| map::MappedFile::new(memory, reserve, len));
        match mapped {
            Ok(mapped) => Ok(Arc::new(mapped)),
            Err(error) => Err(DiskError::from_io("map", &path, None, &error)),
        }
    }
}
