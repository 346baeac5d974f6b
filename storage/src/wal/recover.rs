//! Opening a log: making a new one, or finding out what an old one holds. Blocking.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::{Entry, HardState, SnapshotMetadata, mutant};

use super::{
    AppendToken, Appended, BLOCK, Chain, Identity, Recovered, SPARES_MAX, Segment, Settle, TornTail, Wal, WalError,
    WalOptions,
    format::{self, BatchHeader, FORMAT, Found, HEADER_BYTES, Meta, Record, RecordReader},
    queue::Queue,
    slot_path,
    spare::{SLOT_OPTIONS, Slot, SpareMaker},
};
use crate::io::{Disk, DiskError, FileId, Op, OpenOptions, Output, WriteBuf};

const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES_MAX: u64 = 2 << 30;

pub(super) fn open(
    disk: &mut dyn Disk,
    options: WalOptions,
    identity: Option<Identity>,
) -> Result<(Wal, Recovered), WalError> {
    if options.max_in_flight == 0 {
        return Err(WalError::Options(
            "at least one batch must be allowed in flight".to_owned(),
        ));
    }
    disk.call(Op::CreateDir(options.dir.clone()))?;
    let mut above = options.dir.as_str();
    while let Some((parent, _)) = above.rsplit_once('/') {
        disk.call(Op::SyncDir(parent.to_owned()))?;
        above = parent;
    }
    disk.call(Op::SyncDir(String::new()))?;
    let names = list(disk, &options.dir)?;
    if names.iter().any(|name| name == "meta") {
        recover(disk, options, identity, &names)
    } else {
        create(disk, options, identity, &names)
    }
}

pub(super) fn identity(disk: &mut dyn Disk, dir: &str) -> Result<Option<Identity>, WalError> {
    disk.call(Op::CreateDir(dir.to_owned()))?;
    if list(disk, dir)?.iter().any(|name| name == "meta") {
        return Ok(Some(read_meta(disk, dir)?.identity));
    }
    Ok(None)
}

fn list(disk: &mut dyn Disk, dir: &str) -> Result<Vec<String>, DiskError> {
    match disk.call(Op::List(dir.to_owned()))? {
        Output::Names(names) => Ok(names),
        other => panic!("a list answers names, not {other:?}"),
    }
}

fn open_file(disk: &mut dyn Disk, path: String, options: OpenOptions) -> Result<FileId, DiskError> {
    match disk.call(Op::Open { path, options })? {
        Output::File(file) => Ok(file),
        other => panic!("an open answers a file, not {other:?}"),
    }
}

fn read(disk: &mut dyn Disk, file: FileId, offset: u64, len: usize) -> Result<Bytes, DiskError> {
    match disk.call(Op::Read { file, offset, len })? {
        Output::Data(data) => Ok(data),
        other => panic!("a read answers data, not {other:?}"),
    }
}

fn file_len(disk: &mut dyn Disk, file: FileId) -> Result<u64, DiskError> {
    match disk.call(Op::Len(file))? {
        Output::Len(len) => Ok(len),
        other => panic!("a length is asked for, not {other:?}"),
    }
}

/// The slot numbers among the names of the directory.
fn slot_numbers(names: &[String]) -> Vec<u32> {
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".seg"));
    numbers
        .filter(|stem| stem.len() == 8)
        .filter_map(|stem| stem.parse().ok())
        .collect()
}

fn check_segment_size(size: u64) -> Result<u64, WalError> {
    if (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&size) && size.is_multiple_of(BLOCK) {
        return Ok(size);
    }
    Err(WalError::Options(format!(
        "segments of {size} bytes are not possible; choose a multiple of 4096 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
    )))
}

fn choose_segment_size(disk: &mut dyn Disk, options: &WalOptions) -> Result<u64, WalError> {
    if let Some(size) = options.segment_size_bytes {
        return check_segment_size(size);
    }
    let Output::Space { total, .. } = disk.call(Op::Space)? else {
        panic!("space is asked for")
    };
    let sixteenth = (total / 16).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_DEFAULT);
    Ok(sixteenth - sixteenth % BLOCK)
}

