//! What every story needs: a server process, clients of its API, HTTP, tools and random numbers.
//!
//! Everything here fails by panicking with the server's last log lines, and waits for nothing without a bound.

mod client;
mod http;
pub mod pb;
mod process;
mod requests;
mod rng;
mod server;
mod small_disk;
pub mod tools;
mod watcher;

pub use client::{Client, refused};
pub use http::{HttpAnswer, get_with_body, http, http_with, post};
pub use process::Process;
pub use requests::*;
pub use rng::{Rng, scaled, seed};
pub use server::{Server, binary_under_test, free_port, is_3_5, is_reference, minor_version, server_version};
pub use small_disk::SmallDisk;
pub use watcher::{Watcher, create, create_prefix, create_request};

use std::{fmt::Display, future::Future, time::Duration};

/// How long a story waits for anything that should happen at once; a busy machine may be slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Awaits `future`, and panics naming `what` when it is not done in time.
pub async fn within<F: Future>(what: impl Display, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing after {PATIENCE:?}"),
    }
}

/// Waits until `condition` holds, polling, and panics naming `what` when it never does.
pub async fn eventually<F, C>(what: impl Display, mut condition: C)
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let started = std::time::Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "{what}: still not so after {PATIENCE:?}");
        pause_ms(20).await;
    }
}

/// Sleeps for some milliseconds.
pub async fn pause_ms(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// Waits until an alarm is raised.
pub async fn alarm_is_raised(client: &Client) {
    let get = || client.alarm(pb::etcdserverpb::alarm_request::AlarmAction::Get, 0, Default::default());
    eventually("an alarm", || async { !get().await.alarms.is_empty() }).await;
}

/// A server with default flags and a client of it.
pub async fn fresh() -> (Server, Client) {
    let server = Server::start(&[]).await;
    let client = server.client();
    (server, client)
}

/// Says why a test did nothing.
pub fn skipped(need: &str) {
    println!("skipped: needs {need}");
}
