//! A bell within one executor: many ring, one waits; rings while nobody waits are heard by the next to wait, once.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// The bell; clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub struct Bell {
    inner: Rc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        if !self.inner.rung.replace(true)
            && let Some(waker) = self.inner.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Ready when it was rung since the last time.
    pub fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.rung.replace(false) {
            return Poll::Ready(());
        }
        *self.inner.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits for a ring.
    pub async fn rung(&self) {
        std::future::poll_fn(|cx| self.poll_rung(cx)).await;
    }
}