fn new_wal(options: WalOptions, meta: Meta, chain: Chain) -> Wal {
    // A batch fits a fresh segment behind its opener, with the last block left over.
    let room = meta.segment_size_bytes as usize - 2 * BLOCK as usize - HEADER_BYTES;
    Wal {
        queue: Queue::new(options.max_batch_bytes.clamp(BLOCK as usize - HEADER_BYTES, room)),
        dir: options.dir,
        log_id: meta.log_id,
        segment_size_bytes: meta.segment_size_bytes,
        max_in_flight: options.max_in_flight,
        token_base: options.token_base,
        next_op: 0,
        chain,
        segments: VecDeque::new(),
        offset: 0,
        in_flight: VecDeque::new(),
        spares: Vec::new(),
        maker: None,
        chores: Vec::new(),
        next_slot: 0,
        released_index: 0,
        appended: Appended::default(),
        persisted: AppendToken(0),
        settle: Settle::Settled,
        failed: None,
        written_bytes: 0,
    }
}

/// Makes a slot ready, blocking.
fn make_slot(disk: &mut dyn Disk, wal: &Wal, mut maker: SpareMaker) -> Result<Slot, DiskError> {
    loop {
        let result = disk.call(maker.next_op(&wal.dir, wal.segment_size_bytes));
        if let Some(slot) = maker.ended(result, wal.segment_size_bytes)? {
            return Ok(slot);
        }
        if let Some(error) = maker.no_space.take() {
            return Err(error);
        }
    }
}

/// Writes the next batch of the chain, blocking: the opener of `slot`, or an empty batch without one.
fn write_batch(disk: &mut dyn Disk, wal: &mut Wal, slot: Option<Slot>) -> Result<(), DiskError> {
    let payload = match slot {
        Some(slot) => wal.enter(slot),
        None => wal.empty_payload(),
    };
    let (file, offset, data) = wal.seal(payload);
    disk.call(Op::Write {
        file,
        offset,
        data: WriteBuf::Bytes(data),
    })?;
    wal.chain.durable_through += 1;
    Ok(())
}

/// Makes a new log. The meta file comes last: a log without one holds nothing that was acknowledged.
fn create(
    disk: &mut dyn Disk,
    options: WalOptions,
    identity: Option<Identity>,
    names: &[String],
) -> Result<(Wal, Recovered), WalError> {
    check_nothing_lost(disk, &options.dir, &slot_numbers(names))?;
    let identity = identity.ok_or_else(|| WalError::Missing(options.dir.clone()))?;
    let segment_size_bytes = choose_segment_size(disk, &options)?;
    let meta = Meta {
        log_id: options.log_id,
        identity,
        segment_size_bytes,
    };
    let chain = Chain {
        next_sequence: 1,
        previous_crc: 0,
        epoch: 1,
        durable_through: 0,
        announced_start: 1,
    };
    let mut wal = new_wal(options, meta, chain);
    let slot = make_slot(disk, &wal, SpareMaker::new(0, None))?;
    wal.next_slot = 1;
    write_batch(disk, &mut wal, Some(slot))?;
    write_meta(disk, &wal.dir, &meta)?;
    let recovered = Recovered {
        identity,
        created: true,
        hard_state: HardState::default(),
        snapshot: None,
        entries: Vec::new(),
        torn_tail: None,
    };
    Ok((wal, recovered))
}

/// Refuses to make a log over one that has lost its meta file: making one leaves a single batch at most.
fn check_nothing_lost(disk: &mut dyn Disk, dir: &str, slots: &[u32]) -> Result<(), WalError> {
    let mut lost = slots.len() > 1;
    if let [slot] = slots {
        let file = open_file(disk, slot_path(dir, *slot), OpenOptions::default())?;
        let len = file_len(disk, file)? as usize;
        let bytes = read(disk, file, 0, len)?;
        disk.call(Op::Close(file))?;
        lost = bytes
            .chunks(BLOCK as usize)
            .skip(1)
            .any(|block| block.starts_with(&format::BATCH_MAGIC));
    }
    if !lost {
        return Ok(());
    }
    Err(WalError::Corrupt {
        file: format!("{dir}/meta"),
        offset: 0,
        expected: "the meta file of a log that has segments".to_owned(),
        found: "no such file".to_owned(),
    })
}

fn write_meta(disk: &mut dyn Disk, dir: &str, meta: &Meta) -> Result<(), DiskError> {
    let (temporary, path) = (format!("{dir}/meta.tmp"), format!("{dir}/meta"));
    let options = OpenOptions {
        create: true,
        write: true,
        ..OpenOptions::default()
    };
    let file = open_file(disk, temporary.clone(), options)?;
    let data = WriteBuf::Bytes(meta.encode().into());
    disk.call(Op::Write { file, offset: 0, data })?;
    disk.call(Op::Sync(file))?;
    disk.call(Op::Close(file))?;
    disk.call(Op::Rename {
        from: temporary,
        to: path,
    })?;
    disk.call(Op::SyncDir(dir.to_owned()))?;
    Ok(())
}

