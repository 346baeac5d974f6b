//! Header blocks to header lists.

use std::sync::Arc;

use super::table::Table;
use super::{ENTRY_OVERHEAD_BYTES, Headers, huffman};

/// Blocks remembered with their meaning; a client talks in few kinds of requests.
const MEMO_ENTRIES: usize = 8;

/// Only blocks and lists up to these sizes are remembered, so that the memory of an idle connection stays small.
const MEMO_BLOCK_BYTES_MAX: usize = 256;
const MEMO_LIST_BYTES_MAX: usize = 2048;

/// The block cannot be decoded; the connection is lost with it, since the tables are no longer in step.
///
/// Source: RFC 9113 section 4.3 (COMPRESSION_ERROR).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HpackError {
    #[error("a header block ends inside a field")]
    Truncated,
    #[error("a header field refers to an index that no table has")]
    UnknownIndex,
    #[error("an integer in a header block is too large")]
    IntegerTooLarge,
    #[error("a string in a header block is not valid Huffman code")]
    InvalidHuffman,
    #[error("a table size update in a header block is larger than allowed, or not at its start")]
    BadSizeUpdate,
}

/// A decoded block.
#[derive(Clone, Debug)]
pub(crate) struct Decoded {
    /// The list; incomplete when it is too large.
    pub(crate) headers: Arc<Headers>,
    /// Whether the list was larger than allowed.
    pub(crate) too_large: bool,
}

/// Decodes the blocks of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// The largest table this end has allowed.
    capacity_max: usize,
    /// The largest list to give out, by the measure of SETTINGS_MAX_HEADER_LIST_SIZE.
    list_bytes_max: usize,
    memo: Vec<Memo>,
    /// Where the next memo goes once all places are taken.
    memo_next: usize,
    /// Huffman-coded names and values of the field at hand.
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Memo {
    generation: u64,
    block: Box<[u8]>,
    headers: Arc<Headers>,
}

impl Decoder {
    pub(crate) fn new(capacity_bytes: usize, list_bytes_max: usize) -> Decoder {
        Decoder {
            table: Table::new(capacity_bytes),
            capacity_max: capacity_bytes,
            list_bytes_max,
            memo: Vec::new(),
            memo_next: 0,
            scratch: Vec::new(),
        }
    }

    /// Decodes one whole block.
    pub(crate) fn decode(&mut self, block: &[u8]) -> Result<Decoded, HpackError> {
        let generation = self.table.generation();
        let known = self
            .memo
            .iter()
            .find(|memo| memo.generation == generation && *memo.block == *block);
        if let Some(memo) = known {
            return Ok(Decoded {
                headers: memo.headers.clone(),
                too_large: false,
            });
        }
        let (mut headers, too_large) = self.decode_fields(block)?;
        headers.find_facts();
        let headers = Arc::new(headers);
        if self.table.generation() == generation && !too_large {
            self.remember(block, &headers);
        }
        Ok(Decoded { headers, too_large })
    }

    fn remember(&mut self, block: &[u8], headers: &Arc<Headers>) {
        if block.len() > MEMO_BLOCK_BYTES_MAX || headers.held_bytes() > MEMO_LIST_BYTES_MAX {
            return;
        }
        let memo = Memo {
            generation: self.table.generation(),
            block: block.into(),
            headers: headers.clone(),
        };
        if self.memo.len() < MEMO_ENTRIES {
            self.memo.push(memo);
        } else {
            self.memo[self.memo_next] = memo;
            self.memo_next = (self.memo_next + 1) % MEMO_ENTRIES;
        }
    }

    fn decode_fields(&mut self, block: &[u8]) -> Result<(Headers, bool), HpackError> {
        let mut list = List {
            headers: Headers::default(),
            size_bytes: 0,
            size_bytes_max: self.list_bytes_max,
        };
        list.headers.bytes.reserve(256);
        list.headers.ends.reserve(12);
        let mut reader = Reader { rest: block };
        while let Some(&first) = reader.rest.first() {
            // Source: RFC 7541 section 6: the representation is told by the first bits.
            if first & 0x80 != 0 {
                let index = reader.integer(7)?;
                let (name, value) = self.table.get(index).ok_or(HpackError::UnknownIndex)?;
                list.push(name, value);
            } else if first & 0x40 != 0 {
                self.literal(&mut reader, 6, true, &mut list)?;
            } else if first & 0x20 != 0 {
                let size = reader.integer(5)?;
                // Section 4.2: a size update stands at the beginning of a block.
                if size > self.capacity_max as u64 || list.size_bytes != 0 {
                    return Err(HpackError::BadSizeUpdate);
                }
                self.table.set_capacity(size as usize);
            } else {
                self.literal(&mut reader, 4, false, &mut list)?;
            }
        }
        let too_large = list.size_bytes > list.size_bytes_max;
        Ok((list.headers, too_large))
    }

