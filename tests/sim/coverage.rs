//! What a full run must have met: an option, a request, an event or a fault that no seed meets is a blind spot.

use crate::cluster::Counts;

const ANSWERS: &[&str] = &[
    "add a learner",
    "add a voter",
    "compact",
    "compaction done",
    "delete",
    "disarm",
    "grant",
    "leases",
    "move leader",
    "promote",
    "put",
    "read",
    "remove",
    "remove a learner",
    "remove a lost member",
    "renew",
    "revoke",
    "time to live",
    "txn",
    "update",
];

const OPTIONS: &[&str] = &[
    "delete from a key on",
    "delete of a range",
    "delete of one key",
    "guard equal",
    "guard greater",
    "guard less",
    "guard not equal",
    "guard of a creation",
    "guard of a lease",
    "guard of a revision",
    "guard of a value",
    "guard of a version",
    "guard of many keys",
    "nested transaction",
    "physical compaction",
    "put that ignores the lease",
    "put that ignores the value",
    "put with a lease",
    "read from a key on",
    "read of a range",
    "read of now",
    "read of one key",
    "read of the past",
    "watch from a key on",
    "watch from a revision on",
    "watch from now on",
    "watch in fragments",
    "watch of a range",
    "watch of one key",
    "watch with previous pairs",
    "watch without deletes",
    "watch without puts",
];

const EVENTS: &[&str] = &[
    "disk stalls noticed",
    "ends noticed",
    "leadership given up for a stalled disk",
    "learners found not to be ready",
    "members joined",
    "members refilled",
    "refills begun",
    "removed members stopped",
    "snapshots begun",
    "snapshots installed",
    "snapshots received",
];

const FAULTS: &[&str] = &[
    "all but one parted",
    "blocks withheld",
    "clock jump",
    "clock rate",
    "cluster split",
    "crash in recovery",
    "damaged tree noted",
    "disk lost",
    "disk stall",
    "failing disk call",
    "false alarm of an end",
    "full disk",
    "leader transfer",
    "link cut one way",
    "member cut off",
    "member heard by nobody",
    "message cut off",
    "message delayed",
    "message lost",
    "message sent twice",
    "pause",
    "power failure",
    "process killed",
    "receiver of a snapshot gone",
    "removed member told so",
    "rot refused at start",
    "rot without effect",
    "sender of a snapshot gone",
    "slow watcher",
    "snapshot cut",
    "snapshot failed by the disk",
    "stopped by its disk",
    "tree rotten",
    "tree rotten where nothing is",
];

/// What should have happened and did not.
pub fn blind_spots(counts: &Counts) -> Vec<&'static str> {
    let missing = |wanted: &'static [&'static str], met: &std::collections::BTreeMap<&'static str, u64>| {
        let missing = wanted.iter().copied().filter(|kind| !met.contains_key(kind));
        missing.collect::<Vec<_>>()
    };
    [
        missing(ANSWERS, &counts.answers),
        missing(OPTIONS, &counts.options),
        missing(EVENTS, &counts.events),
        missing(FAULTS, &counts.faults),
    ]
    .concat()
}
