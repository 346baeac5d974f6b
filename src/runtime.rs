//! The server: executors, their loops, start and stop.
//!
//! ```text
//!  accepting thread ──► shard executor(s): connections, Api, jobs        (with one core: all on the core's executor)
//!                          │ Event            ▲ FromCore, newest View in a slot
//!                          ▼                  │
//!                       core executor: Engine over io_uring
//! ```
//!
//! With `--cores 1` the core and one shard share an executor; with more there is one executor for the core and `cores - 1`
//! for shards. The hop between them is a [`mailbox`] in both cases.

pub mod mailbox;
pub mod pause;
pub mod placement;
pub mod probe;

mod core_loop;
mod corruption;
mod identity;
mod options;
mod peer_http;
mod peers;
mod quiet;
mod roster;
mod service_manager;
mod shard_loop;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use glommio::{LocalExecutorBuilder, Placement};
use net::io::{Acceptor, Intake, ListenError, Listener};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    api::{FromCore, METHODS},
    config::{Config, LogOutput},
    latest::Slot,
    member::{BootError, DAMAGED, Event, View},
    metrics::{CoreMetrics, ShardMetrics},
};
use mailbox::{Receiver, Sender};
use probe::ProbeError;

/// Listener tag of client URLs.
const CLIENT_TAG: u32 = 0;
/// Listener tag of `--listen-metrics-urls`.
const METRICS_TAG: u32 = 1;
/// Listener tag of peer URLs.
const PEER_TAG: u32 = 2;

/// Messages a mailbox takes before its senders hear that it is full.
const MAILBOX_CAPACITY: usize = 1 << 17;

/// Exit code of a start that failed.
const EXIT_START: u8 = 1;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("{}: {error}", path.display())]
    Boot { path: PathBuf, error: BootError },
    #[error("the data directory {} cannot be used: {error}; make it writable for this user, or choose another --data-dir", path.display())]
    DataDir { path: PathBuf, error: std::io::Error },
    #[error("{0}")]
    Cluster(String),
    #[error("{member:x} {why}")]
    Corrupt { member: u64, why: String },
    #[error(
        "the data directory {} is etcd's, whose files are not read here; choose another --data-dir and copy the keys over \
         (etcdctl make-mirror)",
        path.display()
    )]
    EtcdDataDir { path: PathBuf },
    #[error("an executor cannot be started: {0}")]
    Executor(String),
    #[error("signals cannot be caught: {0}")]
    Signals(std::io::Error),
}

/// What all executors share.
#[derive(Clone)]
struct Shared {
    config: Arc<Config>,
    /// Who this member is; known once its data directory was looked at.
    identity: storage::wal::Identity,
    /// Connections that all shards together take.
    connections_max: usize,
    /// Raised by SIGTERM: stop in order.
    stop: Arc<AtomicBool>,
    /// Shards that have not ended.
    live_shards: Arc<AtomicUsize>,
    core_metrics: Arc<CoreMetrics>,
    shard_metrics: Vec<Arc<ShardMetrics>>,
    wants_blocks: Vec<Arc<AtomicBool>>,
}

/// What a shard gets once the core is ready.
struct ShardSeed {
    index: usize,
    slot: Slot<View>,
    pins: storage::mvcc::Pins,
    hashes: crate::member::HashCache,
    to_core: Sender<Event>,
    from_core: Receiver<FromCore>,
}

/// Where a shard tells its intake, so that accepting can begin.
type Ready = std::sync::mpsc::Sender<Result<Vec<Intake>, StartError>>;

/// Runs the server until it is told to stop. Start-up errors go to standard error.
pub fn serve(config: Config) -> ExitCode {
    let is_logged_elsewhere = !config.log_outputs.contains(&LogOutput::Stderr);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if is_logged_elsewhere {
                tracing::error!(%error, "the server cannot start");
            }
            eprintln!("etcore: {error}");
            ExitCode::from(EXIT_START)
        }
    }
}

