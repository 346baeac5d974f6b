//! From bytes to events.

use std::sync::Arc;

use super::super::ErrorCode;
use super::super::fields::Kind;
use super::super::frame::{self, FrameHead};
use super::super::hpack::{Headers, HpackError};
use super::super::limits;
use super::super::stream::{Slot, Stream};
use super::{Connection, Data, Event, Handler, Role};

mod control;

/// A header block whose CONTINUATION is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenBlock {
    stream: u32,
    end_stream: bool,
    continuations: u32,
}

/// What a frame did wrong.
///
/// Source: RFC 9113 section 5.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Connection(ErrorCode, &'static str),
    Stream(u32, ErrorCode),
}

/// A limit against attacks was reached.
pub(super) fn calm(detail: &'static str) -> Fault {
    Fault::Connection(ErrorCode::EnhanceYourCalm, detail)
}

fn protocol(detail: &'static str) -> Fault {
    Fault::Connection(ErrorCode::ProtocolError, detail)
}

fn frame_size(detail: &'static str) -> Fault {
    Fault::Connection(ErrorCode::FrameSizeError, detail)
}

/// Streams remembered as closed by this end; late frames for them are expected.
const CLOSED_HERE_MAX: usize = 256;

/// A carry buffer up to this size is kept for the next unfinished frame.
const CARRY_KEEP_BYTES: usize = 1024;

/// A frame in the buffer it came in.
#[derive(Clone, Copy)]
struct Frame<'a> {
    head: FrameHead,
    /// The buffer from the payload on.
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Frame<'a> {
    fn payload(&self) -> &'a [u8] {
        &self.rest[..self.head.len as usize]
    }

    /// Where the payload starts and how long it is without padding.
    ///
    /// Source: RFC 9113 sections 6.1 and 6.2.
    fn without_padding(&self) -> Result<(usize, usize), Fault> {
        let len = self.head.len as usize;
        if !self.head.has(frame::PADDED) {
            return Ok((0, len));
        }
        let &padding = self
            .payload()
            .first()
            .ok_or(frame_size("a padded frame has no padding length"))?;
        let len = (len - 1)
            .checked_sub(padding as usize)
            .ok_or(protocol("the padding is longer than its frame"))?;
        Ok((1, len))
    }
}

impl<S: Default> Connection<S> {
    /// Takes bytes of the peer, in pieces of any size.
    pub(crate) fn receive<H: Handler<User = S>>(&mut self, input: &[u8], handler: &mut H) {
        if self.ending.failed || input.is_empty() {
            return;
        }
        self.pings.heard(self.now_ns);
        let mut rest = input;
        if !self.carry.is_empty() {
            let mut carry = std::mem::take(&mut self.carry);
            if !self.complete(&mut carry, &mut rest) {
                self.carry = carry;
                return;
            }
            self.process(&carry, handler);
            if carry.capacity() <= CARRY_KEEP_BYTES {
                carry.clear();
                self.carry = carry;
            }
        }
        let used = self.process(rest, handler);
        if self.ending.failed {
            self.abandon_streams(handler);
        } else {
            self.carry.extend_from_slice(&rest[used..]);
            self.pump();
        }
    }

    /// Moves bytes to `carry` until it holds one whole frame; whether it does.
    fn complete(&self, carry: &mut Vec<u8>, rest: &mut &[u8]) -> bool {
        loop {
            let wanted = self.unit_bytes(carry);
            if carry.len() >= wanted {
                return true;
            }
            let (taken, left) = rest.split_at(rest.len().min(wanted - carry.len()));
            carry.extend_from_slice(taken);
            *rest = left;
            if carry.len() < wanted {
                return false;
            }
        }
    }

    /// Bytes needed before anything can be done with what starts like `bytes`.
    fn unit_bytes(&self, bytes: &[u8]) -> usize {
        if self.preface_awaited {
            return frame::PREFACE.len();
        }
        match bytes.first_chunk() {
            Some(head) => match FrameHead::parse(head).len as usize {
                // Too large: the head is enough to say so.
                len if len > frame::PAYLOAD_BYTES_MAX => frame::HEAD_BYTES,
                len => frame::HEAD_BYTES + len,
            },
            None => frame::HEAD_BYTES,
        }
    }

