//! From commands to bytes.
//!
//! HEADERS go straight to the output. DATA does too while nothing of its stream waits and both windows have room;
//! else it waits in the queue of its stream, from which [`pump`](Connection::pump) takes one frame of each stream in
//! turn.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::super::frame::{self, HEAD_BYTES, PAYLOAD_BYTES_MAX};
use super::super::hpack::{BlockMemo, Encoder, Indexing};
use super::super::limits::OUTPUT_TARGET_BYTES;
use super::super::stream::{Slot, Stream, Tail};
use super::super::{ErrorCode, limits};
use super::{Connection, Role};

/// An empty output buffer is given back beyond this size, so that idle connections hold little.
const OUTPUT_KEEP_BYTES: usize = 16 * 1024;

/// Highest number a client may give to a stream.
const STREAM_ID_MAX: u32 = (1 << 31) - 1;

impl<S: Default> Connection<S> {
    /// Opens a stream (client); `None` while the peer takes no more.
    pub(crate) fn open_stream(&mut self) -> Option<Slot> {
        let streams_max = self.peer_streams_max.min(limits::STREAMS_OPEN_MAX) as usize;
        if !self.takes_calls() || self.streams.len() >= streams_max || self.stream_mark > STREAM_ID_MAX {
            return None;
        }
        let stream = self.new_stream(self.stream_mark);
        self.stream_mark += 2;
        Some(self.streams.insert(stream))
    }

    /// Sends a HEADERS frame ahead of all DATA; `encode` appends its block.
    pub(crate) fn send_head(&mut self, slot: Slot, end: bool, encode: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        let id = self.stream_id(slot);
        self.put_block(id, end, encode);
        if end {
            self.send_done(slot);
        }
    }

