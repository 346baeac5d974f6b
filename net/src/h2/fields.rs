//! What kind of message a header list is, and whether it is well-formed.
//!
//! Source: RFC 9113 sections 8.2 and 8.3.

use super::hpack::Headers;

/// What a header list turned out to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    /// A response with that status.
    Response(u16),
    /// A list without pseudo-headers.
    #[default]
    Trailers,
    Malformed,
}

/// What the connection needs to know of a header list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) content_length: Option<u64>,
}

#[derive(Default)]
struct Seen {
    method: bool,
    scheme: bool,
    path: bool,
    authority: bool,
    status: Option<u16>,
    regular: bool,
    content_length: Option<u64>,
}

/// Looks at every field once.
pub(crate) fn facts_of(headers: &Headers) -> Facts {
    const MALFORMED: Facts = Facts {
        kind: Kind::Malformed,
        content_length: None,
    };
    let mut seen = Seen::default();
    for (name, value) in headers.iter() {
        if seen.take(name, value).is_none() {
            return MALFORMED;
        }
    }
    let requests = seen.method || seen.scheme || seen.path || seen.authority;
    let kind = match seen.status {
        Some(status) if !requests => Kind::Response(status),
        None if seen.method && seen.scheme && seen.path => Kind::Request,
        None if !requests => Kind::Trailers,
        _ => return MALFORMED,
    };
    Facts {
        kind,
        content_length: seen.content_length,
    }
}

impl Seen {
    /// Notes one field; `None` when the list is malformed.
    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if !value_is_valid(value) {
            return None;
        }
        if name.first() == Some(&b':') {
            return self.take_pseudo(name, value);
        }
        self.regular = true;
        if !name_is_valid(name) {
            return None;
        }
        match name {
            // Section 8.2.2: fields of HTTP/1.1 connections.
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => None,
            b"te" if value != b"trailers" => None,
            b"content-length" => {
                let length = std::str::from_utf8(value).ok()?.parse().ok()?;
                let same = self.content_length.is_none_or(|earlier| earlier == length);
                self.content_length = Some(length);
                same.then_some(())
            }
            _ => Some(()),
        }
    }

    fn take_pseudo(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        // Section 8.3: pseudo-headers come first, once each, and no others than the defined ones.
        if self.regular {
            return None;
        }
        let seen = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":path" if !value.is_empty() => &mut self.path,
            b":authority" => &mut self.authority,
            b":status" if self.status.is_none() && value.len() == 3 => {
                self.status = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
                return Some(());
            }
            _ => return None,
        };
        (!std::mem::replace(seen, true)).then_some(())
    }
}

/// Section 8.2.1: no upper case, no control characters, spaces, colons or octets beyond ASCII.
fn name_is_valid(name: &[u8]) -> bool {
    !name.is_empty()
        && name
            .iter()
            .all(|&b| matches!(b, 0x21..=0x7e) && b != b':' && !b.is_ascii_uppercase())
}

/// Section 8.2.1: no NUL, CR or LF, and no space at either end.
fn value_is_valid(value: &[u8]) -> bool {
    let is_space = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    !is_space(value.first()) && !is_space(value.last()) && !value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(fields: &[(&str, &str)]) -> Kind {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(name.as_bytes(), value.as_bytes());
        }
        facts_of(&headers).kind
    }

    fn request_with(field: (&str, &str)) -> Kind {
        kind(&[(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), field])
    }

    #[test]
    fn the_kinds_are_told_by_the_pseudo_headers() {
        assert_eq!(request_with(("a", "b")), Kind::Request);
        assert_eq!(request_with((":authority", "x")), Kind::Request);
        assert_eq!(kind(&[(":status", "200"), ("a", "b")]), Kind::Response(200));
        assert_eq!(kind(&[("grpc-status", "0")]), Kind::Trailers);
        assert_eq!(kind(&[]), Kind::Trailers);
    }

    #[test]
    fn malformed_lists_are_found() {
        for field in [
            ("A", "upper case"),
            ("a b", "space"),
            ("a:b", "colon"),
            ("", "no name"),
            ("\u{e9}", "not ASCII"),
            ("a", " leading"),
            ("a", "trailing\t"),
            ("a", "nul\0"),
            ("a", "line\nfeed"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("content-length", "x"),
            ("content-length", "-1"),
            (":method", "twice"),
            (":unknown", "x"),
            (":status", "200"),
        ] {
            assert_eq!(request_with(field), Kind::Malformed, "{field:?}");
        }
        assert_eq!(
            kind(&[(":method", "GET"), (":path", "/")]),
            Kind::Malformed,
            "no scheme"
        );
        assert_eq!(
            kind(&[(":method", "GET"), (":path", ""), (":scheme", "http")]),
            Kind::Malformed,
            "empty path"
        );
        assert_eq!(
            kind(&[("a", "b"), (":status", "200")]),
            Kind::Malformed,
            "pseudo-header behind a field"
        );
        assert_eq!(
            kind(&[("content-length", "1"), ("content-length", "2")]),
            Kind::Malformed
        );
    }

    #[test]
    fn te_trailers_is_welcome() {
        assert_eq!(request_with(("te", "trailers")), Kind::Request);
    }
}
