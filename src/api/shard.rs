//! The calls of one shard: from a request's head to its status.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ahash::AHashMap;
use bytes::{Bytes, BytesMut};
use net::{
    grpc::{Code, Event as WireEvent, RequestHead, ServerConn, Status, StreamId},
    io::{Application, ConnId, Http1Reply, Http1Request, Shard},
    pb::{etcdserverpb::ResponseHeader, grpc::health::v1::health_check_response::ServingStatus},
};
use prost::Message;
use storage::mvcc::StoreView;

use super::{
    Flow, Method, RequestIds,
    core::{Pending, Waiting},
    hashing::Hashing,
    jobs::Job,
    method::Router,
    status::{self, Failure},
    watch::{HeaderInfo, WatchHub},
};
use crate::{
    bell::Bell,
    config::Features,
    latest::{Cached, Slot},
    member::{Event, HashCache, Published, Reply, Request, RequestId, ShardIndex, View},
    metrics::{CoreMetrics, ShardMetrics},
};

/// The metadata in which clients tell the version of the API they speak. Source: etcd
/// `rpctypes.MetadataClientAPIVersionKey`.
const CLIENT_VERSION: &str = "client-api-version";
/// Looks without a leader after which streams that require one end. Source: etcd `maxNoLeaderCnt`.
const LEADERLESS_MAX: u32 = 3;

/// One call: its connection and its stream.
pub type CallKey = (ConnId, StreamId);

/// Bounds of the API.
#[derive(Clone, Copy, Debug)]
pub struct ApiLimits {
    /// Largest proposal. Units: bytes.
    pub request_bytes_max: usize,
    /// Operations in each list of a transaction.
    pub txn_ops_max: usize,
    /// Bytes the data may take; none: no bound.
    pub quota_bytes: Option<u64>,
    /// Idle watchers that asked for it are told the revision this often. Units: nanoseconds.
    pub progress_interval_ns: u64,
    /// Streams that require a leader are cut after three of these without one. Units: nanoseconds.
    pub election_timeout_ns: u64,
    /// Unary calls that take longer are logged. Units: nanoseconds; 0: never.
    pub slow_request_ns: u64,
    /// Time unary calls for the metrics.
    pub extensive_metrics: bool,
}

/// Sends events to the core and leaves the vector empty.
pub type Outlet = Box<dyn FnMut(&mut Vec<Event>)>;

/// What a shard is made of.
pub struct ApiSetup {
    /// Which shard.
    pub index: ShardIndex,
    /// Of how many.
    pub shards: u64,
    /// This member's id.
    pub member_id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// Unix time at start, for request ids. Units: milliseconds.
    pub unix_ms: u64,
    /// The feature gates.
    pub features: Features,
    /// Bounds.
    pub limits: ApiLimits,
    /// Where the core publishes views.
    pub slot: Slot<View>,
    /// Registers of running ranges.
    pub pins: storage::mvcc::Pins,
    /// Hashes taken at compactions.
    pub hashes: HashCache,
    /// What this shard counts.
    pub metrics: Arc<ShardMetrics>,
    /// What all shards count, for the metrics page.
    pub all_metrics: Vec<Arc<ShardMetrics>>,
    /// What the core counts, for the metrics page.
    pub core_metrics: Arc<CoreMetrics>,
    /// Listener tag of connections that get health and metrics only.
    pub metrics_tag: u32,
    /// Listener tag of connections that get what peers ask for.
    pub peer_tag: u32,
    /// Raised while this shard has watchers: the core then sends it event blocks.
    pub wants_blocks: Arc<AtomicBool>,
    /// Sends events to the core and leaves the vector empty.
    pub outlet: Outlet,
    /// Rung when jobs wait for a slice.
    pub jobs: Bell,
    /// Stops the member at once: its data is damaged. Called with what was found.
    pub on_damage: fn(String),
    /// The monotonic clock. Units: nanoseconds.
    pub clock: fn() -> u64,
}

