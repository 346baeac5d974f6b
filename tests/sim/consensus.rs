//! The invariants of consensus, checked from what members send and hold, after each of their turns.
//!
//! - A member grants one candidate its vote in a term, over all its lives; a leader has the votes of a quorum of voters.
//! - A term has one leader, who was a voter when it was elected.
//! - What a leader commits is of its term and acknowledged by a quorum of voters; learners do not count.
//! - What is acknowledged is durable, and a restart takes back no term that was promised.
//! - A committed entry has one term, and a commit index never goes back.

use std::collections::BTreeMap;

use raft::{ConfState, Message, MessageType, RawNode, Role};

use crate::history::{Check, ensure};

/// Committed entries whose term is remembered.
const TERMS_MAX: usize = 20_000;

/// What was seen of one member after its last turn.
pub struct Seen {
    role: Role,
    term: u64,
    commit: u64,
    configuration: ConfState,
}

/// What all members have promised.
#[derive(Default)]
pub struct Consensus {
    /// Term -> leader.
    leaders: BTreeMap<u64, u64>,
    /// (term, voter) -> candidate.
    votes: BTreeMap<(u64, u64), u64>,
    /// (term, leader, member) -> highest entry acknowledged.
    acks: BTreeMap<(u64, u64, u64), u64>,
    /// Member -> highest term it has promised anything in.
    promised: BTreeMap<u64, u64>,
    /// Committed entry -> term.
    terms: BTreeMap<u64, u64>,
}

impl Consensus {
    /// A member has started; what it has promised must be there.
    pub fn started(&mut self, raft: &RawNode) -> Result<Seen, String> {
        let promised = self.promised.get(&raft.id()).copied().unwrap_or(0);
        ensure!(
            raft.term() >= promised,
            "{:x} came back in term {}, it has promised something in term {promised}",
            raft.id(),
            raft.term()
        );
        Ok(Seen {
            role: raft.role(),
            term: raft.term(),
            commit: raft.commit_index(),
            configuration: raft.conf_state(),
        })
    }

    /// A member sends a message.
    pub fn sent(&mut self, raft: &RawNode, message: &Message) -> Check {
        let me = raft.id();
        match message.msg_type {
            MessageType::MsgVote => self.vote(message.term, me, me)?,
            MessageType::MsgVoteResp if !message.reject => self.vote(message.term, me, message.to)?,
            // Without an index it only tells an old leader of a new term.
            MessageType::MsgAppResp if !message.reject && message.index > 0 => {
                // What lies below a snapshot that is being taken over was durable, and is in it.
                let within = message.index + 1 < raft.first_index();
                ensure!(
                    within || raft.persisted_index() >= message.index,
                    "{me:x} acknowledges entry {} in term {} of {}, durable is {}",
                    message.index,
                    message.term,
                    raft.term(),
                    raft.persisted_index()
                );
                let acked = self.acks.entry((message.term, message.to, me)).or_default();
                *acked = (*acked).max(message.index);
            }
            _ => return Ok(()),
        }
        let promised = self.promised.entry(me).or_default();
        *promised = (*promised).max(message.term);
        Ok(())
    }

    fn vote(&mut self, term: u64, voter: u64, candidate: u64) -> Check {
        let known = *self.votes.entry((term, voter)).or_insert(candidate);
        ensure!(
            known == candidate,
            "{voter:x} votes for {candidate:x} in term {term}, and has voted for {known:x}"
        );
        Ok(())
    }

    /// A member has had a turn.
    pub fn turned(&mut self, raft: &RawNode, seen: &mut Seen, members_changed: bool) -> Check {
        let (me, term, commit) = (raft.id(), raft.term(), raft.commit_index());
        ensure!(
            term >= seen.term && commit >= seen.commit,
            "{me:x} went back from term {} and commit {} to {term} and {commit}",
            seen.term,
            seen.commit
        );
        let leads = raft.is_leader();
        let elected = leads && (seen.role != Role::Leader || seen.term != term);
        if elected {
            self.check_election(raft, &seen.configuration)?;
        }
        if commit > seen.commit {
            // The vote that made it leader may have told it what was committed already.
            let told = elected && self.terms.get(&commit).copied() == raft.entry_term(commit).ok();
            if leads && !told {
                self.check_commit(raft, &seen.configuration)?;
            }
            self.check_terms(raft, seen.commit, commit)?;
        }
        (seen.role, seen.term, seen.commit) = (raft.role(), term, commit);
        if members_changed {
            seen.configuration = raft.conf_state();
        }
        Ok(())
    }

    fn check_election(&mut self, raft: &RawNode, before: &ConfState) -> Check {
        let (me, term) = (raft.id(), raft.term());
        let leader = *self.leaders.entry(term).or_insert(me);
        ensure!(leader == me, "term {term} is led by {leader:x} and {me:x}");
        self.vote(term, me, me)?;
        let now = raft.conf_state();
        ensure!(
            before.voters.contains(&me) || now.voters.contains(&me),
            "{me:x} leads term {term} and is no voter of {now:?}"
        );
        let voted = |voter: u64| self.votes.get(&(term, voter)) == Some(&me);
        ensure!(
            has_quorum(before, voted) || has_quorum(&now, voted),
            "{me:x} leads term {term} without the votes of a quorum of {now:?}"
        );
        // Votes of terms long gone are asked for by nobody.
        self.votes = self.votes.split_off(&(term.saturating_sub(50), 0));
        self.acks = self.acks.split_off(&(term.saturating_sub(50), 0, 0));
        Ok(())
    }

    fn check_commit(&self, raft: &RawNode, before: &ConfState) -> Check {
        let (me, term, commit) = (raft.id(), raft.term(), raft.commit_index());
        let of = raft.entry_term(commit).map_err(|error| error.to_string())?;
        ensure!(
            of == term,
            "{me:x} commits entry {commit} of term {of} by count in term {term}"
        );
        let has = |member: u64| match member == me {
            true => raft.persisted_index() >= commit,
            false => self.acks.get(&(term, me, member)).is_some_and(|acked| *acked >= commit),
        };
        let now = raft.conf_state();
        ensure!(
            has_quorum(before, has) || has_quorum(&now, has),
            "{me:x} commits entry {commit} in term {term}, which no quorum of {now:?} has acknowledged"
        );
        Ok(())
    }

    fn check_terms(&mut self, raft: &RawNode, from: u64, to: u64) -> Check {
        for index in from + 1..=to {
            // A snapshot leaves no entries behind.
            let Ok(term) = raft.entry_term(index) else { continue };
            let known = *self.terms.entry(index).or_insert(term);
            ensure!(
                known == term,
                "{:x} has entry {index} of term {term} committed, elsewhere it is of term {known}",
                raft.id()
            );
        }
        while self.terms.len() > TERMS_MAX {
            self.terms.pop_first();
        }
        Ok(())
    }

    /// How many terms had a leader.
    pub fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }
}

/// Whether those that `has` names are a quorum, of both halves of a joint configuration.
fn has_quorum(configuration: &ConfState, has: impl Fn(u64) -> bool) -> bool {
    let half = |voters: &[u64]| voters.is_empty() || voters.iter().filter(|id| has(**id)).count() > voters.len() / 2;
    !configuration.voters.is_empty() && half(&configuration.voters) && half(&configuration.voters_outgoing)
}
