//! A bell between tasks of one executor: rung any number of times, heard once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// The bell; one task listens.
#[derive(Default)]
pub(super) struct Notify {
    rung: Cell<bool>,
    listener: RefCell<Option<Waker>>,
}

impl Notify {
    /// Rings; the listener runs after the tasks that are ready now.
    pub(super) fn ring(&self) {
        if !self.rung.replace(true)
            && let Some(waker) = self.listener.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Waits until it is rung, and silences it.
    pub(super) async fn heard(&self) {
        poll_fn(|cx| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            let mut listener = self.listener.borrow_mut();
            if !listener.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *listener = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
