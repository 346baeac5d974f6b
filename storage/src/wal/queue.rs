//! What was appended and not yet submitted: payloads that fill up and close, in buffers that are used again.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use raft::{Entry, HardState};

use super::format::{self, ENTRY_HEAD_BYTES, HARD_STATE_BYTES, HEADER_BYTES, RECORD_HEADER_BYTES};

/// How many idle buffers are kept.
const POOL_MAX: usize = 8;

/// The payload of one batch to be, behind room for its header.
#[derive(Debug, Default)]
pub(super) struct Payload {
    pub(super) buffer: BytesMut,
    pub(super) record_count: u32,
    /// The last append that is whole with this payload.
    pub(super) append_token: u64,
    /// The last hard state in it.
    pub(super) hard_state: Option<HardState>,
    /// The last marker in it, encoded.
    pub(super) marker: Option<Bytes>,
    /// The highest index of the entries in it.
    pub(super) last_index: u64,
}

impl Payload {
    pub(super) fn in_buffer(mut buffer: BytesMut, append_token: u64) -> Payload {
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        Payload {
            buffer,
            append_token,
            ..Payload::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len() - HEADER_BYTES
    }

    pub(super) fn put_hard_state(&mut self, state: HardState) {
        format::put_hard_state(&mut self.buffer, state);
        self.record_count += 1;
        self.hard_state = Some(state);
    }

    pub(super) fn put_marker(&mut self, body: Bytes) {
        format::put_marker(&mut self.buffer, &body);
        self.record_count += 1;
        self.marker = Some(body);
    }
}

/// Payloads in the order of their batches.
#[derive(Debug)]
pub(super) struct Queue {
    /// No payload is longer.
    payload_bytes_max: usize,
    closed: VecDeque<Payload>,
    open: Payload,
    pool: Vec<BytesMut>,
    /// Of the closed payloads.
    closed_bytes: usize,
}

impl Queue {
    pub(super) fn new(payload_bytes_max: usize) -> Queue {
        Queue {
            payload_bytes_max,
            closed: VecDeque::new(),
            open: Payload::in_buffer(BytesMut::new(), 0),
            pool: Vec::new(),
            closed_bytes: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.closed_bytes + self.open.len()
    }

    /// The length of the next payload.
    pub(super) fn next_len(&self) -> Option<usize> {
        match self.closed.front() {
            Some(payload) => Some(payload.len()),
            None => Some(self.open.len()).filter(|_| self.open.record_count > 0),
        }
    }

    /// Takes the next payload; the open one closes when it is the last.
    pub(super) fn take(&mut self) -> Option<Payload> {
        if self.closed.is_empty() && self.open.record_count > 0 {
            self.close();
        }
        let payload = self.closed.pop_front()?;
        self.closed_bytes -= payload.len();
        Some(payload)
    }

    /// An empty payload, for an opener or to settle the tail.
    pub(super) fn empty(&mut self, append_token: u64) -> Payload {
        Payload::in_buffer(self.pool.pop().unwrap_or_default(), append_token)
    }

    /// Takes a buffer back.
    pub(super) fn recycle(&mut self, buffer: Bytes) {
        if self.pool.len() < POOL_MAX
            && let Ok(buffer) = buffer.try_into_mut()
        {
            self.pool.push(buffer);
        }
    }

    /// Ends an append: the open payload holds its end.
    pub(super) fn end_append(&mut self, token: u64) {
        self.open.append_token = token;
    }

    pub(super) fn put_hard_state(&mut self, state: HardState) {
        self.make_room(RECORD_HEADER_BYTES + HARD_STATE_BYTES);
        self.open.put_hard_state(state);
    }

    pub(super) fn put_marker(&mut self, body: Bytes) {
        self.make_room(RECORD_HEADER_BYTES + body.len());
        self.open.put_marker(body);
    }

    /// Puts an entry, in parts over several payloads when one can not hold it.
    pub(super) fn put_entry(&mut self, entry: &Entry) {
        let whole = RECORD_HEADER_BYTES + ENTRY_HEAD_BYTES + entry.data.len();
        if whole <= self.payload_bytes_max {
            self.make_room(whole);
        }
        let mut from = 0;
        loop {
            let overhead = RECORD_HEADER_BYTES + if from == 0 { ENTRY_HEAD_BYTES } else { 0 };
            let left = entry.data.len() - from;
            self.make_room(overhead + left.min(1));
            let to = from + left.min(self.room() - overhead);
            format::put_entry_part(&mut self.open.buffer, entry, from, to);
            self.open.record_count += 1;
            self.open.last_index = self.open.last_index.max(entry.index);
            if to == entry.data.len() {
                return;
            }
            from = to;
        }
    }

    fn room(&self) -> usize {
        self.payload_bytes_max - self.open.len()
    }

    /// Makes the open payload one with so much room, closing it when it has not.
    fn make_room(&mut self, bytes: usize) {
        if self.room() < bytes {
            self.close();
            assert!(self.room() >= bytes, "a record of {bytes} bytes never fits a batch");
        }
    }

    fn close(&mut self) {
        let next = Payload::in_buffer(self.pool.pop().unwrap_or_default(), self.open.append_token);
        let closed = std::mem::replace(&mut self.open, next);
        self.closed_bytes += closed.len();
        self.closed.push_back(closed);
    }
}
