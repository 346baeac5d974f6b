//! The write-ahead log: raft's entries, hard state and snapshot markers, durable before anything depends on them.
//!
//! The log is a chain of *batches* in fixed-size segment files ("slots"). One batch is one aligned write; several may
//! be in flight. Nothing acknowledged is ever written again until its segment is released and recycled.
//!
//! ```text
//!  meta          identity, log id, format, segment size (written once, last step of creation)
//!  00000000.seg  | opener | batch | batch | batch | ...room ...........|   one slot = one segment
//!  00000001.seg  | opener | batch | (zeros)                            |   the active segment
//!  00000002.seg  | (zeros, or batches of an earlier life)              |   the spare
//!
//!  batch         | header 96 B | record | record | ... | zeros to the next 4096 |
//!  record        | kind, part, entry type, 0 | len u32 | body |
//! ```
//!
//! A batch header carries: the log id, its sequence number, the epoch (raised when recovery cuts a tail, so that what
//! was cut never revives), the checksum of the batch before, `durable_through` (the highest contiguous batch known
//! durable when it was submitted), `log_start` (the oldest batch recovery needs), where it stands, and crc32c over all.
//! The first batch of a segment is its *opener*: it repeats hard state and marker, so that older segments may go.
//!
//! Order: [`Wal::append`] encodes, [`Wal::pump`] submits, [`Wal::on_completion`] learns of ends, [`Wal::persisted`] says
//! through which append everything is durable. Any failed write or sync is final: the log is poisoned and every later
//! call answers the same error. Only the zero-filling of spare segments may run out of space: see [`Wal::space`].
//!
//! Recovery reads every slot, takes the chain from the newest `log_start` on, and stops at the first batch that is not
//! there. If any valid batch claims `durable_through` that or more, an acknowledged batch is damaged: refused as
//! [`WalError::Corrupt`]. Else it is a torn tail, which is cut. Rot in the very last batch looks like a torn tail; an
//! empty batch after idling ([`Wal::settle`]) keeps that batch a worthless one.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::{Entry, HardState, SnapshotMetadata, mutant};

use self::{
    format::BatchHeader,
    queue::{Payload, Queue},
    spare::{Slot, SpareMaker},
};
use crate::io::{BLOCK_SIZE, Completion, Disk, DiskError, FileId, Op, Token, WriteBuf};

mod format;
mod queue;
mod recover;
mod spare;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The directory of the log, relative to the root of the disk.
    pub dir: String,
    /// Size of a new log's segments; an existing log keeps its own. A multiple of 4096, at least 16 KiB.
    ///
    /// Units: bytes. `None`: 64 MiB, or a sixteenth of the file system if that is less.
    pub segment_size_bytes: Option<u64>,
    /// How many batches may be in flight; at least 1.
    pub max_in_flight: usize,
    /// A batch is closed when its payload reaches this; also bounded by the segment.
    ///
    /// Units: bytes.
    pub max_batch_bytes: usize,
    /// The operations of this log carry tokens from here on, 2^32 of them.
    pub token_base: Token,
    /// A random number that marks the batches of a new log, so that no client data can pose as one.
    pub log_id: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            dir: "wal".to_owned(),
            segment_size_bytes: None,
            max_in_flight: 4,
            max_batch_bytes: 1 << 20,
            token_base: 1 << 32,
            log_id: 0,
        }
    }
}

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
}

/// Names one append; later appends have greater tokens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AppendToken(pub u64);

/// What recovery cut off: writes that were under way when the machine stopped. None of it was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The file in which the log now ends.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// Sequence number of the first batch that is missing.
    pub sequence: u64,
    /// How many whole batches behind it were given up.
    pub batches_cut: u64,
}

/// What a log holds at boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Whose log it is.
    pub identity: Identity,
    /// Whether the log was made by this call.
    pub created: bool,
    /// The last hard state written.
    pub hard_state: HardState,
    /// The last snapshot marker written.
    pub snapshot: Option<SnapshotMetadata>,
    /// The entries behind the start of the log, indexes rising by one; where one was written twice, the last wins.
    ///
    /// May begin at or below the marker's index: the caller ignores what its state already holds.
    pub entries: Vec<Entry>,
    /// What was cut off, if anything.
    pub torn_tail: Option<TornTail>,
}

