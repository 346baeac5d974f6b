//! The quorum of two sets of voters at once.

use crate::mutant;
use crate::quorum::{MajorityConfig, VoteResult};

/// Two sets of voters; decisions need a majority of each. The outgoing one is empty unless the configuration is joint.
///
/// Source: Raft thesis, section 4.3.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JointConfig {
    /// The voters to be.
    pub incoming: MajorityConfig,
    /// The voters that were.
    pub outgoing: MajorityConfig,
}

impl JointConfig {
    /// Whether two configurations are in force.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the member votes in either half.
    pub fn contains(&self, id: u64) -> bool {
        self.incoming.contains(id) || self.outgoing.contains(id)
    }

    /// Whether this member alone decides.
    pub fn is_only(&self, id: u64) -> bool {
        self.ids() == [id]
    }

    /// Every voter once, in id order.
    pub fn ids(&self) -> Vec<u64> {
        let mut ids = [self.incoming.voters(), self.outgoing.voters()].concat();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The highest index that a majority of each half has reached; `u64::MAX` without voters.
    pub fn committed_index(&self, reached: impl Fn(u64) -> u64) -> u64 {
        if mutant::on("joint_decided_by_one_half") {
            return self.incoming.committed_index(&reached);
        }
        self.incoming
            .committed_index(&reached)
            .min(self.outgoing.committed_index(&reached))
    }

    /// Where an election stands: lost in one half is lost, won needs both.
    pub fn vote_result(&self, vote: impl Fn(u64) -> Option<bool>) -> VoteResult {
        match (self.incoming.vote_result(&vote), self.outgoing.vote_result(&vote)) {
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            _ => VoteResult::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint(incoming: &[u64], outgoing: &[u64]) -> JointConfig {
        JointConfig {
            incoming: incoming.iter().copied().collect(),
            outgoing: outgoing.iter().copied().collect(),
        }
    }

    #[test]
    fn an_index_commits_when_both_halves_reached_it() {
        let config = joint(&[1, 2, 3], &[3, 4, 5]);
        let reached = |id| [10, 10, 4, 7, 2][id as usize - 1];
        assert_eq!(config.incoming.committed_index(reached), 10);
        assert_eq!(config.committed_index(reached), 4);
    }

    #[test]
    fn an_empty_outgoing_half_does_not_hold_back() {
        let config = joint(&[1, 2, 3], &[]);
        assert!(!config.is_joint());
        assert_eq!(config.committed_index(|id| id), 2);
        assert_eq!(config.vote_result(|id| (id != 3).then_some(true)), VoteResult::Won);
    }

    #[test]
    fn an_election_needs_both_halves() {
        let config = joint(&[1, 2, 3], &[4, 5, 6]);
        assert_eq!(config.vote_result(|id| (id <= 3).then_some(true)), VoteResult::Pending);
        assert_eq!(
            config.vote_result(|id| if id <= 3 { Some(true) } else { Some(id == 4) }),
            VoteResult::Lost
        );
        assert_eq!(config.vote_result(|id| Some(id != 3 && id != 6)), VoteResult::Won);
    }

    #[test]
    fn ids_are_listed_once_in_order() {
        assert_eq!(joint(&[3, 1], &[2, 3]).ids(), [1, 2, 3]);
        assert!(joint(&[7], &[]).is_only(7));
        assert!(!joint(&[7], &[7, 8]).is_only(7));
    }
}