/// What the core tells a shard.
pub enum FromCore {
    /// A new view and the blocks since the last; comes before the answers that depend on it.
    Published(Published),
    /// Blocks up to this revision were withheld: read history instead.
    Lagged(i64),
    /// A compaction at this revision begins: hash the store from just before it. Sent to one shard.
    HashForCompaction(StoreView, i64),
    /// Answers, with a view that holds their effects.
    Replies(Arc<View>, Vec<Reply>),
}

/// Lends the codec of a connection.
pub trait Wires {
    /// Runs `f` on the codec of `conn`, unless it is gone.
    fn with(&self, conn: ConnId, f: &mut dyn FnMut(&mut ServerConn));
}

impl Wires for Shard<Api> {
    fn with(&self, conn: ConnId, f: &mut dyn FnMut(&mut ServerConn)) {
        self.with_conn(conn, |wire| f(wire));
    }
}

/// The one connection that an event came from.
pub(super) struct OneWire<'w> {
    conn: ConnId,
    wire: RefCell<&'w mut ServerConn>,
}

impl Wires for OneWire<'_> {
    fn with(&self, conn: ConnId, f: &mut dyn FnMut(&mut ServerConn)) {
        if conn == self.conn {
            f(&mut self.wire.borrow_mut());
        }
    }
}

/// What a call is about.
#[derive(Debug)]
pub(super) enum CallState {
    /// The one request message has not come.
    AwaitsMessage,
    /// The request waits for the core under this id, or among the reads of the turn.
    Waits(Option<RequestId>),
    /// A job answers it.
    Job,
    /// A watch stream.
    Watch,
    /// A keepalive stream: renewals not answered, and whether the client is done.
    KeepAlive { unanswered: usize, half_closed: bool },
    /// A health watch: what it was told, and how many defragmentations had begun then; none: of no known service.
    Health(Option<(ServingStatus, u64)>),
}

#[derive(Debug)]
pub(super) struct Call {
    pub method: Method,
    pub started_ns: u64,
    pub deadline_ns: Option<u64>,
    /// It is a stream that ends when there is no leader for a while.
    pub requires_leader: bool,
    pub state: CallState,
}

/// The services of one shard.
pub struct Api {
    pub(super) setup: ApiSetup,
    router: Router,
    ids: RequestIds,
    newest: Cached<View>,
    pub(super) conns: AHashMap<ConnId, AHashMap<StreamId, Call>>,
    pub(super) pending: AHashMap<RequestId, Pending>,
    /// Reads of this turn that wait for the round that its end starts.
    pub(super) reads: Vec<Waiting>,
    pub(super) outbox: Vec<Event>,
    pub(super) hub: WatchHub<CallKey>,
    pub(super) jobs: VecDeque<Job>,
    /// Hashes under way that no call waits for, oldest first.
    pub(super) hashing: VecDeque<Hashing>,
    pub(super) now_ns: u64,
    next_leader_look_ns: u64,
    leaderless_looks: u32,
    stopping: bool,
    pub(super) wake_jobs: bool,
}

impl Api {
    /// A shard with no connection.
    pub fn new(setup: ApiSetup) -> Api {
        let mut newest = setup.slot.reader();
        let view = newest.get();
        let header = HeaderInfo {
            cluster_id: setup.cluster_id,
            member_id: setup.member_id,
            term: view.term,
        };
        let fragment_bytes = setup.limits.request_bytes_max + super::kv::OVERHEAD_BYTES;
        let hub = WatchHub::new(
            header,
            view.revision(),
            fragment_bytes,
            setup.limits.progress_interval_ns,
        );
        let ids = RequestIds::new(setup.member_id, setup.unix_ms, u64::from(setup.index), setup.shards);
        let now_ns = (setup.clock)();
        Api {
            setup,
            router: Router::default(),
            ids,
            newest,
            conns: AHashMap::new(),
            pending: AHashMap::new(),
            reads: Vec::new(),
            outbox: Vec::new(),
            hub,
            jobs: VecDeque::new(),
            hashing: VecDeque::new(),
            now_ns,
            next_leader_look_ns: 0,
            leaderless_looks: 0,
            stopping: false,
            wake_jobs: false,
        }
    }

