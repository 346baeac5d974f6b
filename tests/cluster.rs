//! Clusters of real server processes: elections, replication, crashes of the leader, member changes.
//!
//! Volumes are multiplied by `ETCORE_TEST_SCALE`.

#[allow(dead_code, unused_imports)] // the stories here need a part of it
#[path = "blackbox"]
mod blackbox {
    pub mod support;
}

#[path = "cluster"]
mod stories {
    mod bootstrap;
    mod changes;
    mod corruption;
    mod damage;
    mod dns;
    mod downgrade;
    mod forced;
    mod leaderless;
    mod leases;
    mod metrics;
    mod peer_port;
    #[allow(dead_code)] // other stories need the rest
    pub mod rig;
    mod side_by_side;
    mod snapshots;
    mod static_members;
    mod succession;
    mod watches;
}

use blackbox::support;
use stories::rig;
