//! What follows for a running node when another configuration takes effect.

use super::RawNode;
use crate::membership::Configuration;
use crate::types::Role;

impl RawNode {
    /// Puts a configuration in force.
    pub(super) fn switch_configuration(&mut self, configuration: Configuration) {
        // What is due still goes to members that are about to leave: the commit index of their removal among it.
        self.flush_broadcasts();
        self.tracker.switch(configuration, self.log.last_index());
        if self.role != Role::Leader || self.tracker.config.voters.incoming.is_empty() {
            return;
        }
        if !self.tracker.config.voters.contains(self.transferring_to) {
            self.transferring_to = 0;
        }
        if !self.is_promotable() {
            // Source: Raft thesis, section 4.2.2: it leads, without counting itself, until another does.
            // Stepping down at once would leave nobody to tell the others that the change is committed.
            self.hand_over(0);
        }
        self.count_own_log();
        self.maybe_commit();
        // New members must learn of their leader, and a smaller quorum may have been reached.
        self.request_append_broadcast();
        self.answer_reads();
    }
}
