//! The client's end of one HTTP/2 connection, without I/O, parsing no more of an answer than where it ends and how.
//!
//! In: bytes of the socket through [`Session::receive`], which tells a [`Sink`]. Out: [`Session::out`], taken by the owner.
//! The server is trusted to speak HTTP/2: what cannot be understood ends the connection with a text.

use std::collections::VecDeque;

use net::grpc::Code;

use super::status::{OK, StatusId, Statuses};
use super::wire::{self, FRAME_HEAD_BYTES, FrameHead, RequestBlocks, put_frame, put_number, put_settings};

/// The window this end grants to each stream and to the connection: as large as there is, so that the server's speed counts.
const WINDOW_BYTES: u32 = (1 << 31) - 1;

/// The window of a connection before anybody says otherwise.
///
/// Source: RFC 9113 section 6.9.2.
const DEFAULT_WINDOW_BYTES: u32 = 65_535;

/// The server is credited with what was received once it is this much.
const CREDIT_BYTES: u32 = 1 << 28;

/// The header table a server keeps unless it says otherwise.
const DEFAULT_HEADER_TABLE_BYTES: u32 = 4096;

/// Stream ids end here; a connection that reached it takes no more calls.
const STREAM_ID_MAX: u32 = (1 << 31) - 1;

/// Who is told what arrives.
pub(super) trait Sink {
    /// A piece of the body of the call that was started with `tag`; cut anywhere.
    fn data(&mut self, tag: u32, piece: &[u8]);
    /// The call is over.
    fn end(&mut self, tag: u32, status: StatusId);
}

/// A call.
#[derive(Clone, Debug)]
struct Stream {
    tag: u32,
    open: bool,
    head_seen: bool,
    body_seen: bool,
    /// What may still be sent on it.
    send_window: i64,
    /// Received and not yet credited.
    credit: u32,
}

/// A DATA frame of which the payload is still arriving.
#[derive(Clone, Copy, Debug, Default)]
struct OpenData {
    left: usize,
    stream: u32,
    ends: bool,
}

/// Something that a window held back.
#[derive(Debug)]
struct Held {
    stream: u32,
    bytes: Vec<u8>,
    sent: usize,
    ends: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    /// What must go to the socket; the owner clears it.
    pub(super) out: Vec<u8>,
    path: &'static str,
    authority: String,
    blocks: RequestBlocks,
    first_sent: bool,
    settled: bool,
    streams: VecDeque<Stream>,
    /// The id of the first of `streams`.
    base: u32,
    open: usize,
    /// The server's limit of open streams.
    streams_max: u32,

    carry: Vec<u8>,
    data: OpenData,
    /// An unfinished header block: stream, whether it ends the stream, its bytes so far.
    block: Option<(u32, bool, Vec<u8>)>,
    credit: u32,

    send_window: i64,
    stream_window: i64,
    frame_payload_max: usize,
    held: VecDeque<Held>,
    going_away: bool,
}

impl Session {
    /// A fresh connection for calls of one path; the preface is in `out` at once.
    pub(super) fn new(path: &'static str, authority: &str) -> Session {
        let mut out = wire::PREFACE.to_vec();
        let settings = [
            (wire::SETTING_HEADER_TABLE_SIZE, 0),
            (wire::SETTING_ENABLE_PUSH, 0),
            (wire::SETTING_INITIAL_WINDOW_SIZE, WINDOW_BYTES),
        ];
        put_settings(&settings, &mut out);
        put_number(wire::WINDOW_UPDATE, 0, WINDOW_BYTES - DEFAULT_WINDOW_BYTES, &mut out);
        Session {
            out,
            path,
            authority: authority.to_string(),
            blocks: RequestBlocks::new(path, authority, true),
            first_sent: false,
            settled: false,
            streams: VecDeque::new(),
            base: 1,
            open: 0,
            streams_max: u32::MAX,
            carry: Vec::new(),
            data: OpenData::default(),
            block: None,
            credit: 0,
            send_window: i64::from(DEFAULT_WINDOW_BYTES),
            stream_window: i64::from(DEFAULT_WINDOW_BYTES),
            frame_payload_max: 16_384,
            held: VecDeque::new(),
            going_away: false,
        }
    }

    /// Whether the server's settings are known, so that calls may be started.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether a call may be started now.
    #[inline]
    pub(super) fn takes_calls(&self) -> bool {
        !self.going_away && self.open < self.streams_max as usize && self.next_id() < STREAM_ID_MAX
    }

