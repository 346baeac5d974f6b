//! What clients and fate do: requests, watches, faults; and the calm at the end, in which everything must finish.

use std::collections::BTreeMap;

use storage::{
    buckets::{Bucket, meta},
    mvcc::StoreView,
};

use crate::{
    cluster::{Action, Cluster, Counts},
    history::{Check, ensure},
    leases::key_of,
    requests::{self, Ask},
    watching,
    weather::{Dice, MS, SEC},
};

/// Watch clients of a run.
const WATCHERS: u32 = 6;
/// Leases that live at once.
const LEASES: usize = 4;
/// How long the calm may take to settle everything. Units: nanoseconds.
const CALM_NS: u64 = 240 * SEC;
/// In quiet stretches requests are so many times rarer.
const QUIETER: u64 = 40;
/// And faults at least so far apart. Units: nanoseconds.
const QUIET_FAULT_GAP_NS: u64 = 10 * SEC;

impl Cluster {
    /// The whole run: trouble, calm, a last crash of everybody.
    pub fn live(&mut self) -> Check {
        for index in 0..self.hosts.len() {
            self.plan(0, Action::Boot(index));
        }
        self.plan(100 * MS, Action::Request);
        self.plan(500 * MS, Action::Fault);
        self.plan(SEC, Action::Check);
        self.plan(100 * MS, Action::Links);
        self.plan(5 * SEC, Action::Operate);
        self.plan(self.weather.busy_ns, Action::Stretch);
        for call in 1..=WATCHERS {
            let watcher = watching::draw(call, 0, 0, &mut self.rng, self.weather.keys);
            self.watchers.insert(call, watcher);
            let after_ns = self.rng.between(MS, SEC);
            self.plan(after_ns, Action::Connect(call));
        }
        let until_ns = self.weather.trouble_ns;
        self.run(until_ns, |_| false)?;
        self.calm_down()?;
        self.last_crash()?;
        self.rot()?;
        self.counts.simulated_ns = self.now_ns;
        self.counts.revisions = self.history.revision() as u64;
        self.counts.elections = self.consensus.elections();
        self.counts.leases_expired = self.leases.expired;
        self.counts.leases_renewed = self.leases.renewed;
        Ok(())
    }

    /// A busy stretch ends, or a quiet one.
    pub(crate) fn change_stretch(&mut self) {
        self.busy = !self.busy;
        let mean_ns = if self.busy {
            self.weather.busy_ns
        } else {
            self.weather.quiet_ns
        };
        let after_ns = self.rng.between(mean_ns / 2, mean_ns * 3 / 2);
        self.plan(after_ns, Action::Stretch);
    }

    /// A client does something.
    pub(crate) fn client_turn(&mut self) -> Check {
        if self.calm {
            return Ok(());
        }
        let gap_ns = match self.busy {
            true => self.weather.request_gap_ns,
            false => self.weather.request_gap_ns * QUIETER,
        };
        let after_ns = self.rng.between(0, 2 * gap_ns);
        self.plan(after_ns, Action::Request);
        let index = self.some_machine();
        match self.rng.below(100) {
            0..=11 => self.lease_turn(index),
            12..=14 => return self.watch_turn(),
            15 if self.rng.percent(50) => self.ask(index, Ask::Leases),
            15 => {
                let living = self.leases.living();
                if !living.is_empty() {
                    let lease = self.rng.pick(&living);
                    self.ask(index, Ask::Left(lease));
                }
            }
            16 => self.disarm(index),
            _ => {
                let ask = requests::draw(self.next_writer, &mut self.rng, &self.weather, &self.history);
                self.ask(index, ask);
            }
        }
        Ok(())
    }

