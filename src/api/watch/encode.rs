//! `WatchResponse` bytes: small answers through prost, events copied as stored.

use bytes::{Buf, BufMut, BytesMut};
use net::pb::etcdserverpb::{ResponseHeader, WatchResponse};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};

use raft::mutant;

use super::{Event, HeaderInfo, Past};

/// `WatchResponse.events`.
const EVENTS_FIELD: u32 = 11;
/// `KeyValue.mod_revision`.
const MOD_REVISION_FIELD: u32 = 3;
/// `WatchResponse.fragment`.
const FRAGMENT_FIELD: u32 = 7;

fn header(info: HeaderInfo, revision: i64) -> Option<ResponseHeader> {
    let HeaderInfo {
        cluster_id,
        member_id,
        term,
    } = info;
    Some(ResponseHeader {
        cluster_id,
        member_id,
        revision,
        raft_term: term,
    })
}

/// The answer to a create.
pub fn created(info: HeaderInfo, revision: i64, watch_id: i64) -> Vec<u8> {
    WatchResponse {
        header: header(info, revision),
        watch_id,
        created: true,
        ..Default::default()
    }
    .encode_to_vec()
}

/// The answer to a create that was refused; the stream lives on.
pub fn refused(info: HeaderInfo, revision: i64, reason: &str) -> Vec<u8> {
    let response = WatchResponse {
        header: header(info, revision),
        watch_id: -1,
        created: true,
        canceled: true,
        cancel_reason: reason.to_owned(),
        ..Default::default()
    };
    response.encode_to_vec()
}

/// The end of a watcher.
pub fn canceled(info: HeaderInfo, revision: i64, watch_id: i64, compact_revision: i64, reason: &str) -> Vec<u8> {
    let response = WatchResponse {
        header: header(info, revision),
        watch_id,
        canceled: true,
        compact_revision,
        cancel_reason: reason.to_owned(),
        ..Default::default()
    };
    response.encode_to_vec()
}

/// A response without events: all up to `revision` has been told.
pub fn progress(info: HeaderInfo, revision: i64, watch_id: i64) -> Vec<u8> {
    WatchResponse {
        header: header(info, revision),
        watch_id,
        ..Default::default()
    }
    .encode_to_vec()
}

/// Events of one watcher, encoded as they come, cut into responses at the end.
#[derive(Debug, Default)]
pub struct ResponseBuilder {
    bytes: BytesMut,
    /// (end of the event in `bytes`, its main revision).
    events: Vec<(usize, i64)>,
    revisions: usize,
}

impl ResponseBuilder {
    /// Forgets everything, keeping the memory unless it has grown large.
    pub fn clear(&mut self) {
        self.events.clear();
        self.revisions = 0;
        if self.bytes.capacity() > 1 << 20 {
            self.bytes = BytesMut::new();
        } else {
            self.bytes.clear();
        }
    }

    /// Bytes of the events held.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Revisions of the events held.
    pub fn revisions(&self) -> usize {
        self.revisions
    }

    /// Appends an event; `prev_kv` adds the key as it was before, where that is still readable.
    pub fn push(&mut self, event: &Event<'_>, prev_kv: bool, past: &dyn Past) {
        let created = event.version == 1 && !event.deleted;
        let prev = if prev_kv && !created {
            past.before(event.key, event.main, event.sub)
        } else {
            None
        };
        let type_len = if event.deleted { 2 } else { 0 };
        let field = |len: usize| 1 + encoded_len_varint(len as u64) + len;
        // A stored tombstone holds the key alone; its event also tells the revision (behaviours 19).
        let mod_len = if event.deleted {
            1 + encoded_len_varint(event.main as u64)
        } else {
            0
        };
        let kv_len = event.kv.len() + mod_len;
        let body = type_len + field(kv_len) + prev.as_ref().map_or(0, |prev| field(prev.len()));
        encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(body as u64, &mut self.bytes);
        if event.deleted {
            encode_key(1, WireType::Varint, &mut self.bytes);
            encode_varint(1, &mut self.bytes);
        }
        encode_key(2, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(kv_len as u64, &mut self.bytes);
        self.bytes.put_slice(event.kv);
        if event.deleted {
            encode_key(MOD_REVISION_FIELD, WireType::Varint, &mut self.bytes);
            encode_varint(event.main as u64, &mut self.bytes);
        }
        if let Some(prev) = prev {
            encode_key(3, WireType::LengthDelimited, &mut self.bytes);
            encode_varint(prev.len() as u64, &mut self.bytes);
            self.bytes.put_slice(&prev);
        }
        self.revisions += usize::from(self.events.last().is_none_or(|last| last.1 != event.main));
        self.events.push((self.bytes.len(), event.main));
    }

    /// Hands out the responses: cut between revisions above `response_bytes`, and within one above `split` where the
    /// watcher takes fragments. Returns the number of events.
    pub fn responses(
        &mut self,
        info: HeaderInfo,
        watch_id: i64,
        revision: i64,
        response_bytes: usize,
        split: Option<usize>,
        mut send: impl FnMut(&[u8]),
    ) -> u64 {
        let mut head = BytesMut::new();
        let response = WatchResponse {
            header: header(info, revision),
            watch_id,
            ..Default::default()
        };
        response.encode(&mut head).expect("a BytesMut grows");
        let mut out = BytesMut::new();
        let (mut from, mut at) = (0, 0);
        while at < self.events.len() {
            let end = self.revision_end(at, from, response_bytes);
            let last = self.events[end - 1].0;
            match split {
                Some(limit) if last - from > limit => self.fragments(&head, at, end, from, limit, &mut send),
                _ => {
                    out.clear();
                    out.put_slice(&head);
                    out.put_slice(&self.bytes[from..last]);
                    send(out.chunk());
                }
            }
            (from, at) = (last, end);
        }
        self.events.len() as u64
    }

    /// The first event behind the last whole revision that keeps the response below `limit`; at least one revision.
    fn revision_end(&self, at: usize, from: usize, limit: usize) -> usize {
        let mut end = at;
        while end < self.events.len() {
            let main = self.events[end].1;
            let mut next = end;
            while next < self.events.len() && self.events[next].1 == main {
                next += 1;
            }
            if end > at && self.events[next - 1].0 - from > limit {
                break;
            }
            end = next;
        }
        end
    }

    /// At least one event a part, the last part without the fragment mark.
    fn fragments(&self, head: &[u8], at: usize, end: usize, from: usize, limit: usize, send: &mut impl FnMut(&[u8])) {
        let (mut start, mut at) = (from, at);
        while at < end {
            let mut next = at + 1;
            while next < end && self.events[next].0 - start <= limit {
                next += 1;
            }
            let stop = self.events[next - 1].0;
            let mut out = BytesMut::with_capacity(head.len() + stop - start + 2);
            out.put_slice(head);
            if next < end && !mutant::on("fragment_not_marked") {
                encode_key(FRAGMENT_FIELD, WireType::Varint, &mut out);
                encode_varint(1, &mut out);
            }
            out.put_slice(&self.bytes[start..stop]);
            send(&out);
            (start, at) = (stop, next);
        }
    }
}
