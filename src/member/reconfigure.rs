//! Changes of the cluster's members: checked before they are proposed, and again, by the same rules on every member,
//! when they are applied.
//!
//! Source: etcd `mayAddMember`, `mayRemoveMember`, `mayPromoteMember` (the strict checks of the member asked) and
//! `ValidateConfigurationChange` (at apply); behaviours 29.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use raft::{ConfChange, ConfChangeType, ConfChangeV2, Entry, ProposeError, mutant};
use serde::{Deserialize, Serialize};
use storage::buckets::Bucket;

use super::{Asker, Fault, Member, Membership, Outcome, Refusal, RequestId, ShardIndex, membership::MemberInfo};

/// A link counts as good once it is up for this long. Units: nanoseconds. Source: etcd `HealthInterval`.
const HEALTH_INTERVAL_NS: u64 = 5_000_000_000;
/// A learner is in sync once it has this part of the leader's log, in percent. Source: etcd `readyPercentThreshold`.
const READY_PERCENT: u64 = 90;
/// Changes that wait to be proposed; one at a time goes into the log.
const WAITING_CHANGES_MAX: usize = 1024;

/// What is to happen to a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberChange {
    /// A new member.
    Add(MemberInfo),
    /// It goes, for good.
    Remove(u64),
    /// Its peer URLs change.
    Update(MemberInfo),
    /// The learner becomes a voter.
    Promote(u64),
}

/// The context of a change in the log.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ChangeContext {
    #[serde(flatten)]
    member: MemberInfo,
    #[serde(rename = "isPromote", default, skip_serializing_if = "std::ops::Not::not")]
    is_promote: bool,
}

/// Changes under way.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Not in the log yet, oldest first.
    queue: VecDeque<ConfChange>,
    /// Who waits for which, and until when.
    asked: BTreeMap<RequestId, (Asker, u64)>,
    /// Since when the link to a member is up.
    links: BTreeMap<u64, u64>,
}

impl Changes {
    /// A link came up or went down.
    pub fn note_link(&mut self, id: u64, up: bool, now_ns: u64) {
        match up {
            true => drop(self.links.insert(id, now_ns)),
            false => drop(self.links.remove(&id)),
        }
    }

    /// How many links are up.
    pub fn linked(&self) -> usize {
        self.links.len()
    }

    /// Whether the link to a member is up.
    pub fn is_linked(&self, id: u64) -> bool {
        self.links.contains_key(&id)
    }

    /// Whether it has been up since then.
    pub fn is_linked_since(&self, id: u64, since_ns: u64) -> bool {
        self.links.get(&id).is_some_and(|up_ns| *up_ns <= since_ns)
    }
}

impl Member {
    /// Begins to hand leadership to the voter that has most of the log; false when there is nobody to hand it to.
    pub(super) fn resign(&mut self) -> bool {
        let me = self.options.member_id;
        if !self.raft.is_leader() {
            return false;
        }
        let status = self.raft.status();
        let heirs = status.progress.iter().filter(|(id, progress)| {
            let votes = status.conf_state.voters.contains(id);
            *id != me && votes && !progress.is_learner && self.changes.is_linked(*id)
        });
        // The last of equals would do as well: the choice only has to be the same in each run.
        match heirs.max_by_key(|(id, progress)| (progress.matched, *id)) {
            Some((heir, _)) => self.raft.transfer_leader(*heir).is_ok(),
            None => false,
        }
    }

    /// Takes a change asked for by a call of a shard.
    pub(super) fn change_members(&mut self, shard: ShardIndex, id: RequestId, change: MemberChange) {
        match change {
            MemberChange::Promote(member) => {
                self.ask_leader(shard, id, net::peer::CallMethod::Promote, member, false);
            }
            change => self.start_change(Asker::Shard(shard, id), id, change),
        }
    }

    /// Checks a change and queues it for the log.
    pub(super) fn start_change(&mut self, asker: Asker, id: RequestId, change: MemberChange) {
        if let Err(refusal) = self.may_change(&change) {
            self.count_promotion(&change, Err(refusal));
            tracing::warn!(?change, ?refusal, "a member change is refused");
            return self.settle(asker, Err(refusal));
        }
        if self.changes.queue.len() >= WAITING_CHANGES_MAX {
            return self.settle(asker, Err(Refusal::TooManyRequests));
        }
        self.count_promotion(&change, Ok(()));
        self.changes.queue.push_back(encode(id, change));
        let deadline_ns = self.now_ns + self.options.request_timeout_ns;
        self.changes.asked.insert(id, (asker, deadline_ns));
    }

