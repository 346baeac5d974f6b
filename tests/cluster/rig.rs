//! Several members on free ports of the loopback interface.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::{
    Client, PATIENCE, Process, binary_under_test, eventually, free_port, http, is_reference, pause_ms,
    pb::etcdserverpb::{StatusRequest, StatusResponse},
};

/// A member that is paused or cut off says nothing for longer than this.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

/// Where a member runs, if not simply on the loopback interface.
#[derive(Clone, Default)]
pub struct Place {
    /// Its address; 127.0.0.1 if empty.
    pub host: String,
    /// A program, with arguments, that starts the member.
    pub launcher: Vec<String>,
    /// Where its data is; in the cluster's directory by default.
    pub data_dir: Option<PathBuf>,
    /// Its peer port; any by default.
    pub peer_port: Option<u16>,
    /// What it tells the others to dial instead of its peer port.
    pub dialled_at: Option<u16>,
    /// An etcd of somebody else that is to run there; the binary under test by default.
    pub etcd: Option<PathBuf>,
}

/// One member and its process, if it runs.
pub struct Node {
    /// Its name.
    pub name: String,
    place: Place,
    client_port: u16,
    peer_port: u16,
    /// Where its files are.
    pub data_dir: PathBuf,
    /// `--initial-cluster` and its state, as it was started.
    cluster: String,
    state: &'static str,
    /// Further flags.
    pub flags: Vec<String>,
    /// Variables of its environment, from the next start on.
    pub environment: Vec<(String, String)>,
    /// The process.
    pub process: Option<Process>,
}

/// A cluster; its members are killed and their data removed when it is dropped.
pub struct Cluster {
    /// The members, those that do not run included.
    pub nodes: Vec<Node>,
    dir: TempDir,
}

