//! Several members on free ports of the loopback interface.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use tempfile::TempDir;

use crate::support::{Client, Process, binary_under_test, eventually, free_port, pause_ms};

const START_PATIENCE: Duration = Duration::from_secs(30);

/// One member and its process, if it runs.
pub struct Node {
    /// Its name.
    pub name: String,
    client_port: u16,
    peer_port: u16,
    /// Where its files are.
    pub data_dir: PathBuf,
    /// `--initial-cluster` and its state, as it was started.
    cluster: String,
    state: &'static str,
    flags: Vec<String>,
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
        let (client, peer) = (self.url(), self.peer_url());
        let mut flags = vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", self.data_dir.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", self.cluster),
            format!("--initial-cluster-state={}", self.state),
            "--heartbeat-interval=50".into(),
            "--election-timeout=500".into(),
            "--cores=1".into(),
            "--wal-segment-bytes=4194304".into(),
        ];
        flags.extend(self.flags.iter().cloned());
        self.process = Some(Process::spawn(&binary_under_test(), &flags, &self.environment));
        if wait {
            self.wait_ready();
        }
    }

    /// Waits until the member serves clients.
    pub fn wait_ready(&self) {
        let process = self.process.as_ref().expect("it runs");
        assert!(
            process.logged("ready to serve client requests", START_PATIENCE),
            "{} did not become ready; its log ends:\n{}",
            self.name,
            process.log_tail()
        );
    }

    /// Where clients reach it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Where the others reach it.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    /// A new connection to it.
    pub fn client(&self) -> Client {
        Client::connect(&self.url())
    }

    /// Kills it as a crash would.
    pub fn kill_9(&mut self) {
        self.process.as_mut().expect("it runs").kill_9();
        self.process = None;
    }
}

impl Cluster {
    /// Starts `count` new members at once and waits until all serve.
    pub async fn start(count: usize, flags: &[&str]) -> Cluster {
        let dir = TempDir::with_prefix("etcore-cluster-").expect("a temporary directory can be made");
        let mut cluster = Cluster { nodes: Vec::new(), dir };
        for _ in 0..count {
            cluster.push("new", flags);
        }
        let list = cluster.list();
        for node in &mut cluster.nodes {
            node.cluster.clone_from(&list);
            node.start(false);
        }
        cluster.nodes.iter().for_each(Node::wait_ready);
        cluster.leader().await;
        cluster
    }

    fn push(&mut self, state: &'static str, flags: &[&str]) {
        let name = format!("m{}", self.nodes.len());
        self.nodes.push(Node {
            data_dir: self.dir.path().join(&name),
            name,
            client_port: free_port(),
            peer_port: free_port(),
            cluster: String::new(),
            state,
            flags: flags.iter().map(|flag| flag.to_string()).collect(),
            environment: Vec::new(),
            process: None,
        });
    }

    /// Makes room for a member that is to join; it is not started.
    pub fn prepare(&mut self, flags: &[&str]) -> usize {
        self.push("existing", flags);
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

    fn list(&self) -> String {
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

    /// Waits until all running members know the same leader, which runs; its position.
    pub async fn leader(&self) -> usize {
        for _ in 0..400 {
            let (mut leaders, mut found) = (BTreeSet::new(), None);
            for at in self.running() {
                match self.nodes[at]
                    .client()
                    .maintenance
                    .clone()
                    .status(crate::support::pb::etcdserverpb::StatusRequest {})
                    .await
                {
                    Ok(status) => {
                        let status = status.into_inner();
                        leaders.insert(status.leader);
                        if status.leader != 0 && status.leader == status.header.expect("a header").member_id {
                            found = Some(at);
                        }
                    }
                    Err(_) => drop(leaders.insert(0)),
                }
            }
            if let (1, Some(found)) = (leaders.len(), found) {
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

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}
