//! Watch streams: what they asked for, and the events that arrived.

use hdrhistogram::Histogram;

use super::requests::TIME_MARK;
use super::session::Sink;
use super::status::{StatusId, Statuses};
use super::tally::new_histogram;
use super::wire::{Fields, MESSAGE_PREFIX_BYTES, Value};

/// Fields of WatchResponse, Event and KeyValue.
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const CANCEL_REASON: u32 = 6;
const EVENTS: u32 = 11;
const KV: u32 = 2;
const VALUE: u32 = 5;

/// The watchers of a load, all streams together.
#[derive(Debug)]
pub(super) struct Watchers {
    /// The unfinished message of each stream.
    partial: Vec<Vec<u8>>,
    /// How many watchers there are.
    pub(super) watchers: u64,
    /// Of these, how many the server has confirmed.
    pub(super) created: u64,
    /// Events that the puts of the run should cause.
    pub(super) expected: u64,
    /// Events that arrived.
    pub(super) events: u64,
    /// When the last one did.
    pub(super) last_ns: u64,
    /// From the put being queued to its event being read.
    pub(super) latency: Histogram<u64>,
    /// Why a watcher or a stream ended.
    pub(super) failure: Option<String>,
    ended: Option<StatusId>,
    now_ns: u64,
}

impl Watchers {
    pub(super) fn new(streams: usize, watchers: u64) -> Watchers {
        Watchers {
            partial: vec![Vec::new(); streams],
            watchers,
            created: 0,
            expected: 0,
            events: 0,
            last_ns: 0,
            latency: new_histogram(),
            failure: None,
            ended: None,
            now_ns: 0,
        }
    }

    /// Starts a run of `puts` that go to `keys` in turn.
    pub(super) fn begin(&mut self, puts: u64, keys: u64) {
        self.expected = expected_events(self.watchers, puts, keys);
        self.events = 0;
        self.latency.reset();
    }

    /// Whether every event has arrived, or none will any more.
    pub(super) fn is_done(&self) -> bool {
        self.events >= self.expected || self.failure.is_some()
    }

    /// Tells the time of what is received next.
    pub(super) fn on_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Notes a stream that ended.
    pub(super) fn settle(&mut self, statuses: &Statuses) {
        if let Some(id) = self.ended.take() {
            let (code, message) = statuses.get(id);
            self.failure = Some(format!("a watch stream ended: {}: {message}", code.name()));
        }
    }

    /// Acts on the whole messages that `bytes` begin with; returns how long they are together.
    #[inline]
    fn messages(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some((message, len)) = first_message(&bytes[used..]) {
            self.message(message);
            used += len;
        }
        used
    }

    fn message(&mut self, message: &[u8]) {
        let mut is_canceled = false;
        for (field, value) in Fields(message) {
            match (field, value) {
                (EVENTS, Value::Bytes(event)) => self.event(event),
                (CREATED, Value::Uint(1)) => self.created += 1,
                (CANCELED, Value::Uint(1)) => is_canceled = true,
                (CANCEL_REASON, Value::Bytes(reason)) => {
                    self.failure = Some(format!("a watcher was canceled: {}", String::from_utf8_lossy(reason)));
                }
                _ => {}
            }
        }
        if is_canceled && self.failure.is_none() {
            self.failure = Some("a watcher was canceled".to_string());
        }
    }

    #[inline]
    fn event(&mut self, event: &[u8]) {
        self.events += 1;
        self.last_ns = self.now_ns;
        if let Some(put_ns) = time_of(event) {
            self.latency.saturating_record(self.now_ns.saturating_sub(put_ns));
        }
    }
}

/// When the value of an event was put, if it tells.
fn time_of(event: &[u8]) -> Option<u64> {
    let (_, Value::Bytes(kv)) = Fields(event).find(|(field, _)| *field == KV)? else {
        return None;
    };
    let (_, Value::Bytes(value)) = Fields(kv).find(|(field, _)| *field == VALUE)? else {
        return None;
    };
    let (mark, rest) = value.split_first_chunk::<8>()?;
    (mark == TIME_MARK).then_some(u64::from_le_bytes(*rest.first_chunk()?))
}

