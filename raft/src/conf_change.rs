//! Configuration changes and configurations, with their `raftpb` wire encoding.
//!
//! Log entries carry these bytes, and logs outlive binaries (and may come from an etcd data directory), so the encoding is
//! part of the on-disk contract: proto2, scalar fields always written, repeated scalars unpacked, bytes only when non-empty.

use bytes::Bytes;

use crate::wire::{FieldReader, FieldValue, FieldWriter, WireError};

/// What a change does to one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ConfChangeType {
    /// Make the member a voter, or promote a learner.
    #[default]
    AddNode = 0,
    /// Remove the member.
    RemoveNode = 1,
    /// Nothing for Raft; the member above changes an attribute.
    UpdateNode = 2,
    /// Make the member a learner: it receives the log and has no vote.
    AddLearnerNode = 3,
}

impl ConfChangeType {
    fn from_number(number: u64) -> Result<ConfChangeType, WireError> {
        match number {
            0 => Ok(ConfChangeType::AddNode),
            1 => Ok(ConfChangeType::RemoveNode),
            2 => Ok(ConfChangeType::UpdateNode),
            3 => Ok(ConfChangeType::AddLearnerNode),
            _ => Err(WireError::UnknownEnumValue {
                message: "ConfChangeType",
                value: number,
            }),
        }
    }
}

/// How a [`ConfChangeV2`] passes from the old configuration to the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ConfChangeTransition {
    /// At once when the change touches at most one voter, else jointly with automatic leave.
    #[default]
    Auto = 0,
    /// Jointly; the leader proposes leaving by itself.
    JointImplicit = 1,
    /// Jointly; leaving must be proposed (an empty [`ConfChangeV2`]).
    JointExplicit = 2,
}

impl ConfChangeTransition {
    fn from_number(number: u64) -> Result<ConfChangeTransition, WireError> {
        match number {
            0 => Ok(ConfChangeTransition::Auto),
            1 => Ok(ConfChangeTransition::JointImplicit),
            2 => Ok(ConfChangeTransition::JointExplicit),
            _ => Err(WireError::UnknownEnumValue {
                message: "ConfChangeTransition",
                value: number,
            }),
        }
    }
}

/// The change of one member, as etcd has always logged it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ConfChange {
    /// The proposer's id of the proposal.
    pub id: u64,
    /// What happens to the member.
    pub change_type: ConfChangeType,
    /// The member.
    pub node_id: u64,
    /// Opaque data of the proposer; empty means absent.
    pub context: Bytes,
}

/// One step of a [`ConfChangeV2`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ConfChangeSingle {
    /// What happens to the member.
    pub change_type: ConfChangeType,
    /// The member; a change of member 0 is skipped.
    pub node_id: u64,
}

/// A change of any number of members.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ConfChangeV2 {
    /// How to pass to the new configuration.
    pub transition: ConfChangeTransition,
    /// The steps, applied in order; empty means "leave the joint configuration".
    pub changes: Vec<ConfChangeSingle>,
    /// Opaque data of the proposer; empty means absent.
    pub context: Bytes,
}

/// Either form of a configuration change; each is logged in its own encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyConfChange {
    /// Logged as [`crate::EntryType::ConfChange`].
    V1(ConfChange),
    /// Logged as [`crate::EntryType::ConfChangeV2`].
    V2(ConfChangeV2),
}

/// The configuration of a group: who votes, who learns, and whether it is between two configurations.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ConfState {
    /// Voters, in the incoming configuration if joint.
    pub voters: Vec<u64>,
    /// Learners: they receive the log and have no vote.
    pub learners: Vec<u64>,
    /// Voters of the outgoing configuration; empty unless joint.
    pub voters_outgoing: Vec<u64>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: Vec<u64>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl From<ConfChange> for ConfChangeV2 {
    fn from(change: ConfChange) -> ConfChangeV2 {
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto,
            changes: vec![ConfChangeSingle {
                change_type: change.change_type,
                node_id: change.node_id,
            }],
            context: change.context,
        }
    }
}

impl From<ConfChange> for AnyConfChange {
    fn from(change: ConfChange) -> AnyConfChange {
        AnyConfChange::V1(change)
    }
}

impl From<ConfChangeV2> for AnyConfChange {
    fn from(change: ConfChangeV2) -> AnyConfChange {
        AnyConfChange::V2(change)
    }
}

impl AnyConfChange {
    /// The change in the newer form.
    pub fn to_v2(&self) -> ConfChangeV2 {
        match self {
            AnyConfChange::V1(change) => change.clone().into(),
            AnyConfChange::V2(change) => change.clone(),
        }
    }
}

impl ConfChangeV2 {
    /// A change of one member, applied at once.
    pub fn single(change_type: ConfChangeType, node_id: u64) -> ConfChangeV2 {
        ConfChangeV2 {
            changes: vec![ConfChangeSingle { change_type, node_id }],
            ..Default::default()
        }
    }

    /// The change that leaves a joint configuration.
    pub fn leave_joint() -> ConfChangeV2 {
        ConfChangeV2::default()
    }

