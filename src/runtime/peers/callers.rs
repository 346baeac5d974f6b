//! Who is connected to this member: each other member once, and only so many of those that are none.
//!
//! A member has one link to each other one. When a second connection comes in a member's name, it has given the first one up,
//! and the network has not told: the newer one takes its place, as in etcd. Who is not in the member list may be in it
//! soon, and is let in: a member that joins knows nobody. But anyone can invent an id, so only the newest
//! [`STRANGERS_MAX`] of them stay.
//!
//! Bounds: one connection of messages for each member, and [`STRANGERS_MAX`]. Snapshots come one at a time, whoever sends.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

/// Connected at once without being members: more than the members of any sane cluster, all of which are strangers to one
/// that has yet to hear of them.
const STRANGERS_MAX: usize = 32;
/// Between two lines that say that connections had to go. Units: nanoseconds.
const COMPLAIN_EVERY_NS: u64 = 10_000_000_000;

/// One connection.
struct Caller {
    number: u64,
    end: Box<dyn Fn()>,
}

/// Those who dialled this member and shook hands, by the ids they gave.
#[derive(Default)]
pub struct Callers {
    of: RefCell<BTreeMap<u64, Caller>>,
    /// Connections that were ended and not spoken of.
    untold: Cell<u64>,
    told_ns: Cell<Option<u64>>,
}

impl Callers {
    /// Lets in the connection with this number, which `end` would end, and ends the one that has to go for it.
    /// Numbers ascend.
    pub fn enter(&self, id: u64, number: u64, end: impl Fn() + 'static, is_member: impl Fn(u64) -> bool, now_ns: u64) {
        let end = Box::new(end);
        let older = self.of.borrow_mut().insert(id, Caller { number, end });
        if let Some(older) = older {
            let why = "a newer connection takes the place of a peer's older one, which is closed";
            return self.send_off(id, &older, why, now_ns);
        }
        if is_member(id) {
            return;
        }
        let mut of = self.of.borrow_mut();
        let strangers = of.iter().filter(|(id, _)| !is_member(**id));
        if strangers.clone().count() > STRANGERS_MAX {
            let oldest = strangers.map(|(id, caller)| (caller.number, *id)).min();
            let (_, oldest) = oldest.expect("there are strangers");
            let caller = of.remove(&oldest).expect("just seen");
            drop(of);
            let why =
                "too many that are not in the member list have connected as peers: the longest connected is closed";
            self.send_off(oldest, &caller, why, now_ns);
        }
    }

    /// The connection has ended.
    pub fn leave(&self, id: u64, number: u64) {
        let mut of = self.of.borrow_mut();
        if of.get(&id).is_some_and(|caller| caller.number == number) {
            of.remove(&id);
        }
    }

    fn send_off(&self, id: u64, caller: &Caller, why: &str, now_ns: u64) {
        (caller.end)();
        self.untold.set(self.untold.get() + 1);
        if self.told_ns.get().is_none_or(|told| now_ns >= told + COMPLAIN_EVERY_NS) {
            self.told_ns.set(Some(now_ns));
            tracing::warn!(peer = format!("{id:x}"), count = self.untold.take(), "{why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    /// Connections that note that they were ended.
    #[derive(Default)]
    struct Port {
        callers: Callers,
        ended: Rc<RefCell<Vec<u64>>>,
    }

    impl Port {
        /// Ids below ten are members'.
        fn enter(&self, id: u64, number: u64) {
            let ended = self.ended.clone();
            let end = move || ended.borrow_mut().push(number);
            self.callers.enter(id, number, end, |id| id < 10, 0);
        }
    }

    #[test]
    fn a_members_newest_connection_stays_and_the_older_one_does_not_take_it_along() {
        let port = Port::default();
        port.enter(7, 1);
        port.enter(8, 2);
        port.enter(7, 3);
        assert_eq!(*port.ended.borrow(), [1]);
        port.callers.leave(7, 1);
        port.enter(7, 4);
        assert_eq!(*port.ended.borrow(), [1, 3]);
        port.callers.leave(7, 4);
        port.enter(7, 5);
        assert_eq!(*port.ended.borrow(), [1, 3], "nobody had its place");
    }

    #[test]
    fn of_strangers_the_longest_connected_goes_and_members_never_do() {
        let port = Port::default();
        (1..10).for_each(|id| port.enter(id, id));
        let strangers = STRANGERS_MAX as u64;
        (100..100 + strangers).for_each(|id| port.enter(id, id));
        assert!(port.ended.borrow().is_empty());
        port.enter(99, 1000);
        port.enter(98, 1001);
        assert_eq!(*port.ended.borrow(), [100, 101]);
        port.callers.leave(102, 102);
        port.enter(97, 1002);
        assert_eq!(*port.ended.borrow(), [100, 101], "there was a place");
    }
}
