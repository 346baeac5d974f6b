//! Messages on their way out, and those that wait for the disk.

use std::collections::VecDeque;

use super::RawNode;
use crate::error::StepError;
use crate::types::{Message, MessageType};

/// Outgoing messages: those that may leave, and those that promise something not yet durable.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    free: Vec<Message>,
    /// Each with the number of the write it waits for; the numbers never go down.
    held: VecDeque<(u64, Message)>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.free)
    }

    /// How many may leave, and how many wait.
    pub(super) fn lens(&self) -> (usize, usize) {
        (self.free.len(), self.held.len())
    }

    /// Takes out the messages that waited for this write or an earlier one.
    pub(super) fn release(&mut self, sequence: u64) -> Vec<Message> {
        let count = self.held.partition_point(|(awaited, _)| *awaited <= sequence);
        self.held.drain(..count).map(|(_, message)| message).collect()
    }
}

impl RawNode {
    /// Sends a message that promises nothing durable.
    pub(super) fn send(&mut self, message: Message) {
        assert!(message.to != self.config.id, "a message to oneself is handled in place");
        self.outbox.free.push(self.complete(message));
    }

    /// Sends a message once everything this member has in memory now is durable.
    ///
    /// Source: Raft thesis, section 3.8; what is promised and then forgotten elects two leaders or loses entries.
    pub(super) fn send_when_durable(&mut self, message: Message) {
        let message = self.complete(message);
        let unwritten = self.is_vote_unwritten() || self.log.has_unwritten();
        match self.log.awaited_write(unwritten) {
            Some(sequence) => {
                let newest = self.outbox.held.back().map_or(0, |(awaited, _)| *awaited);
                assert!(newest <= sequence, "messages wait for writes in order");
                self.outbox.held.push_back((sequence, message));
            }
            None => self.send_released(message),
        }
    }

    /// Sends a message whose promise is durable; one from a term that is over has lost its reader.
    pub(super) fn send_released(&mut self, message: Message) {
        if message.term < self.term {
            return;
        }
        if message.to == self.config.id {
            assert_eq!(
                message.msg_type,
                MessageType::MsgVoteResp,
                "a member tells itself of its vote only"
            );
            self.record_vote(self.config.id, true);
        } else {
            self.outbox.free.push(message);
        }
    }

    /// Whether term or vote differ from what the writer was given.
    pub(super) fn is_vote_unwritten(&self) -> bool {
        (self.term, self.vote) != (self.handed_hard.term, self.handed_hard.vote)
    }

    /// Refuses work that would add to a full queue. Heartbeats pass even when the disk is stuck: their answer does not wait
    /// for it, and a stuck follower should not start elections.
    pub(super) fn check_capacity(&self, msg_type: MessageType) -> Result<(), StepError> {
        let (free, held) = self.outbox.lens();
        let limit = self.config.max_queued_messages;
        if free >= limit || (held >= limit && msg_type != MessageType::MsgHeartbeat) {
            return Err(StepError::Overloaded { queued: free.max(held) });
        }
        Ok(())
    }

    /// The number of queued messages if no more may be added.
    pub(super) fn full_queue(&self) -> Option<usize> {
        let (free, _) = self.outbox.lens();
        (free >= self.config.max_queued_messages).then_some(free)
    }

    fn complete(&self, mut message: Message) -> Message {
        use MessageType::*;
        if message.from == 0 {
            message.from = self.config.id;
        }
        match message.msg_type {
            MsgProp | MsgReadIndex => assert_eq!(message.term, 0, "proposals and reads belong to no term"),
            MsgVote | MsgVoteResp | MsgPreVote | MsgPreVoteResp => {
                assert!(message.term != 0, "campaign messages name the term they are about");
            }
            _ => message.term = self.term,
        }
        message
    }
}
