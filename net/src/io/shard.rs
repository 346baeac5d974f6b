//! The connections of one executor.
//!
//! A connection task reads and parses; a single turn task, which runs after every connection task that was ready, ends
//! the turn: it tells the application and then writes each dirty connection once. A sweep once a second tells all
//! connections the time, so that no connection and no request has a timer of its own.
//!
//! The application, a shard and a connection's codec are borrowed only within a call, never across an await.

use super::intake::Intake;
use super::listen::Accepted;
use super::notify::Notify;
use super::stream::Stream;
use super::{Http1Reply, Http1Request};
use crate::grpc::{self, Event, ServerConn};
use conn::Conn;
pub(in crate::io) use conn::Control;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

mod conn;
mod http2;
mod slots;

/// What a shard serves; one per shard, called on its executor only.
pub trait Application {
    /// An HTTP/2 connection begins.
    fn on_opened(&mut self, conn: ConnInfo) {
        let _ = conn;
    }

    /// Something arrived on a connection. Answers that are ready go into `wire` at once; others later, by
    /// [`Shard::with_conn`], which must not be called for this same connection from here.
    fn on_event(&mut self, conn: ConnId, event: Event, wire: &mut ServerConn);

    /// An HTTP/2 connection is gone, with all its streams; no `Cancelled` comes for those that were open.
    fn on_closed(&mut self, conn: ConnId);

    /// A whole HTTP/1.1 request.
    fn on_http1(&mut self, request: Http1Request) -> Http1Reply;

    /// All that was ready has been delivered: time to send the batch to the core. The writes of this turn follow.
    fn on_turn_end(&mut self);
}

/// Names a connection of one shard; a name is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// A name for a connection that no [`Shard`] holds, for drivers of another kind.
    pub const fn new(index: u32, generation: u32) -> ConnId {
        ConnId { index, generation }
    }
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnInfo {
    /// Its name.
    pub id: ConnId,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The tag of the [`Listener`](super::Listener) that accepted it.
    pub tag: u32,
}

/// Bounds of a shard's connections.
#[derive(Debug, Clone, Copy)]
pub struct ShardLimits {
    /// Bounds of each HTTP/2 connection.
    pub wire: grpc::Limits,
    /// How long the first bytes, or a whole HTTP/1.1 request, may take; also how long an HTTP/1.1 connection may idle.
    ///
    /// Source: limits.tsv, "HTTP read header timeout".
    pub header_timeout: Duration,
    /// Longest body of an HTTP/1.1 request; longer ones are answered 413.
    ///
    /// Units: bytes.
    pub http1_body_bytes_max: usize,
    /// Output that a peer may leave unread before no more requests are read from it.
    ///
    /// Units: bytes.
    pub output_bytes_max: usize,
}

impl Default for ShardLimits {
    fn default() -> Self {
        let wire = grpc::Limits::default();
        ShardLimits {
            wire,
            header_timeout: Duration::from_secs(300),
            // JSON carries bytes in base64 and may escape them.
            http1_body_bytes_max: 2 * wire.message_bytes_max as usize,
            output_bytes_max: 1 << 20,
        }
    }
}

/// The connections of one executor; clones are handles to the same shard.
pub struct Shard<A: Application + 'static> {
    inner: Rc<Inner<A>>,
}

struct Inner<A> {
    app: Rc<RefCell<A>>,
    limits: ShardLimits,
    intake: Intake,
    slots: RefCell<slots::Slots>,
    /// Lent to one read at a time: what is read is parsed before the next.
    read_buf: RefCell<Box<[u8]>>,
    /// Connections with output, each once.
    dirty: RefCell<Vec<Rc<Conn>>>,
    /// Events delivered since the last end of a turn.
    events: Cell<usize>,
    turn: Notify,
    /// Connections that used up their share of a turn and go on after a breath.
    unfinished: RefCell<Vec<Rc<Conn>>>,
    breath: Notify,
    /// Rung when there are connections to sweep.
    sweep: Notify,
    stopping: Cell<bool>,
    ended: Cell<bool>,
    epoch: Instant,
}

/// Units: bytes. One read; bounds also the events of one turn of a connection.
const READ_BYTES: usize = 64 << 10;

/// Events after which a turn ends though more connections are ready, so that the core gets its batch.
const TURN_EVENTS_MAX: usize = 1024;

/// Any sleep makes the executor look at I/O and timers first.
const BREATH: Duration = Duration::from_micros(1);

/// How often connections are told the time; the precision of all their time-outs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often a shutdown looks whether connections are left.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

