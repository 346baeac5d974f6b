//! The same random requests to the real etcd and to the server under test: every answer must be the same.
//!
//! Compared field by field, but for what names the cluster, the member and the term, the seconds left of a lease, and
//! `hash_revision`, which 3.5 does not have. Needs the real etcd: `ETCORE_TEST_ETCD`, else `etcd` on PATH.

mod calls;
mod coverage;

use crate::support::{
    pb::etcdserverpb::{CompactionRequest, RangeRequest, WatchCreateRequest},
    *,
};
use calls::{Answer, Call, Generator};
use coverage::Coverage;

/// Requests at scale 1.
const REQUESTS: u64 = 3000;

struct Pair {
    etcd: Client,
    ours: Client,
}

/// Answers to reads that differed; the requests go on, since the two stores are still the same.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    /// Panics with the first of them, if there are any.
    fn settle(&self) {
        let shown = self.0[..self.0.len().min(5)].join("\n");
        assert!(
            self.0.is_empty(),
            "{} answers to reads differ from etcd's:\n{shown}",
            self.0.len()
        );
    }
}

impl Pair {
    fn of(etcd: &Server, ours: &Server) -> Pair {
        Pair {
            etcd: etcd.client(),
            ours: ours.client(),
        }
    }

    /// Whether the call hashes a revision at which no key exists: what is hashed there is what compaction left so far.
    async fn hashes_nothing(&self, call: &Call) -> bool {
        let Call::HashKv(revision) = *call else {
            return false;
        };
        let count = RangeRequest {
            revision,
            count_only: true,
            ..all_range()
        };
        self.etcd.try_range(count).await.is_ok_and(|answer| answer.count == 0)
    }

    /// Sends one call to both and compares. A write that differs ends the test at once.
    async fn ask(&self, number: u64, call: &Call, differences: &mut Differences) -> Answer {
        let (etcd, ours) = tokio::join!(call.send(&self.etcd), call.send(&self.ours));
        if ours != etcd {
            let text = format!("request {number}: {call:?}\n  ours: {ours:?}\n  etcd: {etcd:?}\n");
            assert!(call.is_read(), "a write got another answer than etcd's:\n{text}");
            differences.0.push(text);
        }
        etcd
    }
}

#[tokio::test]
async fn random_requests_get_the_answers_of_etcd() {
    let Some(binary) = tools::reference_etcd() else {
        return skipped("etcd on PATH or in ETCORE_TEST_ETCD");
    };
    let seed = seed(20_261_121);
    let (mut etcd, mut ours) = (Server::start_binary(&binary, &[]).await, Server::start(&[]).await);
    let mut pair = Pair::of(&etcd, &ours);
    let mut generator = Generator::new(seed);
    let mut differences = Differences::default();
    let mut coverage = Coverage::default();
    let requests = scaled(REQUESTS);
    for number in 0..requests {
        let call = generator.next_call();
        if generator.may_be_compacting() && pair.hashes_nothing(&call).await {
            continue;
        }
        let answer = pair.ask(number, &call, &mut differences).await;
        generator.learn(&call, &answer);
        coverage.count(&call, &answer);
        if number % (requests / 4).max(1) == 0 {
            compare_states(&pair, &generator, &mut differences).await;
        }
        if number == requests / 2 {
            etcd.restart();
            ours.restart();
            pair = Pair::of(&etcd, &ours);
            compare_states(&pair, &generator, &mut differences).await;
            differences.settle();
        }
    }
    compare_states(&pair, &generator, &mut differences).await;
    compare_histories(&pair, &generator).await;
    differences.settle();
    coverage.settle();
}

/// Hashes and whole pictures at several revisions.
async fn compare_states(pair: &Pair, generator: &Generator, differences: &mut Differences) {
    let (oldest, newest) = generator.readable_revisions();
    for step in 0..5 {
        let revision = oldest + (newest - oldest) * step / 4;
        let hash = Call::HashKv(revision);
        let racing = generator.may_be_compacting() && pair.hashes_nothing(&hash).await;
        if generator.is_settled(revision) && !racing {
            pair.ask(0, &hash, differences).await;
        }
        let everything = RangeRequest {
            revision,
            ..all_range()
        };
        pair.ask(0, &Call::Range(everything), differences).await;
    }
    pair.ask(0, &Call::Leases, differences).await;
}

/// Every event since the last compaction.
async fn compare_histories(pair: &Pair, generator: &Generator) {
    let (oldest, newest) = generator.readable_revisions();
    if oldest == newest {
        return;
    }
    let from = WatchCreateRequest {
        key: vec![0],
        range_end: vec![0],
        start_revision: oldest + 1,
        ..Default::default()
    };
    let (mut etcd, mut ours) = (
        Watcher::open(&pair.etcd, from.clone()).await,
        Watcher::open(&pair.ours, from).await,
    );
    let (mut told_by_etcd, mut told_by_us) = (Vec::new(), Vec::new());
    for (watcher, told) in [(&mut etcd, &mut told_by_etcd), (&mut ours, &mut told_by_us)] {
        let mut last = 0;
        while last < newest {
            let events = watcher.next().await.events;
            last = events
                .last()
                .expect("a response of history has events")
                .kv
                .as_ref()
                .unwrap()
                .mod_revision;
            told.extend(events);
        }
    }
    assert_eq!(told_by_us.len(), told_by_etcd.len(), "events since revision {oldest}");
    for (ours, etcd) in told_by_us.iter().zip(&told_by_etcd) {
        assert_eq!(ours, etcd, "an event differs (left: ours, right: etcd's)");
    }
}

#[tokio::test]
async fn a_long_history_hashes_the_same_after_each_compaction() {
    let Some(binary) = tools::reference_etcd() else {
        return skipped("etcd on PATH or in ETCORE_TEST_ETCD");
    };
    let mut rng = Rng::new(seed(7));
    let (etcd, ours) = (Server::start_binary(&binary, &[]).await, Server::start(&[]).await);
    let pair = Pair::of(&etcd, &ours);
    let mut differences = Differences::default();
    let mut number = 0;
    for round in 1..=5 {
        for _ in 0..60 {
            number += 1;
            let key = format!("k{}", rng.below(12));
            let call = match rng.below(3) {
                0 => Call::Delete(pb::etcdserverpb::DeleteRangeRequest {
                    key: key.into(),
                    ..Default::default()
                }),
                _ => Call::Put(put_request(key, rng.bytes(20))),
            };
            pair.ask(number, &call, &mut differences).await;
        }
        let newest = pair.etcd.revision().await;
        let compacted = newest - 1 - rng.below(20) as i64;
        let compact = CompactionRequest {
            revision: compacted,
            physical: true,
        };
        pair.ask(number, &Call::Compact(compact), &mut differences).await;
        for revision in compacted..=newest {
            pair.ask(round, &Call::HashKv(revision), &mut differences).await;
        }
    }
    differences.settle();
}
