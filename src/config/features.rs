//! etcd's feature gates: which there are, and which are on.
//!
//! Every gate of etcd 3.6 is accepted with either value. Those that name what the server does anyway, or what it has not
//! got, change nothing, and `--help` says so.

/// Members that start compare their data with the others first.
pub const INITIAL_CORRUPT_CHECK: &str = "InitialCorruptCheck";
/// The leader compares hashes taken at compactions.
pub const COMPACT_HASH_CHECK: &str = "CompactHashCheck";
/// The gRPC health service reports NOT_SERVING while a defragmentation runs.
pub const STOP_GRPC_SERVICE_ON_DEFRAG: &str = "StopGRPCServiceOnDefrag";

const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";
const LEASE_CHECKPOINT: &str = "LeaseCheckpoint";
const LEASE_CHECKPOINT_PERSIST: &str = "LeaseCheckpointPersist";

/// How ripe a gate is, in the words of etcd's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Off by default.
    Alpha,
    /// On by default.
    Beta,
}

/// A known gate and what the server does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// The name, in etcd's spelling.
    pub name: &'static str,
    /// How ripe it is.
    pub stage: Stage,
    /// etcd's default.
    pub default: bool,
    /// One sentence for `--help`.
    pub help: &'static str,
}

/// Every gate of etcd 3.6.
#[rustfmt::skip] // one row a line
pub const GATES: &[Gate] = &[
    gate(ALL_ALPHA, Stage::Alpha, "every alpha gate that is not named"),
    gate(ALL_BETA, Stage::Beta, "every beta gate that is not named"),
    gate(COMPACT_HASH_CHECK, Stage::Alpha, "the leader compares hashes taken at compactions"),
    gate(INITIAL_CORRUPT_CHECK, Stage::Alpha, "compare data with the other members before serving"),
    gate(LEASE_CHECKPOINT, Stage::Alpha, "no effect: what is left of long leases is always checkpointed"),
    gate(LEASE_CHECKPOINT_PERSIST, Stage::Alpha, "no effect: checkpoints are always kept"),
    gate("SetMemberLocalAddr", Stage::Alpha, "no effect: links come from any local address"),
    gate(STOP_GRPC_SERVICE_ON_DEFRAG, Stage::Alpha, "gRPC health says NOT_SERVING during defrag"),
    Gate { default: true, ..gate("TxnModeWriteWithSharedBuffer", Stage::Beta, "no effect: no such buffer") },
];

const fn gate(name: &'static str, stage: Stage, help: &'static str) -> Gate {
    Gate {
        name,
        stage,
        default: false,
        help,
    }
}

/// Which gates are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features(Vec<bool>);

impl Features {
    /// The gates as they were asked for, the rest by default; a gate named by itself beats `AllAlpha` and `AllBeta`.
    ///
    /// Errors: a gate is on without the one it needs; the text is etcd's.
    pub fn new(asked: &[(&'static Gate, bool)]) -> Result<Features, &'static str> {
        let by_name = |name: &str| {
            let found = asked.iter().rev().find(|(gate, _)| gate.name == name);
            found.map(|(_, enabled)| *enabled)
        };
        let value = |gate: &Gate| {
            let all = match gate.stage {
                Stage::Alpha => ALL_ALPHA,
                Stage::Beta => ALL_BETA,
            };
            by_name(gate.name).or(by_name(all)).unwrap_or(gate.default)
        };
        let features = Features(GATES.iter().map(value).collect());
        if features.is_on(LEASE_CHECKPOINT_PERSIST) && !features.is_on(LEASE_CHECKPOINT) {
            return Err("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint");
        }
        Ok(features)
    }

    /// Whether the gate of that name is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.iter().any(|(gate, enabled)| enabled && gate.name == name)
    }

    /// Every gate and whether it is on.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Gate, bool)> {
        GATES.iter().zip(self.0.iter().copied())
    }
}

/// Why a list of gates was refused; the texts are etcd's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// An item without `=`.
    #[error("missing bool value for {0}")]
    MissingValue(String),
    /// A value that is no boolean.
    #[error("invalid value of {name}={value}, err: strconv.ParseBool: parsing \"{value}\": invalid syntax")]
    BadValue {
        /// The gate.
        name: String,
        /// What was given.
        value: String,
    },
    /// A name that etcd 3.6 does not know.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
}

/// Reads a `Name=bool,...` list, in the order given.
pub fn parse(text: &str) -> Result<Vec<(&'static Gate, bool)>, GateError> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(parse_item).collect()
}

/// The gate of that name.
pub fn find(name: &str) -> Option<&'static Gate> {
    GATES.iter().find(|gate| gate.name == name)
}

fn parse_item(item: &str) -> Result<(&'static Gate, bool), GateError> {
    let (name, value) = item
        .split_once('=')
        .ok_or_else(|| GateError::MissingValue(item.to_string()))?;
    let (name, value) = (name.trim(), value.trim());
    let enabled = super::go_value::parse_bool(value).ok_or_else(|| GateError::BadValue {
        name: name.to_string(),
        value: value.to_string(),
    })?;
    let gate = find(name).ok_or_else(|| GateError::Unknown(name.to_string()))?;
    Ok((gate, enabled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_gates_is_read_in_order() {
        let gates = parse("InitialCorruptCheck=true, CompactHashCheck=0,").expect("two known gates");
        let got: Vec<_> = gates.iter().map(|(gate, enabled)| (gate.name, *enabled)).collect();
        assert_eq!(got, [("InitialCorruptCheck", true), ("CompactHashCheck", false)]);
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn a_gate_named_by_itself_beats_the_sum_of_its_stage() {
        let features = |text: &str| Features::new(&parse(text).expect("known gates"));
        let some = features("CompactHashCheck=false,AllAlpha=true,AllBeta=false").unwrap();
        assert!(some.is_on(INITIAL_CORRUPT_CHECK) && !some.is_on(COMPACT_HASH_CHECK));
        assert!(!some.is_on("TxnModeWriteWithSharedBuffer"));
        assert!(features("").unwrap().is_on("TxnModeWriteWithSharedBuffer"));
        assert!(
            features("LeaseCheckpointPersist=true")
                .unwrap_err()
                .contains("requires")
        );
    }

    #[test]
    fn bad_lists_are_refused_with_the_texts_of_etcd() {
        let table = [
            ("AllBeta", "missing bool value for AllBeta"),
            (
                "AllBeta=x",
                "invalid value of AllBeta=x, err: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
            ("Foo=true", "unrecognized feature gate: Foo"),
        ];
        for (text, want) in table {
            assert_eq!(parse(text).expect_err(text).to_string(), want);
        }
    }
}