impl Recovered {
    /// Whether the entries up to `index` are here, or were let go of, and those behind it follow without a gap.
    pub fn reaches(&self, index: u64) -> bool {
        let marker = self.snapshot.as_ref().map_or(0, |marker| marker.index);
        match (self.entries.first(), self.entries.last()) {
            (Some(first), Some(last)) => marker <= index && first.index <= index + 1 && last.index >= index,
            _ => marker == index && index > 0,
        }
    }
}

/// Whether there is room for what comes next.
#[derive(Clone, Debug)]
pub enum Space {
    /// A spare segment stands ready.
    Ready,
    /// One is being made.
    Preparing,
    /// The disk is full: no spare can be made. What is left of the active segment still takes appends.
    SpareUnavailable(DiskError),
    /// The disk is full and appends wait; nothing is lost. Free space, then call [`Wal::retry_space`].
    Exhausted(DiskError),
}

/// Why a log does not open, or does not go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// A file call failed; the log is poisoned.
    #[error("write-ahead log: {0}; what was not acknowledged is lost, restart the member once the disk is well")]
    Disk(#[from] DiskError),
    /// An acknowledged batch is damaged.
    #[error(
        "write-ahead log: {file} is corrupt at offset {offset}: expected {expected}, found {found}; do not truncate or \
         delete it: votes and acknowledged entries may be lost. Remove this member from the cluster and add it anew, \
         as a learner, with an empty data directory (a single member: restore a snapshot)"
    )]
    Corrupt {
        /// The damaged file.
        file: String,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A newer etcore wrote the log.
    #[error(
        "write-ahead log: {file} needs a reader of format {min_reader} and this etcore reads {ours}; run a newer etcore"
    )]
    NewerFormat {
        /// The file.
        file: String,
        /// The oldest reader the file allows.
        min_reader: u16,
        /// The format this build reads.
        ours: u16,
    },
    /// The log belongs to another member or cluster.
    #[error(
        "write-ahead log: it belongs to member {:x} of cluster {:x}, not to member {:x} of cluster {:x}; check the data \
         directory, the name and the initial cluster", found.member_id, found.cluster_id, expected.member_id, expected.cluster_id
    )]
    IdentityMismatch {
        /// Who opens it.
        expected: Identity,
        /// Whose it is.
        found: Identity,
    },
    /// There is no log, and no identity was given to make one.
    #[error("write-ahead log: {0} holds no log; start the member with its initial cluster to make one")]
    Missing(String),
    /// The options can not work.
    #[error("write-ahead log: {0}")]
    Options(String),
}

/// The write-ahead log of one member.
pub struct Wal {
    dir: String,
    log_id: u64,
    segment_size_bytes: u64,
    max_in_flight: usize,
    token_base: Token,
    next_op: u64,
    queue: Queue,
    chain: Chain,
    /// Oldest first; the last one is active.
    segments: VecDeque<Segment>,
    /// End of the last batch in the active segment.
    offset: u64,
    /// In the order of their sequence numbers.
    in_flight: VecDeque<InFlight>,
    spares: Vec<Slot>,
    maker: Option<SpareMaker>,
    /// Operations whose end nobody waits for: surplus slots going away.
    chores: Vec<Token>,
    next_slot: u32,
    released_index: u64,
    appended: Appended,
    persisted: AppendToken,
    settle: Settle,
    failed: Option<WalError>,
    written_bytes: u64,
}

/// Where the chain of batches stands.
#[derive(Clone, Copy, Debug)]
struct Chain {
    next_sequence: u64,
    previous_crc: u32,
    epoch: u64,
    /// Every batch up to this one is durable.
    durable_through: u64,
    /// What the last submitted header said.
    announced_start: u64,
}

/// One segment of the log, in its slot.
#[derive(Clone, Debug)]
struct Segment {
    slot: Slot,
    number: u64,
    first_sequence: u64,
    /// Highest index of its entries; 0 without entries.
    last_index: u64,
}

