//! What the other members can do, as they said when they shook hands: which kinds of entries they can apply, and which
//! etcd release they are compatible with.
//!
//! A kind of entry that not all of them are known to apply is not proposed (DECISIONS 24), and the cluster's version is
//! the lowest of all. What a member said counts until it says something else: it may be down meanwhile.

use std::collections::BTreeMap;

use super::Membership;
use crate::version;

/// Kinds of entries this program applies, a bit each: etcd 3.6's but for downgrades, batches of lease revocations, and
/// downgrades, which the first etcore did not know.
pub const ENTRY_KINDS: u64 = 0b111;
/// A batch of lease revocations.
pub(super) const LEASE_REVOKE_BATCH: u64 = 0b10;
/// The begin and the end of a downgrade.
pub(super) const DOWNGRADE: u64 = 0b100;

/// So many that are no members are remembered; whoever dials may call itself anything.
const STRANGERS_MAX: usize = 64;

/// What one member said.
#[derive(Debug)]
struct Said {
    entry_kinds: u64,
    /// Major and minor; none when it is no version.
    version: Option<(u64, u64)>,
}

/// What all said.
#[derive(Debug, Default)]
pub(super) struct Abilities {
    said: BTreeMap<u64, Said>,
}

impl Abilities {
    /// A member said what it can do, or somebody who may become one.
    pub fn note(&mut self, members: &Membership, id: u64, entry_kinds: u64, etcd_version: &str) {
        let version = major_minor(etcd_version);
        if self.said.len() >= members.members.len() + STRANGERS_MAX {
            self.said.retain(|id, _| members.members.contains_key(id));
        }
        self.said.insert(id, Said { entry_kinds, version });
    }

    /// Whether every member is known to apply that kind of entry.
    pub fn all_apply(&self, members: &Membership, me: u64, kind: u64) -> bool {
        let mut others = members.members.keys().filter(|id| **id != me);
        others.all(|id| self.said.get(id).is_some_and(|said| said.entry_kinds & kind == kind))
    }

    /// The lowest version of all members, `X.Y.0`; none while that of one is unknown.
    pub fn lowest_version(&self, members: &Membership, me: u64) -> Option<String> {
        let mut lowest = major_minor(version::ETCD_VERSION).expect("it is a version");
        for id in members.members.keys().filter(|id| **id != me) {
            lowest = lowest.min(self.said.get(id)?.version?);
        }
        Some(format!("{}.{}.0", lowest.0, lowest.1))
    }
}

/// The version to set for the cluster, if it should change. `lowest`: of all members, if known; `waited`: long enough for
/// those that are unknown; `target`: of a downgrade under way.
///
/// Source: etcd's `decideClusterVersion`: never lower than it is but for a downgrade, by one minor, and the lowest there is
/// when a member is silent from the start.
pub(super) fn decide_version(
    current: Option<&str>,
    lowest: Option<String>,
    waited: bool,
    target: Option<&str>,
) -> Option<String> {
    match (current, lowest) {
        (Some(current), Some(lowest)) if target.is_some() => {
            let (target, known) = (target?, [current, &lowest]);
            let fits = known.iter().all(|version| is_downgrade(version, target));
            fits.then(|| target.to_owned())
        }
        (None, None) => waited.then(|| version::MIN_CLUSTER_VERSION.to_owned()),
        (None, lowest) => lowest,
        (Some(current), Some(lowest)) => (major_minor(&lowest) > major_minor(current)).then_some(lowest),
        (Some(_), None) => None,
    }
}

/// Whether `target` is what a cluster at `version` may be downgraded to: the same major and the minor below.
///
/// Source: etcd's `allowedDowngradeVersion`.
pub fn is_downgrade(version: &str, target: &str) -> bool {
    match (major_minor(version), major_minor(target)) {
        (Some(from), Some(to)) => from.0 == to.0 && from.1 == to.1 + 1,
        _ => false,
    }
}

