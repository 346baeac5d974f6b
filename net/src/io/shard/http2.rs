//! HTTP/2 on one connection: the codec and its socket.
//!
//! The connection's task reads. The turn task writes, by the same socket, as if it were the connection's task; so when
//! the socket is full it is the connection's task that is woken, and that task then writes on.

use super::conn::{self, Conn};
use super::{Application, Inner, TURN_EVENTS_MAX};
use crate::grpc::{CloseReason, Event, ServerConn};
use crate::io::stream::Stream;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Reads of one connection in one turn.
const READS_MAX: usize = 4;

/// Units: bytes. Written of one connection in one turn, that others get theirs.
const FLUSH_BYTES_MAX: usize = 256 << 10;

/// How long a connection that broke the protocol may take to read our last words.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The codec and the socket of a connection.
pub(super) struct Http2 {
    pub(super) wire: ServerConn,
    stream: Stream,
    output_bytes_max: usize,
    /// The socket was full: the connection's task waits for room and writes.
    blocked: bool,
    /// Too much output is unread: no requests are read until a write has made room.
    paused: bool,
    /// A write failed: the peer is gone.
    failed: bool,
    /// The codec has given the connection up.
    ending: bool,
    /// An event that a write brought forth, outside the connection's task.
    stash: Option<Event>,
}

/// Serves the connection until it ends.
pub(super) async fn serve<A: Application>(inner: &Inner<A>, conn: &Rc<Conn>, stream: Stream, prefix: &[u8]) {
    let now_ns = inner.now_ns();
    let mut wire = ServerConn::new(inner.limits.wire, now_ns);
    conn.set_deadline_ns(wire.on_time(now_ns));
    wire.receive(prefix);
    *conn.http2.borrow_mut() = Some(Http2 {
        wire,
        stream,
        output_bytes_max: inner.limits.output_bytes_max,
        blocked: false,
        paused: false,
        failed: false,
        ending: false,
        stash: None,
    });
    inner.app.borrow_mut().on_opened(conn.info);
    poll_fn(|cx| poll(inner, conn, cx)).await;
    let http2 = conn
        .http2
        .borrow_mut()
        .take()
        .expect("only the task of a connection takes its codec");
    inner.app.borrow_mut().on_closed(conn.info.id);
    inner.count_events(1);
    conn::leave(inner, conn);
    if http2.wire.is_done() && !http2.failed {
        conn::linger(http2.stream).await;
    }
}

fn poll<A: Application>(inner: &Inner<A>, conn: &Rc<Conn>, cx: &mut Context<'_>) -> Poll<()> {
    conn.control.register(cx);
    if conn.control.is_aborted() {
        return Poll::Ready(());
    }
    let mut guard = conn.http2.borrow_mut();
    let http2 = guard.as_mut().expect("only the task of a connection takes its codec");
    if http2.resume_writing(cx) {
        inner.go_on_later(conn);
    }
    http2.wire.begin_turn();
    http2.dispatch(inner, conn);
    let outcome = http2.read(inner, conn, cx);
    if http2.wire.wants_turn() {
        inner.go_on_later(conn);
    }
    let dirty = http2.has_work();
    drop(guard);
    if dirty {
        inner.mark_dirty(conn);
    }
    if inner.events.get() >= TURN_EVENTS_MAX {
        inner.end_turn();
    }
    outcome
}

impl Http2 {
    /// Whether the codec has given the connection up, and only its last words are left to write.
    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// Writes what is pending; returns whether there is more to write though the socket has room.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        if self.blocked {
            return false;
        }
        let more = self.write(cx);
        if self.stash.is_none() {
            self.stash = self.wire.next_event();
        }
        let readable_again = self.paused && self.wire.pending_output().len() < self.output_bytes_max;
        if readable_again || self.failed || self.stash.is_some() || self.wire.is_done() {
            cx.waker().wake_by_ref();
        }
        more
    }

    fn has_failed(&self) -> bool {
        !matches!(
            self.wire.close_reason(),
            None | Some(CloseReason::ShutDown | CloseReason::PeerGoAway)
        )
    }

    fn has_work(&self) -> bool {
        !self.blocked && !self.wire.pending_output().is_empty()
    }

    /// Writes on if the socket was full; returns whether the turn's share is used up.
    fn resume_writing(&mut self, cx: &mut Context<'_>) -> bool {
        std::mem::take(&mut self.blocked) && self.write(cx)
    }

    /// Writes until all is written, the socket is full or the turn's share is used up; true in the last case.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut written = 0;
        while !self.failed {
            let output = self.wire.pending_output();
            if output.is_empty() {
                return false;
            }
            if written >= FLUSH_BYTES_MAX {
                return true;
            }
            match self.stream.poll_write(cx, output) {
                Poll::Ready(Ok(n)) => {
                    written += n;
                    self.wire.advance_output(n);
                }
                Poll::Ready(Err(_)) => self.failed = true,
                Poll::Pending => {
                    self.blocked = true;
                    return false;
                }
            }
        }
        false
    }

    /// Hands all events to the application.
    fn dispatch<A: Application>(&mut self, inner: &Inner<A>, conn: &Conn) {
        let mut count = 0;
        let mut app = None;
        while let Some(event) = self.stash.take().or_else(|| self.wire.next_event()) {
            app.get_or_insert_with(|| inner.app.borrow_mut())
                .on_event(conn.info.id, event, &mut self.wire);
            count += 1;
        }
        drop(app);
        inner.count_events(count);
    }

    /// Reads and dispatches until the socket is empty; ready when the connection is over.
    fn read<A: Application>(&mut self, inner: &Inner<A>, conn: &Rc<Conn>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..READS_MAX {
            if self.failed || self.wire.is_done() {
                return Poll::Ready(());
            }
            if !self.ending && self.has_failed() {
                self.ending = true;
                conn.set_deadline_ns(inner.after_ns(END_TIMEOUT));
            }
            self.paused = self.wire.pending_output().len() >= self.output_bytes_max;
            if self.paused {
                return Poll::Pending;
            }
            let mut buf = inner.read_buf.borrow_mut();
            let Poll::Ready(read) = self.stream.poll_read(cx, &mut buf) else {
                return Poll::Pending;
            };
            match read {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(n) => {
                    // Pings are judged by the time they come.
                    self.wire.on_time(inner.now_ns());
                    self.wire.receive(&buf[..n]);
                    conn.set_earlier_deadline_ns(self.wire.deadline_ns());
                }
            }
            drop(buf);
            self.dispatch(inner, conn);
        }
        // The socket may hold more, but others are waiting.
        inner.go_on_later(conn);
        Poll::Pending
    }
}
