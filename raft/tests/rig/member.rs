//! A member around a `RawNode`: a disk that can lose what is not yet durable, and a state machine that is a hash chain.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::{
    ConfState, Config, Entry, HardState, Message, MessageType, PersistToken, RawNode, Ready, Snapshot,
    SnapshotMetadata, Start,
};

/// The state machine: the last applied entry, a hash over everything applied, and the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub index: u64,
    pub term: u64,
    pub hash: u64,
    pub conf_state: ConfState,
}

/// What a power loss leaves.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub log_start: SnapshotMetadata,
    pub entries: Vec<Entry>,
    pub state: State,
}

/// A write that was handed out and is not durable.
struct Write {
    token: PersistToken,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    snapshot: Option<Snapshot>,
}

pub struct Member {
    pub raw: RawNode,
    pub disk: Disk,
    pub config: Config,
    pub state: State,
    writes: VecDeque<Write>,
    /// States after each applied entry that the disk's tree may still take over.
    history: VecDeque<State>,
    /// The state offered to followers that need a snapshot.
    offered: State,
    /// Entries handed out and held back from the state machine by a test.
    pub to_apply: VecDeque<Entry>,
}

impl Member {
    pub fn new(config: Config, conf_state: ConfState) -> Member {
        let state = State {
            conf_state,
            ..State::default()
        };
        Member::from_disk(
            config,
            Disk {
                state,
                ..Disk::default()
            },
        )
    }

    pub fn from_disk(config: Config, disk: Disk) -> Member {
        let start = Start {
            hard_state: disk.hard_state,
            conf_state: disk.state.conf_state.clone(),
            snapshot: disk.log_start.clone(),
            entries: disk.entries.clone(),
            applied: disk.state.index,
        };
        let raw = RawNode::new(config.clone(), start).unwrap_or_else(|error| panic!("a disk must restart: {error}"));
        let state = disk.state.clone();
        let mut member = Member {
            raw,
            config,
            state: state.clone(),
            disk,
            writes: VecDeque::new(),
            history: VecDeque::new(),
            offered: State::default(),
            to_apply: VecDeque::new(),
        };
        member.offer_snapshot(state);
        member
    }

    /// The member after a power loss now.
    pub fn restarted(&self) -> Member {
        Member::from_disk(self.config.clone(), self.disk.clone())
    }

    /// Takes a Ready: its writes are in flight, its entries wait to be applied, its messages carry snapshot data.
    pub fn take_ready(&mut self) -> Ready {
        let mut ready = self.raw.ready();
        if let Some(token) = ready.token {
            self.writes.push_back(Write {
                token,
                hard_state: ready.hard_state,
                entries: ready.entries.clone(),
                snapshot: ready.snapshot.clone(),
            });
        } else {
            assert!(
                ready.entries.is_empty() && ready.snapshot.is_none(),
                "what must be written has a token"
            );
            // A commit index alone may be written lazily; here it joins the next write, or is lost.
            if let Some(hard_state) = ready.hard_state {
                match self.writes.back_mut() {
                    Some(write) => write.hard_state = Some(hard_state),
                    None => self.disk.hard_state = hard_state,
                }
            }
        }
        if ready.snapshot.is_some() {
            // What was handed out before is part of the snapshot.
            self.to_apply.clear();
        }
        self.to_apply.extend(ready.committed.iter().cloned());
        for message in ready
            .messages
            .iter_mut()
            .filter(|message| message.msg_type == MessageType::MsgSnap)
        {
            self.attach_state(message);
        }
        ready
    }

    /// Writes in flight.
    pub fn writes_in_flight(&self) -> usize {
        self.writes.len()
    }

    /// The tokens of the writes in flight.
    pub fn tokens(&self) -> Vec<PersistToken> {
        self.writes.iter().map(|write| write.token).collect()
    }

