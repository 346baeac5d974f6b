//! Bodies of HTTP/1.1 answers: whole, or fed piece by piece by a task of the same executor.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The body of an answer.
pub struct Http1Body(Kind);

enum Kind {
    Whole(Bytes),
    Pieces(Rc<RefCell<Pipe>>),
}

/// Feeds a body made by [`body_channel`]; the body ends when this is dropped.
pub struct BodySender {
    pipe: Rc<RefCell<Pipe>>,
    bytes_max: usize,
}

#[derive(Default)]
struct Pipe {
    pieces: std::collections::VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
    /// The connection is gone: nobody reads any more.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Makes a body that is fed while it is sent; [`BodySender::ready`] waits while `bytes_max` or more are queued.
pub fn body_channel(bytes_max: usize) -> (BodySender, Http1Body) {
    let pipe = Rc::new(RefCell::new(Pipe::default()));
    (
        BodySender {
            pipe: Rc::clone(&pipe),
            bytes_max,
        },
        Http1Body(Kind::Pieces(pipe)),
    )
}

impl From<Bytes> for Http1Body {
    fn from(bytes: Bytes) -> Self {
        Http1Body(Kind::Whole(bytes))
    }
}

impl From<String> for Http1Body {
    fn from(text: String) -> Self {
        Http1Body(Kind::Whole(text.into()))
    }
}

impl From<&'static str> for Http1Body {
    fn from(text: &'static str) -> Self {
        Http1Body(Kind::Whole(Bytes::from_static(text.as_bytes())))
    }
}

impl BodySender {
    /// Queues a piece; returns false when the connection is gone.
    pub fn send(&self, piece: Bytes) -> bool {
        let mut pipe = self.pipe.borrow_mut();
        if pipe.abandoned {
            return false;
        }
        if !piece.is_empty() {
            pipe.bytes += piece.len();
            pipe.pieces.push_back(piece);
        }
        wake(pipe.reader.take());
        true
    }

    /// Waits until there is room; returns false when the connection is gone.
    pub async fn ready(&self) -> bool {
        poll_fn(|cx| {
            let mut pipe = self.pipe.borrow_mut();
            if pipe.abandoned || pipe.bytes < self.bytes_max {
                return Poll::Ready(!pipe.abandoned);
            }
            pipe.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        let mut pipe = self.pipe.borrow_mut();
        pipe.ended = true;
        wake(pipe.reader.take());
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        if let Kind::Pieces(pipe) = &self.0 {
            let mut pipe = pipe.borrow_mut();
            pipe.abandoned = true;
            wake(pipe.writer.take());
        }
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let pipe = match &mut self.get_mut().0 {
            Kind::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Kind::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Pieces(pipe) => pipe,
        };
        let mut pipe = pipe.borrow_mut();
        if let Some(piece) = pipe.pieces.pop_front() {
            pipe.bytes -= piece.len();
            wake(pipe.writer.take());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if pipe.ended {
            return Poll::Ready(None);
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Pieces(pipe) => pipe.borrow().ended && pipe.borrow().pieces.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Pieces(_) => SizeHint::default(),
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
