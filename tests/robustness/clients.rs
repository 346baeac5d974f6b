//! Clients that put, delete, compare, swap and read a few keys on members of chance, and write down what they are told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tonic::{Code, Status};

use super::record::{Ask, Clock, Outcome, Record, Told, pair};
use crate::support::{
    pb::{
        etcdserverpb::{
            DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare::CompareResult,
            compare::TargetUnion, request_op::Request, response_op::Response,
        },
        mvccpb::KeyValue,
    },
    *,
};

/// How long a client waits for an answer.
pub const ANSWER_PATIENCE: Duration = Duration::from_millis(1500);
/// How long one value is tried to be put before a member counts as full, or dead. Longer than any election.
const FILL_PATIENCE: Duration = Duration::from_secs(15);
/// The keys that are fought over.
pub const KEYS: u64 = 12;
/// What all their names begin with.
pub const PREFIX: &str = "k";

/// How far values went into a member.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// All.
    Whole,
    /// So many; then its space was exceeded.
    Refused(u64),
    /// So many; then none more went in, and nobody said that there is no space.
    Unanswered(u64),
}

/// What all clients of a story share.
#[derive(Clone)]
pub struct Crowd {
    /// The client URLs of the members.
    pub urls: Vec<String>,
    /// The clock of the story.
    pub clock: Clock,
    /// Set when clients are to end.
    pub stop: Arc<AtomicBool>,
    /// The revision up to which the story knows its history, so that no more may be compacted.
    pub written_down: Arc<AtomicI64>,
    writers: Arc<AtomicU64>,
}

/// One client.
pub struct Worker {
    crowd: Crowd,
    members: Vec<Client>,
    /// Chance.
    pub rng: Rng,
    /// Where it saw each key changed last.
    seen: BTreeMap<String, i64>,
    records: Vec<Record>,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(urls: Vec<String>, clock: Clock) -> Crowd {
        Crowd {
            urls,
            clock,
            stop: Arc::default(),
            written_down: Arc::default(),
            writers: Arc::new(AtomicU64::new(1)),
        }
    }

    /// One more client.
    pub fn worker(&self, seed: u64) -> Worker {
        Worker {
            crowd: self.clone(),
            members: self.urls.iter().map(|url| Client::connect(url)).collect(),
            rng: Rng::new(seed),
            seen: BTreeMap::new(),
            records: Vec::new(),
        }
    }
}

impl Worker {
    /// Asks one thing after the other until it is told to end.
    pub async fn work(mut self) -> Vec<Record> {
        while !self.is_over() {
            let (ask, member) = (self.draw(), self.any_member());
            let padding = self.rng.below(200) as usize;
            if !self.ask(member, ask, padding).await {
                pause_ms(10 + self.rng.below(40)).await;
            } else if self.rng.chance(30) {
                pause_ms(self.rng.below(8)).await;
            }
        }
        self.records
    }

    /// Puts values of many bytes, each to a key of its own, until one is refused or cannot be put for a while.
    pub async fn fill(&mut self, name: &str, bytes: usize, at_most: u64) -> Filled {
        for number in 0..at_most {
            let (key, begun) = (format!("{name}{number:04}"), Instant::now());
            while !self.ask(0, Ask::Put { key: key.clone() }, bytes).await {
                match self.records.last().map(|record| &record.outcome) {
                    Some(Outcome::Refused(text)) if text.contains("space exceeded") => return Filled::Refused(number),
                    _ if self.is_over() || begun.elapsed() > FILL_PATIENCE => return Filled::Unanswered(number),
                    _ => pause_ms(50).await,
                }
            }
        }
        Filled::Whole
    }

    /// What it has written down.
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// Whether it is told to end.
    pub fn is_over(&self) -> bool {
        self.crowd.stop.load(Ordering::Relaxed)
    }