#[derive(Debug)]
struct InFlight {
    token: Token,
    ended: bool,
    append_token: u64,
    log_start: u64,
    payload_bytes: usize,
    data: Bytes,
}

/// What the appends so far come to.
#[derive(Debug, Default)]
struct Appended {
    token: u64,
    hard_state: HardState,
    /// A commit index that waits for the next batch.
    lazy: Option<HardState>,
    /// Index of the last entry; unknown when the log was opened without any.
    last_index: Option<u64>,
    /// What the submitted batches come to: an opener repeats it.
    submitted_hard_state: HardState,
    submitted_marker: Option<Bytes>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Settle {
    /// The last batch is empty, or there is none.
    Settled,
    /// The last batch holds something.
    Open,
    /// An empty batch was asked for.
    Wanted,
}

/// A marker must fit the opener of a segment.
const MARKER_BYTES_MAX: usize = 3072;

/// How many spare slots are kept when segments come free.
const SPARES_MAX: usize = 2;

const BLOCK: u64 = BLOCK_SIZE as u64;

fn slot_path(dir: &str, number: u32) -> String {
    format!("{dir}/{number:08}.seg")
}

impl Wal {
    /// Opens the log, or creates it when there is none and an identity is given. Blocking.
    ///
    /// Everything it returns is durable. Errors: see [`WalError`]; nothing is truncated on damage.
    pub fn open(
        disk: &mut dyn Disk,
        options: WalOptions,
        identity: Option<Identity>,
    ) -> Result<(Wal, Recovered), WalError> {
        recover::open(disk, options, identity)
    }

    /// Whose log stands in this directory; `None` when there is none yet. Blocking.
    ///
    /// Errors: the log's meta file cannot be read.
    pub fn identity(disk: &mut dyn Disk, dir: &str) -> Result<Option<Identity>, WalError> {
        recover::identity(disk, dir)
    }

    /// Encodes entries, a hard state and a marker for the next batch; nothing is written before [`Wal::pump`].
    ///
    /// An entry at or below the last index replaces it and everything behind it. A hard state that differs from the
    /// last one in `commit` only, without entries or marker, waits for the next batch and is not worth a write: the
    /// answer is then the token of the append before.
    ///
    /// Bounds: panics when entries leave a gap behind the last index, unless a marker fills it.
    pub fn append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<HardState>,
        marker: Option<&SnapshotMetadata>,
    ) -> AppendToken {
        let last = self.appended.hard_state;
        let votes = hard_state.is_some_and(|new| (new.term, new.vote) != (last.term, last.vote));
        if entries.is_empty() && marker.is_none() && !votes {
            if let Some(new) = hard_state.filter(|new| *new != last) {
                self.appended.hard_state = new;
                self.appended.lazy = Some(new);
            }
            return AppendToken(self.appended.token);
        }
        if let Some(new) = hard_state.filter(|_| votes && !entries.is_empty()) {
            // The term goes ahead of its entries, which may spread over several batches; the commit index must not.
            let commit = if mutant::on("commit_index_ahead_of_entries") {
                new.commit
            } else {
                last.commit
            };
            self.queue.put_hard_state(HardState { commit, ..new });
        }
        if let Some(marker) = marker {
            self.append_marker(marker);
        }
        entries.iter().for_each(|entry| self.append_entry(entry));
        let waiting = self.appended.lazy.take();
        if let Some(new) = hard_state.filter(|new| *new != last).or(waiting) {
            self.queue.put_hard_state(new);
            self.appended.hard_state = new;
        }
        self.appended.token += 1;
        self.queue.end_append(self.appended.token);
        AppendToken(self.appended.token)
    }

    fn append_marker(&mut self, marker: &SnapshotMetadata) {
        let body = format::marker_body(marker);
        assert!(
            body.len() <= MARKER_BYTES_MAX,
            "the configuration of {} bytes does not fit a marker",
            body.len()
        );
        self.queue.put_marker(body.into());
        self.appended.last_index = self.appended.last_index.max(Some(marker.index));
    }