    fn count_promotion(&self, change: &MemberChange, result: Result<(), Refusal>) {
        let counter = match (change, result) {
            (MemberChange::Promote(_), Ok(())) => &self.metrics.promotions,
            (MemberChange::Promote(_), Err(Refusal::LearnerNotReady)) => &self.metrics.promotions_early,
            (MemberChange::Promote(_), Err(Refusal::MemberNotLearner)) => &self.metrics.promotions_of_voters,
            (MemberChange::Promote(_), Err(Refusal::MemberNotFound)) => &self.metrics.promotions_of_strangers,
            _ => return,
        };
        counter.add(1);
    }

    fn may_change(&self, change: &MemberChange) -> Result<(), Refusal> {
        if let MemberChange::Promote(id) = change {
            self.check_in_sync(*id)?;
        }
        if !self.options.strict_reconfig_check {
            return Ok(());
        }
        match change {
            MemberChange::Add(member) => self.may_add(member),
            MemberChange::Remove(id) => self.may_remove(*id),
            MemberChange::Promote(_) => check_started(self.members.voters(), (1, 1)),
            MemberChange::Update(_) => Ok(()),
        }
    }

    fn may_add(&self, member: &MemberInfo) -> Result<(), Refusal> {
        if !member.is_learner {
            let (voters, started) = count_started(self.members.voters());
            // A lone member may grow to two though one of two is no quorum.
            if (voters, started) != (1, 1) {
                check_started(self.members.voters(), (1, 0))?;
            }
        }
        check_linked(self.members.voters().count(), self.well_linked_voters())
    }

    /// How many voters this member has been linked to for a while, itself included.
    fn well_linked_voters(&self) -> usize {
        let since_ns = self.now_ns.saturating_sub(HEALTH_INTERVAL_NS);
        let is_well = |id| id == self.options.member_id || self.changes.is_linked_since(id, since_ns);
        self.members.voters().filter(|voter| is_well(voter.id)).count()
    }

