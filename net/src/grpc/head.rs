//! What the headers of a request say.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Code, Status, gzip};
use crate::h2::Headers;

/// The head of a gRPC request; a clone is one reference count.
#[derive(Clone, Debug)]
pub struct RequestHead {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    headers: Arc<Headers>,
    path: Range<usize>,
    timeout: Option<Duration>,
    is_gzip: bool,
}

impl RequestHead {
    /// The path, `/package.Service/Method`.
    pub fn path(&self) -> &str {
        text(self.inner.headers.bytes_at(self.inner.path.clone()))
    }

    /// What `grpc-timeout` allows, from the moment the request arrived.
    pub fn timeout(&self) -> Option<Duration> {
        self.inner.timeout
    }

    /// Whether the messages of the call may be compressed.
    pub(super) fn is_gzip(&self) -> bool {
        self.inner.is_gzip
    }

    /// The `:authority`, or else the `host`; empty when the client sent none.
    pub fn authority(&self) -> &str {
        authority(&self.inner.headers)
    }

    /// The first value of that metadata, whose name is in lower case, as it stood on the wire.
    pub fn metadata(&self, name: &str) -> Option<&[u8]> {
        self.inner.headers.get(name)
    }

    /// The first value of `-bin` metadata, decoded from base64.
    pub fn metadata_bin(&self, name: &str) -> Option<Vec<u8>> {
        self.inner.headers.get(name).and_then(decode_base64)
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
        text(self.headers.get(":method").unwrap_or_default())
    }

    /// The path with its query.
    pub fn path(&self) -> &str {
        text(self.headers.get(":path").unwrap_or_default())
    }

    /// The `:authority`, or else the `host`; empty when the client sent none.
    pub fn authority(&self) -> &str {
        authority(&self.headers)
    }

    /// The first value of that header, whose name is in lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name)
    }

    /// All header fields, pseudo-headers included, in the order sent.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }
}

fn authority(headers: &Headers) -> &str {
    text(
        headers
            .get(":authority")
            .or_else(|| headers.get("host"))
            .unwrap_or_default(),
    )
}

/// Header values are octets; those that are no text count as empty, which no path or name matches.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or_default()
}

/// What kind of request a header list is.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Grpc(RequestHead),
    Http(HttpHead),
    /// A gRPC request that is answered without any handler, with that HTTP status.
    Refused {
        http_status: &'static str,
        status: Status,
        accept_encoding: bool,
    },
}

/// Reads a request's headers, with the checks and texts of grpc-go's `operateHeaders`.
pub(super) fn read(headers: Arc<Headers>) -> Request {
    let mut path = 0..0;
    let (mut method, mut content_type, mut timeout, mut encoding) = (&b""[..], &b""[..], None, &b""[..]);
    let mut end = 0;
    for (name, value) in headers.iter() {
        end += name.len() + value.len();
        match name {
            b":path" => path = end - value.len()..end,
            b":method" => method = value,
            b"content-type" => content_type = value,
            b"grpc-timeout" => timeout = Some(value),
            b"grpc-encoding" => encoding = value,
            _ => {}
        }
    }
    let Some(subtype) = content_type.strip_prefix(b"application/grpc") else {
        return Request::Http(HttpHead { headers });
    };
    let refused = |http_status, code, message: String| Request::Refused {
        http_status,
        status: Status::new(code, message),
        accept_encoding: false,
    };
    if !matches!(subtype.first(), None | Some(b'+' | b';')) {
        let message = format!(
            "invalid gRPC request content-type {:?}",
            String::from_utf8_lossy(content_type)
        );
        return refused("415", Code::InvalidArgument, message);
    }
    let timeout = match timeout.map(parse_timeout).transpose() {
        Ok(timeout) => timeout,
        Err(problem) => return refused("400", Code::Internal, format!("malformed grpc-timeout: {problem}")),
    };
    if method != b"POST" {
        let method = String::from_utf8_lossy(method);
        let message = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return refused("405", Code::Internal, message);
    }
    let is_gzip = encoding == gzip::NAME;
    if !is_gzip && !matches!(encoding, b"" | b"identity") {
        let encoding = String::from_utf8_lossy(encoding);
        let message = format!("grpc: Decompressor is not installed for grpc-encoding {encoding:?}");
        let status = Status::new(Code::Unimplemented, message);
        return Request::Refused {
            http_status: "200",
            status,
            accept_encoding: true,
        };
    }
    Request::Grpc(RequestHead {
        inner: Arc::new(Inner {
            headers,
            path,
            timeout,
            is_gzip,
        }),
    })
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
///
/// Errors: the texts of grpc-go's `decodeTimeout`.
/// Source: gRPC over HTTP2, "Timeout".
pub(super) fn parse_timeout(value: &[u8]) -> Result<Duration, String> {
    let shown = || String::from_utf8_lossy(value).into_owned();
    let (digits, unit) = match value {
        [digits @ .., unit] if (1..=8).contains(&digits.len()) => (digits, *unit),
        [] | [_] => return Err(format!("transport: timeout string is too short: {:?}", shown())),
        _ => return Err(format!("transport: timeout string is too long: {:?}", shown())),
    };
    let of: fn(u64) -> Duration = match unit {
        b'H' => |n| Duration::from_secs(n * 3600),
        b'M' => |n| Duration::from_secs(n * 60),
        b'S' => Duration::from_secs,
        b'm' => Duration::from_millis,
        b'u' => Duration::from_micros,
        b'n' => Duration::from_nanos,
        _ => return Err(format!("transport: timeout unit is not recognized: {:?}", shown())),
    };
    let mut number = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            let digits = String::from_utf8_lossy(digits);
            return Err(format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"));
        }
        number = number * 10 + (digit - b'0') as u64;
    }
    Ok(of(number))
}

