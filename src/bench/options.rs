//! The command line of `etcore bench`: subcommands and options as etcd's `benchmark` names them, and a few of our own.

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Loads an etcd v3 server and reports throughput, latency and errors.
#[derive(Debug, Parser)]
#[command(name = "etcore bench", disable_version_flag = true, max_term_width = 120)]
pub struct Options {
    /// What to connect to, how, and what to print.
    #[command(flatten)]
    pub shared: Shared,
    /// The shape of the load.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every load.
#[derive(Args, Clone, Debug)]
pub struct Shared {
    /// Servers, host:port with an optional http://; connections are dealt to them in turn
    #[arg(long, global = true, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// Connections in all
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub conns: u32,
    /// Clients in all, each with one request in flight; dealt to the connections in turn
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub clients: u32,
    /// Threads that generate the load
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Requests sent before the measured ones, and not counted
    #[arg(long, global = true, default_value_t = 0)]
    pub warmup: u64,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Process ids of the servers: report their CPU seconds during the measured requests (same machine only)
    #[arg(long, global = true, value_delimiter = ',')]
    pub server_pid: Vec<u32>,
    /// Give up when no answer arrives for so many seconds
    #[arg(long, global = true, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Seed of everything random
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,
    /// Accepted for etcd's sake; the figures are always precise
    #[arg(long, global = true, hide = true)]
    pub precise: bool,
}

/// The shapes of load.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Put keys
    Put(Put),
    /// Read a key, or the range from KEY to END
    Range(Range),
    /// Write in transactions
    TxnPut(TxnPut),
    /// Transactions that read or write
    TxnMixed(TxnMixed),
    /// Many watchers on few keys: events per second
    Watch(Watch),
    /// From a put to its event at a watcher
    WatchLatency(WatchLatency),
}

/// The keys and values written.
#[derive(Args, Clone, Debug)]
pub struct Space {
    /// Bytes of a key
    #[arg(long, default_value_t = 8)]
    pub key_size: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 8)]
    pub val_size: usize,
    /// How many different keys there are
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub key_space_size: u64,
    /// Text every key begins with; part of its size
    #[arg(long, default_value = "")]
    pub key_prefix: String,
}

/// `put`
#[derive(Args, Clone, Debug)]
pub struct Put {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub space: Space,
    /// Take keys in order, not at random
    #[arg(long)]
    pub sequential_keys: bool,
    /// Requests in all
    #[arg(long, default_value_t = 10_000)]
    pub total: u64,
    /// Requests per second; 0 is as fast as can be
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
}

/// How a read is made consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// Linearizable
    L,
    /// Serializable
    S,
}

/// `range`
#[derive(Args, Clone, Debug)]
pub struct Range {
    /// The key, or the first key of the range
    pub key: String,
    /// The end of the range, which is not part of it
    pub end: Option<String>,
    /// l for linearizable, s for serializable
    #[arg(long, value_enum, default_value_t = Consistency::L)]
    pub consistency: Consistency,
    /// Keys in an answer at most; 0 is all
    #[arg(long, default_value_t = 0)]
    pub limit: u32,
    /// Ask for the number of keys only
    #[arg(long)]
    pub count_only: bool,
    /// Requests in all
    #[arg(long, default_value_t = 10_000)]
    pub total: u64,
    /// Requests per second; 0 is as fast as can be
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
}

/// `txn-put`
#[derive(Args, Clone, Debug)]
pub struct TxnPut {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub space: Space,
    /// Puts in one transaction
    #[arg(long, alias = "ops", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub txn_ops: u32,
    /// Transactions in all
    #[arg(long, default_value_t = 10_000)]
    pub total: u64,
    /// Transactions per second; 0 is as fast as can be
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
}

/// `txn-mixed`
#[derive(Args, Clone, Debug)]
pub struct TxnMixed {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub space: Space,
    /// The first key that reads ask for; without it they ask for all keys
    #[arg(long, default_value = "")]
    pub start_key: String,
    /// The end of the range that reads ask for; without it there is none
    #[arg(long, default_value = "")]
    pub end_key: String,
    /// Keys in an answer at most; 0 is all
    #[arg(long, default_value_t = 1000)]
    pub limit: u32,
    /// l for linearizable, s for serializable
    #[arg(long, value_enum, default_value_t = Consistency::L)]
    pub consistency: Consistency,
    /// Reads for each write
    #[arg(long, default_value_t = 1.0)]
    pub rw_ratio: f64,
    /// Transactions in all
    #[arg(long, default_value_t = 10_000)]
    pub total: u64,
    /// Transactions per second; 0 is as fast as can be
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
}

/// `watch`
#[derive(Args, Clone, Debug)]
pub struct Watch {
    /// Watch streams, each on a connection of its own
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub streams: u32,
    /// Watchers of each stream
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub watch_per_stream: u32,
    /// Different keys that are watched; the watchers are dealt to them in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub watched_key_total: u64,
    /// Ask for the value before each event
    #[arg(long)]
    pub prevkv: bool,
    /// Puts in all; they go to the watched keys in turn
    #[arg(long, alias = "total", default_value_t = 1000)]
    pub put_total: u64,
    /// Puts per second; 0 is as fast as can be
    #[arg(long, alias = "rate", default_value_t = 0)]
    pub put_rate: u64,
    /// Bytes of a key
    #[arg(long, default_value_t = 32)]
    pub key_size: usize,
    /// Bytes of a value; the first 16 tell when it was put
    #[arg(long, default_value_t = 32)]
    pub val_size: usize,
}

/// `watch-latency`
#[derive(Args, Clone, Debug)]
pub struct WatchLatency {
    /// Watch streams, each on a connection of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub streams: u32,
    /// Watchers of each stream, all on one key
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub watch_per_stream: u32,
    /// Ask for the value before each event
    #[arg(long)]
    pub prevkv: bool,
    /// Puts in all, one after the other
    #[arg(long, default_value_t = 10_000)]
    pub total: u64,
    /// Puts per second; 0 is as fast as can be
    #[arg(long, alias = "rate", default_value_t = 100)]
    pub put_rate: u64,
    /// Bytes of a key
    #[arg(long, default_value_t = 32)]
    pub key_size: usize,
    /// Bytes of a value; the first 16 tell when it was put
    #[arg(long, default_value_t = 32)]
    pub val_size: usize,
}