    /// Acts on all whole frames of the buffer; returns how much of it that was.
    fn process<H: Handler<User = S>>(&mut self, buffer: &[u8], handler: &mut H) -> usize {
        handler.begin_buffer();
        let mut at = 0;
        if self.preface_awaited {
            let known = buffer.len().min(frame::PREFACE.len());
            if buffer[..known] != frame::PREFACE[..known] {
                self.fail(ErrorCode::ProtocolError, "the client's preface is not that of HTTP/2");
            }
            if known < frame::PREFACE.len() {
                return 0;
            }
            self.preface_awaited = false;
            at = known;
        }
        while !self.ending.failed
            && let Some(head) = buffer[at..].first_chunk()
        {
            let head = FrameHead::parse(head);
            let offset = at + frame::HEAD_BYTES;
            let end = offset + head.len as usize;
            if head.len as usize > frame::PAYLOAD_BYTES_MAX {
                self.fail(
                    ErrorCode::FrameSizeError,
                    "a frame is larger than SETTINGS_MAX_FRAME_SIZE",
                );
                break;
            }
            if end > buffer.len() {
                break;
            }
            if let Err(fault) = self.on_frame(
                Frame {
                    head,
                    rest: &buffer[offset..],
                    offset,
                },
                handler,
            ) {
                self.on_fault(fault, handler);
            }
            at = end;
        }
        at
    }

    fn on_fault<H: Handler<User = S>>(&mut self, fault: Fault, handler: &mut H) {
        match fault {
            Fault::Connection(code, detail) => self.fail(code, detail),
            Fault::Stream(id, code) => {
                self.put_reset(id, code);
                if let Some(slot) = self.streams.find(id) {
                    self.note_closed_here(id);
                    self.drop_stream(slot, code, handler);
                }
                if !self.stream_errors.take(self.now_ns) {
                    self.fail(ErrorCode::EnhanceYourCalm, "too many stream errors");
                } else if let Err(Fault::Connection(code, detail)) = self.count_control() {
                    self.fail(code, detail);
                }
            }
        }
    }