/// Decodes base64 with or without padding, as `-bin` metadata is sent.
fn decode_base64(value: &[u8]) -> Option<Vec<u8>> {
    let value = match value {
        [head @ .., b'=', b'='] | [head @ .., b'='] => head,
        all => all,
    };
    let mut out = Vec::with_capacity(value.len() * 3 / 4);
    for group in value.chunks(4) {
        let mut bits: u32 = 0;
        for &symbol in group {
            let digit = match symbol {
                b'A'..=b'Z' => symbol - b'A',
                b'a'..=b'z' => symbol - b'a' + 26,
                b'0'..=b'9' => symbol - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | digit as u32;
        }
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        match group.len() {
            4 => out.extend_from_slice(&bytes[1..4]),
            3 => out.extend_from_slice(&bytes[1..3]),
            2 => out.push(bytes[1]),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request {
        let mut headers = Headers::default();
        for (name, value) in [(":method", "POST"), (":path", "/etcdserverpb.KV/Put")]
            .iter()
            .chain(fields)
        {
            headers.push(name.as_bytes(), value.as_bytes());
        }
        read(Arc::new(headers))
    }

    fn refusal(fields: &[(&str, &str)]) -> (&'static str, Code, String) {
        match request(fields) {
            Request::Refused {
                http_status, status, ..
            } => (http_status, status.code, status.message.into_owned()),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_grpc_by_its_content_type() {
        for content_type in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
        ] {
            assert!(
                matches!(request(&[("content-type", content_type)]), Request::Grpc(_)),
                "{content_type}"
            );
        }
        assert!(matches!(request(&[]), Request::Http(_)));
        assert!(matches!(
            request(&[("content-type", "application/json")]),
            Request::Http(_)
        ));
        assert_eq!(
            refusal(&[("content-type", "application/grpc-web")]),
            (
                "415",
                Code::InvalidArgument,
                "invalid gRPC request content-type \"application/grpc-web\"".into()
            )
        );
    }

    #[test]
    fn a_head_gives_path_timeout_authority_and_metadata() {
        let fields = [
            (":authority", "a:2379"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "250m"),
            ("token", "t.1"),
            ("trace-bin", "AQID"),
        ];
        let Request::Grpc(head) = request(&fields) else {
            panic!("refused")
        };
        assert_eq!(head.path(), "/etcdserverpb.KV/Put");
        assert_eq!(head.timeout(), Some(Duration::from_millis(250)));
        assert_eq!(head.authority(), "a:2379");
        assert_eq!(head.metadata("token"), Some(&b"t.1"[..]));
        assert_eq!(head.metadata_bin("trace-bin"), Some(vec![1, 2, 3]));
        assert_eq!(head.metadata("hasleader"), None);
    }

    #[test]
    fn gzip_is_known_and_another_compression_is_unimplemented() {
        let grpc = ("content-type", "application/grpc");
        assert_eq!(
            refusal(&[grpc, ("grpc-encoding", "snappy")]),
            (
                "200",
                Code::Unimplemented,
                "grpc: Decompressor is not installed for grpc-encoding \"snappy\"".into()
            )
        );
        for (encoding, is_gzip) in [("gzip", true), ("identity", false), ("", false)] {
            let Request::Grpc(head) = request(&[grpc, ("grpc-encoding", encoding)]) else {
                panic!("{encoding:?} is refused")
            };
            assert_eq!(head.is_gzip(), is_gzip, "{encoding:?}");
        }
    }

    #[test]
    fn timeouts_are_read_in_every_unit() {
        assert_eq!(parse_timeout(b"1H"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_timeout(b"2M"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_timeout(b"3S"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_timeout(b"4999834u"), Ok(Duration::from_micros(4_999_834)));
        assert_eq!(parse_timeout(b"99999999n"), Ok(Duration::from_nanos(99_999_999)));
        assert_eq!(parse_timeout(b"0m"), Ok(Duration::ZERO));
    }

    #[test]
    fn broken_timeouts_give_the_texts_of_grpc_go() {
        let text = |value: &str| parse_timeout(value.as_bytes()).unwrap_err();
        assert_eq!(text("S"), "transport: timeout string is too short: \"S\"");
        assert_eq!(
            text("123456789S"),
            "transport: timeout string is too long: \"123456789S\""
        );
        assert_eq!(text("1x"), "transport: timeout unit is not recognized: \"1x\"");
        assert_eq!(text("-1S"), "strconv.ParseUint: parsing \"-1\": invalid syntax");
    }

    #[test]
    fn base64_comes_with_and_without_padding() {
        assert_eq!(decode_base64(b"AQI="), Some(vec![1, 2]));
        assert_eq!(decode_base64(b"AQI"), Some(vec![1, 2]));
        assert_eq!(decode_base64(b"AQ=="), Some(vec![1]));
        assert_eq!(decode_base64(b""), Some(vec![]));
        assert_eq!(decode_base64(b"A"), None);
        assert_eq!(decode_base64(b"A*=="), None);
    }
}
