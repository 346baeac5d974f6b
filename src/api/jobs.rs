//! Work too long for one turn: large ranges, watch history, hashes, snapshots. Each runs in slices and paces itself by
//! what its reader takes.
//!
//! A large range pins its revision, so that compaction leaves it readable, and holds a view for one slice only: it goes
//! on behind the last key on the newest view (DECISIONS 9, 13).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use net::{
    grpc::{Code, ServerConn, Status},
    pb::etcdserverpb::{HashKvResponse, HashResponse, RangeRequest, ResponseHeader, SnapshotResponse},
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use storage::{
    bbolt::{Export, ExportOptions},
    mvcc::{HashAll, HashKv, Pin, Pins, RangeQuery, StoreError, encode_keys_only, framed_len},
};

use super::{
    Api, Method, answer,
    core::store_failure,
    hashing::{HASH_SLICE, Progress},
    shard::{CallKey, Wires},
};
use crate::{
    member::{Cached, View},
    version::STORAGE_VERSION,
};

/// Bytes of pairs written in one slice. Units: bytes.
const SLICE_BYTES: usize = 128 << 10;
/// Keys looked at in one slice.
const SLICE_KEYS: i64 = 1000;
/// A stream with this much waiting for its reader is not fed. Units: bytes.
const QUEUE_MAX: usize = 1 << 20;
/// Bytes of one snapshot message. Units: bytes. Source: limits table, snapshot send chunk.
const SNAPSHOT_CHUNK: usize = 32 << 10;

/// What a slice came to.
enum Slice {
    /// More to do.
    More,
    /// Its reader must drain first.
    Blocked,
    /// Answered.
    Done,
}

/// One long piece of work for one call.
pub(super) struct Job {
    key: CallKey,
    work: Work,
}

enum Work {
    Range(Box<RangeJob>),
    Stream(Box<StreamJob>),
    Hash {
        hash: HashAll,
        header: View,
        started_ns: u64,
    },
    HashKv {
        /// Begun when it turns out that no compaction left one.
        hash: Option<HashKv>,
        revision: i64,
        header: View,
        started_ns: u64,
    },
    Snapshot(Box<SnapshotJob>),
}

/// A range at one revision, read in slices behind the last key.
struct Walk {
    request: RangeRequest,
    revision: i64,
    after: Option<Vec<u8>>,
    left: i64,
    _pin: Pin,
}

struct RangeJob {
    walk: Walk,
    header_revision: i64,
    phase: Phase,
    /// Pairs, framed, of an answer that is written; or what a sorted one has gathered.
    framed_bytes: u64,
    yielded: u64,
    count: u64,
    gathered: Vec<Bytes>,
}

#[derive(PartialEq, Eq)]
enum Phase {
    /// First pass: how long will it be?
    Measure,
    /// Second pass: write it.
    Write,
    /// One pass: gather, then sort and cut.
    Gather,
}

struct StreamJob {
    walk: Walk,
    header_revision: i64,
    sent: u64,
}

struct SnapshotJob {
    export: Export,
    planned: bool,
    left: u64,
    rest: BytesMut,
    started_ns: u64,
}

impl Walk {
    fn new(request: RangeRequest, view: &View, pins: &Pins) -> Walk {
        let revision = if request.revision > 0 {
            request.revision
        } else {
            view.revision()
        };
        // Counting ignores the limit (behaviours 8).
        let limit = match () {
            () if request.count_only => 0,
            () if answer::needs_all(&request) => answer::gather_limit(&request),
            () => request.limit,
        };
        let left = if limit > 0 { limit } else { i64::MAX };
        Walk {
            request,
            revision,
            after: None,
            left,
            _pin: pins.pin(revision),
        }
    }