    /// How many calls the server permits at once.
    pub(super) fn streams_max(&self) -> u32 {
        self.streams_max
    }

    #[inline]
    fn next_id(&self) -> u32 {
        self.base + 2 * self.streams.len() as u32
    }

    /// Starts a call and sends its first message, prefix included; `ends` when there are no more. Returns the stream's id.
    #[inline]
    pub(super) fn start(&mut self, tag: u32, message: &[u8], ends: bool) -> u32 {
        let id = self.next_id();
        self.streams.push_back(Stream {
            tag,
            open: true,
            head_seen: false,
            body_seen: false,
            send_window: self.stream_window,
            credit: 0,
        });
        self.open += 1;
        let block = if self.first_sent {
            &self.blocks.later
        } else {
            &self.blocks.first
        };
        self.first_sent = true;
        put_frame(wire::HEADERS, wire::END_HEADERS, id, block, &mut self.out);
        self.send(id, message, ends);
        id
    }

    /// Sends a message, prefix included, on an open stream.
    #[inline]
    pub(super) fn send(&mut self, id: u32, message: &[u8], ends: bool) {
        let Some(stream) = stream_at(&mut self.streams, self.base, id) else {
            return;
        };
        let window = self.send_window.min(stream.send_window);
        if self.held.is_empty() && message.len() <= self.frame_payload_max && message.len() as i64 <= window {
            self.send_window -= message.len() as i64;
            stream.send_window -= message.len() as i64;
            put_frame(wire::DATA, ends as u8, id, message, &mut self.out);
            return;
        }
        self.held.push_back(Held {
            stream: id,
            bytes: message.to_vec(),
            sent: 0,
            ends,
        });
        self.send_held();
    }

    /// Sends of what was held back whatever the windows allow now; messages of one stream stay in order.
    fn send_held(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.retain_mut(|item| {
            let Some(stream) = stream_at(&mut self.streams, self.base, item.stream) else {
                return false;
            };
            while item.sent < item.bytes.len() {
                let window = self.send_window.min(stream.send_window).max(0) as usize;
                let len = (item.bytes.len() - item.sent).min(window).min(self.frame_payload_max);
                if len == 0 {
                    return true;
                }
                let piece = &item.bytes[item.sent..item.sent + len];
                item.sent += len;
                self.send_window -= len as i64;
                stream.send_window -= len as i64;
                let ends = item.ends && item.sent == item.bytes.len();
                put_frame(wire::DATA, ends as u8, item.stream, piece, &mut self.out);
            }
            false
        });
        self.held = held;
    }

