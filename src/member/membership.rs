//! The members of the cluster as the log has made them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// One member, in the JSON that configuration changes and the `members` bucket carry.
///
/// Source: ondisk table, "members value" (Go field order).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Member id.
    pub id: u64,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_as_empty")]
    pub peer_urls: Vec<String>,
    /// It does not vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty until it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has started.
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// All members, by id, and those that are gone for good.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// Members by id.
    pub members: BTreeMap<u64, MemberInfo>,
    /// Removed ids: they never return.
    pub removed: BTreeSet<u64>,
    /// The lowest version all members speak, `X.Y.0`; none before it was decided.
    pub cluster_version: Option<String>,
    /// The version that the cluster is being downgraded to, `X.Y.0`; none while it is not.
    pub downgrade_target: Option<String>,
}

/// The state of a downgrade, in the JSON of the `cluster` bucket.
///
/// Source: ondisk table, "cluster/downgrade".
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct DowngradeRow {
    #[serde(rename = "target-version")]
    pub target: String,
    pub enabled: bool,
}

/// Go writes a list that was never made as null.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Membership {
    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &MemberInfo> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// The stored key of a member: its id in lower-case hexadecimal.
    pub fn key(id: u64) -> String {
        format!("{id:x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_a_member_is_etcds() {
        let mut member = MemberInfo {
            id: 1,
            peer_urls: vec!["http://a:2380".into()],
            ..Default::default()
        };
        let bare = r#"{"id":1,"peerURLs":["http://a:2380"]}"#;
        assert_eq!(serde_json::to_string(&member).unwrap(), bare);
        member.is_learner = true;
        member.name = "m".into();
        member.client_urls = vec!["http://a:2379".into()];
        let full =
            r#"{"id":1,"peerURLs":["http://a:2380"],"isLearner":true,"name":"m","clientURLs":["http://a:2379"]}"#;
        assert_eq!(serde_json::to_string(&member).unwrap(), full);
        assert_eq!(serde_json::from_str::<MemberInfo>(full).unwrap(), member);
    }
}
