//! The configuration in force, and how a change leads from one to the next.
//!
//! Pure: a change gives a new [`Configuration`] or an error, and every member computes the same from the same log.
//! Source: Raft thesis, chapter 4.

use std::collections::BTreeSet;

use crate::conf_change::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use crate::error::ConfChangeError;
use crate::mutant;
use crate::quorum::JointConfig;

/// Who votes and who learns.
///
/// Invariants: learners are no voters; `learners_next` vote in the outgoing half and not in the incoming one; without an
/// outgoing half there is no `learners_next` and no `auto_leave`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Configuration {
    pub(crate) voters: JointConfig,
    pub(crate) learners: BTreeSet<u64>,
    pub(crate) learners_next: BTreeSet<u64>,
    pub(crate) auto_leave: bool,
}

impl Configuration {
    /// The stored form.
    pub(crate) fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.incoming.voters().to_vec(),
            learners: self.learners.iter().copied().collect(),
            voters_outgoing: self.voters.outgoing.voters().to_vec(),
            learners_next: self.learners_next.iter().copied().collect(),
            auto_leave: self.auto_leave,
        }
    }

    /// From the stored form; an empty one is that of a member still to be told.
    ///
    /// Errors: it contradicts itself.
    pub(crate) fn from_conf_state(state: &ConfState) -> Result<Configuration, ConfChangeError> {
        let config = Configuration {
            voters: JointConfig {
                incoming: state.voters.iter().copied().collect(),
                outgoing: state.voters_outgoing.iter().copied().collect(),
            },
            learners: state.learners.iter().copied().collect(),
            learners_next: state.learners_next.iter().copied().collect(),
            auto_leave: state.auto_leave,
        };
        config.check()?;
        Ok(config)
    }

    /// Every member, in id order.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let mut ids = self.voters.ids();
        ids.extend(self.learners.iter().copied());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The configuration after the change.
    ///
    /// Errors: the change does not fit.
    pub(crate) fn after(&self, change: &ConfChangeV2) -> Result<Configuration, ConfChangeError> {
        let next = if change.leaves_joint() {
            self.leave_joint()?
        } else if let Some(auto_leave) = change.enters_joint() {
            self.enter_joint(&change.changes, auto_leave)?
        } else {
            self.simple(&change.changes)?
        };
        next.check()?;
        Ok(next)
    }

    fn leave_joint(&self) -> Result<Configuration, ConfChangeError> {
        if !self.voters.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        let mut next = self.clone();
        next.learners.append(&mut next.learners_next);
        next.voters.outgoing = Default::default();
        next.auto_leave = false;
        Ok(next)
    }

    fn enter_joint(&self, changes: &[ConfChangeSingle], auto_leave: bool) -> Result<Configuration, ConfChangeError> {
        if self.voters.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if self.voters.incoming.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        let mut next = self.clone();
        next.voters.outgoing = next.voters.incoming.clone();
        next.auto_leave = auto_leave;
        next.apply_all(changes)?;
        Ok(next)
    }

    fn simple(&self, changes: &[ConfChangeSingle]) -> Result<Configuration, ConfChangeError> {
        if self.voters.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        let mut next = self.clone();
        next.apply_all(changes)?;
        let (before, after) = (&self.voters.incoming, &next.voters.incoming);
        let removed = before.voters().iter().filter(|&&id| !after.contains(id)).count();
        let added = after.voters().iter().filter(|&&id| !before.contains(id)).count();
        match removed + added {
            0 | 1 => Ok(next),
            changed => Err(ConfChangeError::TooManyVoters { changed }),
        }
    }

    fn apply_all(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ConfChangeError> {
        for change in changes.iter().filter(|change| change.node_id != 0) {
            match change.change_type {
                ConfChangeType::AddNode => self.make_voter(change.node_id),
                ConfChangeType::AddLearnerNode => self.make_learner(change.node_id),
                ConfChangeType::RemoveNode => self.remove(change.node_id),
                ConfChangeType::UpdateNode => {}
            }
        }
        if self.voters.incoming.is_empty() {
            Err(ConfChangeError::NoVoters)
        } else {
            Ok(())
        }
    }

    fn make_voter(&mut self, id: u64) {
        self.learners.remove(&id);
        self.learners_next.remove(&id);
        self.voters.incoming.insert(id);
    }

    fn make_learner(&mut self, id: u64) {
        if self.learners.contains(&id) {
            return;
        }
        self.remove(id);
        // A member votes in the outgoing half until that is left: learner and voter at once it cannot be.
        if self.voters.outgoing.contains(id) {
            self.learners_next.insert(id);
        } else {
            self.learners.insert(id);
        }
    }

    fn remove(&mut self, id: u64) {
        if !mutant::on("removed_member_counts") {
            self.voters.incoming.remove(id);
        }
        self.learners.remove(&id);
        self.learners_next.remove(&id);
    }

    fn check(&self) -> Result<(), ConfChangeError> {
        let invalid = |what| Err(ConfChangeError::Invalid(what));
        let members = self.ids();
        if members.first() == Some(&0) || self.learners_next.contains(&0) {
            return invalid("it contains member 0");
        }
        if self.voters.incoming.is_empty() && !(members.is_empty() && self.learners_next.is_empty()) {
            return invalid("it has members but no voters");
        }
        if self.learners.iter().any(|&id| self.voters.contains(id)) {
            return invalid("a member is voter and learner at once");
        }
        let misplaced = |&id: &u64| !self.voters.outgoing.contains(id) || self.voters.incoming.contains(id);
        if self.learners_next.iter().any(misplaced) {
            return invalid("a learner to be does not vote in the outgoing half alone");
        }
        if !self.voters.is_joint() && self.auto_leave {
            return invalid("it is not joint and yet to be left automatically");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf_change::ConfChangeTransition;
    use proptest::prelude::*;

    fn config(voters: &[u64], learners: &[u64]) -> Configuration {
        let state = ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..Default::default()
        };
        Configuration::from_conf_state(&state).expect("the test's configuration is valid")
    }

    /// `v4` adds a voter, `l4` a learner, `r4` removes, `u4` updates.
    fn change(transition: ConfChangeTransition, steps: &str) -> ConfChangeV2 {
        let changes = steps.split_whitespace().map(|step| {
            let change_type = match &step[..1] {
                "v" => ConfChangeType::AddNode,
                "l" => ConfChangeType::AddLearnerNode,
                "r" => ConfChangeType::RemoveNode,
                _ => ConfChangeType::UpdateNode,
            };
            ConfChangeSingle {
                change_type,
                node_id: step[1..].parse().expect("a step ends in a member id"),
            }
        });
        ConfChangeV2 {
            transition,
            changes: changes.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn one_voter_changes_without_a_joint_configuration() {
        let after = config(&[1, 2], &[])
            .after(&change(ConfChangeTransition::Auto, "v3"))
            .unwrap();
        assert_eq!(after.conf_state(), ConfState::of_voters([1, 2, 3]));
    }

    #[test]
    fn several_changes_go_through_a_joint_configuration_that_leaves_by_itself() {
        let joint = config(&[1, 2, 3], &[4])
            .after(&change(ConfChangeTransition::Auto, "r1 v4 l3"))
            .unwrap();
        let expected = ConfState {
            voters: vec![2, 4],
            learners: vec![],
            voters_outgoing: vec![1, 2, 3],
            learners_next: vec![3],
            auto_leave: true,
        };
        assert_eq!(joint.conf_state(), expected);
        let left = joint.after(&ConfChangeV2::leave_joint()).unwrap();
        assert_eq!(
            left.conf_state(),
            ConfState {
                voters: vec![2, 4],
                learners: vec![3],
                ..Default::default()
            }
        );
    }

    #[test]
    fn an_explicit_joint_configuration_waits_to_be_left() {
        let joint = config(&[1], &[])
            .after(&change(ConfChangeTransition::JointExplicit, "v2"))
            .unwrap();
        assert!(joint.voters.is_joint() && !joint.auto_leave);
    }

    #[test]
    fn changes_that_do_not_fit_are_refused() {
        use ConfChangeTransition::*;
        let plain = config(&[1, 2], &[]);
        let joint = plain.after(&change(JointExplicit, "v3")).unwrap();
        assert_eq!(joint.after(&change(Auto, "v4")), Err(ConfChangeError::AlreadyJoint));
        assert_eq!(
            joint.after(&change(JointImplicit, "v4")),
            Err(ConfChangeError::AlreadyJoint)
        );
        assert_eq!(
            plain.after(&ConfChangeV2::leave_joint()),
            Err(ConfChangeError::NotJoint)
        );
        assert_eq!(
            config(&[1], &[]).after(&change(Auto, "r1")),
            Err(ConfChangeError::NoVoters)
        );
        assert_eq!(
            config(&[1], &[]).after(&change(Auto, "l1")),
            Err(ConfChangeError::NoVoters)
        );
        assert_eq!(
            config(&[], &[]).after(&change(JointImplicit, "v1")),
            Err(ConfChangeError::NoVoters)
        );
    }

    #[test]
    fn stored_configurations_that_contradict_themselves_are_refused() {
        let cases = [
            ConfState {
                voters: vec![1],
                learners: vec![1],
                ..Default::default()
            },
            ConfState {
                voters: vec![1],
                learners_next: vec![2],
                ..Default::default()
            },
            ConfState {
                voters: vec![1],
                auto_leave: true,
                ..Default::default()
            },
            ConfState {
                learners: vec![1],
                ..Default::default()
            },
            ConfState {
                voters: vec![0, 1],
                ..Default::default()
            },
            ConfState {
                voters_outgoing: vec![1],
                ..Default::default()
            },
        ];
        for state in cases {
            assert!(
                Configuration::from_conf_state(&state).is_err(),
                "{state:?} was accepted"
            );
        }
    }

    #[test]
    fn changes_of_member_zero_and_updates_change_nothing() {
        let plain = config(&[1], &[2]);
        assert_eq!(plain.after(&change(ConfChangeTransition::Auto, "v0")).unwrap(), plain);
        assert_eq!(plain.after(&change(ConfChangeTransition::Auto, "u2")).unwrap(), plain);
    }

    proptest! {
        /// A joint change, left, ends where its single steps end one after another.
        #[test]
        fn joint_and_stepwise_changes_agree(
            start in prop::collection::btree_set(1u64..8, 1..6),
            steps in prop::collection::vec((0usize..3, 1u64..8), 1..6),
        ) {
            let start = config(&start.into_iter().collect::<Vec<_>>(), &[]);
            let text: Vec<String> = steps.iter().map(|(kind, id)| format!("{}{id}", ["v", "l", "r"][*kind])).collect();
            let jointly = start
                .after(&change(ConfChangeTransition::JointImplicit, &text.join(" ")))
                .and_then(|joint| joint.after(&ConfChangeV2::leave_joint()));
            let stepwise = text.iter().try_fold(start.clone(), |config, step| {
                config.after(&change(ConfChangeTransition::Auto, step))
            });
            if let (Ok(jointly), Ok(stepwise)) = (&jointly, &stepwise) {
                prop_assert_eq!(jointly, stepwise);
            }
            if stepwise.is_ok() {
                prop_assert!(jointly.is_ok(), "stepwise works, jointly: {:?}", jointly);
            }
            if let Ok(config) = jointly {
                prop_assert_eq!(Configuration::from_conf_state(&config.conf_state()).unwrap(), config);
            }
        }
    }
}
