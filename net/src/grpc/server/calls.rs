//! The calls of a connection: from HTTP/2 events to [`Event`]s.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::gzip;
use super::super::head::{self, HttpHead, Request};
use super::super::message::{Assembly, Cut, CutError, Rules, SharedCopy};
use super::{Code, ErrorCode, Event, Field, HEAD, Indexing, OK, Status, StreamId, percent_encode};
use crate::h2::limits::{HEADS_WAITING_BYTES_MAX, PARTIAL_BYTES_MAX, QUEUE_KEEP};
use crate::h2::{self, BlockMemo, Connection, Data, Handler, Headers, Slot};

/// How far a call is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not yet told to the owner.
    #[default]
    New,
    /// A gRPC call that the owner answers.
    Grpc,
    /// A plain request whose body is coming.
    HttpBody,
    /// A plain request that the owner answers.
    Http,
    /// As [`Phase::Http`], with the head of the answer sent.
    HttpAnswer,
    /// Answered; only the queue is not empty.
    Over,
}

impl Phase {
    pub(super) fn is_answerable(self) -> bool {
        matches!(self, Phase::Grpc | Phase::Http | Phase::HttpAnswer)
    }
}

/// What is kept for each stream.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) phase: Phase,
    pub(super) head_sent: bool,
    /// The client compresses its messages, and gets compressed ones.
    pub(super) is_gzip: bool,
    /// What a message begun still lacks.
    pub(super) owed_bytes: u64,
    assembly: Assembly,
    http: Option<Box<HttpBody>>,
}

#[derive(Debug)]
struct HttpBody {
    head: HttpHead,
    body: BytesMut,
}

impl Call {
    /// Memory of what came and is not complete.
    fn held_bytes(&self) -> usize {
        self.assembly.held_bytes() + self.http.as_ref().map_or(0, |http| http.body.len())
    }
}

/// A turn of a connection unpacks messages until it has got that many bytes of them. Against bombs: a few kilobytes may
/// unpack to the longest message there is, and the owner takes only so many at once.
const UNPACKED_BYTES_MAX: usize = 64 * 1024;

/// Kinds of requests remembered by their header lists.
const MEMO_ENTRIES: usize = 8;

/// An event that waits, and what is owed once it is taken.
struct Waiting {
    event: Event,
    /// The event is a message that is still compressed. It is unpacked when it is taken, so that what waits takes no more
    /// memory than flow control allows.
    is_packed: bool,
    /// Bytes of DATA to credit, and whether to the stream too.
    credit: u32,
    credit_stream: bool,
    /// Bytes of the head that no longer wait then.
    head_bytes: u32,
}

#[derive(Default)]
pub(super) struct Calls {
    events: VecDeque<Waiting>,
    heads_waiting_bytes: usize,
    /// Bytes of unfinished messages and bodies of all streams.
    partial_bytes: usize,
    /// Bytes of messages unpacked in this turn.
    unpacked_bytes: usize,
    shared: SharedCopy,
    memo: Vec<(Arc<Headers>, Request)>,
    memo_next: usize,
}

impl Handler for Calls {
    type User = Call;

    fn begin_buffer(&mut self) {
        self.shared.forget();
    }

    #[inline]
    fn event(&mut self, conn: &mut Connection<Call>, event: h2::Event<'_, Call>) {
        match event {
            h2::Event::Head { slot, headers, end } => self.on_head(conn, slot, headers, end),
            h2::Event::Data { slot, data, end } => self.on_data(conn, slot, data, end),
            h2::Event::Trailers { slot, .. } => self.on_end(conn, slot),
            h2::Event::Reset { id, user, .. } => {
                self.partial_bytes -= user.held_bytes();
                if user.phase.is_answerable() {
                    self.push(Event::Cancelled { stream: StreamId(id) });
                }
            }
            h2::Event::GoAway => {}
        }
    }
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn begin_turn(&mut self) {
        self.unpacked_bytes = 0;
    }

    /// Whether as much was unpacked as one turn may.
    pub(super) fn is_tired(&self) -> bool {
        self.unpacked_bytes >= UNPACKED_BYTES_MAX
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.partial_bytes + self.heads_waiting_bytes + self.events.capacity() * size_of::<Waiting>()
    }

