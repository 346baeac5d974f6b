//! `--initial-cluster`: who was there when the cluster was born.

use std::collections::BTreeMap;

use super::{Url, identity};

/// The members at the cluster's birth and the token that tells one cluster from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster {
    /// Name to peer URLs, which are sorted.
    pub members: BTreeMap<String, Vec<Url>>,
    /// Mixed into every member's id.
    pub token: String,
}

impl InitialCluster {
    /// The ids of all first members, ascending.
    pub fn member_ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self
            .members
            .values()
            .map(|urls| identity::member_id(urls, &self.token))
            .collect();
        ids.sort_unstable();
        ids
    }
}