    /// The time of the story. Units: nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.crowd.clock.now_ns()
    }

    /// A member of chance.
    pub fn any_member(&mut self) -> usize {
        self.rng.below(self.members.len() as u64) as usize
    }

    /// Its connection to a member.
    pub fn client(&self, member: usize) -> Client {
        self.members[member].clone()
    }

    fn draw(&mut self) -> Ask {
        let key = self.key();
        match self.rng.below(100) {
            0..35 => Ask::Put { key },
            35..40 => {
                let other = self.key();
                match key == other {
                    true => Ask::Put { key },
                    false => Ask::PutBoth { keys: [key, other] },
                }
            }
            40..50 => Ask::Delete { key },
            50..70 => {
                let expected = self.seen.get(&key).copied().unwrap_or(0);
                Ask::Swap { key, expected }
            }
            99 => Ask::Compact {
                revision: (self.crowd.written_down.load(Ordering::Relaxed) - self.rng.below(100) as i64).max(1),
            },
            kind => match kind % 3 {
                0 => Ask::List {
                    serializable: self.rng.chance(30),
                },
                _ => Ask::Get {
                    key,
                    serializable: self.rng.chance(20),
                },
            },
        }
    }

    fn key(&mut self) -> String {
        format!("{PREFIX}{:02}", self.rng.below(KEYS))
    }

    /// Asks one member one thing and writes it down; false when there was no good answer.
    pub async fn ask(&mut self, member: usize, ask: Ask, padding: usize) -> bool {
        let writer = self.crowd.writers.fetch_add(1, Ordering::Relaxed);
        let value = format!("{writer}.{}", "x".repeat(padding));
        let began_ns = self.crowd.clock.now_ns();
        let answer = tokio::time::timeout(ANSWER_PATIENCE, send(&self.members[member], &ask, value)).await;
        let ended_ns = self.crowd.clock.now_ns();
        let outcome = match answer {
            Err(_) => Outcome::Unknown("no answer in time".into()),
            Ok(Err(status)) => refusal(status),
            Ok(Ok((revision, told))) => Outcome::Done(revision, told),
        };
        let is_done = matches!(outcome, Outcome::Done(..));
        self.remember(&ask, &outcome);
        self.records.push(Record {
            writer,
            began_ns,
            ended_ns,
            member,
            ask,
            outcome,
        });
        is_done
    }

    fn remember(&mut self, ask: &Ask, outcome: &Outcome) {
        let (Ask::Put { key } | Ask::Delete { key } | Ask::Swap { key, .. } | Ask::Get { key, .. }) = ask else {
            return;
        };
        let last = |pair: Option<&Vec<u8>>| {
            let kv: Option<KeyValue> = pair.and_then(|pair| prost::Message::decode(pair.as_slice()).ok());
            kv.map_or(0, |kv| kv.mod_revision)
        };
        let seen = match (ask, outcome) {
            (Ask::Delete { .. }, Outcome::Done(..)) => 0,
            (_, Outcome::Done(_, Told::Instead(pair))) => last(pair.as_ref()),
            (Ask::Get { .. }, Outcome::Done(_, Told::Pairs(pairs))) => last(pairs.first()),
            (_, Outcome::Done(revision, _)) => *revision,
            _ => return,
        };
        self.seen.insert(key.clone(), seen);
    }
}

/// Errors by which etcd says that a request was not even tried, or was applied without effect.
fn refusal(status: Status) -> Outcome {
    let text = format!("{:?}: {}", status.code(), status.message());
    match (status.code(), status.message()) {
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded" | "etcdserver: too many requests") => {
            Outcome::Refused(text)
        }
        _ => Outcome::Unknown(text),
    }
}

async fn send(member: &Client, ask: &Ask, value: String) -> Result<(i64, Told), Status> {
    let put = |key: &String| PutRequest {
        prev_kv: true,
        ..put_request(key.as_str(), value.as_str())
    };
    let plain = |key: &String| op(Request::RequestPut(put_request(key.as_str(), value.as_str())));
    Ok(match ask {
        Ask::Put { key } => {
            let answer = member.try_put(put(key)).await?;
            (
                revision(&answer.header),
                Told::Before(answer.prev_kv.as_ref().map(pair)),
            )
        }
        Ask::PutBoth { keys } => {
            let answer = member.try_txn(txn_of(keys.iter().map(plain).collect())).await?;
            (revision(&answer.header), Told::Nothing)
        }
        Ask::Delete { key } => {
            let request = DeleteRangeRequest {
                key: key.clone().into(),
                prev_kv: true,
                ..Default::default()
            };
            let answer = member.try_delete(request).await?;
            (
                revision(&answer.header),
                Told::Before(answer.prev_kvs.first().map(pair)),
            )
        }
        Ask::Swap { key, expected } => {
            let answer = member.try_txn(swap(key, *expected, plain(key))).await?;
            let told = match (answer.succeeded, answer.responses.first()) {
                (true, _) => Told::Nothing,
                (false, Some(response)) => match &response.response {
                    Some(Response::ResponseRange(range)) => Told::Instead(range.kvs.first().map(pair)),
                    other => panic!("a range was answered with {other:?}"),
                },
                (false, None) => panic!("a range in a transaction had no answer"),
            };
            (revision(&answer.header), told)
        }
        Ask::Hold { key, lease } => {
            let leased = PutRequest {
                lease: *lease,
                ..put_request(key.as_str(), value.as_str())
            };
            (revision(&member.try_put(leased).await?.header), Told::Nothing)
        }
        Ask::Compact { revision: to } => (revision(&member.try_compact(*to).await?.header), Told::Nothing),
        Ask::Get { key, serializable } => read(member, key_range(key.as_str()), *serializable).await?,
        Ask::List { serializable } => read(member, prefix_range(PREFIX), *serializable).await?,
    })
}

fn swap(key: &str, expected: i64, put: RequestOp) -> TxnRequest {
    let compare = compare(key, CompareResult::Equal, TargetUnion::ModRevision(expected));
    txn(vec![compare], vec![put], vec![get_op(key)])
}

async fn read(member: &Client, range: RangeRequest, serializable: bool) -> Result<(i64, Told), Status> {
    let answer = member.try_range(RangeRequest { serializable, ..range }).await?;
    assert_eq!(answer.count, answer.kvs.len() as i64, "nothing limits the answer");
    Ok((
        revision(&answer.header),
        Told::Pairs(answer.kvs.iter().map(pair).collect()),
    ))
}
