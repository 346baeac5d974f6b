//! How long a member takes for what it does by itself, in simulated time.

#[path = "engine/options.rs"]
mod options;

use std::sync::Arc;

use etcore::{
    member::{Engine, Event, MemberOptions, Outputs, Request},
    metrics::CoreMetrics,
};
use net::pb::etcdserverpb::{CompactionRequest, InternalRaftRequest, PutRequest, RequestHeader};
use options::{MS, founders};
use prost::Message as _;
use raft::MessageType;
use storage::io::SimDisk;

const ME: u64 = 1;

/// A member on a disk that takes no time.
struct Member {
    engine: Engine,
    disk: SimDisk,
    now_ns: u64,
    events: Vec<Event>,
    metrics: Arc<CoreMetrics>,
}

impl Member {
    fn boot(options: MemberOptions) -> Member {
        let (mut disk, metrics) = (SimDisk::new(), Arc::new(CoreMetrics::default()));
        let engine = Engine::boot(&mut disk, options, metrics.clone(), 1).expect("it boots");
        Member {
            engine,
            disk,
            now_ns: 1,
            events: Vec::new(),
            metrics,
        }
    }

    /// One turn; time passes only if the member has nothing more to do.
    fn turn(&mut self) -> Outputs {
        let mut out = Outputs::default();
        self.engine
            .turn(&mut self.disk, &mut self.events, self.now_ns, &mut out)
            .expect("no fault");
        if !out.more {
            self.now_ns += MS;
        }
        out
    }

    fn propose(&mut self, id: u64, mut request: InternalRaftRequest) {
        request.header = Some(RequestHeader {
            id,
            ..RequestHeader::default()
        });
        self.events.push(Event::Request {
            shard: 0,
            id,
            request: Request::Propose {
                data: request.encode_to_vec().into(),
            },
        });
    }
}

/// How long the compaction of 5,000 revisions of one key takes.
fn compaction_ms(batch_rows: u64) -> u64 {
    const REVISIONS: u64 = 5000;
    let mut options = options::options(ME, founders(&[ME]));
    options.compaction_batch_rows = batch_rows;
    let mut member = Member::boot(options);
    while member.engine.view().leader != ME {
        member.turn();
    }
    for id in 1..=REVISIONS {
        let put = PutRequest {
            key: "key".into(),
            ..PutRequest::default()
        };
        let put = Some(put);
        member.propose(
            id,
            InternalRaftRequest {
                put,
                ..Default::default()
            },
        );
    }
    let newest = 1 + REVISIONS as i64;
    while member.engine.view().revision() < newest {
        member.turn();
    }
    let compaction = Some(CompactionRequest {
        revision: newest,
        physical: true,
    });
    let request = InternalRaftRequest {
        compaction,
        ..Default::default()
    };
    member.propose(REVISIONS + 1, request);
    let since_ns = member.now_ns;
    while member.metrics.compaction_keys.get() < REVISIONS - 1 {
        member.turn();
        assert!(member.now_ns < since_ns + 60_000 * MS, "it ends");
    }
    (member.now_ns - since_ns) / MS
}

#[test]
fn a_compaction_pauses_behind_each_batch_and_at_no_other_time() {
    // Ten milliseconds behind each: 5 batches, 100 batches, none.
    let times = [1000, 50, u64::MAX].map(compaction_ms);
    let within = |ms: u64, pauses: u64| (pauses * 10..pauses * 10 + 30).contains(&ms);
    assert!(
        within(times[0], 4) && within(times[1], 99) && within(times[2], 0),
        "{times:?} ms"
    );
}

/// When a member of three that hears of nobody asks for votes.
fn campaign_ms(seed: u64, linked: &[u64], advance: bool) -> u64 {
    let mut options = options::options(ME, founders(&[ME, 2, 3]));
    options.seed = seed;
    options.initial_election_tick_advance = advance;
    let mut member = Member::boot(options);
    member.events = linked.iter().map(|id| Event::Link { id: *id, up: true }).collect();
    loop {
        let out = member.turn();
        if out
            .messages
            .iter()
            .any(|message| message.msg_type == MessageType::MsgPreVote)
        {
            return member.now_ns / MS;
        }
    }
}

#[test]
fn most_of_the_first_election_time_out_is_skipped_by_who_reaches_two_others() {
    // Ten ticks of ten milliseconds, of which two remain.
    const SKIPPED_MS: u64 = 80;
    for seed in 1..=20 {
        let whole = campaign_ms(seed, &[], true);
        assert!(whole >= 100, "seed {seed}: {whole} ms");
        assert_eq!(campaign_ms(seed, &[2, 3], true), whole - SKIPPED_MS, "seed {seed}");
        assert_eq!(campaign_ms(seed, &[2], true), whole, "seed {seed}: the other may lead");
        assert_eq!(campaign_ms(seed, &[2, 3], false), whole, "seed {seed}");
    }
}
