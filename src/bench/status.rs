//! How calls ended: trailers decoded the first time their bytes are seen, and known by their bytes ever after.
//!
//! That is sound because the connections announce a header table of no size, so that equal bytes mean equal headers.

use ahash::AHashMap;
use net::grpc::{ClientConn, ClientEvent, Code, Limits};

use super::wire::{self, put_frame, put_settings};

/// The place of a status in [`Statuses`].
pub(super) type StatusId = u16;

/// The call went well.
pub(super) const OK: StatusId = 0;

/// Blocks remembered; messages that differ each time must not fill the memory.
const KNOWN_MAX: usize = 4096;

/// Statuses told apart; further ones are counted as the last.
const STATUSES_MAX: usize = 1024;

/// All the ways calls have ended.
#[derive(Debug)]
pub(super) struct Statuses {
    /// The trailers of a call that went well, as seen last.
    ok_block: Vec<u8>,
    known: AHashMap<Vec<u8>, StatusId>,
    list: Vec<(Code, String)>,
}

impl Statuses {
    pub(super) fn new() -> Statuses {
        Statuses {
            ok_block: Vec::new(),
            known: AHashMap::new(),
            list: vec![(Code::Ok, String::new())],
        }
    }

    /// Code and message of a status.
    pub(super) fn get(&self, id: StatusId) -> (Code, &str) {
        let (code, message) = &self.list[id as usize];
        (*code, message)
    }

    /// The status that a final header block tells; `alone` when no other headers came before it.
    #[inline]
    pub(super) fn of_block(&mut self, alone: bool, block: &[u8]) -> StatusId {
        if !alone && block == self.ok_block {
            return OK;
        }
        self.of_other_block(alone, block)
    }

    fn of_other_block(&mut self, alone: bool, block: &[u8]) -> StatusId {
        let mut key = block.to_vec();
        key.push(alone as u8);
        if let Some(&id) = self.known.get(&key) {
            return id;
        }
        let (code, message) = decode(alone, block);
        let id = self.of(code, &message);
        if id == OK && !alone {
            self.ok_block = block.to_vec();
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(key, id);
        id
    }

    /// The status of that code and message.
    pub(super) fn of(&mut self, code: Code, message: &str) -> StatusId {
        if let Some(id) = self.list.iter().position(|(c, m)| *c == code && m == message) {
            return id as StatusId;
        }
        if self.list.len() < STATUSES_MAX {
            self.list.push((code, message.to_string()));
        }
        (self.list.len() - 1) as StatusId
    }
}

/// Decodes the end of a call by letting a fresh connection of our own codec receive it.
fn decode(alone: bool, block: &[u8]) -> (Code, String) {
    // `:status: 200` of the static table, then `content-type: application/grpc` in full.
    const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
    let mut conn = ClientConn::new(Limits::default(), "http", "bench", 0);
    let stream = conn.start_call("/", &[]).map_or(1, |id| id.0);
    let mut bytes = Vec::new();
    put_settings(&[], &mut bytes);
    if !alone {
        put_frame(wire::HEADERS, wire::END_HEADERS, stream, HEAD, &mut bytes);
    }
    let flags = wire::END_HEADERS | wire::END_STREAM;
    put_frame(wire::HEADERS, flags, stream, block, &mut bytes);
    conn.receive(&bytes);
    while let Some(event) = conn.next_event() {
        if let ClientEvent::End { status, .. } = event {
            return (status.code, status.message.into_owned());
        }
    }
    (Code::Internal, "the end of the call could not be decoded".to_string())
}
