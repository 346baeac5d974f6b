//! Messages from the network: what is well formed, whose term counts, who handles it.

use super::RawNode;
use super::election::CAMPAIGN_TRANSFER;
use super::reads::decode_context;
use super::succession::Succession;
use crate::error::StepError;
use crate::mutant;
use crate::ready::ReadState;
use crate::types::{Message, MessageType, Role};

/// Terms and indexes of messages stay below this, so that counting on from them never overflows.
const HIGHEST_NUMBER: u64 = u64::MAX >> 1;

impl RawNode {
    /// Checks a message, settles the terms, and lets the role handle it.
    pub(super) fn step_message(&mut self, message: Message) -> Result<(), StepError> {
        self.check_addresses(&message)?;
        check_shape(&message)?;
        self.check_capacity(message.msg_type)?;
        if !self.settle_term(&message) {
            return Ok(());
        }
        match message.msg_type {
            MessageType::MsgVote | MessageType::MsgPreVote => {
                self.answer_vote(&message);
                Ok(())
            }
            MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap => self.step_from_leader(message),
            MessageType::MsgProp => Ok(self.take_forwarded(message)?),
            MessageType::MsgReadIndex => {
                let context = read_context(&message).expect("the shape of the message was checked");
                Ok(self.take_forwarded_read(message.from, context)?)
            }
            _ => {
                self.learn_commit_from_vote(&message);
                match self.role {
                    Role::Leader => self.step_leader(message),
                    Role::Follower => self.step_follower(message),
                    Role::Candidate | Role::PreCandidate => self.step_candidate(message),
                }
            }
        }
    }

    fn check_addresses(&self, message: &Message) -> Result<(), StepError> {
        let msg_type = message.msg_type;
        if msg_type.is_local() {
            return Err(StepError::LocalMessage(msg_type));
        }
        if message.to != self.config.id {
            return Err(StepError::WrongRecipient {
                to: message.to,
                id: self.config.id,
            });
        }
        // A wish for this leader itself bears its own id, as the heir's always does.
        if message.from == 0 || (message.from == self.config.id && msg_type != MessageType::MsgTransferLeader) {
            return Err(StepError::Malformed {
                msg_type,
                what: "the sender is nobody or this member",
            });
        }
        let from_outside = self.tracker.get(message.from).is_none();
        if from_outside && msg_type.is_response() && msg_type != MessageType::MsgReadIndexResp {
            return Err(StepError::PeerNotFound(message.from));
        }
        Ok(())
    }

    /// Compares terms; says whether the message is to be handled further.
    fn settle_term(&mut self, message: &Message) -> bool {
        use MessageType::*;
        if matches!(message.msg_type, MsgProp | MsgReadIndex) {
            return true;
        }
        if message.term < self.term {
            self.answer_stale(message);
            return false;
        }
        if message.term == self.term {
            return true;
        }
        let asks_vote = matches!(message.msg_type, MsgVote | MsgPreVote);
        if asks_vote && message.context != CAMPAIGN_TRANSFER && self.is_in_lease() {
            self.put_off(message);
            return false;
        }
        match message.msg_type {
            // A pre-vote is about a term that nobody has entered: neither question nor consent raises ours.
            MsgPreVote if mutant::on("pre_vote_raises_the_term") => self.become_follower(message.term, 0),
            MsgPreVote => {}
            MsgPreVoteResp if !message.reject => {}
            MsgApp | MsgHeartbeat | MsgSnap => self.become_follower(message.term, message.from),
            _ => self.become_follower(message.term, 0),
        }
        true
    }

    /// A message from a term that is over. Most are dropped; some senders must be told, or they would be stuck.
    fn answer_stale(&mut self, message: &Message) {
        use MessageType::*;
        let to = message.from;
        match message.msg_type {
            // A leader of an old term ignores our campaigns (its followers are in its lease) and we its heartbeats. An
            // answer with our term makes it step down, so that the next election includes everybody. A learner cannot even
            // campaign, so it answers whatever the configuration.
            MsgApp | MsgHeartbeat => {
                self.send(Message {
                    msg_type: MsgAppResp,
                    to,
                    ..Default::default()
                });
            }
            // A pre-candidate of an old term must learn ours before it can win.
            MsgPreVote => {
                let (msg_type, term) = (MsgPreVoteResp, self.term);
                self.send(Message {
                    msg_type,
                    to,
                    term,
                    reject: true,
                    ..Default::default()
                });
            }
            _ => {}
        }
    }

