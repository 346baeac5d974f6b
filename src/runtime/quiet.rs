//! Whether an executor has so little to do that its core may spin for the disk.

use std::time::Duration;

use super::now_ns;

/// Looks back from one question to the next.
#[derive(Debug, Default)]
pub struct Quiet {
    asked_ns: u64,
    /// Of the time since then, spent in spinning.
    spun: Duration,
}

impl Quiet {
    /// Whether the executor worked for less than half of the time since this was asked the last time.
    pub fn is_quiet(&mut self) -> bool {
        let worked = glommio::executor().executor_stats().executor_runtime();
        let worked = worked.saturating_sub(std::mem::take(&mut self.spun));
        let passed = Duration::from_nanos(now_ns() - std::mem::replace(&mut self.asked_ns, now_ns()));
        2 * worked < passed
    }

    /// Runs `wait`, which is no work.
    pub fn spin<R>(&mut self, wait: impl FnOnce() -> R) -> R {
        let began_ns = now_ns();
        let result = wait();
        self.spun += Duration::from_nanos(now_ns() - began_ns);
        result
    }
}