impl Node {
    /// Starts the process; `wait` for it to be ready.
    pub fn start(&mut self, wait: bool) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let (client, peer) = (self.url(), self.url_of(self.peer_port));
        let mut flags = vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data_dir.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={}", self.peer_url()),
            format!("--initial-cluster-state={}", self.state),
            "--heartbeat-interval=50".into(),
            "--election-timeout=500".into(),
        ];
        if self.is_ours() {
            flags.extend(["--cores=1".into(), "--wal-segment-bytes=4194304".into()]);
        }
        if !self.cluster.is_empty() {
            flags.push(format!("--initial-cluster={}", self.cluster));
        }
        flags.extend(self.flags.iter().cloned());
        let mut command = self.place.launcher.clone();
        let binary = self.place.etcd.clone().unwrap_or_else(binary_under_test);
        command.push(binary.to_str().expect("the path is text").to_owned());
        command.extend(flags);
        self.process = Some(Process::spawn(Path::new(&command[0]), &command[1..], &self.environment));
        if wait {
            self.wait_ready();
        }
    }

    /// Starts the process, which is to refuse and end with code 1; what it said.
    pub fn start_refused(&mut self) -> String {
        self.start(false);
        let mut process = self.process.take().expect("just started");
        let status = process.wait(PATIENCE).expect("it ends by itself");
        assert_eq!(status.code(), Some(1), "{}", process.log_tail());
        process.log()
    }

    /// Whether it runs etcore.
    fn is_ours(&self) -> bool {
        self.place.etcd.is_none() && !is_reference()
    }

    /// Names these as the members at its next start.
    pub fn name_in(&mut self, list: &str) {
        self.cluster = list.to_owned();
    }

    /// Loses all its data.
    pub fn wipe(&self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        std::fs::remove_dir_all(&self.data_dir).expect("it had data");
    }

    /// Waits until the member serves clients.
    pub fn wait_ready(&self) {
        let process = self.process.as_ref().expect("it runs");
        assert!(
            process.logged("ready to serve client requests", PATIENCE),
            "{} did not become ready; its log ends:\n{}",
            self.name,
            process.log_tail()
        );
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        self.url_of(self.client_port)
    }

    /// Where the others reach it.
    pub fn peer_url(&self) -> String {
        self.url_of(self.place.dialled_at.unwrap_or(self.peer_port))
    }

    fn url_of(&self, port: u16) -> String {
        let host = match self.place.host.as_str() {
            "" => "127.0.0.1",
            host => host,
        };
        format!("http://{host}:{port}")
    }

    /// A new connection to it.
    pub fn client(&self) -> Client {
        Client::connect(&self.url())
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where the others reach it, without the scheme.
    pub fn peer_endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.peer_port)
    }

    /// Where clients reach it, without the scheme.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Its id, as it tells it.
    pub async fn id(&self) -> u64 {
        self.client().status().await.header.expect("a header").member_id
    }

    /// What its page of metrics says at the line that begins like this.
    pub fn metric(&self, start: &str) -> Option<f64> {
        sample(&http(&self.endpoint(), "GET", "/metrics").body, start)
    }

    /// The sum of all samples of this family on its page of metrics; 0 where there are none yet.
    pub fn metric_sum(&self, family: &str) -> f64 {
        let page = http(&self.endpoint(), "GET", "/metrics").body;
        let of = |line: &&str| {
            line.strip_prefix(family)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let values = page.lines().filter(of).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().expect("a number")).sum()
    }

    /// How many commits have brought what it applied into its tree.
    pub fn commits(&self) -> f64 {
        let count = self.metric("etcd_disk_backend_commit_duration_seconds_count ");
        count.expect("commits are counted")
    }

    /// Kills it as a crash would.
    pub fn kill_9(&mut self) {
        self.process.as_mut().expect("it runs").kill_9();
        self.process = None;
    }

    /// Asks it to stop, and waits until it has, which must be in order.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal("TERM");
        let status = process.wait(PATIENCE);
        // An etcd ends itself by the signal once it has stopped.
        let is_good = |status: ExitStatus| status.success() || (!self.is_ours() && status.signal() == Some(15));
        assert!(
            status.is_some_and(is_good),
            "{} did not stop in order ({status:?}); its log ends:\n{}",
            self.name,
            process.log_tail()
        );
    }
}

impl Cluster {
    /// Starts `count` new members at once and waits until all serve.
    pub async fn start(count: usize, flags: &[&str]) -> Cluster {
        Cluster::start_at(vec![Place::default(); count], flags).await
    }

    /// Starts new members at the given places, all at once, and waits until all serve.
    pub async fn start_at(places: Vec<Place>, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::unborn_at(places, flags);
        let list = cluster.list();
        cluster.name_members(&list);
        cluster.nodes.iter_mut().for_each(|node| node.start(false));
        cluster.nodes.iter().for_each(Node::wait_ready);
        cluster.leader().await;
        cluster
    }

    fn push(&mut self, place: Place, state: &'static str, flags: &[&str]) {
        let name = format!("m{}", self.nodes.len());
        let in_ours = || self.dir.path().join(&name);
        self.nodes.push(Node {
            data_dir: place.data_dir.clone().unwrap_or_else(in_ours),
            name,
            client_port: free_port(),
            peer_port: place.peer_port.unwrap_or_else(free_port),
            place,
            cluster: String::new(),
            state,
            flags: flags.iter().map(|flag| flag.to_string()).collect(),
            environment: Vec::new(),
            process: None,
        });
    }

    /// New members that have to find each other by these flags; they are not started.
    pub fn unborn(count: usize, flags: &[&str]) -> Cluster {
        Cluster::unborn_at(vec![Place::default(); count], flags)
    }

    fn unborn_at(places: Vec<Place>, flags: &[&str]) -> Cluster {
        let dir = TempDir::with_prefix("etcore-cluster-").expect("a temporary directory can be made");
        let mut cluster = Cluster { nodes: Vec::new(), dir };
        places.into_iter().for_each(|place| cluster.push(place, "new", flags));
        cluster
    }

