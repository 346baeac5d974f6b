//! The versions this program speaks of.

/// The etcd version this program is compatible with, as clients read it.
pub const ETCD_VERSION: &str = "3.6.14";
/// The cluster version that follows from it.
pub const CLUSTER_VERSION: &str = "3.6.0";
/// The version of a cluster of which a member has not said its own. Source: limits table, "min cluster version".
pub const MIN_CLUSTER_VERSION: &str = "3.0.0";
/// The storage schema version that snapshots carry.
pub const STORAGE_VERSION: &str = "3.6.0";
/// This program's own version.
pub const ETCORE_VERSION: &str = env!("CARGO_PKG_VERSION");
