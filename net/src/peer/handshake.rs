//! Who is there: the first frame each way.

use bytes::Bytes;
use flatbuffers::FlatBufferBuilder;

use super::{
    message::bytes_if_any,
    table::{Slot, Table, TableError, offset_of},
};

const VERSION: Slot = 0;
const MIN_VERSION: Slot = 1;
const CLUSTER: Slot = 2;
const FROM: Slot = 3;
const TO: Slot = 4;
const ENTRY_KINDS: Slot = 5;
const ETCD_VERSION: Slot = 6;
const PURPOSE: Slot = 7;
const VERDICT: Slot = 8;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Purpose {
    /// Messages, calls and answers, without end.
    #[default]
    Messages = 0,
    /// One snapshot: its message, its pieces, then the end.
    Snapshot = 1,
}

/// What the side that was dialled makes of the dialler; `Accepted` in the dialler's own handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Go on.
    #[default]
    Accepted = 0,
    /// The dialler belongs to another cluster.
    WrongCluster = 1,
    /// The dialler looks for another member than the one it reached.
    WrongMember = 2,
    /// The dialler was removed from the cluster for good.
    Removed = 3,
    /// The versions of the protocol do not meet.
    WrongVersion = 4,
}

impl Verdict {
    fn from_number(number: u8) -> Option<Verdict> {
        [
            Verdict::Accepted,
            Verdict::WrongCluster,
            Verdict::WrongMember,
            Verdict::Removed,
            Verdict::WrongVersion,
        ]
        .into_iter()
        .find(|verdict| *verdict as u8 == number)
    }
}

/// Who speaks, to whom, and what it understands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Handshake {
    /// Version of the protocol the speaker prefers.
    pub version: u16,
    /// Oldest version it can talk.
    pub min_version: u16,
    /// Its cluster.
    pub cluster_id: u64,
    /// Its member id.
    pub from: u64,
    /// The member it wants to reach.
    pub to: u64,
    /// Kinds of log entries it can apply, a bit each (bit 0: those of etcd 3.6, bit 1: batches of lease revocations).
    pub entry_kinds: u64,
    /// The etcd release it is compatible with.
    pub etcd_version: String,
    /// What the connection is for.
    pub purpose: Purpose,
    /// In a reply: whether the connection is good.
    pub verdict: Verdict,
}

impl Handshake {
    pub(super) fn build(&self, to: &mut FlatBufferBuilder<'static>) {
        let etcd_version = bytes_if_any(self.etcd_version.as_bytes(), to);
        let table = to.start_table();
        to.push_slot(offset_of(CLUSTER), self.cluster_id, 0);
        to.push_slot(offset_of(FROM), self.from, 0);
        to.push_slot(offset_of(TO), self.to, 0);
        to.push_slot(offset_of(ENTRY_KINDS), self.entry_kinds, 0);
        if let Some(etcd_version) = etcd_version {
            to.push_slot_always(offset_of(ETCD_VERSION), etcd_version);
        }
        to.push_slot(offset_of(VERSION), self.version, 0);
        to.push_slot(offset_of(MIN_VERSION), self.min_version, 0);
        to.push_slot(offset_of(PURPOSE), self.purpose as u8, 0);
        to.push_slot(offset_of(VERDICT), self.verdict as u8, 0);
        let table = to.end_table(table);
        to.finish_minimal(table);
    }

    pub(super) fn parse(payload: &Bytes) -> Result<Handshake, TableError> {
        let table = Table::root(payload)?;
        let unknown = |what, value: u8| TableError::Unknown {
            what,
            value: u64::from(value),
        };
        let purpose = match table.u8(PURPOSE)? {
            0 => Purpose::Messages,
            1 => Purpose::Snapshot,
            value => return Err(unknown("the purpose of a connection", value)),
        };
        let verdict = table.u8(VERDICT)?;
        let verdict = Verdict::from_number(verdict).ok_or(unknown("the verdict of a handshake", verdict))?;
        Ok(Handshake {
            version: table.u16(VERSION)?,
            min_version: table.u16(MIN_VERSION)?,
            cluster_id: table.u64(CLUSTER)?,
            from: table.u64(FROM)?,
            to: table.u64(TO)?,
            entry_kinds: table.u64(ENTRY_KINDS)?,
            etcd_version: String::from_utf8_lossy(&table.bytes(ETCD_VERSION)?).into_owned(),
            purpose,
            verdict,
        })
    }
}
