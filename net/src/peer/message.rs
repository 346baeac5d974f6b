//! A message of consensus as a table.

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, WIPOffset};
use raft::{ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};

use super::table::{Slot, Table, TableError, offset_of};

const TYPE: Slot = 0;
const TO: Slot = 1;
const FROM: Slot = 2;
const TERM: Slot = 3;
const LOG_TERM: Slot = 4;
const INDEX: Slot = 5;
const ENTRIES: Slot = 6;
const COMMIT: Slot = 7;
const SNAPSHOT: Slot = 8;
const REJECT: Slot = 9;
const REJECT_HINT: Slot = 10;
const CONTEXT: Slot = 11;
const VOTE: Slot = 12;

const ENTRY_TYPE: Slot = 0;
const ENTRY_TERM: Slot = 1;
const ENTRY_INDEX: Slot = 2;
const ENTRY_DATA: Slot = 3;

const SNAPSHOT_DATA: Slot = 0;
const SNAPSHOT_CONF_STATE: Slot = 1;
const SNAPSHOT_INDEX: Slot = 2;
const SNAPSHOT_TERM: Slot = 3;

/// Any finished table.
type TableAt = WIPOffset<flatbuffers::TableFinishedWIPOffset>;

/// Writes the message as the root of the builder. `responses` is never sent: it belongs to local messages.
pub(super) fn build(message: &Message, to: &mut FlatBufferBuilder<'static>) {
    let entries: Vec<TableAt> = message.entries.iter().map(|entry| build_entry(entry, to)).collect();
    let entries = (!entries.is_empty()).then(|| to.create_vector(&entries));
    let snapshot = message.snapshot.as_ref().map(|snapshot| build_snapshot(snapshot, to));
    let context = bytes_if_any(&message.context, to);
    let table = to.start_table();
    to.push_slot(offset_of(TO), message.to, 0);
    to.push_slot(offset_of(FROM), message.from, 0);
    to.push_slot(offset_of(TERM), message.term, 0);
    to.push_slot(offset_of(LOG_TERM), message.log_term, 0);
    to.push_slot(offset_of(INDEX), message.index, 0);
    to.push_slot(offset_of(COMMIT), message.commit, 0);
    to.push_slot(offset_of(REJECT_HINT), message.reject_hint, 0);
    to.push_slot(offset_of(VOTE), message.vote, 0);
    if let Some(entries) = entries {
        to.push_slot_always(offset_of(ENTRIES), entries);
    }
    if let Some(snapshot) = snapshot {
        to.push_slot_always(offset_of(SNAPSHOT), snapshot);
    }
    if let Some(context) = context {
        to.push_slot_always(offset_of(CONTEXT), context);
    }
    to.push_slot(offset_of(TYPE), message.msg_type as u8, 0);
    to.push_slot(offset_of(REJECT), u8::from(message.reject), 0);
    let table = to.end_table(table);
    to.finish_minimal(table);
}

fn build_entry(entry: &Entry, to: &mut FlatBufferBuilder<'static>) -> TableAt {
    let data = bytes_if_any(&entry.data, to);
    let table = to.start_table();
    to.push_slot(offset_of(ENTRY_TERM), entry.term, 0);
    to.push_slot(offset_of(ENTRY_INDEX), entry.index, 0);
    if let Some(data) = data {
        to.push_slot_always(offset_of(ENTRY_DATA), data);
    }
    to.push_slot(offset_of(ENTRY_TYPE), entry.entry_type as u8, 0);
    let table = to.end_table(table);
    WIPOffset::new(table.value())
}

fn build_snapshot(snapshot: &Snapshot, to: &mut FlatBufferBuilder<'static>) -> TableAt {
    let data = bytes_if_any(&snapshot.data, to);
    let conf_state = bytes_if_any(&snapshot.metadata.conf_state.encode(), to);
    let table = to.start_table();
    to.push_slot(offset_of(SNAPSHOT_INDEX), snapshot.metadata.index, 0);
    to.push_slot(offset_of(SNAPSHOT_TERM), snapshot.metadata.term, 0);
    if let Some(data) = data {
        to.push_slot_always(offset_of(SNAPSHOT_DATA), data);
    }
    if let Some(conf_state) = conf_state {
        to.push_slot_always(offset_of(SNAPSHOT_CONF_STATE), conf_state);
    }
    let table = to.end_table(table);
    WIPOffset::new(table.value())
}

/// Writes bytes, unless there are none.
pub(super) fn bytes_if_any(
    bytes: &[u8],
    to: &mut FlatBufferBuilder<'static>,
) -> Option<WIPOffset<flatbuffers::Vector<'static, u8>>> {
    (!bytes.is_empty()).then(|| to.create_vector(bytes))
}

/// Reads a message; the payloads are slices of `payload`.
pub(super) fn parse(payload: &Bytes) -> Result<Message, TableError> {
    let table = Table::root(payload)?;
    let number = u64::from(table.u8(TYPE)?);
    let msg_type = MessageType::from_number(number).ok_or(TableError::Unknown {
        what: "the type of a message",
        value: number,
    })?;
    let entries = table.tables(ENTRIES)?.map(|entry| parse_entry(&entry?));
    Ok(Message {
        msg_type,
        to: table.u64(TO)?,
        from: table.u64(FROM)?,
        term: table.u64(TERM)?,
        log_term: table.u64(LOG_TERM)?,
        index: table.u64(INDEX)?,
        entries: entries.collect::<Result<Vec<Entry>, TableError>>()?,
        commit: table.u64(COMMIT)?,
        snapshot: table
            .table(SNAPSHOT)?
            .map(|snapshot| parse_snapshot(&snapshot))
            .transpose()?,
        reject: table.u8(REJECT)? != 0,
        reject_hint: table.u64(REJECT_HINT)?,
        context: table.bytes(CONTEXT)?,
        vote: table.u64(VOTE)?,
        responses: Vec::new(),
    })
}

fn parse_entry(table: &Table<'_>) -> Result<Entry, TableError> {
    let number = u64::from(table.u8(ENTRY_TYPE)?);
    let entry_type = EntryType::from_number(number).ok_or(TableError::Unknown {
        what: "the type of an entry",
        value: number,
    })?;
    Ok(Entry {
        entry_type,
        term: table.u64(ENTRY_TERM)?,
        index: table.u64(ENTRY_INDEX)?,
        data: table.bytes(ENTRY_DATA)?,
    })
}

fn parse_snapshot(table: &Table<'_>) -> Result<Snapshot, TableError> {
    let conf_state = ConfState::decode(&table.bytes(SNAPSHOT_CONF_STATE)?)
        .map_err(|_| TableError::Missing("the configuration of a snapshot"))?;
    Ok(Snapshot {
        data: table.bytes(SNAPSHOT_DATA)?,
        metadata: SnapshotMetadata {
            conf_state,
            index: table.u64(SNAPSHOT_INDEX)?,
            term: table.u64(SNAPSHOT_TERM)?,
        },
    })
}
