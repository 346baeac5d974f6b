//! A value that is left for a task of the same executor.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Poll, Waker},
};

/// Where a value is left for whoever awaits it. Clones are the same place.
#[derive(Debug)]
pub struct Promise<T>(Rc<RefCell<State<T>>>);

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Promise(self.0.clone())
    }
}

impl<T> Default for Promise<T> {
    fn default() -> Self {
        Promise(Rc::new(RefCell::new(State {
            value: None,
            waker: None,
        })))
    }
}

impl<T> Promise<T> {
    /// Leaves the value.
    pub fn give(&self, value: T) {
        let mut state = self.0.borrow_mut();
        state.value = Some(value);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Waits for the value.
    pub async fn wait(self) -> T {
        std::future::poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            match state.value.take() {
                Some(value) => Poll::Ready(value),
                None => {
                    state.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether this is the last clone: nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}
