//! The watches of one shard.
//!
//! Every watcher is a cursor: `next` is the lowest revision it has not been told of. A watcher is *live* while its
//! cursor stands behind the last event block the shard has consumed: new blocks are matched against the live ones.
//! Any other watcher is *lagging* and reads history from the newest view, in slices, at its own pace, until it has
//! caught up. A reader that does not drain its stream turns lagging too; nothing is queued for it and it is never
//! dropped: only compaction overtaking its cursor ends it.
//!
//! The hub does no I/O: encoded responses leave through a [`Sink`], history comes from a [`Past`]. Events of one
//! revision always leave in one response, unless the watcher asked for fragments.
//!
//! Order: `created` is the first response of a watcher; then events by (main, sub) revision, each once. A progress
//! answer of revision R leaves only when every event up to R has left on that stream (etcd issues 15220, 18089).

mod encode;
mod interest;

use std::collections::{BTreeMap, BTreeSet};

use ahash::AHashMap;
use bytes::Bytes;
use interest::Interest;
pub use interest::KeyRange;
use net::pb::etcdserverpb::WatchCreateRequest;
use raft::mutant;

use encode::ResponseBuilder;

/// One change of one key.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Main revision: the transaction.
    pub main: i64,
    /// Sub revision: the change within it.
    pub sub: i64,
    /// A deletion: `kv` holds the key and nothing else.
    pub deleted: bool,
    /// The key.
    pub key: &'a [u8],
    /// The encoded `mvccpb.KeyValue`.
    pub kv: &'a [u8],
    /// Version of the key after the change; 1 is a creation, 0 a deletion.
    pub version: i64,
}

/// What has happened, as one immutable picture.
pub trait Past {
    /// Newest revision.
    fn revision(&self) -> i64;
    /// Revisions at or below this one are gone, but for what they left.
    fn compact_revision(&self) -> i64;
    /// Visits the events from revision `from` to `to` in order, stopping between two revisions once `max_bytes` were
    /// visited. Returns the first revision not visited.
    fn scan(&self, from: i64, to: i64, max_bytes: usize, visit: &mut dyn FnMut(&Event<'_>)) -> i64;
    /// The encoded `mvccpb.KeyValue` of `key` just before (main, sub); none when it did not exist or is compacted.
    fn before(&self, key: &[u8], main: i64, sub: i64) -> Option<Bytes>;
}

/// Where responses go.
pub trait Sink<C> {
    /// Sends one encoded `WatchResponse` on the stream of a call.
    fn send(&mut self, call: C, response: &[u8]);
    /// Bytes of the stream that wait for its reader.
    fn queued(&self, call: C) -> usize;
}

/// Names a watch stream.
pub trait CallKey: Copy + Eq + Ord + std::hash::Hash + std::fmt::Debug {}

impl<T: Copy + Eq + Ord + std::hash::Hash + std::fmt::Debug> CallKey for T {}

/// Identity of the server in every response header.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderInfo {
    /// Cluster id.
    pub cluster_id: u64,
    /// Member id.
    pub member_id: u64,
    /// Raft term.
    pub term: u64,
}

/// A stream with this much waiting for its reader is no longer fed. Units: bytes.
const STREAM_QUEUE_MAX: usize = 1 << 20;
/// One slice of history. Units: bytes of events visited.
const SLICE_BYTES: usize = 256 << 10;
/// A response of history is closed at a revision boundary once it is this large. Units: bytes.
const RESPONSE_BYTES: usize = 16 << 20;
/// A response of history holds at most this many revisions.
///
/// Source: limits table, "events per sync batch".
const RESPONSE_REVISIONS: usize = 1000;

type WatcherRef = u32;

#[derive(Debug)]
struct Watcher<C> {
    call: C,
    id: i64,
    range: KeyRange,
    /// Lowest revision not told yet.
    next: i64,
    live: bool,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// Events left since the last progress tick.
    active: bool,
    next_progress_ns: u64,
}

#[derive(Debug, Default)]
struct Stream {
    /// Watch id -> watcher. Ended watchers that compaction overtook stay as `None` and silence manual progress.
    watchers: BTreeMap<i64, Option<WatcherRef>>,
    next_id: i64,
    blocked: bool,
    /// Manual progress asked for, to be answered at this revision or above.
    progress_wanted: Option<i64>,
}

/// All watches of one shard.
#[derive(Debug)]
pub struct WatchHub<C> {
    header: HeaderInfo,
    streams: AHashMap<C, Stream>,
    watchers: AHashMap<WatcherRef, Watcher<C>>,
    next_ref: WatcherRef,
    live: Interest<WatcherRef>,
    /// (next, watcher) of the lagging ones whose stream is not blocked.
    lagging: BTreeSet<(i64, WatcherRef)>,
    /// Last revision whose events the live watchers have been matched against.
    consumed: i64,
    fragment_bytes: usize,
    progress_interval_ns: u64,
    progress_waiting: BTreeSet<C>,
    events_sent: u64,
    touched: Vec<WatcherRef>,
    builders: AHashMap<WatcherRef, ResponseBuilder>,
    spare: Vec<ResponseBuilder>,
}

/// Gauges of the hub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatchCounts {
    /// Open watch streams.
    pub streams: usize,
    /// Watchers.
    pub watchers: usize,
    /// Watchers that read history.
    pub lagging: usize,
    /// Events sent since start.
    pub events_sent: u64,
}