    /// The newest published view.
    pub fn view(&mut self) -> Arc<View> {
        self.newest.get().clone()
    }

    /// The header of an answer at `revision`.
    pub(super) fn header(&self, view: &View, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.setup.cluster_id,
            member_id: self.setup.member_id,
            revision,
            raft_term: view.term,
        }
    }

    /// Sends what has gathered for the core, and wakes the jobs where there are new ones.
    pub fn flush_outbox(&mut self) {
        if !self.outbox.is_empty() {
            (self.setup.outlet)(&mut self.outbox);
        }
        if std::mem::take(&mut self.wake_jobs) {
            self.setup.jobs.ring();
        }
    }

    /// Asks for event blocks, and skips to now, when the first watcher comes.
    ///
    /// Order: the flag is raised before the slot is read, and the core publishes to the slot before it reads the flag, so
    /// no block can be missed between the two.
    pub(super) fn subscribe(&mut self) {
        if !self.setup.wants_blocks.swap(true, Ordering::SeqCst) {
            let revision = self.view().revision();
            self.hub.skip_to(revision);
        }
    }

    /// Moves time on: deadlines of calls, progress of watchers.
    pub fn tick(&mut self, wires: &dyn Wires) {
        self.now_ns = (self.setup.clock)();
        let now = self.now_ns;
        let mut late: Vec<CallKey> = Vec::new();
        for (conn, calls) in &self.conns {
            let over = calls
                .iter()
                .filter(|(_, call)| call.deadline_ns.is_some_and(|deadline| deadline <= now));
            late.extend(over.map(|(stream, _)| (*conn, *stream)));
        }
        for key in late {
            self.abandon(key);
            let deadline = Status::new(Code::DeadlineExceeded, "context deadline exceeded");
            wires.with(key.0, &mut |wire| wire.finish(key.1, &deadline));
            self.end(key, Code::DeadlineExceeded);
        }
        self.watch_leader(wires);
        self.tell_health(wires);
        self.with_hub(wires, |hub, sink, _| hub.notify_progress(now, sink));
        // What waits for a hash that another shard takes is not woken by it.
        self.wake_jobs |= !self.jobs.is_empty() || !self.hashing.is_empty();
        let counts = self.hub.counts();
        if counts.watchers == 0 {
            self.setup.wants_blocks.store(false, Ordering::SeqCst);
        }
        self.flush_outbox();
        let metrics = &self.setup.metrics;
        metrics.watch_streams.set(counts.streams as u64);
        metrics.watchers.set(counts.watchers as u64);
        metrics.slow_watchers.set(counts.lagging as u64);
        metrics.watch_events.set(counts.events_sent);
    }

    /// Ends the streams that require a leader once there is none at [`LEADERLESS_MAX`] looks, an election time-out apart.
    fn watch_leader(&mut self, wires: &dyn Wires) {
        if self.now_ns < self.next_leader_look_ns {
            return;
        }
        self.next_leader_look_ns = self.now_ns + self.setup.limits.election_timeout_ns;
        self.leaderless_looks = match self.view().leader {
            0 => self.leaderless_looks + 1,
            _ => 0,
        };
        if self.leaderless_looks < LEADERLESS_MAX {
            return;
        }
        let mut cut: Vec<CallKey> = Vec::new();
        for (conn, calls) in &self.conns {
            let streams = calls.iter().filter(|(_, call)| call.requires_leader);
            cut.extend(streams.map(|(stream, _)| (*conn, *stream)));
        }
        cut.sort_unstable();
        for key in cut {
            self.abandon(key);
            self.fail(key, status::NO_LEADER, wires);
        }
    }

    /// Refuses new calls and ends the long-lived ones: the member stops.
    pub fn stop(&mut self, wires: &dyn Wires) {
        self.stopping = true;
        let mut open: Vec<CallKey> = Vec::new();
        for (conn, calls) in &self.conns {
            let streams = calls.iter().filter(|(_, call)| call.method.info().flow != Flow::Unary);
            open.extend(streams.map(|(stream, _)| (*conn, *stream)));
        }
        open.sort_unstable();
        for key in open {
            self.abandon(key);
            self.fail(key, status::STOPPED, wires);
        }
    }

    /// Whether some call has not been answered.
    pub fn is_busy(&self) -> bool {
        self.conns.values().any(|calls| !calls.is_empty())
    }

    /// Whether a request waits for the core's answer.
    pub fn awaits_core(&self) -> bool {
        !self.pending.is_empty()
    }

    fn on_request(&mut self, key: CallKey, head: &RequestHead, wire: &mut ServerConn) {
        let Some(method) = self.router.find(head.path()) else {
            let status = Status::unimplemented(head.path(), Router::knows_service);
            return wire.finish(key.1, &status);
        };
        self.now_ns = (self.setup.clock)();
        let metrics = &self.setup.metrics.methods[method.index()];
        metrics.started.add(1);
        let unary = method.info().flow == Flow::Unary;
        let version = head.metadata(CLIENT_VERSION).map(std::str::from_utf8);
        let told = version.and_then(Result::ok);
        self.setup.metrics.clients.called(told, !unary);
        let deadline = |timeout: Duration| self.now_ns.saturating_add(timeout.as_nanos() as u64);
        let call = Call {
            method,
            started_ns: self.now_ns,
            deadline_ns: head.timeout().map(deadline),
            requires_leader: !unary && requires_leader(head),
            state: match method {
                Method::Watch => CallState::Watch,
                Method::LeaseKeepAlive => CallState::KeepAlive {
                    unanswered: 0,
                    half_closed: false,
                },
                _ => CallState::AwaitsMessage,
            },
        };
        self.conns.entry(key.0).or_default().insert(key.1, call);
        let unreadable = matches!(version, Some(Err(_))).then_some(status::INVALID_CLIENT_API_VERSION);
        if let Some(failure) = unreadable.or_else(|| self.refusal(method, head)) {
            self.fail_on(key, failure, wire);
        }
    }

    /// Why a call is refused before it is looked at.
    fn refusal(&mut self, method: Method, head: &RequestHead) -> Option<Failure> {
        if self.stopping {
            return Some(status::STOPPED);
        }
        let view = self.newest.get();
        if view.is_learner && !method.on_learner() {
            return Some(status::NOT_FOR_LEARNER);
        }
        if view.leader == 0 && requires_leader(head) {
            return Some(status::NO_LEADER);
        }
        None
    }

    fn on_message(&mut self, key: CallKey, message: Bytes, wire: &mut ServerConn) {
        let Some(call) = self.conns.get_mut(&key.0).and_then(|calls| calls.get_mut(&key.1)) else {
            return;
        };
        let method = call.method;
        self.setup.metrics.methods[method.index()].received.add(1);
        self.setup.metrics.bytes_received.add(message.len() as u64);
        match &mut call.state {
            CallState::AwaitsMessage => call.state = CallState::Waits(None),
            CallState::Watch => return self.on_watch(key, message, wire),
            CallState::KeepAlive { unanswered, .. } => {
                *unanswered += 1;
                return self.on_keep_alive(key, message, wire);
            }
            // A second message on a call that takes one: the answer to the first stands.
            _ => return,
        }
        let result = match method {
            Method::Range => self.range(key, message, wire),
            Method::RangeStream => self.range_stream(key, message, wire),
            Method::Put => self.put(key, message),
            Method::DeleteRange => self.delete_range(key, message),
            Method::Txn => self.txn(key, message, wire),
            Method::Compact => self.compact(key, message),
            Method::LeaseGrant => self.lease_grant(key, message),
            Method::LeaseRevoke => self.lease_revoke(key, message),
            Method::LeaseTimeToLive => self.lease_time_to_live(key, message),
            Method::LeaseLeases => self.lease_leases(key, message),
            Method::MemberList => self.member_list(key, message, wire),
            Method::MemberAdd => self.member_add(key, message),
            Method::MemberRemove => self.member_remove(key, message),
            Method::MemberUpdate => self.member_update(key, message),
            Method::MemberPromote => self.member_promote(key, message),
            Method::Alarm => self.alarm(key, message),
            Method::Status => self.status(key, message, wire),
            Method::Defragment => self.defragment(key, message),
            Method::Hash => self.hash(key, message),
            Method::HashKv => self.hash_kv(key, message),
            Method::Snapshot => self.snapshot(key, message),
            Method::MoveLeader => self.move_leader(key, message),
            Method::HealthCheck => self.health_check(key, message, wire),
            Method::HealthList => self.health_list(key, message, wire),
            Method::HealthWatch => self.health_watch(key, message, wire),
            Method::Downgrade => self.downgrade(key, message),
            Method::Authenticate => Err(status::AUTH_NOT_ENABLED),
            other => {
                let info = other.info();
                let text = format!("unknown method {} for service {}", info.name, info.service);
                wire.finish(key.1, &Status::new(Code::Unimplemented, text));
                return self.end(key, Code::Unimplemented);
            }
        };
        if let Err(failure) = result {
            self.fail_on(key, failure, wire);
        }
    }

    fn on_half_close(&mut self, key: CallKey, wire: &mut ServerConn) {
        let Some(call) = self.conns.get_mut(&key.0).and_then(|calls| calls.get_mut(&key.1)) else {
            return;
        };
        match &mut call.state {
            CallState::AwaitsMessage => {
                wire.finish(
                    key.1,
                    &Status::new(Code::Internal, "grpc: the call ended without its request message"),
                );
                self.end(key, Code::Internal);
            }
            // A watch stream goes on telling after its client has said all it wants.
            CallState::KeepAlive {
                half_closed,
                unanswered,
            } => {
                *half_closed = true;
                if *unanswered == 0 {
                    wire.finish(key.1, &Status::ok());
                    self.end(key, Code::Ok);
                }
            }
            _ => {}
        }
    }

    /// Forgets what was under way for a call.
    fn abandon(&mut self, key: CallKey) {
        let Some(call) = self.conns.get(&key.0).and_then(|calls| calls.get(&key.1)) else {
            return;
        };
        match call.state {
            CallState::Watch => self.hub.close(key),
            CallState::Waits(Some(id)) => {
                self.pending.remove(&id);
                self.outbox.push(Event::Cancel { id });
            }
            CallState::Job => self.jobs.retain(|job| job.key() != key),
            _ => {}
        }
    }

    /// Counts the end of a call and forgets it.
    pub(super) fn end(&mut self, key: CallKey, code: Code) {
        let Some(call) = self.conns.get_mut(&key.0).and_then(|calls| calls.remove(&key.1)) else {
            return;
        };
        let metrics = &self.setup.metrics.methods[call.method.index()];
        metrics.handled[usize::from(code.number())].add(1);
        let limits = &self.setup.limits;
        let unary = call.method.info().flow == Flow::Unary;
        if unary && (limits.extensive_metrics || limits.slow_request_ns > 0) {
            let took_ns = (self.setup.clock)().saturating_sub(call.started_ns);
            if limits.extensive_metrics {
                metrics.handling.observe_ns(took_ns);
            }
            if limits.slow_request_ns > 0 && took_ns > limits.slow_request_ns {
                let method = call.method.info().name;
                tracing::warn!(method, took_ms = took_ns / 1_000_000, "a request took long");
            }
        }
    }

    /// Answers a unary call.
    pub(super) fn reply(&mut self, key: CallKey, message: &impl Message, wire: &mut ServerConn) {
        let write = |out: &mut BytesMut| message.encode(out).expect("a BytesMut grows");
        let len = message.encoded_len();
        self.setup.metrics.bytes_sent.add(len as u64);
        wire.reply(key.1, len, write);
        self.replied(key);
    }

    /// Counts the answer of a unary call that was written.
    pub(super) fn replied(&mut self, key: CallKey) {
        if let Some(call) = self.conns.get(&key.0).and_then(|calls| calls.get(&key.1)) {
            self.setup.metrics.methods[call.method.index()].sent.add(1);
        }
        self.end(key, Code::Ok);
    }

    /// Ends a call with an error.
    pub(super) fn fail_on(&mut self, key: CallKey, failure: Failure, wire: &mut ServerConn) {
        wire.finish(key.1, &failure.into());
        self.end(key, failure.code);
    }

    /// Ends a call with an error.
    pub(super) fn fail(&mut self, key: CallKey, failure: Failure, wires: &dyn Wires) {
        wires.with(key.0, &mut |wire| wire.finish(key.1, &failure.into()));
        self.end(key, failure.code);
    }

    /// Sends a request to the core at the end of the turn; `pending` answers it.
    pub(super) fn ask(&mut self, request: Request, pending: Pending) -> RequestId {
        let id = self.ids.make();
        self.ask_as(id, request, pending);
        id
    }

    /// The id of the next request, for those that carry it.
    pub(super) fn next_id(&mut self) -> RequestId {
        self.ids.make()
    }

    /// As [`Api::ask`], with an id made before.
    pub(super) fn ask_as(&mut self, id: RequestId, request: Request, pending: Pending) {
        if let Some(key) = pending.call() {
            self.set_state(key, CallState::Waits(Some(id)));
        }
        self.pending.insert(id, pending);
        self.outbox.push(Event::Request {
            shard: self.setup.index,
            id,
            request,
        });
    }

    pub(super) fn set_state(&mut self, key: CallKey, state: CallState) {
        if let Some(call) = self.conns.get_mut(&key.0).and_then(|calls| calls.get_mut(&key.1)) {
            call.state = state;
        }
    }

    /// Whether the call is still open.
    pub(super) fn is_open(&self, key: CallKey) -> bool {
        self.conns.get(&key.0).is_some_and(|calls| calls.contains_key(&key.1))
    }
}

