//! The bytes of the log: batch header, records, the `meta` file. Drawn in docs/FORMAT.md.

use bytes::{BufMut, Bytes, BytesMut};
use raft::{ConfState, Entry, EntryType, HardState, SnapshotMetadata};

use super::{Identity, WalError};
use crate::io::BLOCK_SIZE;

/// The format this build writes, and the newest `min_reader` it reads.
pub(super) const FORMAT: u16 = 1;
const MIN_READER: u16 = 1;

/// First bytes of a batch.
pub(super) const BATCH_MAGIC: [u8; 8] = *b"ecWALb1\n";
const META_MAGIC: [u8; 8] = *b"ecWALm1\n";

pub(super) const HEADER_BYTES: usize = 96;
/// The checksum covers the header up to itself, then the payload.
const CRC_AT: usize = 92;
pub(super) const RECORD_HEADER_BYTES: usize = 8;

/// The head of one batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchHeader {
    pub(super) log_id: u64,
    pub(super) sequence: u64,
    pub(super) epoch: u64,
    /// Every batch up to this one was durable when this one was submitted.
    pub(super) durable_through: u64,
    /// Recovery needs no batch before this one.
    pub(super) log_start: u64,
    /// Which segment of the log this is in, counted from 1.
    pub(super) segment: u64,
    pub(super) slot: u32,
    /// Where in the slot, in blocks.
    pub(super) block: u32,
    pub(super) payload_bytes: u32,
    pub(super) record_count: u32,
    /// Checksum of the batch before.
    pub(super) previous_crc: u32,
}

/// Fields of the header by their offset.
mod at {
    pub const FORMAT: usize = 8;
    pub const MIN_READER: usize = 10;
    pub const LOG_ID: usize = 16;
    pub const SEQUENCE: usize = 24;
    pub const EPOCH: usize = 32;
    pub const DURABLE_THROUGH: usize = 40;
    pub const LOG_START: usize = 48;
    pub const SEGMENT: usize = 56;
    pub const SLOT: usize = 64;
    pub const BLOCK: usize = 68;
    pub const PAYLOAD_BYTES: usize = 72;
    pub const RECORD_COUNT: usize = 76;
    pub const PREVIOUS_CRC: usize = 80;
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Bytes a batch with this payload takes on disk.
pub(super) fn batch_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_SIZE)
}

impl BatchHeader {
    /// Fills in the head of a finished batch and answers its checksum.
    ///
    /// `batch` has room for the header, then the payload, then zeros.
    pub(super) fn seal(&self, batch: &mut [u8]) -> u32 {
        batch[..HEADER_BYTES].fill(0);
        batch[..8].copy_from_slice(&BATCH_MAGIC);
        let mut put = |at: usize, bytes: &[u8]| batch[at..at + bytes.len()].copy_from_slice(bytes);
        put(at::FORMAT, &FORMAT.to_le_bytes());
        put(at::MIN_READER, &MIN_READER.to_le_bytes());
        put(at::LOG_ID, &self.log_id.to_le_bytes());
        put(at::SEQUENCE, &self.sequence.to_le_bytes());
        put(at::EPOCH, &self.epoch.to_le_bytes());
        put(at::DURABLE_THROUGH, &self.durable_through.to_le_bytes());
        put(at::LOG_START, &self.log_start.to_le_bytes());
        put(at::SEGMENT, &self.segment.to_le_bytes());
        put(at::SLOT, &self.slot.to_le_bytes());
        put(at::BLOCK, &self.block.to_le_bytes());
        put(at::PAYLOAD_BYTES, &self.payload_bytes.to_le_bytes());
        put(at::RECORD_COUNT, &self.record_count.to_le_bytes());
        put(at::PREVIOUS_CRC, &self.previous_crc.to_le_bytes());
        let crc = batch_crc(batch, self.payload_bytes as usize);
        batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        crc
    }
}

fn batch_crc(batch: &[u8], payload_bytes: usize) -> u32 {
    let head = crc32c::crc32c(&batch[..CRC_AT]);
    crc32c::crc32c_append(head, &batch[HEADER_BYTES..HEADER_BYTES + payload_bytes])
}

