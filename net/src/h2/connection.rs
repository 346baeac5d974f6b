//! One connection, either role: the state all frames act on.
//!
//! `receive` takes bytes and calls the [`Handler`] for what they mean; the `send_*` methods append frames to one output
//! buffer, or to the queue of the stream where a window or the size of the output is in the way. [`recv`] is the first
//! half, [`send`] the second, [`life`] pings, time and the end of the connection.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::hpack::{Decoder, Encoder, Headers};
use super::limits::{self, Budget, Limits};
use super::stream::{Slot, Streams};
use super::{CloseReason, frame};

mod life;
mod recv;
mod send;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// What the frames received mean.
#[derive(Debug)]
pub(crate) enum Event<'a, S> {
    /// A request (server) or the head of a response (client).
    Head {
        slot: Slot,
        headers: Arc<Headers>,
        end: bool,
    },
    /// A piece of a body. The handler owes `credit` to the connection for exactly `payload.len()` bytes.
    Data { slot: Slot, data: Data<'a>, end: bool },
    /// The trailers, which end the body.
    Trailers { slot: Slot, headers: Arc<Headers> },
    /// The stream is over, by the peer, by an error of the peer, or with the connection; its slot is free again.
    Reset { id: u32, code: u32, user: S },
    /// The peer takes no new streams.
    GoAway,
}

/// The payload of a DATA frame, in the buffer it came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Data<'a> {
    /// The buffer from the payload on, to its end.
    pub(crate) rest: &'a [u8],
    /// Where `rest` starts in the buffer.
    pub(crate) offset: usize,
    /// Length of the payload.
    pub(crate) len: usize,
}

impl<'a> Data<'a> {
    pub(crate) fn payload(&self) -> &'a [u8] {
        &self.rest[..self.len]
    }
}

/// The layer above: it gets each event while the connection is in the state the event left it in.
pub(crate) trait Handler {
    /// What is kept for it in each stream.
    type User: Default;

    /// A new buffer is being parsed; offsets of [`Data`] start anew.
    fn begin_buffer(&mut self);

    fn event(&mut self, conn: &mut Connection<Self::User>, event: Event<'_, Self::User>);
}

/// One connection.
pub(crate) struct Connection<S> {
    role: Role,
    limits: Limits,
    now_ns: u64,
    /// When the connection began.
    begun_ns: u64,

    /// An unfinished frame (or preface) that waits for the rest of its bytes.
    carry: Vec<u8>,
    preface_awaited: bool,
    settings_awaited: bool,
    /// An unfinished header block.
    block: Vec<u8>,
    block_of: Option<recv::OpenBlock>,
    decoder: Decoder,

    streams: Streams<S>,
    /// Server: the highest stream the client has opened. Client: the next stream to open.
    stream_mark: u32,
    /// Streams this end closed while the peer was still sending: what arrives for them is late, not wrong.
    closed_here: VecDeque<u32>,

    recv_window: i64,
    /// The window new streams of the peer have: the default or ours, whichever is larger, until the peer has taken our
    /// SETTINGS.
    stream_window: i64,
    credit: u32,

    encoder: Encoder,
    send_window: i64,
    peer_initial_window: i64,
    peer_streams_max: u32,
    out: BytesMut,
    ready: VecDeque<(Slot, u32)>,
    queued_bytes: usize,
    /// Streams whose queue fell below the low-water mark.
    writable: Vec<u32>,