    #[inline]
    fn on_frame<H: Handler<User = S>>(&mut self, frame: Frame<'_>, handler: &mut H) -> Result<(), Fault> {
        let head = frame.head;
        if let Some(open) = self.block_of
            && (head.kind != frame::CONTINUATION || head.stream != open.stream)
        {
            return Err(protocol("a header block is interrupted by another frame"));
        }
        if self.settings_awaited && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(protocol("the first frame is not SETTINGS"));
        }
        match head.kind {
            frame::DATA => self.on_data(frame, handler),
            frame::HEADERS => self.on_headers(frame, handler),
            frame::CONTINUATION => self.on_continuation(frame, handler),
            frame::RST_STREAM => self.on_reset(frame, handler),
            _ => self.on_control(frame, handler),
        }
    }

    fn on_headers<H: Handler<User = S>>(&mut self, frame: Frame<'_>, handler: &mut H) -> Result<(), Fault> {
        let head = frame.head;
        if head.stream == 0 {
            return Err(protocol("HEADERS on stream 0"));
        }
        let (start, len) = frame.without_padding()?;
        let mut fragment = &frame.rest[start..start + len];
        if head.has(frame::HAS_PRIORITY) {
            fragment = fragment
                .get(5..)
                .ok_or(frame_size("HEADERS is too short for its priority"))?;
        }
        let end_stream = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.on_block(head.stream, fragment, end_stream, handler);
        }
        self.block.extend_from_slice(fragment);
        self.block_of = Some(OpenBlock {
            stream: head.stream,
            end_stream,
            continuations: 0,
        });
        Ok(())
    }

    fn on_continuation<H: Handler<User = S>>(&mut self, frame: Frame<'_>, handler: &mut H) -> Result<(), Fault> {
        let Some(open) = &mut self.block_of else {
            return Err(protocol("CONTINUATION without HEADERS"));
        };
        open.continuations += 1;
        if open.continuations > limits::CONTINUATION_FRAMES_MAX {
            return Err(calm("too many CONTINUATION frames"));
        }
        if self.block.len() + frame.payload().len() > limits::HEADER_BLOCK_BYTES_MAX {
            return Err(calm("a header block is too long"));
        }
        self.block.extend_from_slice(frame.payload());
        if !frame.head.has(frame::END_HEADERS) {
            return Ok(());
        }
        let open = self.block_of.take().expect("checked above");
        let block = std::mem::take(&mut self.block);
        self.on_block(open.stream, &block, open.end_stream, handler)
    }

    /// A whole header block. It is decoded whatever becomes of its stream, to keep the tables in step.
    fn on_block<H: Handler<User = S>>(
        &mut self,
        id: u32,
        block: &[u8],
        end: bool,
        handler: &mut H,
    ) -> Result<(), Fault> {
        let decoded = self
            .decoder
            .decode(block)
            .map_err(|e| Fault::Connection(ErrorCode::CompressionError, hpack_detail(e)))?;
        let Some(slot) = self.streams.find(id) else {
            if self.role == Role::Client {
                let unasked = protocol("HEADERS on a stream nobody opened");
                return if self.is_idle(id) {
                    Err(unasked)
                } else {
                    self.count_empty()
                };
            }
            let opens = self.admit(id)?;
            return if opens {
                self.open(id, decoded.headers, decoded.too_large, end, handler)
            } else {
                Ok(())
            };
        };
        if decoded.too_large {
            return Err(Fault::Stream(id, ErrorCode::EnhanceYourCalm));
        }
        let stream = self.streams.get(slot);
        if stream.recv_closed {
            return Err(Fault::Stream(id, ErrorCode::StreamClosed));
        }
        if self.role == Role::Client && !stream.got_head {
            return self.on_response(slot, decoded.headers, end, handler);
        }
        // Section 8.1: what follows the body ends the stream, and content-length was the length of the body.
        if decoded.headers.facts().kind != Kind::Trailers || !end || stream.body_left.unwrap_or(0) != 0 {
            return Err(Fault::Stream(id, ErrorCode::ProtocolError));
        }
        stream.recv_closed = true;
        handler.event(
            self,
            Event::Trailers {
                slot,
                headers: decoded.headers,
            },
        );
        self.recv_done(slot, id);
        Ok(())
    }

    fn on_response<H: Handler<User = S>>(
        &mut self,
        slot: Slot,
        headers: Arc<Headers>,
        end: bool,
        handler: &mut H,
    ) -> Result<(), Fault> {
        let facts = headers.facts();
        match facts.kind {
            // Section 8.1: an interim response; the final one follows.
            Kind::Response(100..=199) if !end => self.count_empty(),
            Kind::Response(200..) => {
                let stream = self.streams.get(slot);
                stream.got_head = true;
                stream.body_left = facts.content_length.filter(|_| !end);
                self.on_head(slot, headers, end, handler);
                Ok(())
            }
            _ => Err(Fault::Stream(self.stream_id(slot), ErrorCode::ProtocolError)),
        }
    }

    /// Whether a block on a stream that is not open opens it; `false` if the block is to be ignored.
    ///
    /// Source: RFC 9113 section 5.1.
    fn admit(&mut self, id: u32) -> Result<bool, Fault> {
        if id.is_multiple_of(2) {
            return Err(protocol("a client opened a stream of even number"));
        }
        if id > self.stream_mark {
            self.stream_mark = id;
            return Ok(true);
        }
        if self.closed_here.contains(&id) {
            return self.count_empty().map(|()| false);
        }
        Err(Fault::Connection(ErrorCode::StreamClosed, "HEADERS on a closed stream"))
    }

    fn open<H: Handler<User = S>>(
        &mut self,
        id: u32,
        headers: Arc<Headers>,
        too_large: bool,
        end: bool,
        handler: &mut H,
    ) -> Result<(), Fault> {
        let streams_max = self.limits.streams_max.min(limits::STREAMS_OPEN_MAX) as usize;
        let facts = headers.facts();
        let code = if self.ending.last_stream.is_some() || self.streams.len() >= streams_max || self.refuse_streams {
            Some(ErrorCode::RefusedStream)
        } else if too_large {
            Some(ErrorCode::EnhanceYourCalm)
        } else if facts.kind != Kind::Request || (end && facts.content_length.unwrap_or(0) != 0) {
            Some(ErrorCode::ProtocolError)
        } else {
            None
        };
        if let Some(code) = code {
            self.note_closed_here(id);
            return Err(Fault::Stream(id, code));
        }
        let mut stream = self.new_stream(id);
        stream.body_left = facts.content_length.filter(|_| !end);
        let slot = self.streams.insert(stream);
        self.on_head(slot, headers, end, handler);
        Ok(())
    }

    pub(super) fn new_stream(&self, id: u32) -> Stream<S> {
        Stream {
            id,
            recv_closed: false,
            send_closed: false,
            is_ready: false,
            was_full: false,
            got_head: false,
            send_window: self.peer_initial_window,
            recv_window: self.stream_window,
            credit: 0,
            body_left: None,
            queue: Default::default(),
            queued_bytes: 0,
            tail: None,
            user: S::default(),
        }
    }

    fn on_head<H: Handler<User = S>>(&mut self, slot: Slot, headers: Arc<Headers>, end: bool, handler: &mut H) {
        let stream = self.streams.get(slot);
        stream.recv_closed = end;
        let id = stream.id;
        handler.event(self, Event::Head { slot, headers, end });
        if end {
            self.recv_done(slot, id);
        }
    }

    /// The peer has ended its half; a stream of which both are closed is gone.
    fn recv_done(&mut self, slot: Slot, id: u32) {
        if !self.streams.holds(slot, id) {
            return;
        }
        let send_closed = self.streams.get(slot).send_closed;
        if self.role == Role::Client || send_closed {
            if !send_closed {
                // The answer is complete: what was still to be sent is of no use.
                self.put_reset(id, ErrorCode::Cancel);
            }
            self.remove(slot);
        }
    }

    #[inline]
    fn on_data<H: Handler<User = S>>(&mut self, frame: Frame<'_>, handler: &mut H) -> Result<(), Fault> {
        let head = frame.head;
        if head.stream == 0 {
            return Err(protocol("DATA on stream 0"));
        }
        let (start, len) = frame.without_padding()?;
        // Section 6.9.1: padding counts, and so do frames of streams that are closed.
        self.recv_window -= head.len as i64;
        if self.recv_window < 0 {
            return Err(Fault::Connection(
                ErrorCode::FlowControlError,
                "the window of the connection is exceeded",
            ));
        }
        let Some(slot) = self.streams.find(head.stream) else {
            self.credit_connection(head.len);
            return self.on_late_data(head.stream);
        };
        let end = head.has(frame::END_STREAM);
        if let Err(fault) = self.account_data(slot, head.len, len, end) {
            self.credit_connection(head.len);
            return Err(fault);
        }
        if len == 0 && !end {
            self.count_empty()?;
        }
        let data = Data {
            rest: &frame.rest[start..],
            offset: frame.offset + start,
            len,
        };
        handler.event(self, Event::Data { slot, data, end });
        let padding = head.len - len as u32;
        if padding > 0 {
            self.credit(head.stream, padding);
        }
        if end {
            self.recv_done(slot, head.stream);
        }
        Ok(())
    }

    /// Takes a DATA frame from what the stream may still get.
    #[inline]
    fn account_data(&mut self, slot: Slot, frame_len: u32, body_len: usize, end: bool) -> Result<(), Fault> {
        let is_client = self.role == Role::Client;
        let stream = self.streams.get(slot);
        if stream.recv_closed {
            return Err(Fault::Stream(stream.id, ErrorCode::StreamClosed));
        }
        stream.recv_window -= frame_len as i64;
        if stream.recv_window < 0 && frame_len > 0 {
            return Err(Fault::Stream(stream.id, ErrorCode::FlowControlError));
        }
        if is_client && !stream.got_head {
            return Err(Fault::Stream(stream.id, ErrorCode::ProtocolError));
        }
        if let Some(left) = stream.body_left {
            // Section 8.1.1: content-length must be the length of the body.
            let left = left.checked_sub(body_len as u64).filter(|&left| !end || left == 0);
            stream.body_left = Some(left.ok_or(Fault::Stream(stream.id, ErrorCode::ProtocolError))?);
        }
        stream.recv_closed = end;
        Ok(())
    }

    /// DATA on a stream that is not open.
    fn on_late_data(&mut self, id: u32) -> Result<(), Fault> {
        if self.is_idle(id) {
            return Err(protocol("DATA on an idle stream"));
        }
        if self.role == Role::Client || self.closed_here.contains(&id) {
            return self.count_empty();
        }
        Err(Fault::Stream(id, ErrorCode::StreamClosed))
    }

    /// Whether nobody has opened that stream yet.
    fn is_idle(&self, id: u32) -> bool {
        match self.role {
            Role::Server => id.is_multiple_of(2) || id > self.stream_mark,
            Role::Client => id.is_multiple_of(2) || id >= self.stream_mark,
        }
    }

    fn on_reset<H: Handler<User = S>>(&mut self, frame: Frame<'_>, handler: &mut H) -> Result<(), Fault> {
        let id = frame.head.stream;
        let code = control::number(frame, "RST_STREAM is not of 4 octets")?;
        if id == 0 || self.is_idle(id) {
            return Err(protocol("RST_STREAM on an idle stream"));
        }
        let Some(slot) = self.streams.find(id) else {
            return self.count_empty();
        };
        let stream = self.remove(slot);
        handler.event(
            self,
            Event::Reset {
                id,
                code,
                user: stream.user,
            },
        );
        if self.role == Role::Server && !self.resets.take(self.now_ns) {
            return Err(calm("too many streams cancelled"));
        }
        Ok(())
    }

    /// Counts a frame that brought nothing.
    pub(super) fn count_empty(&mut self) -> Result<(), Fault> {
        if self.empty_frames.take(self.now_ns) {
            Ok(())
        } else {
            Err(calm("too many frames that bring nothing"))
        }
    }

    /// Counts an answer to a control frame that waits in the output.
    pub(super) fn count_control(&mut self) -> Result<(), Fault> {
        self.control_pending += 1;
        match self.control_pending {
            ..=limits::CONTROL_FRAMES_PENDING_MAX => Ok(()),
            _ => Err(calm("too many control frames are not read")),
        }
    }

    pub(super) fn note_closed_here(&mut self, id: u32) {
        if self.closed_here.len() == CLOSED_HERE_MAX {
            self.closed_here.pop_front();
        }
        self.closed_here.push_back(id);
    }

    /// Removes a stream and tells the handler.
    pub(super) fn drop_stream<H: Handler<User = S>>(&mut self, slot: Slot, code: ErrorCode, handler: &mut H) {
        let stream = self.remove(slot);
        handler.event(
            self,
            Event::Reset {
                id: stream.id,
                code: code as u32,
                user: stream.user,
            },
        );
    }

    /// Bytes of DATA were consumed; tells the peer once half a window has come together.
    pub(crate) fn credit(&mut self, id: u32, bytes: u32) {
        self.credit_connection(bytes);
        let Some(slot) = self.streams.find(id) else { return };
        let stream = self.streams.get(slot);
        stream.credit += bytes;
        if !stream.recv_closed && stream.credit > self.limits.stream_window_bytes / 2 {
            let increment = std::mem::take(&mut stream.credit);
            stream.recv_window += increment as i64;
            frame::put_number(frame::WINDOW_UPDATE, id, increment, &mut self.out);
        }
    }

    /// As [`credit`](Self::credit), for DATA of a stream that gets no more.
    #[inline]
    pub(crate) fn credit_connection(&mut self, bytes: u32) {
        self.credit += bytes;
        if self.credit > self.limits.connection_window_bytes / 2 && !self.ending.failed {
            let increment = std::mem::take(&mut self.credit);
            self.recv_window += increment as i64;
            frame::put_number(frame::WINDOW_UPDATE, 0, increment, &mut self.out);
        }
    }
}

fn hpack_detail(error: HpackError) -> &'static str {
    match error {
        HpackError::Truncated => "a header block ends inside a field",
        HpackError::UnknownIndex => "a header field has an unknown index",
        HpackError::IntegerTooLarge => "an integer in a header block is too large",
        HpackError::InvalidHuffman => "a header string is not valid Huffman code",
        HpackError::BadSizeUpdate => "a table size update is too large or misplaced",
    }
}
