//! What a leader knows of each member, and the configuration they form.

mod inflights;
mod progress;

pub use inflights::Inflights;
pub use progress::{Progress, ProgressState};

use crate::membership::Configuration;
use crate::mutant;
use crate::quorum::VoteResult;

/// The configuration in force with a [`Progress`] for each member, in id order.
///
/// Every role keeps it; only a leader's numbers mean something.
#[derive(Debug)]
pub(crate) struct Tracker {
    pub(crate) config: Configuration,
    peers: Vec<(u64, Progress)>,
    empty_window: Inflights,
}

impl Tracker {
    pub(crate) fn new(empty_window: Inflights) -> Tracker {
        Tracker {
            config: Configuration::default(),
            peers: Vec::new(),
            empty_window,
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Progress> {
        let at = self.peers.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.peers[at].1)
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Progress> {
        let at = self.peers.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&mut self.peers[at].1)
    }

    /// Members and what is known of them, in id order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Progress)> {
        self.peers.iter().map(|(id, progress)| (*id, progress))
    }

    /// As `iter`, to change what is known.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Progress)> {
        self.peers.iter_mut().map(|(id, progress)| (*id, progress))
    }

    /// The member at this place of the id order.
    pub(crate) fn id_at(&self, place: usize) -> Option<u64> {
        self.peers.get(place).map(|(id, _)| *id)
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Puts a configuration in force. Members that stay keep what is known of them; new ones are probed from `last_index`,
    /// and count as heard, so that the next quorum check gives them an election time-out to show up.
    pub(crate) fn switch(&mut self, config: Configuration, last_index: u64) {
        let mut before = std::mem::take(&mut self.peers).into_iter().peekable();
        for id in config.ids() {
            while before.next_if(|(old, _)| *old < id).is_some() {}
            let is_learner = config.learners.contains(&id);
            let progress = match before.next_if(|(old, _)| *old == id) {
                Some((_, progress)) => Progress { is_learner, ..progress },
                None => Progress {
                    recent_active: true,
                    ..Progress::new(last_index, self.empty_window.clone(), is_learner)
                },
            };
            self.peers.push((id, progress));
        }
        self.config = config;
    }

    /// Forgets everything about everybody; logs are assumed to end at `last_index`.
    pub(crate) fn reset(&mut self, last_index: u64) {
        for (_, progress) in &mut self.peers {
            *progress = Progress::new(last_index + 1, self.empty_window.clone(), progress.is_learner);
        }
    }

    /// The highest index durable on a quorum; 0 without voters.
    pub(crate) fn committed_index(&self) -> u64 {
        if mutant::on("learner_counts") {
            let mut matched: Vec<u64> = self.iter().map(|(_, progress)| progress.matched).collect();
            matched.sort_unstable_by(|a, b| b.cmp(a));
            return matched[self.config.voters.incoming.voters().len() / 2];
        }
        self.quorum_value(|progress| progress.matched)
    }

    /// The highest ReadIndex round a quorum answered, if `id` answers each at once; 0 without voters.
    pub(crate) fn acknowledged_round(&self, id: u64, newest: u64) -> u64 {
        let round = |peer| {
            if peer == id {
                newest
            } else {
                self.get(peer).map_or(0, |p| p.read_round)
            }
        };
        self.bounded(self.config.voters.committed_index(round))
    }

    /// Whether a quorum was heard since the last call, `id` itself included; forgets who was heard.
    pub(crate) fn take_quorum_active(&mut self, id: u64) -> bool {
        let active = |peer| Some(peer == id || self.get(peer).is_some_and(|p| p.recent_active));
        let result = self.config.voters.vote_result(active);
        self.iter_mut().for_each(|(_, progress)| progress.recent_active = false);
        result == VoteResult::Won
    }

    fn quorum_value(&self, value: impl Fn(&Progress) -> u64) -> u64 {
        self.bounded(self.config.voters.committed_index(|id| self.get(id).map_or(0, &value)))
    }

    fn bounded(&self, value: u64) -> u64 {
        if self.config.voters.incoming.is_empty() {
            0
        } else {
            value
        }
    }
}
