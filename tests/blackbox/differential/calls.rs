//! Random requests over few keys, and answers without what may differ between two clusters.

use crate::support::{
    pb::{
        etcdserverpb::{
            compare::{CompareResult, TargetUnion},
            request_op::Request,
            *,
        },
        mvccpb::KeyValue,
    },
    *,
};
use std::collections::BTreeSet;
use tonic::{Code, Response, Status};

/// One request.
#[derive(Clone, Debug)]
pub enum Call {
    Put(PutRequest),
    Range(RangeRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases,
    HashKv(i64),
}

/// One answer, with everything that names a cluster, a member, a term or a moment removed.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Put(PutResponse),
    Range(RangeResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    Leases(LeaseLeasesResponse),
    HashKv(HashKvResponse),
    Refused(Code, String),
}

/// Unwraps an answer and blanks its header; errors become answers too.
macro_rules! settle {
    ($call:expr, $variant:ident) => {
        settle!($call, $variant, |_answer| {})
    };
    ($call:expr, $variant:ident, $also:expr) => {
        match $call.await.map(Response::into_inner) {
            Ok(mut answer) => {
                blank(&mut answer.header);
                #[allow(clippy::redundant_closure_call)]
                ($also)(&mut answer);
                Answer::$variant(answer)
            }
            Err(status) => refusal(status),
        }
    };
}

impl Call {
    /// True when the request changes nothing, whatever the answer.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Call::Range(_) | Call::TimeToLive(_) | Call::Leases | Call::HashKv(_)
        )
    }

    /// Sends the request and settles the answer.
    pub async fn send(&self, client: &Client) -> Answer {
        let (mut kv, mut lease) = (client.kv.clone(), client.lease.clone());
        match self.clone() {
            Call::Put(request) => settle!(kv.put(request), Put),
            Call::Range(request) => settle!(kv.range(request.clone()), Range, |answer: &mut RangeResponse| {
                settle_ties(&request, answer)
            }),
            Call::Delete(request) => settle!(kv.delete_range(request), Delete),
            Call::Txn(request) => settle!(kv.txn(request.clone()), Txn, |answer: &mut TxnResponse| {
                settle_ties_within(&request, answer)
            }),
            Call::Compact(request) => settle!(kv.compact(request), Compact),
            Call::Grant(request) => settle!(lease.lease_grant(request), Grant),
            Call::Revoke(request) => settle!(lease.lease_revoke(request), Revoke),
            Call::TimeToLive(request) => {
                settle!(
                    lease.lease_time_to_live(request),
                    TimeToLive,
                    |answer: &mut LeaseTimeToLiveResponse| {
                        answer.ttl = answer.ttl.signum();
                        answer.keys.sort();
                    }
                )
            }
            Call::Leases => {
                settle!(
                    lease.lease_leases(LeaseLeasesRequest {}),
                    Leases,
                    |answer: &mut LeaseLeasesResponse| {
                        answer.leases.sort_by_key(|lease| lease.id);
                    }
                )
            }
            Call::HashKv(revision) => {
                let mut maintenance = client.maintenance.clone();
                let request = HashKvRequest { revision };
                settle!(maintenance.hash_kv(request), HashKv, |answer: &mut HashKvResponse| {
                    answer.hash_revision = 0
                })
            }
        }
    }
}

/// Whether a transaction may delete anything, whichever way it goes.
fn deletes(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestDeleteRange(_)) => true,
        Some(Request::RequestTxn(inner)) => deletes(inner),
        _ => false,
    })
}

/// Makes every put bring its value and its lease. etcd 3.5 ends with a panic when a transaction deletes a key and then
/// puts it with `ignore_value`: it looks for the key before the transaction, and takes a range end of one zero byte
/// for no overlap.
fn take_values_and_leases(txn: &mut TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Request::RequestTxn(inner)) => take_values_and_leases(inner),
            _ => {}
        }
    }
}

/// Makes answers with ties comparable: Go's sort leaves equals in any order once there are more than a dozen. They are
/// put in key order, or, where a limit cut some of them off, all but what was sorted by is taken away.
fn settle_ties(request: &RangeRequest, answer: &mut RangeResponse) {
    use range_request::{SortOrder, SortTarget};
    let target = request.sort_target();
    if target == SortTarget::Key || answer.count <= 12 {
        return;
    }
    let sorted_by = |kv: &KeyValue| match target {
        SortTarget::Version => (kv.version, vec![]),
        SortTarget::Create => (kv.create_revision, vec![]),
        SortTarget::Mod => (kv.mod_revision, vec![]),
        _ => (0, kv.value.clone()),
    };
    let order = |a: &KeyValue, b: &KeyValue| match request.sort_order() {
        SortOrder::Descend => sorted_by(b).cmp(&sorted_by(a)),
        _ => sorted_by(a).cmp(&sorted_by(b)),
    };
    let values_are_gone = target == SortTarget::Value && request.keys_only;
    if !values_are_gone && !answer.kvs.is_sorted_by(|a, b| order(a, b).is_le()) {
        return;
    }
    if request.limit == 0 {
        answer.kvs.sort_by(|a, b| order(a, b).then_with(|| a.key.cmp(&b.key)));
        return;
    }
    for kv in &mut answer.kvs {
        let (number, value) = sorted_by(kv);
        *kv = KeyValue {
            version: number,
            value,
            ..Default::default()
        };
    }
}

