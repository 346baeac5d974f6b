//! Watch clients over the production hub.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use etcore::api::{past::ViewPast, watch::Sink};
use storage::io::sim::Rng;

pub use crate::checker::watcher::Watcher;
use crate::{
    cluster::{Action, Cluster},
    history::Check,
    weather::{Dice, MS},
};

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
        2 => (Bytes::from_static(b"a/"), Bytes::from_static(b"a0")),
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

/// The options a watcher uses, by name.
fn options(watcher: &Watcher) -> impl Iterator<Item = &'static str> {
    let named = [
        (watcher.no_put, "watch without puts"),
        (watcher.no_delete, "watch without deletes"),
        (watcher.prev_kv, "watch with previous pairs"),
        (watcher.fragment, "watch in fragments"),
        (watcher.next > 0, "watch from a revision on"),
        (watcher.next == 0, "watch from now on"),
        (watcher.range_end.is_empty(), "watch of one key"),
        (watcher.range_end.len() > 1, "watch of a range"),
        (watcher.range_end == b"\0"[..], "watch from a key on"),
    ];
    named.into_iter().filter(|(used, _)| *used).map(|(_, name)| name)
}

impl Cluster {
    /// Hands what the hub has sent to the watch clients.
    pub fn told(&mut self, index: usize) -> Check {
        let life = self.hosts[index].life;
        let sent = std::mem::take(&mut self.hosts[index].up().wire.sent);
        for (call, response) in sent {
            let Some(watcher) = self.watchers.get_mut(&call) else {
                continue;
            };
            if watcher.host != index {
                continue;
            }
            let before = watcher.events;
            watcher
                .take(&response, &self.history)
                .map_err(|why| format!("watch {call} on m{index}: {why}"))?;
            self.counts.watch_events += watcher.events - before;
            if watcher.ended {
                self.plan(MS, Action::Connect(call));
            }
        }
        let up = self.hosts[index].up();
        if up.hub.has_work() && !up.hub_due {
            up.hub_due = true;
            let after_ns = self.rng.between(MS / 10, 20 * MS);
            self.plan(after_ns, Action::History(index, life));
        }
        Ok(())
    }

    pub fn read_history(&mut self, index: usize, life: u64) -> Check {
        let host = &mut self.hosts[index];
        if host.life != life {
            return Ok(());
        }
        let up = host.up();
        up.hub_due = false;
        let view = up.view.clone();
        up.hub.catch_up(&ViewPast(&view.store), &mut up.wire);
        self.told(index)
    }

    pub fn drain(&mut self, index: usize, life: u64, call: Call) -> Check {
        if self.hosts[index].life != life || self.hosts[index].up.is_none() {
            return Ok(());
        }
        let up = self.hosts[index].up();
        up.wire.drain(call);
        up.hub.writable(call);
        self.told(index)
    }

    /// Connects a watch client to a member that is up, going on where it stopped.
    pub fn connect(&mut self, call: Call) -> Check {
        let live: Vec<usize> = (0..self.hosts.len())
            .filter(|index| self.hosts[*index].up.is_some() && !self.is_refilling(*index))
            .collect();
        if live.is_empty() {
            self.plan(100 * MS, Action::Connect(call));
            return Ok(());
        }
        let target = self.rng.pick(&live);
        let now_ns = self.now_ns;
        let watcher = self.watchers.get_mut(&call).expect("connected watchers are known");
        if let Some(up) = self.hosts[watcher.host].up.as_mut() {
            up.hub.close(call);
            up.wire.drain(call);
        }
        watcher.host = target;
        for option in options(watcher) {
            *self.counts.options.entry(option).or_default() += 1;
        }
        let request = watcher.request();
        let up = self.hosts[target].up.as_mut().expect("it is up");
        let newest = up.view.revision();
        up.hub.create(call, request, newest, now_ns, &mut up.wire);
        self.told(target)
    }
}
