//! One shard, one connection, no socket: what a turn of long work costs the others.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use net::{
    grpc::{ClientConn, ClientEvent, Code, Limits, ServerConn, StreamId},
    io::{Application, ConnId},
    pb::etcdserverpb::{
        PutRequest, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse, watch_request,
    },
};
use prost::Message;
use storage::mvcc::{AppliedState, Store};

use super::{Api, ApiLimits, ApiSetup, FromCore, METHODS, Wires, status};
use crate::{
    bell::Bell,
    latest::Slot,
    member::{Event, HashCache, Membership, Outcome, Reply, View},
    metrics::{CoreMetrics, ShardMetrics},
};

const CONN: ConnId = ConnId::new(1, 1);
/// What one turn of jobs may write. Units: bytes. Twice a slice: the item that fills a slice is written whole.
const TURN_BYTES_MAX: usize = 2 * (128 << 10);
const VALUE_BYTES: usize = 4096;

/// A shard over a store with `keys` keys, and a client connected to it.
struct Harness {
    api: Api,
    server: RefCell<ServerConn>,
    client: ClientConn,
    /// What the shard asked of the core.
    asked: Rc<RefCell<Vec<Event>>>,
}

struct Lend<'h>(&'h RefCell<ServerConn>);

impl Wires for Lend<'_> {
    fn with(&self, conn: ConnId, f: &mut dyn FnMut(&mut ServerConn)) {
        assert_eq!(conn, CONN);
        f(&mut self.0.borrow_mut());
    }
}

impl Harness {
    fn new(keys: usize) -> Harness {
        Harness::limited(keys, None)
    }

    fn limited(keys: usize, quota_bytes: Option<u64>) -> Harness {
        let mut store = Store::new();
        for key in 0..keys {
            let mut txn = store.begin();
            txn.put(format!("key/{key:08}").as_bytes(), &vec![b'v'; VALUE_BYTES], 0);
            txn.end();
        }
        store.seal_block(AppliedState::default());
        let pins = store.pins();
        let view = View {
            store: store.view(),
            applied_index: 1,
            committed_index: 1,
            term: 2,
            leader: 1,
            is_learner: false,
            members: Arc::new(Membership::default()),
            alarms: Arc::new(BTreeSet::new()),
            defrag: Default::default(),
            db_size_bytes: 0,
            db_in_use_bytes: 0,
            is_stalled: false,
        };
        let metrics = Arc::new(ShardMetrics::new(METHODS.len()));
        let asked = Rc::new(RefCell::new(Vec::new()));
        let to_core = asked.clone();
        let limits = ApiLimits {
            request_bytes_max: 1 << 20,
            txn_ops_max: 128,
            quota_bytes,
            progress_interval_ns: u64::MAX / 4,
            election_timeout_ns: 1_000_000_000,
            slow_request_ns: 0,
            extensive_metrics: false,
        };
        let setup = ApiSetup {
            features: crate::config::Config::defaults().features,
            index: 0,
            shards: 1,
            member_id: 1,
            cluster_id: 2,
            unix_ms: 0,
            limits,
            slot: Slot::new(Arc::new(view)),
            pins,
            hashes: HashCache::default(),
            metrics: metrics.clone(),
            all_metrics: vec![metrics],
            core_metrics: Arc::new(CoreMetrics::default()),
            metrics_tag: 1,
            peer_tag: 2,
            wants_blocks: Arc::new(AtomicBool::new(false)),
            outlet: Box::new(move |events| to_core.borrow_mut().append(events)),
            jobs: Bell::default(),
            on_damage: |what| panic!("{what}"),
            clock: || 1,
        };
        let server = RefCell::new(ServerConn::new(Limits::default(), 1));
        let wide = Limits {
            message_bytes_max: 64 << 20,
            ..Limits::default()
        };
        let client = ClientConn::new(wide, "http", "test", 1);
        Harness {
            api: Api::new(setup),
            server,
            client,
            asked,
        }
    }

    fn call(&mut self, path: &str, message: &impl Message) -> StreamId {
        let stream = self.client.start_call(path, &[]).expect("streams are left");
        let len = message.encoded_len();
        self.client
            .send_message(stream, len, |out| message.encode(out).expect("a buffer grows"));
        stream
    }

    /// Moves bytes both ways until nothing moves; what the client saw.
    fn shuttle(&mut self) -> Vec<ClientEvent> {
        let mut seen = Vec::new();
        loop {
            let to_server = self.client.pending_output().to_vec();
            self.client.advance_output(to_server.len());
            self.server.get_mut().receive(&to_server);
            while let Some(event) = self.server.get_mut().next_event() {
                self.api.on_event(CONN, event, self.server.get_mut());
            }
            let to_client = self.server.get_mut().pending_output().to_vec();
            self.server.get_mut().advance_output(to_client.len());
            self.client.receive(&to_client);
            while let Some(event) = self.client.next_event() {
                seen.push(event);
            }
            if to_server.is_empty() && to_client.is_empty() {
                return seen;
            }
        }
    }

    fn waiting_bytes(&mut self) -> usize {
        let server = self.server.get_mut();
        server.queued_total() + server.pending_output().len()
    }

    /// One turn of jobs that is spent at once; what it wrote, and whether there is more.
    fn turn(&mut self) -> (usize, bool) {
        let before = self.waiting_bytes();
        let more = self.api.run_jobs(&Lend(&self.server), || true);
        (self.waiting_bytes() - before, more)
    }
}

