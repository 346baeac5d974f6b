//! Linearizable reads without a log entry.
//!
//! A leader notes its commit index, asks a quorum whether it still leads, and serves the read from any state at or past that
//! index. The question rides on heartbeats and carries the number of the *round*; a round serves every read that came
//! before its heartbeats left. Round numbers are never reused in the life of a node, and answers of other terms are dropped
//! before they get here, so no answer is ever taken for another's. An answer to a round answers all rounds before it.
//!
//! Source: Raft thesis, section 6.4.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RawNode;
use crate::error::ReadIndexError;
use crate::mutant;
use crate::ready::ReadState;
use crate::types::{Entry, Message, MessageType, Role};

/// A read that waits; `from` is the member that asked.
#[derive(Debug, Clone, Copy)]
struct Request {
    from: u64,
    context: u64,
    /// The commit index when the read came.
    index: u64,
}

/// Reads that wait for a quorum, or for the leader's first commit.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// With the round that serves each; rounds never go down.
    asked: VecDeque<(u64, Request)>,
    /// Reads of a leader that has committed nothing in its term, and so does not know the commit index yet.
    early: Vec<Request>,
    /// The newest round, whose heartbeats left unless `round_due`.
    newest_round: u64,
    round_due: bool,
}

impl Reads {
    /// Whether a round waits for its heartbeats.
    pub(super) fn is_round_due(&self) -> bool {
        self.round_due
    }

    /// The heartbeats of the newest round leave now; gives their context, empty if no read waits.
    pub(super) fn begin_round(&mut self) -> Bytes {
        self.round_due = false;
        match self.asked.back() {
            Some((round, _)) => Bytes::copy_from_slice(&round.to_be_bytes()),
            None => Bytes::new(),
        }
    }

    /// The round an answer is for, 0 for none; `None` if the context is not from here.
    pub(super) fn round_of(&self, context: &[u8]) -> Option<u64> {
        if context.is_empty() {
            return Some(0);
        }
        decode_context(context).filter(|round| *round <= self.newest_round)
    }

    /// Drops every read; the numbering goes on.
    pub(super) fn clear(&mut self) {
        self.asked.clear();
        self.early.clear();
        self.round_due = false;
    }

    fn len(&self) -> usize {
        self.asked.len() + self.early.len()
    }

    fn ask(&mut self, request: Request) {
        let joins_the_last = mutant::on("read_joins_an_earlier_round") && !self.asked.is_empty();
        if !self.round_due && !joins_the_last {
            self.newest_round += 1;
            self.round_due = true;
        }
        self.asked.push_back((self.newest_round, request));
    }

    fn take_answered(&mut self, round: u64) -> Vec<Request> {
        let count = self.asked.partition_point(|(asked, _)| *asked <= round);
        self.asked.drain(..count).map(|(_, request)| request).collect()
    }
}

impl RawNode {
    /// A read of the member itself.
    pub(super) fn request_read(&mut self, context: u64) -> Result<(), ReadIndexError> {
        if self.leader_id == 0 {
            return Err(ReadIndexError::NoLeader);
        }
        if self.role == Role::Leader {
            return self.take_read(self.config.id, context);
        }
        if let Some(queued) = self.full_queue() {
            return Err(ReadIndexError::Overloaded { queued });
        }
        let (to, entries) = (self.leader_id, context_entries(context));
        self.send(Message {
            msg_type: MessageType::MsgReadIndex,
            to,
            entries,
            ..Default::default()
        });
        Ok(())
    }

    /// A read forwarded by another member.
    pub(super) fn take_forwarded_read(&mut self, from: u64, context: u64) -> Result<(), ReadIndexError> {
        match self.role {
            Role::Leader => self.take_read(from, context),
            _ => Err(ReadIndexError::NoLeader),
        }
    }

    /// Reads that came before the leader's first commit can be asked for now.
    pub(super) fn admit_waiting_reads(&mut self) {
        for request in std::mem::take(&mut self.reads.early) {
            self.admit_read(request);
        }
    }

    /// Serves the reads whose round a quorum has answered.
    pub(super) fn answer_reads(&mut self) {
        // A round whose heartbeats have not left was answered by nobody, the leader included.
        let own = self.reads.newest_round - u64::from(self.reads.round_due);
        let round = self.tracker.acknowledged_round(self.config.id, own);
        for request in self.reads.take_answered(round) {
            self.answer_read(request);
        }
    }

    fn take_read(&mut self, from: u64, context: u64) -> Result<(), ReadIndexError> {
        let pending = self.reads.len();
        if pending >= self.config.max_pending_read_index {
            return Err(ReadIndexError::TooManyPending { pending });
        }
        let request = Request {
            from,
            context,
            index: 0,
        };
        if self.log.matches(self.log.committed(), self.term) || mutant::on("read_before_first_commit") {
            self.admit_read(request);
        } else {
            self.reads.early.push(request);
        }
        Ok(())
    }

    fn admit_read(&mut self, request: Request) {
        let request = Request {
            index: self.log.committed(),
            ..request
        };
        if self.tracker.config.voters.is_only(self.config.id) || mutant::on("read_without_round") {
            self.answer_read(request);
        } else {
            self.reads.ask(request);
        }
    }

    fn answer_read(&mut self, request: Request) {
        let Request { from, context, index } = request;
        if from == self.config.id {
            self.read_states.push(ReadState { index, context });
        } else {
            let (msg_type, entries) = (MessageType::MsgReadIndexResp, context_entries(context));
            self.send(Message {
                msg_type,
                to: from,
                index,
                entries,
                ..Default::default()
            });
        }
    }
}

/// The context of a read as messages carry it: one entry, 8 bytes, big-endian.
pub(super) fn context_entries(context: u64) -> Vec<Entry> {
    vec![Entry {
        data: Bytes::copy_from_slice(&context.to_be_bytes()),
        ..Default::default()
    }]
}

/// The number in 8 big-endian bytes.
pub(super) fn decode_context(context: &[u8]) -> Option<u64> {
    context.try_into().ok().map(u64::from_be_bytes)
}
