//! A log on a simulated disk, beside a model of what it must still know after a crash.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::{Arc, Mutex, MutexGuard};

use raft::{ConfState, Entry, EntryType, HardState, SnapshotMetadata};
use storage::{
    io::{Completion, Disk, SimDisk, sim::Rng},
    wal::{AppendToken, Identity, Recovered, Wal, WalError, WalOptions},
};

pub const IDENTITY: Identity = Identity {
    member_id: 0xa1,
    cluster_id: 0xc1,
};

pub fn options() -> WalOptions {
    WalOptions {
        dir: "member/wal".to_owned(),
        segment_size_bytes: Some(16 << 10),
        max_in_flight: 3,
        max_batch_bytes: 4 << 10,
        token_base: 1 << 40,
        log_id: 0x5eed,
    }
}

/// How much more than usual a test does.
pub fn scale() -> u64 {
    std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

pub fn open(disk: &mut SimDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(disk, options(), Some(IDENTITY))
}

/// What the records so far come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    pub hard_state: HardState,
    pub marker: Option<SnapshotMetadata>,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
enum Event {
    Entry(Entry),
    Marker(SnapshotMetadata),
    HardState(HardState),
}

impl State {
    pub fn last_index(&self) -> u64 {
        let marker = self.marker.as_ref().map_or(0, |marker| marker.index);
        self.entries.last().map_or(marker, |entry| entry.index.max(marker))
    }

    pub fn term_at(&self, index: u64) -> Option<u64> {
        let first = self.entries.first()?.index;
        self.entries
            .get(index.checked_sub(first)? as usize)
            .map(|entry| entry.term)
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::HardState(state) => self.hard_state = *state,
            Event::Marker(marker) => {
                let behind = marker.index > self.entries.last().map_or(0, |entry| entry.index);
                if behind || self.term_at(marker.index).is_some_and(|term| term != marker.term) {
                    self.entries.clear();
                }
                self.marker = Some(marker.clone());
            }
            Event::Entry(entry) => {
                self.entries.retain(|old| old.index < entry.index);
                self.entries.push(entry.clone());
            }
        }
    }

    fn forget(&mut self, index: u64) {
        self.entries.retain(|entry| entry.index > index);
    }
}

/// What the log was told and what it promised.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// After everything acknowledged.
    pub acknowledged: State,
    /// After everything appended.
    pub appended: State,
    pending: Vec<(u64, Event)>,
    pub released: u64,
}

impl Model {
    /// The last index appended, released or not.
    pub fn last_index(&self) -> u64 {
        self.appended.last_index().max(self.released)
    }

    /// The last index a tree may hold: a newer entry still on its way replaces everything from itself on.
    fn durable_index(&self) -> u64 {
        let on_its_way = self.pending.iter().filter_map(|(_, event)| match event {
            Event::Entry(entry) => Some(entry.index - 1),
            _ => None,
        });
        on_its_way
            .chain([self.acknowledged.last_index()])
            .min()
            .expect("the chain is not empty")
    }

    fn append(
        &mut self,
        token: u64,
        entries: &[Entry],
        hard_state: Option<HardState>,
        marker: Option<&SnapshotMetadata>,
    ) {
        let mut events = Vec::new();
        if let Some(new) = hard_state {
            let commit = self.appended.hard_state.commit;
            events.push(Event::HardState(HardState { commit, ..new }));
        }
        events.extend(marker.cloned().map(Event::Marker));
        events.extend(entries.iter().cloned().map(Event::Entry));
        events.extend(hard_state.map(Event::HardState));
        events.iter().for_each(|event| self.appended.apply(event));
        self.pending.extend(events.into_iter().map(|event| (token, event)));
    }

    fn acknowledge(&mut self, token: AppendToken) {
        let done = self.pending.partition_point(|(appended, _)| *appended <= token.0);
        for (_, event) in self.pending.drain(..done) {
            self.acknowledged.apply(&event);
        }
    }

    fn release(&mut self, index: u64) {
        self.released = self.released.max(index);
        self.acknowledged.forget(index);
        self.appended.forget(index);
    }