/// Events that `puts` on `keys` in turn cause at `watchers` dealt to the same keys in turn.
fn expected_events(watchers: u64, puts: u64, keys: u64) -> u64 {
    let watchers_of = |key: u64| watchers / keys + u64::from(key < watchers % keys);
    let (rounds, rest) = (puts / keys, puts % keys);
    rounds * watchers + (0..rest).map(watchers_of).sum::<u64>()
}

/// The first whole message of a stream, and where it ends.
#[inline]
fn first_message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (prefix, rest) = bytes.split_first_chunk::<MESSAGE_PREFIX_BYTES>()?;
    let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    Some((rest.get(..len)?, MESSAGE_PREFIX_BYTES + len))
}

impl Sink for Watchers {
    fn data(&mut self, tag: u32, piece: &[u8]) {
        let mut partial = std::mem::take(&mut self.partial[tag as usize]);
        if partial.is_empty() {
            let used = self.messages(piece);
            partial.extend_from_slice(&piece[used..]);
        } else {
            partial.extend_from_slice(piece);
            let used = self.messages(&partial);
            partial.drain(..used);
        }
        self.partial[tag as usize] = partial;
    }

    fn end(&mut self, _tag: u32, status: StatusId) {
        self.ended = Some(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::wire::{put_bytes, put_message, put_uint};

    fn response(values: &[&[u8]]) -> Vec<u8> {
        let mut response = Vec::new();
        put_bytes(1, b"\x08\x01", &mut response);
        for value in values {
            let mut kv = Vec::new();
            put_bytes(1, b"key", &mut kv);
            put_uint(3, 7, &mut kv);
            put_bytes(VALUE, value, &mut kv);
            let mut event = Vec::new();
            put_bytes(KV, &kv, &mut event);
            put_bytes(EVENTS, &event, &mut response);
        }
        let mut framed = Vec::new();
        put_message(&response, &mut framed);
        framed
    }

    #[test]
    fn events_are_counted_and_timed_however_the_bytes_are_cut() {
        let timed = [TIME_MARK.as_slice(), &1000u64.to_le_bytes(), b"rest"].concat();
        let stream = [response(&[&timed, b"untimed"]), response(&[]), response(&[&timed])].concat();
        for cut in 1..stream.len() {
            let mut watchers = Watchers::new(1, 1);
            watchers.on_time(6000);
            stream.chunks(cut).for_each(|piece| watchers.data(0, piece));
            assert_eq!((watchers.events, watchers.latency.len()), (3, 2), "cut {cut}");
            assert!(watchers.latency.max().abs_diff(5000) < 10, "{}", watchers.latency.max());
            assert!(watchers.partial[0].is_empty());
        }
    }

    #[test]
    fn confirmations_are_counted_and_a_cancelled_watcher_fails_the_run() {
        let mut watchers = Watchers::new(1, 2);
        watchers.begin(10, 1);
        let mut framed = Vec::new();
        put_message(b"\x18\x01", &mut framed);
        put_message(b"\x18\x01\x20\x01\x32\x04gone", &mut framed);
        watchers.data(0, &framed);
        assert_eq!(watchers.created, 2);
        assert!(watchers.is_done());
        assert_eq!(watchers.failure.as_deref(), Some("a watcher was canceled: gone"));
    }

    #[test]
    fn expected_events_follow_from_who_watches_what() {
        assert_eq!(expected_events(1000, 10, 1), 10_000);
        assert_eq!(expected_events(3, 4, 2), 2 + 1 + 2 + 1);
        assert_eq!(expected_events(3, 3, 2), 2 + 1 + 2);
        assert_eq!(expected_events(1, 10, 5), 2);
    }
}
