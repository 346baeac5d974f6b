//! HPACK (RFC 7541): header lists to bytes and back, with a table that both ends keep in step.
//!
//! A block that changes no table means the same as long as the table stays the same. Both directions use that: the
//! decoder remembers the last such blocks and what they meant, the encoder what it wrote. So a client that repeats
//! itself costs a comparison of some twenty bytes per request.

mod decoder;
mod encoder;
mod huffman;
mod table;

#[cfg(test)]
mod rfc7541;

pub(crate) use decoder::{Decoder, HpackError};
pub(crate) use encoder::{BlockMemo, Encoder, Indexing};

use super::fields::{Facts, facts_of};

/// What an entry costs in the table beyond its octets.
///
/// Source: RFC 7541 section 4.1.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 32;

/// A decoded list of header fields, in the order sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Names and values, one after the other.
    bytes: Vec<u8>,
    /// Where each name ends and where its value ends.
    ends: Vec<(u32, u32)>,
    facts: Facts,
}

impl Headers {
    /// The fields as (name, value).
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let (name_end, value_end) = (name_end as usize, value_end as usize);
            let field = (&self.bytes[start..name_end], &self.bytes[name_end..value_end]);
            start = value_end;
            field
        })
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A part of the octets of all fields, laid one after the other.
    pub(crate) fn bytes_at(&self, range: std::ops::Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Memory taken by the contents.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<(u32, u32)>()
    }

    /// What kind of list it is; known once it was decoded.
    pub(crate) fn facts(&self) -> Facts {
        self.facts
    }

    fn find_facts(&mut self) {
        self.facts = facts_of(self);
    }

    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let name_end = self.bytes.len() as u32;
        self.bytes.extend_from_slice(value);
        self.ends.push((name_end, self.bytes.len() as u32));
    }
}