fn run(config: Config) -> Result<(), StartError> {
    let cores = config.cores.map_or_else(
        || placement::default_cores(placement::read_grants()),
        |cores| cores as usize,
    );
    probe::check(cores)?;
    let connections_max = match probe::open_files_limit() {
        Some(limit) => probe::connections_max(limit, probe::OPEN_FILES_RESERVE)? as usize,
        None => usize::MAX,
    };
    let listeners = listen(&config, &[CLIENT_TAG, METRICS_TAG])?;
    // Members that start together ask each other whether they are there: nobody is to wait for one that is not yet.
    let peer_listeners = listen(&config, &[PEER_TAG])?;
    prepare_data_dir(&config)?;
    let _ = DATA_DIR.set(config.data_dir.clone());
    // Before any thread: signals are then caught from the first moment on.
    let signals = Signals::new([SIGTERM, SIGINT]).map_err(StartError::Signals)?;
    let shards = if cores == 1 { 1 } else { cores - 1 };
    tracing::info!(
        version = crate::config::ETCORE_VERSION,
        etcd = crate::config::ETCD_VERSION,
        cores,
        shards,
        data_dir = %config.data_dir.display(),
        "starting"
    );
    let shared = Shared {
        identity: storage::wal::Identity {
            member_id: 0,
            cluster_id: 0,
        },
        config: Arc::new(config),
        connections_max,
        stop: Arc::new(AtomicBool::new(false)),
        live_shards: Arc::new(AtomicUsize::new(shards)),
        core_metrics: Arc::new(CoreMetrics::default()),
        shard_metrics: (0..shards)
            .map(|_| Arc::new(ShardMetrics::new(METHODS.len())))
            .collect(),
        wants_blocks: (0..shards).map(|_| Arc::new(AtomicBool::new(false))).collect(),
    };
    watch_signals(signals, shared.stop.clone());
    let (ready, started) = std::sync::mpsc::channel();
    let core = start_core(shared.clone(), cores == 1, peer_listeners, ready)?;
    let intakes = match started.recv() {
        Ok(result) => result?,
        Err(_) => return Err(StartError::Executor("the core ended before it was ready".into())),
    };
    let acceptor = Acceptor::start(listeners, intakes, connections_max)
        .map_err(|error| StartError::Executor(error.to_string()))?;
    for url in &shared.config.listen_client_urls {
        tracing::info!(address = %url, "ready to serve client requests");
    }
    eprintln_ready(&shared.config);
    service_manager::tell_ready(std::env::var_os(service_manager::SOCKET_VARIABLE));
    while !shared.stop.load(Ordering::SeqCst) {
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    acceptor.stop();
    core.join()
        .map_err(|_| StartError::Executor("the core's executor panicked".into()))?;
    tracing::info!("stopped");
    Ok(())
}

/// Scripts wait for this line on standard error, whatever the log is set to.
fn eprintln_ready(config: &Config) {
    use crate::config::LogLevel;
    if !config.log_outputs.contains(&LogOutput::Stderr) || config.log_level > LogLevel::Info {
        eprintln!("ready to serve client requests");
    }
}

fn listen(config: &Config, tags: &[u32]) -> Result<Vec<Listener>, StartError> {
    let groups = [
        (&config.listen_client_urls, CLIENT_TAG),
        (&config.listen_metrics_urls, METRICS_TAG),
        (&config.listen_peer_urls, PEER_TAG),
    ];
    let mut listeners = Vec::new();
    for (urls, tag) in groups.into_iter().filter(|(_, tag)| tags.contains(tag)) {
        for url in urls {
            let host = url.host();
            let address = if host.contains(':') {
                format!("[{}]:{}", host.trim_matches(['[', ']']), url.port())
            } else {
                format!("{host}:{}", url.port())
            };
            listeners.push(match tag {
                PEER_TAG => Listener::reserve(&address, tag)?,
                _ => Listener::bind(&address, tag)?,
            });
        }
    }
    Ok(listeners)
}

/// Makes the data directory, private to this user, and ties a log directory elsewhere to it.
fn prepare_data_dir(config: &Config) -> Result<(), StartError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| StartError::DataDir { path, error }
    };
    let create = |path: &Path| {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed(path))
    };
    refuse_etcd_data(&config.data_dir)?;
    create(&config.data_dir)?;
    // A write tells more than mode bits do.
    let trial = config.data_dir.join(".write-trial");
    std::fs::write(&trial, b"")
        .and_then(|()| std::fs::remove_file(&trial))
        .map_err(failed(&config.data_dir))?;
    let Some(elsewhere) = &config.wal_dir else {
        return Ok(());
    };
    create(elsewhere)?;
    let link = config.data_dir.join(options::WAL_DIR);
    let target = std::fs::canonicalize(elsewhere).map_err(failed(elsewhere))?;
    match std::fs::canonicalize(&link) {
        Ok(found) if found == target => Ok(()),
        Ok(_) => Err(StartError::DataDir {
            path: link,
            error: std::io::Error::other("it is there already and is not --wal-dir; move the log there first"),
        }),
        Err(_) => std::os::unix::fs::symlink(&target, &link).map_err(failed(&link)),
    }
}

