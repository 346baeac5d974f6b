//! Calls by the version that their clients tell.

use std::{collections::BTreeMap, sync::OnceLock};

use super::Counter;

/// Versions kept apart, and their longest; whoever calls may tell anything.
const VERSIONS_MAX: usize = 16;
const VERSION_BYTES_MAX: usize = 32;
/// What clients that tell none are counted under. Source: metrics table, `etcd_server_client_requests_total`.
const UNKNOWN: &str = "unknown";

/// Unary calls and streams.
type Calls = [Counter; 2];

/// Calls of those that tell no version, and of each version, in the order they came. Written by one shard.
#[derive(Debug, Default)]
pub struct ClientTable {
    silent: Calls,
    told: [(OnceLock<Box<str>>, Calls); VERSIONS_MAX],
}

impl ClientTable {
    /// Counts a call; `version`: what the client told, if it did.
    ///
    /// Bounds: the versions beyond the first 16, and those that make no sense, count as not told.
    pub fn called(&self, version: Option<&str>, is_stream: bool) {
        let calls = version.filter(|version| is_plain(version)).and_then(|version| {
            let same = |slot: &&(OnceLock<Box<str>>, Calls)| **slot.0.get_or_init(|| version.into()) == *version;
            self.told.iter().find(same).map(|(_, calls)| calls)
        });
        calls.unwrap_or(&self.silent)[usize::from(is_stream)].add(1);
    }

    /// Adds what it counted to `sums`: (version, whether streams) to calls.
    pub fn add_to(&self, sums: &mut BTreeMap<(String, bool), u64>) {
        let told = self.told.iter();
        let told = told.filter_map(|(version, calls)| version.get().map(|version| (&**version, calls)));
        for (version, calls) in std::iter::once((UNKNOWN, &self.silent)).chain(told) {
            for is_stream in [false, true] {
                match calls[usize::from(is_stream)].get() {
                    0 => {}
                    count => *sums.entry((version.to_owned(), is_stream)).or_default() += count,
                }
            }
        }
    }
}

/// Whether it can stand in a label as it is.
fn is_plain(version: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    (1..=VERSION_BYTES_MAX).contains(&version.len()) && version.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_version_up_to_a_bound() {
        let table = ClientTable::default();
        table.called(Some("3.6"), false);
        table.called(Some("3.6"), true);
        table.called(Some("a \"quoted\" one"), false);
        table.called(None, false);
        (0..VERSIONS_MAX).for_each(|n| table.called(Some(&format!("v{n}")), false));
        let mut sums = BTreeMap::new();
        table.add_to(&mut sums);
        let of = |version: &str, is_stream| sums.get(&(version.to_owned(), is_stream)).copied();
        assert_eq!((of("3.6", false), of("3.6", true)), (Some(1), Some(1)));
        assert_eq!(of("unknown", false), Some(3), "none, a bad one, and one too many");
        assert_eq!(sums.len(), VERSIONS_MAX + 2);
    }
}
