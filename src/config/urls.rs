//! The URLs of listeners and members, read by etcd's rules.
//!
//! A list is comma-separated, trimmed, sorted and free of duplicates, as etcd keeps it: ids are computed from the sorted form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An `http://host:port` address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme_len: usize,
    host_len: usize,
    port: u16,
}

/// Why a URL was refused; the texts are etcd's where etcd has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// A scheme that no etcd knows, or none.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// No `host:port` after the scheme.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// Something after the port.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// User, query or fragment.
    #[error("URL must be plain scheme://host:port: {0}")]
    Extra(String),
    /// TLS, which is not there yet.
    #[error("TLS is not available yet; use an http URL: {0}")]
    Tls(String),
    /// Unix sockets, which are not there yet.
    #[error("unix sockets are not available yet; use an http URL: {0}")]
    Unix(String),
}

impl Url {
    /// Reads one URL.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        let text = text.trim();
        let own = || text.to_string();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UrlError::Scheme(own()))?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(UrlError::Tls(own())),
            "unix" | "unixs" => return Err(UrlError::Unix(own())),
            _ => return Err(UrlError::Scheme(own())),
        }
        if rest.contains(['?', '#', '@']) {
            return Err(UrlError::Extra(own()));
        }
        let (address, path) = rest
            .split_once('/')
            .map_or((rest, None), |(address, path)| (address, Some(path)));
        let (host, port) = split_host_port(address).ok_or_else(|| UrlError::HostPort(own()))?;
        if path.is_some() {
            return Err(UrlError::Path(own()));
        }
        let text = format!("http://{address}");
        Ok(Url {
            text,
            scheme_len: "http".len(),
            host_len: host.len(),
            port,
        })
    }

    /// Reads a comma-separated list; sorts it and drops duplicates.
    pub fn parse_list(text: &str) -> Result<Vec<Url>, UrlError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    /// The URL as etcd prints it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The scheme.
    pub fn scheme(&self) -> &str {
        &self.text[..self.scheme_len]
    }

    /// The host without brackets; may be a name.
    pub fn host(&self) -> &str {
        let start = self.scheme_len + "://".len();
        let bracketed = self.text[start..].starts_with('[');
        let start = start + usize::from(bracketed);
        &self.text[start..start + self.host_len]
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address to bind or `None` when the host is neither an IP address nor `localhost` (which is 127.0.0.1, as Go prefers).
    pub fn bind_addr(&self) -> Option<SocketAddr> {
        let ip = match self.host() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        Some(SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits `host:port` and `[v6]:port`; the port must be a decimal number.
fn split_host_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']')?,
        None if host.contains([':', ']']) => return None,
        None => host,
    };
    let plain = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| port.parse().ok()).flatten().map(|port| (host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_refused_with_the_texts_of_etcd() {
        let table = [
            (
                "localhost:2379",
                "URL scheme must be http, https, unix, or unixs: localhost:2379",
            ),
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            (
                "ftp://127.0.0.1:1",
                "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1",
            ),
            (
                "http://127.0.0.1",
                "URL address does not have the form \"host:port\": http://127.0.0.1",
            ),
            (
                "http://a:1:2",
                "URL address does not have the form \"host:port\": http://a:1:2",
            ),
            (
                "http://a:70000",
                "URL address does not have the form \"host:port\": http://a:70000",
            ),
            (
                "http://[::1:2379",
                "URL address does not have the form \"host:port\": http://[::1:2379",
            ),
            (
                "http://127.0.0.1:1/a",
                "URL must not contain a path: http://127.0.0.1:1/a",
            ),
            (
                "http://127.0.0.1:1/",
                "URL must not contain a path: http://127.0.0.1:1/",
            ),
            ("http://a@b:1", "URL must be plain scheme://host:port: http://a@b:1"),
            ("https://a:1", "TLS is not available yet; use an http URL: https://a:1"),
            (
                "unix://a:1",
                "unix sockets are not available yet; use an http URL: unix://a:1",
            ),
        ];
        for (text, want) in table {
            assert_eq!(Url::parse(text).expect_err(text).to_string(), want);
        }
    }

    #[test]
    fn a_url_knows_its_host_port_and_bind_address() {
        let table = [
            ("http://localhost:2379", "localhost", 2379, Some("127.0.0.1:2379")),
            (" HTTP://10.0.0.1:1 ", "10.0.0.1", 1, Some("10.0.0.1:1")),
            ("http://[::1]:2380", "::1", 2380, Some("[::1]:2380")),
            ("http://0.0.0.0:0", "0.0.0.0", 0, Some("0.0.0.0:0")),
            ("http://etcd-0.svc:2380", "etcd-0.svc", 2380, None),
            ("http://:2380", "", 2380, None),
        ];
        for (text, host, port, bind) in table {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.host(), url.port()), (host, port), "{text}");
            assert_eq!(url.bind_addr().map(|addr| addr.to_string()).as_deref(), bind, "{text}");
        }
    }

    #[test]
    fn lists_are_sorted_and_free_of_duplicates() {
        let urls = Url::parse_list("http://b:2, http://a:1,http://b:2").expect("three good URLs");
        assert_eq!(
            urls.iter().map(Url::as_str).collect::<Vec<_>>(),
            ["http://a:1", "http://b:2"]
        );
        assert_eq!(Url::parse_list(""), Ok(vec![]));
        assert!(Url::parse_list("http://a:1,").is_err(), "an empty item is not a URL");
    }
}
