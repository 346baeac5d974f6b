//! What waits for the core, and what happens when the core speaks.

use std::sync::Arc;

use net::{
    grpc::{Code, Status},
    pb::etcdserverpb::{
        AlarmMember, AlarmResponse, CompactionResponse, DefragmentResponse, LeaseGrantResponse, LeaseLeasesResponse,
        LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveResponse, MoveLeaderResponse, RangeRequest, TxnRequest,
    },
};
use storage::mvcc::StoreError;

use super::{
    Api, FromCore, answer,
    jobs::Job,
    shard::{CallKey, CallState, Wires},
    status::{self, Failure},
};
use crate::member::{Outcome, Refusal, Reply, Request, View};

/// What to do with the core's answer to a request.
#[derive(Debug)]
pub(super) enum Pending {
    /// Reads that wait for the same leadership round.
    Round(Vec<Waiting>),
    /// A put.
    Put { key: CallKey, prev_kv: bool },
    /// A delete.
    DeleteRange { key: CallKey, prev_kv: bool },
    /// A transaction.
    Txn { key: CallKey, request: Box<TxnRequest> },
    /// A compaction; `physical`: answered once the revisions are gone.
    Compact {
        key: CallKey,
        physical: bool,
        revision: i64,
    },
    /// The rest of a physical compaction.
    Compacted { key: CallKey },
    /// A renewal on a keepalive stream.
    KeepAlive { key: CallKey, lease: i64 },
    /// `LeaseTimeToLive`.
    LeaseInfo { key: CallKey, lease: i64 },
    /// Any request whose outcome alone makes the answer.
    Plain { key: CallKey },
    /// A request that came over HTTP.
    Told(super::peer_http::Told),
    /// An alarm that this member raises; the calls that came to the quota are refused once it is on.
    Alarm { kind: i32, refused: Vec<CallKey> },
}

impl Pending {
    /// The one call it belongs to, where a cancelled call is to withdraw it.
    pub fn call(&self) -> Option<CallKey> {
        match self {
            Pending::Put { key, .. }
            | Pending::DeleteRange { key, .. }
            | Pending::Txn { key, .. }
            | Pending::Compact { key, .. }
            | Pending::Compacted { key }
            | Pending::LeaseInfo { key, .. }
            | Pending::Plain { key } => Some(*key),
            Pending::Round(_) | Pending::KeepAlive { .. } | Pending::Told(_) | Pending::Alarm { .. } => None,
        }
    }
}

/// A read that waits for a leadership round.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A range.
    Range { key: CallKey, request: Box<RangeRequest> },
    /// A range in chunks.
    RangeStream { key: CallKey, request: Box<RangeRequest> },
    /// A read-only transaction.
    Txn { key: CallKey, request: Box<TxnRequest> },
    /// The member list.
    MemberList { key: CallKey },
    /// A step of a downgrade.
    Downgrade { key: CallKey, wish: super::downgrade::Wish },
    /// A health check over HTTP.
    Health(super::Verdict),
}

impl Waiting {
    fn call(&self) -> Option<CallKey> {
        match self {
            Waiting::Range { key, .. }
            | Waiting::RangeStream { key, .. }
            | Waiting::Txn { key, .. }
            | Waiting::Downgrade { key, .. }
            | Waiting::MemberList { key } => Some(*key),
            Waiting::Health(_) => None,
        }
    }
}

/// Reads that wait on this shard at once. More are refused.
const WAITING_READS_MAX: usize = 1 << 18;

impl Api {
    /// Lets a read wait for the round that the end of this turn starts.
    pub(super) fn wait_for_round(&mut self, read: Waiting) -> Result<(), Failure> {
        if self.reads.len() >= WAITING_READS_MAX {
            return Err(status::TOO_MANY_REQUESTS);
        }
        self.reads.push(read);
        Ok(())
    }

    /// A leadership round of its own: done once this member has applied what was committed when it was asked for.
    pub fn barrier(&mut self) -> super::Verdict {
        let verdict = super::Verdict::default();
        if let Err(failure) = self.wait_for_round(Waiting::Health(verdict.clone())) {
            verdict.give(Err(failure));
        }
        self.start_round();
        self.flush_outbox();
        verdict
    }

    /// Starts one leadership round for all reads of the turn.
    pub(super) fn start_round(&mut self) {
        if !self.reads.is_empty() {
            let reads = std::mem::take(&mut self.reads);
            self.ask(Request::ReadBarrier, Pending::Round(reads));
        }
    }