impl<C: CallKey> WatchHub<C> {
    /// A hub with nothing consumed below `revision`. A response of one revision longer than `fragment_bytes` is split
    /// for watchers that asked for it; idle watchers that asked for it hear of the revision every `progress_interval_ns`.
    pub fn new(header: HeaderInfo, revision: i64, fragment_bytes: usize, progress_interval_ns: u64) -> Self {
        WatchHub {
            header,
            streams: AHashMap::new(),
            watchers: AHashMap::new(),
            next_ref: 0,
            live: Interest::default(),
            lagging: BTreeSet::new(),
            consumed: revision,
            fragment_bytes,
            progress_interval_ns,
            progress_waiting: BTreeSet::new(),
            events_sent: 0,
            touched: Vec::new(),
            builders: AHashMap::new(),
            spare: Vec::new(),
        }
    }

    /// Sets the raft term of later headers.
    pub fn set_term(&mut self, term: u64) {
        self.header.term = term;
    }

    /// Gauges.
    pub fn counts(&self) -> WatchCounts {
        let lagging = self.watchers.values().filter(|watcher| !watcher.live).count();
        let (streams, watchers) = (self.streams.len(), self.watchers.len());
        WatchCounts {
            streams,
            watchers,
            lagging,
            events_sent: self.events_sent,
        }
    }

    /// Whether some watcher has history to read.
    pub fn has_work(&self) -> bool {
        !self.lagging.is_empty()
    }

    /// Opens a watcher. `newest` is the revision of the newest published view: the watch begins behind it when no start
    /// was asked for.
    pub fn create(&mut self, call: C, request: WatchCreateRequest, newest: i64, now_ns: u64, sink: &mut dyn Sink<C>) {
        let next_progress_ns = now_ns + self.progress_interval(u64::from(self.next_ref));
        let stream = self.streams.entry(call).or_default();
        let refuse = |header: HeaderInfo, reason: &str, sink: &mut dyn Sink<C>| {
            sink.send(call, &encode::refused(header, newest, reason));
        };
        if request.start_revision < 0 {
            return refuse(self.header, super::status::COMPACTED.text, sink);
        }
        let Some(range) = KeyRange::of(&request.key, &request.range_end) else {
            return refuse(self.header, "mvcc: watcher range is empty", sink);
        };
        let id = if request.watch_id == 0 {
            while stream.watchers.contains_key(&stream.next_id) {
                stream.next_id += 1;
            }
            stream.next_id += 1;
            stream.next_id - 1
        } else if stream.watchers.contains_key(&request.watch_id) {
            return refuse(
                self.header,
                "mvcc: duplicate watch ID provided on the WatchStream",
                sink,
            );
        } else {
            request.watch_id
        };
        let next = if request.start_revision == 0 {
            newest + 1
        } else {
            request.start_revision
        };
        let watcher = Watcher {
            call,
            id,
            range,
            next,
            live: false,
            no_put: request.filters.contains(&0),
            no_delete: request.filters.contains(&1),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            active: false,
            next_progress_ns,
        };
        let reference = self.next_ref;
        self.next_ref += 1;
        stream.watchers.insert(id, Some(reference));
        sink.send(call, &encode::created(self.header, newest, id));
        self.watchers.insert(reference, watcher);
        self.place(reference);
    }

