//! The rows.

use super::Flag;

/// Every flag, etcd's and ours.
pub const FLAGS: &[Flag] = &[];
