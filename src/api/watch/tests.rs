use bytes::BytesMut;
use net::pb::{etcdserverpb::WatchResponse, mvccpb::KeyValue};
use prost::Message;

use super::*;

type Call = (u64, u32);
const CALL: Call = (1, 1);

/// (main, sub, key, value or deletion, encoded pair).
type Told = (i64, i64, &'static str, Option<&'static str>, Vec<u8>);

/// A history in memory: (main, sub, key, value or deletion).
#[derive(Default)]
struct Story {
    events: Vec<Told>,
    compacted: i64,
}

impl Story {
    fn add(&mut self, main: i64, sub: i64, key: &'static str, value: Option<&'static str>) {
        let kv = KeyValue {
            key: Bytes::from(key),
            value: Bytes::from(value.unwrap_or("")),
            mod_revision: if value.is_some() { main } else { 0 },
            ..Default::default()
        };
        self.events.push((main, sub, key, value, kv.encode_to_vec()));
    }

    fn events(&self, from: i64, to: i64) -> impl Iterator<Item = Event<'_>> {
        let inside = self.events.iter().filter(move |event| event.0 >= from && event.0 <= to);
        inside.map(|(main, sub, key, value, kv)| Event {
            main: *main,
            sub: *sub,
            deleted: value.is_none(),
            key: key.as_bytes(),
            kv,
            version: 2,
        })
    }
}

impl Past for Story {
    fn revision(&self) -> i64 {
        self.events.last().map_or(1, |event| event.0)
    }

    fn compact_revision(&self) -> i64 {
        self.compacted
    }

    fn scan(&self, from: i64, to: i64, _max_bytes: usize, visit: &mut dyn FnMut(&Event<'_>)) -> i64 {
        // One revision a slice, to show that slices join without a gap.
        self.events(from, from.min(to)).for_each(|event| visit(&event));
        from.min(to) + 1
    }

    fn before(&self, key: &[u8], main: i64, sub: i64) -> Option<Bytes> {
        let earlier = |event: &&Told| (event.0, event.1) < (main, sub) && event.2.as_bytes() == key;
        let last = self.events.iter().rfind(earlier)?;
        last.3.is_some().then(|| Bytes::from(last.4.clone()))
    }
}

#[derive(Default)]
struct Wire {
    sent: Vec<(Call, WatchResponse)>,
    queued: usize,
}

impl Sink<Call> for Wire {
    fn send(&mut self, call: Call, response: &[u8]) {
        self.sent.push((call, WatchResponse::decode(response).unwrap()));
    }

    fn queued(&self, _call: Call) -> usize {
        self.queued
    }
}

impl Wire {
    fn take(&mut self) -> Vec<WatchResponse> {
        self.sent.drain(..).map(|(_, response)| response).collect()
    }

    fn told(&mut self) -> Vec<(i64, i64, String)> {
        let mut all = Vec::new();
        for response in self.take() {
            for event in response.events {
                let kv = event.kv.unwrap();
                all.push((
                    response.watch_id,
                    kv.mod_revision,
                    String::from_utf8(kv.key.to_vec()).unwrap(),
                ));
            }
        }
        all
    }
}

fn hub(revision: i64) -> WatchHub<Call> {
    WatchHub::new(HeaderInfo::default(), revision, 1 << 20, 1_000_000_000)
}

fn watch(key: &'static str, end: &'static str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::from(key),
        range_end: Bytes::from(end),
        start_revision,
        ..Default::default()
    }
}

fn consume(hub: &mut WatchHub<Call>, story: &Story, from: i64, to: i64, wire: &mut Wire) {
    hub.consume(story.events(from, to), from, to, story, wire);
}