    /// The next event, with the credit it frees.
    #[inline]
    pub(super) fn next(&mut self, conn: &mut Connection<Call>) -> Option<Event> {
        let mut waiting = self.events.pop_front()?;
        if self.events.is_empty() && self.events.capacity() > QUEUE_KEEP {
            self.events = VecDeque::new();
        }
        match waiting.credit {
            0 => {}
            credit if waiting.credit_stream => {
                if let Event::Message { stream, .. } = waiting.event {
                    conn.credit(stream.0, credit);
                }
            }
            credit => conn.credit_connection(credit),
        }
        if waiting.head_bytes > 0 {
            self.heads_waiting_bytes -= waiting.head_bytes as usize;
            conn.refuse_streams = self.heads_waiting_bytes > HEADS_WAITING_BYTES_MAX;
        }
        if waiting.is_packed {
            self.unpack(conn, &mut waiting.event);
        }
        Some(waiting.event)
    }

    fn push(&mut self, event: Event) {
        self.events.push_back(Waiting {
            event,
            is_packed: false,
            credit: 0,
            credit_stream: false,
            head_bytes: 0,
        });
    }

    fn push_head(&mut self, conn: &mut Connection<Call>, event: Event, head_bytes: usize) {
        self.heads_waiting_bytes += head_bytes;
        conn.refuse_streams = self.heads_waiting_bytes > HEADS_WAITING_BYTES_MAX;
        self.events.push_back(Waiting {
            event,
            is_packed: false,
            credit: 0,
            credit_stream: false,
            head_bytes: head_bytes as u32,
        });
    }

    fn on_head(&mut self, conn: &mut Connection<Call>, slot: Slot, headers: Arc<Headers>, end: bool) {
        let stream = StreamId(conn.stream_id(slot));
        let head_bytes = headers.held_bytes();
        match self.read(headers) {
            Request::Grpc(head) => {
                let call = conn.user(slot);
                call.phase = Phase::Grpc;
                call.is_gzip = head.is_gzip();
                self.push_head(conn, Event::Request { stream, head }, head_bytes);
                if end {
                    self.push(Event::HalfClose { stream });
                }
            }
            Request::Http(head) if end => {
                conn.user(slot).phase = Phase::Http;
                self.push_head(
                    conn,
                    Event::Http {
                        stream,
                        head,
                        body: Bytes::new(),
                    },
                    head_bytes,
                );
            }
            Request::Http(head) => {
                let call = conn.user(slot);
                call.phase = Phase::HttpBody;
                call.http = Some(Box::new(HttpBody {
                    head,
                    body: BytesMut::new(),
                }));
            }
            Request::Refused {
                http_status,
                status,
                accept_encoding,
            } => {
                conn.user(slot).phase = Phase::Over;
                refuse(conn, slot, http_status, &status, accept_encoding);
            }
        }
    }

    /// Reads a header list, or remembers what it said: lists that the decoder remembers come again as the same object.
    fn read(&mut self, headers: Arc<Headers>) -> Request {
        if let Some((_, request)) = self.memo.iter().find(|(known, _)| Arc::ptr_eq(known, &headers)) {
            return request.clone();
        }
        let is_remembered = Arc::strong_count(&headers) > 1;
        if !is_remembered {
            return head::read(headers);
        }
        let request = head::read(headers.clone());
        if self.memo.len() < MEMO_ENTRIES {
            self.memo.push((headers, request.clone()));
        } else {
            self.memo[self.memo_next] = (headers, request.clone());
            self.memo_next = (self.memo_next + 1) % MEMO_ENTRIES;
        }
        request
    }

    fn on_data(&mut self, conn: &mut Connection<Call>, slot: Slot, data: Data<'_>, end: bool) {
        match conn.user(slot).phase {
            Phase::Grpc => self.on_message_data(conn, slot, data, end),
            Phase::HttpBody => self.on_http_data(conn, slot, data, end),
            _ => {
                let id = conn.stream_id(slot);
                conn.credit(id, data.len as u32);
            }
        }
    }

