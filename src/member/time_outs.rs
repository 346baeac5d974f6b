//! Requests that are not done within the request time-out, and what they are told.
//!
//! Source: etcd `parseProposeCtxErr`, `linearizableReadLoop`, `MoveLeader`.

use std::collections::BTreeSet;

use super::{AfterRound, Member, Outcome, READ_RETRY_NS, ReadRound, Refusal, RequestId, ShardIndex};

/// Transfers of leadership that are waited for at once. More are refused.
const TRANSFERS_MAX: usize = 1024;

/// A transfer of leadership that somebody waits for.
#[derive(Debug)]
struct Transfer {
    shard: ShardIndex,
    id: RequestId,
    target: u64,
    deadline_ns: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Transfers(Vec<Transfer>);

impl Member {
    /// Begins to hand leadership to a member; answered once that one leads.
    pub(super) fn move_leader(&mut self, shard: ShardIndex, id: RequestId, target: u64) {
        let refusal = if !self.raft.is_leader() {
            Some(Refusal::NotLeader)
        } else if self.members.members.get(&target).is_none_or(|member| member.is_learner) {
            Some(Refusal::BadTransferee)
        } else if self.transfers.0.len() >= TRANSFERS_MAX {
            Some(Refusal::TooManyRequests)
        } else if target != self.options.member_id && self.raft.transfer_leader(target).is_err() {
            Some(Refusal::BadTransferee)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.answer(shard, id, Err(refusal));
        }
        self.transfers.0.push(Transfer {
            shard,
            id,
            target,
            deadline_ns: self.now_ns + self.options.request_timeout_ns,
        });
        self.finish_transfers();
    }

    /// Answers the transfers that are done or too late.
    pub(super) fn finish_transfers(&mut self) {
        let (leader, now) = (self.raft.leader_id(), self.now_ns);
        for transfer in std::mem::take(&mut self.transfers.0) {
            if transfer.target == leader {
                self.answer(transfer.shard, transfer.id, Ok(Outcome::Done));
            } else if transfer.deadline_ns <= now {
                self.answer(transfer.shard, transfer.id, Err(Refusal::TransferTimeout));
            } else {
                self.transfers.0.push(transfer);
            }
        }
    }

    /// Why a proposal made at `since_ns` is late: its leader may have failed under it, or links are down.
    pub(super) fn why_late(&self, since_ns: u64) -> Refusal {
        let me = self.options.member_id;
        let linked = |id: u64| id == me || self.changes.is_linked_since(id, since_ns);
        let connected = match self.raft.leader_id() {
            0 => true,
            leader if leader == me => {
                let members = self.members.members.keys();
                members.filter(|id| linked(**id)).count() > self.members.members.len() / 2
            }
            leader => linked(leader),
        };
        let lost_ns = self.elected_ns.saturating_sub(2 * self.options.election_timeout_ns);
        reason(since_ns, (lost_ns, self.elected_ns), connected)
    }

    /// Ends what has waited for too long.
    pub(super) fn time_out(&mut self) {
        let (now, timeout) = (self.now_ns, self.options.request_timeout_ns);
        if now >= self.next_time_out_ns {
            self.next_time_out_ns = now + READ_RETRY_NS;
            let late = self.proposals.iter().filter(|(_, (_, deadline))| *deadline <= now);
            let mut late: Vec<(RequestId, ShardIndex)> = late.map(|(id, (shard, _))| (*id, *shard)).collect();
            late.sort_unstable();
            // Only without a leader, or without a link to it, does the batch hold what is late.
            let unproposed: BTreeSet<RequestId> = match late.is_empty() {
                false => self.batch_ids.iter().copied().collect(),
                true => BTreeSet::new(),
            };
            for (id, shard) in late {
                let (_, deadline_ns) = self.proposals.remove(&id).expect("just seen");
                self.metrics.failed.add(1);
                let why = match unproposed.contains(&id) && self.raft.leader_id() == 0 {
                    true => Refusal::NeverProposed,
                    false => self.why_late(deadline_ns - timeout),
                };
                self.answer(shard, id, Err(why));
            }
            if !unproposed.is_empty() {
                self.drop_late_proposals();
            }
        }
        while self
            .rounds
            .front()
            .is_some_and(|round| round.started_ns + timeout <= now)
        {
            let round = self.rounds.pop_front().expect("just seen");
            self.metrics.failed_reads.add(1);
            for read in round.waiting {
                let why = match read.then {
                    AfterRound::Renew(_) => Refusal::NotPrimary,
                    AfterRound::Answer | AfterRound::Tell(..) => Refusal::Timeout,
                };
                self.settle(read.asker, Err(why));
            }
        }
        self.finish_transfers();
        // Asking again for the newest round serves all. Once per interval, or at once when a leader is known anew: an
        // answer that is late must not make more.
        let again = std::mem::take(&mut self.ask_rounds_again) && self.raft.leader_id() != 0;
        let stuck = |round: &&mut ReadRound| round.index.is_none() && (round.retry_ns <= now || again);
        if let Some(round) = self.rounds.back_mut().filter(stuck) {
            round.retry_ns = now + READ_RETRY_NS;
            self.metrics.slow_reads.add(1);
            self.ask_round();
        }
    }
}

/// Why a proposal is late. `lost`: from when on this member, before it came to lead, may have followed a dead leader, and
/// until when. `connected`: links to those who count were up all the time.
fn reason(since_ns: u64, lost: (u64, u64), connected: bool) -> Refusal {
    if lost.0 < since_ns && since_ns < lost.1 {
        Refusal::TimeoutLeaderFailed
    } else if connected {
        Refusal::Timeout
    } else {
        Refusal::TimeoutConnectionLost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_proposal_blames_a_leader_lost_around_its_start_then_links_then_nobody() {
        let lost = (1000, 3000);
        assert_eq!(reason(2000, lost, true), Refusal::TimeoutLeaderFailed);
        assert_eq!(reason(2000, lost, false), Refusal::TimeoutLeaderFailed);
        assert_eq!(reason(3000, lost, true), Refusal::Timeout);
        assert_eq!(reason(900, lost, false), Refusal::TimeoutConnectionLost);
        assert_eq!(reason(900, (0, 0), true), Refusal::Timeout, "it never led");
    }
}