    fn may_remove(&self, id: u64) -> Result<(), Refusal> {
        if self.members.members.get(&id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        check_started(self.members.voters().filter(|voter| voter.id != id), (0, 0))?;
        let me = self.options.member_id;
        if id != me && !self.changes.is_linked(id) {
            // It is down already, so no active quorum shrinks.
            return Ok(());
        }
        let count = self.members.voters().count();
        if self.well_linked_voters() < 2 + count.saturating_sub(1) / 2 {
            return Err(Refusal::Unhealthy);
        }
        Ok(())
    }

    /// Whether the learner has nearly all of the leader's log.
    fn check_in_sync(&self, id: u64) -> Result<(), Refusal> {
        let status = self.raft.status();
        let matched = |id: u64| {
            let found = status.progress.iter().find(|(member, _)| *member == id);
            found.map(|(_, progress)| progress.matched)
        };
        let learner = matched(id).ok_or(Refusal::MemberNotFound)?;
        let leader = matched(self.options.member_id).unwrap_or(0);
        let behind = u128::from(learner) * 100 < u128::from(leader) * u128::from(READY_PERCENT);
        if behind && !mutant::on("learner_promoted_early") {
            return Err(Refusal::LearnerNotReady);
        }
        Ok(())
    }

    /// Hands the oldest change to consensus, which takes one at a time, and ends what is too late.
    pub(super) fn pump_changes(&mut self) {
        if self.changes.asked.is_empty() && self.changes.queue.is_empty() {
            return;
        }
        let late = self.changes.asked.iter().filter(|(_, (_, end))| *end <= self.now_ns);
        let late: Vec<RequestId> = late.map(|(id, _)| *id).collect();
        for id in late {
            let (asker, deadline_ns) = self.changes.asked.remove(&id).expect("just seen");
            let why = self.why_late(deadline_ns - self.options.request_timeout_ns);
            self.settle(asker, Err(why));
        }
        while let Some(change) = self.changes.queue.front() {
            if !self.changes.asked.contains_key(&change.id) {
                self.changes.queue.pop_front();
                continue;
            }
            match self.raft.propose_conf_change(change.clone()) {
                Ok(()) => drop(self.changes.queue.pop_front()),
                Err(ProposeError::ConfChange(error)) => {
                    tracing::warn!(%error, "a member change does not fit");
                    let id = self.changes.queue.pop_front().expect("just seen").id;
                    if let Some((asker, _)) = self.changes.asked.remove(&id) {
                        self.settle(asker, Err(Refusal::NotEnoughStarted));
                    }
                }
                // Another change is under way, or there is no leader: later.
                Err(_) => break,
            }
        }
    }

    /// Applies a committed change, or finds that it contradicts the members and skips it, as every member does.
    pub(super) fn apply_conf_change(&mut self, entry: &Entry) -> Result<(), Fault> {
        let bad = |why: String| Fault::Entry {
            index: entry.index,
            why,
        };
        let Some(mut change) = entry.conf_change().map_err(|error| bad(error.to_string()))? else {
            return Ok(());
        };
        let id = match entry.entry_type {
            raft::EntryType::ConfChange => ConfChange::decode(&entry.data).map_or(0, |change| change.id),
            _ => 0,
        };
        let context: ChangeContext = match &change.context[..] {
            [] => ChangeContext::default(),
            json => serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?,
        };
        let verdict = self.validate(&change, &context);
        if verdict.is_err() {
            change.changes.iter_mut().for_each(|single| single.node_id = 0);
        }
        let conf_state = self
            .raft
            .apply_conf_change(&change)
            .map_err(|error| bad(error.to_string()))?;
        if verdict.is_ok() {
            for single in &change.changes {
                self.change_member(single.change_type, single.node_id, &context);
            }
        }
        self.applied.conf_state = conf_state.encode();
        if let Some((asker, _)) = self.changes.asked.remove(&id) {
            self.settle(asker, verdict.map(|subject| Outcome::Members { subject }));
        }
        Ok(())
    }

    /// The member a change is about, or why it cannot be.
    fn validate(&self, change: &ConfChangeV2, context: &ChangeContext) -> Result<u64, Refusal> {
        for single in &change.changes {
            let id = single.node_id;
            if self.members.removed.contains(&id) {
                return Err(Refusal::MemberNotFound);
            }
            let known = self.members.members.get(&id);
            match single.change_type {
                ConfChangeType::AddNode if context.is_promote => {
                    if !known.ok_or(Refusal::MemberNotFound)?.is_learner {
                        return Err(Refusal::MemberNotLearner);
                    }
                }
                ConfChangeType::AddNode | ConfChangeType::AddLearnerNode => {
                    if known.is_some() {
                        return Err(Refusal::MemberExists);
                    }
                    self.check_urls_free(id, &context.member.peer_urls)?;
                    let learners = self.members.members.values().filter(|member| member.is_learner);
                    let learns = single.change_type == ConfChangeType::AddLearnerNode;
                    if learns && learners.count() as u64 >= self.options.max_learners {
                        return Err(Refusal::TooManyLearners);
                    }
                }
                ConfChangeType::RemoveNode => drop(known.ok_or(Refusal::MemberNotFound)?),
                ConfChangeType::UpdateNode => {
                    known.ok_or(Refusal::MemberNotFound)?;
                    self.check_urls_free(id, &context.member.peer_urls)?;
                }
            }
        }
        Ok(change.changes.first().map_or(0, |single| single.node_id))
    }

    fn check_urls_free(&self, id: u64, urls: &[String]) -> Result<(), Refusal> {
        let others = self.members.members.values().filter(|member| member.id != id);
        let taken = others
            .flat_map(|member| &member.peer_urls)
            .any(|url| urls.contains(url));
        if taken { Err(Refusal::PeerUrlExists) } else { Ok(()) }
    }

    fn change_member(&mut self, kind: ConfChangeType, id: u64, context: &ChangeContext) {
        let members = Arc::make_mut(&mut self.members);
        let key = Membership::key(id);
        if kind == ConfChangeType::RemoveNode {
            members.members.remove(&id);
            members.removed.insert(id);
            self.store.bucket_delete(Bucket::Members, key.as_bytes());
            self.store
                .bucket_put(Bucket::MembersRemoved, key.as_bytes(), b"removed");
            tracing::info!(member = key, "member removed");
            if id == self.options.member_id {
                self.begin_farewell();
            }
            return;
        }
        let member = members.members.entry(id).or_default();
        member.id = id;
        match kind {
            ConfChangeType::UpdateNode => member.peer_urls.clone_from(&context.member.peer_urls),
            _ if context.is_promote => member.is_learner = false,
            _ => {
                *member = MemberInfo {
                    id,
                    is_learner: kind == ConfChangeType::AddLearnerNode,
                    ..context.member.clone()
                };
            }
        }
        let row = serde_json::to_vec(member).expect("a member is plain data");
        self.store.bucket_put(Bucket::Members, key.as_bytes(), &row);
        tracing::info!(member = key, ?kind, promoted = context.is_promote, "member changed");
    }
}

fn encode(id: RequestId, change: MemberChange) -> ConfChange {
    let (change_type, node_id, context) = match change {
        MemberChange::Add(member) if member.is_learner => (ConfChangeType::AddLearnerNode, member.id, Some(member)),
        MemberChange::Add(member) => (ConfChangeType::AddNode, member.id, Some(member)),
        MemberChange::Update(member) => (ConfChangeType::UpdateNode, member.id, Some(member)),
        MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id, None),
        MemberChange::Promote(id) => (ConfChangeType::AddNode, id, None),
    };
    let context = match (context, change_type) {
        (Some(member), _) => Some(ChangeContext {
            member,
            is_promote: false,
        }),
        (None, ConfChangeType::AddNode) => Some(ChangeContext {
            member: MemberInfo {
                id: node_id,
                ..MemberInfo::default()
            },
            is_promote: true,
        }),
        _ => None,
    };
    let json = |context| serde_json::to_vec(&context).expect("a member is plain data");
    ConfChange {
        id,
        change_type,
        node_id,
        context: context.map(json).unwrap_or_default().into(),
    }
}