    /// Takes what the core says.
    pub fn on_core(&mut self, message: FromCore, wires: &dyn Wires) {
        match message {
            FromCore::Published(published) => {
                self.hub.set_term(published.view.term);
                let past = super::past::ViewPast(&published.view.store);
                for block in &published.blocks {
                    if let Some(first) = block.first_revision() {
                        let events = super::past::events(block);
                        let last = block.revision();
                        self.hub.consume(
                            events,
                            first,
                            last,
                            &past,
                            &mut super::kv::HubSink(wires, &self.setup.metrics),
                        );
                    }
                }
                self.wake_jobs |= self.hub.has_work();
            }
            FromCore::Lagged(revision) => {
                self.hub.lagged(revision);
                self.wake_jobs |= self.hub.has_work();
            }
            FromCore::HashForCompaction(store, revision) => self.hash_compaction(&store, revision),
            FromCore::Replies(view, replies) => {
                for reply in replies {
                    self.on_reply(&view, reply, wires);
                }
            }
        }
    }

    fn on_reply(&mut self, view: &Arc<View>, reply: Reply, wires: &dyn Wires) {
        let Some(pending) = self.pending.remove(&reply.id) else {
            return;
        };
        match reply.result {
            Err(refusal) => self.refused(pending, refusal, wires),
            Ok(outcome) => self.settled(view, pending, outcome, wires),
        }
    }

    fn refused(&mut self, pending: Pending, refusal: Refusal, wires: &dyn Wires) {
        self.fail_waiting(pending, refusal.into(), wires);
    }

    fn fail_waiting(&mut self, pending: Pending, failure: Failure, wires: &dyn Wires) {
        match pending {
            Pending::Round(reads) => {
                for read in reads {
                    match read {
                        Waiting::Health(verdict) => verdict.give(Err(failure)),
                        other => {
                            let key = other.call().expect("every read but health has a call");
                            self.fail(key, failure, wires);
                        }
                    }
                }
            }
            Pending::KeepAlive { key, .. } => self.fail(key, failure, wires),
            Pending::Told(told) => told.give(Err(failure)),
            Pending::Alarm { refused, .. } => self.refuse_for_space(refused, wires),
            other => {
                if let Some(key) = other.call() {
                    self.fail(key, failure, wires);
                }
            }
        }
    }

    fn settled(&mut self, view: &Arc<View>, pending: Pending, outcome: Outcome, wires: &dyn Wires) {
        let store = &view.store;
        match (pending, outcome) {
            (Pending::Round(reads), _) => {
                for read in reads {
                    self.serve(view, read, wires);
                }
            }
            (Pending::Put { key, prev_kv }, Outcome::Put { revision, prev }) => {
                let header = self.header(view, revision);
                let answer = answer::put(store, header, prev.filter(|_| prev_kv));
                self.reply_or_stop(key, answer, wires);
            }
            (Pending::DeleteRange { key, prev_kv }, Outcome::DeleteRange(deleted)) => {
                let header = self.header(view, deleted.revision);
                let answer = answer::delete_range(store, header, &deleted, prev_kv);
                self.reply_or_stop(key, answer, wires);
            }
            (Pending::Txn { key, request }, Outcome::Txn(outcome)) => {
                let header = self.header(view, outcome.revision);
                let answer = answer::txn(store, header, &request, &outcome);
                self.reply_or_stop(key, answer, wires);
            }
            (
                Pending::Compact {
                    key,
                    physical: true,
                    revision,
                },
                Outcome::Compact { .. },
            ) => {
                self.ask(Request::CompactionDone { revision }, Pending::Compacted { key });
            }
            (Pending::Compact { key, .. }, Outcome::Compact { revision }) => {
                let header = Some(self.header(view, revision));
                self.reply_to(key, &CompactionResponse { header }, wires);
            }
            (Pending::Compacted { key }, _) => {
                let header = Some(self.header(view, view.revision()));
                self.reply_to(key, &CompactionResponse { header }, wires);
            }
            (Pending::KeepAlive { key, lease }, Outcome::LeaseRenew { ttl, revision }) => {
                let header = self.header(view, revision);
                self.kept_alive(key, lease, ttl, header, wires);
            }
            (Pending::LeaseInfo { key, lease }, Outcome::LeaseInfo(info)) => {
                let mut answer = LeaseTimeToLiveResponse {
                    header: Some(self.header(view, view.revision())),
                    id: lease,
                    ttl: -1,
                    ..LeaseTimeToLiveResponse::default()
                };
                if let Some(info) = info {
                    answer.ttl = info.remaining_seconds;
                    answer.granted_ttl = info.granted_seconds;
                    answer.keys = info.keys;
                }
                self.reply_to(key, &answer, wires);
            }
            (Pending::Plain { key }, outcome) => self.plain(view, key, outcome, wires),
            (Pending::Told(told), outcome) => told.give(Ok(outcome)),
            (Pending::Alarm { refused, .. }, _) => self.refuse_for_space(refused, wires),
            (pending, outcome) => unreachable!("the core answers in kind: {pending:?} got {outcome:?}"),
        }
    }