    /// Takes bytes from the socket, cut anywhere.
    ///
    /// Errors: what the server did that makes the connection useless; its calls are still open then.
    pub(super) fn receive(
        &mut self,
        mut input: &[u8],
        statuses: &mut Statuses,
        sink: &mut impl Sink,
    ) -> Result<(), String> {
        loop {
            if self.data.left > 0 {
                input = self.take_data(input, statuses, sink);
                if self.data.left > 0 {
                    return Ok(());
                }
                continue;
            }
            if !self.carry.is_empty() {
                input = match self.complete_carry(input, statuses, sink)? {
                    Some(rest) => rest,
                    None => return Ok(()),
                };
                continue;
            }
            if input.len() < FRAME_HEAD_BYTES {
                self.carry.extend_from_slice(input);
                return Ok(());
            }
            let head = FrameHead::parse(input);
            if head.kind == wire::DATA {
                self.begin_data(head, statuses, sink)?;
                input = &input[FRAME_HEAD_BYTES..];
                continue;
            }
            let Some(payload) = input.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + head.len) else {
                self.carry.extend_from_slice(input);
                return Ok(());
            };
            self.frame(head, payload, statuses, sink)?;
            input = &input[FRAME_HEAD_BYTES + head.len..];
        }
    }

    /// Adds to the unfinished frame, and acts on it once it is whole; `None` when the input ran out first.
    fn complete_carry<'a>(
        &mut self,
        mut input: &'a [u8],
        statuses: &mut Statuses,
        sink: &mut impl Sink,
    ) -> Result<Option<&'a [u8]>, String> {
        loop {
            let head = (self.carry.len() >= FRAME_HEAD_BYTES).then(|| FrameHead::parse(&self.carry));
            if let Some(head) = head.filter(|head| head.kind == wire::DATA) {
                self.carry.clear();
                self.begin_data(head, statuses, sink)?;
                return Ok(Some(input));
            }
            let want = FRAME_HEAD_BYTES + head.map_or(0, |head| head.len);
            if let Some(head) = head.filter(|_| self.carry.len() == want) {
                let mut frame = std::mem::take(&mut self.carry);
                self.frame(head, &frame[FRAME_HEAD_BYTES..], statuses, sink)?;
                frame.clear();
                self.carry = frame;
                return Ok(Some(input));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let (taken, rest) = input.split_at((want - self.carry.len()).min(input.len()));
            self.carry.extend_from_slice(taken);
            input = rest;
        }
    }

    #[inline]
    fn begin_data(&mut self, head: FrameHead, statuses: &mut Statuses, sink: &mut impl Sink) -> Result<(), String> {
        if head.flags & wire::PADDED != 0 {
            return Err("the server pads its DATA frames, which the load generator does not understand".to_string());
        }
        self.data = OpenData {
            left: head.len,
            stream: head.stream,
            ends: head.flags & wire::END_STREAM != 0,
        };
        self.credit += head.len as u32;
        if self.credit >= CREDIT_BYTES {
            put_number(wire::WINDOW_UPDATE, 0, self.credit, &mut self.out);
            self.credit = 0;
        }
        if let Some(stream) = stream_at(&mut self.streams, self.base, head.stream) {
            stream.body_seen |= head.len > 0;
            stream.credit += head.len as u32;
            if stream.credit >= CREDIT_BYTES {
                put_number(wire::WINDOW_UPDATE, head.stream, stream.credit, &mut self.out);
                stream.credit = 0;
            }
        }
        if head.len == 0 {
            self.finish_data(statuses, sink);
        }
        Ok(())
    }

    #[inline]
    fn take_data<'a>(&mut self, input: &'a [u8], statuses: &mut Statuses, sink: &mut impl Sink) -> &'a [u8] {
        let (piece, rest) = input.split_at(self.data.left.min(input.len()));
        self.data.left -= piece.len();
        if let Some(stream) = stream_at(&mut self.streams, self.base, self.data.stream) {
            sink.data(stream.tag, piece);
        }
        if self.data.left == 0 {
            self.finish_data(statuses, sink);
        }
        rest
    }

    fn finish_data(&mut self, statuses: &mut Statuses, sink: &mut impl Sink) {
        if self.data.ends {
            let status = statuses.of(Code::Internal, "the server closed the stream without sending trailers");
            self.close(self.data.stream, status, sink);
        }
    }

    /// Acts on a whole frame that is not DATA.
    fn frame(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        statuses: &mut Statuses,
        sink: &mut impl Sink,
    ) -> Result<(), String> {
        match head.kind {
            wire::HEADERS => {
                let block = block_of(head.flags, payload).ok_or("a HEADERS frame is too short for its padding")?;
                let ends = head.flags & wire::END_STREAM != 0;
                if head.flags & wire::END_HEADERS == 0 {
                    self.block = Some((head.stream, ends, block.to_vec()));
                } else {
                    self.headers(head.stream, ends, block, statuses, sink);
                }
            }
            wire::CONTINUATION => {
                let Some((stream, ends, mut block)) = self.block.take() else {
                    return Err("a CONTINUATION frame continues nothing".to_string());
                };
                block.extend_from_slice(payload);
                if head.flags & wire::END_HEADERS == 0 {
                    self.block = Some((stream, ends, block));
                } else {
                    self.headers(stream, ends, &block, statuses, sink);
                }
            }
            wire::RST_STREAM => {
                let status = statuses.of(
                    Code::Unavailable,
                    &format!("stream reset, HTTP/2 error {}", number(payload)?),
                );
                self.close(head.stream, status, sink);
            }
            wire::SETTINGS if head.flags & wire::ACK == 0 => self.settings(payload),
            wire::PING if head.flags & wire::ACK == 0 => put_frame(wire::PING, wire::ACK, 0, payload, &mut self.out),
            wire::GOAWAY => self.go_away(payload, statuses, sink)?,
            wire::WINDOW_UPDATE => {
                let increment = i64::from(number(payload)?);
                if head.stream == 0 {
                    self.send_window += increment;
                } else if let Some(stream) = stream_at(&mut self.streams, self.base, head.stream) {
                    stream.send_window += increment;
                }
                if !self.held.is_empty() {
                    self.send_held();
                }
            }
            _ => {}
        }
        Ok(())
    }

    #[inline]
    fn headers(&mut self, id: u32, ends: bool, block: &[u8], statuses: &mut Statuses, sink: &mut impl Sink) {
        let Some(stream) = stream_at(&mut self.streams, self.base, id) else {
            return;
        };
        if !ends {
            stream.head_seen = true;
            return;
        }
        let mut status = statuses.of_block(!stream.head_seen, block);
        if status == OK && !stream.body_seen {
            status = statuses.of(Code::Internal, "the call ended well but without an answer");
        }
        self.close(id, status, sink);
    }

    #[inline]
    fn close(&mut self, id: u32, status: StatusId, sink: &mut impl Sink) {
        let Some(stream) = stream_at(&mut self.streams, self.base, id) else {
            return;
        };
        stream.open = false;
        self.open -= 1;
        sink.end(stream.tag, status);
        while self.streams.front().is_some_and(|stream| !stream.open) {
            self.streams.pop_front();
            self.base += 2;
        }
    }

    /// Ends every open call from stream `first` on.
    fn close_from(&mut self, first: u32, status: StatusId, sink: &mut impl Sink) {
        let end = self.next_id();
        for id in (self.base..end).step_by(2).filter(|id| *id >= first) {
            self.close(id, status, sink);
        }
    }

    /// The connection is lost, and with it every open call.
    pub(super) fn lose(&mut self, why: &str, statuses: &mut Statuses, sink: &mut impl Sink) {
        self.going_away = true;
        let status = statuses.of(Code::Unavailable, why);
        self.close_from(1, status, sink);
    }

    fn go_away(&mut self, payload: &[u8], statuses: &mut Statuses, sink: &mut impl Sink) -> Result<(), String> {
        let last = number(payload)? & STREAM_ID_MAX;
        let code = number(payload.get(4..).unwrap_or_default())?;
        self.going_away = true;
        let debug = String::from_utf8_lossy(payload.get(8..).unwrap_or_default()).into_owned();
        let text = format!("the server goes away, HTTP/2 error {code} {debug:?}");
        let status = statuses.of(Code::Unavailable, &text);
        self.close_from(last.saturating_add(1), status, sink);
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) {
        let mut table_bytes = DEFAULT_HEADER_TABLE_BYTES;
        for setting in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match id {
                wire::SETTING_HEADER_TABLE_SIZE => table_bytes = value,
                wire::SETTING_MAX_CONCURRENT_STREAMS => self.streams_max = value,
                wire::SETTING_MAX_FRAME_SIZE => self.frame_payload_max = value as usize,
                wire::SETTING_INITIAL_WINDOW_SIZE => {
                    let difference = i64::from(value) - self.stream_window;
                    self.stream_window += difference;
                    self.streams
                        .iter_mut()
                        .for_each(|stream| stream.send_window += difference);
                }
                _ => {}
            }
        }
        if table_bytes < DEFAULT_HEADER_TABLE_BYTES {
            self.blocks = RequestBlocks::new(self.path, &self.authority, false);
            self.first_sent = false;
        }
        self.settled = true;
        put_frame(wire::SETTINGS, wire::ACK, 0, &[], &mut self.out);
        self.send_held();
    }
}

/// The open stream of that id.
#[inline]
fn stream_at(streams: &mut VecDeque<Stream>, base: u32, id: u32) -> Option<&mut Stream> {
    let place = id.checked_sub(base)? / 2;
    streams.get_mut(place as usize).filter(|stream| stream.open)
}

/// The number at the start of a payload.
fn number(payload: &[u8]) -> Result<u32, String> {
    let bytes = payload.first_chunk().ok_or("a frame is too short for its kind")?;
    Ok(u32::from_be_bytes(*bytes))
}

/// The header block in a HEADERS payload, without padding and priority.
#[inline]
fn block_of(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    let mut block = payload;
    if flags & wire::PADDED != 0 {
        let (&padding, rest) = block.split_first()?;
        block = rest.get(..rest.len().checked_sub(padding as usize)?)?;
    }
    if flags & wire::PRIORITY != 0 {
        block = block.get(5..)?;
    }
    Some(block)
}
