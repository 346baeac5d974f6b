//! What follows from a leader whose process is known to be gone, not merely silent.
//!
//! An election time-out is long because silence proves nothing. Where somebody saw that the leader's process has ended,
//! waiting gains nothing: its followers forget it, which ends the lease in which they refuse votes, and campaign in turns
//! that cannot collide, by the order of their ids, until one of them leads. Three rules keep that to one round of messages:
//!
//! - A member that has not noticed yet is in its lease, where questions for votes are dropped. It keeps the last one and
//!   answers when it notices.
//! - A member that refuses because its own log is the better one does not wait for its turn.
//! - Of two that ask for pre-votes at the same time the one with the higher id yields. This holds in every election: both
//!   would get consent, and then split the votes of the term.
//!
//! All of it happens before any term is raised, and moves a campaign in time only; who may win is decided as ever.
//! `docs/adr/0008-succession.md` has the reasons.

use super::RawNode;
use crate::types::{Message, MessageType, Role};

/// Between the turns of two members lies at least one whole tick, wherever in a tick each of them begins to count.
const TICKS_PER_TURN: u32 = 2;

/// Since the leader was heard last: what was put off for its sake, and when this member's turn to succeed it comes.
#[derive(Debug, Default)]
pub(super) struct Succession {
    /// The last question for a pre-vote that the lease forbade to answer, without its payload.
    asked: Option<Message>,
    /// Ticks until this member campaigns; none when its leader is not known to be gone.
    turn_in: Option<u32>,
}

impl RawNode {
    /// The process of a member has ended; matters if it is the leader that this member follows.
    pub(super) fn succeed(&mut self, gone: u64) {
        let guarded = self.config.pre_vote && self.config.check_quorum;
        if !guarded || self.role != Role::Follower || self.leader_id == 0 || self.leader_id != gone {
            return;
        }
        self.forget_leader();
        let asked = self.succession.asked.take();
        // Whoever asked already is ahead of this member, whatever their ids.
        let before = u32::from(asked.is_some());
        self.succession.turn_in = self.rank_without(gone).map(|rank| (rank + before) * TICKS_PER_TURN);
        if let Some(question) = asked {
            self.answer_vote(&question);
        }
        if self.succession.turn_in == Some(0) {
            self.take_turn();
        }
    }

    /// Time passes for a member whose turn may come.
    pub(super) fn tick_succession(&mut self) {
        let Some(left) = self.succession.turn_in.as_mut() else {
            return;
        };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.take_turn();
        }
    }

    /// Keeps a question that the lease forbids to answer, for the case that the leader turns out to be gone.
    pub(super) fn put_off(&mut self, question: &Message) {
        if question.msg_type == MessageType::MsgPreVote && self.role == Role::Follower {
            self.succession.asked = Some(Message {
                msg_type: question.msg_type,
                to: question.to,
                from: question.from,
                term: question.term,
                log_term: question.log_term,
                index: question.index,
                ..Default::default()
            });
        }
    }

    /// A pre-vote was refused because this member's log is the better one.
    pub(super) fn succeed_instead(&mut self) {
        if self.succession.turn_in.is_some() && self.role == Role::Follower {
            self.take_turn();
        }
    }

    /// This member consented to another's campaign; of two that campaign one goes on.
    pub(super) fn yield_to(&mut self, other: u64) {
        let wins = other < self.config.id && self.tracker.config.voters.contains(other);
        if self.role == Role::PreCandidate && wins {
            self.become_follower(self.term, 0);
        }
    }

    /// Campaigns, and again when everybody had a turn: what it asks may get lost as long as links are not up again.
    fn take_turn(&mut self) {
        self.succession.turn_in = None;
        self.start_campaign(false);
        if self.role == Role::PreCandidate {
            let voters = self.tracker.config.voters.ids().len() as u32;
            self.succession.turn_in = Some(voters * TICKS_PER_TURN);
        }
    }

    /// This member's place among the voters that are left; none if it does not vote.
    fn rank_without(&self, gone: u64) -> Option<u32> {
        let voters = self.tracker.config.voters.ids();
        let mut left = voters.into_iter().filter(|id| *id != gone).zip(0..);
        left.find(|(id, _)| *id == self.config.id).map(|(_, rank)| rank)
    }
}
