//! What a watcher may expect: every event in order, once, whole, up to what it is told, across crashes and compactions.

use bytes::Bytes;
use net::pb::{
    etcdserverpb::{WatchCreateRequest, WatchResponse},
    mvccpb::{Event, KeyValue, event::EventType},
};
use prost::Message;
use storage::mvcc::Kv;

use super::history::{Check, History, ensure};

/// One watcher on a stream of its own.
#[derive(Default)]
pub struct Watcher {
    /// Names its stream.
    pub call: u32,
    /// The member it is connected to.
    pub host: usize,
    /// What it watches.
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
    /// What came of an answer in several parts.
    pub fragments: Vec<Event>,
}

impl Watcher {
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
        ensure!(
            self.fragment || !response.fragment,
            "a revision came in parts on a watch that did not ask for that"
        );
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
