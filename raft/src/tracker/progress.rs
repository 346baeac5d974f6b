//! The leader's picture of one member.

use crate::tracker::Inflights;

/// How the leader sends to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgressState {
    /// The leader does not know where the logs agree: at most one append per heartbeat interval.
    Probe,
    /// The logs agree up to `matched`: appends stream, up to the limits of the window.
    Replicate,
    /// The member needs a snapshot: no appends until it has it.
    Snapshot {
        /// The index of the snapshot that was sent.
        pending: u64,
    },
}

/// The leader's picture of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Highest entry known to be durable there.
    pub matched: u64,
    /// The next entry to send.
    pub next: u64,
    /// How to send.
    pub state: ProgressState,
    /// Highest commit index that was sent.
    pub sent_commit: u64,
    /// Highest ReadIndex round the member answered.
    pub read_round: u64,
    /// Whether the member was heard since the last quorum check.
    pub recent_active: bool,
    /// Whether sending waits for a sign of life (an answer, or one heartbeat interval).
    pub paused: bool,
    /// Unanswered appends.
    pub inflights: Inflights,
    /// Whether the member has no vote.
    pub is_learner: bool,
}

impl Progress {
    /// A member of which nothing is known but that its log may end before `next`.
    pub(crate) fn new(next: u64, inflights: Inflights, is_learner: bool) -> Progress {
        Progress {
            matched: 0,
            next: next.max(1),
            state: ProgressState::Probe,
            sent_commit: 0,
            read_round: 0,
            recent_active: false,
            paused: false,
            inflights,
            is_learner,
        }
    }

    /// Whether nothing may be sent now.
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe => self.paused,
            ProgressState::Replicate => self.paused,
            ProgressState::Snapshot { .. } => true,
        }
    }

    /// Goes back to asking where the logs agree; after a snapshot the next entry is the one behind it.
    pub(crate) fn become_probe(&mut self) {
        let after_snapshot = match self.state {
            ProgressState::Snapshot { pending } => pending + 1,
            _ => 0,
        };
        self.change_state(ProgressState::Probe);
        self.next = after_snapshot.max(self.matched + 1);
        self.sent_commit = self.sent_commit.min(self.next - 1);
    }

    /// Starts to stream from behind what is known to agree.
    pub(crate) fn become_replicate(&mut self) {
        self.change_state(ProgressState::Replicate);
        self.next = self.matched + 1;
    }

    /// Waits for a snapshot that ends at `pending` to be taken over.
    pub(crate) fn become_snapshot(&mut self, pending: u64) {
        self.change_state(ProgressState::Snapshot { pending });
        self.next = pending + 1;
        self.sent_commit = pending;
    }

    /// Records an append of `count` entries that went out.
    pub(crate) fn sent_append(&mut self, count: u64, bytes: u64, commit: u64) {
        self.sent_commit = self.sent_commit.max(commit);
        match self.state {
            ProgressState::Probe => self.paused = true,
            ProgressState::Replicate => {
                if count > 0 {
                    self.next += count;
                    self.inflights.add(self.next - 1, bytes);
                }
                self.paused = self.inflights.is_full();
            }
            ProgressState::Snapshot { .. } => unreachable!("nothing is appended while a snapshot is pending"),
        }
    }

    /// The member acknowledged `index`; says whether that is news.
    pub(crate) fn maybe_update(&mut self, index: u64) -> bool {
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index + 1);
        self.paused = false;
        true
    }

    /// The member refused the append after `rejected` and may agree at `hint`; says whether the refusal is not outdated.
    ///
    /// Source: Raft paper, section 5.3 (the accelerated log backtracking).
    pub(crate) fn maybe_decrease_to(&mut self, rejected: u64, hint: u64) -> bool {
        match self.state {
            ProgressState::Replicate => {
                if rejected <= self.matched {
                    return false;
                }
                self.next = self.matched + 1;
            }
            ProgressState::Probe => {
                if self.next - 1 != rejected {
                    return false;
                }
                self.next = rejected.min(hint + 1).max(self.matched + 1);
            }
            ProgressState::Snapshot { .. } => return false,
        }
        self.sent_commit = self.sent_commit.min(self.next - 1);
        self.paused = false;
        true
    }

    fn change_state(&mut self, state: ProgressState) {
        self.state = state;
        self.paused = false;
        self.inflights.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(matched: u64, next: u64, state: ProgressState) -> Progress {
        let mut progress = Progress::new(next, Inflights::new(2, u64::MAX), false);
        progress.matched = matched;
        progress.state = state;
        progress
    }

    #[test]
    fn a_probe_is_sent_once_and_waits() {
        let mut probed = progress(0, 5, ProgressState::Probe);
        assert!(!probed.is_paused());
        probed.sent_append(1, 10, 0);
        assert!(probed.is_paused());
        assert_eq!(probed.next, 5, "a probe is not optimistic");
    }

    #[test]
    fn replication_streams_until_the_window_is_full() {
        let mut replicated = progress(4, 5, ProgressState::Replicate);
        replicated.sent_append(3, 10, 0);
        assert_eq!((replicated.next, replicated.is_paused()), (8, false));
        replicated.sent_append(1, 10, 0);
        assert_eq!((replicated.next, replicated.is_paused()), (9, true));
        assert!(replicated.maybe_update(7));
        replicated.inflights.free_to(7);
        assert!(!replicated.is_paused());
    }

    #[test]
    fn an_outdated_refusal_is_ignored() {
        let mut probed = progress(3, 9, ProgressState::Probe);
        assert!(!probed.maybe_decrease_to(7, 1));
        assert!(probed.maybe_decrease_to(8, 1));
        assert_eq!(probed.next, 4, "never behind what is known to agree");
        let mut replicated = progress(5, 9, ProgressState::Replicate);
        assert!(!replicated.maybe_decrease_to(5, 2));
        assert!(replicated.maybe_decrease_to(6, 2));
        assert_eq!(replicated.next, 6);
    }

    #[test]
    fn a_finished_snapshot_is_followed_by_the_entry_behind_it() {
        let mut waiting = progress(3, 4, ProgressState::Replicate);
        waiting.become_snapshot(20);
        assert!(waiting.is_paused());
        waiting.become_probe();
        assert_eq!((waiting.next, waiting.state), (21, ProgressState::Probe));
    }

    #[test]
    fn an_old_acknowledgement_is_no_news() {
        let mut replicated = progress(5, 9, ProgressState::Replicate);
        assert!(!replicated.maybe_update(5));
        assert!(replicated.maybe_update(10));
        assert_eq!((replicated.matched, replicated.next), (10, 11));
    }
}