#[test]
fn a_live_watcher_hears_what_happens_behind_its_creation() {
    let (mut hub, mut wire, mut story) = (hub(5), Wire::default(), Story::default());
    hub.create(CALL, watch("a", "", 0), 5, 0, &mut wire);
    let created = wire.take().remove(0);
    assert!(created.created && created.watch_id == 0 && created.header.unwrap().revision == 5);
    story.add(6, 0, "a", Some("1"));
    story.add(6, 1, "b", Some("1"));
    story.add(7, 0, "a", None);
    consume(&mut hub, &story, 6, 7, &mut wire);
    let response = wire.take().remove(0);
    assert_eq!(response.events.len(), 2);
    assert_eq!(response.events[1].r#type, 1);
    assert_eq!(response.events[1].kv.as_ref().unwrap().mod_revision, 7);
    assert_eq!(response.header.unwrap().revision, 7);
}

#[test]
fn a_watcher_created_behind_a_newer_view_does_not_hear_of_older_events() {
    let (mut hub, mut wire, mut story) = (hub(5), Wire::default(), Story::default());
    hub.create(CALL, watch("a", "", 0), 6, 0, &mut wire);
    story.add(6, 0, "a", Some("acknowledged before the watch"));
    story.add(7, 0, "a", Some("after it"));
    wire.take();
    consume(&mut hub, &story, 6, 7, &mut wire);
    assert_eq!(wire.told(), [(0, 7, "a".into())]);
}

#[test]
fn history_and_blocks_join_without_gap_or_repetition() {
    let (mut hub, mut wire, mut story) = (hub(9), Wire::default(), Story::default());
    for main in 2..=9 {
        story.add(main, 0, "a", Some("x"));
    }
    hub.create(CALL, watch("a", "", 4), 9, 0, &mut wire);
    wire.take();
    assert!(hub.catch_up(&story, &mut wire));
    story.add(10, 0, "a", Some("meanwhile"));
    consume(&mut hub, &story, 10, 10, &mut wire);
    while hub.catch_up(&story, &mut wire) {}
    story.add(11, 0, "a", Some("live"));
    consume(&mut hub, &story, 11, 11, &mut wire);
    let revisions: Vec<i64> = wire.told().iter().map(|told| told.1).collect();
    assert_eq!(revisions, [4, 5, 6, 7, 8, 9, 10, 11]);
}

#[test]
fn a_start_below_the_compacted_revision_ends_the_watcher_and_silences_progress() {
    let (mut hub, mut wire, mut story) = (
        hub(9),
        Wire::default(),
        Story {
            compacted: 5,
            ..Default::default()
        },
    );
    story.add(9, 0, "a", Some("x"));
    hub.create(CALL, watch("a", "", 4), 9, 0, &mut wire);
    hub.catch_up(&story, &mut wire);
    let responses = wire.take();
    assert!(responses[0].created && !responses[0].canceled);
    let end = &responses[1];
    assert!(end.canceled && end.compact_revision == 5 && end.cancel_reason.is_empty());
    assert_eq!(end.header.unwrap().revision, 0);
    hub.request_progress(CALL, 9, &mut wire);
    assert!(wire.take().is_empty());
}

#[test]
fn refused_creates_leave_the_stream_alive() {
    let (mut hub, mut wire) = (hub(5), Wire::default());
    hub.create(CALL, watch("b", "a", 0), 5, 0, &mut wire);
    hub.create(CALL, watch("a", "", -1), 5, 0, &mut wire);
    hub.create(
        CALL,
        WatchCreateRequest {
            watch_id: 7,
            ..watch("a", "", 0)
        },
        5,
        0,
        &mut wire,
    );
    hub.create(
        CALL,
        WatchCreateRequest {
            watch_id: 7,
            ..watch("a", "", 0)
        },
        5,
        0,
        &mut wire,
    );
    let responses = wire.take();
    let reasons: Vec<&str> = responses
        .iter()
        .map(|response| response.cancel_reason.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "mvcc: watcher range is empty",
            "etcdserver: mvcc: required revision has been compacted",
            "",
            "mvcc: duplicate watch ID provided on the WatchStream"
        ]
    );
    assert!(responses[0].created && responses[0].canceled && responses[0].watch_id == -1);
}

