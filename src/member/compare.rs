//! The guards of a transaction.

use net::pb::etcdserverpb::{
    Compare,
    compare::{CompareResult, CompareTarget, TargetUnion},
};

/// What of a key is compared; all zero for a key that is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyFacts {
    /// Puts since creation.
    pub version: i64,
    /// Revision of the creation.
    pub create_revision: i64,
    /// Revision of the last put.
    pub mod_revision: i64,
    /// Attached lease.
    pub lease: i64,
}

/// Whether the guard looks at the value.
pub fn needs_value(compare: &Compare) -> bool {
    compare.target == CompareTarget::Value as i32
}

/// Whether the guard holds for one key. `value` is given for a key that is there when [`needs_value`].
///
/// A value guard on a key that is not there never holds, "not equal" neither; others compare with zero.
/// Source: behaviours 5; etcd `compareKV`.
pub fn holds(compare: &Compare, facts: KeyFacts, value: Option<&[u8]>) -> bool {
    let wanted = match &compare.target_union {
        Some(TargetUnion::Version(n) | TargetUnion::CreateRevision(n)) => *n,
        Some(TargetUnion::ModRevision(n) | TargetUnion::Lease(n)) => *n,
        Some(TargetUnion::Value(_)) | None => 0,
    };
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let Some(value) = value else { return false };
            let wanted: &[u8] = match &compare.target_union {
                Some(TargetUnion::Value(wanted)) => wanted,
                _ => &[],
            };
            value.cmp(wanted)
        }
        Ok(CompareTarget::Version) => facts.version.cmp(&wanted),
        Ok(CompareTarget::Create) => facts.create_revision.cmp(&wanted),
        Ok(CompareTarget::Mod) => facts.mod_revision.cmp(&wanted),
        Ok(CompareTarget::Lease) => facts.lease.cmp(&wanted),
        // An unknown target leaves the relation undecided, which etcd takes as equal.
        Err(_) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        // etcd lets an unknown relation hold.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(target: CompareTarget, result: CompareResult, union: TargetUnion) -> Compare {
        Compare {
            target: target as i32,
            result: result as i32,
            target_union: Some(union),
            ..Compare::default()
        }
    }

    #[test]
    fn a_missing_key_counts_as_zero_but_has_no_value() {
        let absent = KeyFacts::default();
        let version = guard(CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(0));
        assert!(holds(&version, absent, None));
        for result in [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Less] {
            let value = guard(CompareTarget::Value, result, TargetUnion::Value(bytes::Bytes::new()));
            assert!(!holds(&value, absent, None));
        }
    }

    #[test]
    fn each_relation_compares_what_is_there_with_what_is_asked() {
        let facts = KeyFacts {
            version: 2,
            create_revision: 3,
            mod_revision: 4,
            lease: 5,
        };
        let of = |target, result, union| holds(&guard(target, result, union), facts, Some(b"m"));
        assert!(of(
            CompareTarget::Mod,
            CompareResult::Greater,
            TargetUnion::ModRevision(3)
        ));
        assert!(of(
            CompareTarget::Create,
            CompareResult::Less,
            TargetUnion::CreateRevision(4)
        ));
        assert!(of(CompareTarget::Lease, CompareResult::NotEqual, TargetUnion::Lease(4)));
        assert!(of(
            CompareTarget::Value,
            CompareResult::Less,
            TargetUnion::Value("n".into())
        ));
        assert!(!of(
            CompareTarget::Version,
            CompareResult::Equal,
            TargetUnion::Version(1)
        ));
    }
}
