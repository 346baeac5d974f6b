//! A server for the tests: one or more shards on executors of their own, with an application that echoes.

use bytes::Bytes;
use glommio::LocalExecutorBuilder;
use net::grpc::{Event, ServerConn, Status, StreamId};
use net::io::{
    Acceptor, Application, ConnId, ConnInfo, Http1Answer, Http1Reply, Http1Request, Intake, Listener, Shard,
    ShardLimits, StatusCode, body_channel,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What one shard has seen.
#[derive(Default, Debug)]
pub struct Seen {
    pub opened: AtomicUsize,
    pub closed: AtomicUsize,
    pub messages: AtomicUsize,
    pub http1: AtomicUsize,
    pub turns: AtomicUsize,
    /// Bytes written into answers of `/big`.
    pub big_bytes: AtomicUsize,
    pub streams_abandoned: AtomicUsize,
    pub connections: AtomicUsize,
}

pub struct TestServer {
    pub address: SocketAddr,
    pub seen: Vec<Arc<Seen>>,
    pub intakes: Vec<Intake>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<Acceptor>,
    shards: Vec<JoinHandle<()>>,
}

impl TestServer {
    pub fn start(shards: usize) -> TestServer {
        TestServer::start_with(shards, ShardLimits::default(), 10_000)
    }

    pub fn start_with(shards: usize, limits: ShardLimits, connections_max: usize) -> TestServer {
        let listener = Listener::bind("127.0.0.1:0", 7).expect("a free port");
        let address = listener.local_addr();
        let stopping = Arc::new(AtomicBool::new(false));
        let (mut seen, mut intakes, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..shards {
            let (send_intake, intake) = mpsc::channel();
            let (own_seen, stopping) = (Arc::new(Seen::default()), Arc::clone(&stopping));
            seen.push(Arc::clone(&own_seen));
            threads.push(thread::spawn(move || {
                run_shard(limits, own_seen, &stopping, &send_intake)
            }));
            intakes.push(intake.recv().expect("the shard starts"));
        }
        let acceptor = Acceptor::start(vec![listener], intakes.clone(), connections_max).expect("a thread");
        TestServer {
            address,
            seen,
            intakes,
            stopping,
            acceptor: Some(acceptor),
            shards: threads,
        }
    }

    /// Shuts down in good order and waits for it.
    pub fn stop(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        self.stopping.store(true, Ordering::SeqCst);
        for shard in self.shards.drain(..) {
            shard.join().expect("a shard panicked");
        }
    }

    pub fn total(&self, of: impl Fn(&Seen) -> &AtomicUsize) -> usize {
        self.seen.iter().map(|seen| of(seen).load(Ordering::SeqCst)).sum()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop();
        }
    }
}

/// How long a shutdown waits for open streams.
pub const GRACE: Duration = Duration::from_millis(800);

fn run_shard(limits: ShardLimits, seen: Arc<Seen>, stopping: &AtomicBool, send_intake: &mpsc::Sender<Intake>) {
    let executor = LocalExecutorBuilder::default()
        .io_memory(64 << 10)
        .make()
        .expect("an executor");
    executor.run(async {
        let app = EchoApp {
            seen: Arc::clone(&seen),
            paths: BTreeMap::new(),
            big: BTreeMap::new(),
            late: Rc::default(),
        };
        let late = Rc::clone(&app.late);
        let shard = Shard::new(Rc::new(RefCell::new(app)), limits);
        send_intake.send(shard.intake()).expect("the test waits for it");
        while !stopping.load(Ordering::SeqCst) {
            glommio::timer::sleep(Duration::from_millis(2)).await;
            seen.connections.store(shard.connections(), Ordering::SeqCst);
            for (conn, stream, message) in late.take() {
                shard.with_conn(conn, |wire| {
                    wire.reply(stream, message.len(), |out| out.extend_from_slice(&message))
                });
            }
        }
        shard.shutdown(GRACE).await;
        seen.connections.store(shard.connections(), Ordering::SeqCst);
    });
}

type Late = Rc<Cell<Vec<(ConnId, StreamId, Bytes)>>>;

/// Echoes unary calls: `/echo` at once, `/late` a little later, `/big` with as many bytes as the message says.
struct EchoApp {
    seen: Arc<Seen>,
    paths: BTreeMap<(ConnId, StreamId), String>,
    /// Bytes yet to come.
    big: BTreeMap<(ConnId, StreamId), usize>,
    late: Late,
}

impl EchoApp {
    fn on_message(&mut self, conn: ConnId, stream: StreamId, message: &Bytes, wire: &mut ServerConn) {
        self.seen.messages.fetch_add(1, Ordering::SeqCst);
        match self.paths.remove(&(conn, stream)).as_deref() {
            Some("/test/late") => {
                let mut late = self.late.take();
                late.push((conn, stream, message.clone()));
                self.late.set(late);
            }
            Some("/test/big") => {
                let len = std::str::from_utf8(message).expect("digits").parse().expect("a length");
                wire.begin_message(stream, u32::try_from(len).expect("fits"));
                self.big.insert((conn, stream), len);
                self.go_on(conn, stream, wire);
            }
            Some("/test/never") => {}
            _ => wire.reply(stream, message.len(), |out| out.extend_from_slice(message)),
        }
    }

    fn go_on(&mut self, conn: ConnId, stream: StreamId, wire: &mut ServerConn) {
        let Some(left) = self.big.get_mut(&(conn, stream)) else {
            return;
        };
        while *left > 0 && wire.queued(stream) < 64 << 10 {
            let piece = vec![b'x'; (*left).min(16 << 10)];
            *left -= piece.len();
            self.seen.big_bytes.fetch_add(piece.len(), Ordering::SeqCst);
            wire.write_piece(stream, &piece);
        }
        if *left == 0 {
            self.big.remove(&(conn, stream));
            wire.finish(stream, &Status::ok());
        }
    }
}

impl Application for EchoApp {
    fn on_opened(&mut self, conn: ConnInfo) {
        assert_eq!(conn.tag, 7);
        self.seen.opened.fetch_add(1, Ordering::SeqCst);
    }

    fn on_event(&mut self, conn: ConnId, event: Event, wire: &mut ServerConn) {
        match event {
            Event::Request { stream, head } => {
                self.paths.insert((conn, stream), head.path().to_owned());
            }
            Event::Message { stream, message } => self.on_message(conn, stream, &message, wire),
            Event::Writable { stream } => self.go_on(conn, stream, wire),
            Event::Cancelled { stream } => {
                self.paths.remove(&(conn, stream));
                self.big.remove(&(conn, stream));
            }
            Event::Http { stream, head, .. } => {
                self.seen.messages.fetch_add(1, Ordering::SeqCst);
                let text = format!("{} {}\n", head.method(), head.path());
                wire.respond_http(stream, 200, &[("content-type", "text/plain")], text.as_bytes());
            }
            Event::HalfClose { .. } => {}
        }
    }

    fn on_closed(&mut self, conn: ConnId) {
        self.seen.closed.fetch_add(1, Ordering::SeqCst);
        self.paths.retain(|(of, _), _| *of != conn);
        self.big.retain(|(of, _), _| *of != conn);
    }

    fn on_http1(&mut self, request: Http1Request) -> Http1Reply {
        self.seen.http1.fetch_add(1, Ordering::SeqCst);
        match request.uri.path() {
            "/later" => Http1Reply::Later(Box::pin(async {
                glommio::timer::sleep(Duration::from_millis(20)).await;
                Http1Answer::text(StatusCode::OK, "later\n")
            })),
            "/endless" => {
                let (sender, body) = body_channel(256 << 10);
                let seen = Arc::clone(&self.seen);
                glommio::spawn_local(async move {
                    while sender.ready().await {
                        seen.big_bytes.fetch_add(4096, Ordering::SeqCst);
                        sender.send(Bytes::from_static(&[b'y'; 4096]));
                    }
                    seen.streams_abandoned.fetch_add(1, Ordering::SeqCst);
                })
                .detach();
                Http1Answer::typed(StatusCode::OK, "application/octet-stream", body).into()
            }
            "/echo" => {
                let mut answer = Http1Answer::text(StatusCode::OK, "");
                answer.body = request.body.into();
                answer.into()
            }
            _ => Http1Answer::text(StatusCode::OK, format!("{} {}\n", request.method, request.uri)).into(),
        }
    }

    fn on_turn_end(&mut self) {
        self.seen.turns.fetch_add(1, Ordering::SeqCst);
    }
}
