//! How long work may run before it lets timers and I/O have the executor.
//!
//! The executor polls I/O and timers only when its queues run dry or its 100 ms timer fires, so a long loop measures its
//! turn and breathes when it is spent:
//!
//! ```ignore
//! let mut turn = Turn::new();
//! for piece in pieces {
//!     turn.add_bytes(emit(piece));
//!     if turn.spent() {
//!         breathe().await;
//!         turn = Turn::new();
//!     }
//! }
//! ```

use std::time::{Duration, Instant};

/// The longest a task may hold the executor.
pub const TURN_MAX: Duration = Duration::from_millis(1);

/// The most output one turn may produce.
pub const TURN_BYTES_MAX: u64 = 1 << 20;

/// Lets timers and I/O of this executor run before the caller goes on.
///
/// A sleep, not a yield: beside tasks that yield, a timer of 1 ms fired after 100 ms or never; beside tasks that sleep
/// for a microsecond it fires in time. It costs about 30 µs, so it is for long work only.
pub async fn breathe() {
    glommio::timer::sleep(Duration::from_micros(1)).await;
}

/// Runs `work`, then waits for as long as the named points it reached are armed to: beside everything else on this
/// executor, which a point that sleeps itself would hold up.
pub async fn with_points<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(feature = "failpoints")]
    {
        let (result, delay) = storage::failpoint::collect_delays(work);
        if !delay.is_zero() {
            glommio::timer::sleep(delay).await;
        }
        result
    }
    #[cfg(not(feature = "failpoints"))]
    work()
}

/// The budget of one turn of long work: time and bytes.
#[derive(Debug, Clone)]
pub struct Turn {
    deadline: Instant,
    bytes_left: u64,
}

impl Turn {
    /// A turn of [`TURN_MAX`] and [`TURN_BYTES_MAX`] that begins now.
    pub fn new() -> Turn {
        Turn::with(TURN_MAX, TURN_BYTES_MAX)
    }

    /// A turn that begins now, with its own limits.
    pub fn with(time_max: Duration, bytes_max: u64) -> Turn {
        Turn {
            deadline: Instant::now() + time_max,
            bytes_left: bytes_max,
        }
    }

    /// Charges bytes that the turn has produced or copied.
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }

    /// Whether it is time to breathe; reads the clock, about 25 ns.
    pub fn spent(&self) -> bool {
        self.bytes_left == 0 || Instant::now() >= self.deadline
    }
}

impl Default for Turn {
    fn default() -> Self {
        Turn::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glommio::LocalExecutorBuilder;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn a_timer_of_one_millisecond_fires_beside_a_long_loop_that_breathes() {
        const TURNS: u32 = 300;
        let executor = LocalExecutorBuilder::default()
            .io_memory(64 << 10)
            .make()
            .expect("an executor");
        executor.run(async {
            let fired = Rc::new(Cell::new(0_u32));
            let timer_fired = Rc::clone(&fired);
            glommio::spawn_local(async move {
                loop {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                    timer_fired.set(timer_fired.get() + 1);
                }
            })
            .detach();
            let mut work = 0_u64;
            for _ in 0..TURNS {
                let turn = Turn::new();
                while !turn.spent() {
                    work = std::hint::black_box(work.wrapping_mul(31) + 1);
                }
                breathe().await;
            }
            // A turn is at least as long as the timer, so every breath finds it due, on a busy machine too. Without
            // breathing it would fire once in 100 turns.
            let fired = fired.get();
            assert!(fired >= TURNS / 4, "the timer fired {fired} times in {TURNS} turns");
        });
    }

    #[test]
    fn a_turn_ends_by_bytes_or_by_time() {
        let mut turn = Turn::with(Duration::from_secs(3600), 100);
        turn.add_bytes(99);
        assert!(!turn.spent());
        turn.add_bytes(u64::MAX);
        assert!(turn.spent());
        let turn = Turn::with(Duration::ZERO, 100);
        assert!(turn.spent());
    }
}
