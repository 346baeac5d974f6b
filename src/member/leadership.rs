//! What the log says of leadership: who leads, and that nobody does, at once and then from time to time.

use super::Member;

/// While there is no leader this is said again after so long. Units: nanoseconds.
const AGAIN_NS: u64 = 30_000_000_000;

/// How long there has been no leader.
#[derive(Debug, Default)]
pub(super) struct Leaderless {
    since_ns: Option<u64>,
    next_ns: u64,
}

impl Leaderless {
    /// For how long there has been no leader, when it is time to say so: after `patience_ns`, and then again and again.
    fn due(&mut self, has_leader: bool, now_ns: u64, patience_ns: u64) -> Option<u64> {
        if has_leader {
            self.since_ns = None;
            return None;
        }
        let Some(since_ns) = self.since_ns else {
            self.since_ns = Some(now_ns);
            self.next_ns = now_ns + patience_ns;
            return None;
        };
        if now_ns < self.next_ns {
            return None;
        }
        self.next_ns = now_ns + AGAIN_NS;
        Some(now_ns - since_ns)
    }
}

impl Member {
    /// Says who leads now; 0: nobody.
    pub(super) fn log_leader(&self, leader: u64, former: u64) {
        let term = self.raft.term();
        if leader == 0 {
            tracing::warn!(
                former = format!("{former:x}"),
                term,
                "the leader is lost: writes and linearizable reads wait until one is elected"
            );
        } else {
            let leads = leader == self.options.member_id;
            tracing::info!(leader = format!("{leader:x}"), term, leads, "leader elected");
        }
    }

    /// Says that there still is no leader, and of how many voters this member is one that can talk to each other.
    pub(super) fn log_leaderless(&mut self) {
        // As long as streams that require a leader bear without one.
        let patience_ns = 3 * self.options.election_timeout_ns;
        let has_leader = self.raft.leader_id() != 0;
        let Some(for_ns) = self.leaderless.due(has_leader, self.now_ns, patience_ns) else {
            return;
        };
        let voters = self.raft.conf_state().voters;
        let me = self.options.member_id;
        let linked = voters
            .iter()
            .filter(|id| **id == me || self.changes.is_linked(**id))
            .count();
        tracing::warn!(
            seconds = for_ns / 1_000_000_000,
            voters = voters.len(),
            needed = voters.len() / 2 + 1,
            linked,
            "there is no leader: no majority of the voting members has agreed on one; linked counts those this member is \
             connected to, itself included"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nobody_leads_is_said_after_a_while_and_then_from_time_to_time() {
        let mut leaderless = Leaderless::default();
        let mut due = |has_leader, now_ns| leaderless.due(has_leader, now_ns, 10);
        assert_eq!((due(false, 5), due(false, 14), due(false, 15)), (None, None, Some(10)));
        assert_eq!((due(false, 16), due(false, 15 + AGAIN_NS)), (None, Some(10 + AGAIN_NS)));
        assert_eq!((due(true, 2 * AGAIN_NS), due(false, 2 * AGAIN_NS)), (None, None));
        assert_eq!(due(false, 2 * AGAIN_NS + 10), Some(10));
    }
}