    fn differs(&self, found: &State) -> String {
        let brief = |state: &State| {
            let entries: Vec<(u64, u64, usize)> = state
                .entries
                .iter()
                .map(|entry| (entry.term, entry.index, entry.data.len()))
                .collect();
            format!(
                "{:?} marker {:?} entries {entries:?}",
                state.hard_state,
                state.marker.as_ref().map(|m| m.index)
            )
        };
        let [acknowledged, appended] = [&self.acknowledged, &self.appended].map(brief);
        format!(
            "released {}\nfound {}\nacknowledged {acknowledged}\nappended {appended}",
            self.released,
            brief(found)
        )
    }

    /// Whether a crash may leave what was recovered: everything acknowledged, and of the rest a beginning.
    pub fn check(&self, recovered: &Recovered) -> Result<(), String> {
        let mut found = State {
            hard_state: recovered.hard_state,
            marker: recovered.snapshot.clone(),
            entries: recovered.entries.clone(),
        };
        if recovered
            .entries
            .windows(2)
            .any(|pair| pair[1].index != pair[0].index + 1)
        {
            return Err(format!("the entries have gaps: {}", self.differs(&found)));
        }
        found.forget(self.released);
        let (low, high) = (self.acknowledged.hard_state.commit, self.appended.hard_state.commit);
        if !(low..=high).contains(&found.hard_state.commit) {
            return Err(format!("commit {} is not in {low}..={high}", found.hard_state.commit));
        }
        let last = found.last_index().max(self.released);
        if found.hard_state.commit > last {
            let commit = found.hard_state.commit;
            return Err(format!(
                "entry {commit} is committed but the log ends at {last}: {}",
                self.differs(&found)
            ));
        }
        let mut state = self.acknowledged.clone();
        let mut events = self.pending.iter();
        loop {
            state.forget(self.released);
            // Commit indexes ride along with later batches, so only their bounds are certain.
            state.hard_state.commit = found.hard_state.commit;
            if state == found {
                return Ok(());
            }
            match events.next() {
                Some((_, event)) => state.apply(event),
                None => {
                    return Err(self.differs(&found));
                }
            }
        }
    }
}

/// A log, its disk and its model.
pub struct Driver {
    pub disk: SimDisk,
    pub wal: Wal,
    pub model: Arc<Mutex<Model>>,
}

impl Driver {
    pub fn new(mut disk: SimDisk) -> Driver {
        let (wal, recovered) = open(&mut disk).expect("a new log opens");
        assert!(recovered.created);
        Driver {
            disk,
            wal,
            model: Arc::default(),
        }
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().expect("no test panics while it holds the model")
    }

    pub fn append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<HardState>,
        marker: Option<&SnapshotMetadata>,
    ) -> AppendToken {
        let mut model = self.model.lock().unwrap();
        let last = model.appended.hard_state;
        let lazy = entries.is_empty() && marker.is_none();
        let lazy = lazy && hard_state.is_none_or(|new| (new.term, new.vote) == (last.term, last.vote));
        let token = self.wal.append(entries, hard_state, marker);
        if lazy {
            model.appended.hard_state = hard_state.unwrap_or(last);
        } else {
            model.append(token.0, entries, hard_state, marker);
        }
        token
    }

    /// Pumps, and takes in what has ended.
    pub fn turn(&mut self) -> Result<(), WalError> {
        self.wal.pump(&mut self.disk)?;
        let mut ended: Vec<Completion> = Vec::new();
        self.disk.poll(&mut ended);
        for completion in ended {
            assert!(self.wal.owns(completion.token));
            self.wal.on_completion(&mut self.disk, completion)?;
            self.model().acknowledge(self.wal.persisted());
        }
        Ok(())
    }

    /// Goes on until nothing is under way.
    pub fn drain(&mut self) -> Result<(), WalError> {
        loop {
            self.turn()?;
            while self.disk.release(1) > 0 {
                self.turn()?;
            }
            if !self.wal.has_work_in_flight() {
                return Ok(());
            }
        }
    }

    pub fn release(&mut self, index: u64) {
        self.wal.release(index);
        self.model().release(index);
    }

    /// Appends one entry of so many bytes behind the last, and drains.
    pub fn put(&mut self, bytes: usize) -> Result<AppendToken, WalError> {
        let index = self.model().last_index() + 1;
        let token = self.append(&[entry(1, index, bytes)], None, None);
        self.drain()?;
        Ok(token)
    }
}

