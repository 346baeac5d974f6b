//! Requests that only the leader can answer: answered here when this member leads, passed to the leader when not.
//!
//! Lease deadlines are known to the leader alone, and so is how far a learner has come. A request that is passed on is
//! sent again when the leader changes or says nothing, until it times out; renewals may be repeated without harm, and a
//! promotion is not repeated once it may have been taken.

use std::collections::BTreeMap;

use net::peer::{Answer, Call, CallMethod};
use raft::mutant;

use super::{
    AfterRound, Asker, Member, MemberChange, Outcome, Refusal, RequestId, ShardIndex, WAITING_MAX, WaitingRead,
    lessor::LeaseInfo,
};

/// A question without an answer is sent again after this long. Units: nanoseconds.
const RETRY_NS: u64 = 500_000_000;

/// What an answer's status means. Part of the peer protocol: numbers are never used anew.
const STATUSES: &[(u8, Refusal)] = &[
    (1, Refusal::NotLeader),
    (2, Refusal::NotPrimary),
    (3, Refusal::LeaseNotFound),
    (4, Refusal::MemberNotFound),
    (5, Refusal::MemberNotLearner),
    (6, Refusal::LearnerNotReady),
    (7, Refusal::Timeout),
    (8, Refusal::TooManyRequests),
    (9, Refusal::Unhealthy),
    (10, Refusal::NotEnoughStarted),
];
/// A refusal without a number of its own.
const STATUS_OTHER: u8 = 255;

/// A request under way to the leader.
#[derive(Debug)]
struct Forward {
    shard: ShardIndex,
    call: Call,
    deadline_ns: u64,
    /// The leader it was last sent to; 0: none yet.
    sent_to: u64,
    next_try_ns: u64,
}

/// All of them, and what is to be sent.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    waiting: BTreeMap<RequestId, Forward>,
    /// Done by the leader, up to an index that is to be applied here.
    unapplied: Vec<(u64, ShardIndex, Call)>,
    calls: Vec<(u64, Call)>,
    answers: Vec<(u64, Answer)>,
}

impl Forwards {
    /// Moves out what is to be sent.
    pub fn take(&mut self, calls: &mut Vec<(u64, Call)>, answers: &mut Vec<(u64, Answer)>) {
        calls.append(&mut self.calls);
        answers.append(&mut self.answers);
    }
}

impl Member {
    /// Answers a call as the leader, or passes it on.
    pub(super) fn ask_leader(
        &mut self,
        shard: ShardIndex,
        id: RequestId,
        method: CallMethod,
        subject: u64,
        with_keys: bool,
    ) {
        let call = Call {
            id,
            method,
            subject,
            with_keys,
        };
        if self.raft.is_leader() {
            return self.answer_as_leader(Asker::Shard(shard, id), &call);
        }
        if self.forwards.waiting.len() >= WAITING_MAX {
            return self.answer(shard, id, Err(Refusal::TooManyRequests));
        }
        let forward = Forward {
            shard,
            call,
            deadline_ns: self.now_ns + self.options.request_timeout_ns,
            sent_to: 0,
            next_try_ns: 0,
        };
        self.forwards.waiting.insert(id, forward);
        self.forward(id);
    }

    /// Sends a request to the leader, if one is known.
    fn forward(&mut self, id: RequestId) {
        let leader = self.raft.leader_id();
        let Some(forward) = self.forwards.waiting.get_mut(&id) else {
            return;
        };
        let repeats = forward.sent_to != 0 && forward.call.method == CallMethod::Promote;
        if leader != 0 && !repeats {
            forward.sent_to = leader;
            forward.next_try_ns = self.now_ns + RETRY_NS;
            self.forwards.calls.push((leader, forward.call));
        }
    }

    /// Sends again what is due, answers what this member can by now answer itself, and ends what is too late.
    pub(super) fn pump_forwards(&mut self) {
        if self.forwards.waiting.is_empty() {
            return;
        }
        let (now, leader, leads) = (self.now_ns, self.raft.leader_id(), self.raft.is_leader());
        let due = |forward: &Forward| {
            let told = forward.sent_to != 0 || mutant::on("refusal_forgotten");
            let elsewhere = told && forward.sent_to != leader;
            leads || forward.deadline_ns <= now || forward.next_try_ns <= now || elsewhere
        };
        let waiting = self.forwards.waiting.iter();
        let due: Vec<RequestId> = waiting.filter(|(_, forward)| due(forward)).map(|(id, _)| *id).collect();
        for id in due {
            let forward = &self.forwards.waiting[&id];
            let (late, shard, call) = (forward.deadline_ns <= now, forward.shard, forward.call);
            if late {
                self.forwards.waiting.remove(&id);
                let why = match leader {
                    0 => Refusal::NoLeader,
                    _ => Refusal::Timeout,
                };
                self.answer(shard, id, Err(why));
            } else if leads {
                self.forwards.waiting.remove(&id);
                self.answer_as_leader(Asker::Shard(shard, id), &call);
            } else {
                self.forward(id);
            }
        }
    }

