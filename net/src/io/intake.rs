//! The door of a shard: other threads put accepted sockets in, a task of the shard takes them out.

use super::listen::Accepted;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

/// A handle by which any thread gives connections to one shard.
#[derive(Clone)]
pub struct Intake {
    shared: Arc<Shared>,
}

struct Shared {
    /// Connections given and not yet closed.
    load: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Accepted>,
    waker: Option<Waker>,
    closed: bool,
}

impl Intake {
    pub(super) fn new() -> Intake {
        Intake {
            shared: Arc::new(Shared {
                load: AtomicUsize::new(0),
                state: Mutex::new(State::default()),
            }),
        }
    }

    /// Connections of the shard, those not yet taken in included.
    pub fn load(&self) -> usize {
        self.shared.load.load(Ordering::Relaxed)
    }

    /// Gives a connection to the shard; it is closed when the shard is shutting down.
    pub fn hand_over(&self, accepted: Accepted) {
        let mut state = self.shared.state.lock().expect(LOCK_INVARIANT);
        if state.closed {
            return;
        }
        self.enter();
        state.waiting.push(accepted);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Counts a connection that the shard has got.
    pub(super) fn enter(&self) {
        self.shared.load.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection as closed.
    pub(super) fn leave(&self) {
        self.shared.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits for connections and takes them all; `None` once closed.
    pub(super) async fn take(&self) -> Option<Vec<Accepted>> {
        poll_fn(|cx| {
            let mut state = self.shared.state.lock().expect(LOCK_INVARIANT);
            if state.closed {
                return Poll::Ready(None);
            }
            if !state.waiting.is_empty() {
                return Poll::Ready(Some(std::mem::take(&mut state.waiting)));
            }
            state.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Closes the door; connections not yet taken are closed.
    pub(super) fn close(&self) {
        let mut state = self.shared.state.lock().expect(LOCK_INVARIANT);
        state.closed = true;
        let (waiting, waker) = (std::mem::take(&mut state.waiting), state.waker.take());
        drop(state);
        self.shared.load.fetch_sub(waiting.len(), Ordering::Relaxed);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

const LOCK_INVARIANT: &str = "no code that can panic runs while the intake is locked";