    fn query(&self) -> RangeQuery<'_> {
        RangeQuery {
            after: self.after.as_deref(),
            admitted: true,
            limit: self.left.min(SLICE_KEYS),
            count_only: false,
            ..answer::query(&self.request, self.revision)
        }
    }

    /// Visits the next keys; true at the end.
    fn slice(&mut self, view: &View, mut visit: impl FnMut(&[u8], &[u8])) -> Result<bool, StoreError> {
        let query = self.query();
        let mut cursor = view.store.range(&query)?;
        let (mut last, mut seen, mut bytes) = (None, 0, 0);
        while bytes < SLICE_BYTES {
            let Some(item) = cursor.next()? else {
                break;
            };
            visit(item.key, item.encoded);
            bytes += item.encoded.len();
            seen += 1;
            last = Some(item.key);
        }
        let over = bytes < SLICE_BYTES && seen < self.left.min(SLICE_KEYS);
        self.after = last.map(<[u8]>::to_vec).or(self.after.take());
        self.left -= seen;
        Ok(over || self.left == 0)
    }

    /// Keys of the whole range, whatever the limit.
    fn count(&self, view: &View) -> Result<u64, StoreError> {
        let query = RangeQuery {
            admitted: true,
            ..answer::query(&self.request, self.revision)
        };
        Ok(view.store.range(&query)?.count())
    }

    fn rewind(&mut self, limit: i64) {
        self.after = None;
        self.left = if limit > 0 { limit } else { i64::MAX };
    }
}

impl Job {
    /// A range whose answer is one message.
    pub fn range(key: CallKey, request: RangeRequest, view: &Arc<View>, pins: &Pins) -> Job {
        let phase = if answer::needs_all(&request) && !request.count_only {
            Phase::Gather
        } else {
            Phase::Measure
        };
        let job = RangeJob {
            walk: Walk::new(request, view, pins),
            header_revision: view.revision(),
            phase,
            framed_bytes: 0,
            yielded: 0,
            count: 0,
            gathered: Vec::new(),
        };
        Job {
            key,
            work: Work::Range(Box::new(job)),
        }
    }

    /// A range in chunks.
    pub fn range_stream(key: CallKey, request: RangeRequest, view: &Arc<View>, pins: &Pins) -> Job {
        let walk = Walk::new(request, view, pins);
        Job {
            key,
            work: Work::Stream(Box::new(StreamJob {
                walk,
                header_revision: view.revision(),
                sent: 0,
            })),
        }
    }

    /// A hash over everything.
    pub fn hash(key: CallKey, view: &Arc<View>, started_ns: u64) -> Job {
        Job {
            key,
            work: Work::Hash {
                hash: view.store.hash_all(),
                header: (**view).clone(),
                started_ns,
            },
        }
    }

    /// A hash over the keys at a revision.
    pub fn hash_kv(key: CallKey, view: &Arc<View>, revision: i64, started_ns: u64) -> Job {
        Job {
            key,
            work: Work::HashKv {
                hash: None,
                revision,
                header: (**view).clone(),
                started_ns,
            },
        }
    }

    /// A snapshot in bbolt's format.
    pub fn snapshot(key: CallKey, view: &Arc<View>, started_ns: u64) -> Job {
        let conf_state = view.conf_state_json();
        let meta = vec![
            (b"confState".to_vec(), conf_state.into_bytes()),
            (b"storageVersion".to_vec(), STORAGE_VERSION.as_bytes().to_vec()),
        ];
        let export = Export::new(view.store.clone(), ExportOptions { meta, trailer: true });
        let job = SnapshotJob {
            export,
            planned: false,
            left: 0,
            rest: BytesMut::new(),
            started_ns,
        };
        Job {
            key,
            work: Work::Snapshot(Box::new(job)),
        }
    }

    /// The call it answers.
    pub fn key(&self) -> CallKey {
        self.key
    }
}

impl Api {
    /// Runs jobs and watch history in turn until all is done or blocked, or `spent` says that the turn is over. True when
    /// more can be done at once.
    pub fn run_jobs(&mut self, wires: &dyn Wires, mut spent: impl FnMut() -> bool) -> bool {
        let mut blocked = 0;
        loop {
            let history = self.with_hub(wires, |hub, sink, view| {
                hub.has_work() && hub.catch_up(&super::past::ViewPast(&view.store), sink)
            });
            if blocked < self.jobs.len() {
                let mut job = self.jobs.pop_front().expect("there are more jobs than blocked ones");
                match self.run_slice(&mut job, wires) {
                    Slice::More => {
                        self.jobs.push_back(job);
                        blocked = 0;
                    }
                    Slice::Blocked => {
                        self.jobs.push_back(job);
                        blocked += 1;
                    }
                    Slice::Done => blocked = 0,
                }
            }
            let hashing = self.hash_slice_of_own();
            if hashing == Progress::Done {
                blocked = 0;
            }
            let more = history || hashing != Progress::Idle || blocked < self.jobs.len();
            if !more || spent() {
                return more;
            }
        }
    }