fn read_meta(disk: &mut dyn Disk, dir: &str) -> Result<Meta, WalError> {
    let path = format!("{dir}/meta");
    let file = open_file(disk, path.clone(), OpenOptions::default())?;
    let bytes = read(disk, file, 0, BLOCK as usize)?;
    disk.call(Op::Close(file))?;
    Meta::decode(&path, &bytes)
}

/// A whole batch that stands somewhere in the slots.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    header: BatchHeader,
    crc: u32,
}

impl Candidate {
    fn offset(&self) -> u64 {
        u64::from(self.header.block) * BLOCK
    }

    fn end(&self) -> u64 {
        self.offset() + format::batch_bytes(self.header.payload_bytes as usize) as u64
    }

    /// Whether this batch may stand behind `before` in the chain.
    fn follows(&self, before: &Candidate) -> bool {
        let (new, old) = (&self.header, &before.header);
        let goes_on = new.segment == old.segment && new.slot == old.slot && self.offset() == before.end();
        let switches = new.segment == old.segment + 1 && new.slot != old.slot && new.block == 0;
        new.previous_crc == before.crc && new.epoch >= old.epoch && (goes_on || switches)
    }
}

/// Everything found in the slots.
struct Scan {
    by_sequence: BTreeMap<u64, Vec<Candidate>>,
    /// The highest `durable_through` that a whole batch claims.
    durable_through: u64,
    log_start: u64,
    epoch_max: u64,
}

fn scan(disk: &mut dyn Disk, dir: &str, slots: &[Slot], log_id: u64) -> Result<Scan, WalError> {
    let mut scan = Scan {
        by_sequence: BTreeMap::new(),
        durable_through: 0,
        log_start: 0,
        epoch_max: 0,
    };
    for slot in slots {
        let len = file_len(disk, slot.file)? as usize;
        let bytes = read(disk, slot.file, 0, len)?;
        let mut at = 0;
        while at < bytes.len() {
            match format::find_batch(&bytes[at..], log_id, slot.number, (at as u64 / BLOCK) as u32) {
                Found::Batch(header, crc) => {
                    let candidate = Candidate { header, crc };
                    at = candidate.end() as usize;
                    scan.add(candidate);
                }
                Found::Newer(min_reader) => {
                    let file = slot_path(dir, slot.number);
                    return Err(WalError::NewerFormat {
                        file,
                        min_reader,
                        ours: FORMAT,
                    });
                }
                Found::Other => at += BLOCK as usize,
            }
        }
    }
    Ok(scan)
}

impl Scan {
    fn add(&mut self, candidate: Candidate) {
        let header = &candidate.header;
        self.durable_through = self.durable_through.max(header.durable_through);
        self.log_start = self.log_start.max(header.log_start);
        self.epoch_max = self.epoch_max.max(header.epoch);
        self.by_sequence.entry(header.sequence).or_default().push(candidate);
    }

    /// The batches of the log in order, up to the first that is not there.
    fn chain(&self) -> Vec<Candidate> {
        let mut chain: Vec<Candidate> = Vec::new();
        loop {
            let sequence = self.log_start + chain.len() as u64;
            let fits = |candidate: &&Candidate| match chain.last() {
                Some(before) => candidate.follows(before),
                None => candidate.header.block == 0,
            };
            let candidates = self.by_sequence.get(&sequence).into_iter().flatten();
            let Some(next) = candidates.filter(fits).max_by_key(|candidate| candidate.header.epoch) else {
                return chain;
            };
            chain.push(*next);
        }
    }

    /// Where the first batch behind `chain` stands or stood, as far as can be told: slot and offset.
    fn expected_at(&self, chain: &[Candidate], segment_size_bytes: u64) -> (u32, u64) {
        let sequence = self.log_start + chain.len() as u64;
        let later = self
            .by_sequence
            .range(sequence + 1..)
            .flat_map(|(_, candidates)| candidates)
            .next();
        match (chain.last(), later) {
            (Some(last), Some(later)) if later.header.slot == last.header.slot => (last.header.slot, last.end()),
            (Some(last), _) if later.is_none_or(|later| later.header.block == 0) && last.end() < segment_size_bytes => {
                (last.header.slot, last.end())
            }
            (_, Some(later)) => (later.header.slot, 0),
            (Some(last), None) => (last.header.slot, last.end()),
            (None, None) => (0, 0),
        }
    }
}

