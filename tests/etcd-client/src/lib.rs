//! One server process for one test of the client, killed when dropped.
//!
//! The binary is the one named by `ETCORE_TEST_SERVER`.

use etcd_client::Client;
use std::{
    env,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// A running server with a data directory of its own.
pub struct Server {
    child: Child,
    endpoint: String,
    _dir: TempDir,
}

impl Server {
    /// Starts the server and connects a client to it.
    pub async fn start() -> (Server, Client) {
        let binary = env::var_os("ETCORE_TEST_SERVER").expect("ETCORE_TEST_SERVER names the binary of the server");
        let dir = TempDir::with_prefix("etcore-etcd-client-").expect("a temporary directory can be made");
        let (endpoint, peer) = (free_address(), free_address());
        let child = Command::new(binary)
            .arg(format!("--data-dir={}", dir.path().join("data").display()))
            .args([format!("--listen-client-urls=http://{endpoint}"), format!("--advertise-client-urls=http://{endpoint}")])
            .args([format!("--listen-peer-urls=http://{peer}"), format!("--initial-advertise-peer-urls=http://{peer}")])
            .arg(format!("--initial-cluster=default=http://{peer}"))
            .args(["--heartbeat-interval=20", "--election-timeout=200"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let server = Server { child, endpoint, _dir: dir };
        let client = server.connect().await;
        (server, client)
    }

    /// Connects one more client, once the server answers.
    pub async fn connect(&self) -> Client {
        for _ in 0..300 {
            if let Ok(mut client) = Client::connect([&self.endpoint], None).await
                && client.get("", None).await.is_err_and(|error| error.to_string().contains("key is not provided"))
            {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server did not answer within 15 seconds");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A kill that fails means that it is dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface has a free port");
    listener.local_addr().expect("a bound socket has an address").to_string()
}