    fn run_slice(&mut self, job: &mut Job, wires: &dyn Wires) -> Slice {
        let (key, view) = (job.key, self.view());
        let mut slice = Slice::Done;
        wires.with(key.0, &mut |wire| {
            if wire.queued(key.1) > QUEUE_MAX {
                slice = Slice::Blocked;
                return;
            }
            let result = match &mut job.work {
                Work::Range(work) => self.range_slice(key, work, &view, wire),
                Work::Stream(work) => self.stream_slice(key, work, &view, wire),
                Work::Hash {
                    hash,
                    header,
                    started_ns,
                } => self.hash_slice(key, hash, header, *started_ns, wire),
                Work::HashKv {
                    hash,
                    revision,
                    header,
                    started_ns,
                } => self.hash_kv_slice(key, (*revision, hash), header, *started_ns, wire),
                Work::Snapshot(work) => self.snapshot_slice(key, work, wire),
            };
            slice = result.unwrap_or_else(|error| {
                let status = store_failure(&error, self.setup.on_damage);
                // A message may have begun: then only a reset tells that it never ends.
                wire.finish(key.1, &status);
                self.end(key, status.code);
                Slice::Done
            });
        });
        slice
    }

    fn range_slice(
        &mut self,
        key: CallKey,
        job: &mut RangeJob,
        view: &View,
        wire: &mut ServerConn,
    ) -> Result<Slice, StoreError> {
        match job.phase {
            Phase::Measure => self.measure(key, job, view, wire),
            Phase::Write => self.write(key, job, view, wire),
            Phase::Gather => self.gather(key, job, view, wire),
        }
    }

    fn measure(
        &mut self,
        key: CallKey,
        job: &mut RangeJob,
        view: &View,
        wire: &mut ServerConn,
    ) -> Result<Slice, StoreError> {
        let keys_only = job.walk.request.keys_only;
        let count_only = job.walk.request.count_only;
        let (framed, yielded) = (&mut job.framed_bytes, &mut job.yielded);
        let over = job.walk.slice(view, |_, encoded| {
            *yielded += 1;
            if !count_only {
                *framed += framed_kv_len(encoded, keys_only) as u64;
            }
        })?;
        if !over {
            return Ok(Slice::More);
        }
        let limit = if count_only { 0 } else { job.walk.request.limit };
        // A range that a limit cut short still tells the count of all.
        let cut = limit > 0 && job.yielded == limit as u64;
        job.count = if cut { job.walk.count(view)? } else { job.yielded };
        let header = self.range_header(job, view);
        let mut head = BytesMut::new();
        answer::put_header(&header, &mut head);
        let mut tail = BytesMut::new();
        answer::put_tail(cut && job.count > job.yielded, job.count, &mut tail);
        let total = head.len() as u64 + job.framed_bytes + tail.len() as u64;
        let Ok(total) = u32::try_from(total) else {
            let text =
                format!("the answer of {total} bytes is longer than a message can be; use a limit or RangeStream");
            wire.finish(key.1, &Status::new(Code::ResourceExhausted, text));
            self.end(key, Code::ResourceExhausted);
            return Ok(Slice::Done);
        };
        wire.begin_message(key.1, total);
        self.setup.metrics.bytes_sent.add(u64::from(total));
        wire.write_piece(key.1, &head);
        if count_only {
            wire.write_piece(key.1, &tail);
            self.finish_range(key, wire);
            return Ok(Slice::Done);
        }
        job.phase = Phase::Write;
        job.walk.rewind(limit);
        Ok(Slice::More)
    }

