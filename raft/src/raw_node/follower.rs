//! What a member takes from its leader: entries, a commit index, a snapshot.
//!
//! Source: Raft paper, sections 5.3 and 7.

use super::RawNode;
use crate::error::StepError;
use crate::membership::Configuration;
use crate::mutant;
use crate::types::{Message, MessageType, Snapshot};

impl RawNode {
    /// Entries, or a probe for where the logs agree.
    pub(super) fn handle_append(&mut self, message: Message) {
        let committed = self.log.committed();
        if message.index < committed {
            // What is committed here agrees with every leader, so tell this one how far that is.
            self.acknowledge(message.from, committed);
            return;
        }
        if !self.log.matches(message.index, message.log_term) {
            self.refuse_append(&message);
            return;
        }
        let last_new = message.index + message.entries.len() as u64;
        self.log.merge(message.entries);
        let last_new = if mutant::on("ack_beyond_match") {
            self.log.last_index()
        } else {
            last_new
        };
        self.log.commit_to(message.commit.min(last_new));
        self.acknowledge(message.from, last_new);
    }

    /// A sign of life, and how far the leader knows this member may commit.
    pub(super) fn handle_heartbeat(&mut self, message: Message) -> Result<(), StepError> {
        let last_index = self.log.last_index();
        if message.commit > last_index {
            // The leader commits here only what this member acknowledged, so it was durable and is gone.
            return Err(StepError::LostLog {
                commit: message.commit,
                last_index,
            });
        }
        self.log.commit_to(message.commit);
        let msg_type = MessageType::MsgHeartbeatResp;
        self.send(Message {
            msg_type,
            to: message.from,
            context: message.context,
            ..Default::default()
        });
        Ok(())
    }

    /// A snapshot in place of entries the leader no longer has.
    pub(super) fn handle_snapshot(&mut self, from: u64, snapshot: Snapshot) -> Result<(), StepError> {
        if self.restore(snapshot)? {
            if mutant::on("snapshot_acknowledged_early") {
                self.send(Message {
                    msg_type: MessageType::MsgAppResp,
                    to: from,
                    index: self.log.last_index(),
                    ..Default::default()
                });
            }
            self.acknowledge(from, self.log.last_index());
        } else {
            self.acknowledge(from, self.log.committed());
        }
        Ok(())
    }

    /// A snapshot became durable here; it may serve followers too.
    pub(super) fn offer_installed_snapshot(&mut self) {
        self.offered.index = self.log.base_index();
        self.offered.term = self
            .log
            .term(self.log.base_index())
            .expect("the base of the log has a term");
        self.offered.conf_state = self
            .installed_conf_state
            .take()
            .expect("a snapshot was restored before it is durable");
    }

    /// Acknowledges the log up to `index`, once it is durable.
    fn acknowledge(&mut self, to: u64, index: u64) {
        let answer = Message {
            msg_type: MessageType::MsgAppResp,
            to,
            index,
            ..Default::default()
        };
        if mutant::on("ack_before_sync") {
            return self.send(answer);
        }
        self.send_when_durable(answer);
    }

    /// Names the last entry that may agree with the leader's log; that is only a hint, so it need not be durable.
    fn refuse_append(&mut self, message: &Message) {
        let (reject_hint, log_term) = self.log.find_conflict_by_term(message.index, message.log_term);
        self.send(Message {
            msg_type: MessageType::MsgAppResp,
            to: message.from,
            index: message.index,
            reject: true,
            reject_hint,
            log_term,
            ..Default::default()
        });
    }

    /// Replaces log and configuration by the snapshot; says whether that was called for.
    fn restore(&mut self, snapshot: Snapshot) -> Result<bool, StepError> {
        let metadata = &snapshot.metadata;
        if metadata.index <= self.log.committed() && !mutant::on("old_snapshot_taken") {
            return Ok(false);
        }
        // Its configuration need not contain this member: the entry that adds it may stand behind the snapshot, and until
        // that is applied the member follows like any other that is just joining.
        let configuration = Configuration::from_conf_state(&metadata.conf_state).map_err(|_| StepError::Malformed {
            msg_type: MessageType::MsgSnap,
            what: "its configuration contradicts itself",
        })?;
        if self.log.matches(metadata.index, metadata.term) {
            // The log has it all already: nothing but the commit index is new.
            self.log.commit_to(metadata.index);
            return Ok(false);
        }
        self.installed_conf_state = Some(metadata.conf_state.clone());
        self.log.restore(snapshot);
        if !mutant::on("snapshot_keeps_the_configuration") {
            self.tracker.switch(configuration, self.log.last_index());
        }
        Ok(true)
    }
}
