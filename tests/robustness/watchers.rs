//! Watch clients that go from member to member and go on where they stopped; they write down all they are sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prost::Message;

use super::{clients::KEYS, record::Clock};
use crate::{
    checker::watcher::Watcher as Expectation,
    support::{
        pb::etcdserverpb::{WatchCreateRequest, WatchResponse},
        *,
    },
};

/// A stream that says nothing for this long is asked how far it is.
const SILENCE: Duration = Duration::from_millis(100);
/// A stream that is not there after this long is opened elsewhere.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);

/// What came on a stream: (when, answer).
pub type Answers = Vec<(u64, Vec<u8>)>;

/// What one connection to one member brought.
pub struct Session {
    /// The position of the member.
    pub member: usize,
    /// The first revision that was asked for; 0 for what is new.
    pub start: i64,
    /// What it sent.
    pub answers: Answers,
}

/// All that one watcher was sent.
pub struct Tale {
    /// Whom it watches, as it was at the beginning.
    pub expects: Expectation,
    /// Its connections, one after the other.
    pub sessions: Vec<Session>,
}

/// A watcher of all keys from a revision on, with what was there before.
pub fn everything(first: i64) -> Expectation {
    Expectation {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        prev_kv: true,
        next: first,
        ..Expectation::default()
    }
}

/// One watcher at work.
pub struct Watching {
    members: Vec<Client>,
    clock: Clock,
    rng: Rng,
    /// The revision that must be seen before it ends; 0 until that is known.
    target: Arc<AtomicI64>,
    /// How far it is, for others.
    seen: Arc<AtomicI64>,
    next: i64,
    tale: Tale,
}

impl Watching {
    /// A watcher of chance.
    pub fn new(urls: &[String], clock: Clock, target: Arc<AtomicI64>, seed: u64) -> Watching {
        let mut rng = Rng::new(seed);
        let (key, range_end): (Bytes, Bytes) = match rng.below(4) {
            0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            1 => (format!("k{:02}", rng.below(KEYS)).into(), Bytes::new()),
            _ => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
        };
        let next = i64::from(rng.chance(50));
        let expects = Expectation {
            key,
            range_end,
            no_put: rng.chance(10),
            no_delete: rng.chance(10),
            prev_kv: rng.chance(50),
            fragment: rng.chance(20),
            next,
            ..Expectation::default()
        };
        Watching {
            members: urls.iter().map(|url| Client::connect(url)).collect(),
            clock,
            rng,
            target,
            seen: Arc::default(),
            next,
            tale: Tale {
                expects,
                sessions: Vec::new(),
            },
        }
    }

    /// A watcher of everything from the beginning, which writes down the history and tells how far it is.
    pub fn scribe(urls: &[String], clock: Clock, target: Arc<AtomicI64>, seed: u64, seen: Arc<AtomicI64>) -> Watching {
        let mut watching = Watching::new(urls, clock, target, seed);
        watching.tale.expects = everything(1);
        (watching.next, watching.seen) = (1, seen);
        watching
    }

    /// Watches until it has been told of everything up to the target.
    pub async fn watch(mut self) -> Tale {
        while !self.is_done() {
            let member = self.rng.below(self.members.len() as u64) as usize;
            let (client, create) = (self.members[member].clone(), self.create());
            let opening = Watcher::try_open_with(&client, vec![create_request(create)]);
            match tokio::time::timeout(OPEN_PATIENCE, opening).await {
                Ok(Ok(stream)) => {
                    let (start, answers) = (self.next, Vec::new());
                    self.tale.sessions.push(Session { member, start, answers });
                    self.follow(stream).await;
                }
                _ => pause_ms(50).await,
            }
        }
        self.tale
    }

    fn is_done(&self) -> bool {
        let target = self.target.load(Ordering::Relaxed);
        target > 0 && self.next > target
    }

    fn create(&self) -> WatchCreateRequest {
        let expects = &self.tale.expects;
        let filters = [(expects.no_put, 0), (expects.no_delete, 1)];
        WatchCreateRequest {
            key: expects.key.to_vec(),
            range_end: expects.range_end.to_vec(),
            start_revision: self.next,
            filters: filters
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, filter)| *filter)
                .collect(),
            prev_kv: expects.prev_kv,
            fragment: expects.fragment,
            ..Default::default()
        }
    }

    /// Reads one stream until it breaks, is silent although asked, or has lasted a while.
    async fn follow(&mut self, mut stream: Watcher) {
        let leave_ns = self.clock.now_ns() + (300 + self.rng.below(2500)) * 1_000_000;
        let mut asked = 0;
        while !self.is_done() && self.clock.now_ns() < leave_ns {
            match tokio::time::timeout(SILENCE, stream.try_next()).await {
                Ok(Ok(Some(answer))) => {
                    asked = 0;
                    if !self.take(answer) {
                        return;
                    }
                }
                Ok(_) => return,
                Err(_) if asked < 10 && stream.try_ask_progress() => asked += 1,
                Err(_) => return,
            }
        }
    }

    /// Moves on as a client does: behind what it was told.
    fn take(&mut self, answer: WatchResponse) -> bool {
        let session = self.tale.sessions.last_mut().expect("answers come in a session");
        session.answers.push((self.clock.now_ns(), answer.encode_to_vec()));
        let told = answer.header.as_ref().map_or(0, |header| header.revision);
        let last = answer.events.last().and_then(|event| event.kv.as_ref());
        self.next = match last {
            _ if answer.canceled => {
                // What was compacted is lost to it.
                self.next = self.next.max(answer.compact_revision + 1);
                return false;
            }
            Some(_) if answer.fragment => self.next,
            Some(kv) => self.next.max(kv.mod_revision + 1),
            None if answer.created && self.next > 0 => self.next,
            None => self.next.max(told + 1),
        };
        self.seen.store(self.next - 1, Ordering::Relaxed);
        true
    }
}
