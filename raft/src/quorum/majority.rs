//! The majority of one set of voters.

use crate::quorum::VoteResult;

/// Up to this many voters a quorum is computed without allocating.
const VOTERS_ON_STACK: usize = 8;

/// A set of voters of which more than half must agree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MajorityConfig {
    voters: Vec<u64>,
}

impl MajorityConfig {
    /// The voters, in id order.
    pub fn voters(&self) -> &[u64] {
        &self.voters
    }

    /// Whether the member votes.
    pub fn contains(&self, id: u64) -> bool {
        self.voters.binary_search(&id).is_ok()
    }

    /// Whether nobody votes.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// Adds a voter; nothing if it is one already.
    pub fn insert(&mut self, id: u64) {
        if let Err(at) = self.voters.binary_search(&id) {
            self.voters.insert(at, id);
        }
    }

    /// Removes a voter; nothing if it is none.
    pub fn remove(&mut self, id: u64) {
        if let Ok(at) = self.voters.binary_search(&id) {
            self.voters.remove(at);
        }
    }

    /// The highest index that a majority has reached; `u64::MAX` without voters, so that an empty half of a joint
    /// configuration does not hold the other one back.
    pub fn committed_index(&self, reached: impl Fn(u64) -> u64) -> u64 {
        let count = self.voters.len();
        if count == 0 {
            return u64::MAX;
        }
        if count <= VOTERS_ON_STACK {
            let mut buffer = [0u64; VOTERS_ON_STACK];
            return self.quorum_value(&mut buffer[..count], reached);
        }
        self.quorum_value(&mut vec![0; count], reached)
    }

    /// Where an election stands, given each voter's answer so far; won without voters.
    pub fn vote_result(&self, vote: impl Fn(u64) -> Option<bool>) -> VoteResult {
        let (mut yes, mut missing) = (0, 0);
        for &id in &self.voters {
            match vote(id) {
                Some(true) => yes += 1,
                Some(false) => {}
                None => missing += 1,
            }
        }
        let quorum = self.voters.len() / 2 + 1;
        if self.voters.is_empty() || yes >= quorum {
            VoteResult::Won
        } else if yes + missing >= quorum {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }

    fn quorum_value(&self, buffer: &mut [u64], reached: impl Fn(u64) -> u64) -> u64 {
        for (slot, &id) in buffer.iter_mut().zip(&self.voters) {
            *slot = reached(id);
        }
        buffer.sort_unstable();
        // With n values ascending, n/2+1 of them are at or above position n - (n/2+1).
        buffer[buffer.len() - (buffer.len() / 2 + 1)]
    }
}

impl FromIterator<u64> for MajorityConfig {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> MajorityConfig {
        let mut voters: Vec<u64> = ids.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        MajorityConfig { voters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition itself: try each candidate value and count who reached it.
    fn committed_by_counting(reached: &[u64]) -> u64 {
        let quorum = reached.len() / 2 + 1;
        let supported = |value: u64| reached.iter().filter(|&&r| r >= value).count() >= quorum;
        reached.iter().copied().filter(|&v| supported(v)).max().unwrap_or(0)
    }

    /// The definition itself: play out every way in which the missing votes may fall.
    fn result_by_enumeration(votes: &[Option<bool>]) -> VoteResult {
        let missing: Vec<usize> = (0..votes.len()).filter(|&i| votes[i].is_none()).collect();
        let mut outcomes = (0..1u32 << missing.len()).map(|bits| {
            let mut yes = votes.iter().filter(|v| **v == Some(true)).count();
            yes += bits.count_ones() as usize;
            yes > votes.len() / 2
        });
        let first = outcomes
            .next()
            .expect("there is at least the outcome without any missing vote");
        match (first, outcomes.all(|outcome| outcome == first)) {
            (true, true) => VoteResult::Won,
            (false, true) => VoteResult::Lost,
            (_, false) => VoteResult::Pending,
        }
    }

    proptest! {
        #[test]
        fn the_committed_index_is_the_one_found_by_counting(reached in prop::collection::vec(0u64..6, 1..12)) {
            let config: MajorityConfig = (1..=reached.len() as u64).collect();
            let found = config.committed_index(|id| reached[id as usize - 1]);
            prop_assert_eq!(found, committed_by_counting(&reached));
        }

        #[test]
        fn an_election_stands_where_enumeration_says(
            votes in prop::collection::vec(prop::option::of(any::<bool>()), 1..10),
        ) {
            let config: MajorityConfig = (1..=votes.len() as u64).collect();
            let found = config.vote_result(|id| votes[id as usize - 1]);
            prop_assert_eq!(found, result_by_enumeration(&votes));
        }
    }

    #[test]
    fn without_voters_nothing_holds_back_and_elections_are_won() {
        let config = MajorityConfig::default();
        assert_eq!(config.committed_index(|_| 0), u64::MAX);
        assert_eq!(config.vote_result(|_| None), VoteResult::Won);
    }

    #[test]
    fn voters_form_a_sorted_set() {
        let mut config: MajorityConfig = [3, 1, 3, 2].into_iter().collect();
        assert_eq!(config.voters(), [1, 2, 3]);
        config.insert(2);
        config.remove(9);
        config.remove(1);
        assert_eq!(config.voters(), [2, 3]);
        assert!(config.contains(3) && !config.contains(1));
    }
}