    fn refuse_for_space(&mut self, refused: Vec<CallKey>, wires: &dyn Wires) {
        for key in refused {
            if self.is_open(key) {
                self.fail(key, super::status::NO_SPACE, wires);
            }
        }
    }

    fn plain(&mut self, view: &View, key: CallKey, outcome: Outcome, wires: &dyn Wires) {
        let header = |api: &Api, revision: i64| Some(api.header(view, revision));
        match outcome {
            Outcome::LeaseGrant { lease, ttl, revision } => {
                let header = header(self, revision);
                self.reply_to(
                    key,
                    &LeaseGrantResponse {
                        header,
                        id: lease,
                        ttl,
                        error: String::new(),
                    },
                    wires,
                );
            }
            Outcome::LeaseRevoke { revision } => {
                let header = header(self, revision);
                self.reply_to(key, &LeaseRevokeResponse { header }, wires);
            }
            Outcome::Leases(ids) => {
                let header = header(self, view.revision());
                let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
                self.reply_to(key, &LeaseLeasesResponse { header, leases }, wires);
            }
            Outcome::Alarms(alarms) => {
                let header = header(self, view.revision());
                let one = |(member_id, alarm)| AlarmMember { member_id, alarm };
                let alarms = alarms.into_iter().map(one).collect();
                self.reply_to(key, &AlarmResponse { header, alarms }, wires);
            }
            Outcome::Members { subject } => self.members_changed(view, key, subject, wires),
            Outcome::Done => match self
                .conns
                .get(&key.0)
                .and_then(|calls| calls.get(&key.1))
                .map(|call| call.method)
            {
                Some(super::Method::Downgrade) => self.downgraded(view, key, wires),
                Some(super::Method::MoveLeader) => self.reply_to(key, &MoveLeaderResponse { header: None }, wires),
                _ => self.reply_to(key, &DefragmentResponse { header: None }, wires),
            },
            outcome => unreachable!("not a plain outcome: {outcome:?}"),
        }
    }

    /// Serves a read from a view that is new enough.
    fn serve(&mut self, view: &Arc<View>, read: Waiting, wires: &dyn Wires) {
        match read {
            Waiting::Range { key, request } => {
                wires.with(key.0, &mut |wire| {
                    if let Err(failure) = self.serve_range(view, key, &request, wire) {
                        self.fail_on(key, failure, wire);
                    }
                });
            }
            Waiting::RangeStream { key, request } => self.start_stream(view, key, *request, wires),
            Waiting::Txn { key, request } => {
                wires.with(key.0, &mut |wire| {
                    if let Err(failure) = self.serve_txn(view, key, &request, wire) {
                        self.fail_on(key, failure, wire);
                    }
                });
            }
            Waiting::MemberList { key } => {
                wires.with(key.0, &mut |wire| self.serve_members(view, key, wire));
            }
            Waiting::Downgrade { key, wish } => self.serve_downgrade(view, key, &wish, wires),
            Waiting::Health(verdict) => verdict.give(Ok(())),
        }
    }

    pub(super) fn reply_to(&mut self, key: CallKey, message: &impl prost::Message, wires: &dyn Wires) {
        wires.with(key.0, &mut |wire| self.reply(key, message, wire));
    }

    fn reply_or_stop<M: prost::Message>(&mut self, key: CallKey, answer: Result<M, StoreError>, wires: &dyn Wires) {
        match answer {
            Ok(message) => self.reply_to(key, &message, wires),
            Err(error) => {
                let failure = store_failure(&error, self.setup.on_damage);
                wires.with(key.0, &mut |wire| wire.finish(key.1, &failure));
                self.end(key, failure.code);
            }
        }
    }

    /// Hands a call to a job.
    pub(super) fn start_job(&mut self, job: Job) {
        self.set_state(job.key(), CallState::Job);
        self.jobs.push_back(job);
        self.wake_jobs = true;
    }
}

/// The status of a failed read. Damage of the tree stops the member: it must not go on answering from it.
pub(super) fn store_failure(error: &StoreError, stop: fn(String)) -> Status {
    match error {
        StoreError::Compacted { .. } => status::COMPACTED.into(),
        StoreError::FutureRevision { .. } => status::FUTURE_REVISION.into(),
        damage => {
            tracing::error!(error = %damage, "the data cannot be read; the member stops");
            stop(damage.to_string());
            Status::new(Code::DataLoss, status::CORRUPT.text)
        }
    }
}