/// An entry whose data says which it is.
pub fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let seed = (term << 32 | index).to_le_bytes();
    Entry::normal(
        term,
        index,
        seed.iter().copied().cycle().take(bytes).collect::<Vec<u8>>(),
    )
}

pub fn marker(index: u64, term: u64) -> SnapshotMetadata {
    SnapshotMetadata {
        conf_state: ConfState::of_voters([1, 2, 3]),
        index,
        term,
    }
}

/// One random thing that a raft member may do to its log.
pub fn random_step(driver: &mut Driver, rng: &mut Rng) -> Result<(), WalError> {
    let Model {
        appended: state,
        released,
        ..
    } = driver.model().clone();
    let last = state.last_index().max(released);
    // A commit index may be forgotten; what was released was committed all the same.
    let hard = HardState {
        commit: state.hard_state.commit.max(released),
        ..state.hard_state
    };
    match rng.below(20) {
        0..=6 => {
            let count = 1 + rng.below(4);
            let entries: Vec<Entry> = (1..=count).map(|n| random_entry(hard.term, last + n, rng)).collect();
            driver.append(&entries, None, None);
        }
        7 => {
            let size = 9000 + rng.below(30_000) as usize;
            driver.append(&[entry(hard.term, last + 1, size)], None, None);
        }
        8 => {
            // A new leader replaces what was not committed.
            let from = hard.commit + 1 + rng.below(last - hard.commit + 1);
            let count = 1 + rng.below(3);
            // What it sends may be committed already, and what was sent reach over several batches.
            let new = HardState {
                term: hard.term + 1,
                vote: rng.below(4),
                commit: hard.commit + rng.below(from + count - hard.commit),
            };
            let entries: Vec<Entry> = (0..count).map(|n| random_entry(new.term, from + n, rng)).collect();
            driver.append(&entries, Some(new), None);
        }
        9 => {
            driver.append(
                &[],
                Some(HardState {
                    term: hard.term + 1,
                    vote: 1,
                    commit: hard.commit,
                }),
                None,
            );
        }
        10 | 11 => {
            let commit = hard.commit + rng.below(last - hard.commit + 1);
            driver.append(&[], Some(HardState { commit, ..hard }), None);
        }
        12 => {
            if let Some(term) = state.term_at(hard.commit) {
                driver.append(&[], None, Some(&marker(hard.commit, term)));
            }
        }
        13 if rng.below(8) == 0 => {
            let index = last + 1 + rng.below(20);
            let new = HardState { commit: index, ..hard };
            driver.append(&[], Some(new), Some(&marker(index, hard.term)));
            driver.drain()?;
            driver.release(index);
        }
        13 | 14 => {
            let durable = driver.model().durable_index().min(last).min(hard.commit);
            driver.release(durable.saturating_sub(rng.below(5)));
        }
        15 => driver.wal.settle(),
        16 | 17 => {
            driver.disk.release(1 + rng.below(3) as usize);
        }
        _ => {}
    }
    driver.turn()
}

fn random_entry(term: u64, index: u64, rng: &mut Rng) -> Entry {
    let size = match rng.below(8) {
        0 => 0,
        1 => 2000 + rng.below(3000),
        _ => rng.below(300),
    };
    let mut entry = entry(term, index, size as usize);
    if rng.below(30) == 0 {
        entry.entry_type = EntryType::ConfChangeV2;
    }
    entry
}

impl Model {
    /// Takes what was recovered for what is acknowledged from now on.
    pub fn reopened(&mut self, recovered: &Recovered) {
        let state = State {
            hard_state: recovered.hard_state,
            marker: recovered.snapshot.clone(),
            entries: recovered.entries.clone(),
        };
        self.acknowledged = state.clone();
        self.appended = state;
        self.pending.clear();
        self.release(self.released);
    }
}
