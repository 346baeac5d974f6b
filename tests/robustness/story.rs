//! A cluster under load while something goes wrong, and the reckoning in the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use prost::Message;
use tokio::task::JoinHandle;

use super::{
    clients::{Crowd, Worker},
    record::{Ask, Clock, Outcome, Record},
    verdict,
    watchers::{Session, Tale, Watching},
};
use crate::{
    checker::{
        history::{Change, Check, History},
        watcher::Watcher as Expectation,
    },
    rig::Cluster,
    support::{
        pb::{
            etcdserverpb::{WatchCreateRequest, WatchResponse},
            mvccpb::{Event, event::EventType},
        },
        *,
    },
};

const CLIENTS: u64 = 8;
const WATCHERS: u64 = 4;

/// A cluster with clients and watchers at work.
pub struct Story {
    /// The cluster, to be troubled.
    pub cluster: Cluster,
    /// Chance, from the printed seed.
    pub rng: Rng,
    /// Whom clients ask.
    pub crowd: Crowd,
    target: Arc<AtomicI64>,
    workers: Vec<JoinHandle<Vec<Record>>>,
    watchers: Vec<JoinHandle<Tale>>,
    records: Vec<Record>,
}

impl Story {
    /// Sets clients and watchers to work on a cluster.
    pub fn begin(cluster: Cluster, seed: u64) -> Story {
        let mut rng = Rng::new(seed);
        let clock = Clock::start();
        let urls: Vec<String> = cluster.nodes.iter().map(|node| node.url()).collect();
        let (crowd, target) = (Crowd::new(urls.clone(), clock.clone()), Arc::new(AtomicI64::new(0)));
        let workers = (0..CLIENTS)
            .map(|_| tokio::spawn(crowd.worker(rng.bits()).work()))
            .collect();
        let watchers = (0..WATCHERS)
            .map(|_| tokio::spawn(Watching::new(&urls, clock.clone(), target.clone(), rng.bits()).watch()))
            .collect();
        Story {
            cluster,
            rng,
            crowd,
            target,
            workers,
            watchers,
            records: Vec::new(),
        }
    }

    /// A member of chance: in half of all cases the one that leads.
    pub async fn victim(&mut self) -> usize {
        let any = self.rng.below(self.cluster.nodes.len() as u64) as usize;
        match self.rng.chance(50) {
            true => self.cluster.leading().await.unwrap_or(any),
            false => any,
        }
    }

    /// Lets time pass.
    pub async fn calm_ms(&mut self, at_least: u64, at_most: u64) {
        pause_ms(at_least + self.rng.below(at_most - at_least + 1)).await;
    }

    /// Adds what a client outside the crowd wrote down.
    pub fn add(&mut self, worker: Worker) {
        self.records.extend(worker.into_records());
    }

    /// Once all is well again: everything that waits must finish, everybody must tell the same, and all must stop in order.
    pub async fn end(mut self) {
        self.cluster.leader().await;
        self.crowd.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            self.records.extend(worker.await.expect("clients do not panic"));
        }
        let last = self.last_writes().await;
        self.target.store(last, Ordering::Relaxed);
        let mut tales = Vec::new();
        for watcher in self.watchers.drain(..) {
            let tale = within("a watcher to be told of everything", watcher).await;
            tales.push(tale.expect("watchers do not panic"));
        }
        self.cluster.agree().await;
        let mut accounts = Vec::new();
        for node in &self.cluster.nodes {
            accounts.push(account(&node.client(), last).await);
        }
        self.cluster.nodes.iter_mut().for_each(|node| node.stop());
        println!("{}", summary(&self.records, &tales, last));
        if let Err(why) = reckon(&self.records, tales, accounts) {
            panic!("{why}");
        }
    }

    /// A write on each member, which must work; the revision of the last.
    async fn last_writes(&mut self) -> i64 {
        let mut worker = self.crowd.worker(self.rng.bits());
        for member in 0..self.cluster.nodes.len() {
            let key = format!("last{member}");
            let started = std::time::Instant::now();
            while !worker.ask(member, Ask::Put { key: key.clone() }, 0).await {
                assert!(
                    started.elapsed() < PATIENCE,
                    "member {member} takes no write although all is well"
                );
                pause_ms(50).await;
            }
        }
        self.add(worker);
        match self.records.last().map(|record| &record.outcome) {
            Some(Outcome::Done(revision, _)) => *revision,
            other => panic!("the last write was done just now, not {other:?}"),
        }
    }
}

