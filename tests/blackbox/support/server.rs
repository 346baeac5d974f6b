//! One server under test: its data directory, ports, flags and process.

use super::{Client, PATIENCE, Process};
use std::{
    env,
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// The first of the ports for servers.
const FIRST_PORT: u16 = 10_000;

/// A server with a data directory of its own, killed and removed when dropped.
pub struct Server {
    binary: PathBuf,
    extra_flags: Vec<String>,
    environment: Vec<(String, String)>,
    data_dir: PathBuf,
    client_port: u16,
    peer_port: u16,
    process: Option<Process>,
    /// Keeps the directory alive; `None` when the story brought its own.
    _dir: Option<TempDir>,
}

impl Server {
    /// Starts the server under test with `flags` beside the usual ones, and waits until it is ready.
    pub async fn start(flags: &[&str]) -> Server {
        Server::start_binary(&binary_under_test(), flags).await
    }

    /// As [`Server::start`], with variables in its environment.
    pub async fn start_in(environment: &[(&str, String)], flags: &[&str]) -> Server {
        let dir = TempDir::with_prefix("etcore-blackbox-").expect("a temporary directory can be made");
        let data_dir = dir.path().join("data");
        let mut server = Server::new(&binary_under_test(), flags, data_dir, Some(dir));
        server.environment = environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect();
        server.run_on_new_ports();
        server
    }

    /// Starts a given binary, as [`Server::start`] does.
    pub async fn start_binary(binary: &Path, flags: &[&str]) -> Server {
        let dir = TempDir::with_prefix("etcore-blackbox-").expect("a temporary directory can be made");
        let data_dir = dir.path().join("data");
        Server::launch(binary, flags, data_dir, Some(dir)).await
    }

    /// Starts the server under test on a data directory that the story owns.
    pub async fn start_on(data_dir: &Path, flags: &[&str]) -> Server {
        Server::launch(&binary_under_test(), flags, data_dir.to_path_buf(), None).await
    }

    async fn launch(binary: &Path, flags: &[&str], data_dir: PathBuf, dir: Option<TempDir>) -> Server {
        let mut server = Server::new(binary, flags, data_dir, dir);
        server.run_on_new_ports();
        server
    }

    fn new(binary: &Path, flags: &[&str], data_dir: PathBuf, dir: Option<TempDir>) -> Server {
        Server {
            binary: binary.to_path_buf(),
            extra_flags: flags.iter().map(|flag| flag.to_string()).collect(),
            environment: Vec::new(),
            data_dir,
            client_port: 0,
            peer_port: 0,
            process: None,
            _dir: dir,
        }
    }

    /// Another program may take a free port between our look and the server's bind: then try others.
    fn run_on_new_ports(&mut self) {
        for attempt in 1.. {
            (self.client_port, self.peer_port) = (free_port(), free_port());
            match self.run() {
                Ok(()) => return,
                Err(log) if attempt < 5 && is_port_clash(&log) => {
                    let _ = std::fs::remove_dir_all(&self.data_dir);
                }
                Err(log) => panic!("the server did not become ready; its log ends:\n{log}"),
            }
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let mut process = Process::spawn(&self.binary, &self.flags(), &self.environment);
        if process.logged("ready to serve client requests", PATIENCE) {
            self.process = Some(process);
            return Ok(());
        }
        process.wait(Duration::from_secs(1));
        Err(process.log_tail())
    }

    /// The whole command line, without the binary.
    pub fn flags(&self) -> Vec<String> {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let mut flags = vec![
            "--name=default".into(),
            format!("--data-dir={}", self.data_dir.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // A lone member elects itself after one election timeout: short ones make short tests.
            "--heartbeat-interval=20".into(),
            "--election-timeout=200".into(),
        ];
        if self.binary == binary_under_test() && !is_reference() {
            // On two CPUs it would choose one, and the hand-off between executors would not be seen here.
            flags.push("--cores=2".into());
        }
        flags.extend(self.extra_flags.iter().cloned());
        flags
    }

    /// A new connection to the server.
    pub fn client(&self) -> Client {
        Client::connect(&self.url())
    }

    /// `http://127.0.0.1:<client port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.endpoint())
    }

    /// `127.0.0.1:<client port>`.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// The peer URL.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// Where the server keeps its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// True when the server under test is an etcd of somebody else.
    pub fn is_reference(&self) -> bool {
        is_reference()
    }

    /// As [`is_3_5`].
    pub fn is_3_5(&self) -> bool {
        is_3_5()
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the server is running")
    }

    /// Kills the server as a crash would.
    pub fn kill_9(&mut self) {
        self.process().kill_9();
        self.process = None;
    }

    /// Ends the server by SIGTERM and waits for its end.
    pub fn stop(&mut self) {
        self.process().signal("TERM");
        let ended = self.process().wait(Duration::from_secs(15));
        assert!(
            ended.is_some(),
            "SIGTERM did not end the server; its log ends:\n{}",
            self.process().log_tail()
        );
        self.process = None;
    }

    /// Starts the server again on its data, ports and flags after [`Server::kill_9`] or [`Server::stop`].
    pub fn start_again(&mut self) {
        self.try_start_again()
            .unwrap_or_else(|log| panic!("the server did not come back; its log ends:\n{log}"));
    }

    /// As [`Server::start_again`]. Errors: the end of the log when the server does not become ready.
    pub fn try_start_again(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "the server is still running");
        let mut last = String::new();
        // The old port may be in use by a connection of another test for a moment.
        for _ in 0..5 {
            match self.run() {
                Ok(()) => return Ok(()),
                Err(log) => last = log,
            }
            if !is_port_clash(&last) {
                break;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Err(last)
    }

    /// Ends the server in order and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(process) = &self.process
        {
            eprintln!("the server's log ends:\n{}", process.log_tail());
        }
    }
}

/// True when a server ended because somebody else has its port.
fn is_port_clash(log: &str) -> bool {
    log.contains("address already in use")
}

/// The binary that the stories run against.
pub fn binary_under_test() -> PathBuf {
    env::var_os("ETCORE_TEST_SERVER").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_etcore")), PathBuf::from)
}

/// True when the binary under test is an etcd of somebody else.
pub fn is_reference() -> bool {
    static REFERENCE: OnceLock<bool> = OnceLock::new();
    *REFERENCE.get_or_init(|| env::var_os("ETCORE_TEST_SERVER").is_some() && !version_text().contains("etcore"))
}

/// True when the binary under test speaks etcd 3.5 where 3.5 and 3.6 differ.
pub fn is_3_5() -> bool {
    server_version().starts_with("3.5.")
}

/// The major and minor version of etcd that the binary under test is compatible with, such as `3.6`.
pub fn minor_version() -> &'static str {
    server_version().rsplit_once('.').expect("a version has a patch").0
}

/// The version of etcd that the binary under test is compatible with, such as `3.6.14`.
pub fn server_version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let reference = is_reference();
        let text = version_text();
        let found = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        match (found, reference) {
            (Some(version), _) => version.trim().to_owned(),
            (None, false) => "3.6.14".to_owned(),
            (None, true) => panic!("--version of the reference has no line \"etcd Version:\": {text:?}"),
        }
    })
}

fn version_text() -> String {
    let output = Command::new(binary_under_test())
        .arg("--version")
        .output()
        .expect("the binary under test runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A TCP port that nobody listened on a moment ago, and that no other story of this process is given.
///
/// It lies below those that the kernel gives to connections: one of them would keep a server that was killed from coming
/// back to its port, and a member that dials another one that is down could meet itself there.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().and_then(|first| first.parse().ok());
    let count = end.unwrap_or(FIRST_PORT).saturating_sub(FIRST_PORT);
    let next = NEXT.get_or_init(|| AtomicU16::new(RandomState::new().hash_one(std::process::id()) as u16));
    let below = || (count > 0).then(|| FIRST_PORT + next.fetch_add(1, Ordering::Relaxed) % count);
    let tries = std::iter::repeat_with(|| below().unwrap_or(0)).take(1000);
    let mut listeners = tries.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    let listener = listeners.next().expect("the loopback interface has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}
