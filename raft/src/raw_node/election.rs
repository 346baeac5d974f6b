//! Roles and terms: how a member follows, campaigns, votes and comes to lead.
//!
//! Source: Raft paper, sections 5.1, 5.2, 5.4.1; thesis, sections 6.2 (CheckQuorum, leases) and 9.6 (PreVote).

use bytes::Bytes;

use super::RawNode;
use super::succession::Succession;
use crate::mutant;
use crate::quorum::{JointConfig, VoteResult};
use crate::types::{EntryType, Message, MessageType, Role};

/// Marks the request for a vote of a campaign that the leader itself asked for: leases do not stop it.
pub(super) const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

impl RawNode {
    /// Time passes for a member that does not lead.
    pub(super) fn tick_election(&mut self) {
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        if self.is_promotable() && self.election_elapsed >= self.election_timeout {
            self.election_elapsed = 0;
            self.start_campaign(false);
        }
        self.tick_succession();
    }

    /// Campaigns, if this member may lead.
    pub(super) fn start_campaign(&mut self, transfer: bool) {
        if self.role == Role::Leader || self.held_back || !self.is_promotable() || self.has_unapplied_conf_change() {
            return;
        }
        if self.config.pre_vote && !transfer {
            self.campaign_for_pre_vote();
        } else {
            self.campaign_for_vote(transfer);
        }
    }

    /// Follows a leader (0: waits for one) in a term.
    pub(super) fn become_follower(&mut self, term: u64, leader_id: u64) {
        self.reset(term);
        self.role = Role::Follower;
        self.leader_id = leader_id;
    }

    /// Answers `MsgVote` and `MsgPreVote`; the message is not from an older term.
    pub(super) fn answer_vote(&mut self, message: &Message) {
        let pre_vote = message.msg_type == MessageType::MsgPreVote;
        let may_vote = self.vote == message.from
            || (self.vote == 0 && self.leader_id == 0)
            || (pre_vote && message.term > self.term);
        let grant = may_vote && self.log.is_up_to_date(message.index, message.log_term);
        let msg_type = if pre_vote {
            MessageType::MsgPreVoteResp
        } else {
            MessageType::MsgVoteResp
        };
        let commit = self.log.committed();
        let mut answer = Message {
            msg_type,
            to: message.from,
            term: self.term,
            commit,
            log_term: self.log.term(commit).unwrap_or(0),
            reject: !grant,
            ..Default::default()
        };
        match (grant, pre_vote) {
            (true, true) => {
                // The asker counts grants of the term it asked about; ours may be far behind.
                answer.term = message.term;
                self.send(answer);
                self.yield_to(message.from);
            }
            (true, false) => {
                self.election_elapsed = 0;
                self.vote = message.from;
                if mutant::on("vote_before_sync") {
                    return self.send(answer);
                }
                self.send_when_durable(answer);
            }
            (false, _) => {
                self.send(answer);
                if pre_vote && may_vote {
                    self.succeed_instead();
                }
            }
        }
    }

    /// Learns from the answer of a voter, be it yes or no, what that voter knows to be committed.
    ///
    /// A configuration takes effect when it is applied. A candidate that has a change in its log and does not know it to be
    /// committed asks for votes under the old configuration: of a member that was removed since and whose log is longer,
    /// or of more members than are left, while those that know of the change have shorter logs. Nobody could ever lead. The
    /// commit index lets the candidate apply the change. The message has the fields for it; etcd-raft leaves them empty.
    pub(super) fn learn_commit_from_vote(&mut self, message: &Message) {
        let answers = matches!(message.msg_type, MessageType::MsgVoteResp | MessageType::MsgPreVoteResp);
        if !answers || message.commit <= self.log.committed() || self.role == Role::Leader || self.log.has_snapshot() {
            return;
        }
        // The same entry at that index means the same log up to it.
        if self.log.matches(message.commit, message.log_term) {
            self.log.commit_to(message.commit);
            if self.role != Role::Follower && self.has_unapplied_conf_change() {
                self.become_follower(self.term, 0);
            }
        }
    }

    /// Counts an answer to the running campaign and draws the consequence.
    pub(super) fn record_vote(&mut self, from: u64, granted: bool) {
        if !matches!(self.role, Role::Candidate | Role::PreCandidate) {
            return;
        }
        if !self.votes.iter().any(|(id, _)| *id == from) {
            self.votes.push((from, granted));
        }
        let answer = |id| {
            self.votes
                .iter()
                .find(|(voter, _)| *voter == id)
                .map(|(_, granted)| *granted)
        };
        match self.electorate().vote_result(answer) {
            VoteResult::Won if self.role == Role::PreCandidate => self.campaign_for_vote(false),
            VoteResult::Won => self.become_leader(),
            VoteResult::Lost => self.become_follower(self.term, 0),
            VoteResult::Pending => {}
        }
    }

