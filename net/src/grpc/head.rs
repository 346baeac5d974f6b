//! What the headers of a request say.

use std::sync::Arc;
use std::time::Duration;

use crate::h2::Headers;

/// The head of a gRPC request; a clone is one reference count.
#[derive(Clone, Debug)]
pub struct RequestHead {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    headers: Arc<Headers>,
    timeout: Option<Duration>,
}

impl RequestHead {
    /// The path, `/package.Service/Method`.
    pub fn path(&self) -> &str {
        todo!()
    }

    /// What `grpc-timeout` allows, from the moment the request arrived.
    pub fn timeout(&self) -> Option<Duration> {
        self.inner.timeout
    }

    /// The `:authority`, or else the `host`; empty when the client sent none.
    pub fn authority(&self) -> &str {
        todo!()
    }

    /// The first value of that metadata, whose name is in lower case, as it stood on the wire.
    pub fn metadata(&self, name: &str) -> Option<&[u8]> {
        let _ = name;
        todo!()
    }

    /// The first value of `-bin` metadata, decoded from base64.
    pub fn metadata_bin(&self, name: &str) -> Option<Vec<u8>> {
        let _ = name;
        todo!()
    }

    /// All header fields, pseudo-headers included, in the order sent.
    pub fn headers(&self) -> &Headers {
        &self.inner.headers
    }
}

/// The head of a plain HTTP/2 request; a clone is one reference count.
#[derive(Clone, Debug)]
pub struct HttpHead {
    headers: Arc<Headers>,
}

impl HttpHead {
    /// The method, for example `GET`.
    pub fn method(&self) -> &str {
        todo!()
    }

    /// The path with its query.
    pub fn path(&self) -> &str {
        todo!()
    }

    /// The `:authority`, or else the `host`; empty when the client sent none.
    pub fn authority(&self) -> &str {
        todo!()
    }

    /// The first value of that header, whose name is in lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let _ = name;
        todo!()
    }

    /// All header fields, pseudo-headers included, in the order sent.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }
}
