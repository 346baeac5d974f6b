//! What the server was told: flags, environment, and the rules they obey.
//!
//! Input: the arguments after the program's name and the `ETCD_*` variables. Output: a [`Config`] that needs no further
//! checking, a text to print (`--help`, `--version`), or a [`UsageError`] with the exit code. Nothing here reads a file, a
//! clock or a socket, so the same input gives the same answer on every machine, except the default of `--cores`, which the
//! caller resolves.
//!
//! The syntax is that of Go's `flag` package and the rules and texts are etcd 3.6's. A flag of etcd's that the server does not
//! obey is refused with a reason, never ignored in silence; `flags.rs` holds the table.

pub mod args;
pub mod cluster;
pub mod features;
pub mod flags;
pub mod go_value;
pub mod help;
pub mod identity;
pub mod settings;
pub mod urls;

use std::path::PathBuf;
use std::time::Duration;

pub use cluster::{Bootstrap, Discovery, InitialCluster};
pub use features::Features;
pub use urls::Url;

/// The etcd release whose behaviour the server keeps, as `--version` and `Status.version` report it.
pub const ETCD_VERSION: &str = "3.6.14";

/// The version of etcore itself.
pub const ETCORE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything the server needs to know to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The member's human-readable name.
    pub name: String,
    /// The data directory; `<name>.etcore` unless given.
    pub data_dir: PathBuf,
    /// The directory of the write-ahead log when it is not inside the data directory.
    pub wal_dir: Option<PathBuf>,
    /// Where clients connect. Bounds: at least one; plain http; IP address or `localhost`.
    pub listen_client_urls: Vec<Url>,
    /// What clients are told to connect to. Bounds: at least one.
    pub advertise_client_urls: Vec<Url>,
    /// Where peers connect. Bounds: at least one.
    pub listen_peer_urls: Vec<Url>,
    /// What peers are told to connect to. Bounds: at least one.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Further listeners for `/metrics` and the health pages; may be empty.
    pub listen_metrics_urls: Vec<Url>,
    /// The members at the cluster's birth, or of the cluster to join; with a discovery service this one alone, with SRV
    /// records nobody. Whether this member is among them is looked at when it starts without data.
    pub initial_cluster: InitialCluster,
    /// How a member without data learns of the others.
    pub bootstrap: Bootstrap,
    /// The file that names the DNS servers asked for SRV records.
    pub resolv_conf: PathBuf,
    /// Whether the member joins a cluster that is there.
    pub joins_existing: bool,
    /// Whether the member goes on as a cluster of one.
    pub force_new_cluster: bool,
    /// The length of a raft tick and the interval of heartbeats. Bounds: at least 1.
    pub heartbeat_interval_ms: u64,
    /// The base election timeout. Bounds: at least five heartbeats, at most 50,000.
    pub election_timeout_ms: u64,
    /// Whether most of the first election wait is skipped; a lone member always skips it.
    pub initial_election_tick_advance: bool,
    /// Whether a campaign is preceded by a pre-vote round.
    pub pre_vote: bool,
    /// Whether member changes that endanger the quorum are refused.
    pub strict_reconfig_check: bool,
    /// How many learners the cluster may have.
    pub max_learners: u64,
    /// Entries kept behind what the database holds, for slow followers.
    pub snapshot_catchup_entries: u64,
    /// The size at which the database refuses writes; `None` is no limit.
    pub quota_backend_bytes: Option<u64>,
    /// The largest proposal.
    pub max_request_bytes: u64,
    /// The most operations in one list of a transaction.
    pub max_txn_ops: u64,
    /// The most concurrent HTTP/2 streams of one client connection.
    pub max_concurrent_streams: u32,
    /// How often a client may ping; faster pings close the connection.
    pub grpc_keepalive_min_time: Duration,
    /// How often the server pings an idle client; `None` is never.
    pub grpc_keepalive_interval: Option<Duration>,
    /// How long the server waits for the answer to its ping; `None` is no limit.
    pub grpc_keepalive_timeout: Option<Duration>,
    /// The longest time between two commits of the database.
    pub backend_batch_interval: Duration,
    /// Automatic compaction.
    pub auto_compaction: AutoCompaction,
    /// Revisions that a compaction removes between two pauses.
    pub compaction_batch_limit_revisions: u64,
    /// How long such a pause is.
    pub compaction_sleep_interval: Duration,
    /// How often an idle watcher that asked for it is told the revision. Bounds: at least 100 ms.
    pub watch_progress_notify_interval: Duration,
    /// Applying an entry for longer than this logs a warning.
    pub warning_apply_duration: Duration,
    /// Answering a unary request for longer than this logs a warning.
    pub warning_unary_request_duration: Duration,
    /// The feature gates.
    pub features: Features,
    /// How often the leader compares the members' data; `None` is never.
    pub corrupt_check_interval: Option<Duration>,
    /// How often the leader compares hashes taken at compactions, where the gate is on. Bounds: above 0.
    pub compact_hash_check_interval: Duration,
    /// What of itself the server measures.
    pub metrics: MetricsLevel,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// The form of a log line.
    pub log_format: LogFormat,
    /// Where log lines go, each once. Bounds: at least one.
    pub log_outputs: Vec<LogOutput>,
    /// The executors to run; `None` lets the server choose from affinity and cgroup quota. Bounds: 1 to 64.
    pub cores: Option<u32>,
    /// The size of one segment of the write-ahead log; `None` lets the server choose (64 MiB, less on a small disk).
    /// Bounds: a multiple of 4096, 1 MiB to 1 GiB.
    pub wal_segment_bytes: Option<u64>,
    /// A snapshot is sent to a member no faster; `None` is no limit. Units: bytes a second. Bounds: at least 1 MiB.
    pub snapshot_send_rate: Option<u64>,
    /// How long an executor spins before it parks while requests are outstanding; zero is never.
    pub spin: Duration,
    /// What to tell the operator once logging is up: deprecated flags, unknown variables, recommendations.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the arguments after the program's name and the environment.
    ///
    /// Only variables named `ETCD_*` are looked at. Setting a variable beside its flag is an error, as in etcd.
    ///
    /// Errors: the first problem found, in the order of etcd: syntax, environment, then the rules between flags.
    pub fn from_args<A, E>(args: A, env: E) -> Result<Outcome, UsageError>
    where
        A: IntoIterator<Item = String>,
        E: IntoIterator<Item = (String, String)>,
    {
        Config::from_args_as("etcore", args, env)
    }

    /// As [`Config::from_args`] for a program called by this name, which `--version` follows.
    pub fn from_args_as<A, E>(program: &str, args: A, env: E) -> Result<Outcome, UsageError>
    where
        A: IntoIterator<Item = String>,
        E: IntoIterator<Item = (String, String)>,
    {
        match args::read(args.into_iter().collect(), env.into_iter().collect())? {
            args::Request::Help => Ok(Outcome::Print(help::full())),
            args::Request::Version => Ok(Outcome::Print(help::version(program))),
            args::Request::Serve(values) => settings::resolve(&values).map(|config| Outcome::Serve(Box::new(config))),
        }
    }

    /// The configuration of a server that was told nothing.
    pub fn defaults() -> Config {
        match Config::from_args([], []) {
            Ok(Outcome::Serve(config)) => *config,
            other => unreachable!("the defaults obey the rules, yet gave {other:?}"),
        }
    }

    /// The raft election timeout in ticks of `heartbeat_interval_ms`. Bounds: at least 5.
    pub fn election_ticks(&self) -> u64 {
        self.election_timeout_ms / self.heartbeat_interval_ms
    }

    /// How long a proposal or a read may wait for the cluster: 5 s and two election timeouts.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * Duration::from_millis(self.election_timeout_ms)
    }
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Run the server.
    Serve(Box<Config>),
    /// Print this text on standard output and exit 0.
    Print(String),
}

/// A command line that cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct UsageError {
    /// What was wrong and what to do, for standard error; ends without a newline.
    pub text: String,
    /// 2 for a flag that cannot be read or is not supported, 1 for a value that breaks a rule.
    pub exit_code: u8,
}

/// When history is compacted without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// Keep the history of this much time.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(u64),
}

/// How much the server measures of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsLevel {
    /// Counters and gauges.
    Basic,
    /// Also histograms for each gRPC method.
    Extensive,
}

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What an operator should look at.
    Warn,
    /// What went wrong. `panic` and `fatal` mean this too: the server has no severer level.
    Error,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, with the keys of etcd's lines.
    Json,
    /// Tab-separated columns for people.
    Console,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error; also what `default` means.
    Stderr,
    /// Standard output.
    Stdout,
    /// The end of this file, which is made when it is missing.
    File(PathBuf),
}

#[cfg(test)]
mod tests;