    fn lease_turn(&mut self, index: usize) {
        let living = self.leases.living();
        if living.len() < LEASES {
            let ttl = self.rng.between(1, 9) as i64;
            let lease = self.next_writer as i64;
            return self.ask(index, Ask::Grant { lease, ttl });
        }
        let lease = self.rng.pick(&living);
        if self.rng.percent(3) {
            return self.ask(index, Ask::Revoke(lease));
        }
        if !self.leases.all[&lease].has_key {
            self.put_lease_key(lease);
        } else if self.rng.percent(10) {
            let put = requests::put(self.next_writer, key_of(lease).into(), 0, &mut self.rng, &self.weather);
            let ignore_lease = true;
            return self.ask(
                index,
                Ask::Put(net::pb::etcdserverpb::PutRequest { ignore_lease, ..put }),
            );
        }
        // Whoever does not lead passes it on.
        let asked = self.leader().filter(|_| self.rng.percent(50)).unwrap_or(index);
        self.ask(asked, Ask::Renew(lease));
    }

    /// One of the machines that have a member, as a rule.
    fn some_machine(&mut self) -> usize {
        let standing: Vec<usize> = (0..self.hosts.len())
            .filter(|index| self.hosts[*index].stands)
            .collect();
        if standing.is_empty() {
            0
        } else {
            self.rng.pick(&standing)
        }
    }

    /// Hangs a key on a lease, so that its end can be seen.
    pub(crate) fn put_lease_key(&mut self, lease: i64) {
        let index = self.some_machine();
        let key = key_of(lease).into();
        let put = requests::put(self.next_writer, key, lease, &mut self.rng, &self.weather);
        self.ask(index, Ask::Put(put));
    }

