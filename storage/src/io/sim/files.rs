//! Files and names of the simulated disk: what the process sees, what is durable, and what hangs between the two.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::content::Content;

/// The unit in which a write tears.
pub(super) const SECTOR: u64 = 512;

/// The number of the operation that made a change; later operations have higher numbers.
pub(super) type OpNumber = u64;

/// What becomes of one unsynced operation in a crash image.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Kept,
    Lost,
    /// Sectors below this one are kept.
    Head(u64),
    /// Sectors from this one on are kept.
    Tail(u64),
    /// Each sector is kept or lost by a coin with this seed.
    Coin(u64),
}

impl Fate {
    fn keeps(self, sector: u64) -> bool {
        match self {
            Fate::Kept => true,
            Fate::Lost => false,
            Fate::Head(end) => sector < end,
            Fate::Tail(start) => sector >= start,
            Fate::Coin(seed) => super::Rng::new(seed ^ sector.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next() & 1 == 1,
        }
    }

    fn keeps_any(self) -> bool {
        !matches!(self, Fate::Lost)
    }
}

/// What one sector holds after an operation that is not yet durable.
#[derive(Clone, Debug)]
struct Version {
    op: OpNumber,
    data: Bytes,
}

/// One file, whatever its names are.
#[derive(Debug, Default)]
pub(super) struct Inode {
    pub(super) live: Content,
    durable: Content,
    sectors: BTreeMap<u64, Vec<Version>>,
    lengths: Vec<(OpNumber, u64)>,
    /// Stands behind the mappings of the file, once there are any.
    memory: Option<File>,
    /// The length the mappings know.
    mapped_len: Arc<AtomicU64>,
}

impl Clone for Inode {
    /// The copy has no mappings.
    fn clone(&self) -> Inode {
        Inode {
            live: self.live.clone(),
            durable: self.durable.clone(),
            sectors: self.sectors.clone(),
            lengths: self.lengths.clone(),
            memory: None,
            mapped_len: Arc::default(),
        }
    }
}

impl Inode {
    pub(super) fn write(&mut self, op: OpNumber, offset: u64, data: &[u8]) {
        let old_len = self.live.len();
        self.live.write(offset, data);
        self.changed(op, offset, data.len() as u64, old_len);
    }

    pub(super) fn allocate(&mut self, op: OpNumber, offset: u64, len: u64) {
        let old_len = self.live.len();
        self.live.allocate(offset, len as usize);
        self.changed(op, offset, 0, old_len);
    }

    pub(super) fn punch(&mut self, op: OpNumber, offset: u64, len: u64) {
        let len = len.min(self.live.len().saturating_sub(offset));
        self.live.punch(offset, len as usize);
        self.changed(op, offset, len, self.live.len());
    }

    pub(super) fn set_len(&mut self, op: OpNumber, len: u64) {
        let old_len = self.live.len();
        self.live.set_len(len);
        self.changed(op, len, old_len.saturating_sub(len), old_len);
    }

    /// Notes that the sectors of a range, and perhaps the length, now differ from what is durable.
    fn changed(&mut self, op: OpNumber, offset: u64, len: u64, old_len: u64) {
        if self.live.len() != old_len {
            self.lengths.push((op, self.live.len()));
        }
        if len > 0 {
            let (first, end) = (offset / SECTOR, (offset + len).div_ceil(SECTOR));
            let mut data = self.live.read(first * SECTOR, ((end - first) * SECTOR) as usize);
            data.resize(((end - first) * SECTOR) as usize, 0);
            let data = Bytes::from(data);
            for sector in first..end {
                let at = ((sector - first) * SECTOR) as usize;
                let version = Version {
                    op,
                    data: data.slice(at..at + SECTOR as usize),
                };
                self.sectors.entry(sector).or_default().push(version);
            }
        }
        self.mirror(offset, len);
    }

    fn mirror(&self, offset: u64, len: u64) {
        if let Some(memory) = &self.memory {
            self.mapped_len.store(self.live.len(), Ordering::Release);
            memory
                .set_len(self.live.len())
                .expect("anonymous memory can be resized");
            let data = self.live.read(offset, len as usize);
            memory
                .write_all_at(&data, offset)
                .expect("anonymous memory can be written");
        }
    }

    /// The memory behind the mappings of this file, filled on first use.
    pub(super) fn memory(&mut self, create: impl FnOnce() -> io::Result<File>) -> io::Result<(&File, Arc<AtomicU64>)> {
        if self.memory.is_none() {
            self.memory = Some(create()?);
            self.mirror(0, self.live.len());
        }
        let memory = self.memory.as_ref().expect("it was filled just now");
        Ok((memory, self.mapped_len.clone()))
    }

    /// Makes the changes of the operations that `covered` names durable.
    pub(super) fn settle(&mut self, covered: impl Fn(OpNumber) -> bool) {
        self.settle_lengths(&covered);
        let durable = &mut self.durable;
        let len = durable.len();
        self.sectors.retain(|sector, versions| {
            if let Some(at) = versions.iter().rposition(|version| covered(version.op)) {
                durable.write(sector * SECTOR, &versions[at].data);
                versions.retain(|version| !covered(version.op));
            }
            !versions.is_empty()
        });
        durable.set_len(len);
    }

