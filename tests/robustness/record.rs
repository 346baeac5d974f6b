//! What clients asked, when, and what they were told; nothing is judged here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;

use crate::support::pb::mvccpb::KeyValue;

/// The time since the story began, the same for all its clients.
#[derive(Clone)]
pub struct Clock(Arc<Instant>);

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Clock {
        Clock(Arc::new(Instant::now()))
    }

    /// Units: nanoseconds.
    pub fn now_ns(&self) -> u64 {
        Duration::as_nanos(&self.0.elapsed()) as u64
    }
}

/// A key and value with its revisions, as bytes.
pub type Pair = Vec<u8>;

/// The bytes of a pair.
pub fn pair(kv: &KeyValue) -> Pair {
    kv.encode_to_vec()
}

/// One request.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A put of one key, with the pair before it.
    Put { key: String },
    /// A transaction that puts two keys at once.
    PutBoth { keys: [String; 2] },
    /// A delete of one key, with the pair before it.
    Delete { key: String },
    /// A put if the key was last changed at this revision (0: is not there), else a get.
    Swap { key: String, expected: i64 },
    /// A put of a key of its own under a lease.
    Hold { key: String, lease: i64 },
    /// A compaction.
    Compact { revision: i64 },
    /// A read of one key.
    Get { key: String, serializable: bool },
    /// A read of all keys.
    List { serializable: bool },
}

/// What an answer told beside its revision.
#[derive(Clone, Debug)]
pub enum Told {
    /// The pair before a put or delete.
    Before(Option<Pair>),
    /// Nothing more.
    Nothing,
    /// A swap was refused, and this is there instead.
    Instead(Option<Pair>),
    /// What was read.
    Pairs(Vec<Pair>),
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// An answer, of this revision.
    Done(i64, Told),
    /// An error that promises that nothing happened.
    Refused(String),
    /// No answer, or an error that promises nothing: it happened once, or not at all.
    Unknown(String),
}

/// One request from beginning to end.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number, with which the values it wrote begin.
    pub writer: u64,
    /// Units: nanoseconds.
    pub began_ns: u64,
    /// Units: nanoseconds.
    pub ended_ns: u64,
    /// The position of the member that was asked.
    pub member: usize,
    /// What was asked.
    pub ask: Ask,
    /// What came of it.
    pub outcome: Outcome,
}

impl Record {
    /// Whether it is a read that may be served from the past.
    pub fn is_serializable(&self) -> bool {
        matches!(
            self.ask,
            Ask::Get { serializable: true, .. } | Ask::List { serializable: true }
        )
    }
}