fn recover(
    disk: &mut dyn Disk,
    options: WalOptions,
    identity: Option<Identity>,
    names: &[String],
) -> Result<(Wal, Recovered), WalError> {
    let meta = read_meta(disk, &options.dir)?;
    let found = meta.identity;
    if let Some(expected) = identity.filter(|expected| *expected != found) {
        return Err(WalError::IdentityMismatch { expected, found });
    }
    check_segment_size(meta.segment_size_bytes)?;
    let mut slots = Vec::new();
    for number in slot_numbers(names) {
        let file = open_file(disk, slot_path(&options.dir, number), SLOT_OPTIONS)?;
        slots.push(Slot { number, file });
    }
    let scan = scan(disk, &options.dir, &slots, meta.log_id)?;
    let chain = scan.chain();
    let missing = scan.log_start + chain.len() as u64;
    let last = match chain.last() {
        Some(last) if missing > scan.durable_through || mutant::on("corruption_truncated") => *last,
        _ => {
            return Err(corrupt(
                disk,
                &options.dir,
                &slots,
                &scan,
                &chain,
                meta.segment_size_bytes,
            )?);
        }
    };

    let chain_state = Chain {
        next_sequence: missing,
        previous_crc: last.crc,
        epoch: scan.epoch_max,
        durable_through: missing - 1,
        announced_start: scan.log_start,
    };
    let mut wal = new_wal(options, meta, chain_state);
    wal.next_slot = slots.iter().map(|slot| slot.number + 1).max().unwrap_or(0);
    wal.offset = last.end();
    let mut contents = Contents::default();
    replay(disk, &mut wal, &slots, &chain, &mut contents)?;
    // What was read may still be on its way to the disk, if the process died and the machine did not.
    for segment in wal.segments.iter().filter(|_| !mutant::on("recovered_log_not_synced")) {
        disk.call(Op::Sync(segment.slot.file))?;
    }
    disk.call(Op::SyncDir(wal.dir.clone()))?;
    adopt_spares(disk, &mut wal, &slots)?;
    let torn_tail = cut_tail(disk, &mut wal, &scan, &last)?;
    // Order: a slot goes only when a batch of the chain says where the log starts; what was cut may have said it alone.
    while wal.spares.len() > SPARES_MAX {
        let slot = wal.spares.remove(0);
        disk.call(Op::Close(slot.file))?;
        disk.call(Op::Remove(slot_path(&wal.dir, slot.number)))?;
    }
    let recovered = Recovered {
        identity: found,
        created: false,
        hard_state: contents.hard_state,
        snapshot: contents.marker,
        entries: contents.entries,
        torn_tail,
    };
    Ok((wal, recovered))
}

/// Describes the first batch that is missing though it was durable.
fn corrupt(
    disk: &mut dyn Disk,
    dir: &str,
    slots: &[Slot],
    scan: &Scan,
    chain: &[Candidate],
    segment_size_bytes: u64,
) -> Result<WalError, DiskError> {
    let sequence = scan.log_start + chain.len() as u64;
    let (number, offset) = scan.expected_at(chain, segment_size_bytes);
    let found = match slots.iter().find(|slot| slot.number == number) {
        Some(slot) => {
            let len = segment_size_bytes.saturating_sub(offset) as usize;
            format::describe(&read(disk, slot.file, offset, len)?)
        }
        None => "no such file".to_owned(),
    };
    let expected = match chain.last() {
        Some(last) => format!("batch {sequence} behind checksum {:#010x}", last.crc),
        None => format!("batch {sequence}, the start of the log"),
    };
    Ok(WalError::Corrupt {
        file: slot_path(dir, number),
        offset,
        expected,
        found,
    })
}

/// What the records come to.
#[derive(Default)]
struct Contents {
    hard_state: HardState,
    marker: Option<SnapshotMetadata>,
    entries: Vec<Entry>,
    /// Indexes of an entry behind a gap, and of the entry before.
    gap: Option<(u64, u64)>,
}

impl Contents {
    fn take(&mut self, record: Record) {
        match record {
            Record::HardState(state) => self.hard_state = state,
            Record::Marker(marker) => self.take_marker(marker),
            Record::Entry(entry) => self.take_entry(entry),
        }
    }

    /// A marker the entries do not lead to came with a snapshot: it replaces them.
    fn take_marker(&mut self, marker: SnapshotMetadata) {
        if let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) {
            let differs = || self.entries[(marker.index - first.index) as usize].term != marker.term;
            if marker.index > last.index || (marker.index >= first.index && differs()) {
                self.entries.clear();
            }
        }
        self.marker = Some(marker);
    }

    fn take_entry(&mut self, entry: Entry) {
        if let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) {
            if entry.index > last.index + 1 {
                self.gap = self.gap.or(Some((last.index, entry.index)));
            }
            self.entries.truncate(entry.index.saturating_sub(first.index) as usize);
        }
        self.entries.push(entry);
    }
}

