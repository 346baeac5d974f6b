//! Whose data differs: what hashes of several members say about corruption.
//!
//! Pure functions over hashes that the shell has gathered. Three occasions, as in etcd:
//!
//! - at start, a member compares itself with the others: [`disagrees`];
//! - from time to time the leader compares the members at its newest revision: [`suspect`];
//! - after compactions the leader compares the hashes all members took at the same compaction: [`judge`]. Here the majority
//!   is believed, the leader not more than anyone.
//!
//! Hashes count only between members with the same compacted revision.
//! Source: etcd `corruptionChecker`; issue 13766 (why it is wanted), issue 14628 (majority rule, since 3.5.5).

use std::collections::BTreeMap;

use storage::mvcc::HashKvResult;

/// A hash that a member took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// What was hashed and what it came to.
    pub hash: HashKvResult,
    /// The member's newest revision when it answered.
    pub newest_revision: i64,
}

/// What another member answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerHash {
    /// The member.
    pub member: u64,
    /// Its hash; none when it could not be reached or has not got the revision.
    pub taken: Option<Taken>,
}

/// What a comparison after a compaction came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All members have the same hash.
    Same,
    /// Those that answered have the same, but some could not be asked.
    Incomplete,
    /// The alarm is due for these members, in order; 0 when no majority says who is right.
    Corrupt(Vec<u64>),
}

/// Whether a member that starts with `own` must not: another member has other data under the same compacted revision.
pub fn disagrees(own: &HashKvResult, peers: &[PeerHash]) -> bool {
    let theirs = peers.iter().filter_map(|peer| peer.taken);
    let mut comparable = theirs.filter(|taken| taken.hash.compact_revision == own.compact_revision);
    comparable.any(|taken| taken.hash.hash != own.hash)
}

/// The first member found to differ from the leader `me`.
///
/// `before` is what the leader hashed and asked the others about; `after` what it hashed when all had answered and a
/// linearizable read was done, so that nobody may be ahead of it.
pub fn suspect(me: u64, before: &Taken, after: &Taken, peers: &[PeerHash]) -> Option<u64> {
    let same_place =
        (after.hash.revision, after.hash.compact_revision) == (before.hash.revision, before.hash.compact_revision);
    if same_place && after.hash.hash != before.hash.hash {
        return Some(me);
    }
    let differs = |peer: &&PeerHash| {
        peer.taken.is_some_and(|theirs| {
            let comparable = theirs.hash.compact_revision == before.hash.compact_revision;
            theirs.newest_revision > after.newest_revision
                || theirs.hash.compact_revision > after.hash.compact_revision
                || (comparable && theirs.hash.hash != before.hash.hash)
        })
    };
    peers.iter().find(differs).map(|peer| peer.member)
}

/// Compares the hash that the leader `me` took at a compaction with those of the others.
pub fn judge(me: u64, own: &HashKvResult, peers: &[PeerHash]) -> Verdict {
    let mut by_hash: BTreeMap<u32, Vec<u64>> = BTreeMap::from([(own.hash, vec![me])]);
    let mut asked_all = true;
    for peer in peers {
        match peer.taken {
            Some(taken) if taken.hash.compact_revision == own.compact_revision => {
                by_hash.entry(taken.hash.hash).or_default().push(peer.member);
            }
            _ => asked_all = false,
        }
    }
    if by_hash.len() == 1 {
        return if asked_all { Verdict::Same } else { Verdict::Incomplete };
    }
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    let majority = by_hash.iter().find(|(_, members)| members.len() >= quorum);
    let Some(right) = majority.map(|(hash, _)| *hash) else {
        return Verdict::Corrupt(vec![0]);
    };
    by_hash.remove(&right);
    let mut wrong: Vec<u64> = by_hash.into_values().flatten().collect();
    wrong.sort_unstable();
    Verdict::Corrupt(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32, compact_revision: i64) -> HashKvResult {
        HashKvResult {
            hash,
            revision: 10,
            compact_revision,
        }
    }

    fn taken(value: u32, compact_revision: i64) -> Taken {
        Taken {
            hash: hash(value, compact_revision),
            newest_revision: 10,
        }
    }

    fn peer(member: u64, value: u32, compact_revision: i64) -> PeerHash {
        PeerHash {
            member,
            taken: Some(taken(value, compact_revision)),
        }
    }

    fn silent(member: u64) -> PeerHash {
        PeerHash { member, taken: None }
    }

    #[test]
    fn a_member_disagrees_only_where_hashes_can_be_compared() {
        let own = hash(7, 5);
        assert!(!disagrees(&own, &[peer(2, 7, 5), peer(3, 8, 6), silent(4)]));
        assert!(disagrees(&own, &[peer(2, 7, 5), peer(3, 8, 5)]));
    }

    #[test]
    fn the_leader_suspects_the_first_member_that_differs() {
        let own = taken(7, 5);
        assert_eq!(suspect(1, &own, &own, &[peer(2, 7, 5), peer(3, 9, 4), silent(4)]), None);
        assert_eq!(
            suspect(1, &own, &own, &[peer(2, 7, 5), peer(3, 8, 5), peer(4, 8, 5)]),
            Some(3)
        );
        assert_eq!(
            suspect(1, &own, &own, &[peer(2, 9, 6)]),
            Some(2),
            "compacted further than the leader"
        );
        let mut ahead = peer(2, 7, 5);
        ahead.taken.as_mut().unwrap().newest_revision = 11;
        assert_eq!(suspect(1, &own, &own, &[ahead]), Some(2), "further than the leader");
    }

    #[test]
    fn a_leader_whose_own_hash_changes_suspects_itself() {
        assert_eq!(suspect(1, &taken(7, 5), &taken(8, 5), &[]), Some(1));
        assert_eq!(suspect(1, &taken(7, 5), &taken(8, 6), &[]), None, "compacted meanwhile");
    }

    #[test]
    fn after_a_compaction_the_majority_is_believed() {
        let own = hash(7, 5);
        assert_eq!(judge(1, &own, &[peer(2, 7, 5), peer(3, 7, 5)]), Verdict::Same);
        assert_eq!(judge(1, &own, &[peer(2, 7, 5), silent(3)]), Verdict::Incomplete);
        assert_eq!(judge(1, &own, &[peer(2, 7, 5), peer(3, 7, 6)]), Verdict::Incomplete);
        assert_eq!(
            judge(1, &own, &[peer(2, 7, 5), peer(3, 8, 5)]),
            Verdict::Corrupt(vec![3])
        );
        assert_eq!(
            judge(1, &own, &[peer(2, 8, 5), peer(3, 8, 5)]),
            Verdict::Corrupt(vec![1])
        );
        assert_eq!(
            judge(1, &own, &[peer(2, 8, 5), peer(3, 9, 5)]),
            Verdict::Corrupt(vec![0])
        );
        assert_eq!(judge(1, &own, &[peer(2, 8, 5)]), Verdict::Corrupt(vec![0]));
        assert_eq!(judge(1, &own, &[peer(2, 8, 5), silent(3)]), Verdict::Corrupt(vec![0]));
    }
}