fn settle_ties_within(request: &TxnRequest, answer: &mut TxnResponse) {
    let ran = if answer.succeeded {
        &request.success
    } else {
        &request.failure
    };
    for (op, response) in ran.iter().zip(&mut answer.responses) {
        match (&op.request, &mut response.response) {
            (Some(Request::RequestRange(range)), Some(response_op::Response::ResponseRange(answer))) => {
                settle_ties(range, answer)
            }
            (Some(Request::RequestTxn(inner)), Some(response_op::Response::ResponseTxn(answer))) => {
                settle_ties_within(inner, answer)
            }
            _ => {}
        }
    }
}

fn blank(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        assert!(
            header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0,
            "{header:?}"
        );
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
}

fn refusal(status: Status) -> Answer {
    let (code, text) = (status.code(), status.message().to_owned());
    assert!(
        code != Code::Unavailable && code != Code::Cancelled,
        "a server failed: {status:?}"
    );
    Answer::Refused(code, text)
}

/// Makes requests from a seed, and follows the revisions so that most of them make sense.
pub struct Generator {
    rng: Rng,
    newest: i64,
    compacted: i64,
    /// Revisions that may have deleted a key and put it, which etcd does not survive being compacted at: it keeps the
    /// tombstone and loses the put.
    twice: BTreeSet<i64>,
    /// Revisions compacted at without waiting for the end: both answer HashKV there by the hash they take meanwhile, or
    /// without it, as they get to it.
    unsettled: BTreeSet<i64>,
    /// The last compaction was not waited for.
    compacting: bool,
}

impl Generator {
    /// A generator whose requests depend on `seed` and the answers alone.
    pub fn new(seed: u64) -> Generator {
        Generator {
            rng: Rng::new(seed),
            newest: 1,
            compacted: 0,
            twice: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            compacting: false,
        }
    }

    /// The oldest and the newest revision that can be read.
    pub fn readable_revisions(&self) -> (i64, i64) {
        (self.compacted.max(1), self.newest)
    }

    /// Whether both answer HashKV at that revision alike, however far their compactions are.
    pub fn is_settled(&self, revision: i64) -> bool {
        !self.unsettled.contains(&revision)
    }

    /// Whether a compaction may be at work: rows that it has not come to are hashed where no key is left to keep.
    pub fn may_be_compacting(&self) -> bool {
        self.compacting
    }

    /// Follows what an answer says about revisions.
    pub fn learn(&mut self, call: &Call, answer: &Answer) {
        let header = match answer {
            Answer::Put(answer) => &answer.header,
            Answer::Delete(answer) => &answer.header,
            Answer::Txn(answer) => &answer.header,
            Answer::Revoke(answer) => &answer.header,
            Answer::Compact(answer) => &answer.header,
            _ => return,
        };
        self.newest = header.as_ref().expect("the answer has a header").revision;
        if matches!(call, Call::Txn(txn) if deletes(txn)) {
            self.twice.insert(self.newest);
        }
        if let Call::Compact(request) = call {
            self.compacted = request.revision;
            self.compacting = !request.physical;
            if !request.physical {
                self.unsettled.insert(request.revision);
            }
        }
    }

    /// The next request.
    pub fn next_call(&mut self) -> Call {
        match self.rng.below(100) {
            0..34 => Call::Put(self.put()),
            34..56 => Call::Range(self.range()),
            56..66 => Call::Delete(self.delete()),
            66..86 => {
                let mut txn = self.txn(0);
                if deletes(&txn) {
                    take_values_and_leases(&mut txn);
                }
                Call::Txn(txn)
            }
            86..88 => Call::Compact(self.compact()),
            88..91 => {
                let id = self.lease();
                Call::Grant(LeaseGrantRequest { id, ttl: 5000 + id })
            }
            91..93 => Call::Revoke(LeaseRevokeRequest { id: self.lease() }),
            93..96 => {
                let keys = self.rng.chance(70);
                Call::TimeToLive(LeaseTimeToLiveRequest { id: self.lease(), keys })
            }
            96..97 => Call::Leases,
            _ => {
                let revision = self.revision();
                Call::HashKv(if self.is_settled(revision) { revision } else { 0 })
            }
        }
    }

