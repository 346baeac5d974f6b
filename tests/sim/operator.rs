//! The operator: changes the cluster's members, one change at a time, and looks after what a change left behind.
//!
//! It adds members as learners or voters on spare machines, promotes, removes (the leader too, by its own hand too),
//! changes addresses, and replaces a member whose disk is gone by a new one under a new id. It knows what anybody could
//! know: the members as the newest member that is up tells them.

use std::{collections::BTreeSet, sync::Arc};

use etcore::member::{MemberChange, MemberInfo, Membership, Refusal};

use crate::{
    cluster::{Action, Cluster},
    host::Host,
    requests::{self, Ask},
    weather::{Dice, MS, SEC},
};

/// After an answer that says nothing sure, nothing new is begun for this long: the change may still come into force.
const UNSURE_NS: u64 = 40 * SEC;
/// Ids of members that come later, by their number.
const NEW_ID: u64 = 0x2000_0000;

/// What the operator keeps in mind.
#[derive(Default)]
pub struct Operator {
    /// A change was asked for and not answered.
    pub waits: bool,
    /// Ids that were once started, so that they are never started on another disk.
    pub started: BTreeSet<u64>,
    next_number: u64,
    unsure_until_ns: u64,
    next_job_ns: u64,
}

impl Operator {
    /// Members the cluster begins with are started.
    pub fn new(founders: impl Iterator<Item = u64>) -> Operator {
        Operator {
            started: founders.collect(),
            ..Operator::default()
        }
    }

    /// How a change was answered.
    pub fn answered(&mut self, sure: bool, now_ns: u64) {
        self.waits = false;
        if !sure {
            self.unsure_until_ns = now_ns + UNSURE_NS;
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_number += 1;
        NEW_ID + 0x100 + self.next_number
    }
}

/// Whether a refusal of a change leaves no doubt.
pub fn is_sure(refusal: Refusal) -> bool {
    requests::is_final(refusal) && !matches!(refusal, Refusal::ProposalDropped | Refusal::NoLeader)
}

impl Cluster {
    /// The members as the newest of them tells.
    pub fn newest_members(&self) -> Option<Arc<Membership>> {
        let up = self
            .hosts
            .iter()
            .filter(|host| host.stands)
            .filter_map(|host| host.up.as_ref().filter(|up| !up.engine.is_refilling()));
        let newest = up.max_by_key(|up| up.view.applied_index)?;
        Some(newest.view.members.clone())
    }

    /// Whether every member has its machine, and every machine its member.
    pub fn is_staffed(&self) -> bool {
        let Some(members) = self.newest_members() else {
            return false;
        };
        let ids: BTreeSet<u64> = self
            .hosts
            .iter()
            .filter(|host| host.stands)
            .map(|host| host.id)
            .collect();
        members.members.keys().copied().collect::<BTreeSet<u64>>() == ids
    }

    /// Whether no change is under way, nor needed.
    pub fn is_at_rest(&self) -> bool {
        !self.operator.waits && self.now_ns >= self.operator.unsure_until_ns && self.is_staffed()
    }

    /// The operator looks, and does one thing at most.
    pub fn operate(&mut self) {
        let after_ns = self.rng.between(500, 3000) * MS;
        self.plan(after_ns, Action::Operate);
        if self.operator.waits || self.newest_members().is_none_or(|members| members.members.is_empty()) {
            return;
        }
        if !self.staff() {
            self.begin_job();
        }
    }

    /// A machine that joined, was removed before it had any state, and may find nobody of those it was told of: nobody
    /// else would tell it that it was.
    fn forgotten(&self, members: &Membership) -> Option<usize> {
        let knows_nobody = |host: &Host| host.up.as_ref().is_some_and(|up| up.view.members.members.is_empty());
        self.hosts
            .iter()
            .position(|host| self.calm && host.stands && members.removed.contains(&host.id) && knows_nobody(host))
    }

    /// Mends what a change has left half done; whether there was anything.
    fn staff(&mut self) -> bool {
        let Some(members) = self.newest_members() else {
            return true;
        };
        let idle: Vec<usize> = (0..self.hosts.len())
            .filter(|index| !self.hosts[*index].stands)
            .collect();
        if let Some(index) = self.forgotten(&members) {
            self.note(|| format!("m{index} was removed before it knew anybody, and is switched off"));
            self.end_member(index);
            return true;
        }
        let ids = self.hosts.iter().filter(|host| host.stands).map(|host| host.id);
        let staffed: BTreeSet<u64> = ids.collect();
        let missing = members.members.keys().find(|id| !staffed.contains(id)).copied();
        if let Some(id) = missing {
            let startable = !self.operator.started.contains(&id);
            match idle.first() {
                Some(machine) if startable && self.rng.percent(90) => self.install(*machine, id),
                _ => self.change("remove a lost member", MemberChange::Remove(id)),
            }
            return true;
        }
        let learner = members
            .members
            .values()
            .find(|member| member.is_learner)
            .map(|member| member.id);
        if let Some(id) = learner
            && self.rng.percent(60)
        {
            match self.rng.percent(90) {
                true => self.change("promote", MemberChange::Promote(id)),
                false => self.change("remove a learner", MemberChange::Remove(id)),
            }
            return true;
        }
        learner.is_some()
    }

