//! Clients: a request goes to one member, and its answer is compared with what is known.

use etcore::member::{Event, Outcome, Refusal, Reply};

use crate::{
    cluster::{Cluster, Pending},
    history::{Check, ensure},
    host::Host,
    operator::is_sure,
    requests::{Ask, check_answer, is_final, options},
    weather::{Dice, US},
};

impl Cluster {
    /// Sends a request to a member; what it refers to is checked when the answer comes.
    pub fn ask(&mut self, index: usize, ask: Ask) {
        let (floor, asked_ns, clocks) = (self.known, self.now_ns, self.clocks());
        let writer = self.next_writer;
        self.next_writer += 1;
        let Some(up) = self.hosts[index].up.as_mut().filter(|up| !up.engine.is_refilling()) else {
            return;
        };
        let id = up.ids.make();
        let request = ask.request(id);
        up.inbox.push(Event::Request { shard: 0, id, request });
        if let Ask::Revoke(lease) = &ask
            && let Some(lease) = self.leases.all.get_mut(lease)
        {
            lease.revoke_asked = true;
        }
        let pending = Pending {
            ask,
            host: index,
            writer,
            floor,
            asked_ns,
            clocks,
        };
        self.pending.insert(id, pending);
        self.wake(index, 5 * US);
    }

    /// A member answers.
    pub fn replied(&mut self, index: usize, reply: Reply) -> Check {
        let Some(pending) = self.pending.remove(&reply.id) else {
            return Err(format!(
                "m{index} answered request {:x}, which waits for nothing",
                reply.id
            ));
        };
        let name = pending.ask.name();
        self.fold(&[reply.id, u64::from(reply.result.is_ok())]);
        self.note(|| format!("m{index} answers {} {}: {:?}", name, pending.writer, reply.result));
        let result = match reply.result {
            Ok(outcome) => self.fulfilled(index, pending, outcome),
            Err(refusal) => self.refused(pending, refusal),
        };
        result.map_err(|why| format!("m{index}, {name}: {why}"))
    }

    fn fulfilled(&mut self, index: usize, pending: Pending, outcome: Outcome) -> Check {
        *self.counts.answers.entry(pending.ask.name()).or_default() += 1;
        for option in options(&pending.ask) {
            *self.counts.options.entry(option).or_default() += 1;
        }
        let view = self.hosts[index].up().engine.view();
        let revision = check_answer(&pending.ask, &outcome, &view.store, pending.floor, &self.history)?;
        self.known = self.known.max(revision);
        let now = self.clocks();
        match (pending.ask, outcome) {
            (Ask::Grant { lease, .. }, Outcome::LeaseGrant { ttl, .. }) => {
                self.leases.granted(lease, ttl, pending.clocks);
                self.put_lease_key(lease);
            }
            (Ask::Renew(lease), Outcome::LeaseRenew { ttl, .. }) => {
                self.leases
                    .renewal(lease, ttl, pending.asked_ns, pending.clocks, &now)?;
            }
            (Ask::Change { .. }, _) => self.operator.answered(true, self.now_ns),
            (Ask::Left(lease), Outcome::LeaseInfo(info)) => {
                let grace_ns = Host::election_ns(&self.weather);
                self.leases.told(lease, info, pending.asked_ns, grace_ns, &now)?;
            }
            (Ask::Compact(revision, _), _) if self.rng.percent(50) => self.ask(index, Ask::CompactionDone(revision)),
            (Ask::Put(put), _) if put.lease != 0 => {
                if let Some(lease) = self.leases.all.get_mut(&put.lease) {
                    lease.has_key = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn refused(&mut self, pending: Pending, refusal: Refusal) -> Check {
        *self.counts.refused.entry(pending.ask.name()).or_default() += 1;
        if refusal == Refusal::LearnerNotReady {
            *self.counts.events.entry("learners found not to be ready").or_default() += 1;
        }
        let limited = self.history_allows(refusal, &pending);
        ensure!(limited, "refused with {refusal:?}, which has no reason");
        if is_final(refusal) && matches!(pending.ask, Ask::Put(_) | Ask::Txn(_)) {
            self.history.refuse(pending.writer)?;
        }
        match pending.ask {
            Ask::Change { what, change } => {
                self.note(|| format!("the operator is refused {what} {change:?}: {refusal:?}"));
                self.operator.answered(is_sure(refusal), self.now_ns);
                Ok(())
            }
            Ask::Put(put) if refusal == Refusal::LeaseNotFound => self.leases.may_be_gone(put.lease, &self.clocks()),
            _ => Ok(()),
        }
    }

    fn history_allows(&self, refusal: Refusal, pending: &Pending) -> bool {
        match (refusal, &pending.ask) {
            (Refusal::Compacted, Ask::Compact(at, _)) => *at <= self.history.compacted,
            (Refusal::FutureRevision, Ask::Compact(at, _)) => *at > pending.floor,
            (Refusal::LeaseNotFound, ask) => matches!(ask, Ask::Put(_) | Ask::Revoke(_) | Ask::Left(_)),
            (Refusal::KeyNotFound, Ask::Put(put)) => put.ignore_value || put.ignore_lease,
            (Refusal::NotPrimary, ask) => matches!(ask, Ask::Renew(_) | Ask::Left(_)),
            (
                Refusal::Unhealthy
                | Refusal::NotEnoughStarted
                | Refusal::TooManyLearners
                | Refusal::LearnerNotReady
                | Refusal::MemberNotFound
                | Refusal::MemberNotLearner
                | Refusal::PeerUrlExists
                | Refusal::NotLeader,
                Ask::Change { .. },
            ) => true,
            (Refusal::NotLeader | Refusal::BadTransferee | Refusal::TransferTimeout, ask) => {
                matches!(ask, Ask::MoveLeader(_))
            }
            (Refusal::NoLeader, ask) => matches!(ask, Ask::Renew(_) | Ask::Left(_) | Ask::Change { .. }),
            (Refusal::NeverProposed, ask) => !matches!(ask, Ask::Read { .. } | Ask::Renew(_) | Ask::Left(_)),
            (Refusal::TimeoutLeaderFailed | Refusal::TimeoutConnectionLost, _) => true,
            (Refusal::NoSpace, _) => self.weather.disk_full > 0,
            (Refusal::Timeout | Refusal::ProposalDropped | Refusal::TooManyRequests, _) => true,
            _ => false,
        }
    }
}