    /// The layer above can hold no more heads: new streams are refused.
    pub(crate) refuse_streams: bool,
    control_pending: u32,
    resets: Budget,
    stream_errors: Budget,
    settings_frames: Budget,
    empty_frames: Budget,
    small_increments: Budget,
    pings: life::Pings,
    ending: life::Ending,
}

impl<S: Default> Connection<S> {
    pub(crate) fn new(role: Role, mut limits: Limits, now_ns: u64) -> Connection<S> {
        const WINDOW_MAX: u32 = (1 << 31) - 1;
        limits.stream_window_bytes = limits.stream_window_bytes.clamp(1, WINDOW_MAX);
        limits.connection_window_bytes = limits.connection_window_bytes.clamp(DEFAULT_WINDOW_BYTES, WINDOW_MAX);
        let budget = |allowance| Budget::new(allowance, now_ns);
        let mut conn = Connection {
            role,
            limits,
            now_ns,
            begun_ns: now_ns,
            carry: Vec::new(),
            preface_awaited: role == Role::Server,
            settings_awaited: true,
            block: Vec::new(),
            block_of: None,
            decoder: Decoder::new(
                limits::HEADER_TABLE_BYTES as usize,
                limits::HEADER_LIST_BYTES_MAX as usize,
            ),
            streams: Streams::new(),
            stream_mark: if role == Role::Server { 0 } else { 1 },
            closed_here: VecDeque::new(),
            recv_window: limits.connection_window_bytes as i64,
            stream_window: limits.stream_window_bytes.max(DEFAULT_WINDOW_BYTES) as i64,
            credit: 0,
            encoder: Encoder::new(),
            send_window: DEFAULT_WINDOW_BYTES as i64,
            peer_initial_window: DEFAULT_WINDOW_BYTES as i64,
            peer_streams_max: u32::MAX,
            out: BytesMut::new(),
            ready: VecDeque::new(),
            queued_bytes: 0,
            writable: Vec::new(),
            refuse_streams: false,
            control_pending: 0,
            resets: budget(limits::RESETS_BY_PEER),
            stream_errors: budget(limits::STREAM_ERRORS),
            settings_frames: budget(limits::SETTINGS_FRAMES),
            empty_frames: budget(limits::EMPTY_FRAMES),
            small_increments: budget(limits::SMALL_INCREMENTS),
            pings: life::Pings::new(now_ns),
            ending: life::Ending::default(),
        };
        conn.say_hello();
        conn
    }

    /// Preface, SETTINGS, and the window of the connection, which SETTINGS cannot change.
    fn say_hello(&mut self) {
        let mut settings = vec![
            (frame::SETTING_INITIAL_WINDOW_SIZE, self.limits.stream_window_bytes),
            (frame::SETTING_MAX_HEADER_LIST_SIZE, limits::HEADER_LIST_BYTES_MAX),
        ];
        match self.role {
            Role::Client => {
                self.out.extend_from_slice(frame::PREFACE);
                settings.push((frame::SETTING_ENABLE_PUSH, 0));
            }
            Role::Server if self.limits.streams_max != u32::MAX => {
                settings.push((frame::SETTING_MAX_CONCURRENT_STREAMS, self.limits.streams_max));
            }
            Role::Server => {}
        }
        frame::put_settings(&settings, &mut self.out);
        let increment = self.limits.connection_window_bytes - DEFAULT_WINDOW_BYTES;
        if increment > 0 {
            frame::put_number(frame::WINDOW_UPDATE, 0, increment, &mut self.out);
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    #[inline]
    pub(crate) fn find(&mut self, id: u32) -> Option<Slot> {
        self.streams.find(id)
    }

    #[inline]
    pub(crate) fn user(&mut self, slot: Slot) -> &mut S {
        &mut self.streams.get(slot).user
    }

    pub(crate) fn stream_id(&mut self, slot: Slot) -> u32 {
        self.streams.get(slot).id
    }

    pub(crate) fn is_open(&self, id: u32) -> bool {
        self.streams.by_id(id).is_some()
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes queued for that stream; 0 if it is not open.
    pub(crate) fn queued(&self, id: u32) -> usize {
        self.streams.by_id(id).map_or(0, |stream| stream.queued_bytes)
    }

    /// Bytes queued for all streams.
    pub(crate) fn queued_total(&self) -> usize {
        self.queued_bytes
    }

    /// A stream whose queue fell below the low-water mark since the last call, if it is still open.
    pub(crate) fn take_writable(&mut self) -> Option<u32> {
        while let Some(id) = self.writable.pop() {
            if self.is_open(id) {
                return Some(id);
            }
        }
        None
    }

    pub(crate) fn close_reason(&self) -> Option<&CloseReason> {
        self.ending.reason.as_ref()
    }

    /// Memory in buffers and queues.
    pub(crate) fn held_bytes(&self) -> usize {
        self.carry.capacity() + self.block.capacity() + self.out.capacity() + self.queued_bytes
    }
}

/// The window of connections and streams before anybody says otherwise.
///
/// Source: RFC 9113 section 6.9.2.
const DEFAULT_WINDOW_BYTES: u32 = 65_535;
