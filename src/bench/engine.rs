//! The loop of one thread: connections polled, answers counted, and each client sent on with its next request.
//!
//! A client has one request in flight. Without a rate its next request is due the moment the last was answered; with one,
//! request `n` is due at `n / rate`, and its latency counts from then even if no client was free to send it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use net::grpc::Code;

use super::BenchError;
use super::link::{Endpoint, Link, READ_BYTES};
use super::requests::{Requests, WATCH, watch_request, write_key};
use super::session::Sink;
use super::status::{OK, StatusId, Statuses};
use super::tally::{Tally, WatchTally};
use super::watch::Watchers;

/// The loop looks at its clock at least this often.
const TURN_MAX: Duration = Duration::from_millis(200);

/// Shorter waits for the next due request are spun away, since the poll's clock is this coarse.
const SPIN_NS: u64 = 2_000_000;

/// Progress is told every so many requests.
const PROGRESS_STEP: u64 = 256;

/// What one thread is to set up.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) path: &'static str,
    /// Clients of each connection.
    pub(super) clients: Vec<u32>,
    pub(super) watch: Option<WatchSetup>,
    pub(super) timeout: Duration,
}

/// The watchers to set up.
#[derive(Clone, Debug)]
pub(super) struct WatchSetup {
    pub(super) conns: u32,
    pub(super) streams: u32,
    pub(super) watch_per_stream: u32,
    pub(super) keys: u64,
    pub(super) key_size: usize,
    pub(super) prev_kv: bool,
}

/// What one run is to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) total: u64,
    /// Requests per second, 0 for no limit.
    pub(super) rate: f64,
    /// Request `n` of this thread is number `n * stride + offset` of all.
    pub(super) stride: u64,
    pub(super) offset: u64,
}

/// The state of a run.
struct Run<'a> {
    plan: Plan,
    requests: &'a mut Requests,
    progress: &'a AtomicU64,
    start_ns: u64,
    next: u64,
    done: u64,
    last_done_ns: u64,
    tally: Tally,
}