    /// Whether the change leaves a joint configuration.
    pub fn leaves_joint(&self) -> bool {
        self.changes.is_empty() && self.transition == ConfChangeTransition::Auto
    }

    /// Whether the change enters a joint configuration, and if so whether that one leaves by itself.
    ///
    /// Source: Raft thesis, section 4.3; single changes (section 4.1) need no joint configuration.
    pub fn enters_joint(&self) -> Option<bool> {
        match self.transition {
            ConfChangeTransition::Auto if self.changes.len() <= 1 => None,
            ConfChangeTransition::Auto | ConfChangeTransition::JointImplicit => Some(true),
            ConfChangeTransition::JointExplicit => Some(false),
        }
    }

    /// The `raftpb.ConfChangeV2` bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = FieldWriter::new();
        out.uint(1, self.transition as u64);
        for change in &self.changes {
            let mut inner = FieldWriter::new();
            inner.uint(1, change.change_type as u64);
            inner.uint(2, change.node_id);
            out.bytes(2, &inner.finish());
        }
        out.bytes_if_set(3, &self.context);
        out.finish()
    }

    /// Reads `raftpb.ConfChangeV2` bytes; empty ones are the default change.
    ///
    /// Errors: the bytes are not such a message.
    pub fn decode(data: &Bytes) -> Result<ConfChangeV2, WireError> {
        let mut change = ConfChangeV2::default();
        let mut fields = FieldReader::new(data, "ConfChangeV2");
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (1, FieldValue::Uint(v)) => change.transition = ConfChangeTransition::from_number(v)?,
                (2, FieldValue::Bytes(v)) => change.changes.push(ConfChangeSingle::decode(&v)?),
                (3, FieldValue::Bytes(v)) => change.context = v,
                (1..=3, _) => return Err(fields.wrong_type(number)),
                _ => {}
            }
        }
        Ok(change)
    }
}

impl ConfChangeSingle {
    fn decode(data: &Bytes) -> Result<ConfChangeSingle, WireError> {
        let mut single = ConfChangeSingle::default();
        let mut fields = FieldReader::new(data, "ConfChangeSingle");
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (1, FieldValue::Uint(v)) => single.change_type = ConfChangeType::from_number(v)?,
                (2, FieldValue::Uint(v)) => single.node_id = v,
                (1..=2, _) => return Err(fields.wrong_type(number)),
                _ => {}
            }
        }
        Ok(single)
    }
}

impl ConfChange {
    /// The `raftpb.ConfChange` bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = FieldWriter::new();
        out.uint(1, self.id);
        out.uint(2, self.change_type as u64);
        out.uint(3, self.node_id);
        out.bytes_if_set(4, &self.context);
        out.finish()
    }

    /// Reads `raftpb.ConfChange` bytes.
    ///
    /// Errors: the bytes are not such a message.
    pub fn decode(data: &Bytes) -> Result<ConfChange, WireError> {
        let mut change = ConfChange::default();
        let mut fields = FieldReader::new(data, "ConfChange");
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (1, FieldValue::Uint(v)) => change.id = v,
                (2, FieldValue::Uint(v)) => change.change_type = ConfChangeType::from_number(v)?,
                (3, FieldValue::Uint(v)) => change.node_id = v,
                (4, FieldValue::Bytes(v)) => change.context = v,
                (1..=4, _) => return Err(fields.wrong_type(number)),
                _ => {}
            }
        }
        Ok(change)
    }
}

impl ConfState {
    /// A plain configuration of these voters.
    pub fn of_voters(voters: impl IntoIterator<Item = u64>) -> ConfState {
        ConfState {
            voters: voters.into_iter().collect(),
            ..Default::default()
        }
    }

    /// Whether the configuration is between two configurations.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether the member has any part in the configuration.
    pub fn contains(&self, id: u64) -> bool {
        [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next]
            .iter()
            .any(|ids| ids.contains(&id))
    }

    /// The `raftpb.ConfState` bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = FieldWriter::new();
        for (number, ids) in [
            (1, &self.voters),
            (2, &self.learners),
            (3, &self.voters_outgoing),
            (4, &self.learners_next),
        ] {
            ids.iter().for_each(|&id| out.uint(number, id));
        }
        out.uint(5, u64::from(self.auto_leave));
        out.finish()
    }

    /// Reads `raftpb.ConfState` bytes.
    ///
    /// Errors: the bytes are not such a message.
    pub fn decode(data: &Bytes) -> Result<ConfState, WireError> {
        let mut state = ConfState::default();
        let mut fields = FieldReader::new(data, "ConfState");
        while let Some((number, value)) = fields.next_field()? {
            match (number, value) {
                (1, value) => fields.push_uints(number, value, &mut state.voters)?,
                (2, value) => fields.push_uints(number, value, &mut state.learners)?,
                (3, value) => fields.push_uints(number, value, &mut state.voters_outgoing)?,
                (4, value) => fields.push_uints(number, value, &mut state.learners_next)?,
                (5, FieldValue::Uint(v)) => state.auto_leave = v != 0,
                (5, _) => return Err(fields.wrong_type(number)),
                _ => {}
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests;
