//! A disk that stops taking the log's writes, without an error.
//!
//! A write that is under way for an election time-out, and for a second at least, makes the member hold back: disks take a
//! tenth of a second now and then, and meanwhile the others' disks commit. A leader hands leadership to the voter
//! that is furthest, and if nobody takes it within an election time-out, it steps down, so that the others elect. Until
//! the write ends the member does not campaign and calls itself unhealthy, and while it still leads it refuses
//! proposals. It goes on replicating and applying what the others have committed. When the disk is back, it is a
//! follower as any.
//!
//! Time counts in ticks that this member saw pass, one a turn: after a pause nothing is held against the disk.

use raft::mutant;
use storage::wal::{AppendToken, Space};

use super::{Engine, MemberOptions};

/// No write that is under way for less is held against the disk. Units: nanoseconds.
///
/// Source: etcd's default election time-out (flags table).
const STALL_NS_MIN: u64 = 1_000_000_000;

impl MemberOptions {
    /// For how long the log's disk may take a write. Units: ticks.
    fn stall_ticks(&self) -> u32 {
        let min = u32::try_from(STALL_NS_MIN.div_ceil(self.tick_ns)).unwrap_or(u32::MAX);
        self.election_ticks.max(min)
    }
}

/// How long the oldest write has been under way.
#[derive(Debug, Default)]
pub(super) struct Stall {
    oldest: Option<AppendToken>,
    ticks: u32,
    stalled: bool,
}

impl Stall {
    /// Whether the member holds back.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }
}

impl Engine {
    /// Looks at the oldest write. `ticked`: a tick has passed since the last turn.
    pub(super) fn watch_log(&mut self, ticked: bool) {
        // Without space nothing is written: the alarm tells of that.
        let is_full = matches!(self.wal.space(), Space::Exhausted(_));
        // Those that are durable wait for a snapshot to be read, not for the disk.
        let mut pending = self.appends.iter().filter(|(_, _, since)| since.is_some());
        let oldest = pending.next().map(|(token, ..)| *token).filter(|_| !is_full);
        if oldest.is_none() || oldest != self.stall.oldest {
            self.stall.oldest = oldest;
            self.stall.ticks = 0;
            if std::mem::take(&mut self.stall.stalled) {
                tracing::info!("the disk takes the log's writes again");
                self.member.raft.hold_back(self.refill.is_some());
                self.dirty = true;
            }
            return;
        }
        self.stall.ticks += u32::from(ticked);
        if self.stall.ticks > self.member.options.stall_ticks() && !self.stall.stalled {
            let leads = self.member.raft.is_leader();
            tracing::error!(
                leads,
                ticks = self.stall.ticks,
                "the disk has not taken a write of the log for too long; this member holds back until it does"
            );
            self.stall.stalled = true;
            self.dirty = true;
            if mutant::on("stalled_leader_stays") {
                return;
            }
            self.member.raft.hold_back(true);
            self.member.resign();
        }
    }
}