#[test]
fn cancelling_answers_once_and_an_unknown_id_not_at_all() {
    let (mut hub, mut wire, mut story) = (hub(5), Wire::default(), Story::default());
    hub.create(CALL, watch("a", "", 0), 5, 0, &mut wire);
    wire.take();
    hub.cancel(CALL, 0, 5, &mut wire);
    hub.cancel(CALL, 0, 5, &mut wire);
    assert_eq!(wire.take().len(), 1);
    story.add(6, 0, "a", Some("1"));
    consume(&mut hub, &story, 6, 6, &mut wire);
    assert!(wire.take().is_empty());
}

#[test]
fn filters_and_previous_values() {
    let (mut hub, mut wire, mut story) = (hub(1), Wire::default(), Story::default());
    hub.create(
        CALL,
        WatchCreateRequest {
            filters: vec![0],
            prev_kv: true,
            ..watch("a", "", 0)
        },
        1,
        0,
        &mut wire,
    );
    story.add(2, 0, "a", Some("old"));
    story.add(3, 0, "a", None);
    wire.take();
    consume(&mut hub, &story, 2, 3, &mut wire);
    let response = wire.take().remove(0);
    assert_eq!(response.events.len(), 1);
    assert_eq!(response.events[0].prev_kv.as_ref().unwrap().value, "old");
}

#[test]
fn a_slow_reader_is_not_fed_and_catches_up_later_with_nothing_lost() {
    let (mut hub, mut wire, mut story) = (hub(1), Wire::default(), Story::default());
    hub.create(CALL, watch("a", "", 0), 1, 0, &mut wire);
    wire.take();
    wire.queued = STREAM_QUEUE_MAX + 1;
    for main in 2..=20 {
        story.add(main, 0, "a", Some("x"));
        consume(&mut hub, &story, main, main, &mut wire);
        hub.catch_up(&story, &mut wire);
    }
    assert_eq!(wire.told().len(), 1, "the response that filled the queue");
    wire.queued = 0;
    hub.writable(CALL);
    while hub.catch_up(&story, &mut wire) {}
    let revisions: Vec<i64> = wire.told().iter().map(|told| told.1).collect();
    assert_eq!(revisions, (3..=20).collect::<Vec<_>>());
}

#[test]
fn withheld_blocks_are_read_from_history() {
    let (mut hub, mut wire, mut story) = (hub(1), Wire::default(), Story::default());
    hub.create(CALL, watch("a", "b", 0), 1, 0, &mut wire);
    wire.take();
    for main in 2..=9 {
        story.add(main, 0, "ab", Some("x"));
    }
    hub.lagged(6);
    consume(&mut hub, &story, 7, 9, &mut wire);
    while hub.catch_up(&story, &mut wire) {}
    let revisions: Vec<i64> = wire.told().iter().map(|told| told.1).collect();
    assert_eq!(revisions, (2..=9).collect::<Vec<_>>());
}

#[test]
fn manual_progress_waits_for_the_events_of_its_revision() {
    let (mut hub, mut wire, mut story) = (hub(1), Wire::default(), Story::default());
    hub.create(CALL, watch("a", "", 0), 1, 0, &mut wire);
    wire.take();
    story.add(2, 0, "a", Some("x"));
    hub.request_progress(CALL, 2, &mut wire);
    assert!(wire.sent.is_empty(), "the view is at 2, its events have not left");
    consume(&mut hub, &story, 2, 2, &mut wire);
    let responses = wire.take();
    assert_eq!(responses[0].events.len(), 1);
    assert!(responses[1].watch_id == -1 && responses[1].header.unwrap().revision == 2);
}

