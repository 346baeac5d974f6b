//! The network between members: loss, repetition, delay, cuts in one direction or both, and what a link notices of them.

use etcore::{
    config::ETCD_VERSION,
    member::{ENTRY_KINDS, Event, Outputs},
};
use net::peer::{Answer, Call};
use raft::{Message, MessageType};

use crate::{
    cluster::{Action, Cluster},
    history::Check,
    weather::{Dice, MS, SEC, US},
};

/// A link that is cut is noticed after this long. Units: nanoseconds. Source: the link's longest unacknowledged time.
pub const NOTICED_NS: u64 = 5 * SEC;
/// How often links are looked at. Units: nanoseconds.
const LINKS_NS: u64 = 500 * MS;

/// What one member sends to another.
#[derive(Clone, Debug)]
pub enum Payload {
    Message(Box<Message>),
    Call(Call),
    Answer(Answer),
}

/// What one machine knows of its link to another.
#[derive(Clone, Copy, Default)]
pub struct Link {
    up: bool,
    /// The life of the other side it was made with.
    life: u64,
    cut_since_ns: Option<u64>,
}

impl Cluster {
    /// The machine of a member.
    pub fn machine_of(&self, id: u64) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == id)
    }

    /// Whether nothing comes through between two machines in one direction at least.
    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    /// Sends all that a turn of a member gave out.
    pub fn send_all(&mut self, index: usize, out: &mut Outputs) -> Check {
        for message in std::mem::take(&mut out.messages) {
            let up = self.hosts[index].up.as_ref().expect("it has just had a turn");
            self.consensus.sent(up.engine.consensus(), &message)?;
            self.fold(&[
                message.from,
                message.to,
                message.msg_type.number(),
                message.term,
                message.index,
                message.commit,
            ]);
            let to = message.to;
            if message.msg_type == MessageType::MsgSnap {
                self.start_transfer(index, message);
            } else if self.intercept == Some(message.msg_type) {
                self.intercepted.push(message);
            } else {
                self.send(index, to, Payload::Message(Box::new(message)));
            }
        }
        for (to, call) in std::mem::take(&mut out.calls) {
            self.send(index, to, Payload::Call(call));
        }
        for (to, answer) in std::mem::take(&mut out.answers) {
            self.send(index, to, Payload::Answer(answer));
        }
        Ok(())
    }

    fn send(&mut self, index: usize, to: u64, payload: Payload) {
        let Some(target) = self.machine_of(to) else { return };
        if self.cut.contains(&(index, target)) {
            return self.fault("message cut off");
        }
        let appends = matches!(&payload, Payload::Message(message) if message.msg_type == MessageType::MsgApp);
        if self.hosts[target].up.is_none() && appends && self.rng.percent(50) {
            return self.tell(index, Event::Unreachable(to));
        }
        if !self.calm && self.rng.percent(self.weather.loss) {
            return self.fault("message lost");
        }
        // Links are streams: what is not safe to repeat, a proposal, a call, is never delivered twice.
        let repeats = matches!(&payload, Payload::Message(message) if message.msg_type != MessageType::MsgProp);
        if !self.calm && repeats && self.rng.percent(self.weather.duplication) {
            self.fault("message sent twice");
            let after_ns = self.travel_ns();
            self.plan(after_ns, Action::Deliver(index, to, payload.clone()));
        }
        let after_ns = self.travel_ns();
        self.plan(after_ns, Action::Deliver(index, to, payload));
    }

    /// How long something takes from one machine to another.
    pub fn travel_ns(&mut self) -> u64 {
        let net_ns = self.weather.net_ns;
        if !self.calm && self.rng.percent(self.weather.delay) {
            self.fault("message delayed");
            return self.rng.between(10 * MS, 2 * SEC);
        }
        self.rng.between(net_ns / 4, net_ns * 2)
    }

    /// Something arrives, if the member it is for is there.
    pub fn deliver(&mut self, from: usize, to: u64, payload: Payload) {
        let Some(index) = self.machine_of(to) else { return };
        if self.cut.contains(&(from, index)) {
            return;
        }
        let sender = self.hosts[from].id;
        let Some(up) = self.hosts[index].up.as_ref() else {
            return;
        };
        if up.view.members.removed.contains(&sender) {
            return self.tell_removed(from, index);
        }
        let event = match payload {
            Payload::Message(message) => Event::Peer(message),
            Payload::Call(call) => Event::PeerCall { from: sender, call },
            Payload::Answer(answer) => Event::PeerAnswer { answer },
        };
        self.tell(index, event);
    }

    /// Puts an event into a member's mailbox, if it is up.
    pub fn tell(&mut self, index: usize, event: Event) {
        if let Some(up) = self.hosts[index].up.as_mut() {
            up.inbox.push(event);
            self.wake(index, 5 * US);
        }
    }

    /// A member that was removed is told so by one that knows, as it dials that one.
    fn tell_removed(&mut self, removed: usize, by: usize) {
        if !self.is_cut(removed, by) {
            self.fault("removed member told so");
            self.tell(removed, Event::Removed);
        }
    }

    /// The other members may notice that this one has ended: mostly at once, at times when it is back already.
    pub fn let_notice(&mut self, gone: usize) {
        let id = self.hosts[gone].id;
        for index in 0..self.hosts.len() {
            let sees = index != gone && self.hosts[index].up.is_some() && !self.is_cut(index, gone);
            if sees && self.rng.percent(self.weather.noticed) {
                let most = self.rng.pick(&[1, 1, 20, 1000]);
                let after_ns = self.rng.between(50 * US, most * MS);
                self.take_for_gone(index, id, after_ns);
                *self.counts.events.entry("ends noticed").or_default() += 1;
            }
        }
    }

    /// A member takes another one for gone, rightly or not.
    pub fn take_for_gone(&mut self, index: usize, id: u64, after_ns: u64) {
        let life = self.hosts[index].life;
        self.plan(after_ns, Action::Gone(index, life, id));
    }

    /// Members notice which others they can reach.
    pub fn look_at_links(&mut self) {
        self.plan(LINKS_NS, Action::Links);
        let count = self.hosts.len();
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            if from != to && self.hosts[from].up.is_some() {
                self.look_at_link(from, to);
            }
        }
    }

    fn look_at_link(&mut self, from: usize, to: usize) {
        let (now_ns, cut) = (self.now_ns, self.is_cut(from, to));
        let (theirs, me) = (&self.hosts[to], self.hosts[from].id);
        let (id, life) = (theirs.id, theirs.life);
        let there = theirs.up.is_some() && id != 0;
        let refuses = theirs
            .up
            .as_ref()
            .is_some_and(|up| up.view.members.removed.contains(&me));
        let links = &mut self.hosts[from].up.as_mut().expect("the caller looked").links;
        let link = links.entry(id).or_default();
        if !cut {
            link.cut_since_ns = None;
        }
        let lost = link.up && (!there || link.life != life);
        let silent = link.up && cut && *link.cut_since_ns.get_or_insert(now_ns) + NOTICED_NS <= now_ns;
        if lost || silent {
            link.up = false;
            return self.tell(from, Event::Link { id, up: false });
        }
        if link.up || cut || !there {
            return;
        }
        if refuses {
            return self.tell_removed(from, to);
        }
        (link.up, link.life) = (true, life);
        // What members say when they shake hands.
        let greeting = Event::Greeted {
            id,
            entry_kinds: ENTRY_KINDS,
            etcd_version: ETCD_VERSION.to_owned(),
        };
        self.tell(from, greeting);
        self.tell(from, Event::Link { id, up: true });
    }
}