    fn append_entry(&mut self, entry: &Entry) {
        if let Some(last) = self.appended.last_index {
            assert!(
                entry.index <= last + 1,
                "entry {} leaves a gap behind {last}",
                entry.index
            );
        }
        self.queue.put_entry(entry);
        self.appended.last_index = Some(entry.index);
    }

    /// Submits what may go: batches up to the bound in flight, and the making of a spare segment.
    ///
    /// Errors: the log is poisoned.
    pub fn pump(&mut self, disk: &mut dyn Disk) -> Result<(), WalError> {
        self.check()?;
        while self.in_flight.len() < self.max_in_flight && self.submit_next(disk) {}
        self.make_spare(disk);
        Ok(())
    }

    /// Takes in the end of one of this log's operations, then pumps.
    ///
    /// Errors: the operation failed, or the log was poisoned before.
    pub fn on_completion(&mut self, disk: &mut dyn Disk, completion: Completion) -> Result<(), WalError> {
        self.check()?;
        let ended = self.operation_ended(completion);
        ended.map_err(|error| self.poison(error.into()))?;
        self.advance(disk);
        self.pump(disk)
    }

    /// Everything appended through this token is durable.
    pub fn persisted(&self) -> AppendToken {
        self.persisted
    }

    /// Whether an operation with this token is this log's.
    pub fn owns(&self, token: Token) -> bool {
        token
            .checked_sub(self.token_base)
            .is_some_and(|number| number < 1 << 32)
    }

    /// Entries at or below `index` are no longer needed; whole segments of such are recycled after the next batches.
    ///
    /// Order: only once the tree durably holds them.
    pub fn release(&mut self, index: u64) {
        self.released_index = self.released_index.max(index);
    }

    /// Asks for an empty batch if something was written since the last one: call it after idling.
    ///
    /// It makes recovery certain about the last real batch, and writes a waiting commit index.
    pub fn settle(&mut self) {
        if self.settle == Settle::Open || self.appended.lazy.is_some() {
            self.settle = Settle::Wanted;
        }
    }

    /// Whether operations of this log have not ended.
    pub fn has_work_in_flight(&self) -> bool {
        let making = self.maker.as_ref().is_some_and(|maker| maker.in_flight.is_some());
        making || !self.in_flight.is_empty() || !self.chores.is_empty()
    }

    /// Bytes appended and not yet durable.
    pub fn queued_bytes(&self) -> usize {
        self.queue.bytes() + self.in_flight.iter().map(|batch| batch.payload_bytes).sum::<usize>()
    }

    /// Whether there is room for what comes next.
    pub fn space(&self) -> Space {
        let waits = self
            .queue
            .next_len()
            .is_some_and(|payload| !self.fits(format::batch_bytes(payload) as u64));
        match self.maker.as_ref().and_then(|maker| maker.no_space.as_ref()) {
            _ if !self.spares.is_empty() => Space::Ready,
            Some(error) if waits => Space::Exhausted(error.clone()),
            Some(error) => Space::SpareUnavailable(error.clone()),
            None => Space::Preparing,
        }
    }

    /// Tries again to make a spare segment at the next pump.
    pub fn retry_space(&mut self) {
        if let Some(maker) = &mut self.maker {
            maker.no_space = None;
        }
    }

    /// Bytes written in batches since the log was opened, padding included.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Size of a segment, in bytes.
    pub fn segment_size_bytes(&self) -> u64 {
        self.segment_size_bytes
    }

