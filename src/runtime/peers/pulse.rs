//! Signs of life on a connection between members.
//!
//! The kernels at both ends of a connection may be well while what lies between them has forgotten it or swallows its
//! bytes: a proxy, a firewall, an address translation. So who dialled says something at every beat, is answered, and
//! either side ends a connection that was silent for [`SILENT_BEATS_MAX`] of them. Source: etcd's `linkHeartbeatMessage`
//! and `ConnReadTimeout`, 5 s.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use glommio::timer::Timer;

/// Time between two signs of life.
const BEAT: Duration = Duration::from_millis(1250);
/// Beats without a sign of life after which a connection is given up.
const SILENT_BEATS_MAX: u32 = 4;

/// Counts beats in silence. A beat is counted only while somebody waits: who was stopped or busy for long hears first what
/// has come meanwhile.
pub struct Pulse {
    timer: Timer,
    silent_beats: u32,
}

impl Pulse {
    /// The first beat is one interval away.
    pub fn new() -> Pulse {
        Pulse {
            timer: Timer::new(BEAT),
            silent_beats: 0,
        }
    }

    /// The other side has said something.
    pub fn heard(&mut self) {
        self.silent_beats = 0;
    }

    /// Ready at a beat; an error when too many went by in silence.
    pub fn poll_beat(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.timer).poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.timer = Timer::new(BEAT);
        self.silent_beats += 1;
        Poll::Ready(match self.silent_beats {
            0..=SILENT_BEATS_MAX => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nothing was heard of it for 5 s",
            )),
        })
    }
}