    fn step_from_leader(&mut self, message: Message) -> Result<(), StepError> {
        let msg_type = message.msg_type;
        if self.role == Role::Leader || (self.leader_id != 0 && self.leader_id != message.from) {
            return Err(StepError::Malformed {
                msg_type,
                what: "this term has another leader",
            });
        }
        if self.role == Role::Follower {
            self.election_elapsed = 0;
            self.leader_id = message.from;
            self.succession = Succession::default();
        } else {
            self.become_follower(message.term, message.from);
        }
        match (msg_type, message.snapshot) {
            (MessageType::MsgSnap, Some(snapshot)) => self.handle_snapshot(message.from, snapshot),
            (MessageType::MsgHeartbeat, _) => self.handle_heartbeat(Message {
                snapshot: None,
                ..message
            }),
            _ => {
                self.handle_append(Message {
                    snapshot: None,
                    ..message
                });
                Ok(())
            }
        }
    }

    fn step_leader(&mut self, message: Message) -> Result<(), StepError> {
        match message.msg_type {
            MessageType::MsgTransferLeader => {
                self.transfer_to(message.from);
                Ok(())
            }
            _ => self.step_answer_to_leader(message),
        }
    }

    fn step_follower(&mut self, message: Message) -> Result<(), StepError> {
        match message.msg_type {
            MessageType::MsgTimeoutNow => self.start_campaign(true),
            MessageType::MsgReadIndexResp => {
                let context = read_context(&message).expect("the shape of the message was checked");
                self.read_states.push(ReadState {
                    index: message.index,
                    context,
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn step_candidate(&mut self, message: Message) -> Result<(), StepError> {
        let (msg_type, granted) = (message.msg_type, !message.reject);
        match (self.role, msg_type) {
            (Role::Candidate, MessageType::MsgVoteResp) => self.record_vote(message.from, granted),
            // A late consent to an earlier term says nothing about this one.
            (Role::PreCandidate, MessageType::MsgPreVoteResp) if !granted || message.term == self.term + 1 => {
                self.record_vote(message.from, granted);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The context of a forwarded read or its answer.
fn read_context(message: &Message) -> Option<u64> {
    match message.entries.as_slice() {
        [entry] => decode_context(&entry.data),
        _ => None,
    }
}

/// Checks what every handler takes for granted.
fn check_shape(message: &Message) -> Result<(), StepError> {
    use MessageType::*;
    let malformed = |what| {
        Err(StepError::Malformed {
            msg_type: message.msg_type,
            what,
        })
    };
    let termless = matches!(message.msg_type, MsgProp | MsgReadIndex);
    if termless != (message.term == 0) {
        return malformed("its term is missing, or it has one and must not");
    }
    let snapshot_index = message.snapshot.as_ref().map_or(0, |snapshot| snapshot.metadata.index);
    let numbers = [
        message.term,
        message.index,
        message.log_term,
        message.commit,
        message.reject_hint,
        snapshot_index,
    ];
    if numbers.iter().any(|&number| number > HIGHEST_NUMBER) {
        return malformed("it holds a term or index that no group ever reaches");
    }
    match message.msg_type {
        MsgApp => {
            let mut before = (message.log_term, message.index);
            for entry in &message.entries {
                if entry.term < before.0 || entry.term > message.term || Some(entry.index) != before.1.checked_add(1) {
                    return malformed("its entries are not in order");
                }
                before = (entry.term, entry.index);
            }
        }
        MsgSnap => match &message.snapshot {
            None => return malformed("it carries no snapshot"),
            Some(snapshot) if snapshot.metadata.index == 0 => return malformed("its snapshot is empty"),
            Some(snapshot) if snapshot.metadata.conf_state.voters.is_empty() => {
                return malformed("its snapshot has no voters");
            }
            Some(snapshot) if snapshot.metadata.term > message.term => {
                return malformed("its snapshot is of the future");
            }
            Some(_) => {}
        },
        MsgProp => {
            let changes = message.entries.iter().filter(|entry| entry.is_conf_change()).count();
            if message.entries.is_empty() || (changes > 0 && message.entries.len() > 1) {
                return malformed("it proposes nothing, or a configuration change beside other entries");
            }
        }
        MsgReadIndex | MsgReadIndexResp if read_context(message).is_none() => {
            return malformed("it needs one entry with an 8-byte context");
        }
        _ => {}
    }
    Ok(())
}
