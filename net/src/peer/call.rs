//! Requests that a member passes to the leader, and their answers.

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{
    message::bytes_if_any,
    table::{Slot, Table, TableError, offset_of},
};

const ID: Slot = 0;
const METHOD: Slot = 1;
const SUBJECT: Slot = 2;
const WITH_KEYS: Slot = 3;

const STATUS: Slot = 1;
const FIRST: Slot = 2;
const SECOND: Slot = 3;
const KEYS: Slot = 4;

const KEY: Slot = 0;

/// What is asked of the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CallMethod {
    /// Start a lease's time anew.
    LeaseRenew = 1,
    /// Tell what is left of a lease.
    LeaseInfo = 2,
    /// Make a learner a voter.
    Promote = 3,
    /// Send the member that asks a snapshot: its tree is damaged, its log is not.
    Refill = 4,
}

/// A request to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Names the request; its answer carries the same.
    pub id: u64,
    /// What is asked.
    pub method: CallMethod,
    /// The lease or member it is about.
    pub subject: u64,
    /// The keys of the lease too.
    pub with_keys: bool,
}

/// The leader's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Of which request.
    pub id: u64,
    /// 0: done. Else a number that both members know by the same name.
    pub status: u8,
    /// TTL renewed to, or seconds left.
    pub first: i64,
    /// Seconds granted.
    pub second: i64,
    /// Keys of the lease.
    pub keys: Vec<Bytes>,
}

impl Call {
    pub(super) fn build(&self, to: &mut FlatBufferBuilder<'static>) {
        let table = to.start_table();
        to.push_slot(offset_of(ID), self.id, 0);
        to.push_slot(offset_of(SUBJECT), self.subject, 0);
        to.push_slot(offset_of(METHOD), self.method as u8, 0);
        to.push_slot(offset_of(WITH_KEYS), u8::from(self.with_keys), 0);
        let table = to.end_table(table);
        to.finish_minimal(table);
    }

    pub(super) fn parse(payload: &Bytes) -> Result<Call, TableError> {
        let table = Table::root(payload)?;
        let method = match table.u8(METHOD)? {
            1 => CallMethod::LeaseRenew,
            2 => CallMethod::LeaseInfo,
            3 => CallMethod::Promote,
            4 => CallMethod::Refill,
            value => {
                return Err(TableError::Unknown {
                    what: "the method of a call",
                    value: u64::from(value),
                });
            }
        };
        Ok(Call {
            id: table.u64(ID)?,
            method,
            subject: table.u64(SUBJECT)?,
            with_keys: table.u8(WITH_KEYS)? != 0,
        })
    }
}

impl Answer {
    pub(super) fn build(&self, to: &mut FlatBufferBuilder<'static>) {
        let keys: Vec<_> = self.keys.iter().map(|key| build_key(key, to)).collect();
        let keys = (!keys.is_empty()).then(|| to.create_vector(&keys));
        let table = to.start_table();
        to.push_slot(offset_of(ID), self.id, 0);
        to.push_slot(offset_of(FIRST), self.first as u64, 0);
        to.push_slot(offset_of(SECOND), self.second as u64, 0);
        if let Some(keys) = keys {
            to.push_slot_always(offset_of(KEYS), keys);
        }
        to.push_slot(offset_of(STATUS), self.status, 0);
        let table = to.end_table(table);
        to.finish_minimal(table);
    }

    pub(super) fn parse(payload: &Bytes) -> Result<Answer, TableError> {
        let table = Table::root(payload)?;
        let keys = table.tables(KEYS)?.map(|key| key?.bytes(KEY));
        Ok(Answer {
            id: table.u64(ID)?,
            status: table.u8(STATUS)?,
            first: table.u64(FIRST)? as i64,
            second: table.u64(SECOND)? as i64,
            keys: keys.collect::<Result<_, _>>()?,
        })
    }
}

fn build_key(key: &Bytes, to: &mut FlatBufferBuilder<'static>) -> WIPOffset<flatbuffers::TableFinishedWIPOffset> {
    let bytes = bytes_if_any(key, to);
    let table = to.start_table();
    if let Some(bytes) = bytes {
        to.push_slot_always(offset_of(KEY), bytes);
    }
    let table = to.end_table(table);
    WIPOffset::new(table.value())
}