    #[inline]
    fn on_message_data(&mut self, conn: &mut Connection<Call>, slot: Slot, data: Data<'_>, end: bool) {
        let stream = StreamId(conn.stream_id(slot));
        let len_max = conn.limits().message_bytes_max;
        let call = conn.user(slot);
        let rules = Rules {
            len_max,
            may_be_packed: call.is_gzip,
        };
        let assembly = &mut call.assembly;
        let held_before = assembly.held_bytes();
        let events = &mut self.events;
        let mut owed = data.len as u32;
        let result = assembly.feed(&data, &mut self.shared, rules, |cut: Cut| {
            owed -= cut.credit;
            let message = cut.message;
            events.push_back(Waiting {
                event: Event::Message { stream, message },
                is_packed: cut.is_packed,
                credit: cut.credit,
                credit_stream: !end,
                head_bytes: 0,
            });
        });
        self.partial_bytes = self.partial_bytes + assembly.held_bytes() - held_before;
        if owed > 0 {
            conn.credit(stream.0, owed);
        }
        match result {
            Err(error) => self.fail(conn, slot, &cut_status(error, len_max)),
            Ok(_) if self.partial_bytes > PARTIAL_BYTES_MAX => {
                let text = "grpc: too many unfinished messages on this connection";
                self.fail(conn, slot, &Status::new(Code::ResourceExhausted, text));
            }
            Ok(_) if end => self.on_end(conn, slot),
            Ok(_) => {}
        }
    }

    fn on_http_data(&mut self, conn: &mut Connection<Call>, slot: Slot, data: Data<'_>, end: bool) {
        let id = conn.stream_id(slot);
        conn.credit(id, data.len as u32);
        let len_max = conn.limits().message_bytes_max as usize;
        let http = conn
            .user(slot)
            .http
            .as_mut()
            .expect("a request whose body comes has its head kept");
        http.body.extend_from_slice(data.payload());
        self.partial_bytes += data.len;
        if http.body.len() > len_max || self.partial_bytes > PARTIAL_BYTES_MAX {
            self.let_go(conn, slot);
            put_http_head(conn, slot, 413, &[]);
            conn.send_end(slot);
        } else if end {
            self.on_end(conn, slot);
        }
    }

    /// The client has sent all it will.
    fn on_end(&mut self, conn: &mut Connection<Call>, slot: Slot) {
        let stream = StreamId(conn.stream_id(slot));
        let call = conn.user(slot);
        match call.phase {
            Phase::Grpc if call.assembly.is_inside() => {
                self.fail(conn, slot, &Status::new(Code::Internal, "unexpected EOF"));
            }
            Phase::Grpc => self.push(Event::HalfClose { stream }),
            Phase::HttpBody => {
                call.phase = Phase::Http;
                let http = *call.http.take().expect("a request whose body comes has its head kept");
                self.partial_bytes -= http.body.len();
                let head_bytes = http.head.headers().held_bytes() + http.body.len();
                self.push_head(
                    conn,
                    Event::Http {
                        stream,
                        head: http.head,
                        body: http.body.freeze(),
                    },
                    head_bytes,
                );
            }
            _ => {}
        }
    }

    /// Unpacks the message of an event; one that cannot be unpacked ends its call, and the event says so.
    #[cold]
    fn unpack(&mut self, conn: &mut Connection<Call>, event: &mut Event) {
        let Event::Message { stream, message } = event else {
            return;
        };
        let stream = *stream;
        let Some(slot) = conn.find(stream.0).filter(|slot| conn.user(*slot).phase == Phase::Grpc) else {
            // Nobody waits for it any more.
            *event = Event::Cancelled { stream };
            return;
        };
        match gzip::unpack(message, conn.limits().message_bytes_max) {
            Ok(unpacked) => {
                self.unpacked_bytes += unpacked.len();
                *message = unpacked;
            }
            Err(status) => {
                self.unpacked_bytes += UNPACKED_BYTES_MAX;
                *event = Event::Cancelled { stream };
                finish(conn, self, slot, &status, &mut BlockMemo::default());
            }
        }
    }