/// Everything that a member tells of all its keys up to a revision.
async fn account(client: &Client, last: i64) -> Vec<WatchResponse> {
    let everything = WatchCreateRequest {
        range_end: vec![0],
        start_revision: 1,
        prev_kv: true,
        ..create([0])
    };
    let mut stream = Watcher::open_with(client, vec![create_request(everything)]).await;
    let mut answers: Vec<WatchResponse> = Vec::new();
    let end = |answer: &WatchResponse| {
        answer
            .events
            .last()
            .and_then(|event| event.kv.as_ref())
            .map(|kv| kv.mod_revision)
    };
    while answers.last().and_then(end) < Some(last) {
        answers.push(stream.next().await);
    }
    answers
}

fn reckon(records: &[Record], tales: Vec<Tale>, accounts: Vec<Vec<WatchResponse>>) -> Check {
    let mut history = History::default();
    write_down(&mut history, &accounts[0])?;
    for (member, answers) in accounts.into_iter().enumerate() {
        let expects = Expectation {
            key: b"\0".as_slice().into(),
            range_end: b"\0".as_slice().into(),
            prev_kv: true,
            next: 1,
            ..Expectation::default()
        };
        let answers = answers.iter().map(|answer| (0, answer.encode_to_vec())).collect();
        let (start, sessions) = (1, Vec::new());
        let mut tale = Tale { expects, sessions };
        tale.sessions.push(Session { member, start, answers });
        verdict::judge_watcher(&history, tale)?;
    }
    let mut seen = Vec::new();
    for tale in tales {
        seen.extend(verdict::judge_watcher(&history, tale)?);
    }
    verdict::judge(&mut history, records, seen)
}

/// Takes the history from a member's account.
fn write_down(history: &mut History, answers: &[WatchResponse]) -> Check {
    let events: Vec<&Event> = answers.iter().flat_map(|answer| &answer.events).collect();
    let main = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    for revision in events.chunk_by(|one, other| main(one) == main(other)) {
        let prevs: Vec<_> = revision
            .iter()
            .map(|event| event.prev_kv.as_ref().map(|kv| kv.mod_revision))
            .collect();
        history.tell(
            main(revision[0]),
            revision.iter().map(|event| change(event)).collect(),
            &prevs,
        )?;
    }
    Ok(())
}

fn change(event: &Event) -> Change {
    let mut kv = event.kv.clone().unwrap_or_default();
    let deleted = event.r#type == EventType::Delete as i32;
    if deleted {
        // A tombstone is stored as a key alone.
        kv.mod_revision = 0;
    }
    Change {
        key: kv.key.clone().into(),
        deleted,
        encoded: kv.encode_to_vec().into(),
    }
}

fn summary(records: &[Record], tales: &[Tale], last: i64) -> String {
    let (mut done, mut others) = (BTreeMap::<usize, u64>::new(), BTreeMap::<String, u64>::new());
    for record in records {
        match &record.outcome {
            Outcome::Done(..) => *done.entry(record.member).or_default() += 1,
            Outcome::Refused(text) => *others.entry(format!("refused, {text}")).or_default() += 1,
            Outcome::Unknown(text) => *others.entry(format!("unknown, {text}")).or_default() += 1,
        }
    }
    let connections: usize = tales.iter().map(|tale| tale.sessions.len()).sum();
    let others: String = others
        .iter()
        .map(|(what, count)| format!("\n  {count}: {what}"))
        .collect();
    assert!(
        done.values().sum::<u64>() > 200,
        "so few answers test nothing: {done:?}{others}"
    );
    format!("answers by member: {done:?}; {connections} connections of watchers; {last} revisions{others}")
}
