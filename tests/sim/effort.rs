//! What a run may cost: members have no reason to work all the time, so messages must not breed messages, nor turns
//! turns. A run in which they do would not end. It fails instead, with its seed: within the second in which time stopped
//! getting on, or at its end if it took too many turns in all. No real clock decides, so a replay fails alike.

use crate::{
    cluster::Cluster,
    history::{Check, ensure},
    weather::SEC,
};

/// Most events of one simulated second.
const EVENTS_MAX: u64 = 200_000;
/// Most turns of a member in a second, over a whole run.
const TURNS_MEAN_MAX: u64 = 2000;

/// The events of the second that runs.
#[derive(Default)]
pub struct Effort {
    second: u64,
    events: u64,
    turns_before: u64,
}

impl Cluster {
    /// Another event happens.
    pub fn count_event(&mut self) -> Check {
        let second = self.now_ns / SEC;
        if self.effort.second != second {
            let turns_before = self.counts.turns;
            self.effort = Effort {
                second,
                events: 0,
                turns_before,
            };
        }
        self.effort.events += 1;
        let busiest = self.effort.events.max(self.counts.busiest_second);
        self.counts.busiest_second = busiest;
        ensure!(
            busiest <= EVENTS_MAX,
            "{EVENTS_MAX} events in one second, {} of them turns: the members keep each other busy",
            self.counts.turns - self.effort.turns_before
        );
        Ok(())
    }

    /// After the whole run.
    pub fn check_effort(&self) -> Check {
        let seconds = self.now_ns / SEC * self.hosts.len() as u64;
        ensure!(
            self.counts.turns < TURNS_MEAN_MAX * seconds,
            "{} turns in {seconds} member seconds",
            self.counts.turns
        );
        Ok(())
    }
}