    fn key(&mut self) -> Vec<u8> {
        match self.rng.below(100) {
            0 => Vec::new(),
            1 => vec![0],
            2 => vec![0xff, self.rng.below(3) as u8],
            _ => format!(
                "{}{}",
                self.rng.pick(&["a", "b", "c"]),
                self.rng.pick(&["", "1", "2", "22", "3"])
            )
            .into(),
        }
    }

    fn range_end(&mut self) -> Vec<u8> {
        match self.rng.below(10) {
            0..4 => Vec::new(),
            4 => vec![0],
            5..8 => vec![b'b' + self.rng.below(3) as u8],
            _ => self.key(),
        }
    }

    fn lease(&mut self) -> i64 {
        1 + self.rng.below(8) as i64
    }

    /// Mostly readable, sometimes compacted or not yet there; 0 for now in half of the calls.
    fn revision(&mut self) -> i64 {
        match self.rng.below(20) {
            0..10 => 0,
            10 => -1,
            11 => self.newest + 1,
            12 => self.compacted,
            13 => self.compacted - 1,
            _ => self.newest - self.rng.below((self.newest - self.compacted.max(1) + 1) as u64) as i64,
        }
    }

    fn put(&mut self) -> PutRequest {
        let (ignore_value, ignore_lease) = (self.rng.chance(5), self.rng.chance(5));
        let lease = if self.rng.chance(15) { self.lease() } else { 0 };
        let length = if self.rng.chance(3) { 3000 } else { self.rng.below(12) } as usize;
        let value = if ignore_value && self.rng.chance(80) {
            vec![]
        } else {
            self.rng.bytes(length)
        };
        PutRequest {
            key: self.key(),
            value,
            lease,
            prev_kv: self.rng.chance(30),
            ignore_value,
            ignore_lease,
        }
    }

    fn range(&mut self) -> RangeRequest {
        let mut bound = |percent| if self.rng.chance(percent) { self.revision() } else { 0 };
        let filters = [bound(8), bound(8), bound(8), bound(8)];
        RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: if self.rng.chance(40) {
                self.rng.below(6) as i64
            } else {
                0
            },
            revision: self.revision(),
            sort_order: if self.rng.chance(40) {
                self.rng.below(3) as i32
            } else {
                0
            },
            sort_target: if self.rng.chance(30) {
                self.rng.below(5) as i32
            } else {
                0
            },
            serializable: self.rng.chance(20),
            keys_only: self.rng.chance(10),
            count_only: self.rng.chance(10),
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let range_end = if self.rng.chance(50) { vec![] } else { self.range_end() };
        DeleteRangeRequest {
            key: self.key(),
            range_end,
            prev_kv: self.rng.chance(40),
        }
    }

    /// Never at revision 0: etcd then answers HashKV of "now" with what it remembers of that.
    fn compact(&mut self) -> CompactionRequest {
        let keep = self.rng.below(40) as i64;
        let revision = if self.rng.chance(80) {
            (self.newest - keep).max(1)
        } else {
            self.revision().max(1)
        };
        let safe = |revision: &i64| !self.twice.contains(revision);
        let revision = (1..=revision).rev().find(safe).unwrap_or(1);
        CompactionRequest {
            revision,
            physical: self.rng.chance(50),
        }
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let mut list = |most: u64| {
            let count = if self.rng.chance(1) { 129 } else { self.rng.below(most) };
            (0..count).map(|_| self.operation(depth)).collect::<Vec<_>>()
        };
        let (success, failure) = (list(5), list(4));
        let compare = (0..self.rng.below(3)).map(|_| self.compare()).collect();
        TxnRequest {
            compare,
            success,
            failure,
        }
    }

    fn operation(&mut self, depth: u32) -> RequestOp {
        let request = match self.rng.below(20) {
            0..9 => Request::RequestPut(self.put()),
            9..14 => Request::RequestRange(self.range()),
            14..18 => Request::RequestDeleteRange(self.delete()),
            _ if depth < 3 => Request::RequestTxn(self.txn(depth + 1)),
            _ => return RequestOp { request: None },
        };
        op(request)
    }

    fn compare(&mut self) -> Compare {
        use CompareResult::*;
        let number = match self.rng.below(3) {
            0 => 0,
            1 => self.rng.below(4) as i64,
            _ => self.revision(),
        };
        let expected = match self.rng.below(5) {
            0 => TargetUnion::Version(number),
            1 => TargetUnion::CreateRevision(number),
            2 => TargetUnion::ModRevision(number),
            3 => TargetUnion::Lease(number),
            _ => TargetUnion::Value(self.rng.bytes(1)),
        };
        let result = *self.rng.pick(&[Equal, Greater, Less, NotEqual]);
        let range_end = if self.rng.chance(30) { self.range_end() } else { vec![] };
        Compare {
            key: self.key(),
            range_end,
            ..compare("", result, expected)
        }
    }
}
