//! The server's log: one line an event, written by a thread of its own so that a slow sink never blocks the caller.

use crate::config::Config;

/// Keeps the log open; dropping it writes what is queued and stops the writer.
#[must_use]
pub struct LogGuard {}

/// Installs the process-wide log.
pub fn start(_config: &Config) -> LogGuard {
    todo!()
}

impl LogGuard {
    /// Lines that were dropped because the sink was slower than the server, since the start.
    pub fn dropped_lines(&self) -> u64 {
        todo!()
    }
}