    /// Like [`Inode::settle`] for one range only: what a durable write does.
    pub(super) fn settle_range(&mut self, offset: u64, len: u64, covered: impl Fn(OpNumber) -> bool) {
        self.settle_lengths(&covered);
        let length = self.durable.len();
        for sector in offset / SECTOR..(offset + len).div_ceil(SECTOR) {
            let Some(versions) = self.sectors.get_mut(&sector) else {
                continue;
            };
            if let Some(at) = versions.iter().rposition(|version| covered(version.op)) {
                self.durable.write(sector * SECTOR, &versions[at].data);
                versions.retain(|version| !covered(version.op));
            }
            if versions.is_empty() {
                self.sectors.remove(&sector);
            }
        }
        self.durable.set_len(length);
    }

    fn settle_lengths(&mut self, covered: &impl Fn(OpNumber) -> bool) {
        // A settled length supersedes every older one, even of an operation still in flight.
        if let Some(at) = self.lengths.iter().rposition(|(op, _)| covered(*op)) {
            self.durable.set_len(self.lengths[at].1);
            self.lengths.drain(..=at);
        }
    }

    /// Every operation with an effect that is not durable, with the range of sectors it changed.
    pub(super) fn pending(&self, into: &mut BTreeMap<OpNumber, (u64, u64)>) {
        for (op, _) in &self.lengths {
            into.entry(*op).or_insert((0, 0));
        }
        for (sector, versions) in &self.sectors {
            for version in versions {
                let range = into.entry(version.op).or_insert((*sector, *sector));
                if *range == (0, 0) {
                    *range = (*sector, *sector);
                }
                range.1 = range.1.max(*sector + 1);
            }
        }
    }

    /// The file as a crash leaves it when each unsynced operation meets its fate.
    pub(super) fn image(&self, fate: impl Fn(OpNumber) -> Fate) -> Inode {
        let mut content = self.durable.clone();
        let mut len = content.len();
        for (op, new_len) in &self.lengths {
            if fate(*op).keeps_any() {
                len = *new_len;
                content.set_len(len);
            }
        }
        for (sector, versions) in &self.sectors {
            let kept = versions.iter().rev().find(|version| fate(version.op).keeps(*sector));
            if let Some(version) = kept
                && sector * SECTOR < len
            {
                content.write(sector * SECTOR, &version.data);
            }
        }
        content.set_len(len);
        Inode {
            live: content.clone(),
            durable: content,
            ..Inode::default()
        }
    }

    /// Changes bytes in every copy of the file, as rot does.
    pub(super) fn rot(&mut self, offset: u64, change: impl Fn(&mut [u8]), len: usize) {
        for content in [&mut self.live, &mut self.durable] {
            let mut data = content.read(offset, len);
            change(&mut data);
            content.write(offset, &data);
        }
        self.sectors
            .retain(|sector, _| sector * SECTOR + SECTOR <= offset || sector * SECTOR >= offset + len as u64);
        self.mirror(offset, len as u64);
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Dir,
    File(usize),
}

/// A change of a directory that is not yet durable.
#[derive(Clone, Debug)]
enum Change {
    Link(Node),
    Unlink,
    /// The old name; both names are in one directory, so that the change is one.
    RenamedFrom(String),
}

/// All names, seen and durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<(OpNumber, String, Change)>,
}

/// The directory a name is in; the root is the empty path.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn apply(names: &mut BTreeMap<String, Node>, path: &str, change: &Change) {
    match change {
        Change::Link(node) => {
            names.insert(path.to_owned(), *node);
        }
        Change::Unlink => {
            names.remove(path);
        }
        Change::RenamedFrom(from) => {
            if let Some(node) = names.remove(from) {
                names.insert(path.to_owned(), node);
            }
        }
    }
}

impl Names {
    fn change(&mut self, op: OpNumber, path: &str, change: Change) {
        apply(&mut self.live, path, &change);
        self.pending.push((op, path.to_owned(), change));
    }

    pub(super) fn link(&mut self, op: OpNumber, path: &str, node: Node) {
        self.change(op, path, Change::Link(node));
    }

    pub(super) fn unlink(&mut self, op: OpNumber, path: &str) {
        self.change(op, path, Change::Unlink);
    }

    pub(super) fn rename(&mut self, op: OpNumber, from: &str, to: &str) {
        if parent(from) == parent(to) {
            self.change(op, to, Change::RenamedFrom(from.to_owned()));
        } else {
            let node = self.live[from];
            self.link(op, to, node);
            self.unlink(op, from);
        }
    }

    pub(super) fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.live.get(path) == Some(&Node::Dir)
    }

    /// Makes the entries of one directory durable.
    pub(super) fn settle(&mut self, dir: &str) {
        let (settled, rest) = self.pending.drain(..).partition(|(_, path, _)| parent(path) == dir);
        self.pending = rest;
        let settled: Vec<(OpNumber, String, Change)> = settled;
        for (_, path, change) in &settled {
            apply(&mut self.durable, path, change);
        }
    }

    pub(super) fn pending(&self, into: &mut BTreeMap<OpNumber, (u64, u64)>) {
        for (op, ..) in &self.pending {
            into.entry(*op).or_insert((0, 0));
        }
    }

    /// The names after a crash; those whose directory is lost are lost with it.
    pub(super) fn image(&self, fate: impl Fn(OpNumber) -> Fate) -> Names {
        let mut names = self.durable.clone();
        for (op, path, change) in &self.pending {
            if fate(*op).keeps_any() {
                apply(&mut names, path, change);
            }
        }
        let mut dirs: BTreeSet<String> = BTreeSet::from([String::new()]);
        names.retain(|path, node| {
            // Order: a directory sorts before what it contains.
            let kept = dirs.contains(parent(path));
            if kept && *node == Node::Dir {
                dirs.insert(path.clone());
            }
            kept
        });
        Names {
            live: names.clone(),
            durable: names,
            pending: Vec::new(),
        }
    }
}
