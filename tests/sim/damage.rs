//! Rot in the tree of a member whose log is whole: the others refill it, and it ends equal to them.
//!
//! A machine stops, pages of its tree rot (or a read before had found them bad, and left its note), and it starts again.
//! Rot that the start does not come upon is looked for as reads would do in time: the member then ends as production's
//! shell ends it. While it waits for its state nobody may be served and it must not lead; it votes and takes entries. So
//! the others must be able to elect without its vote, which its log may deny them: none of them is lost meanwhile.

use etcore::member::DAMAGED;
use storage::io::{Disk, DiskError, Op, OpenOptions, Output, SimDisk, WriteBuf};

use crate::{
    cluster::Cluster,
    history::{Check, ensure},
    weather::Dice,
};

/// The tree's file.
const TREE: &str = "tree";
/// The received one, which may be the only whole one while it is taken over.
const INCOMING: &str = etcore::member::INCOMING;
/// Pages before this one are metas: with both of them damaged a member cannot be refilled.
const FIRST_PAGE: u64 = 2;
/// Most places that rot at once.
const PLACES_MAX: u64 = 6;

impl Cluster {
    /// Whether a member waits for its state.
    pub fn is_refilling(&self, index: usize) -> bool {
        self.hosts[index].up.as_ref().is_some_and(|up| up.engine.is_refilling())
    }

    /// Whether some member's tree may be damaged. One at a time is: the others must have what it lost.
    pub fn is_damaged(&self) -> bool {
        self.hosts.iter().any(|host| host.rotten)
    }

    /// A machine stops, and its tree is damaged when it starts again.
    pub fn rot_tree(&mut self, index: usize) -> Check {
        let voters = self.newest_members().map_or(0, |members| members.voters().count());
        if voters < 3 || self.is_damaged() || self.hosts[index].full || !self.is_at_rest() {
            return Ok(());
        }
        self.crash(index)?;
        let (disk, page_bytes) = (self.hosts[index].disk.clone(), self.weather.tree_page_bytes as u64);
        let pages = disk.contents(TREE).map_or(0, |bytes| bytes.len() as u64 / page_bytes);
        if disk.file_names().iter().any(|name| name == INCOMING) || pages <= FIRST_PAGE {
            return Ok(());
        }
        self.hosts[index].rotten = true;
        self.hosts[index].was_rotten = true;
        if self.rng.percent(25) {
            self.fault("damaged tree noted");
            self.note(|| format!("m{index}: its tree was found to be damaged"));
            return self.note_damage(index);
        }
        self.fault("tree rotten");
        for _ in 0..self.rng.between(1, PLACES_MAX) {
            let offset = page_bytes * self.rng.between(FIRST_PAGE, pages) + self.rng.below(page_bytes - 64);
            let (len, mask) = (self.rng.between(1, 64) as usize, self.rng.between(1, 256) as u8);
            self.note(|| format!("m{index}: {len} bytes of its tree at {offset} rot"));
            disk.flip(TREE, offset, len, mask);
        }
        Ok(())
    }

    /// What the shell leaves behind when a read finds damage.
    fn note_damage(&mut self, index: usize) -> Check {
        write_note(&mut self.hosts[index].disk).map_err(|error| format!("m{index} can not note its damage: {error}"))
    }

    /// A member has started: it waits for its state, or all of it can be read, or it ends for what a read has found.
    /// Whether it serves.
    pub fn look_for_damage(&mut self, index: usize) -> Result<bool, String> {
        if self.is_refilling(index) {
            ensure!(
                self.hosts[index].was_rotten,
                "m{index} throws its tree away, which is not damaged"
            );
            *self.counts.events.entry("refills begun").or_default() += 1;
            self.hosts[index].rotten = true;
            return Ok(false);
        }
        if !self.hosts[index].rotten {
            return Ok(true);
        }
        let store = self.hosts[index].up().view.store.clone();
        let wrong = |why| format!("m{index}, its tree is rotten: {why}");
        if self.history.check_damaged(&store).map_err(wrong)? {
            self.fault("damaged tree found by a read");
            self.crash(index)?;
            self.note_damage(index)?;
            return Ok(false);
        }
        self.fault("tree rotten where nothing is");
        self.hosts[index].rotten = false;
        Ok(true)
    }

    /// A damaged member has its state again.
    pub fn refilled(&mut self, index: usize) {
        self.hosts[index].rotten = false;
        *self.counts.events.entry("members refilled").or_default() += 1;
        self.note(|| format!("m{index} is refilled"));
    }

    /// A member without its state leads nobody.
    pub fn check_refilling(&self, index: usize) -> Check {
        let Some(up) = self.hosts[index].up.as_ref() else {
            return Ok(());
        };
        let leads = up.engine.consensus().is_leader();
        ensure!(!leads || !up.engine.is_refilling(), "m{index} leads without its state");
        Ok(())
    }
}

fn write_note(disk: &mut SimDisk) -> Result<(), DiskError> {
    let options = OpenOptions {
        create: true,
        write: true,
        ..OpenOptions::default()
    };
    let path = DAMAGED.to_owned();
    let Output::File(file) = disk.call(Op::Open { path, options })? else {
        unreachable!("an open answers a file");
    };
    let data = WriteBuf::Bytes("found by a read".into());
    disk.call(Op::Write { file, offset: 0, data })?;
    disk.call(Op::Sync(file))?;
    disk.call(Op::Close(file))?;
    disk.call(Op::SyncDir(String::new()))?;
    Ok(())
}
