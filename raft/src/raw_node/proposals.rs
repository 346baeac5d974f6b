//! Proposals: taken by the leader, forwarded by others, refused at the limits.

use bytes::Bytes;

use super::RawNode;
use crate::conf_change::{AnyConfChange, ConfChangeV2};
use crate::error::{ConfChangeError, ProposeError};
use crate::mutant;
use crate::types::{Entry, EntryType, Message, MessageType, Role};

impl RawNode {
    /// Normal entries, all or nothing.
    pub(super) fn propose_normal(&mut self, data: impl Iterator<Item = Bytes>) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            let entries = data
                .map(|data| Entry {
                    data,
                    ..Default::default()
                })
                .collect();
            return self.forward_proposal(entries);
        }
        self.check_may_propose()?;
        let data: Vec<Bytes> = data.collect();
        self.check_uncommitted(data.len(), data.iter().map(|data| data.len() as u64).sum())?;
        if !data.is_empty() {
            self.append_as_leader(data.into_iter().map(|data| (EntryType::Normal, data)));
        }
        Ok(())
    }

    /// A configuration change, in the form it is to be logged in.
    pub(super) fn propose_change(&mut self, change: AnyConfChange) -> Result<(), ProposeError> {
        let (entry_type, data) = match &change {
            AnyConfChange::V1(change) => (EntryType::ConfChange, change.encode()),
            AnyConfChange::V2(change) => (EntryType::ConfChangeV2, change.encode()),
        };
        if self.role != Role::Leader {
            return self.forward_proposal(vec![Entry {
                entry_type,
                data,
                ..Default::default()
            }]);
        }
        self.take_change(&change.to_v2(), entry_type, data)
    }

    /// A proposal that another member forwarded.
    pub(super) fn take_forwarded(&mut self, message: Message) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            // Only the member that a proposal is made on forwards it, so that none wanders between two that take each
            // other for the leader.
            return Err(match self.leader_id {
                0 => ProposeError::NoLeader,
                leader_id => ProposeError::NotLeader { leader_id },
            });
        }
        if let [entry] = message.entries.as_slice()
            && let Some(change) = entry.conf_change()?
        {
            return self.take_change(&change, entry.entry_type, entry.data.clone());
        }
        self.propose_normal(message.entries.into_iter().map(|entry| entry.data))
    }

    /// Makes a committed change take effect.
    pub(super) fn apply_change(
        &mut self,
        change: &ConfChangeV2,
    ) -> Result<crate::conf_change::ConfState, ConfChangeError> {
        // A snapshot on its way in contains the change; applying it on top would be wrong.
        if !self.log.has_snapshot() {
            let next = self.tracker.config.after(change)?;
            self.switch_configuration(next);
        }
        Ok(self.conf_state())
    }

    /// Leaves a joint configuration that is to be left automatically, once the change that entered it is applied.
    pub(super) fn leave_joint_if_due(&mut self) {
        let due = self.role == Role::Leader
            && self.tracker.config.auto_leave
            && self.log.applied() >= self.pending_conf_index;
        if due {
            self.append_change(EntryType::ConfChangeV2, ConfChangeV2::leave_joint().encode());
        }
    }

    fn take_change(&mut self, change: &ConfChangeV2, entry_type: EntryType, data: Bytes) -> Result<(), ProposeError> {
        self.check_may_propose()?;
        if self.pending_conf_index > self.log.applied() && !mutant::on("two_changes_at_once") {
            return Err(ProposeError::ConfChangePending {
                index: self.pending_conf_index,
            });
        }
        self.tracker.config.after(change)?;
        self.check_uncommitted(1, data.len() as u64)?;
        self.append_change(entry_type, data);
        Ok(())
    }

    fn append_change(&mut self, entry_type: EntryType, data: Bytes) {
        self.append_as_leader([(entry_type, data)]);
        self.pending_conf_index = self.log.last_index();
    }

    fn check_may_propose(&self) -> Result<(), ProposeError> {
        match self.transferring_to {
            0 => Ok(()),
            to => Err(ProposeError::Transferring { to }),
        }
    }

    /// Something always fits when nothing is uncommitted, and empty payloads always fit into the bytes.
    fn check_uncommitted(&self, count: usize, bytes: u64) -> Result<(), ProposeError> {
        let held = (self.log.last_index() - self.log.committed()) as usize;
        let too_big = bytes > 0
            && self.uncommitted_bytes > 0
            && self.uncommitted_bytes.saturating_add(bytes) > self.config.max_uncommitted_bytes;
        let too_many = held > 0 && held.saturating_add(count) > self.config.max_uncommitted_entries;
        if too_big || too_many {
            return Err(ProposeError::TooMuchUncommitted {
                bytes: self.uncommitted_bytes,
                entries: held,
            });
        }
        Ok(())
    }

    fn forward_proposal(&mut self, entries: Vec<Entry>) -> Result<(), ProposeError> {
        if self.leader_id == 0 {
            return Err(ProposeError::NoLeader);
        }
        if self.config.disable_proposal_forwarding {
            return Err(ProposeError::NotLeader {
                leader_id: self.leader_id,
            });
        }
        if let Some(queued) = self.full_queue() {
            return Err(ProposeError::Overloaded { queued });
        }
        if !entries.is_empty() {
            let msg_type = MessageType::MsgProp;
            self.send(Message {
                msg_type,
                to: self.leader_id,
                entries,
                ..Default::default()
            });
        }
        Ok(())
    }
}
