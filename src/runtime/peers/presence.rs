//! Whose process has ended, as told by its kernel: both connections with it have ended, and nobody listens where it did.
//!
//! One sign alone proves little: connections are cut by networks, and a port is refused before a member starts. And what
//! a member sent last must have reached consensus before its end does, so the end of the connection it dialled counts too.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

/// What was seen of one member.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The newest connection that it dialled and that is open; 0: none.
    dialled: u64,
    /// It refused to be dialled after a connection to it had ended.
    refused: bool,
}

/// What was seen of the other members.
///
/// Bounds: holds nobody but members with an open connection and those whose last dial was refused.
#[derive(Debug, Default)]
pub struct Presence {
    of: RefCell<BTreeMap<u64, Seen>>,
    numbered: Cell<u64>,
}

impl Presence {
    /// A member has dialled; the number stands for the connection.
    pub fn came(&self, id: u64) -> u64 {
        let number = self.numbered.get() + 1;
        self.numbered.set(number);
        self.of.borrow_mut().entry(id).or_default().dialled = number;
        number
    }

    /// The connection ended, and all that came on it was passed on; whether that completes the member's end.
    pub fn went(&self, id: u64, number: u64) -> bool {
        // Of an older connection that the member gave up itself the end may come much later, or never.
        self.changed(id, |seen| {
            let newest = seen.dialled == number;
            if newest {
                seen.dialled = 0;
            }
            newest
        })
    }

    /// After a connection to it had ended, the member refused the next one; whether that completes its end.
    pub fn refused(&self, id: u64) -> bool {
        self.changed(id, |seen| !std::mem::replace(&mut seen.refused, true))
    }

    /// Dialling the member came to something else than a refusal.
    pub fn answered(&self, id: u64) {
        self.changed(id, |seen| std::mem::take(&mut seen.refused));
    }

    fn changed(&self, id: u64, change: impl Fn(&mut Seen) -> bool) -> bool {
        let mut of = self.of.borrow_mut();
        let seen = of.entry(id).or_default();
        let news = change(seen);
        let gone = seen.dialled == 0 && seen.refused;
        if seen.dialled == 0 && !seen.refused {
            of.remove(&id);
        }
        news && gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_gone_once_both_ways_have_ended_and_it_refuses() {
        let presence = Presence::default();
        let number = presence.came(7);
        assert!(!presence.refused(7), "what it sent may not have been read yet");
        assert!(presence.went(7, number));
        assert!(!presence.refused(7), "that is told once");

        presence.answered(7);
        let number = presence.came(7);
        assert!(!presence.went(7, number), "its way to here may be cut");
        assert!(presence.refused(7));
    }

    #[test]
    fn a_member_that_was_reached_again_is_not_gone() {
        let presence = Presence::default();
        let number = presence.came(7);
        presence.refused(7);
        presence.answered(7);
        assert!(!presence.went(7, number));
    }

    #[test]
    fn an_older_connection_neither_ends_a_member_nor_keeps_it() {
        let presence = Presence::default();
        let (older, newer) = (presence.came(7), presence.came(7));
        presence.refused(7);
        assert!(!presence.went(7, older));
        assert!(presence.went(7, newer), "the older one may never end");
        assert!(!presence.went(7, older));
    }

    #[test]
    fn nothing_is_kept_of_members_that_are_well_away() {
        let presence = Presence::default();
        for id in 1..100 {
            let number = presence.came(id);
            presence.went(id, number);
            presence.answered(id);
        }
        assert!(presence.of.borrow().is_empty());
    }
}