#[test]
fn manual_progress_is_silent_without_watchers_and_with_a_future_start() {
    let (mut hub, mut wire) = (hub(5), Wire::default());
    hub.request_progress(CALL, 5, &mut wire);
    assert!(wire.take().is_empty());
    hub.create(CALL, watch("a", "", 100), 5, 0, &mut wire);
    wire.take();
    hub.request_progress(CALL, 5, &mut wire);
    assert!(wire.take().is_empty());
}

#[test]
fn idle_watchers_that_asked_hear_of_the_revision_by_their_own_id() {
    let (mut hub, mut wire, mut story) = (hub(1), Wire::default(), Story::default());
    hub.create(
        CALL,
        WatchCreateRequest {
            progress_notify: true,
            ..watch("a", "", 0)
        },
        1,
        0,
        &mut wire,
    );
    wire.take();
    hub.notify_progress(500_000_000, &mut wire);
    assert!(wire.take().is_empty());
    story.add(2, 0, "a", Some("x"));
    consume(&mut hub, &story, 2, 2, &mut wire);
    wire.take();
    hub.notify_progress(1_200_000_000, &mut wire);
    assert!(wire.take().is_empty(), "events left since the last tick");
    hub.notify_progress(2_500_000_000, &mut wire);
    assert!(matches!(&wire.take()[..], [one] if one.watch_id == 0 && one.header.unwrap().revision == 2));
}

#[test]
fn a_large_revision_is_split_only_for_those_who_take_fragments() {
    let (mut hub, mut wire, mut story) = (hub(1), Wire::default(), Story::default());
    hub.fragment_bytes = 40;
    hub.create(
        CALL,
        WatchCreateRequest {
            fragment: true,
            ..watch("a", "b", 0)
        },
        1,
        0,
        &mut wire,
    );
    hub.create(CALL, watch("a", "b", 0), 1, 0, &mut wire);
    wire.take();
    for (sub, key) in ["a1", "a2", "a3", "a4"].into_iter().enumerate() {
        story.add(2, sub as i64, key, Some("0123456789"));
    }
    consume(&mut hub, &story, 2, 2, &mut wire);
    let responses = wire.take();
    let of = |id: i64| responses.iter().filter(move |response| response.watch_id == id);
    assert_eq!(of(1).count(), 1);
    assert!(of(0).count() > 1);
    assert_eq!(of(0).map(|response| response.events.len()).sum::<usize>(), 4);
    let marks: Vec<bool> = of(0).map(|response| response.fragment).collect();
    assert!(!marks.last().unwrap() && marks[..marks.len() - 1].iter().all(|mark| *mark));
}

#[test]
fn a_response_never_ends_within_a_revision() {
    let mut builder = ResponseBuilder::default();
    let story = Story::default();
    let kv = BytesMut::zeroed(50);
    for (main, sub) in [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0)] {
        let event = Event {
            main,
            sub,
            deleted: false,
            key: b"k",
            kv: &kv,
            version: 2,
        };
        builder.push(&event, false, &story);
    }
    let mut counts = Vec::new();
    builder.responses(HeaderInfo::default(), 0, 4, 120, None, |_| counts.push(()));
    assert_eq!(counts.len(), 3);
}

#[test]
fn a_watch_of_the_future_does_not_read_history_when_blocks_are_withheld() {
    let (mut hub, mut wire, mut story) = (hub(1), Wire::default(), Story::default());
    hub.create(CALL, watch("a", "", 5), 1, 0, &mut wire);
    wire.take();
    story.add(2, 0, "a", Some("early"));
    hub.lagged(2);
    assert!(
        !hub.has_work(),
        "nothing it wants has happened, so there is nothing to read"
    );
    for main in 3..=5 {
        story.add(main, 0, "a", Some("later"));
    }
    hub.consume(story.events(5, 5), 5, 5, &story, &mut wire);
    assert_eq!(wire.told(), [(0, 5, "a".to_owned())]);
    assert!(!hub.has_work());
}