    /// Sends what `write` appends, of which `len_hint` is the expected length.
    #[inline]
    pub(crate) fn send_data(&mut self, slot: Slot, len_hint: usize, end: bool, write: impl FnOnce(&mut BytesMut)) {
        let stream = self.streams.get(slot);
        if stream.send_closed || stream.tail.is_some() {
            return;
        }
        let room = stream.send_window.min(self.send_window).min(PAYLOAD_BYTES_MAX as i64);
        let is_direct = stream.queue.is_empty() && len_hint as i64 <= room && self.out.len() < OUTPUT_TARGET_BYTES;
        if !is_direct {
            let mut body = BytesMut::with_capacity(len_hint);
            write(&mut body);
            return self.send_bytes(slot, body.freeze(), end);
        }
        self.earn_increments();
        self.out.reserve(HEAD_BYTES + len_hint);
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEAD_BYTES]);
        write(&mut self.out);
        let len = self.out.len() - start - HEAD_BYTES;
        if len as i64 > room {
            // The hint was too small.
            let body = Bytes::copy_from_slice(&self.out[start + HEAD_BYTES..]);
            self.out.truncate(start);
            return self.send_bytes(slot, body, end);
        }
        let stream = self.streams.get(slot);
        stream.send_window -= len as i64;
        self.send_window -= len as i64;
        self.pings.forgiven = true;
        let flags = if end { frame::END_STREAM } else { 0 };
        let head = frame::FrameHead {
            len: len as u32,
            kind: frame::DATA,
            flags,
            stream: stream.id,
        };
        self.out[start..start + HEAD_BYTES].copy_from_slice(&head.to_bytes());
        if end {
            self.send_done(slot);
        }
    }

    /// A peer that reads message by message may answer each with small window updates.
    fn earn_increments(&mut self) {
        let (earned, max) = (limits::SMALL_INCREMENTS_EARNED, limits::SMALL_INCREMENTS_SAVED_MAX);
        self.small_increments.earn(earned, max);
    }

    /// Sends these bytes by way of the queue of the stream.
    pub(crate) fn send_bytes(&mut self, slot: Slot, bytes: Bytes, end: bool) {
        self.earn_increments();
        let low_water = self.limits.low_water_bytes;
        let stream = self.streams.get(slot);
        if stream.send_closed || stream.tail.is_some() {
            return;
        }
        if !bytes.is_empty() {
            stream.queued_bytes += bytes.len();
            self.queued_bytes += bytes.len();
            stream.queue.push_back(bytes);
        }
        stream.was_full |= stream.queued_bytes >= low_water;
        let id = stream.id;
        self.make_ready(slot);
        if end {
            self.send_end(slot);
        }
        if self.streams.holds(slot, id) {
            self.pump();
        }
    }

    /// Ends the sending half without trailers, behind what is queued.
    pub(crate) fn send_end(&mut self, slot: Slot) {
        let stream = self.streams.get(slot);
        if stream.send_closed || stream.tail.is_some() {
            return;
        }
        if !stream.queue.is_empty() {
            stream.tail = Some(Tail::Plain);
            return;
        }
        frame::put_head(frame::DATA, frame::END_STREAM, stream.id, 0, &mut self.out);
        self.send_done(slot);
    }

    /// Ends the sending half with trailers, behind what is queued. A `memo` must be used for these fields only.
    #[inline]
    pub(crate) fn send_trailers<'a, I>(&mut self, slot: Slot, memo: Option<&mut BlockMemo>, fields: impl FnOnce() -> I)
    where
        I: IntoIterator<Item = (&'a [u8], &'a [u8], Indexing)>,
    {
        let stream = self.streams.get(slot);
        if stream.send_closed || stream.tail.is_some() {
            return;
        }
        if !stream.queue.is_empty() {
            let owned = fields()
                .into_iter()
                .map(|(name, value, keep)| (name.to_vec(), value.to_vec(), keep));
            stream.tail = Some(Tail::Trailers(owned.collect()));
            return;
        }
        self.send_head(slot, true, |encoder, out| match memo {
            Some(memo) => encoder.encode_memo(memo, fields, out),
            None => encoder.encode(fields(), out),
        });
    }

    /// Gives the stream up and drops what is queued for it.
    pub(crate) fn reset(&mut self, slot: Slot, code: ErrorCode) {
        let stream = self.remove(slot);
        self.note_closed_here(stream.id);
        self.put_reset(stream.id, code);
    }

    /// What must go to the socket next.
    #[inline]
    pub(crate) fn pending_output(&self) -> &[u8] {
        &self.out
    }

    /// Drops output that the socket has taken, and brings more from the queues.
    pub(crate) fn advance_output(&mut self, n: usize) {
        assert!(
            n <= self.out.len(),
            "only pending output can be taken: {n} of {} bytes",
            self.out.len()
        );
        self.out.advance(n);
        if self.out.is_empty() {
            self.control_pending = 0;
            if self.out.capacity() > OUTPUT_KEEP_BYTES {
                self.out = BytesMut::new();
            }
        }
        self.pump();
    }

    #[inline]
    fn put_block(&mut self, id: u32, end: bool, encode: impl FnOnce(&mut Encoder, &mut BytesMut)) {
        self.pings.forgiven = true;
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEAD_BYTES]);
        encode(&mut self.encoder, &mut self.out);
        let len = self.out.len() - start - HEAD_BYTES;
        let end_flag = if end { frame::END_STREAM } else { 0 };
        if len > PAYLOAD_BYTES_MAX {
            return self.split_block(id, end_flag, start);
        }
        let flags = frame::END_HEADERS | end_flag;
        let head = frame::FrameHead {
            len: len as u32,
            kind: frame::HEADERS,
            flags,
            stream: id,
        };
        self.out[start..start + HEAD_BYTES].copy_from_slice(&head.to_bytes());
    }

    /// Cuts the block written at `start` into HEADERS and CONTINUATION.
    ///
    /// Source: RFC 9113 section 6.10.
    #[cold]
    fn split_block(&mut self, id: u32, end_flag: u8, start: usize) {
        let block = self.out[start + HEAD_BYTES..].to_vec();
        self.out.truncate(start);
        let mut fragments = block.chunks(PAYLOAD_BYTES_MAX).peekable();
        let (mut kind, mut flags) = (frame::HEADERS, end_flag);
        while let Some(fragment) = fragments.next() {
            if fragments.peek().is_none() {
                flags |= frame::END_HEADERS;
            }
            frame::put_head(kind, flags, id, fragment.len(), &mut self.out);
            self.out.extend_from_slice(fragment);
            (kind, flags) = (frame::CONTINUATION, 0);
        }
    }

    /// END_STREAM is out. A server needs no more of the request then, and says so.
    ///
    /// Source: RFC 9113 section 8.1; grpc-go's `finishStream`.
    fn send_done(&mut self, slot: Slot) {
        let stream = self.streams.get(slot);
        stream.send_closed = true;
        if stream.recv_closed {
            self.remove(slot);
        } else if self.role == Role::Server {
            self.reset(slot, ErrorCode::NoError);
        }
    }

    pub(super) fn put_reset(&mut self, id: u32, code: ErrorCode) {
        frame::put_number(frame::RST_STREAM, id, code as u32, &mut self.out);
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Stream<S> {
        let stream = self.streams.remove(slot);
        self.queued_bytes -= stream.queued_bytes;
        stream
    }

    /// Puts a stream that has something to send, and a window for it, into the queue of such streams.
    pub(super) fn make_ready(&mut self, slot: Slot) {
        let stream = self.streams.get(slot);
        if !stream.is_ready && !stream.queue.is_empty() && stream.send_window > 0 {
            stream.is_ready = true;
            self.ready.push_back((slot, stream.id));
        }
    }

    /// Moves queued DATA to the output, a frame of each stream in turn, up to what one write takes.
    pub(super) fn pump(&mut self) {
        while !self.ready.is_empty()
            && self.send_window > 0
            && self.out.len() < OUTPUT_TARGET_BYTES
            && !self.ending.failed
        {
            let (slot, id) = self.ready.pop_front().expect("checked above");
            if self.streams.holds(slot, id) {
                self.pump_frame(slot);
            }
        }
        if self.ready.is_empty() && self.ready.capacity() > limits::QUEUE_KEEP {
            self.ready = VecDeque::new();
        }
    }

    fn pump_frame(&mut self, slot: Slot) {
        let stream = self.streams.get(slot);
        stream.is_ready = false;
        let room = stream
            .send_window
            .min(self.send_window)
            .min(PAYLOAD_BYTES_MAX as i64)
            .max(0) as usize;
        let len = stream.queued_bytes.min(room);
        if len == 0 {
            return;
        }
        let is_last = len == stream.queued_bytes;
        let ends = is_last && matches!(stream.tail, Some(Tail::Plain));
        frame::put_head(
            frame::DATA,
            if ends { frame::END_STREAM } else { 0 },
            stream.id,
            len,
            &mut self.out,
        );
        let mut left = len;
        while left > 0 {
            let chunk = stream.queue.front_mut().expect("the queue holds queued_bytes");
            let part = chunk.split_to(left.min(chunk.len()));
            left -= part.len();
            self.out.extend_from_slice(&part);
            if chunk.is_empty() {
                stream.queue.pop_front();
            }
        }
        stream.queued_bytes -= len;
        stream.send_window -= len as i64;
        self.queued_bytes -= len;
        self.send_window -= len as i64;
        self.pings.forgiven = true;
        if stream.was_full && stream.queued_bytes < self.limits.low_water_bytes {
            stream.was_full = false;
            self.writable.push(stream.id);
        }
        if !is_last {
            self.make_ready(slot);
        } else if let Some(tail) = stream.tail.take() {
            self.send_tail(slot, tail);
        }
    }

    fn send_tail(&mut self, slot: Slot, tail: Tail) {
        match tail {
            Tail::Plain => self.send_done(slot),
            Tail::Trailers(fields) => self.send_head(slot, true, |encoder, out| {
                encoder.encode(
                    fields.iter().map(|(name, value, keep)| (&name[..], &value[..], *keep)),
                    out,
                );
            }),
        }
    }
}