/// The change that makes a learner a voter, for which nobody waits.
pub(super) fn promotion(id: u64) -> ConfChange {
    encode(0, MemberChange::Promote(id))
}

/// (voters, those of them that have started).
fn count_started<'m>(voters: impl Iterator<Item = &'m MemberInfo>) -> (usize, usize) {
    voters.fold((0, 0), |(all, started), voter| {
        (all + 1, started + usize::from(!voter.name.is_empty()))
    })
}

/// Whether the voters, with (members, started ones) more, have a quorum that has started.
fn check_started<'m>(voters: impl Iterator<Item = &'m MemberInfo>, more: (usize, usize)) -> Result<(), Refusal> {
    let (voters, started) = count_started(voters);
    let (voters, started) = (voters + more.0, started + more.1);
    if started > voters / 2 {
        Ok(())
    } else {
        Err(Refusal::NotEnoughStarted)
    }
}

/// Whether the linked ones of these voters are a quorum of them and one more, which is taken for down. A lone member may
/// always grow. A learner is held to the same, as in etcd.
///
/// Source: etcd's `isConnectedToQuorumAfterAddingNewMemberSince`; etcd issue 21640, mended in 3.5.30 and 3.6.11.
fn check_linked(voters: usize, linked: usize) -> Result<(), Refusal> {
    let quorum = voters.div_ceil(2) + 1;
    if voters == 1 || linked >= quorum {
        Ok(())
    } else {
        Err(Refusal::Unhealthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_grows_while_those_linked_are_a_quorum_of_what_it_becomes() {
        // (voters, the fewest of them that must be linked)
        for (voters, fewest) in [(1, 0), (2, 2), (3, 3), (4, 3), (5, 4), (6, 4), (7, 5)] {
            assert!(check_linked(voters, fewest).is_ok(), "{fewest} of {voters}");
            if fewest > 0 {
                assert!(check_linked(voters, fewest - 1).is_err(), "{} of {voters}", fewest - 1);
            }
        }
    }

    fn voter(id: u64, name: &str) -> MemberInfo {
        MemberInfo {
            id,
            name: name.into(),
            ..MemberInfo::default()
        }
    }

    #[test]
    fn the_quorum_that_is_to_be_must_have_started() {
        let three = [voter(1, "a"), voter(2, "b"), voter(3, "")];
        assert_eq!(check_started(three.iter(), (1, 0)), Err(Refusal::NotEnoughStarted));
        assert_eq!(check_started(three[..2].iter(), (1, 0)), Ok(()));
        assert_eq!(check_started(three.iter(), (0, 0)), Ok(()));
        assert_eq!(check_started(three[..0].iter(), (0, 0)), Err(Refusal::NotEnoughStarted));
        assert_eq!(check_started(three.iter(), (1, 1)), Ok(()));
    }

    #[test]
    fn contexts_are_etcds_json() {
        let add = encode(5, MemberChange::Add(voter(7, "")));
        assert_eq!(add.context, r#"{"id":7,"peerURLs":[]}"#);
        let promote = encode(5, MemberChange::Promote(7));
        assert_eq!(promote.context, r#"{"id":7,"peerURLs":[],"isPromote":true}"#);
        assert_eq!(encode(5, MemberChange::Remove(7)).context, "");
        let etcds: ChangeContext = serde_json::from_str(r#"{"id":7,"peerURLs":null,"isPromote":true}"#).unwrap();
        assert!(etcds.is_promote && etcds.member.peer_urls.is_empty());
    }
}