    /// The oldest `count` writes become durable; the last token answers for all.
    pub fn persist(&mut self, count: usize) {
        let mut last = None;
        for write in self.writes.drain(..count) {
            self.disk.take(&write);
            if let Some(snapshot) = &write.snapshot {
                self.state = self.disk.state.clone();
                self.history.clear();
                self.offered = decode_state(snapshot);
            }
            last = Some(write.token);
        }
        if let Some(token) = last {
            self.raw.on_persisted(token);
        }
    }

    /// Applies up to `count` entries; gives them back.
    pub fn apply(&mut self, count: usize) -> Vec<Entry> {
        let count = count.min(self.to_apply.len());
        let entries: Vec<Entry> = self.to_apply.drain(..count).collect();
        for entry in &entries {
            self.apply_entry(entry);
        }
        entries
    }

    /// The tree takes over what is applied, but nothing beyond the durable log.
    pub fn flush_state(&mut self) {
        let limit = self.raw.persisted_index();
        while self.history.front().is_some_and(|state| state.index <= limit) {
            self.disk.state = self.history.pop_front().expect("the front was just seen");
        }
    }

    /// Offers the durable state as a snapshot, and drops the log up to `keep` entries behind it.
    pub fn snapshot_and_compact(&mut self, keep: u64) {
        self.flush_state();
        self.offer_snapshot(self.disk.state.clone());
        let index = self.disk.state.index.saturating_sub(keep);
        if index > 0 && self.raw.compact(index).is_ok() {
            let term = self.raw.entry_term(index).expect("the base of the log has a term");
            self.disk.compact(index, term);
        }
    }

    fn offer_snapshot(&mut self, state: State) {
        let metadata = SnapshotMetadata {
            conf_state: state.conf_state.clone(),
            index: state.index,
            term: state.term,
        };
        self.raw.set_snapshot(metadata);
        self.offered = state;
    }

    fn apply_entry(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.state.index + 1, "entries are applied in order");
        self.state.index = entry.index;
        self.state.term = entry.term;
        self.state.hash = next_hash(self.state.hash, entry);
        if let Some(change) = entry.conf_change().expect("the log holds decodable changes")
            && let Ok(conf_state) = self.raw.apply_conf_change(&change)
        {
            self.state.conf_state = conf_state;
        }
        self.history.push_back(self.state.clone());
        self.raw.on_applied(entry.index);
    }

    /// What the transport does: it sends the state along, and names the one it sends.
    fn attach_state(&self, message: &mut Message) {
        let snapshot = message.snapshot.as_mut().expect("MsgSnap carries a snapshot");
        let State {
            index,
            term,
            hash,
            conf_state,
        } = self.offered.clone();
        *snapshot = Snapshot {
            data: Bytes::copy_from_slice(&hash.to_be_bytes()),
            metadata: SnapshotMetadata {
                conf_state,
                index,
                term,
            },
        };
    }
}

impl Disk {
    fn take(&mut self, write: &Write) {
        if let Some(snapshot) = &write.snapshot {
            self.state = decode_state(snapshot);
            self.log_start = snapshot.metadata.clone();
            self.entries.clear();
        }
        if let Some(first) = write.entries.first() {
            let keep = (first.index - self.log_start.index - 1) as usize;
            assert!(keep <= self.entries.len(), "a write leaves a gap in the log");
            self.entries.truncate(keep);
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
    }

    fn compact(&mut self, index: u64, term: u64) {
        self.entries.drain(..(index - self.log_start.index) as usize);
        self.log_start = SnapshotMetadata {
            index,
            term,
            ..SnapshotMetadata::default()
        };
    }
}

/// The hash of the state after an entry.
pub fn next_hash(hash: u64, entry: &Entry) -> u64 {
    let mut next = hash ^ entry.term.rotate_left(32) ^ entry.index;
    for &byte in entry.data.iter() {
        next = (next ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    next.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

fn decode_state(snapshot: &Snapshot) -> State {
    let hash = snapshot
        .data
        .as_ref()
        .try_into()
        .map(u64::from_be_bytes)
        .expect("a snapshot's data is the hash");
    let SnapshotMetadata {
        conf_state,
        index,
        term,
    } = snapshot.metadata.clone();
    State {
        index,
        term,
        hash,
        conf_state,
    }
}
