//! A leader that was removed stays until the others know that it was.
//!
//! Votes are counted by the configuration that a member has applied. If the removed leader left while it alone knew that
//! its removal is committed, the others would go on counting it: with one more of them lost they could not elect, although
//! they are a quorum of what the cluster has become. So it stays until a quorum of the others has answered a heartbeat that
//! told them, at most for an election time-out, and hands leadership over then.
//!
//! Source: etcd's `stopWithDelay`, a second in which a removed leader sends out the commit index.

use raft::mutant;

use super::Member;

/// What a removed leader waits for.
#[derive(Debug)]
pub(super) struct Farewell {
    /// The read round whose heartbeats carry the commit index.
    context: u64,
    give_up_ns: u64,
}

impl Member {
    /// This member was removed by a change that it has just applied.
    pub(super) fn begin_farewell(&mut self) {
        let was_told = std::mem::replace(&mut self.removed, true);
        if !was_told && self.raft.is_leader() && !mutant::on("removed_leader_leaves_at_once") {
            self.farewell = Some(Farewell {
                context: self.ask_round(),
                give_up_ns: self.now_ns + self.options.election_timeout_ns,
            });
        }
    }

    /// A quorum of the others has answered this round.
    pub(super) fn told_in(&mut self, context: u64) {
        self.farewell.take_if(|farewell| farewell.context <= context);
    }

    /// Whether this member was removed, and nothing keeps it any more.
    pub(super) fn is_leaving(&mut self) -> bool {
        let (now_ns, leads) = (self.now_ns, self.raft.is_leader());
        self.farewell
            .take_if(|farewell| !leads || farewell.give_up_ns <= now_ns);
        self.removed && self.farewell.is_none()
    }
}