    /// Ends a call that the client broke, and tells the owner.
    fn fail(&mut self, conn: &mut Connection<Call>, slot: Slot, status: &Status) {
        self.push(Event::Cancelled {
            stream: StreamId(conn.stream_id(slot)),
        });
        finish(conn, self, slot, status, &mut BlockMemo::default());
    }

    /// The owner is done with the call: what still comes for it is dropped.
    #[inline]
    pub(super) fn let_go(&mut self, conn: &mut Connection<Call>, slot: Slot) {
        let call = conn.user(slot);
        call.phase = Phase::Over;
        if call.assembly.is_inside() || call.http.is_some() {
            self.partial_bytes -= call.held_bytes();
            call.assembly = Assembly::default();
            call.http = None;
        }
    }
}

/// Source: the texts of grpc-go's `recvMsg` and `checkRecvPayload`.
fn cut_status(error: CutError, len_max: u32) -> Status {
    match error {
        CutError::TooLarge { len } => {
            let text = format!("grpc: received message larger than max ({len} vs. {len_max})");
            Status::new(Code::ResourceExhausted, text)
        }
        CutError::Compressed => Status::new(
            Code::Internal,
            "grpc: compressed flag set with identity or empty encoding",
        ),
        CutError::UnknownFlags(flags) => Status::new(
            Code::Internal,
            format!("grpc: received unexpected payload format {flags}"),
        ),
    }
}

/// Ends a gRPC call with that status.
pub(super) fn finish(conn: &mut Connection<Call>, calls: &mut Calls, slot: Slot, status: &Status, ok: &mut BlockMemo) {
    calls.let_go(conn, slot);
    let call = conn.user(slot);
    if call.owed_bytes > 0 {
        // Trailers behind half a message would be taken for its rest.
        return conn.reset(slot, ErrorCode::InternalError);
    }
    let head_sent = call.head_sent;
    if head_sent && status.code == Code::Ok && status.message.is_empty() && status.trailers.is_empty() {
        return conn.send_trailers(slot, Some(ok), || OK);
    }
    let text = StatusText::new(status);
    let head = if head_sent { &[][..] } else { &HEAD[..] };
    conn.send_trailers(slot, None, || head.iter().copied().chain(text.fields(status)));
}

/// Answers a gRPC request that reaches no handler.
fn refuse(conn: &mut Connection<Call>, slot: Slot, http_status: &'static str, status: &Status, accept_encoding: bool) {
    let text = StatusText::new(status);
    let head = [(&b":status"[..], http_status.as_bytes(), Indexing::Pass), HEAD[1]];
    let accept: Option<Field<'static>> =
        accept_encoding.then_some((b"grpc-accept-encoding", b"identity,gzip", Indexing::Pass));
    conn.send_trailers(slot, None, || head.into_iter().chain(text.fields(status)).chain(accept));
}

/// Code and message in wire form.
struct StatusText {
    code: String,
    message: Vec<u8>,
}

impl StatusText {
    fn new(status: &Status) -> StatusText {
        let mut message = Vec::with_capacity(status.message.len());
        percent_encode(&status.message, &mut message);
        StatusText {
            code: status.code.number().to_string(),
            message,
        }
    }

    fn fields<'a>(&'a self, status: &'a Status) -> impl Iterator<Item = Field<'a>> {
        let message = (!self.message.is_empty()).then_some((&b"grpc-message"[..], &self.message[..], Indexing::Pass));
        let others = status
            .trailers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes(), Indexing::Pass));
        let code = (&b"grpc-status"[..], self.code.as_bytes(), Indexing::Keep);
        std::iter::once(code).chain(message).chain(others)
    }
}

/// Sends the head of a plain HTTP answer.
pub(super) fn put_http_head(conn: &mut Connection<Call>, slot: Slot, status: u16, headers: &[(&str, &str)]) {
    let status = status.to_string();
    let status = (&b":status"[..], status.as_bytes(), Indexing::Pass);
    let others = headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes(), Indexing::Pass));
    conn.send_head(slot, false, |encoder, out| {
        encoder.encode(std::iter::once(status).chain(others), out)
    });
}