    /// Whether a leader was heard so recently that no vote is due.
    ///
    /// Source: Raft thesis, section 4.2.3: members that were removed or cut off must not disrupt the others.
    pub(super) fn is_in_lease(&self) -> bool {
        !mutant::on("votes_disrupt_the_leader")
            && self.config.check_quorum
            && self.leader_id != 0
            && self.election_elapsed < self.config.election_ticks
    }

    /// Whether this member may lead: it votes, and its state is whole.
    pub(super) fn is_promotable(&self) -> bool {
        let votes = self
            .tracker
            .get(self.config.id)
            .is_some_and(|progress| !progress.is_learner || mutant::on("learner_campaigns"));
        votes && !self.log.has_snapshot()
    }

    /// Those whose votes are asked for and count.
    fn electorate(&self) -> JointConfig {
        let mut voters = self.tracker.config.voters.clone();
        if mutant::on("learner_votes") {
            for learner in &self.tracker.config.learners {
                voters.incoming.insert(*learner);
            }
        }
        voters
    }

    /// Whether a committed configuration change still waits to take effect. A campaign under the old configuration could
    /// win with a quorum that no longer is one.
    fn has_unapplied_conf_change(&self) -> bool {
        let mut unapplied = self.log.range(self.log.applied() + 1, self.log.committed() + 1);
        unapplied.any(|entry| entry.is_conf_change()) && !mutant::on("campaign_with_unapplied_change")
    }

    fn campaign_for_pre_vote(&mut self) {
        // Neither term nor vote change: an election that cannot be won leaves no trace.
        self.role = Role::PreCandidate;
        self.leader_id = 0;
        self.votes.clear();
        self.succession = Succession::default();
        self.request_votes(MessageType::MsgPreVote, self.term + 1, Bytes::new());
        self.record_vote(self.config.id, true);
    }

    fn campaign_for_vote(&mut self, transfer: bool) {
        self.reset(self.term + 1);
        self.role = Role::Candidate;
        self.vote = self.config.id;
        let context = if transfer {
            Bytes::from_static(CAMPAIGN_TRANSFER)
        } else {
            Bytes::new()
        };
        self.request_votes(MessageType::MsgVote, self.term, context);
        // Its own vote counts like any other: once it is durable.
        let own = Message {
            msg_type: MessageType::MsgVoteResp,
            to: self.config.id,
            term: self.term,
            ..Default::default()
        };
        self.send_when_durable(own);
    }

    fn request_votes(&mut self, msg_type: MessageType, term: u64, context: Bytes) {
        for to in self.electorate().ids() {
            if to == self.config.id {
                continue;
            }
            let request = Message {
                msg_type,
                to,
                term,
                index: self.log.last_index(),
                log_term: self.log.last_term(),
                context: context.clone(),
                ..Default::default()
            };
            if msg_type == MessageType::MsgVote {
                // It claims a log: were it lost in a crash, a vote given for it could elect a log without it.
                self.send_when_durable(request);
            } else {
                self.send(request);
            }
        }
    }

    fn become_leader(&mut self) {
        self.reset(self.term);
        self.role = Role::Leader;
        self.leader_id = self.config.id;
        let last = self.log.last_index();
        // Any of the entries taken over may be a configuration change.
        self.pending_conf_index = if mutant::on("inherited_change_forgotten") {
            0
        } else {
            last
        };
        let uncommitted = self.log.range(self.log.committed() + 1, last + 1);
        self.uncommitted_bytes = uncommitted.map(|entry| entry.data.len() as u64).sum();
        if let Some(own) = self.tracker.get_mut(self.config.id) {
            own.become_replicate();
        }
        // Only an entry of its own term commits what earlier leaders left (section 5.4.2).
        self.append_as_leader([(EntryType::Normal, Bytes::new())]);
        self.count_own_log();
    }

    /// Enters a term, forgetting everything that belonged to the role before.
    fn reset(&mut self, term: u64) {
        assert!(term >= self.term, "terms never go down: {} to {term}", self.term);
        if term != self.term {
            self.term = term;
            self.vote = 0;
        }
        self.leader_id = 0;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.election_timeout = self.config.election_ticks + self.rng.below(self.config.election_ticks);
        self.transferring_to = 0;
        self.pending_conf_index = 0;
        self.uncommitted_bytes = 0;
        self.append_due = false;
        self.votes.clear();
        self.succession = Succession::default();
        self.reads.clear();
        self.tracker.reset(self.log.last_index());
    }
}