/// What stands at a block of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A whole batch of this log at its place, with its checksum.
    Batch(BatchHeader, u32),
    /// A batch of this log that a newer format wrote; says the oldest reader that may read it.
    Newer(u16),
    /// Nothing of this log.
    Other,
}

/// Looks for a batch at the start of `bytes`, which stand at `block` of `slot`.
pub(super) fn find_batch(bytes: &[u8], log_id: u64, slot: u32, block: u32) -> Found {
    if bytes.len() < HEADER_BYTES || bytes[..8] != BATCH_MAGIC || get_u64(bytes, at::LOG_ID) != log_id {
        return Found::Other;
    }
    let header = BatchHeader {
        log_id,
        sequence: get_u64(bytes, at::SEQUENCE),
        epoch: get_u64(bytes, at::EPOCH),
        durable_through: get_u64(bytes, at::DURABLE_THROUGH),
        log_start: get_u64(bytes, at::LOG_START),
        segment: get_u64(bytes, at::SEGMENT),
        slot: get_u32(bytes, at::SLOT),
        block: get_u32(bytes, at::BLOCK),
        payload_bytes: get_u32(bytes, at::PAYLOAD_BYTES),
        record_count: get_u32(bytes, at::RECORD_COUNT),
        previous_crc: get_u32(bytes, at::PREVIOUS_CRC),
    };
    let payload_bytes = header.payload_bytes as usize;
    if header.slot != slot || header.block != block || payload_bytes > bytes.len() - HEADER_BYTES {
        return Found::Other;
    }
    let crc = get_u32(bytes, CRC_AT);
    if batch_crc(bytes, payload_bytes) != crc {
        return Found::Other;
    }
    match get_u16(bytes, at::MIN_READER) {
        newer if newer > FORMAT => Found::Newer(newer),
        _ => Found::Batch(header, crc),
    }
}

/// Whether a block begins like this batch of the log, whole or not.
pub(super) fn begins_batch(block: &[u8], log_id: u64, sequence: u64) -> bool {
    block.len() >= HEADER_BYTES
        && block[..8] == BATCH_MAGIC
        && get_u64(block, at::LOG_ID) == log_id
        && get_u64(block, at::SEQUENCE) == sequence
}

/// Says what stands where a batch was expected.
pub(super) fn describe(bytes: &[u8]) -> String {
    if bytes.len() < HEADER_BYTES {
        return "the end of the file".to_owned();
    }
    if bytes[..8] != BATCH_MAGIC {
        let what = if bytes[..HEADER_BYTES].iter().all(|byte| *byte == 0) {
            "zeros"
        } else {
            "bytes that begin no batch"
        };
        return what.to_owned();
    }
    let sequence = get_u64(bytes, at::SEQUENCE);
    let stored = get_u32(bytes, CRC_AT);
    let payload_bytes = (get_u32(bytes, at::PAYLOAD_BYTES) as usize).min(bytes.len() - HEADER_BYTES);
    let computed = batch_crc(bytes, payload_bytes);
    format!("batch {sequence} with checksum {stored:#010x} over bytes that make {computed:#010x}")
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum RecordKind {
    Entry = 1,
    HardState = 2,
    Marker = 3,
}

/// The record begins here; without it, it began in the batch before.
const PART_BEGINS: u8 = 1;
/// The record ends here; without it, it goes on in the next batch.
const PART_ENDS: u8 = 2;

fn put_record_header(out: &mut BytesMut, kind: RecordKind, part: u8, entry_type: u8, len: usize) {
    out.put_slice(&[kind as u8, part, entry_type, 0]);
    out.put_u32_le(u32::try_from(len).expect("a record is smaller than a segment, which is below 4 GiB"));
}

pub(super) const HARD_STATE_BYTES: usize = 24;

pub(super) fn put_hard_state(out: &mut BytesMut, state: HardState) {
    put_record_header(out, RecordKind::HardState, PART_BEGINS | PART_ENDS, 0, HARD_STATE_BYTES);
    out.put_u64_le(state.term);
    out.put_u64_le(state.vote);
    out.put_u64_le(state.commit);
}

/// The body of a marker record.
pub(super) fn marker_body(marker: &SnapshotMetadata) -> Vec<u8> {
    let conf_state = marker.conf_state.encode();
    let mut body = Vec::with_capacity(16 + conf_state.len());
    body.put_u64_le(marker.index);
    body.put_u64_le(marker.term);
    body.put_slice(&conf_state);
    body
}

pub(super) fn put_marker(out: &mut BytesMut, body: &[u8]) {
    put_record_header(out, RecordKind::Marker, PART_BEGINS | PART_ENDS, 0, body.len());
    out.put_slice(body);
}

/// Bytes of an entry's term and index, in the first part of its record.
pub(super) const ENTRY_HEAD_BYTES: usize = 16;

/// Writes one part of an entry: `from..to` of its data, with the head when `from` is 0.
pub(super) fn put_entry_part(out: &mut BytesMut, entry: &Entry, from: usize, to: usize) {
    let begins = from == 0;
    let part = if begins { PART_BEGINS } else { 0 } | if to == entry.data.len() { PART_ENDS } else { 0 };
    let head = if begins { ENTRY_HEAD_BYTES } else { 0 };
    put_record_header(out, RecordKind::Entry, part, entry.entry_type as u8, head + to - from);
    if begins {
        out.put_u64_le(entry.term);
        out.put_u64_le(entry.index);
    }
    out.put_slice(&entry.data[from..to]);
}

/// A whole record of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    Entry(Entry),
    HardState(HardState),
    Marker(SnapshotMetadata),
}

