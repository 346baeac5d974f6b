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
use tonic::Code;

use super::{
    clients::{Crowd, Worker},
    leases::{self, Holding, LEASED},
    record::{Ask, Clock, Outcome, Record},
    verdict,
    watchers::{Session, Tale, Watching, everything},
};
use crate::{
    checker::history::{Change, Check, History},
    rig::Cluster,
    support::{
        pb::{
            etcdserverpb::{RangeRequest, WatchCreateRequest, WatchResponse},
            mvccpb::{Event, event::EventType},
        },
        *,
    },
};

const CLIENTS: u64 = 8;
const WATCHERS: u64 = 4;
const HOLDERS: u64 = 2;

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
    holders: Vec<JoinHandle<(Vec<Record>, Vec<Holding>)>>,
    watchers: Vec<JoinHandle<Tale>>,
    scribe: JoinHandle<Tale>,
    records: Vec<Record>,
}

/// All that was written down, to be judged.
struct Reckoning {
    records: Vec<Record>,
    holdings: Vec<Holding>,
    scribe: Tale,
    tales: Vec<Tale>,
    /// Everything that each member tells of what is not compacted, and the first revision that was asked for.
    accounts: Vec<Vec<WatchResponse>>,
    first: i64,
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
        let holders = (0..HOLDERS)
            .map(|_| tokio::spawn(crowd.worker(rng.bits()).hold()))
            .collect();
        let (seen, seed) = (crowd.written_down.clone(), rng.bits());
        let scribe = Watching::scribe(&urls, clock.clone(), target.clone(), seed, seen);
        let scribe = tokio::spawn(scribe.watch());
        let watchers = (0..WATCHERS)
            .map(|_| tokio::spawn(Watching::new(&urls, clock.clone(), target.clone(), rng.bits()).watch()))
            .collect();
        Story {
            cluster,
            rng,
            crowd,
            target,
            workers,
            holders,
            watchers,
            scribe,
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
        let mut holdings = Vec::new();
        for holder in self.holders.drain(..) {
            let (records, held) = holder.await.expect("clients do not panic");
            self.records.extend(records);
            holdings.extend(held);
        }
        let running = self.cluster.running();
        let client = self.cluster.nodes[running[0]].client();
        eventually("the end of all leases", || async {
            let left = client.try_range(prefix_range(LEASED)).await;
            left.is_ok_and(|left| left.count == 0)
        })
        .await;
        let last = self.last_writes().await;
        self.target.store(last, Ordering::Relaxed);
        let mut tales = Vec::new();
        for watcher in self.watchers.drain(..) {
            let tale = within("a watcher to be told of everything", watcher).await;
            tales.push(tale.expect("watchers do not panic"));
        }
        let scribe = within("the scribe to be told of everything", self.scribe).await;
        let scribe = scribe.expect("watchers do not panic");
        self.cluster.agree().await;
        let (asked, compacted) = compactions(&self.records);
        let (first, mut accounts) = (asked + 1, Vec::new());
        for at in &running {
            let client = self.cluster.nodes[*at].client();
            accounts.push(account(&client, first, last).await);
            if compacted > 1 {
                check_compacted(&client, compacted - 1).await;
            }
        }
        running.iter().for_each(|at| self.cluster.nodes[*at].stop());
        println!("{}", summary(&self.records, &holdings, &tales, last));
        let reckoning = Reckoning {
            records: self.records,
            holdings,
            scribe,
            tales,
            accounts,
            first,
        };
        if let Err(why) = reckoning.reckon() {
            panic!("{why}");
        }
    }

    /// A write on each member, which must work; the revision of the last.
    async fn last_writes(&mut self) -> i64 {
        let mut worker = self.crowd.worker(self.rng.bits());
        for member in self.cluster.running() {
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

/// The highest revision that anybody asked to compact, and the highest of those that were.
fn compactions(records: &[Record]) -> (i64, i64) {
    let (mut asked, mut done) = (0, 0);
    for record in records {
        if let Ask::Compact { revision } = record.ask {
            asked = revision.max(asked);
            if matches!(record.outcome, Outcome::Done(..)) {
                done = revision.max(done);
            }
        }
    }
    (asked, done)
}

/// A compacted revision is gone.
async fn check_compacted(client: &Client, revision: i64) {
    let past = RangeRequest {
        revision,
        // A read that needs the leader may be refused because that just changed.
        serializable: true,
        ..key_range("k00")
    };
    let text = "etcdserver: mvcc: required revision has been compacted";
    refused(client.try_range(past).await, Code::OutOfRange, text);
}

/// Everything that a member tells of all its keys in these revisions.
async fn account(client: &Client, first: i64, last: i64) -> Vec<WatchResponse> {
    let everything = WatchCreateRequest {
        range_end: vec![0],
        start_revision: first,
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

impl Reckoning {
    fn reckon(self) -> Check {
        let mut history = History::default();
        history.compacted = self.first - 1;
        let written = self.scribe.sessions.iter().flat_map(|session| &session.answers);
        let written: Result<Vec<_>, _> = written.map(|(_, answer)| WatchResponse::decode(&answer[..])).collect();
        write_down(&mut history, &written.map_err(|error| error.to_string())?)?;
        for (member, answers) in self.accounts.into_iter().enumerate() {
            write_down(&mut history, &answers)?;
            let expects = everything(self.first);
            let answers = answers.iter().map(|answer| (0, answer.encode_to_vec())).collect();
            let (start, sessions) = (self.first, Vec::new());
            let mut tale = Tale { expects, sessions };
            tale.sessions.push(Session { member, start, answers });
            verdict::judge_watcher(&history, tale)?;
        }
        // An etcd that stood still while another one was elected acknowledges renewals that the new leader never hears of.
        if !is_reference() {
            leases::judge(&history, &self.holdings, &self.scribe)?;
        }
        let mut seen = Vec::new();
        for tale in self.tales.into_iter().chain([self.scribe]) {
            seen.extend(verdict::judge_watcher(&history, tale)?);
        }
        verdict::judge(&mut history, &self.records, seen)
    }
}

/// Takes the history from what a watcher of everything was told.
fn write_down(history: &mut History, answers: &[WatchResponse]) -> Check {
    let events: Vec<&Event> = answers.iter().flat_map(|answer| &answer.events).collect();
    let main = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    for revision in events.chunk_by(|one, other| main(one) == main(other)) {
        let prevs: Vec<_> = revision.iter().map(|event| before(history, event)).collect();
        history.tell(
            main(revision[0]),
            revision.iter().map(|event| change(event)).collect(),
            &prevs,
        )?;
    }
    Ok(())
}

/// Where the key was changed before, which may be compacted.
fn before(history: &History, event: &Event) -> Option<i64> {
    let kv = event.kv.as_ref()?;
    let told = event.prev_kv.as_ref().map(|kv| kv.mod_revision);
    let known = || Some(history.get(&kv.key, kv.mod_revision)?.mod_revision);
    told.or_else(|| known().filter(|_| kv.mod_revision <= history.compacted))
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

fn summary(records: &[Record], holdings: &[Holding], tales: &[Tale], last: i64) -> String {
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
    let renewals: usize = holdings.iter().map(|holding| holding.renewed_ns.len()).sum();
    let compacted = compactions(records).1;
    format!(
        "answers by member: {done:?}; {connections} connections of watchers; {} leases, {renewals} times granted or \
         renewed; {last} revisions, compacted up to {compacted}{others}",
        holdings.len()
    )
}