    /// How many segments the log takes, the active one included and spares not.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    fn check(&self) -> Result<(), WalError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn poison(&mut self, error: WalError) -> WalError {
        self.failed = Some(error.clone());
        error
    }

    fn new_token(&mut self) -> Token {
        let token = self.token_base + (self.next_op & 0xffff_ffff);
        self.next_op += 1;
        token
    }

    fn active(&self) -> &Segment {
        self.segments.back().expect("an open log has an active segment")
    }

    /// Whether a batch of data of this size goes into the active segment; its last block is kept for settling.
    fn fits(&self, size: u64) -> bool {
        self.offset + size + BLOCK <= self.segment_size_bytes
    }

    /// Submits one batch, if one is due and there is room; says whether it did.
    fn submit_next(&mut self, disk: &mut dyn Disk) -> bool {
        let Some(payload_bytes) = self.queue.next_len() else {
            return self.submit_settling(disk);
        };
        if self.fits(format::batch_bytes(payload_bytes) as u64) {
            let payload = self.queue.take().expect("the queue said there is a payload");
            self.submit(disk, payload);
            self.settle = if self.settle == Settle::Wanted {
                Settle::Wanted
            } else {
                Settle::Open
            };
            return true;
        }
        if let Some(slot) = self.spares.pop() {
            let opener = self.enter(slot);
            self.submit(disk, opener);
            return true;
        }
        // Without a spare, the last block says that older segments may go: that is how a full log gets going again.
        let frees = self.log_start() > self.chain.announced_start && self.offset + BLOCK <= self.segment_size_bytes;
        if frees {
            let empty = self.empty_payload();
            self.submit(disk, empty);
        }
        frees
    }

    fn submit_settling(&mut self, disk: &mut dyn Disk) -> bool {
        if self.settle != Settle::Wanted || !self.in_flight.is_empty() {
            return false;
        }
        if let Some(state) = self.appended.lazy.take() {
            self.queue.put_hard_state(state);
            return true;
        }
        if !self.fits(BLOCK) {
            let Some(slot) = self.spares.pop() else { return false };
            let opener = self.enter(slot);
            self.submit(disk, opener);
        } else {
            let empty = self.empty_payload();
            self.submit(disk, empty);
        }
        self.settle = Settle::Settled;
        true
    }

    /// The append token that the last submitted batch completed.
    fn submitted_token(&self) -> u64 {
        self.in_flight
            .back()
            .map_or(self.persisted.0, |batch| batch.append_token)
    }

    fn empty_payload(&mut self) -> Payload {
        let token = self.submitted_token();
        self.queue.empty(token)
    }

    /// Makes `slot` the active segment; the answer is its opener, which must be the next batch.
    fn enter(&mut self, slot: Slot) -> Payload {
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        let first_sequence = self.chain.next_sequence;
        self.segments.push_back(Segment {
            slot,
            number,
            first_sequence,
            last_index: 0,
        });
        self.offset = 0;
        let mut opener = self.empty_payload();
        opener.put_hard_state(self.appended.submitted_hard_state);
        if let Some(marker) = self.appended.submitted_marker.clone() {
            opener.put_marker(marker);
        }
        opener
    }

    fn submit(&mut self, disk: &mut dyn Disk, payload: Payload) {
        let (append_token, payload_bytes) = (payload.append_token, payload.len());
        let (file, offset, data) = self.seal(payload);
        let token = self.new_token();
        let log_start = self.chain.announced_start;
        let batch = InFlight {
            token,
            ended: false,
            append_token,
            log_start,
            payload_bytes,
            data: data.clone(),
        };
        self.in_flight.push_back(batch);
        disk.submit(
            token,
            Op::Write {
                file,
                offset,
                data: WriteBuf::Bytes(data),
            },
        );
    }

    /// Makes a payload the next batch of the chain; the answer is the write to perform.
    fn seal(&mut self, mut payload: Payload) -> (FileId, u64, Bytes) {
        let log_start = self.log_start();
        let (offset, size) = (self.offset, format::batch_bytes(payload.len()) as u64);
        let segment = self.segments.back_mut().expect("an open log has an active segment");
        let header = BatchHeader {
            log_id: self.log_id,
            sequence: self.chain.next_sequence,
            epoch: self.chain.epoch,
            durable_through: self.chain.durable_through,
            log_start,
            segment: segment.number,
            slot: segment.slot.number,
            block: u32::try_from(offset / BLOCK).expect("a segment is below 4 GiB"),
            payload_bytes: payload.len() as u32,
            record_count: payload.record_count,
            previous_crc: self.chain.previous_crc,
        };
        segment.last_index = segment.last_index.max(payload.last_index);
        let file = segment.slot.file;
        payload.buffer.resize(size as usize, 0);
        self.chain.previous_crc = header.seal(&mut payload.buffer);
        self.chain.next_sequence += 1;
        self.chain.announced_start = log_start;
        self.offset += size;
        self.written_bytes += size;
        if let Some(state) = payload.hard_state {
            self.appended.submitted_hard_state = state;
        }
        if payload.marker.is_some() {
            self.appended.submitted_marker = payload.marker.take();
        }
        (file, offset, payload.buffer.freeze())
    }

    /// The oldest batch recovery will need: the first of the oldest segment with an entry that is not released.
    ///
    /// A segment can be the start only when its opener is durable, since the state of the log stands there.
    fn log_start(&self) -> u64 {
        let mut start = self
            .segments
            .front()
            .expect("an open log has an active segment")
            .first_sequence;
        for (segment, next) in self.segments.iter().zip(self.segments.iter().skip(1)) {
            let durable = next.first_sequence <= self.chain.durable_through || mutant::on("log_starts_unsynced");
            if segment.last_index > self.released_index || !durable {
                break;
            }
            start = next.first_sequence;
        }
        start.max(self.chain.announced_start)
    }

    fn operation_ended(&mut self, completion: Completion) -> Result<(), DiskError> {
        let Completion { token, result } = completion;
        if let Some(batch) = self.in_flight.iter_mut().find(|batch| batch.token == token) {
            result?;
            batch.ended = true;
            if mutant::on("later_batch_counts_for_earlier") {
                self.in_flight
                    .iter_mut()
                    .for_each(|batch| batch.ended |= batch.token < token);
            }
            return Ok(());
        }
        if let Some(at) = self.chores.iter().position(|chore| *chore == token) {
            result?;
            self.chores.swap_remove(at);
            return Ok(());
        }
        let maker = self.maker.as_mut().filter(|maker| maker.in_flight == Some(token));
        let maker = maker.unwrap_or_else(|| panic!("operation {token} is not one of the log's"));
        if let Some(slot) = maker.ended(result, self.segment_size_bytes)? {
            self.maker = None;
            self.spares.push(slot);
        }
        Ok(())
    }

    /// Takes the batches that have ended off the front: they are durable now, and what they released is free.
    fn advance(&mut self, disk: &mut dyn Disk) {
        let mut durable_start = 0;
        while self.in_flight.front().is_some_and(|batch| batch.ended) {
            let batch = self.in_flight.pop_front().expect("it was there just now");
            self.chain.durable_through += 1;
            self.persisted = AppendToken(batch.append_token);
            durable_start = batch.log_start;
            self.queue.recycle(batch.data);
        }
        let durable_start = if mutant::on("segment_recycled_early") {
            self.log_start()
        } else {
            durable_start
        };
        while self.segments.len() > 1 && self.segments[1].first_sequence <= durable_start {
            let segment = self.segments.pop_front().expect("there are two");
            if self.spares.len() < SPARES_MAX {
                self.spares.push(segment.slot);
            } else {
                self.remove(disk, segment.slot);
            }
        }
    }

    fn remove(&mut self, disk: &mut dyn Disk, slot: Slot) {
        let (close, remove) = (self.new_token(), self.new_token());
        self.chores.extend([close, remove]);
        disk.submit(close, Op::Close(slot.file));
        disk.submit(remove, Op::Remove(slot_path(&self.dir, slot.number)));
    }

    fn make_spare(&mut self, disk: &mut dyn Disk) {
        if self.maker.is_none() && self.spares.is_empty() {
            self.maker = Some(SpareMaker::new(self.next_slot, None));
            self.next_slot += 1;
        }
        let idle = |maker: &SpareMaker| maker.in_flight.is_none() && maker.no_space.is_none();
        if self.maker.as_ref().is_some_and(idle) {
            let token = self.new_token();
            let maker = self.maker.as_mut().expect("it was there just now");
            maker.in_flight = Some(token);
            disk.submit(token, maker.next_op(&self.dir, self.segment_size_bytes));
        }
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("chain", &self.chain)
            .field("segments", &self.segments)
            .field("offset", &self.offset)
            .field("in_flight", &self.in_flight.len())
            .field("spares", &self.spares)
            .finish_non_exhaustive()
    }
}
