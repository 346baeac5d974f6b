//! What a leader does: append, replicate, count, keep its lease of office, hand it over.
//!
//! Source: Raft paper, sections 5.3 and 5.4.2; thesis, sections 3.10 (transfer) and 6.2 (CheckQuorum).

use bytes::Bytes;

use super::RawNode;
use crate::error::{StepError, TransferError};
use crate::mutant;
use crate::tracker::ProgressState;
use crate::types::{Entry, EntryType, Message, MessageType, Role, Snapshot};

impl RawNode {
    /// Time passes for a leader.
    pub(super) fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            let without_quorum = self.config.check_quorum && !self.tracker.take_quorum_active(self.config.id);
            if without_quorum || self.held_back {
                self.become_follower(self.term, 0);
                return;
            }
            // An heir that did not take over within an election time-out will not; proposals flow again.
            let heir = std::mem::take(&mut self.transferring_to);
            if !self.is_promotable() {
                self.hand_over(heir);
            }
        }
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.broadcast_heartbeat();
        }
    }

    /// Appends entries of this term to the own log; the followers get them with the next Ready.
    pub(super) fn append_as_leader(&mut self, data: impl IntoIterator<Item = (EntryType, Bytes)>) {
        let (term, first) = (self.term, self.log.last_index() + 1);
        let mut bytes = 0;
        let entries = data.into_iter().zip(first..).map(|((entry_type, data), index)| {
            bytes += data.len() as u64;
            Entry {
                entry_type,
                term,
                index,
                data,
            }
        });
        self.log.append(entries);
        self.uncommitted_bytes += bytes;
        self.request_append_broadcast();
    }

    /// Followers are sent what is new when the next Ready is taken, so that everything since the last one goes together.
    pub(super) fn request_append_broadcast(&mut self) {
        self.append_due = self.tracker.iter().any(|(id, _)| id != self.config.id);
    }

    /// Sends what was put off until now.
    pub(super) fn flush_broadcasts(&mut self) {
        if std::mem::take(&mut self.append_due) {
            self.for_each_follower(|node, id| while node.send_append(id, false) {});
        }
        if self.reads.is_round_due() {
            self.broadcast_heartbeat();
        }
    }

    /// The leader counts itself for what its own disk holds, and for no more.
    ///
    /// Source: Raft thesis, section 10.2.1: the followers may commit an entry before the leader's disk has it.
    pub(super) fn count_own_log(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let stable = if mutant::on("leader_counts_unsynced") {
            self.log.last_index()
        } else {
            self.log.stable()
        };
        if let Some(own) = self.tracker.get_mut(self.config.id) {
            own.maybe_update(stable);
            self.maybe_commit();
        }
    }

    /// Commits what a quorum holds, if its last entry is of this term.
    ///
    /// Source: Raft paper, section 5.4.2: an older entry on a quorum may still be replaced.
    pub(super) fn maybe_commit(&mut self) {
        let before = self.log.committed();
        let index = self.tracker.committed_index();
        let of_this_term = self.log.matches(index, self.term) || mutant::on("old_term_committed_by_count");
        if index <= before || !of_this_term {
            return;
        }
        let first_in_term = !self.log.matches(before, self.term);
        let bytes: u64 = self
            .log
            .range(before + 1, index + 1)
            .map(|entry| entry.data.len() as u64)
            .sum();
        self.log.commit_to(index);
        self.uncommitted_bytes -= bytes;
        self.request_append_broadcast();
        if first_in_term {
            self.admit_waiting_reads();
        }
    }

    /// Answers to a leader, from members of the configuration.
    pub(super) fn step_answer_to_leader(&mut self, message: Message) -> Result<(), StepError> {
        match message.msg_type {
            MessageType::MsgAppResp if message.reject => self.handle_append_refused(&message),
            MessageType::MsgAppResp => return self.handle_append_accepted(&message),
            MessageType::MsgHeartbeatResp => return self.handle_heartbeat_answer(&message),
            _ => {}
        }
        Ok(())
    }

    /// Starts to hand leadership over, or passes the wish on to the leader.
    pub(super) fn begin_transfer(&mut self, to: u64) -> Result<(), TransferError> {
        if self.leader_id == 0 {
            return Err(TransferError::NoLeader);
        }
        if !self.tracker.config.voters.contains(to) {
            return Err(TransferError::NotVoter(to));
        }
        if self.role == Role::Leader {
            self.transfer_to(to);
        } else {
            let msg_type = MessageType::MsgTransferLeader;
            self.send(Message {
                msg_type,
                to: self.leader_id,
                from: to,
                ..Default::default()
            });
        }
        Ok(())
    }

    /// Takes up the wish that a voter lead. A wish for the leader itself, or for the heir already chosen, changes nothing.
    pub(super) fn transfer_to(&mut self, to: u64) {
        if self.transferring_to == to || to == self.config.id || !self.tracker.config.voters.contains(to) {
            return;
        }
        // The transfer has one election time-out to succeed, counted from now.
        self.election_elapsed = 0;
        self.transferring_to = to;
        let matched = self.tracker.get(to).map_or(0, |progress| progress.matched);
        if matched == self.log.last_index() {
            self.send_timeout_now(to);
        } else {
            self.send_append(to, true);
        }
    }

    /// A leader that was removed or demoted chooses an heir: the voter that is furthest, or the next one after `failed`, who
    /// did not take over in time. Proposals are refused until somebody leads.
    pub(super) fn hand_over(&mut self, failed: u64) {
        let voters = self.tracker.config.voters.ids();
        let matched = |id: &u64| self.tracker.get(*id).map_or(0, |progress| progress.matched);
        let furthest = voters.iter().rev().max_by_key(|id| matched(id));
        let next = voters.iter().find(|id| **id > failed).or(voters.first());
        if let Some(&heir) = if failed == 0 { furthest } else { next } {
            self.transfer_to(heir);
        }
    }

    /// The transport lost a message: what was streamed ahead may be missing there.
    pub(super) fn note_unreachable(&mut self, id: u64) {
        if self.role != Role::Leader || id == self.config.id {
            return;
        }
        if let Some(progress) = self.tracker.get_mut(id)
            && progress.state == ProgressState::Replicate
        {
            progress.become_probe();
        }
    }

    /// A snapshot stream ended; the follower is probed again, once it answers or a heartbeat interval has passed.
    pub(super) fn end_snapshot(&mut self, id: u64, ok: bool) {
        if self.role != Role::Leader {
            return;
        }
        let Some(progress) = self.tracker.get_mut(id) else {
            return;
        };
        if !matches!(progress.state, ProgressState::Snapshot { .. }) {
            return;
        }
        if !ok {
            progress.state = ProgressState::Snapshot { pending: 0 };
        }
        progress.become_probe();
        progress.paused = true;
    }

    /// Sends a member what it lacks, as far as its window allows, or a snapshot; with `even_empty` also a bare append,
    /// whose answer tells where the logs stand. Says whether something was sent.
    pub(super) fn send_append(&mut self, to: u64, even_empty: bool) -> bool {
        let Some(progress) = self.tracker.get(to).filter(|progress| !progress.is_paused()) else {
            return false;
        };
        let (next, last) = (progress.next, self.log.last_index());
        let Ok(log_term) = self.log.term(next - 1) else {
            return self.send_snapshot(to);
        };
        let entries = if progress.inflights.is_full() || next > last {
            Vec::new()
        } else {
            self.next_entries(next)
        };
        let news =
            progress.state == ProgressState::Replicate && self.log.committed().min(next - 1) > progress.sent_commit;
        if entries.is_empty() && !even_empty && !news {
            return false;
        }
        let (count, bytes) = (entries.len() as u64, entries.iter().map(Entry::size_bytes).sum());
        let commit = self.log.committed();
        let progress = self.tracker.get_mut(to).expect("the progress was just seen");
        progress.sent_append(count, bytes, commit.min(next - 1 + count));
        let msg_type = MessageType::MsgApp;
        self.send(Message {
            msg_type,
            to,
            index: next - 1,
            log_term,
            entries,
            commit,
            ..Default::default()
        });
        true
    }

    /// Tells everybody that the leader is alive, and asks for answers to the newest ReadIndex round.
    pub(super) fn broadcast_heartbeat(&mut self) {
        let context = self.reads.begin_round();
        self.for_each_follower(|node, to| {
            let matched = node.tracker.get(to).map_or(0, |progress| progress.matched);
            // A follower must not commit what it may not have.
            let matched = if mutant::on("heartbeat_commits_unmatched") {
                u64::MAX
            } else {
                matched
            };
            let commit = matched.min(node.log.committed());
            let msg_type = MessageType::MsgHeartbeat;
            node.send(Message {
                msg_type,
                to,
                commit,
                context: context.clone(),
                ..Default::default()
            });
        });
    }

    fn for_each_follower(&mut self, mut act: impl FnMut(&mut RawNode, u64)) {
        for place in 0..self.tracker.len() {
            let id = self.tracker.id_at(place).expect("sending changes no configuration");
            if id != self.config.id {
                act(self, id);
            }
        }
    }

    fn next_entries(&self, next: u64) -> Vec<Entry> {
        let (bytes, count) = (self.config.max_size_per_message, self.config.max_entries_per_message);
        self.log
            .slice(next, self.log.last_index() + 1, bytes, count)
            .expect("the entry before is held, so the log holds what follows")
    }

    fn send_snapshot(&mut self, to: u64) -> bool {
        let progress = self
            .tracker
            .get_mut(to)
            .expect("snapshots go to members of the configuration");
        // Without voters it is only the start of the log after a boot, and the member has not named a snapshot yet.
        let nameless = self.offered.conf_state.voters.is_empty();
        if nameless || !progress.recent_active {
            // Nobody there to take it: a stream would only keep the snapshot from being released.
            return false;
        }
        assert!(
            self.offered.index >= self.log.base_index(),
            "the log was compacted beyond the snapshot on offer"
        );
        progress.become_snapshot(self.offered.index);
        let snapshot = Snapshot {
            data: Bytes::new(),
            metadata: self.offered.clone(),
        };
        let msg_type = MessageType::MsgSnap;
        self.send(Message {
            msg_type,
            to,
            snapshot: Some(snapshot),
            ..Default::default()
        });
        true
    }

    fn send_timeout_now(&mut self, to: u64) {
        self.send(Message {
            msg_type: MessageType::MsgTimeoutNow,
            to,
            ..Default::default()
        });
    }

    fn handle_append_refused(&mut self, message: &Message) {
        // The follower names the last entry that may agree; our own terms may rule out more of it.
        // Source: Raft paper, end of section 5.3; two messages per term of divergence at most.
        let hint = match message.log_term {
            0 => message.reject_hint,
            term => self.log.find_conflict_by_term(message.reject_hint, term).0,
        };
        let Some(progress) = self.tracker.get_mut(message.from) else {
            return;
        };
        progress.recent_active = true;
        if progress.maybe_decrease_to(message.index, hint) {
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            self.send_append(message.from, true);
        }
    }

    fn handle_append_accepted(&mut self, message: &Message) -> Result<(), StepError> {
        let (from, last, first) = (message.from, self.log.last_index(), self.log.first_index());
        if message.index > last {
            let what = "it acknowledges entries this leader does not have";
            return Err(StepError::Malformed {
                msg_type: message.msg_type,
                what,
            });
        }
        let Some(progress) = self.tracker.get_mut(from) else {
            return Ok(());
        };
        progress.recent_active = true;
        let news = progress.maybe_update(message.index);
        let probe_answered = progress.matched == message.index && progress.state == ProgressState::Probe;
        if !news && !probe_answered {
            return Ok(());
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            // The log goes on right where it stands, whether by this snapshot or another.
            ProgressState::Snapshot { .. } if progress.matched + 1 >= first => progress.become_replicate(),
            ProgressState::Snapshot { .. } => {}
            ProgressState::Replicate => progress.inflights.free_to(message.index),
        }
        let caught_up = progress.matched == last;
        self.maybe_commit();
        if !self.append_due {
            while self.send_append(from, false) {}
        }
        if caught_up && self.transferring_to == from && news {
            self.send_timeout_now(from);
        }
        Ok(())
    }

    fn handle_heartbeat_answer(&mut self, message: &Message) -> Result<(), StepError> {
        let last = self.log.last_index();
        let round = self.reads.round_of(&message.context).ok_or(StepError::Malformed {
            msg_type: message.msg_type,
            what: "its context names no round of this leader",
        })?;
        let Some(progress) = self.tracker.get_mut(message.from) else {
            return Ok(());
        };
        progress.recent_active = true;
        progress.paused = false;
        progress.read_round = progress.read_round.max(round);
        if progress.matched < last || progress.state == ProgressState::Probe {
            self.send_append(message.from, true);
        }
        self.answer_reads();
        Ok(())
    }
}