impl Run<'_> {
    /// When the next request is due; `None` when all are sent.
    #[inline]
    fn next_due_ns(&self, now_ns: u64) -> Option<u64> {
        if self.next >= self.plan.total {
            None
        } else if self.plan.rate == 0.0 {
            Some(now_ns)
        } else {
            Some(self.start_ns + (self.next as f64 * 1e9 / self.plan.rate) as u64)
        }
    }

    #[inline]
    fn count(&mut self, status: StatusId, due_ns: u64, now_ns: u64, statuses: &Statuses) {
        self.done += 1;
        self.last_done_ns = now_ns;
        if status == OK {
            self.tally.latency.saturating_record(now_ns.saturating_sub(due_ns));
        } else {
            let (code, message) = statuses.get(status);
            *self
                .tally
                .errors
                .entry(format!("{}: {message}", code.name()))
                .or_default() += 1;
        }
        if self.done.is_multiple_of(PROGRESS_STEP) {
            self.progress.fetch_add(PROGRESS_STEP, Ordering::Relaxed);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Client {
    link: u32,
    /// When the request in flight was due.
    due_ns: u64,
}

/// Calls that ended during one read.
#[derive(Debug, Default)]
struct Ended(Vec<(u32, StatusId)>);

impl Sink for Ended {
    #[inline]
    fn data(&mut self, _tag: u32, _piece: &[u8]) {}

    #[inline]
    fn end(&mut self, tag: u32, status: StatusId) {
        self.0.push((tag, status));
    }
}

/// One thread's connections and clients.
pub(super) struct Engine {
    poll: Poll,
    events: Events,
    /// Those of unary calls first, then those of watch streams.
    links: Vec<Link>,
    unary_links: usize,
    clients: Vec<Client>,
    idle: VecDeque<u32>,
    statuses: Statuses,
    ended: Ended,
    watchers: Option<Watchers>,
    watched_keys: u64,
    buffer: Vec<u8>,
    /// Links with output that idle clients have just queued.
    dirty: Vec<usize>,
    origin: Instant,
    last_heard_ns: u64,
    bytes_in: u64,
    timeout: Duration,
}

impl Engine {
    /// Connects everything, and creates the watchers.
    ///
    /// Errors: a server that cannot be reached, speaks no HTTP/2, or permits too few calls at once.
    pub(super) fn connect(setup: &Setup) -> Result<Engine, BenchError> {
        let mut engine = Engine {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            links: Vec::new(),
            unary_links: setup.clients.len(),
            clients: Vec::new(),
            idle: VecDeque::new(),
            statuses: Statuses::new(),
            ended: Ended::default(),
            watchers: None,
            watched_keys: 1,
            buffer: vec![0; READ_BYTES],
            dirty: Vec::new(),
            origin: Instant::now(),
            last_heard_ns: 0,
            bytes_in: 0,
            timeout: setup.timeout,
        };
        for place in 0..setup.clients.len() {
            engine.open_link(setup, place, setup.path)?;
        }
        let most = setup.clients.iter().copied().max().unwrap_or_default();
        for turn in 0..most {
            for (link, _) in setup.clients.iter().enumerate().filter(|(_, clients)| turn < **clients) {
                engine.idle.push_back(engine.clients.len() as u32);
                engine.clients.push(Client {
                    link: link as u32,
                    due_ns: 0,
                });
            }
        }
        if let Some(watch) = &setup.watch {
            for place in 0..watch.conns as usize {
                engine.open_link(setup, place, WATCH)?;
            }
            let watchers = u64::from(watch.streams) * u64::from(watch.watch_per_stream);
            engine.watchers = Some(Watchers::new(watch.streams as usize, watchers));
            engine.watched_keys = watch.keys;
        }
        engine.wait_for("the server's HTTP/2 settings", |engine| {
            engine.links.iter().all(|link| link.session.is_settled())
        })?;
        engine.check_stream_limits(setup)?;
        if let Some(watch) = &setup.watch {
            engine.create_watchers(watch)?;
        }
        Ok(engine)
    }

    fn open_link(&mut self, setup: &Setup, place: usize, path: &'static str) -> Result<(), BenchError> {
        let endpoint = &setup.endpoints[place % setup.endpoints.len()];
        let connected = Link::connect(endpoint, path, setup.timeout);
        let mut link = connected.map_err(|source| BenchError::Connect {
            endpoint: endpoint.authority.clone(),
            source,
        })?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut link.stream, Token(self.links.len()), interest)?;
        link.flush()?;
        self.links.push(link);
        Ok(())
    }

    fn check_stream_limits(&self, setup: &Setup) -> Result<(), BenchError> {
        for (link, clients) in self.links.iter().zip(&setup.clients) {
            if *clients > link.session.streams_max() {
                return Err(BenchError::Streams {
                    wanted: *clients,
                    permitted: link.session.streams_max(),
                });
            }
        }
        Ok(())
    }

    fn create_watchers(&mut self, watch: &WatchSetup) -> Result<(), BenchError> {
        let mut ids = Vec::new();
        for watcher in 0..u64::from(watch.streams) * u64::from(watch.watch_per_stream) {
            let stream = (watcher % u64::from(watch.streams)) as u32;
            let place = self.unary_links + (stream % watch.conns) as usize;
            let mut key = vec![0; watch.key_size];
            write_key(&mut key, 0, watcher % watch.keys);
            let request = watch_request(&key, watch.prev_kv);
            let session = &mut self.links[place].session;
            match ids.get(stream as usize) {
                Some(&id) => session.send(id, &request, false),
                None => ids.push(session.start(stream, &request, false)),
            }
        }
        for place in self.unary_links..self.links.len() {
            self.flush(place, &mut None);
        }
        self.wait_for("the watchers", |engine| {
            let watchers = engine.watchers.as_ref();
            watchers.is_none_or(|watchers| watchers.created >= watchers.watchers || watchers.failure.is_some())
        })?;
        match self.watchers.as_mut().and_then(|watchers| watchers.failure.take()) {
            Some(why) => Err(BenchError::Watch { why }),
            None => Ok(()),
        }
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Polls until something has come true.
    fn wait_for(&mut self, what: &'static str, is_there: impl Fn(&Engine) -> bool) -> Result<(), BenchError> {
        let deadline = Instant::now() + self.timeout;
        while !is_there(self) {
            if Instant::now() >= deadline {
                return Err(BenchError::Silent { what });
            }
            self.turn(Some(TURN_MAX), &mut None)?;
            if self.links.iter().any(|link| !link.is_alive) {
                return Err(BenchError::Lost { what });
            }
        }
        Ok(())
    }

    /// Sends the requests of a plan and waits for their answers, and for the events they cause.
    ///
    /// Errors: none of requests, which are counted; only what makes going on impossible.
    pub(super) fn run(
        &mut self,
        plan: Plan,
        requests: &mut Requests,
        progress: &AtomicU64,
    ) -> Result<Tally, BenchError> {
        let start_ns = self.now_ns();
        self.last_heard_ns = start_ns;
        self.bytes_in = 0;
        if let Some(watchers) = &mut self.watchers {
            watchers.begin(plan.total, self.watched_keys);
        }
        let mut run = Some(Run {
            plan,
            requests,
            progress,
            start_ns,
            next: 0,
            done: 0,
            last_done_ns: start_ns,
            tally: Tally::new(),
        });
        loop {
            self.send_due(&mut run);
            let Some(state) = &run else { break };
            let in_flight = state.next - state.done;
            // Clients whose connection is gone are neither idle nor in flight.
            let is_stuck = in_flight == 0 && self.idle.is_empty() && state.next < plan.total;
            let events_done = self.watchers.as_ref().is_none_or(Watchers::is_done);
            if is_stuck || (state.done >= plan.total && events_done) {
                break;
            }
            let silent_ns = self.now_ns().saturating_sub(self.last_heard_ns);
            let waits = in_flight > 0 || state.done >= plan.total;
            if waits && silent_ns > self.timeout.as_nanos() as u64 {
                self.give_up(&mut run);
                break;
            }
            let pause = self.pause(state);
            self.turn(Some(pause), &mut run)?;
        }
        let run = run.expect("a run is only borrowed by the loop");
        Ok(self.finish(run))
    }

    /// How long the poll may sleep.
    fn pause(&self, run: &Run<'_>) -> Duration {
        if self.idle.is_empty() || run.plan.rate == 0.0 {
            return TURN_MAX;
        }
        let now_ns = self.now_ns();
        let Some(due_ns) = run.next_due_ns(now_ns) else {
            return TURN_MAX;
        };
        let wait_ns = due_ns.saturating_sub(now_ns);
        Duration::from_nanos(wait_ns.saturating_sub(SPIN_NS)).min(TURN_MAX)
    }

    /// Sends what idle clients can send now.
    fn send_due(&mut self, run: &mut Option<Run<'_>>) {
        if self.idle.is_empty() {
            return;
        }
        let Some(state) = run else { return };
        let now_ns = self.now_ns();
        while let Some(due_ns) = state.next_due_ns(now_ns).filter(|due_ns| *due_ns <= now_ns) {
            let Some(client) = self.idle.pop_front() else { break };
            let place = self.clients[client as usize].link as usize;
            if start_request(&mut self.links, &mut self.clients, client, due_ns, state) {
                self.dirty.push(place);
            }
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for place in dirty.drain(..) {
            if !self.links[place].session.out.is_empty() {
                self.flush(place, run);
            }
        }
        self.dirty = dirty;
    }

    /// One poll, and whatever it brings.
    fn turn(&mut self, pause: Option<Duration>, run: &mut Option<Run<'_>>) -> Result<(), BenchError> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        match self.poll.poll(&mut events, pause) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in events.iter() {
            let place = event.token().0;
            if !self.links[place].is_alive {
                continue;
            }
            if event.is_readable() {
                self.receive(place, run);
            }
            if !self.links[place].session.out.is_empty() {
                self.flush(place, run);
            }
        }
        self.events = events;
        Ok(())
    }

    /// Reads all there is and acts on it.
    fn receive(&mut self, place: usize, run: &mut Option<Run<'_>>) {
        loop {
            let link = &mut self.links[place];
            let read = match link.read(&mut self.buffer) {
                Ok(Some(read)) => read,
                Ok(None) => return,
                Err(error) => return self.lose(place, &error.to_string(), run),
            };
            let now_ns = self.origin.elapsed().as_nanos() as u64;
            self.last_heard_ns = now_ns;
            self.bytes_in += read as u64;
            let input = &self.buffer[..read];
            let watchers = self.watchers.as_mut().filter(|_| place >= self.unary_links);
            let received = match watchers {
                Some(watchers) => {
                    watchers.on_time(now_ns);
                    let received = link.session.receive(input, &mut self.statuses, watchers);
                    watchers.settle(&self.statuses);
                    received
                }
                None => link.session.receive(input, &mut self.statuses, &mut self.ended),
            };
            self.settle_ended(now_ns, run);
            if let Err(why) = received {
                return self.lose(place, &why, run);
            }
            // A socket that gave less than was asked for is empty (epoll(7), edge-triggered mode).
            if read < self.buffer.len() {
                return;
            }
        }
    }

    /// Counts the calls that ended and sends their clients on.
    #[inline]
    fn settle_ended(&mut self, now_ns: u64, run: &mut Option<Run<'_>>) {
        let Some(run) = run else { return self.ended.0.clear() };
        for (client, status) in self.ended.0.drain(..) {
            run.count(status, self.clients[client as usize].due_ns, now_ns, &self.statuses);
            match run.next_due_ns(now_ns).filter(|due_ns| *due_ns <= now_ns) {
                Some(due_ns) => {
                    start_request(&mut self.links, &mut self.clients, client, due_ns, run);
                }
                None => self.idle.push_back(client),
            }
        }
    }

    fn flush(&mut self, place: usize, run: &mut Option<Run<'_>>) {
        if let Err(error) = self.links[place].flush() {
            self.lose(place, &error.to_string(), run);
        }
    }

    /// The connection is gone: its calls fail, and its clients send nothing more.
    fn lose(&mut self, place: usize, why: &str, run: &mut Option<Run<'_>>) {
        let link = &mut self.links[place];
        link.is_alive = false;
        let why = format!("connection lost: {why}");
        match self.watchers.as_mut().filter(|_| place >= self.unary_links) {
            Some(watchers) => {
                link.session.lose(&why, &mut self.statuses, watchers);
                watchers.settle(&self.statuses);
            }
            None => link.session.lose(&why, &mut self.statuses, &mut self.ended),
        }
        self.settle_ended(self.now_ns(), run);
    }

    /// No answer for too long: what is in flight has failed.
    fn give_up(&mut self, run: &mut Option<Run<'_>>) {
        let Some(state) = run else { return };
        let in_flight = state.next - state.done;
        let error = format!(
            "{}: no answer for {} s",
            Code::DeadlineExceeded.name(),
            self.timeout.as_secs()
        );
        if in_flight > 0 {
            state.tally.errors.insert(error, in_flight);
        }
        state.done += in_flight;
    }

    fn finish(&mut self, run: Run<'_>) -> Tally {
        let mut tally = run.tally;
        run.progress.fetch_add(run.done % PROGRESS_STEP, Ordering::Relaxed);
        tally.unsent = run.plan.total - run.next;
        tally.bytes_in = self.bytes_in;
        tally.elapsed_ns = run.last_done_ns - run.start_ns;
        if let Some(watchers) = &self.watchers {
            if let Some(why) = &watchers.failure {
                tally.errors.insert(why.clone(), 1);
            }
            tally.watch = Some(WatchTally {
                watchers: watchers.watchers,
                expected: watchers.expected,
                events: watchers.events,
                elapsed_ns: watchers.last_ns.saturating_sub(run.start_ns),
                latency: watchers.latency.clone(),
            });
        }
        tally
    }
}

/// Queues a client's next request; not if its connection is gone, which retires the client.
#[inline]
fn start_request(links: &mut [Link], clients: &mut [Client], client: u32, due_ns: u64, run: &mut Run<'_>) -> bool {
    let state = &mut clients[client as usize];
    let link = &mut links[state.link as usize];
    if !link.is_alive || !link.session.takes_calls() {
        return false;
    }
    state.due_ns = due_ns;
    let sequence = run.next * run.plan.stride + run.plan.offset;
    run.next += 1;
    link.session.start(client, run.requests.message(sequence, due_ns), true);
    true
}