/// Whether the client wants no answer from a member without a leader. Source: etcd `rpctypes.MetadataRequireLeaderKey`.
fn requires_leader(head: &RequestHead) -> bool {
    head.metadata("hasleader") == Some(b"true")
}

/// Decodes a request message, with grpc-go's words when it cannot.
pub(super) fn decode<M: Message + Default>(message: Bytes) -> Result<M, Failure> {
    M::decode(message).map_err(|_| status::UNREADABLE)
}

impl Application for Api {
    fn on_event(&mut self, conn: ConnId, event: WireEvent, wire: &mut ServerConn) {
        match event {
            WireEvent::Request { stream, head } => self.on_request((conn, stream), &head, wire),
            WireEvent::Message { stream, message } => self.on_message((conn, stream), message, wire),
            WireEvent::HalfClose { stream } => self.on_half_close((conn, stream), wire),
            WireEvent::Cancelled { stream } => {
                self.abandon((conn, stream));
                self.end((conn, stream), Code::Canceled);
            }
            WireEvent::Writable { stream } => {
                self.hub.writable((conn, stream));
                self.wake_jobs = true;
            }
            WireEvent::Http { stream, head, .. } => self.on_http2((conn, stream), &head, wire),
        }
    }

    fn on_closed(&mut self, conn: ConnId) {
        let Some(calls) = self.conns.get(&conn) else { return };
        let mut streams: Vec<StreamId> = calls.keys().copied().collect();
        streams.sort_unstable();
        for stream in streams {
            self.abandon((conn, stream));
            self.end((conn, stream), Code::Canceled);
        }
        self.conns.remove(&conn);
    }

    fn on_http1(&mut self, request: Http1Request) -> Http1Reply {
        self.http1(request)
    }

    fn on_turn_end(&mut self) {
        self.start_round();
        self.flush_outbox();
    }
}

/// Lends an event's own connection as [`Wires`].
pub(super) fn one_wire(conn: ConnId, wire: &mut ServerConn) -> OneWire<'_> {
    OneWire {
        conn,
        wire: RefCell::new(wire),
    }
}