    /// Closes a watcher; an unknown id gets no answer.
    pub fn cancel(&mut self, call: C, id: i64, newest: i64, sink: &mut dyn Sink<C>) {
        let Some(entry) = self
            .streams
            .get_mut(&call)
            .and_then(|stream| stream.watchers.remove(&id))
        else {
            return;
        };
        if let Some(reference) = entry {
            self.forget(reference);
        }
        sink.send(call, &encode::canceled(self.header, newest, id, 0, ""));
    }

    /// Asks for a stream-wide progress answer at `newest` or above.
    pub fn request_progress(&mut self, call: C, newest: i64, sink: &mut dyn Sink<C>) {
        let stream = self.streams.entry(call).or_default();
        stream.progress_wanted = Some(stream.progress_wanted.map_or(newest, |wanted| wanted.min(newest)));
        self.progress_waiting.insert(call);
        self.answer_progress(sink);
    }

    /// Ends a stream and all its watchers, with nothing said.
    pub fn close(&mut self, call: C) {
        let Some(stream) = self.streams.remove(&call) else {
            return;
        };
        self.progress_waiting.remove(&call);
        for reference in stream.watchers.into_values().flatten() {
            self.forget(reference);
        }
    }

    /// The reader of a blocked stream has drained it.
    pub fn writable(&mut self, call: C) {
        let Some(stream) = self.streams.get_mut(&call) else {
            return;
        };
        if !std::mem::take(&mut stream.blocked) {
            return;
        }
        let references: Vec<WatcherRef> = stream.watchers.values().flatten().copied().collect();
        for reference in references {
            self.place(reference);
        }
    }

