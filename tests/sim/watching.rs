//! Watch clients over the production hub, and what they may expect: every event in order, once, whole, up to what they
//! are told, across crashes and compactions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use etcore::api::{past::ViewPast, watch::Sink};
use net::pb::{
    etcdserverpb::{WatchCreateRequest, WatchResponse},
    mvccpb::{Event, KeyValue, event::EventType},
};
use prost::Message;
use storage::{io::sim::Rng, mvcc::Kv};

use crate::{
    cluster::{Action, Cluster},
    history::{Check, History, ensure},
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

/// One watcher on a stream of its own.
pub struct Watcher {
    pub call: Call,
    /// The member it is connected to.
    pub host: usize,
    pub key: Bytes,
    pub range_end: Bytes,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub fragment: bool,
    /// Lowest revision it has not been told of; 0 until it knows where it began.
    pub next: i64,
    /// The server said that the watch is there.
    pub created: bool,
    /// Compaction overtook it.
    pub ended: bool,
    pub events: u64,
    fragments: Vec<Event>,
}

impl Watcher {
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
            created: false,
            ended: false,
            events: 0,
            fragments: Vec::new(),
        }
    }

    /// What it asks for, to go on where it stopped.
    pub fn request(&mut self) -> WatchCreateRequest {
        (self.created, self.ended) = (false, false);
        self.fragments.clear();
        let mut filters = Vec::new();
        if self.no_put {
            filters.push(0);
        }
        if self.no_delete {
            filters.push(1);
        }
        WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            start_revision: self.next,
            progress_notify: true,
            filters,
            prev_kv: self.prev_kv,
            watch_id: 0,
            fragment: self.fragment,
        }
    }

    /// The options it uses, by name.
    fn options(&self) -> impl Iterator<Item = &'static str> {
        let named = [
            (self.no_put, "watch without puts"),
            (self.no_delete, "watch without deletes"),
            (self.prev_kv, "watch with previous pairs"),
            (self.fragment, "watch in fragments"),
            (self.next > 0, "watch from a revision on"),
            (self.next == 0, "watch from now on"),
            (self.range_end.is_empty(), "watch of one key"),
            (self.range_end.len() > 1, "watch of a range"),
            (self.range_end == b"\0"[..], "watch from a key on"),
        ];
        named.into_iter().filter(|(used, _)| *used).map(|(_, name)| name)
    }

    fn wants(&self, key: &[u8], deleted: bool) -> bool {
        let inside = match &self.range_end[..] {
            b"" => key == self.key,
            b"\0" => key >= &self.key[..],
            end => key >= &self.key[..] && key < end,
        };
        inside && !if deleted { self.no_delete } else { self.no_put }
    }

    /// Takes one response.
    pub fn take(&mut self, response: &[u8], history: &History) -> Check {
        let response = WatchResponse::decode(response).map_err(|error| error.to_string())?;
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.canceled {
            return self.canceled(&response, history);
        }
        if response.created {
            ensure!(!self.created, "a watch was created twice");
            self.created = true;
            if self.next == 0 {
                self.next = revision + 1;
            }
            return Ok(());
        }
        ensure!(
            self.created && !self.ended,
            "a response on a watch that is not there: {response:?}"
        );
        ensure!(
            revision <= history.revision(),
            "a watch heard of revision {revision}, which is not there"
        );
        if response.events.is_empty() {
            return self.told_up_to(revision, history);
        }
        self.fragments.extend(response.events);
        if response.fragment {
            return Ok(());
        }
        let events = std::mem::take(&mut self.fragments);
        self.check_events(&events, history)?;
        self.events += events.len() as u64;
        Ok(())
    }

    fn canceled(&mut self, response: &WatchResponse, history: &History) -> Check {
        let compacted = response.compact_revision;
        ensure!(compacted > 0, "a watch was canceled: {:?}", response.cancel_reason);
        ensure!(
            compacted <= history.compacted && self.next < compacted,
            "a watch at {} was ended by compaction {compacted}, {} is compacted",
            self.next,
            history.compacted
        );
        self.ended = true;
        // What was deleted just at the compacted revision may be gone, so a client goes on behind it.
        self.next = compacted + 1;
        Ok(())
    }

    /// Everything up to `revision` has been told.
    pub fn told_up_to(&mut self, revision: i64, history: &History) -> Check {
        for main in self.next..=revision {
            let missed = history
                .changes(main)
                .iter()
                .find(|change| self.wants(&change.key, change.deleted));
            ensure!(
                missed.is_none(),
                "a watch was told that all is seen up to {revision}, but not of {main} {missed:?}"
            );
        }
        self.next = self.next.max(revision + 1);
        Ok(())
    }

    fn check_events(&mut self, events: &[Event], history: &History) -> Check {
        let last = events.last().and_then(|event| event.kv.as_ref());
        let last = last.map_or(0, |kv| kv.mod_revision);
        ensure!(
            last >= self.next,
            "a watch that stands at {} was told of {last} again",
            self.next
        );
        let mut found = events.iter();
        for main in self.next..=last {
            for change in history.changes(main) {
                if !self.wants(&change.key, change.deleted) {
                    continue;
                }
                let event = found
                    .next()
                    .ok_or_else(|| format!("revision {main} is not whole: {change:?} is missing"))?;
                let kv = event.kv.clone().unwrap_or_default();
                let deleted = event.r#type == EventType::Delete as i32;
                let expected = KeyValue {
                    mod_revision: main,
                    ..pair(change.kv())
                };
                ensure!(
                    kv == expected && deleted == change.deleted,
                    "a watch was told {kv:?} (deleted: {deleted}), expected {expected:?} of revision {main}"
                );
                self.check_prev(event, main, history)?;
            }
        }
        ensure!(
            found.next().is_none(),
            "a watch was told more than happened up to revision {last}"
        );
        self.next = last + 1;
        Ok(())
    }

    fn check_prev(&self, event: &Event, main: i64, history: &History) -> Check {
        let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
        let expected = history.get(&key, main - 1).map(pair).filter(|_| self.prev_kv);
        let compacted_away = event.prev_kv.is_none() && main - 1 < history.compacted;
        // A key put and deleted in one transaction has its earlier state within the revision.
        let within = history.changes(main).iter().filter(|change| change.key == key).count() > 1;
        ensure!(
            event.prev_kv == expected || compacted_away || within,
            "revision {main} of {key:?} came with {:?} before it, expected {expected:?}",
            event.prev_kv
        );
        Ok(())
    }
}

fn pair(kv: Kv<'_>) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(kv.key),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: Bytes::copy_from_slice(kv.value),
        lease: kv.lease,
    }
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
            .filter(|index| self.hosts[*index].up.is_some())
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
        for option in watcher.options() {
            *self.counts.options.entry(option).or_default() += 1;
        }
        let request = watcher.request();
        let up = self.hosts[target].up.as_mut().expect("it is up");
        let newest = up.view.revision();
        up.hub.create(call, request, newest, now_ns, &mut up.wire);
        self.told(target)
    }
}