/// Major and minor of `X.Y.Z`.
pub fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u64]) -> Membership {
        Membership {
            members: ids.iter().map(|id| (*id, Default::default())).collect(),
            ..Membership::default()
        }
    }

    #[test]
    fn a_kind_is_proposed_once_every_member_is_known_to_apply_it() {
        let (three, mut abilities) = (members(&[1, 2, 3]), Abilities::default());
        assert!(abilities.all_apply(&members(&[1]), 1, LEASE_REVOKE_BATCH), "alone");
        abilities.note(&three, 2, 0b111, "3.6.14");
        assert!(
            !abilities.all_apply(&three, 1, LEASE_REVOKE_BATCH),
            "one has said nothing"
        );
        abilities.note(&three, 3, 0b01, "3.6.14");
        assert!(!abilities.all_apply(&three, 1, LEASE_REVOKE_BATCH), "one cannot");
        abilities.note(&three, 3, 0b11, "3.6.14");
        assert!(abilities.all_apply(&three, 1, LEASE_REVOKE_BATCH));
        assert!(
            !abilities.all_apply(&members(&[1, 2, 3, 4]), 1, LEASE_REVOKE_BATCH),
            "one is new"
        );
    }

    #[test]
    fn strangers_are_forgotten_before_they_are_too_many_and_members_are_not() {
        let (two, mut abilities) = (members(&[1, 2]), Abilities::default());
        abilities.note(&two, 2, LEASE_REVOKE_BATCH, "3.6.14");
        for id in 100..100_000 {
            abilities.note(&two, id, 0, "3.6.14");
            assert!(abilities.said.len() <= 2 + STRANGERS_MAX);
        }
        assert!(abilities.all_apply(&two, 1, LEASE_REVOKE_BATCH));
    }

    #[test]
    fn the_clusters_version_is_the_lowest_and_never_falls() {
        let (three, mut abilities) = (members(&[1, 2, 3]), Abilities::default());
        abilities.note(&three, 2, 0, "3.5.30");
        assert_eq!(abilities.lowest_version(&three, 1), None);
        abilities.note(&three, 3, 0, "3.7.1");
        assert_eq!(abilities.lowest_version(&three, 1).as_deref(), Some("3.5.0"));
        abilities.note(&three, 2, 0, "nonsense");
        assert_eq!(abilities.lowest_version(&three, 1), None);

        let decide =
            |current, lowest: Option<&str>, waited| decide_version(current, lowest.map(str::to_owned), waited, None);
        assert_eq!(decide(None, None, false), None);
        assert_eq!(decide(None, None, true).as_deref(), Some("3.0.0"));
        assert_eq!(decide(None, Some("3.6.0"), false).as_deref(), Some("3.6.0"));
        assert_eq!(decide(Some("3.0.0"), Some("3.6.0"), false).as_deref(), Some("3.6.0"));
        assert_eq!(decide(Some("3.6.0"), Some("3.6.0"), true), None);
        assert_eq!(decide(Some("3.6.0"), Some("3.5.0"), true), None);
        assert_eq!(decide(Some("3.6.0"), None, true), None);
        assert_eq!(decide(Some("3.9.0"), Some("3.10.0"), true).as_deref(), Some("3.10.0"));
    }

    #[test]
    fn a_downgrade_takes_the_clusters_version_down_by_one_minor_and_its_end_lets_it_rise() {
        let decide =
            |current, lowest: &str, target| decide_version(Some(current), Some(lowest.to_owned()), true, target);
        assert_eq!(decide("3.6.0", "3.6.0", Some("3.5.0")).as_deref(), Some("3.5.0"));
        assert_eq!(decide("3.5.0", "3.6.0", Some("3.5.0")), None, "it is there");
        assert_eq!(decide("3.6.0", "3.6.0", Some("3.4.0")), None, "two at once");
        assert_eq!(decide("3.6.0", "3.6.0", Some("2.5.0")), None);
        assert_eq!(decide("3.5.0", "3.6.0", None).as_deref(), Some("3.6.0"));
        assert!(!is_downgrade("3.6.0", "nonsense") && !is_downgrade("4.0.0", "3.9.0"));
    }
}