/// Puts records together again from the payloads of consecutive batches.
#[derive(Default)]
pub(super) struct RecordReader {
    /// An entry whose end is still to come.
    partial: Option<Entry>,
    collected: Vec<u8>,
}

impl RecordReader {
    /// Index of the entry whose end is still to come; 0 when there is none.
    pub(super) fn begun_index(&self) -> u64 {
        self.partial.as_ref().map_or(0, |entry| entry.index)
    }

    /// Reads the records of one payload in order. The error says what is wrong with the bytes.
    pub(super) fn read(
        &mut self,
        payload: &[u8],
        record_count: u32,
        mut each: impl FnMut(Record),
    ) -> Result<(), &'static str> {
        let mut rest = payload;
        for _ in 0..record_count {
            let Some((head, tail)) = rest.split_at_checked(RECORD_HEADER_BYTES) else {
                return Err("a cut record");
            };
            let len = get_u32(head, 4) as usize;
            let Some((body, tail)) = tail.split_at_checked(len) else {
                return Err("a cut record");
            };
            rest = tail;
            if let Some(record) = self.record(head, body)? {
                each(record);
            }
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err("bytes behind the last record")
        }
    }

    fn record(&mut self, head: &[u8], body: &[u8]) -> Result<Option<Record>, &'static str> {
        match head[0] {
            kind if kind == RecordKind::Entry as u8 => self.entry(head, body),
            kind if kind == RecordKind::HardState as u8 => {
                if body.len() != HARD_STATE_BYTES {
                    return Err("a hard state of the wrong size");
                }
                let (term, vote, commit) = (get_u64(body, 0), get_u64(body, 8), get_u64(body, 16));
                Ok(Some(Record::HardState(HardState { term, vote, commit })))
            }
            kind if kind == RecordKind::Marker as u8 => {
                if body.len() < 16 {
                    return Err("a cut snapshot marker");
                }
                let conf_state = ConfState::decode(&Bytes::copy_from_slice(&body[16..]));
                let conf_state = conf_state.map_err(|_| "a marker without a configuration")?;
                let (index, term) = (get_u64(body, 0), get_u64(body, 8));
                Ok(Some(Record::Marker(SnapshotMetadata {
                    conf_state,
                    index,
                    term,
                })))
            }
            _ => Err("a record of an unknown kind"),
        }
    }

    fn entry(&mut self, head: &[u8], mut body: &[u8]) -> Result<Option<Record>, &'static str> {
        let part = head[1];
        if part & PART_BEGINS != 0 {
            if body.len() < ENTRY_HEAD_BYTES {
                return Err("a cut entry");
            }
            let entry_type = EntryType::from_number(head[2].into()).ok_or("an entry of an unknown type")?;
            let (term, index) = (get_u64(body, 0), get_u64(body, 8));
            body = &body[ENTRY_HEAD_BYTES..];
            self.collected.clear();
            self.partial = Some(Entry {
                entry_type,
                term,
                index,
                data: Bytes::new(),
            });
        }
        // The rest of an entry that began before the start of the log is of no interest.
        let Some(mut entry) = self.partial.take() else {
            return Ok(None);
        };
        if part & PART_ENDS == 0 {
            self.collected.extend_from_slice(body);
            self.partial = Some(entry);
            return Ok(None);
        }
        entry.data = if self.collected.is_empty() {
            Bytes::copy_from_slice(body)
        } else {
            self.collected.extend_from_slice(body);
            Bytes::from(std::mem::take(&mut self.collected))
        };
        Ok(Some(Record::Entry(entry)))
    }
}