    /// A member that says it leads.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |index: &usize| {
            let up = self.hosts[*index].up.as_ref();
            up.is_some_and(|up| up.view.leader == self.hosts[*index].id)
        };
        (0..self.hosts.len()).filter(leads).max_by_key(|index| {
            let up = self.hosts[*index].up.as_ref();
            up.map(|up| up.view.term)
        })
    }

    fn disarm(&mut self, index: usize) {
        let Some(up) = self.hosts[index].up.as_ref() else {
            return;
        };
        let full = self.hosts.iter().any(|host| host.full);
        if let Some((member, kind)) = up.view.alarms.first().copied()
            && !full
        {
            self.ask(index, Ask::Disarm { member, kind });
        }
    }

    /// Watch clients come, go, read slowly; a shard falls behind.
    fn watch_turn(&mut self) -> Check {
        let call = self.rng.between(1, u64::from(WATCHERS) + 1) as u32;
        let index = self.watchers[&call].host;
        let life = self.hosts[index].life;
        if self.hosts[index].up.is_none() {
            return Ok(());
        }
        match self.rng.below(4) {
            0 => {
                let revision = self.history.revision();
                let back = self.rng.below(40) as i64;
                let next = if self.rng.percent(30) {
                    0
                } else {
                    (revision - back + 3).max(1)
                };
                let up = self.hosts[index].up();
                up.hub.close(call);
                up.wire.drain(call);
                let watcher = watching::draw(call, index, next, &mut self.rng, self.weather.keys);
                self.watchers.insert(call, watcher);
                self.plan(0, Action::Connect(call));
            }
            1 => {
                self.fault("slow watcher");
                self.hosts[index].up().wire.slow.insert(call);
                let after_ns = self.rng.between(10 * MS, 3 * SEC);
                self.plan(after_ns, Action::Drain(index, life, call));
            }
            2 => {
                self.fault("blocks withheld");
                let up = self.hosts[index].up();
                up.withheld = !up.withheld;
            }
            _ => {
                let now_ns = self.now_ns;
                let up = self.hosts[index].up();
                let newest = up.view.revision();
                if self.watchers[&call].created {
                    up.hub.request_progress(call, newest, &mut up.wire);
                }
                up.hub.notify_progress(now_ns, &mut up.wire);
                return self.told(index);
            }
        }
        Ok(())
    }

    /// Fate does something.
    pub(crate) fn fault_turn(&mut self) -> Check {
        if self.calm {
            return Ok(());
        }
        let gap_ns = match self.busy {
            true => self.weather.fault_gap_ns,
            false => (4 * self.weather.fault_gap_ns).max(QUIET_FAULT_GAP_NS),
        };
        let after_ns = self.rng.between(gap_ns / 10, 2 * gap_ns);
        self.plan(after_ns, Action::Fault);
        let weather = &self.weather;
        let kinds = [
            (weather.crash, 0),
            (weather.disk_error, 1),
            (weather.disk_full, 2),
            (weather.pause, 3),
            (weather.clock, 4),
            (weather.partition, 5),
            (weather.transfer, 6),
            (weather.disk_stall, 7),
            (weather.false_alarm, 8),
            (weather.tree_rot, 9),
        ];
        let total: u64 = kinds.iter().map(|(weight, _)| weight).sum();
        if total == 0 {
            return Ok(());
        }
        let mut roll = self.rng.below(total);
        let kind = kinds.iter().find(|(weight, _)| match roll.checked_sub(*weight) {
            Some(rest) => {
                roll = rest;
                false
            }
            None => true,
        });
        let index = self.some_machine();
        if self.hosts[index].up.is_none() {
            return Ok(());
        }
        match kind.map(|(_, kind)| *kind) {
            Some(0) => return self.crash_some(index),
            Some(1) => self.break_disk(index),
            Some(2) => self.fill_disk(index),
            Some(3) => self.pause(index),
            Some(4) => self.bend_clock(index),
            Some(5) => self.partition(index),
            Some(7) => self.stall_disk(index),
            Some(8) => self.alarm(index),
            Some(9) => return self.rot_tree(index),
            _ => self.transfer(index),
        }
        Ok(())
    }

    fn crash_some(&mut self, index: usize) -> Check {
        if !self.rng.percent(10) {
            return self.crash(index);
        }
        for index in 0..self.hosts.len() {
            if self.hosts[index].up.is_some() {
                self.crash(index)?;
            }
        }
        Ok(())
    }

    fn break_disk(&mut self, index: usize) {
        self.fault("failing disk call");
        let op = self.rng.pick(&[None, Some("write"), Some("sync")]);
        let path = self.rng.pick(&["", "wal", "tree"]);
        let after = self.rng.below(40);
        self.note(|| format!("m{index}: a disk call will fail: {op:?} {path:?}"));
        self.hosts[index].plan_error(op, path, after);
    }

    fn fill_disk(&mut self, index: usize) {
        self.fault("full disk");
        let most = self.rng.pick(&[1 << 10, 32 << 10, 256 << 10]);
        let room = self.rng.below(most);
        self.note(|| format!("m{index}: {room} bytes of disk are left"));
        self.hosts[index].limit_space(Some(room));
        let after_ns = self.rng.between(SEC, 10 * SEC);
        self.plan(after_ns, Action::Space(index));
    }

    fn stall_disk(&mut self, index: usize) {
        self.fault("disk stall");
        let most = self.rng.pick(&[100, 2000, 15_000]);
        let stall_ns = self.rng.between(20, most) * MS;
        self.note(|| format!("m{index}: the disk stalls for {} ms", stall_ns / MS));
        self.hosts[index].stalled_until_ns = self.now_ns + stall_ns;
    }

    fn pause(&mut self, index: usize) {
        self.fault("pause");
        self.note(|| format!("m{index} stands still"));
        self.hosts[index].paused = true;
        let most = self.rng.pick(&[100, 2000, 12_000]);
        let (after_ns, life) = (self.rng.between(20, most) * MS, self.hosts[index].life);
        self.plan(after_ns, Action::Resume(index, life));
    }

    fn bend_clock(&mut self, index: usize) {
        let now_ns = self.now_ns;
        if self.rng.percent(50) {
            self.fault("clock jump");
            let most = self.rng.pick(&[100, 3000, 60_000]);
            let by = self.rng.between(1, most) * MS;
            self.hosts[index].clock.jump(now_ns, by);
        } else {
            self.fault("clock rate");
            let permille = self.rng.pick(&[500, 900, 1000, 1100, 2000]);
            self.hosts[index].clock.set_rate(now_ns, permille);
        }
        self.note(|| format!("the clock of m{index} is bent"));
    }

    fn partition(&mut self, index: usize) {
        let standing = |other: &usize| self.hosts[*other].stands;
        let members: Vec<usize> = (0..self.hosts.len()).filter(standing).collect();
        let others: Vec<usize> = members.iter().copied().filter(|other| *other != index).collect();
        if others.is_empty() {
            return;
        }
        match self.rng.below(5) {
            0 => {
                self.fault("member cut off");
                self.cut
                    .extend(others.iter().flat_map(|other| [(index, *other), (*other, index)]));
            }
            1 => {
                self.fault("member heard by nobody");
                self.cut.extend(others.iter().map(|other| (index, *other)));
            }
            2 => {
                self.fault("link cut one way");
                let other = self.rng.pick(&others);
                self.cut.insert((other, index));
            }
            3 => {
                // Everybody hears this one, and hardly anybody else.
                self.fault("all but one parted");
                let pairs = others.iter().flat_map(|a| others.iter().map(move |b| (*a, *b)));
                self.cut.extend(pairs.filter(|(a, b)| a != b && (a + b) % 2 == 1));
            }
            _ => {
                self.fault("cluster split");
                let side: Vec<bool> = self.hosts.iter().map(|_| self.rng.percent(50)).collect();
                let pairs = members.iter().flat_map(|a| members.iter().map(move |b| (*a, *b)));
                self.cut.extend(pairs.filter(|(a, b)| side[*a] != side[*b]));
            }
        }
        self.note(|| format!("cut: {:?}", self.cut));
        let most = self.rng.pick(&[500, 5000, 15_000]);
        let after_ns = self.rng.between(50, most) * MS;
        self.plan(after_ns, Action::Heal);
    }

    /// A member, or each of them, believes that a living one has ended, its leader as a rule.
    fn alarm(&mut self, index: usize) {
        let alleged = match self.leader() {
            Some(leader) if self.rng.percent(90) => leader,
            _ => self.some_machine(),
        };
        let everybody = self.rng.percent(30);
        let id = self.hosts[alleged].id;
        if self.hosts[alleged].up.is_none() {
            return;
        }
        self.fault("false alarm of an end");
        self.note(|| format!("m{alleged} is taken for gone, by all: {everybody}"));
        for other in (0..self.hosts.len()).filter(|other| everybody || *other == index) {
            let after_ns = self.rng.between(0, 5 * MS);
            self.take_for_gone(other, id, after_ns);
        }
    }

    fn transfer(&mut self, index: usize) {
        self.fault("leader transfer");
        let leader = self.leader().unwrap_or(index);
        self.ask(leader, Ask::MoveLeader(self.hosts[index].id));
    }

    /// Everything is healed; all that waits must finish, leases must end, members must be equal, and serve.
    fn calm_down(&mut self) -> Check {
        self.note(|| "calm".to_owned());
        self.calm = true;
        self.cut.clear();
        // A disk that still holds calls back lets them go first, those that are to fail among them, and is heard of.
        let released_ns = self.hosts.iter().map(|host| host.stalled_until_ns).max();
        if let Some(released_ns) = released_ns.filter(|released_ns| *released_ns >= self.now_ns) {
            self.run(released_ns + SEC, |_| false)?;
        }
        for index in 0..self.hosts.len() {
            let now_ns = self.now_ns;
            self.hosts[index].clock.set_rate(now_ns, 1000);
            self.hosts[index].limit_space(None);
            self.resume(index);
            if self.rng.percent(50) {
                // What a member is stuck in, a restart would mend: half of them go on as they are.
                self.hosts[index].disk.forget_faults();
                self.hosts[index].may_fail = false;
            } else if self.hosts[index].may_fail && self.hosts[index].up.is_some() {
                self.crash(index)?;
            }
        }
        for call in self.watchers.keys().copied().collect::<Vec<_>>() {
            let index = self.watchers[&call].host;
            self.plan(0, Action::Drain(index, self.hosts[index].life, call));
        }
        // A member that found its disk full looks again after a second, and may raise the alarm till then.
        let until_ns = self.now_ns + 5 * SEC;
        self.run(until_ns, |_| false)?;
        self.settle("after the trouble")?;
        for index in (0..self.hosts.len())
            .filter(|index| self.hosts[*index].stands)
            .collect::<Vec<_>>()
        {
            let key = format!("k{:03}", 0).into();
            let put = requests::put(self.next_writer, key, 0, &mut self.rng, &self.weather);
            self.ask(index, Ask::Put(put));
            self.ask(
                index,
                Ask::Read {
                    from: "k".into(),
                    end: "l".into(),
                    revision: 0,
                },
            );
        }
        let before = self.counts.clone();
        self.settle("with a put to each member")?;
        self.check_refusals(&before)?;
        self.check_everybody()
    }

    /// After the calm puts and reads are taken. The operator may still be refused: its learner may not be ready. And a member
    /// that is sent a snapshot, as one entry more than is kept will make it, never learns what became of the put in it.
    fn check_refusals(&mut self, before: &Counts) -> Check {
        let count = |counts: &BTreeMap<&'static str, u64>, what| counts.get(what).copied().unwrap_or(0);
        let since = |now, before, what| count(now, what) - count(before, what);
        let refused = |what| since(&self.counts.refused, &before.refused, what);
        let installed = since(&self.counts.events, &before.events, "snapshots installed");
        for (what, excused) in [("put", installed), ("read", 0)] {
            let refused = refused(what);
            ensure!(
                refused <= excused,
                "healthy members refused a {what} {refused} times, after {installed} snapshots"
            );
        }
        if self.counts.refused != before.refused {
            *self.counts.events.entry("operator refused in the calm").or_default() += 1;
        }
        Ok(())
    }

    /// Runs until nothing is left to do.
    fn settle(&mut self, when: &str) -> Check {
        let until_ns = self.now_ns + CALM_NS;
        let mut disarm_ns = 0;
        let done = self.run(until_ns, |cluster| {
            if cluster.now_ns >= disarm_ns {
                disarm_ns = cluster.now_ns + SEC;
                let index = cluster.some_machine();
                cluster.disarm(index);
            }
            cluster.is_settled()
        })?;
        ensure!(
            done,
            "{when}, {} s were not enough: {}",
            CALM_NS / SEC,
            self.what_waits()
        );
        Ok(())
    }

    pub(crate) fn is_settled(&self) -> bool {
        let revision = self.history.revision();
        let leased = |key: &[u8]| self.history.get(key, revision).is_some();
        let mut standing = self.hosts.iter().filter(|host| host.stands);
        let first = standing.clone().next().and_then(|host| host.up.as_ref());
        let first = first.map(|up| up.view.applied_index);
        self.pending.is_empty()
            && self.is_staffed()
            && standing.all(|host| {
                host.up.as_ref().is_some_and(|up| {
                    up.revision == revision
                        && !up.engine.is_refilling()
                        && Some(up.view.applied_index) == first
                        && up.view.committed_index == up.view.applied_index
                        && up.view.leader != 0
                        && up.view.alarms.is_empty()
                        && is_compacted(&up.view.store)
                        && !up.hub.has_work()
                })
            })
            && self.watchers.values().all(|watcher| watcher.created && !watcher.ended)
            && !self.leases.all.keys().any(|id| leased(key_of(*id).as_bytes()))
    }

    fn what_waits(&self) -> String {
        let hosts = self.hosts.iter().map(|host| match &host.up {
            Some(up) => format!(
                "m{} {:x} (applied {}, committed {}, revision {}, leader {:x}, term {}, alarms {:?})",
                host.index,
                host.id,
                up.view.applied_index,
                up.view.committed_index,
                up.revision,
                up.view.leader,
                up.view.term,
                up.view.alarms
            ),
            None => format!("m{} ({})", host.index, if host.stands { "down" } else { "spare" }),
        });
        let revision = self.history.revision();
        let leases = self.leases.all.keys();
        let leases: Vec<_> = leases
            .filter(|id| self.history.get(key_of(**id).as_bytes(), revision).is_some())
            .collect();
        let asks: Vec<_> = self
            .pending
            .values()
            .map(|pending| (pending.host, pending.ask.name()))
            .collect();
        let watches: Vec<_> = self
            .watchers
            .values()
            .filter(|watcher| !watcher.created || watcher.ended)
            .map(|watcher| (watcher.call, watcher.host))
            .collect();
        format!(
            "{}; waiting: {asks:?}; leases: {leases:?}; watches: {watches:?}",
            hosts.collect::<Vec<_>>().join(", ")
        )
    }

    fn check_everybody(&mut self) -> Check {
        let revision = self.history.revision();
        ensure!(
            self.known <= revision,
            "revision {} was acknowledged, the newest is {revision}",
            self.known
        );
        for index in (0..self.hosts.len())
            .filter(|index| self.hosts[*index].stands)
            .collect::<Vec<_>>()
        {
            let store = self.hosts[index].up().view.store.clone();
            let wrong = |why| format!("m{index} at the end: {why}");
            ensure!(store.revision() == revision, "m{index} is not at revision {revision}");
            self.history.check_state(&store).map_err(wrong)?;
            self.history.check_hash(&store, 0).map_err(wrong)?;
        }
        for watcher in self.watchers.values_mut() {
            let lowest = watcher.next;
            watcher
                .told_up_to(revision, &self.history)
                .map_err(|why| format!("watch {} on m{}, at {lowest}: {why}", watcher.call, watcher.host))?;
        }
        Ok(())
    }

    /// The power of all machines fails; every acknowledged write is there again.
    fn last_crash(&mut self) -> Check {
        let wait_ns = self.rng.below(300) * MS;
        let until_ns = self.now_ns + wait_ns;
        self.run(until_ns, |_| false)?;
        for index in (0..self.hosts.len())
            .filter(|index| self.hosts[*index].stands)
            .collect::<Vec<_>>()
        {
            self.crash(index)?;
        }
        self.settle("after the last crash")?;
        self.check_everybody()
    }

    /// Bytes of a file of one member rot: it refuses to start or to read, or it lost nothing by it.
    fn rot(&mut self) -> Check {
        let index = self.some_machine();
        self.hosts[index].crash(None);
        let disk = self.hosts[index].disk.clone();
        let files: Vec<String> = disk
            .file_names()
            .into_iter()
            .filter(|name| disk.contents(name).is_some_and(|bytes| !bytes.is_empty()))
            .collect();
        let file = &files[self.rng.below(files.len() as u64) as usize];
        let bytes = disk.contents(file).expect("it is listed").len() as u64;
        let offset = self.rng.below(bytes);
        let len = self.rng.between(1, 65).min(bytes - offset) as usize;
        let mask = self.rng.between(1, 256) as u8;
        self.note(|| format!("m{index}: {len} bytes of {file} at {offset} rot"));
        disk.flip(file, offset, len, mask);
        let (weather, seed, now_ns) = (self.weather.clone(), self.rng.next(), self.now_ns);
        if let Err(error) = self.hosts[index].boot(&weather, seed, now_ns) {
            self.note(|| format!("m{index} does not start: {error}"));
            self.fault("rot refused at start");
            return Ok(());
        }
        if self.is_refilling(index) {
            self.fault("rot answered by a refill");
            return Ok(());
        }
        let store = self.hosts[index].up().view.store.clone();
        let wrong = |why| format!("m{index}, {len} bytes of {file} rotten at {offset}: {why}");
        let kind = match self.history.check_damaged(&store).map_err(wrong)? {
            true => "rot found by a read",
            false => "rot without effect",
        };
        self.fault(kind);
        Ok(())
    }
}

/// Whether nothing is left of what was compacted; a compaction that a crash cut short goes on by itself.
fn is_compacted(store: &StoreView) -> bool {
    let mark = |name| store.bucket_get(Bucket::Meta, name).ok().flatten();
    mark(meta::FINISHED_COMPACT) == mark(meta::SCHEDULED_COMPACT)
}
