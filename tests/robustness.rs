//! Real members under real faults while clients write down what they are told, which is judged in the end.
//!
//! Members are killed, stand still, are cut off in one direction or both (each in a network namespace of its own), talk
//! through proxies that delay, lose, repeat, reorder, damage and cut, run out of disk, come as learners and go. Clients
//! write, read, watch, compact, and hold keys by leases. [`robustness::verdict`] says what must hold. Root is needed for namespaces and disks; without it those stories say so and do nothing.
//!
//! Environment: `ETCORE_TEST_SERVER` (binary under test; an etcd of somebody else will do), `ETCORE_TEST_SCALE`
//! (multiplier of rounds, default 1), `ETCORE_TEST_SEED` (the seed of one story; faults come at about the same times, but
//! processes do not repeat themselves to the instruction).

#[allow(dead_code, unused_imports)] // the stories here need a part of it
#[path = "blackbox"]
mod blackbox {
    pub mod support;
}

#[allow(dead_code)]
#[path = "cluster"]
mod cluster {
    pub mod rig;
}

#[allow(dead_code)] // the simulator needs the rest
#[path = "checker"]
mod checker {
    pub mod history;
    pub mod watcher;
}

#[path = "robustness"]
mod robustness {
    mod changes;
    mod clients;
    mod disk;
    mod leases;
    mod network;
    mod processes;
    mod proxy;
    mod record;
    mod story;
    mod verdict;
    mod verdict_stories;
    mod watchers;
}

use blackbox::support;
use cluster::rig;
