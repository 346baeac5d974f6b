//! The hop between executors: many producers, one consumer, whole batches at a time.
//!
//! ```text
//!  producers (any thread) ──lock, push──► Vec<T> ──lock, swap──► consumer (one task on one executor)
//!                           └─ wake, only when the consumer sleeps
//! ```
//!
//! The contract:
//! - Messages of one producer arrive in the order they were sent; a batch arrives whole and in order.
//! - The consumer takes everything there is at once, so under load one wake-up pays for many messages.
//! - A send to a consumer that is awake is a lock and a push. A send to one that waits on the same executor schedules its
//!   task, without a system call. Only a consumer whose executor is parked costs an eventfd write, made by glommio's waker.
//! - A sender never waits. [`Sender::try_send`] respects the bound and is for new work; [`Sender::send`] does not, and is
//!   for answers, whose number is bounded by the work that was let in.
//!
//! A registered waker is taken out before it is used. So at most one wake per wait is ever queued at an executor, whose
//! wakers count their references in 16 bits.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Makes a mailbox and returns its two ends.
///
/// Bounds: `capacity` messages for [`Sender::try_send`] and [`Sender::try_send_batch`]; at least 1.
pub fn mailbox<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a mailbox without room can never pass a message");
    let state = State {
        queue: Vec::new(),
        waker: None,
        senders: 1,
        receiver_alive: true,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        capacity,
    });
    (
        Sender {
            shared: Arc::clone(&shared),
        },
        Receiver { shared },
    )
}

/// The producing end; clones feed the same consumer from any thread.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The consuming end, for one task.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// Why a message was not taken; it comes back to the caller.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The consumer is behind by the whole capacity: refuse the work ("too many requests") or try later.
    #[error("the mailbox is full: its consumer is behind; refuse the work or try again later")]
    Full(T),
    /// The consumer is gone: nothing sent here will ever be read.
    #[error("the mailbox is closed: its consumer has ended")]
    Closed(T),
}

/// The consumer is gone: nothing sent here will ever be read.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the mailbox is closed: its consumer has ended")]
pub struct Closed;

struct Shared<T> {
    state: Mutex<State<T>>,
    capacity: usize,
}

struct State<T> {
    queue: Vec<T>,
    /// Set only while the consumer waits.
    waker: Option<Waker>,
    senders: usize,
    receiver_alive: bool,
}

impl<T> Sender<T> {
    /// Sends one message whatever the bound: for answers to work that was let in.
    ///
    /// Errors: [`Closed`] when the consumer is gone; the message is dropped.
    pub fn send(&self, message: T) -> Result<(), Closed> {
        let mut state = self.shared.lock();
        if !state.receiver_alive {
            return Err(Closed);
        }
        state.queue.push(message);
        wake(state);
        Ok(())
    }

    /// Sends all messages whatever the bound and leaves `batch` empty, its allocation kept for the next turn.
    ///
    /// Errors: [`Closed`] when the consumer is gone; `batch` is then untouched.
    pub fn send_batch(&self, batch: &mut Vec<T>) -> Result<(), Closed> {
        let mut state = self.shared.lock();
        if !state.receiver_alive {
            return Err(Closed);
        }
        if batch.is_empty() {
            return Ok(());
        }
        take_over(&mut state.queue, batch);
        wake(state);
        Ok(())
    }

    /// Sends one message if there is room.
    ///
    /// Errors: [`TrySendError`] with the message.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut state = self.shared.lock();
        if !state.receiver_alive {
            return Err(TrySendError::Closed(message));
        }
        if state.queue.len() >= self.shared.capacity {
            return Err(TrySendError::Full(message));
        }
        state.queue.push(message);
        wake(state);
        Ok(())
    }

    /// Sends as many messages from the front of `batch` as there is room for; the rest stays in `batch`.
    ///
    /// Errors: [`TrySendError::Full`] when messages stayed behind, [`TrySendError::Closed`] when the consumer is gone.
    pub fn try_send_batch(&self, batch: &mut Vec<T>) -> Result<(), TrySendError<()>> {
        let mut state = self.shared.lock();
        if !state.receiver_alive {
            return Err(TrySendError::Closed(()));
        }
        let room = self.shared.capacity.saturating_sub(state.queue.len());
        if batch.len() <= room {
            if !batch.is_empty() {
                take_over(&mut state.queue, batch);
                wake(state);
            }
            return Ok(());
        }
        if room > 0 {
            state.queue.extend(batch.drain(..room));
            wake(state);
        }
        Err(TrySendError::Full(()))
    }

    /// How many messages wait to be read.
    pub fn queued(&self) -> usize {
        self.shared.lock().queue.len()
    }

    /// Whether the consumer is gone.
    pub fn is_closed(&self) -> bool {
        !self.shared.lock().receiver_alive
    }
}

impl<T> Receiver<T> {
    /// Waits for messages, appends all there are to `into` and returns how many; 0 means that every sender is gone.
    pub async fn recv_batch(&mut self, into: &mut Vec<T>) -> usize {
        poll_fn(|cx| self.poll_recv_batch(cx, into)).await
    }

    /// The polling form of [`Receiver::recv_batch`].
    pub fn poll_recv_batch(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>) -> Poll<usize> {
        let mut state = self.shared.lock();
        let count = state.queue.len();
        if count > 0 || state.senders == 0 {
            take_over(into, &mut state.queue);
            return Poll::Ready(count);
        }
        let registered = state.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()));
        if !registered {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Appends what there is to `into` without waiting and returns how many.
    pub fn try_recv_batch(&mut self, into: &mut Vec<T>) -> usize {
        let mut state = self.shared.lock();
        let count = state.queue.len();
        take_over(into, &mut state.queue);
        count
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Sender {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        if state.senders == 0 {
            wake(state);
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver_alive = false;
        // Dropped here, on the consumer's own executor, and the messages outside the lock: their drop may send.
        let waker = state.waker.take();
        let unread = std::mem::take(&mut state.queue);
        drop(state);
        drop((waker, unread));
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state
            .lock()
            .expect("no code that can panic runs while the mailbox is locked")
    }
}

/// Moves all of `from` behind `to`; swaps the allocations when that saves the copy.
fn take_over<T>(to: &mut Vec<T>, from: &mut Vec<T>) {
    if to.is_empty() {
        std::mem::swap(to, from);
    } else {
        to.append(from);
    }
}

/// Wakes the consumer if it waits, after the lock is released, since waking may write to an eventfd.
fn wake<T>(mut state: MutexGuard<'_, State<T>>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
