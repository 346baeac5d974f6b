//! etcd's feature gates: which there are, and which of them the server can honour.
//!
//! A gate that means nothing to a server of one member with a database of its own is accepted with either value; a gate that
//! would change an answer is accepted only as it is.

/// A known gate and what the server does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// The name, in etcd's spelling.
    pub name: &'static str,
    /// etcd's default.
    pub default: bool,
    /// Why only the default is accepted, or `None` when both values are.
    pub only_default_because: Option<&'static str>,
    /// One sentence for `--help`.
    pub help: &'static str,
}

const NO_CHECKPOINT: &str = "lease checkpoints by gate are not there yet";

/// Every gate of etcd 3.6.
pub const GATES: &[Gate] = &[
    Gate {
        name: "AllAlpha",
        default: false,
        only_default_because: Some("it includes LeaseCheckpoint, which is not there yet"),
        help: "every alpha gate",
    },
    Gate {
        name: "AllBeta",
        default: false,
        only_default_because: None,
        help: "every beta gate; no effect",
    },
    Gate {
        name: "CompactHashCheck",
        default: false,
        only_default_because: None,
        help: "no effect: members do not compare their data yet",
    },
    Gate {
        name: "InitialCorruptCheck",
        default: false,
        only_default_because: None,
        help: "no effect: members do not compare their data yet",
    },
    Gate {
        name: "LeaseCheckpoint",
        default: false,
        only_default_because: Some(NO_CHECKPOINT),
        help: "only false",
    },
    Gate {
        name: "LeaseCheckpointPersist",
        default: false,
        only_default_because: Some(NO_CHECKPOINT),
        help: "only false",
    },
    Gate {
        name: "SetMemberLocalAddr",
        default: false,
        only_default_because: None,
        help: "no effect: links come from any local address",
    },
    Gate {
        name: "StopGRPCServiceOnDefrag",
        default: false,
        only_default_because: None,
        help: "defragmentation stops nothing",
    },
    Gate {
        name: "TxnModeWriteWithSharedBuffer",
        default: true,
        only_default_because: None,
        help: "no such buffer",
    },
];

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