    fn begin_job(&mut self) {
        let churn_ns = self.weather.churn_ns;
        if self.calm || churn_ns == 0 || self.now_ns < self.operator.unsure_until_ns.max(self.operator.next_job_ns) {
            return;
        }
        let wait_ns = self.rng.between(churn_ns / 4, churn_ns * 2);
        self.operator.next_job_ns = self.now_ns + wait_ns;
        let Some(members) = self.newest_members() else { return };
        let voters: Vec<u64> = members.voters().map(|voter| voter.id).collect();
        let idle = self.hosts.iter().any(|host| !host.stands);
        let id = self.rng.pick(&voters);
        let leader = self.leader().map(|index| self.hosts[index].id);
        // While one of them waits for its state, no voter comes that might not start, and none goes.
        let whole = !self.is_damaged();
        match self.rng.below(6) {
            0 | 1 if idle => self.add(true),
            2 if idle && whole => self.add(false),
            3 if voters.len() > 2 && whole => {
                let id = leader.filter(|_| self.rng.percent(40)).unwrap_or(id);
                self.change("remove", MemberChange::Remove(id));
            }
            4 => {
                let url = format!("http://{id:x}-{}:2380", self.operator.new_id());
                self.change("update", MemberChange::Update(info(id, url)));
            }
            5 if voters.len() > 2 && whole && self.is_known_without(id, &members) => self.lose_disk(id),
            _ => {}
        }
    }

    fn add(&mut self, is_learner: bool) {
        let id = self.operator.new_id();
        let mut member = info(id, format!("http://{id:x}:2380"));
        member.is_learner = is_learner;
        let what = if is_learner { "add a learner" } else { "add a voter" };
        self.change(what, MemberChange::Add(member));
    }

    /// Whether a majority of the voters knows that these are the members, and stands without this one. Of two members one of which
    /// loses its disk right after the two took in a third, the other may not know that they did.
    fn is_known_without(&self, id: u64, members: &Membership) -> bool {
        let knows = |host: &&Host| {
            let theirs = host.up.as_ref().map(|up| &up.view.members.members);
            host.stands && host.id != id && theirs.is_some_and(|theirs| theirs.keys().eq(members.members.keys()))
        };
        self.hosts.iter().filter(knows).count() > members.voters().count() / 2
    }

    /// A machine loses everything it has: its member never returns.
    fn lose_disk(&mut self, id: u64) {
        let Some(machine) = self.machine_of(id).filter(|machine| self.hosts[*machine].stands) else {
            return;
        };
        self.fault("disk lost");
        self.note(|| format!("m{machine} loses its disk, and {id:x} is gone"));
        self.end_member(machine);
    }

    /// A spare machine becomes the member `id`, which joins.
    fn install(&mut self, machine: usize, id: u64) {
        *self.counts.events.entry("members joined").or_default() += 1;
        self.note(|| format!("m{machine} becomes {id:x}"));
        self.operator.started.insert(id);
        let clock = self.hosts[machine].clock.clone();
        let life = self.hosts[machine].life;
        self.hosts[machine] = Host {
            id,
            clock,
            life,
            joins: true,
            stands: true,
            ..Host::new(machine, 0)
        };
        self.plan(10 * MS, Action::Boot(machine));
    }

    fn change(&mut self, what: &'static str, change: MemberChange) {
        let up =
            |index: &usize| self.hosts[*index].stands && self.hosts[*index].up.is_some() && !self.is_refilling(*index);
        let live: Vec<usize> = (0..self.hosts.len()).filter(up).collect();
        let asked = match self.leader().filter(|_| self.rng.percent(60)) {
            Some(leader) => leader,
            None if live.is_empty() => return,
            None => self.rng.pick(&live),
        };
        self.note(|| format!("the operator asks m{asked}: {change:?}"));
        self.operator.waits = true;
        self.ask(asked, Ask::Change { what, change });
    }
}

fn info(id: u64, url: String) -> MemberInfo {
    MemberInfo {
        id,
        peer_urls: vec![url],
        ..MemberInfo::default()
    }
}
