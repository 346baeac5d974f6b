//! Answers every unary gRPC call with its own message, and HTTP/1.1 with its request line: measures what the network
//! part of a request costs.
//!
//! `cargo run --release -p etcore-net --example echo_server -- 127.0.0.1:3379`, then for example
//! `h2load -n 1000000 -c 100 -m 10 -t 1 -H 'content-type: application/grpc' -H 'te: trailers' -d frame http://127.0.0.1:3379/etcdserverpb.KV/Put`.
//! On SIGTERM's stead it ends when its standard input does, and prints CPU seconds per 100k requests.

use glommio::LocalExecutorBuilder;
use net::grpc::{Event, ServerConn, StreamId};
use net::io::{
    Acceptor, Application, ConnId, Http1Answer, Http1Reply, Http1Request, Listener, Shard, ShardLimits, StatusCode,
};
use std::cell::{Cell, RefCell};
use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

struct Echo {
    requests: Rc<Cell<u64>>,
    turns: Rc<Cell<u64>>,
    /// Answers wait for the end of the turn, as those of a real server wait for its core.
    waiting: Vec<(ConnId, StreamId, bytes::Bytes)>,
    shard: Option<Shard<Echo>>,
    late: bool,
}

impl Application for Echo {
    fn on_event(&mut self, conn: ConnId, event: Event, wire: &mut ServerConn) {
        match event {
            Event::Message { stream, message } if self.late => self.waiting.push((conn, stream, message)),
            Event::Message { stream, message } => {
                self.requests.set(self.requests.get() + 1);
                wire.reply(stream, message.len(), |out| out.extend_from_slice(&message));
            }
            Event::Http { stream, .. } => wire.respond_http(stream, 200, &[("content-type", "text/plain")], b"echo\n"),
            _ => {}
        }
    }

    fn on_closed(&mut self, _: ConnId) {}

    fn on_http1(&mut self, request: Http1Request) -> Http1Reply {
        Http1Answer::text(StatusCode::OK, format!("{} {}\n", request.method, request.uri)).into()
    }

    fn on_turn_end(&mut self) {
        self.turns.set(self.turns.get() + 1);
        for (conn, stream, message) in self.waiting.drain(..) {
            self.requests.set(self.requests.get() + 1);
            let shard = self.shard.as_ref().expect("set before the first connection");
            shard.with_conn(conn, |wire| {
                wire.reply(stream, message.len(), |out| out.extend_from_slice(&message))
            });
        }
    }
}

fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3379".to_owned());
    let late = std::env::args().nth(2).is_some_and(|mode| mode == "late");
    let executor = LocalExecutorBuilder::default()
        .io_memory(1 << 20)
        .make()
        .expect("an executor");
    executor.run(async move {
        let (requests, turns) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let app = Echo {
            requests: Rc::clone(&requests),
            turns: Rc::clone(&turns),
            waiting: vec![],
            shard: None,
            late,
        };
        let app = Rc::new(RefCell::new(app));
        let shard = Shard::new(Rc::clone(&app), ShardLimits::default());
        app.borrow_mut().shard = Some(shard.clone());
        let listener = Listener::bind(&address, 0).unwrap_or_else(|error| panic!("{error}"));
        println!("listening on {}", listener.local_addr());
        let acceptor = Acceptor::start(vec![listener], vec![shard.intake()], 10_000).expect("a thread");
        glommio::executor()
            .spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
            .await
            .expect("stdin");
        acceptor.stop();
        shard.shutdown(Duration::from_secs(2)).await;
        let (requests, cpu) = (requests.get(), cpu_seconds());
        let per = cpu / (requests.max(1) as f64 / 100_000.0);
        println!(
            "{requests} requests in {} turns, {cpu:.2} CPU s, {per:.3} CPU s per 100k requests",
            turns.get()
        );
    });
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc is mounted");
    let after_name = stat.rsplit(") ").next().expect("the name ends with a parenthesis");
    let ticks: f64 = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().expect("a number"))
        .sum();
    ticks / 100.0
}