#[test]
fn a_large_range_writes_a_bounded_piece_a_turn_and_loses_nothing() {
    let keys = 4000;
    let mut harness = Harness::new(keys);
    let request = RangeRequest {
        key: "key/".into(),
        range_end: "key0".into(),
        serializable: true,
        ..RangeRequest::default()
    };
    let stream = harness.call("/etcdserverpb.KV/Range", &request);
    let mut answer: Option<Bytes> = None;
    let mut ended = None;
    let (mut turns, mut largest) = (0, 0);
    while ended.is_none() {
        for event in harness.shuttle() {
            match event {
                ClientEvent::Message { stream: of, message } if of == stream => answer = Some(message),
                ClientEvent::End { stream: of, status } if of == stream => ended = Some(status),
                _ => {}
            }
        }
        let (wrote, _) = harness.turn();
        turns += 1;
        largest = largest.max(wrote);
        assert!(turns < 10_000, "it ends");
    }
    assert_eq!(ended.expect("it ended").code, Code::Ok);
    let response = RangeResponse::decode(answer.expect("an answer")).expect("a RangeResponse");
    assert_eq!((response.kvs.len(), response.count), (keys, keys as i64));
    assert!(largest <= TURN_BYTES_MAX, "a turn wrote {largest} bytes");
    assert!(
        turns > keys * VALUE_BYTES / TURN_BYTES_MAX,
        "the work was spread over {turns} turns"
    );
}

#[test]
fn a_stream_that_its_client_spoils_is_counted_as_a_failure() {
    const NAME: &str = "etcd_network_server_stream_failures_total";
    let mut harness = Harness::new(1);
    let page = |harness: &mut Harness| {
        let lines = harness.api.metrics_page();
        let samples = lines.lines().filter(|line| line.starts_with(NAME));
        samples.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(page(&mut harness).is_empty());
    // A field that is cut off.
    let spoilt: &[u8] = &[0x0a, 0x7f];
    for path in ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        let stream = harness.client.start_call(path, &[]).expect("streams are left");
        harness
            .client
            .send_message(stream, spoilt.len(), |out| out.extend_from_slice(spoilt));
        let seen = harness.shuttle();
        let ended = seen
            .iter()
            .any(|event| matches!(event, ClientEvent::End { status, .. } if status.code == Code::Internal));
        assert!(ended, "{seen:?}");
    }
    let expected = ["lease-keepalive", "watch"].map(|api| format!("{NAME}{{API=\"{api}\",Type=\"receive\"}} 1"));
    assert_eq!(page(&mut harness), expected);
}

#[test]
fn long_work_can_see_that_a_put_waits_for_the_log() {
    let mut harness = Harness::new(1);
    assert!(!harness.api.awaits_core());
    let put = PutRequest {
        key: "key".into(),
        ..PutRequest::default()
    };
    harness.call("/etcdserverpb.KV/Put", &put);
    harness.shuttle();
    assert!(harness.api.awaits_core());
    harness.api.on_closed(CONN);
    assert!(!harness.api.awaits_core(), "nobody waits for it any more");
}

#[test]
fn who_comes_to_the_quota_is_refused_once_the_alarm_is_on() {
    let mut harness = Harness::limited(0, Some(1));
    let put = PutRequest {
        key: "key".into(),
        ..PutRequest::default()
    };
    let calls = [(); 3].map(|()| harness.call("/etcdserverpb.KV/Put", &put));
    let ended = |seen: &[ClientEvent]| -> Vec<(StreamId, String)> {
        let end = |event: &ClientEvent| match event {
            ClientEvent::End { stream, status } => Some((*stream, status.message.to_string())),
            _ => None,
        };
        seen.iter().filter_map(end).collect()
    };
    assert_eq!(ended(&harness.shuttle()), [], "the alarm is not on yet");
    harness.api.flush_outbox();
    let ids: Vec<_> = harness
        .asked
        .take()
        .into_iter()
        .filter_map(|event| match event {
            Event::Request { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 1, "one alarm for all, and no put");
    let reply = Reply {
        id: ids[0],
        result: Ok(Outcome::Alarms(vec![(1, crate::member::NOSPACE)])),
    };
    let message = FromCore::Replies(harness.api.view(), vec![reply]);
    harness.api.on_core(message, &Lend(&harness.server));
    let refused = calls.map(|call| (call, status::NO_SPACE.text.to_owned()));
    assert_eq!(ended(&harness.shuttle()), refused);
}

#[test]
fn a_watcher_from_long_ago_reads_history_in_slices_and_stops_when_nobody_reads() {
    let mut harness = Harness::new(4000);
    let create = WatchCreateRequest {
        key: "key/".into(),
        range_end: "key0".into(),
        start_revision: 2,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
    };
    let stream = harness.call("/etcdserverpb.Watch/Watch", &request);
    let mut events = 0;
    for event in harness.shuttle() {
        if let ClientEvent::Message { message, .. } = event {
            events += WatchResponse::decode(message).expect("a WatchResponse").events.len();
        }
    }
    // Nobody reads: what waits stays below the bound of a stream and one response of history.
    while harness.turn().1 {}
    let stuck = harness.waiting_bytes();
    assert!(stuck < 20 << 20, "{stuck} bytes wait for a reader that does not read");
    // It reads again: everything comes, once.
    for _ in 0..1000 {
        for event in harness.shuttle() {
            if let ClientEvent::Message { stream: of, message } = event {
                assert_eq!(of, stream);
                events += WatchResponse::decode(message).expect("a WatchResponse").events.len();
            }
        }
        harness.turn();
    }
    assert_eq!(events, 4000);
}