/// A server that started empty in etcd's directory would look like one that lost its data.
fn refuse_etcd_data(data_dir: &Path) -> Result<(), StartError> {
    let ours = data_dir.join("format").exists();
    let theirs = ["member/wal", "member/snap"]
        .iter()
        .any(|part| data_dir.join(part).is_dir());
    if theirs && !ours {
        let path = data_dir.to_owned();
        return Err(StartError::EtcdDataDir { path });
    }
    Ok(())
}

/// The first signal stops in order, the second at once: as safe as a crash.
fn watch_signals(mut signals: Signals, stop: Arc<AtomicBool>) {
    let main = std::thread::current();
    let watch = move || {
        for _ in signals.forever() {
            if stop.swap(true, Ordering::SeqCst) {
                std::process::exit(1);
            }
            main.unpark();
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)
        .expect("a thread can be started at boot");
}

fn builder(name: &str, config: &Config) -> LocalExecutorBuilder {
    // Preempt timer and latency stay at their defaults: see DESIGN 7.
    let builder = LocalExecutorBuilder::new(Placement::Unbound)
        .name(name)
        .io_memory(placement::IO_MEMORY_BYTES);
    if config.spin.is_zero() {
        builder
    } else {
        builder.spin_before_park(config.spin)
    }
}

/// Starts the core's executor; it starts the others and reports once all are ready.
fn start_core(
    shared: Shared,
    alone: bool,
    peer_listeners: Vec<Listener>,
    ready: Ready,
) -> Result<std::thread::JoinHandle<()>, StartError> {
    let body = move || {
        let config = shared.config.clone();
        let executor = builder("core", &config).make();
        match executor {
            Ok(executor) => executor.run(core_loop::run(shared, alone, peer_listeners, ready)),
            Err(error) => drop(ready.send(Err(StartError::Executor(error.to_string())))),
        }
    };
    let thread = std::thread::Builder::new().name("core".into());
    thread
        .spawn(body)
        .map_err(|error| StartError::Executor(error.to_string()))
}

/// Nanoseconds of the monotonic clock since the process started.
fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // Zero is kept for "never".
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Ends the process at once, with nothing flushed: what is on disk is what a crash would leave.
fn die(why: &str) -> ! {
    eprintln!("etcore: fatal: {why}");
    std::process::exit(1)
}

/// Where damage is noted.
static DATA_DIR: OnceLock<PathBuf> = OnceLock::new();

/// As [`die`], for damage of the tree: it is noted, so that the next start of a member of a cluster has it refilled.
fn die_of_damage(what: String) {
    if let Some(dir) = DATA_DIR.get() {
        // Without the note the damage is found again, at the latest when that page is read.
        let noted = std::fs::File::create(dir.join(DAMAGED)).and_then(|mut file| {
            file.write_all(what.as_bytes())?;
            file.sync_all()?;
            std::fs::File::open(dir)?.sync_all()
        });
        if let Err(error) = noted {
            tracing::error!(%error, "the damage cannot be noted");
        }
    }
    die(&what)
}