    /// Matches a block of events, whose last revision is `last`, against the live watchers.
    ///
    /// A gap between `consumed` and the block (blocks were withheld from a slow shard) turns every watcher lagging first.
    pub fn consume<'a>(
        &mut self,
        events: impl Iterator<Item = Event<'a>>,
        first: i64,
        last: i64,
        past: &dyn Past,
        sink: &mut dyn Sink<C>,
    ) {
        if last <= self.consumed {
            return;
        }
        if first > self.consumed + 1 {
            self.lag(first - 1);
        }
        let mut touched = std::mem::take(&mut self.touched);
        for event in events {
            if event.main <= self.consumed {
                continue;
            }
            let (live, watchers, builders, spare) =
                (&self.live, &mut self.watchers, &mut self.builders, &mut self.spare);
            live.each(event.key, |reference| {
                let watcher = watchers.get_mut(&reference).expect("live watchers are in the table");
                let due = event.main >= watcher.next || mutant::on("watch_starts_early");
                if due && watcher.wants(&event) {
                    let builder = builders.entry(reference).or_insert_with(|| {
                        touched.push(reference);
                        spare.pop().unwrap_or_default()
                    });
                    builder.push(&event, watcher.prev_kv, past);
                }
            });
        }
        self.consumed = last;
        for reference in touched.drain(..) {
            let mut builder = self
                .builders
                .remove(&reference)
                .expect("touched watchers have a builder");
            self.emit(reference, &mut builder, last, sink);
            builder.clear();
            self.spare.push(builder);
        }
        self.touched = touched;
        self.answer_progress(sink);
    }

    /// Blocks up to `revision` were not asked for: nobody watched.
    pub fn skip_to(&mut self, revision: i64) {
        self.lagged(revision);
    }

    /// Blocks up to `revision` were withheld: every watcher reads history from where it stands.
    pub fn lagged(&mut self, revision: i64) {
        if revision > self.consumed {
            self.lag(revision);
            self.consumed = revision;
        }
    }

    /// Reads one slice of history for the lagging watchers; true when there is more to read.
    pub fn catch_up(&mut self, past: &dyn Past, sink: &mut dyn Sink<C>) -> bool {
        let Some(&(from, _)) = self.lagging.first() else {
            return false;
        };
        if from < past.compact_revision() && !mutant::on("compacted_watch_goes_on") {
            self.end_compacted(past.compact_revision(), sink);
            return self.has_work();
        }
        let target = self.consumed.min(past.revision());
        let group: Vec<WatcherRef> = self.lagging.iter().map(|(_, reference)| *reference).collect();
        let mut interest = Interest::default();
        for reference in &group {
            interest.insert(&self.watchers[reference].range, *reference);
        }
        let (watchers, builders, spare) = (&self.watchers, &mut self.builders, &mut self.spare);
        let reached = past.scan(from, target, SLICE_BYTES, &mut |event| {
            interest.each(event.key, |reference| {
                let watcher = &watchers[&reference];
                let due = event.main >= watcher.next || mutant::on("history_told_again");
                if due && watcher.wants(event) {
                    let builder = builders
                        .entry(reference)
                        .or_insert_with(|| spare.pop().unwrap_or_default());
                    builder.push(event, watcher.prev_kv, past);
                }
            });
        });
        for reference in group {
            let watcher = self
                .watchers
                .get_mut(&reference)
                .expect("lagging watchers are in the table");
            if watcher.next >= reached {
                continue;
            }
            self.lagging.remove(&(watcher.next, reference));
            watcher.next = reached;
            // What was found gathers over slices, so that a response is as large as etcd's.
            let full = |builder: &ResponseBuilder| {
                builder.revisions() >= RESPONSE_REVISIONS || builder.len() >= RESPONSE_BYTES / 2
            };
            let over = reached > self.consumed || self.builders.get(&reference).is_some_and(full);
            if over && let Some(mut builder) = self.builders.remove(&reference) {
                self.emit(reference, &mut builder, reached - 1, sink);
                builder.clear();
                self.spare.push(builder);
            }
            self.place(reference);
        }
        self.answer_progress(sink);
        self.has_work()
    }

    /// Tells idle live watchers that asked for it of the revision they have seen.
    pub fn notify_progress(&mut self, now_ns: u64, sink: &mut dyn Sink<C>) {
        let mut due: Vec<WatcherRef> = Vec::new();
        for (reference, watcher) in &self.watchers {
            if watcher.progress_notify && watcher.next_progress_ns <= now_ns {
                due.push(*reference);
            }
        }
        due.sort_unstable();
        for reference in due {
            let interval = self.progress_interval(u64::from(reference));
            let watcher = self.watchers.get_mut(&reference).expect("just found");
            watcher.next_progress_ns = now_ns + interval;
            let idle = !std::mem::take(&mut watcher.active);
            let caught_up = watcher.live || mutant::on("progress_of_a_lagging_watcher");
            if idle && caught_up && watcher.next <= self.consumed + 1 {
                sink.send(watcher.call, &encode::progress(self.header, self.consumed, watcher.id));
            }
        }
    }

    fn progress_interval(&self, salt: u64) -> u64 {
        // Jitter of 0..10 %, so that many watchers do not speak at once.
        let tenth = (self.progress_interval_ns / 10).max(1);
        self.progress_interval_ns + salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) % tenth
    }

    /// Sends what a builder holds; `through` is the revision the watcher has then been told of.
    fn emit(&mut self, reference: WatcherRef, builder: &mut ResponseBuilder, through: i64, sink: &mut dyn Sink<C>) {
        let watcher = self
            .watchers
            .get_mut(&reference)
            .expect("emitting for a watcher in the table");
        let split = (watcher.fragment || mutant::on("revision_split")).then_some(self.fragment_bytes);
        let count = builder.responses(self.header, watcher.id, through, RESPONSE_BYTES, split, |response| {
            sink.send(watcher.call, response);
        });
        self.events_sent += count;
        watcher.active = true;
        watcher.next = watcher.next.max(through + 1);
        let call = watcher.call;
        if sink.queued(call) > STREAM_QUEUE_MAX {
            self.block(call);
        }
    }

    /// Stops feeding a stream until its reader has drained it.
    fn block(&mut self, call: C) {
        let stream = self
            .streams
            .get_mut(&call)
            .expect("streams of watchers are in the table");
        stream.blocked = true;
        let references: Vec<WatcherRef> = stream.watchers.values().flatten().copied().collect();
        for reference in references {
            // What an open builder of this round holds still leaves, behind what has left already.
            let consumed = self.consumed;
            let watcher = self
                .watchers
                .get_mut(&reference)
                .expect("watchers of streams are in the table");
            if watcher.live {
                watcher.live = false;
                watcher.next = watcher.next.max(consumed + 1);
                watcher.next += i64::from(mutant::on("slow_watcher_loses_events"));
                self.live.remove(&watcher.range, reference);
            } else {
                self.lagging.remove(&(watcher.next, reference));
            }
        }
    }

    /// Puts a watcher among the live or the lagging, by its cursor.
    fn place(&mut self, reference: WatcherRef) {
        let watcher = self
            .watchers
            .get_mut(&reference)
            .expect("placing a watcher of the table");
        if watcher.live || self.streams[&watcher.call].blocked {
            return;
        }
        if watcher.next > self.consumed - i64::from(mutant::on("watch_starts_late")) {
            watcher.live = true;
            self.live.insert(&watcher.range, reference);
        } else {
            self.lagging.insert((watcher.next, reference));
        }
    }

    /// Blocks up to `revision` are missing: whom they may concern reads history. A watcher that starts later stays.
    fn lag(&mut self, revision: i64) {
        let consumed = self.consumed;
        for (reference, watcher) in &mut self.watchers {
            if !watcher.live || watcher.next > revision || mutant::on("withheld_blocks_skipped") {
                continue;
            }
            watcher.live = false;
            watcher.next = watcher.next.max(consumed + 1);
            self.live.remove(&watcher.range, *reference);
            self.lagging.insert((watcher.next, *reference));
        }
    }

    /// Ends the watchers whose next event may be gone.
    ///
    /// Source: behaviours 14 (compact revision set, header revision 0, no reason).
    fn end_compacted(&mut self, compact_revision: i64, sink: &mut dyn Sink<C>) {
        while let Some(&(next, reference)) = self.lagging.first() {
            if next >= compact_revision {
                break;
            }
            let watcher = &self.watchers[&reference];
            let (call, id) = (watcher.call, watcher.id);
            self.forget(reference);
            sink.send(call, &encode::canceled(self.header, 0, id, compact_revision, ""));
            let stream = self
                .streams
                .get_mut(&call)
                .expect("streams of watchers are in the table");
            stream.watchers.insert(id, None);
        }
    }

    fn forget(&mut self, reference: WatcherRef) {
        let watcher = self
            .watchers
            .remove(&reference)
            .expect("forgetting a watcher of the table");
        if watcher.live {
            self.live.remove(&watcher.range, reference);
        } else {
            self.lagging.remove(&(watcher.next, reference));
        }
        if let Some(builder) = self.builders.remove(&reference) {
            self.spare.push(builder);
        }
    }

    /// Answers the progress requests whose revision is reached; a stream that is not all caught up stays silent.
    fn answer_progress(&mut self, sink: &mut dyn Sink<C>) {
        if self.progress_waiting.is_empty() {
            return;
        }
        let consumed = self.consumed;
        let reached = |call: &C| {
            self.streams[call]
                .progress_wanted
                .is_some_and(|wanted| wanted <= consumed)
        };
        let ready: Vec<C> = self
            .progress_waiting
            .iter()
            .filter(|call| reached(call))
            .copied()
            .collect();
        for call in ready {
            self.progress_waiting.remove(&call);
            let stream = self.streams.get_mut(&call).expect("waiting streams are in the table");
            stream.progress_wanted = None;
            let told = |reference: &Option<WatcherRef>| {
                let watcher = reference.as_ref().map(|reference| &self.watchers[reference]);
                watcher.is_some_and(|watcher| watcher.live && watcher.next <= consumed + 1)
            };
            let all_told = stream.watchers.values().all(told) || mutant::on("progress_before_events");
            if !stream.watchers.is_empty() && all_told {
                sink.send(call, &encode::progress(self.header, consumed, -1));
            }
        }
    }
}

impl<C> Watcher<C> {
    fn wants(&self, event: &Event<'_>) -> bool {
        if event.deleted { !self.no_delete } else { !self.no_put }
    }
}

#[cfg(test)]
mod tests;
