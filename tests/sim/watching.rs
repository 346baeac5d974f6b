//! Watch clients over the production hub.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use etcore::api::watch::Sink;
use storage::io::sim::Rng;

pub use crate::checker::watcher::Watcher;
use crate::weather::Dice;

/// Names a watch stream.
pub type Call = u32;

/// Gathers what the hub of one member sends. Streams in `slow` are never read.
#[derive(Default)]
pub struct Wire {
    pub sent: Vec<(Call, Bytes)>,
    pub slow: BTreeSet<Call>,
    backlog: BTreeMap<Call, usize>,
}

impl Wire {
    /// The reader drains its stream.
    pub fn drain(&mut self, call: Call) {
        self.slow.remove(&call);
        self.backlog.remove(&call);
    }
}

impl Sink<Call> for Wire {
    fn send(&mut self, call: Call, response: &[u8]) {
        if self.slow.contains(&call) {
            // A small window, so that few events fill it.
            *self.backlog.entry(call).or_default() += response.len() << 10;
        }
        self.sent.push((call, Bytes::copy_from_slice(response)));
    }

    fn queued(&self, call: Call) -> usize {
        self.backlog.get(&call).copied().unwrap_or(0)
    }
}

/// A watcher of chance, from `next` on (0: from now).
pub fn draw(call: Call, host: usize, next: i64, rng: &mut Rng, keys: u64) -> Watcher {
    let (key, range_end): (Bytes, Bytes) = match rng.below(4) {
        0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        1 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
        2 => (Bytes::from_static(b"lease/"), Bytes::from_static(b"lease0")),
        _ => (format!("k{:03}", rng.below(keys)).into(), Bytes::new()),
    };
    Watcher {
        call,
        host,
        key,
        range_end,
        no_put: rng.percent(10),
        no_delete: rng.percent(10),
        prev_kv: rng.percent(50),
        fragment: rng.percent(20),
        next,
        ..Watcher::default()
    }
}