    fn literal(
        &mut self,
        reader: &mut Reader<'_>,
        prefix_bits: u32,
        index_it: bool,
        list: &mut List,
    ) -> Result<(), HpackError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let index = reader.integer(prefix_bits)?;
        let name = match index {
            0 => reader.string(&mut scratch)?,
            _ => {
                let (name, _) = self.table.get(index).ok_or(HpackError::UnknownIndex)?;
                // Copied, since inserting may evict the entry it stands in.
                scratch.extend_from_slice(name);
                Part::Scratch(0, scratch.len())
            }
        };
        let value = reader.string(&mut scratch)?;
        let (name, value) = (name.bytes(&scratch), value.bytes(&scratch));
        list.push(name, value);
        if index_it {
            self.table.insert(name, value);
        }
        self.scratch = scratch;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

/// The list so far; beyond its limit fields are counted and dropped.
struct List {
    headers: Headers,
    size_bytes: usize,
    size_bytes_max: usize,
}

impl List {
    fn push(&mut self, name: &[u8], value: &[u8]) {
        self.size_bytes += name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        if self.size_bytes <= self.size_bytes_max {
            self.headers.push(name, value);
        }
    }
}

/// A string of the block: as it stands there, or decoded into the scratch buffer.
enum Part<'a> {
    Plain(&'a [u8]),
    Scratch(usize, usize),
}

impl<'a> Part<'a> {
    fn bytes<'b>(&self, scratch: &'b [u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        match *self {
            Part::Plain(bytes) => bytes,
            Part::Scratch(start, end) => &scratch[start..end],
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// An integer whose first octet has that many bits of it.
    ///
    /// Bounds: 28 bits beyond the prefix; no size or index in a block of bounded length needs more.
    /// Source: RFC 7541 section 5.1.
    fn integer(&mut self, prefix_bits: u32) -> Result<u64, HpackError> {
        let mask = (1u64 << prefix_bits) - 1;
        let mut value = self.octet()? as u64 & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            value += ((octet & 0x7f) as u64) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::IntegerTooLarge)
    }

    /// Source: RFC 7541 section 5.2.
    fn string(&mut self, scratch: &mut Vec<u8>) -> Result<Part<'a>, HpackError> {
        let is_huffman = self.rest.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
        let len = self.integer(7)? as usize;
        let (raw, rest) = self.rest.split_at_checked(len).ok_or(HpackError::Truncated)?;
        self.rest = rest;
        if !is_huffman {
            return Ok(Part::Plain(raw));
        }
        let start = scratch.len();
        huffman::decode(raw, scratch).map_err(|_| HpackError::InvalidHuffman)?;
        Ok(Part::Scratch(start, scratch.len()))
    }

    fn octet(&mut self) -> Result<u8, HpackError> {
        let (&first, rest) = self.rest.split_first().ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder() -> Decoder {
        Decoder::new(4096, 16 * 1024)
    }

    #[test]
    fn a_repeated_block_is_decoded_once() {
        let mut decoder = decoder();
        let first = decoder.decode(&[0x82, 0x86]).unwrap();
        let second = decoder.decode(&[0x82, 0x86]).unwrap();
        assert!(Arc::ptr_eq(&first.headers, &second.headers));
    }

    #[test]
    fn a_remembered_block_is_forgotten_when_the_table_changes() {
        let mut decoder = decoder();
        decoder.decode(b"\x40\x01a\x01b").unwrap();
        assert_eq!(decoder.decode(&[0xbe]).unwrap().headers.get("a"), Some(&b"b"[..]));
        assert_eq!(decoder.decode(&[0xbe]).unwrap().headers.get("a"), Some(&b"b"[..]));
        decoder.decode(b"\x40\x01c\x01d").unwrap();
        assert_eq!(decoder.decode(&[0xbe]).unwrap().headers.get("c"), Some(&b"d"[..]));
        assert_eq!(decoder.decode(&[0xbf]).unwrap().headers.get("a"), Some(&b"b"[..]));
    }

    #[test]
    fn a_block_that_changes_the_table_is_never_remembered() {
        let mut decoder = decoder();
        for n in 1..=3 {
            decoder.decode(b"\x40\x01a\x01b").unwrap();
            assert_eq!(decoder.table().len(), n);
        }
    }

    #[test]
    fn a_header_bomb_is_counted_but_not_unpacked() {
        let mut decoder = decoder();
        let mut block = vec![0x40, 1, b'a', 0x7f, 0x81, 0x1e];
        block.extend(vec![b'v'; 4000]);
        block.extend(vec![0xbe; 60_000]);
        let decoded = decoder.decode(&block).unwrap();
        assert!(decoded.too_large);
        assert!(decoded.headers.held_bytes() <= 20 * 1024);
    }

    #[test]
    fn broken_blocks_are_told_apart() {
        let check = |block: &[u8]| decoder().decode(block).map(|_| ()).unwrap_err();
        assert_eq!(check(&[0x80]), HpackError::UnknownIndex, "index 0");
        assert_eq!(check(&[0xbe]), HpackError::UnknownIndex, "beyond the empty table");
        assert_eq!(check(&[0x7e]), HpackError::UnknownIndex, "name beyond the empty table");
        assert_eq!(
            check(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x01]),
            HpackError::IntegerTooLarge
        );
        assert_eq!(check(&[0xff]), HpackError::Truncated);
        assert_eq!(check(&[0x40, 0x05, b'a']), HpackError::Truncated);
        assert_eq!(check(&[0x40]), HpackError::Truncated);
        assert_eq!(check(&[0x40, 0x81, 0x00]), HpackError::InvalidHuffman);
        assert_eq!(check(&[0x3f, 0xe2, 0x1f]), HpackError::BadSizeUpdate, "4097");
        assert_eq!(check(&[0x82, 0x20]), HpackError::BadSizeUpdate, "behind a field");
    }
}
