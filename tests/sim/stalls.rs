//! A disk that stops taking the log's writes: who leads on it must hand over, or step down.
//!
//! A member that calls its disk stalled may lead for so much longer as a hand-over takes, in time that it saw pass.

use crate::{
    cluster::Cluster,
    history::{Check, ensure},
    host::Host,
};

/// A hand-over and a step down take an election time-out each; a client's wish for another heir one more.
const ELECTIONS_MAX: u64 = 4;
/// Of a pause a member makes up for so many ticks. Source: `Member::tick`.
const PAUSE_TICKS: u64 = 10;

/// A stall that goes on.
#[derive(Clone, Copy)]
pub struct StallSeen {
    clock_ns: u64,
    lasted_ns: u64,
}

impl Cluster {
    /// A member has had a turn.
    pub fn watch_stall(&mut self, index: usize) -> Check {
        let (tick_ns, election_ns) = (self.weather.tick_ns, Host::election_ns(&self.weather));
        let clock_ns = self.hosts[index].clock.read(self.now_ns);
        let up = self.hosts[index].up();
        let leads = up.engine.consensus().is_leader();
        let led = std::mem::replace(&mut up.led, leads);
        if !up.engine.view().is_stalled {
            up.stall = None;
            return Ok(());
        }
        let begins = up.stall.is_none();
        let seen = up.stall.get_or_insert(StallSeen { clock_ns, lasted_ns: 0 });
        seen.lasted_ns += (clock_ns - seen.clock_ns).min(PAUSE_TICKS * tick_ns);
        seen.clock_ns = clock_ns;
        let lasted_ns = seen.lasted_ns;
        if begins {
            *self.counts.events.entry("disk stalls noticed").or_default() += 1;
        }
        if led && !leads {
            *self
                .counts
                .events
                .entry("leadership given up for a stalled disk")
                .or_default() += 1;
            self.note(|| format!("m{index} has given up leadership, as its disk is stalled"));
        }
        ensure!(
            !leads || lasted_ns <= ELECTIONS_MAX * election_ns,
            "m{index} leads on a disk that it has called stalled for {} ms",
            lasted_ns / 1_000_000
        );
        Ok(())
    }
}