    fn write(
        &mut self,
        key: CallKey,
        job: &mut RangeJob,
        view: &View,
        wire: &mut ServerConn,
    ) -> Result<Slice, StoreError> {
        let keys_only = job.walk.request.keys_only;
        let mut piece = BytesMut::with_capacity(SLICE_BYTES + 4096);
        let over = job
            .walk
            .slice(view, |_, encoded| answer::put_kv(encoded, keys_only, &mut piece))?;
        job.framed_bytes -= piece.len() as u64;
        if over {
            assert_eq!(
                job.framed_bytes, 0,
                "both passes over a pinned revision see the same pairs"
            );
            answer::put_tail(job.count > job.yielded, job.count, &mut piece);
        }
        wire.write_piece(key.1, &piece);
        if over {
            self.finish_range(key, wire);
            return Ok(Slice::Done);
        }
        Ok(Slice::More)
    }

    fn gather(
        &mut self,
        key: CallKey,
        job: &mut RangeJob,
        view: &View,
        wire: &mut ServerConn,
    ) -> Result<Slice, StoreError> {
        let (gathered, count) = (&mut job.gathered, &mut job.count);
        let request = job.walk.request.clone();
        let over = job.walk.slice(view, |_, encoded| {
            *count += 1;
            let kv = storage::mvcc::Kv::decode(encoded).expect("the store encodes what it holds");
            if answer::passes(&request, &kv) {
                gathered.push(Bytes::copy_from_slice(encoded));
            }
        })?;
        if !over {
            return Ok(Slice::More);
        }
        if answer::gather_limit(&request) > 0 {
            job.count = job.walk.count(view)?;
        }
        let more = answer::sort_and_cut(&request, &mut job.gathered);
        let mut out = BytesMut::new();
        answer::put_header(&self.range_header(job, view), &mut out);
        if !request.count_only {
            for encoded in &job.gathered {
                answer::put_kv(encoded, request.keys_only, &mut out);
            }
        }
        answer::put_tail(more && !request.count_only, job.count, &mut out);
        wire.begin_message(key.1, out.len() as u32);
        self.setup.metrics.bytes_sent.add(out.len() as u64);
        wire.write_piece(key.1, &out);
        self.finish_range(key, wire);
        Ok(Slice::Done)
    }

    fn range_header(&self, job: &RangeJob, view: &View) -> ResponseHeader {
        self.header(view, job.header_revision)
    }

    fn finish_range(&mut self, key: CallKey, wire: &mut ServerConn) {
        wire.finish(key.1, &Status::ok());
        if let Some(call) = self.conns.get(&key.0).and_then(|calls| calls.get(&key.1)) {
            let took_ns = (self.setup.clock)().saturating_sub(call.started_ns);
            self.setup.metrics.range_duration.observe_ns(took_ns);
        }
        self.replied(key);
    }

    fn stream_slice(
        &mut self,
        key: CallKey,
        job: &mut StreamJob,
        view: &View,
        wire: &mut ServerConn,
    ) -> Result<Slice, StoreError> {
        let keys_only = job.walk.request.keys_only;
        let mut chunk = BytesMut::new();
        let sent = &mut job.sent;
        let over = if job.walk.request.count_only {
            true
        } else {
            job.walk.slice(view, |_, encoded| {
                *sent += 1;
                answer::put_kv(encoded, keys_only, &mut chunk);
            })?
        };
        if over {
            let count = job.walk.count(view)?;
            let more = !job.walk.request.count_only && count > job.sent;
            answer::put_tail(more, count, &mut chunk);
            let header = self.header(view, job.header_revision);
            answer::put_header(&header, &mut chunk);
        }
        let len = 1 + encoded_len_varint(chunk.len() as u64) + chunk.len();
        self.setup.metrics.bytes_sent.add(len as u64);
        wire.send_message(key.1, len, |out| {
            encode_key(1, WireType::LengthDelimited, out);
            encode_varint(chunk.len() as u64, out);
            out.put_slice(&chunk);
        });
        self.setup.metrics.methods[Method::RangeStream.index()].sent.add(1);
        if over {
            self.finish_ok(key, wire);
            return Ok(Slice::Done);
        }
        Ok(Slice::More)
    }

