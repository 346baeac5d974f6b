//! Named points in the code at which a test may end, delay or divert the member.
//!
//! They exist only in a build with the feature `failpoints`; without it [`failpoint!`](crate::failpoint!) is no code at
//! all. This module knows the places only. What happens at them is decided by the one handler that the program
//! installs; without one, nothing does.

#[cfg(feature = "failpoints")]
pub use points::{Handler, Reaction, collect_delays, hit, install, reach};

/// Marks a point: nothing, unless the build has the feature `failpoints` and the point is armed.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::hit($name)
    };
    (if $condition:expr => $name:literal else $other:literal) => {
        $crate::failpoint::hit(if $condition { $name } else { $other })
    };
}

/// Marks a point: nothing, unless the build has the feature `failpoints` and the point is armed.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        ()
    };
    (if $condition:expr => $name:literal else $other:literal) => {
        ()
    };
}

#[cfg(feature = "failpoints")]
mod points {
    use std::{cell::Cell, sync::OnceLock, time::Duration};

    /// What a point that was reached comes to.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Reaction {
        /// It is not armed.
        GoOn,
        /// Whoever reached it waits for this long.
        Delay(Duration),
        /// What stands behind it is left out, where that makes sense.
        Return,
    }

    /// Decides what a point comes to; it may also end the process.
    pub type Handler = fn(&'static str) -> Reaction;

    static HANDLER: OnceLock<Handler> = OnceLock::new();

    /// Installs the handler; only the first one counts.
    pub fn install(handler: Handler) {
        let _ = HANDLER.set(handler);
    }

    /// Says what the point comes to and leaves the waiting to the caller.
    pub fn reach(name: &'static str) -> Reaction {
        HANDLER.get().map_or(Reaction::GoOn, |handler| handler(name))
    }

    thread_local! {
        /// What [`collect_delays`] has gathered on this thread, while it runs.
        static OWED: Cell<Option<Duration>> = const { Cell::new(None) };
    }

    /// Reaches a point; a delay blocks this thread, unless somebody collects delays.
    pub fn hit(name: &'static str) {
        if let Reaction::Delay(time) = reach(name) {
            match OWED.get() {
                Some(owed) => OWED.set(Some(owed + time)),
                None => std::thread::sleep(time),
            }
        }
    }

    /// Runs `work` without waiting at the points it reaches; the sum of their delays, for the caller to wait without
    /// blocking what else runs on this thread.
    ///
    /// Order: as if `work` had waited at each point, as long as nothing of what it did is seen outside before.
    pub fn collect_delays<T>(work: impl FnOnce() -> T) -> (T, Duration) {
        OWED.set(Some(Duration::ZERO));
        let result = work();
        (result, OWED.take().unwrap_or_default())
    }
}
