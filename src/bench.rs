//! `etcore bench`: a load generator that costs the machine little, so that the server is what is measured.
//!
//! Requests are HTTP/2 frames prepared once and patched; answers are parsed for no more than where they end and how.
//! Each client has one request in flight; a latency counts from the moment its request should have been sent.

mod engine;
mod link;
mod options;
mod report;
mod requests;
mod session;
mod status;
mod tally;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use engine::{Engine, Plan, Setup, WatchSetup};
use indicatif::{ProgressBar, ProgressStyle};
use link::Endpoint;
use options::{Command, Options};
use report::Report;
use requests::Requests;
use tally::Tally;

/// Why a load could not be run at all; requests that fail are counted instead.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("endpoint {endpoint:?}: {why}")]
    Endpoint { endpoint: String, why: String },
    #[error("cannot connect to {endpoint}: {source}; is the server running?")]
    Connect { endpoint: String, source: std::io::Error },
    #[error("the server permits {permitted} calls at once on a connection, {wanted} are wanted: raise --conns")]
    Streams { wanted: u32, permitted: u32 },
    #[error("waited too long for {what}; does the endpoint speak HTTP/2 in plaintext?")]
    Silent { what: &'static str },
    #[error("a connection was lost while waiting for {what}; does the endpoint speak HTTP/2 in plaintext?")]
    Lost { what: &'static str },
    #[error("{why}")]
    Watch { why: String },
    #[error("{why}")]
    Options { why: String },
    #[error("polling the connections failed: {0}")]
    Poll(#[from] std::io::Error),
}

/// Runs the load that `args` (without the name of the program) describe, and prints what was measured.
///
/// Errors: exit code 1 when any request failed, 2 when the command line is wrong.
pub fn run(args: &[String]) -> ExitCode {
    let args = std::iter::once("etcore bench").chain(args.iter().map(String::as_str));
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match measure(&options) {
        Ok(failures) => ExitCode::from(u8::from(failures > 0)),
        Err(error) => {
            eprintln!("etcore bench: {error}");
            ExitCode::from(if matches!(error, BenchError::Options { .. }) {
                2
            } else {
                1
            })
        }
    }
}

/// Runs the load and prints the report; returns how many requests failed.
fn measure(options: &Options) -> Result<u64, BenchError> {
    let load = Load::of(&options.command);
    let shared = &options.shared;
    let endpoints = shared.endpoints.iter().map(|text| Endpoint::parse(text));
    let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, _>>()?;
    let threads = if load.watch.is_some() {
        1
    } else {
        shared.threads.min(shared.conns).min(shared.clients)
    };
    let workers = (0..threads).map(|number| Worker::new(options, &load, &endpoints, threads, number));
    let workers: Vec<Worker> = workers.collect::<Result<_, _>>()?;
    let progress = AtomicU64::new(0);
    // All threads begin at once, between two looks at the processors' clocks.
    let start = Barrier::new(threads as usize + 1);
    let (tally, client_cpu_s, server_cpu_s) = thread::scope(|scope| {
        let (start, progress) = (&start, &progress);
        let spawn = |worker: Worker| scope.spawn(move || worker.run(start, progress));
        let workers: Vec<_> = workers.into_iter().map(spawn).collect();
        start.wait();
        let own_before = cpu_s(std::process::id());
        let server_before = cpu_of(&shared.server_pid);
        start.wait();
        let is_finished = || workers.iter().all(|worker| worker.is_finished());
        show_progress(load.total, progress, is_finished);
        let mut tally = Tally::new();
        let mut server_after = None;
        for worker in workers {
            let (part, server) = worker.join().expect("a worker that panics has ended the process")?;
            tally.merge(part);
            server_after = server.or(server_after);
        }
        let server = server_before.zip(server_after).map(|(before, after)| after - before);
        let own = own_before
            .zip(cpu_s(std::process::id()))
            .map(|(before, after)| after - before);
        Ok::<_, BenchError>((tally, own, server))
    })?;
    let report = Report {
        command: load.name,
        conns: shared.conns,
        clients: shared.clients,
        threads,
        tally: &tally,
        client_cpu_s,
        server_cpu_s,
    };
    if shared.json {
        println!("{}", report.json());
    } else {
        println!("{}", report.text());
    }
    Ok(tally.failures())
}

/// What all commands have in common.
struct Load {
    name: &'static str,
    total: u64,
    rate: u64,
    watch: Option<WatchSetup>,
}

impl Load {
    fn of(command: &Command) -> Load {
        let unary = |name, total, rate| Load {
            name,
            total,
            rate,
            watch: None,
        };
        match command {
            Command::Put(put) => unary("put", put.total, put.rate),
            Command::Range(range) => unary("range", range.total, range.rate),
            Command::TxnPut(txn) => unary("txn-put", txn.total, txn.rate),
            Command::TxnMixed(txn) => unary("txn-mixed", txn.total, txn.rate),
            Command::Watch(watch) => Load {
                name: "watch",
                total: watch.put_total,
                rate: watch.put_rate,
                watch: Some(WatchSetup {
                    conns: 0,
                    streams: watch.streams,
                    watch_per_stream: watch.watch_per_stream,
                    keys: watch.watched_key_total,
                    key_size: watch.key_size,
                    prev_kv: watch.prevkv,
                }),
            },
            Command::WatchLatency(watch) => Load {
                name: "watch-latency",
                total: watch.total,
                rate: watch.put_rate,
                watch: Some(WatchSetup {
                    conns: 0,
                    streams: watch.streams,
                    watch_per_stream: watch.watch_per_stream,
                    keys: 1,
                    key_size: watch.key_size,
                    prev_kv: watch.prevkv,
                }),
            },
        }
    }
}

/// One thread's part of a load.
struct Worker {
    setup: Setup,
    requests: Requests,
    warmup: Plan,
    plan: Plan,
    server_pids: Vec<u32>,
}

impl Worker {
    fn new(
        options: &Options,
        load: &Load,
        endpoints: &[Endpoint],
        threads: u32,
        number: u32,
    ) -> Result<Worker, BenchError> {
        let shared = &options.shared;
        let seed = shared.seed.wrapping_add(u64::from(number) << 32);
        let requests = Requests::new(&options.command, seed).map_err(|why| BenchError::Options { why })?;
        let of_conn = |conn| shared.clients / shared.conns + u32::from(conn < shared.clients % shared.conns);
        let clients = (number..shared.conns).step_by(threads as usize).map(of_conn).collect();
        let mut watch = load.watch.clone();
        if let Some(watch) = &mut watch {
            watch.conns = shared.conns.min(watch.streams);
        }
        let part = |total: u64| Plan {
            total: total / u64::from(threads) + u64::from(u64::from(number) < total % u64::from(threads)),
            rate: load.rate as f64 / f64::from(threads),
            stride: u64::from(threads),
            offset: u64::from(number),
        };
        Ok(Worker {
            setup: Setup {
                endpoints: endpoints.to_vec(),
                path: requests.path,
                clients,
                watch,
                timeout: Duration::from_secs(shared.timeout),
            },
            requests,
            warmup: part(shared.warmup),
            plan: part(load.total),
            server_pids: shared.server_pid.clone(),
        })
    }

    /// Connects, warms up, meets the others, and sends; returns also the server's CPU seconds at the end.
    fn run(mut self, start: &Barrier, progress: &AtomicU64) -> Result<(Tally, Option<f64>), BenchError> {
        let ready = self.prepare();
        start.wait();
        start.wait();
        let tally = ready?.run(self.plan, &mut self.requests, progress)?;
        Ok((tally, cpu_of(&self.server_pids)))
    }

    fn prepare(&mut self) -> Result<Engine, BenchError> {
        let mut engine = Engine::connect(&self.setup)?;
        if self.warmup.total > 0 {
            engine.run(self.warmup, &mut self.requests, &AtomicU64::new(0))?;
        }
        Ok(engine)
    }
}

/// Draws a bar until all is finished, if there is somebody to see it.
fn show_progress(total: u64, progress: &AtomicU64, is_finished: impl Fn() -> bool) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style);
    while !is_finished() {
        thread::sleep(Duration::from_millis(100));
        bar.set_position(progress.load(Ordering::Relaxed));
    }
    bar.finish_and_clear();
}

/// CPU seconds of some processes together; none of no process, or if one of them is not there.
fn cpu_of(pids: &[u32]) -> Option<f64> {
    (!pids.is_empty()).then(|| pids.iter().map(|pid| cpu_s(*pid)).sum())?
}

/// User and system CPU seconds of a process so far; `None` where there is no such process or no Linux.
///
/// Source: proc(5): fields 14 and 15 of stat, in units of 1/100 s.
fn cpu_s(pid: u32) -> Option<f64> {
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything; behind it stands the third field.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_S)
}