    fn hash_slice(
        &mut self,
        key: CallKey,
        hash: &mut HashAll,
        view: &View,
        started_ns: u64,
        wire: &mut ServerConn,
    ) -> Result<Slice, StoreError> {
        let Some(hash) = hash.step(HASH_SLICE)? else {
            return Ok(Slice::More);
        };
        self.setup.metrics.hash.observe_ns((self.setup.clock)() - started_ns);
        let header = Some(self.header(view, view.revision()));
        self.reply(key, &HashResponse { header, hash }, wire);
        Ok(Slice::Done)
    }

    fn hash_kv_slice(
        &mut self,
        key: CallKey,
        (revision, hash): (i64, &mut Option<HashKv>),
        view: &View,
        started_ns: u64,
        wire: &mut ServerConn,
    ) -> Result<Slice, StoreError> {
        // A hash taken at a compaction of that revision is answered first, as etcd does, even where the revision itself
        // has been compacted since.
        let result = match self.setup.hashes.find(revision) {
            Cached::Pending => return Ok(Slice::Blocked),
            Cached::Known(result) => result,
            Cached::Unknown => {
                let hash = match hash {
                    Some(hash) => hash,
                    None => hash.insert(view.store.hash_kv(revision)?),
                };
                match hash.step(HASH_SLICE)? {
                    Some(result) => result,
                    None => return Ok(Slice::More),
                }
            }
        };
        self.setup
            .metrics
            .hash_rev
            .observe_ns((self.setup.clock)() - started_ns);
        let answer = HashKvResponse {
            header: Some(self.header(view, view.revision())),
            hash: result.hash,
            compact_revision: result.compact_revision,
            hash_revision: result.revision,
        };
        self.reply(key, &answer, wire);
        Ok(Slice::Done)
    }

    fn snapshot_slice(
        &mut self,
        key: CallKey,
        job: &mut SnapshotJob,
        wire: &mut ServerConn,
    ) -> Result<Slice, StoreError> {
        if !job.planned {
            job.planned = job.export.plan(HASH_SLICE)?;
            if job.planned {
                job.left = job.export.total_bytes();
            }
            return Ok(Slice::More);
        }
        let piece = job.export.next_piece(SLICE_BYTES)?;
        let over = piece.is_none();
        job.rest.extend_from_slice(&piece.unwrap_or_default());
        // The 32-byte trailer goes alone, as etcd sends it.
        let body_left = |left: u64| left.saturating_sub(TRAILER_BYTES);
        while !job.rest.is_empty() {
            let chunk = SNAPSHOT_CHUNK.min(job.rest.len());
            let chunk = if body_left(job.left) > 0 {
                chunk.min(body_left(job.left) as usize)
            } else {
                chunk
            };
            if chunk < SNAPSHOT_CHUNK && !over && body_left(job.left) > chunk as u64 {
                break;
            }
            let blob = job.rest.split_to(chunk).freeze();
            job.left -= chunk as u64;
            self.send_snapshot_chunk(key, blob, body_left(job.left), wire);
        }
        if !over {
            return Ok(Slice::More);
        }
        self.setup
            .metrics
            .snapshot
            .observe_ns((self.setup.clock)() - job.started_ns);
        self.finish_ok(key, wire);
        Ok(Slice::Done)
    }

    fn send_snapshot_chunk(&mut self, key: CallKey, blob: Bytes, remaining_bytes: u64, wire: &mut ServerConn) {
        let version = STORAGE_VERSION.to_owned();
        let message = SnapshotResponse {
            header: None,
            remaining_bytes,
            blob,
            version,
        };
        self.setup.metrics.bytes_sent.add(message.encoded_len() as u64);
        wire.send_message(key.1, message.encoded_len(), |out| {
            message.encode(out).expect("a BytesMut grows")
        });
        self.setup.metrics.methods[Method::Snapshot.index()].sent.add(1);
    }
}

/// Length of the SHA-256 behind a snapshot. Units: bytes.
const TRAILER_BYTES: u64 = 32;

/// Bytes a pair takes in a `RangeResponse`.
fn framed_kv_len(encoded: &[u8], keys_only: bool) -> usize {
    if !keys_only {
        return framed_len(encoded.len());
    }
    let mut bare = Vec::new();
    encode_keys_only(encoded, &mut bare).expect("the store encodes what it holds");
    framed_len(bare.len())
}