    /// Answers what the leader has done and this member has now applied.
    pub(super) fn finish_forwards(&mut self) {
        if self.forwards.unapplied.is_empty() {
            return;
        }
        let applied = self.applied.index;
        for wait in std::mem::take(&mut self.forwards.unapplied) {
            let (index, shard, call) = wait;
            if index <= applied {
                let subject = call.subject;
                self.answer(shard, call.id, Ok(Outcome::Members { subject }));
            } else {
                self.forwards.unapplied.push(wait);
            }
        }
    }

    /// A request of another member.
    pub(super) fn on_call(&mut self, from: u64, call: Call) {
        let asker = Asker::Peer(from, call.id);
        if self.raft.is_leader() {
            self.answer_as_leader(asker, &call);
        } else {
            self.settle(asker, Err(Refusal::NotLeader));
        }
    }

    fn answer_as_leader(&mut self, asker: Asker, call: &Call) {
        let lease = call.subject as i64;
        // Who was deposed and does not know it, or leads and has not applied what went before, knows of too few leases.
        let round = |then| WaitingRead { asker, then };
        match call.method {
            CallMethod::LeaseRenew => self.wait_for_round(round(AfterRound::Renew(lease))),
            CallMethod::LeaseInfo if mutant::on("lease_told_without_a_round") => {
                self.tell_lease(asker, lease, call.with_keys);
            }
            CallMethod::LeaseInfo => self.wait_for_round(round(AfterRound::Tell(lease, call.with_keys))),
            CallMethod::Refill => {
                if let Asker::Peer(from, _) = asker {
                    self.refills.push(from);
                }
                self.settle(asker, Ok(Outcome::Done));
            }
            CallMethod::Promote => self.start_change(asker, call.id, MemberChange::Promote(call.subject)),
        }
    }

    /// Sends an answer to the member that asked.
    pub(super) fn answer_peer(&mut self, to: u64, id: u64, result: Result<Outcome, Refusal>) {
        let mut answer = Answer {
            id,
            ..Answer::default()
        };
        match result {
            Ok(Outcome::LeaseRenew { ttl, .. }) => answer.first = ttl,
            Ok(Outcome::LeaseInfo(Some(info))) => {
                answer.first = info.remaining_seconds;
                answer.second = info.granted_seconds;
                answer.keys = info.keys;
            }
            Ok(Outcome::LeaseInfo(None)) => answer.status = number_of(Refusal::LeaseNotFound),
            // The member that asked answers once it has applied the change too.
            Ok(_) => answer.first = self.applied.index as i64,
            Err(refusal) => answer.status = number_of(refusal),
        }
        self.forwards.answers.push((to, answer));
    }

    /// Asks the leader for a snapshot; its answer tells nothing, since the pages come on a connection of their own.
    pub(super) fn ask_for_refill(&mut self) {
        let leader = self.raft.leader_id();
        if leader == 0 || leader == self.options.member_id {
            return;
        }
        self.next_own_id += 1;
        let call = Call {
            id: self.next_own_id,
            method: CallMethod::Refill,
            subject: self.options.member_id,
            with_keys: false,
        };
        self.forwards.calls.push((leader, call));
    }

    /// The leader's answer to a request that was passed on.
    pub(super) fn on_answer(&mut self, answer: Answer) {
        let Some(forward) = self.forwards.waiting.get_mut(&answer.id) else {
            return;
        };
        let refusal = refusal_of(answer.status);
        if matches!(refusal, Some(Refusal::NotLeader | Refusal::NotPrimary)) {
            // It was not taken. Asked again at once it would go to and fro until this member hears of the new leader.
            forward.sent_to = 0;
            forward.next_try_ns = self.now_ns + self.options.tick_ns;
            return;
        }
        let (shard, call) = (forward.shard, forward.call);
        self.forwards.waiting.remove(&answer.id);
        let result = match (refusal, call.method) {
            (None, CallMethod::LeaseRenew) => Ok(Outcome::LeaseRenew {
                ttl: answer.first,
                revision: self.store.revision(),
            }),
            (_, CallMethod::Refill) => return,
            (None, CallMethod::LeaseInfo) => Ok(Outcome::LeaseInfo(Some(LeaseInfo {
                remaining_seconds: answer.first,
                granted_seconds: answer.second,
                keys: answer.keys,
            }))),
            (Some(Refusal::LeaseNotFound), CallMethod::LeaseInfo) => Ok(Outcome::LeaseInfo(None)),
            (None, CallMethod::Promote) => {
                let wait = (answer.first as u64, shard, call);
                return self.forwards.unapplied.push(wait);
            }
            (Some(refusal), _) => Err(refusal),
        };
        self.answer(shard, call.id, result);
    }
}

fn number_of(refusal: Refusal) -> u8 {
    let row = STATUSES.iter().find(|(_, known)| *known == refusal);
    row.map_or(STATUS_OTHER, |(number, _)| *number)
}

fn refusal_of(status: u8) -> Option<Refusal> {
    if status == 0 {
        return None;
    }
    let row = STATUSES.iter().find(|(number, _)| *number == status);
    Some(row.map_or(Refusal::Unhealthy, |(_, refusal)| *refusal))
}
