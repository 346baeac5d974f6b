//! One connection: which protocol it speaks, and its life from the first byte to the close.

use super::http2::Http2;
use super::{Application, ConnInfo, Inner};
use crate::grpc::ServerConn;
use crate::io::stream::Stream;
use crate::io::{http1, within};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What every HTTP/2 client sends first. Source: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection that we ended may go on sending before it is closed under it. Closing with unread bytes resets
/// the connection, which can destroy the GOAWAY or status on its way to the peer.
const LINGER: Duration = Duration::from_secs(1);

/// A connection, shared by its task, the turn task and the sweep.
pub(super) struct Conn {
    pub(super) info: ConnInfo,
    pub(super) control: Rc<Control>,
    /// Whether it stands in the shard's list of connections to flush.
    pub(super) dirty: Cell<bool>,
    /// Whether it stands in the shard's list of connections that go on after a breath.
    pub(super) unfinished: Cell<bool>,
    pub(super) http2: RefCell<Option<Http2>>,
    deadline_ns: Cell<u64>,
    answered_seen: Cell<u64>,
}

/// What the others ask of a connection's task, and what it tells them.
#[derive(Default)]
pub(in crate::io) struct Control {
    /// Close now.
    aborted: Cell<bool>,
    /// Finish what runs, then close.
    stopping: Cell<bool>,
    /// A whole HTTP/1.1 request is being answered: the header timeout does not run.
    answering: Cell<bool>,
    /// HTTP/1.1 answers so far; the timeout starts anew with each.
    answered: Cell<u64>,
    task: RefCell<Option<Waker>>,
}

impl Control {
    /// Remembers the task to wake. Called on each poll.
    pub(in crate::io) fn register(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    /// Wakes the task.
    pub(super) fn wake(&self) {
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    /// Runs `f` with the context of the connection's task, so that a wait begun now wakes that task.
    pub(super) fn as_task<R>(&self, f: impl FnOnce(&mut Context<'_>) -> R) -> Option<R> {
        let task = self.task.borrow();
        Some(f(&mut Context::from_waker(task.as_ref()?)))
    }

    pub(super) fn abort(&self) {
        self.aborted.set(true);
        self.wake();
    }

    pub(super) fn stop(&self) {
        self.stopping.set(true);
        self.wake();
    }

    pub(in crate::io) fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    pub(in crate::io) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    pub(in crate::io) fn answer_begins(&self) {
        self.answering.set(true);
    }

    pub(in crate::io) fn answer_ends(&self) {
        self.answering.set(false);
        self.answered.set(self.answered.get() + 1);
    }
}

impl Conn {
    pub(super) fn new(info: ConnInfo, deadline_ns: u64) -> Conn {
        Conn {
            info,
            control: Rc::default(),
            dirty: Cell::new(false),
            unfinished: Cell::new(false),
            http2: RefCell::new(None),
            deadline_ns: Cell::new(deadline_ns),
            answered_seen: Cell::new(0),
        }
    }

    /// Gives the codec to `f`, if the connection speaks HTTP/2.
    pub(super) fn with_wire<R>(&self, f: impl FnOnce(&mut ServerConn) -> R) -> Option<R> {
        let mut http2 = self
            .http2
            .try_borrow_mut()
            .expect("with_conn is not called for the connection whose event is being handled: use the codec given");
        http2.as_mut().map(|http2| f(&mut http2.wire))
    }

    /// Tells the connection the time; `timeout_ns` is the deadline of a request that would begin now. Returns whether
    /// there may be output.
    pub(super) fn on_time(&self, now_ns: u64, timeout_ns: u64) -> bool {
        let answered = self.control.answered.get();
        if self.answered_seen.replace(answered) != answered {
            self.deadline_ns.set(timeout_ns);
        }
        if now_ns < self.deadline_ns.get() || self.control.answering.get() {
            return false;
        }
        match self.http2.borrow_mut().as_mut() {
            Some(http2) if !http2.is_ending() => {
                self.deadline_ns.set(http2.wire.on_time(now_ns));
                self.control.wake();
                true
            }
            _ => {
                self.control.abort();
                false
            }
        }
    }

    pub(super) fn set_deadline_ns(&self, deadline_ns: u64) {
        self.deadline_ns.set(deadline_ns);
    }

    /// Moves the deadline to that time if it is later; the sweep finds out when it may be later again.
    pub(super) fn set_earlier_deadline_ns(&self, deadline_ns: u64) {
        self.deadline_ns.set(self.deadline_ns.get().min(deadline_ns));
    }

    /// Announces that the connection shall end; one that has not said anything yet is closed.
    pub(super) fn announce_end(&self) {
        self.control.stop();
        if let Some(http2) = self.http2.borrow_mut().as_mut() {
            http2.wire.shutdown();
            // The next sweep asks when the codec wants to know the time again.
            self.deadline_ns.set(0);
        }
    }

    /// Writes what is pending; returns whether there is more to write though the socket has room.
    pub(super) fn flush(&self) -> bool {
        let mut http2 = self.http2.borrow_mut();
        let Some(http2) = http2.as_mut() else { return false };
        self.control.as_task(|cx| http2.flush(cx)).unwrap_or(false)
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// The task of a connection.
pub(super) async fn run<A: Application + 'static>(inner: Rc<Inner<A>>, conn: Rc<Conn>, mut stream: Stream) {
    let mut prefix = Vec::new();
    match detect(&inner, &conn.control, &mut stream, &mut prefix).await {
        Some(Protocol::Http2) => super::http2::serve(&inner, &conn, stream, &prefix).await,
        Some(Protocol::Http1) => {
            let app = |request| {
                inner.count_events(1);
                inner.app.borrow_mut().on_http1(request)
            };
            let (body_max, control) = (inner.limits.http1_body_bytes_max, Rc::clone(&conn.control));
            http1::serve(stream, prefix, conn.info, body_max, control, app).await;
            leave(&inner, &conn);
        }
        None => leave(&inner, &conn),
    }
}

/// Takes a connection out of its shard.
pub(super) fn leave<A: Application>(inner: &Inner<A>, conn: &Conn) {
    inner.slots.borrow_mut().remove(conn.info.id);
    inner.intake.leave();
}

/// Reads until the first bytes tell the protocol; they stay in `prefix`. `None` when the connection ends first.
async fn detect<A: Application>(
    inner: &Inner<A>,
    control: &Control,
    stream: &mut Stream,
    prefix: &mut Vec<u8>,
) -> Option<Protocol> {
    poll_fn(|cx| {
        control.register(cx);
        loop {
            if control.is_aborted() || control.is_stopping() {
                return Poll::Ready(None);
            }
            let mut buf = inner.read_buf.borrow_mut();
            match std::task::ready!(stream.poll_read(cx, &mut buf)) {
                Ok(0) | Err(_) => return Poll::Ready(None),
                Ok(n) => prefix.extend_from_slice(&buf[..n]),
            }
            let len = prefix.len().min(PREFACE.len());
            if prefix[..len] != PREFACE[..len] {
                return Poll::Ready(Some(Protocol::Http1));
            }
            if len == PREFACE.len() {
                return Poll::Ready(Some(Protocol::Http2));
            }
        }
    })
    .await
}

/// Ends our half of the stream and reads the other to its end, for at most [`LINGER`].
pub(super) async fn linger(mut stream: Stream) {
    if stream.shutdown_write().is_err() {
        return;
    }
    let discard = async {
        let mut buf = [0; 4096];
        while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {}
    };
    let _ = within(LINGER, discard).await;
}