/// The `meta` file: what never changes in the life of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meta {
    pub(super) log_id: u64,
    pub(super) identity: Identity,
    pub(super) segment_size_bytes: u64,
}

const META_CRC_AT: usize = 48;

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_SIZE);
        out.put_slice(&META_MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le(MIN_READER);
        out.put_u32_le(0);
        out.put_u64_le(self.log_id);
        out.put_u64_le(self.identity.member_id);
        out.put_u64_le(self.identity.cluster_id);
        out.put_u64_le(self.segment_size_bytes);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.resize(BLOCK_SIZE, 0);
        out
    }

    /// Reads the file called `file`.
    ///
    /// Errors: corrupt, or of a newer format.
    pub(super) fn decode(file: &str, bytes: &[u8]) -> Result<Meta, WalError> {
        let corrupt = |offset: u64, expected: &str, found: String| WalError::Corrupt {
            file: file.to_owned(),
            offset,
            expected: expected.to_owned(),
            found,
        };
        if bytes.len() < META_CRC_AT + 4 {
            return Err(corrupt(
                bytes.len() as u64,
                "52 bytes of log identity",
                format!("{} bytes", bytes.len()),
            ));
        }
        if bytes[..8] != META_MAGIC {
            return Err(corrupt(0, "the mark of a log's meta file", "other bytes".to_owned()));
        }
        let (stored, computed) = (get_u32(bytes, META_CRC_AT), crc32c::crc32c(&bytes[..META_CRC_AT]));
        if stored != computed {
            let offset = META_CRC_AT as u64;
            return Err(corrupt(
                offset,
                &format!("checksum {computed:#010x}"),
                format!("{stored:#010x}"),
            ));
        }
        let min_reader = get_u16(bytes, 10);
        if min_reader > FORMAT {
            return Err(WalError::NewerFormat {
                file: file.to_owned(),
                min_reader,
                ours: FORMAT,
            });
        }
        let identity = Identity {
            member_id: get_u64(bytes, 24),
            cluster_id: get_u64(bytes, 32),
        };
        Ok(Meta {
            log_id: get_u64(bytes, 16),
            identity,
            segment_size_bytes: get_u64(bytes, 40),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta {
        log_id: 0x1122_3344_5566_7788,
        identity: Identity {
            member_id: 0xa,
            cluster_id: 0xb,
        },
        segment_size_bytes: 16384,
    };

    #[test]
    fn the_meta_file_keeps_its_bytes() {
        let bytes = META.encode();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(&bytes[..16], b"ecWALm1\n\x01\0\x01\0\0\0\0\0");
        assert_eq!(bytes[16..24], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(
            bytes[24..48],
            *b"\x0a\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0"
        );
        assert_eq!(Meta::decode("wal/meta", &bytes).unwrap(), META);
    }

    #[test]
    fn a_damaged_or_newer_meta_file_is_refused_with_its_name() {
        for at in 0..52 {
            let mut bytes = META.encode();
            bytes[at] ^= 1;
            let error = Meta::decode("wal/meta", &bytes).unwrap_err();
            assert!(
                matches!(&error, WalError::Corrupt { file, .. } if file == "wal/meta"),
                "byte {at}: {error}"
            );
        }
        let mut newer = META.encode();
        newer[10] = 2;
        let crc = crc32c::crc32c(&newer[..48]);
        newer[48..52].copy_from_slice(&crc.to_le_bytes());
        let error = Meta::decode("wal/meta", &newer).unwrap_err();
        assert_eq!(
            error.to_string(),
            "write-ahead log: wal/meta needs a reader of format 2 and this etcore reads 1; run a newer etcore"
        );
    }

    const HEADER: BatchHeader = BatchHeader {
        log_id: 7,
        sequence: 3,
        epoch: 2,
        durable_through: 1,
        log_start: 1,
        segment: 1,
        slot: 5,
        block: 4,
        payload_bytes: 0,
        record_count: 0,
        previous_crc: 0xdead_beef,
    };

    fn sealed(payload: &BytesMut, record_count: u32) -> (BatchHeader, Vec<u8>, u32) {
        let header = BatchHeader {
            payload_bytes: payload.len() as u32,
            record_count,
            ..HEADER
        };
        let mut batch = vec![0; batch_bytes(payload.len())];
        batch[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
        let crc = header.seal(&mut batch);
        (header, batch, crc)
    }

    #[test]
    fn a_batch_keeps_its_bytes() {
        let mut payload = BytesMut::new();
        put_hard_state(
            &mut payload,
            HardState {
                term: 4,
                vote: 5,
                commit: 6,
            },
        );
        put_entry_part(&mut payload, &Entry::normal(4, 9, &b"abc"[..]), 0, 3);
        let (header, batch, crc) = sealed(&payload, 2);
        assert_eq!(&batch[..16], b"ecWALb1\n\x01\0\x01\0\0\0\0\0");
        assert_eq!(get_u64(&batch, 16), 7);
        assert_eq!(get_u64(&batch, 24), 3);
        assert_eq!(get_u64(&batch, 32), 2);
        assert_eq!(get_u64(&batch, 40), 1);
        assert_eq!(get_u64(&batch, 48), 1);
        assert_eq!(get_u64(&batch, 56), 1);
        assert_eq!(batch[64..72], [5, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(batch[72..84], [59, 0, 0, 0, 2, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]);
        assert_eq!(&batch[96..104], [2, 3, 0, 0, 24, 0, 0, 0]);
        assert_eq!(&batch[128..136], [1, 3, 0, 0, 19, 0, 0, 0]);
        assert_eq!(&batch[152..156], b"abc\0");
        assert_eq!(find_batch(&batch, 7, 5, 4), Found::Batch(header, crc));
    }

    #[test]
    fn a_batch_counts_only_whole_at_its_place_and_in_its_log() {
        let mut payload = BytesMut::new();
        put_entry_part(&mut payload, &Entry::normal(4, 9, vec![7; 5000]), 0, 5000);
        let (_, batch, _) = sealed(&payload, 1);
        for (log_id, slot, block) in [(8, 5, 4), (7, 4, 4), (7, 5, 3)] {
            assert_eq!(find_batch(&batch, log_id, slot, block), Found::Other);
        }
        assert_eq!(find_batch(&batch[..4096], 7, 5, 4), Found::Other);
        for at in 0..HEADER_BYTES + payload.len() {
            let mut rotten = batch.clone();
            rotten[at] ^= 0x10;
            assert_eq!(find_batch(&rotten, 7, 5, 4), Found::Other, "byte {at}");
        }
    }

    #[test]
    fn an_entry_in_parts_is_put_together_and_a_headless_rest_is_skipped() {
        let entry = Entry {
            entry_type: EntryType::ConfChangeV2,
            term: 1,
            index: 2,
            data: Bytes::from(vec![9; 100]),
        };
        let mut parts = [BytesMut::new(), BytesMut::new(), BytesMut::new()];
        put_entry_part(&mut parts[0], &entry, 0, 10);
        put_entry_part(&mut parts[1], &entry, 10, 60);
        put_entry_part(&mut parts[2], &entry, 60, 100);
        let read = |parts: &[BytesMut]| {
            let (mut reader, mut records) = (RecordReader::default(), Vec::new());
            for part in parts {
                reader.read(part, 1, |record| records.push(record)).unwrap();
            }
            records
        };
        assert_eq!(read(&parts), [Record::Entry(entry)]);
        assert_eq!(read(&parts[1..]), []);
        assert_eq!(read(&parts[..2]), []);
    }
}