    /// Says who is there from the start, as `--initial-cluster`.
    pub fn name_members(&mut self, list: &str) {
        self.nodes.iter_mut().for_each(|node| node.name_in(list));
    }

    /// Makes room for a member that is to join; it is not started.
    pub fn prepare(&mut self, flags: &[&str]) -> usize {
        self.push(Place::default(), "existing", flags);
        self.nodes.len() - 1
    }

    /// Starts a prepared member among `members`, itself included.
    pub fn join(&mut self, index: usize, members: &[usize]) {
        let list = members.iter().map(|at| {
            let node = &self.nodes[*at];
            format!("{}={}", node.name, node.peer_url())
        });
        self.nodes[index].cluster = list.collect::<Vec<_>>().join(",");
        self.nodes[index].start(true);
    }

    /// All members as `--initial-cluster` names them.
    pub fn list(&self) -> String {
        let items = self
            .nodes
            .iter()
            .map(|node| format!("{}={}", node.name, node.peer_url()));
        items.collect::<Vec<_>>().join(",")
    }

    /// The members that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|at| self.nodes[*at].process.is_some())
            .collect()
    }

    /// What each running member says of itself; none where it says nothing soon.
    async fn statuses(&self) -> Vec<(usize, Option<StatusResponse>)> {
        let mut all = Vec::new();
        for at in self.running() {
            let mut client = self.nodes[at].client().maintenance;
            let answer = tokio::time::timeout(STATUS_PATIENCE, client.status(StatusRequest {})).await;
            all.push((at, answer.ok().and_then(Result::ok).map(|answer| answer.into_inner())));
        }
        all
    }

    /// The member that leads in the highest term that any member knows of, if one says so.
    pub async fn leading(&self) -> Option<usize> {
        leader_of(&self.statuses().await)
    }

    /// Waits until all running members know the same leader, which runs; its position.
    pub async fn leader(&self) -> usize {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let statuses = self.statuses().await;
            let leader = |status: &Option<StatusResponse>| status.as_ref().map_or(0, |status| status.leader);
            let known: BTreeSet<u64> = statuses.iter().map(|(_, status)| leader(status)).collect();
            if let (1, Some(found)) = (known.len(), leader_of(&statuses)) {
                return found;
            }
            pause_ms(50).await;
        }
        panic!("no leader that all running members know\n{}", self.logs());
    }

    /// Waits until all running members have applied the same revision and agree on its hash.
    pub async fn agree(&self) {
        eventually("equal hashes on all members", || async {
            let mut hashes = BTreeSet::new();
            for at in self.running() {
                let answer = self.nodes[at].client().try_hash_kv(0).await.expect("hashing works");
                hashes.insert((
                    answer.header.expect("a header").revision,
                    answer.hash,
                    answer.compact_revision,
                ));
            }
            hashes.len() == 1
        })
        .await;
    }

    /// The ends of all logs, for a report.
    pub fn logs(&self) -> String {
        let tail = |node: &Node| {
            let log = node.process.as_ref().map_or("(not running)".into(), Process::log_tail);
            format!("--- {}\n{log}\n", node.name)
        };
        self.nodes.iter().map(tail).collect()
    }
}

/// The value of the sample whose name and labels begin like this, if the page of metrics has it.
pub fn sample(page: &str, start: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(start))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn leader_of(statuses: &[(usize, Option<StatusResponse>)]) -> Option<usize> {
    let leads = |status: &&StatusResponse| {
        let header = status.header.as_ref();
        status.leader != 0 && header.is_some_and(|header| header.member_id == status.leader)
    };
    let leaders = statuses.iter().filter_map(|(at, status)| {
        let status = status.as_ref().filter(leads)?;
        Some((status.raft_term, *at))
    });
    leaders.max().map(|(_, at)| at)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}
