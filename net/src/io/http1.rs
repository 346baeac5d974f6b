//! HTTP/1.1 on one connection, by hyper: gateway, health, metrics.
//!
//! A request is read whole, within the header timeout and the bound on bodies, before the application sees it. An answer
//! may be streamed.

use super::body::Http1Body;
use super::shard::{ConnInfo, Control};
use super::stream::Stream;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

/// A whole request.
#[derive(Debug)]
pub struct Http1Request {
    /// The connection it came on.
    pub conn: ConnInfo,
    /// The method.
    pub method: Method,
    /// Path and query, or what else stood in the request line.
    pub uri: Uri,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, at most as long as [`ShardLimits`](super::ShardLimits) allows.
    pub body: Bytes,
}

/// A response; `content-length` and `date` are added.
pub struct Http1Answer {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body; dropped unsent for HEAD.
    pub body: Http1Body,
}

/// A response, now or later.
pub enum Http1Reply {
    /// The response is ready.
    Now(Http1Answer),
    /// The response comes from a future, which is dropped when the client goes away.
    Later(Pin<Box<dyn Future<Output = Http1Answer>>>),
}

impl Http1Answer {
    /// A response of plain text, as Go's `http.Error` and most of etcd's handlers send it.
    pub fn text(status: StatusCode, text: impl Into<Http1Body>) -> Http1Answer {
        Http1Answer::typed(status, "text/plain; charset=utf-8", text)
    }

    /// A response of that content type.
    pub fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Http1Body>) -> Http1Answer {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        Http1Answer {
            status,
            headers,
            body: body.into(),
        }
    }
}

impl From<Http1Answer> for Http1Reply {
    fn from(answer: Http1Answer) -> Self {
        Http1Reply::Now(answer)
    }
}

/// Serves one connection until it ends; `prefix` was read from it already.
pub(super) async fn serve<F>(
    stream: Stream,
    prefix: Vec<u8>,
    info: ConnInfo,
    body_max: usize,
    control: Rc<Control>,
    app: F,
) where
    F: Fn(Http1Request) -> Http1Reply,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (app, control) = (&app, Rc::clone(&control));
        async move {
            let answer = match read_request(info, request, body_max).await {
                Ok(request) => {
                    control.answer_begins();
                    match app(request) {
                        Http1Reply::Now(answer) => answer,
                        Http1Reply::Later(future) => future.await,
                    }
                }
                Err(answer) => answer,
            };
            let mut response = Response::new(Counted {
                body: answer.body,
                control,
            });
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok::<_, Infallible>(response)
        }
    });
    let socket = HyperSocket {
        stream,
        prefix,
        prefix_used: 0,
    };
    let mut connection = pin!(http1::Builder::new().serve_connection(socket, service));
    let mut stopping = false;
    // An error is the peer's (bad request, reset); hyper has answered it where it could be answered.
    let _ = poll_fn(|cx| {
        control.register(cx);
        if control.is_aborted() {
            return Poll::Ready(Ok(()));
        }
        if control.is_stopping() && !stopping {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
}

async fn read_request(
    info: ConnInfo,
    request: Request<Incoming>,
    body_max: usize,
) -> Result<Http1Request, Http1Answer> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, body_max).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(Http1Answer::text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "http: request body too large\n",
            ));
        }
        Err(_) => {
            return Err(Http1Answer::text(
                StatusCode::BAD_REQUEST,
                "the request body cannot be read\n",
            ));
        }
    };
    Ok(Http1Request {
        conn: info,
        method: head.method,
        uri: head.uri,
        headers: head.headers,
        body,
    })
}

/// A body that tells when hyper has taken all of it.
struct Counted {
    body: Http1Body,
    control: Rc<Control>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.control.answer_ends();
    }
}

/// The socket as hyper wants it, with the bytes that told the protocol put back in front.
struct HyperSocket {
    stream: Stream,
    prefix: Vec<u8>,
    prefix_used: usize,
}

/// Units: bytes. Read at once; hyper hands out uninitialised memory, which safe code cannot read into, so the bytes pass
/// through a buffer on the stack.
const READ_BYTES: usize = 8 << 10;

impl hyper::rt::Read for HyperSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let left = &self.prefix[self.prefix_used..];
        if !left.is_empty() {
            let n = left.len().min(buf.remaining());
            buf.put_slice(&left[..n]);
            self.prefix_used += n;
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; READ_BYTES];
        let room = buf.remaining().min(READ_BYTES);
        let n = std::task::ready!(self.stream.poll_read(cx, &mut bytes[..room]))?;
        buf.put_slice(&bytes[..n]);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for HyperSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown_write())
    }
}