impl<A: Application + 'static> Shard<A> {
    /// Makes a shard on the current executor and starts its tasks; they end with [`shutdown`](Self::shutdown).
    pub fn new(app: Rc<RefCell<A>>, limits: ShardLimits) -> Shard<A> {
        let inner = Rc::new(Inner {
            app,
            limits,
            intake: Intake::new(),
            slots: RefCell::new(slots::Slots::default()),
            read_buf: RefCell::new(vec![0; READ_BYTES].into_boxed_slice()),
            dirty: RefCell::new(Vec::new()),
            events: Cell::new(0),
            turn: Notify::default(),
            unfinished: RefCell::new(Vec::new()),
            breath: Notify::default(),
            sweep: Notify::default(),
            stopping: Cell::new(false),
            ended: Cell::new(false),
            epoch: Instant::now(),
        });
        glommio::spawn_local(take_in(Rc::clone(&inner))).detach();
        glommio::spawn_local(end_turns(Rc::clone(&inner))).detach();
        glommio::spawn_local(breathe(Rc::clone(&inner))).detach();
        glommio::spawn_local(sweep(Rc::clone(&inner))).detach();
        Shard { inner }
    }

    /// The door through which other threads give connections to this shard.
    pub fn intake(&self) -> Intake {
        self.inner.intake.clone()
    }

    /// Takes a connection at once, on this executor. The application must not be borrowed: its first events may come
    /// from within this call.
    pub fn adopt(&self, accepted: Accepted) {
        self.inner.intake.enter();
        adopt(&self.inner, accepted);
    }

    /// Gives the codec of a connection to `f`, and marks the connection for the next flush; `None` when the connection
    /// is gone, or is not HTTP/2.
    pub fn with_conn<R>(&self, id: ConnId, f: impl FnOnce(&mut ServerConn) -> R) -> Option<R> {
        let conn = self.inner.slots.borrow().get(id)?;
        let result = conn.with_wire(f)?;
        self.inner.mark_dirty(&conn);
        Some(result)
    }

    /// Writes all marked connections now, each with one system call where its socket has room. What was marked is also
    /// written at the end of the turn without this.
    pub fn flush_dirty(&self) {
        self.inner.flush_dirty();
    }

    /// Connections of all protocols that are open.
    pub fn connections(&self) -> usize {
        self.inner.slots.borrow().len()
    }

    /// Takes no more connections, announces the end on those there are (GOAWAY) and waits until their streams have
    /// ended; after `grace` it closes the rest. The application finishes its long-lived streams itself.
    pub async fn shutdown(&self, grace: Duration) {
        let inner = &self.inner;
        inner.stopping.set(true);
        inner.intake.close();
        for conn in inner.slots.borrow().all() {
            conn.announce_end();
            inner.mark_dirty(&conn);
        }
        let deadline = Instant::now() + grace;
        while self.connections() > 0 {
            if Instant::now() >= deadline {
                inner.slots.borrow().all().for_each(|conn| conn.control.abort());
            }
            glommio::timer::sleep(DRAIN_INTERVAL).await;
        }
        inner.ended.set(true);
        inner.turn.ring();
        inner.breath.ring();
        inner.sweep.ring();
    }
}

impl<A: Application + 'static> Clone for Shard<A> {
    fn clone(&self) -> Self {
        Shard {
            inner: Rc::clone(&self.inner),
        }
    }
}

impl<A: Application> Inner<A> {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("584 years of nanoseconds fit")
    }

    fn after_ns(&self, wait: Duration) -> u64 {
        self.now_ns()
            .saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX))
    }

    fn mark_dirty(&self, conn: &Rc<Conn>) {
        if !conn.dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(conn));
            self.turn.ring();
        }
    }

    /// Lets the connection go on after I/O and timers had their chance. A task that woke itself instead would keep the
    /// executor from looking at them for up to 100 ms.
    fn go_on_later(&self, conn: &Rc<Conn>) {
        if !conn.unfinished.replace(true) {
            self.unfinished.borrow_mut().push(Rc::clone(conn));
            self.breath.ring();
        }
    }

    fn count_events(&self, count: usize) {
        if count > 0 {
            self.events.set(self.events.get() + count);
            self.turn.ring();
        }
    }

    fn end_turn(&self) {
        if self.events.replace(0) > 0 {
            self.app.borrow_mut().on_turn_end();
        }
        self.flush_dirty();
    }

    fn flush_dirty(&self) {
        let mut dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        for conn in dirty.drain(..) {
            conn.dirty.set(false);
            if conn.flush() {
                self.go_on_later(&conn);
            }
        }
        let mut held = self.dirty.borrow_mut();
        if held.is_empty() {
            *held = dirty; // keeps the allocation
        }
    }
}

fn adopt<A: Application + 'static>(inner: &Rc<Inner<A>>, accepted: Accepted) {
    if inner.stopping.get() {
        inner.intake.leave();
        return;
    }
    let (peer, tag) = (accepted.peer, accepted.tag);
    let stream = Stream::adopt(accepted);
    let deadline_ns = inner.after_ns(inner.limits.header_timeout);
    let conn = inner
        .slots
        .borrow_mut()
        .insert(|id| Conn::new(ConnInfo { id, peer, tag }, deadline_ns));
    inner.sweep.ring();
    glommio::spawn_local(conn::run(Rc::clone(inner), conn, stream)).detach();
}

async fn take_in<A: Application + 'static>(inner: Rc<Inner<A>>) {
    while let Some(batch) = inner.intake.take().await {
        for accepted in batch {
            adopt(&inner, accepted);
        }
    }
}

async fn end_turns<A: Application>(inner: Rc<Inner<A>>) {
    while !inner.ended.get() {
        inner.turn.heard().await;
        inner.end_turn();
    }
}

async fn breathe<A: Application>(inner: Rc<Inner<A>>) {
    while !inner.ended.get() {
        inner.breath.heard().await;
        glommio::timer::sleep(BREATH).await;
        for conn in std::mem::take(&mut *inner.unfinished.borrow_mut()) {
            conn.unfinished.set(false);
            conn.control.wake();
            inner.mark_dirty(&conn);
        }
    }
}

async fn sweep<A: Application>(inner: Rc<Inner<A>>) {
    while !inner.ended.get() {
        if inner.slots.borrow().len() == 0 {
            inner.sweep.heard().await;
            continue;
        }
        glommio::timer::sleep(SWEEP_INTERVAL).await;
        let now_ns = inner.now_ns();
        let timeout_ns = inner.after_ns(inner.limits.header_timeout);
        for conn in inner.slots.borrow().all() {
            if conn.on_time(now_ns, timeout_ns) {
                inner.mark_dirty(&conn);
            }
        }
    }
}