/// Reads the records of the chain, and finds the segments it goes through.
fn replay(
    disk: &mut dyn Disk,
    wal: &mut Wal,
    slots: &[Slot],
    chain: &[Candidate],
    contents: &mut Contents,
) -> Result<(), WalError> {
    let mut reader = RecordReader::default();
    for batch in chain {
        let header = &batch.header;
        let slot = *slots
            .iter()
            .find(|slot| slot.number == header.slot)
            .expect("the scan went through these slots");
        if wal
            .segments
            .back()
            .is_none_or(|segment| segment.number != header.segment)
        {
            let (number, first_sequence) = (header.segment, header.sequence);
            wal.segments.push_back(Segment {
                slot,
                number,
                first_sequence,
                last_index: 0,
            });
        }
        let segment = wal.segments.back_mut().expect("it was pushed just now");
        let bytes = read(
            disk,
            slot.file,
            batch.offset() + HEADER_BYTES as u64,
            header.payload_bytes as usize,
        )?;
        let read = reader.read(&bytes, header.record_count, |record| {
            if let Record::Entry(entry) = &record {
                segment.last_index = segment.last_index.max(entry.index);
            }
            contents.take(record);
        });
        // An entry that only begins here needs this segment as much as one that ends here.
        segment.last_index = segment.last_index.max(reader.begun_index());
        let gap = contents
            .gap
            .map(|(last, next)| format!("entry {next} behind entry {last}"));
        if let Some(found) = read.err().map(str::to_owned).or(gap) {
            return Err(WalError::Corrupt {
                file: slot_path(&wal.dir, header.slot),
                offset: batch.offset(),
                expected: "whole records of consecutive entries".to_owned(),
                found,
            });
        }
    }
    let marker = contents
        .marker
        .as_ref()
        .map(|marker| Bytes::from(format::marker_body(marker)));
    wal.appended = Appended {
        hard_state: contents.hard_state,
        submitted_hard_state: contents.hard_state,
        submitted_marker: marker,
        last_index: contents.entries.last().map(|entry| entry.index),
        ..Appended::default()
    };
    Ok(())
}

/// Keeps the slots that are not in the log as spares; an unfinished one is finished later.
fn adopt_spares(disk: &mut dyn Disk, wal: &mut Wal, slots: &[Slot]) -> Result<(), DiskError> {
    for slot in slots {
        if wal.segments.iter().any(|segment| segment.slot == *slot) {
            continue;
        }
        if file_len(disk, slot.file)? == wal.segment_size_bytes {
            wal.spares.push(*slot);
        } else if wal.maker.is_none() {
            wal.maker = Some(SpareMaker::new(slot.number, Some(slot.file)));
        } else {
            disk.call(Op::Close(slot.file))?;
        }
    }
    Ok(())
}

/// When whole batches stand behind the end of the log, writes a batch of a higher epoch there: they never revive.
fn cut_tail(disk: &mut dyn Disk, wal: &mut Wal, scan: &Scan, last: &Candidate) -> Result<Option<TornTail>, DiskError> {
    let sequence = wal.chain.next_sequence;
    let behind = scan
        .by_sequence
        .range(sequence..)
        .flat_map(|(_, candidates)| candidates);
    let batches_cut = behind
        .filter(|candidate| candidate.header.epoch >= last.header.epoch)
        .count() as u64;
    let block = read(disk, wal.active().slot.file, wal.offset, BLOCK as usize)?;
    let torn = format::begins_batch(&block, wal.log_id, sequence);
    let file = slot_path(&wal.dir, wal.active().slot.number);
    let torn_tail = TornTail {
        file,
        offset: wal.offset,
        sequence,
        batches_cut,
    };
    if batches_cut > 0 && !mutant::on("cut_tail_revives") {
        wal.chain.epoch = scan.epoch_max + 1;
        let slot = match wal.offset + BLOCK <= wal.segment_size_bytes {
            true => None,
            false => Some(spare_now(disk, wal)?),
        };
        write_batch(disk, wal, slot)?;
    }
    Ok(Some(torn_tail).filter(|_| torn || batches_cut > 0))
}

fn spare_now(disk: &mut dyn Disk, wal: &mut Wal) -> Result<Slot, DiskError> {
    if let Some(slot) = wal.spares.pop() {
        return Ok(slot);
    }
    let maker = wal.maker.take().unwrap_or_else(|| {
        wal.next_slot += 1;
        SpareMaker::new(wal.next_slot - 1, None)
    });
    make_slot(disk, wal, maker)
}
