//! Header lists to header blocks.

use bytes::{BufMut, BytesMut};

use super::huffman;
use super::table::{Found, Table};

/// Largest dynamic table this end uses, whatever the peer allows.
const TABLE_BYTES_MAX: usize = 4096;

/// How a field may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Indexing {
    /// Comes again: goes into the table, if that evicts nothing.
    Keep,
    /// Does not come again.
    Pass,
    /// A secret: no table on the way may keep it.
    ///
    /// Source: RFC 7541 section 7.1.
    Never,
}

/// A block once written, good as long as the table stays as it is.
#[derive(Debug, Default)]
pub(crate) struct BlockMemo {
    /// Generation of the table plus one; 0 for none.
    valid_for: u64,
    block: Vec<u8>,
}

/// Encodes the blocks of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Table,
    /// Smallest size since the last block, when the peer has changed what it allows.
    ///
    /// Source: RFC 7541 section 4.2.
    shrunk_to: Option<usize>,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder {
            table: Table::new(TABLE_BYTES_MAX),
            shrunk_to: None,
        }
    }

    /// The peer allows a table of that size.
    pub(crate) fn allow_capacity(&mut self, allowed_bytes: u32) {
        let capacity = (allowed_bytes as usize).min(TABLE_BYTES_MAX);
        if capacity != self.table.capacity_bytes() {
            self.shrunk_to = Some(self.shrunk_to.map_or(capacity, |size| size.min(capacity)));
            self.table.set_capacity(capacity);
        }
    }

    /// Appends the block of these fields.
    pub(crate) fn encode<'a>(
        &mut self,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8], Indexing)>,
        out: &mut BytesMut,
    ) {
        if let Some(smallest) = self.shrunk_to.take() {
            integer(smallest as u64, 5, 0x20, out);
            if smallest < self.table.capacity_bytes() {
                integer(self.table.capacity_bytes() as u64, 5, 0x20, out);
            }
        }
        for (name, value, indexing) in fields {
            self.field(name, value, indexing, out);
        }
    }

    /// Appends the block remembered, or else encodes the fields and remembers their block.
    #[inline]
    pub(crate) fn encode_memo<'a, I>(&mut self, memo: &mut BlockMemo, fields: impl FnOnce() -> I, out: &mut BytesMut)
    where
        I: IntoIterator<Item = (&'a [u8], &'a [u8], Indexing)>,
    {
        if memo.valid_for == self.table.generation() + 1 && self.shrunk_to.is_none() {
            out.extend_from_slice(&memo.block);
            return;
        }
        let generation = self.table.generation();
        let shrunk = self.shrunk_to.is_some();
        let start = out.len();
        self.encode(fields(), out);
        if self.table.generation() == generation && !shrunk {
            memo.valid_for = generation + 1;
            memo.block = out[start..].to_vec();
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8], indexing: Indexing, out: &mut BytesMut) {
        let found = match indexing {
            Indexing::Never => match self.table.find(name, value) {
                Found::Field(index) => Found::Name(index),
                other => other,
            },
            _ => self.table.find(name, value),
        };
        let keep = indexing == Indexing::Keep && self.table.has_room_for(name, value);
        let (prefix_bits, pattern) = match indexing {
            _ if keep => (6, 0x40),
            Indexing::Never => (4, 0x10),
            _ => (4, 0x00),
        };
        match found {
            Found::Field(index) => return integer(index, 7, 0x80, out),
            Found::Name(index) => integer(index, prefix_bits, pattern, out),
            Found::Nothing => {
                out.put_u8(pattern);
                string(name, out);
            }
        }
        string(value, out);
        if keep {
            self.table.insert(name, value);
        }
    }
}

/// Source: RFC 7541 section 5.1.
fn integer(value: u64, prefix_bits: u32, pattern: u8, out: &mut BytesMut) {
    let mask = (1u64 << prefix_bits) - 1;
    if value < mask {
        return out.put_u8(pattern | value as u8);
    }
    out.put_u8(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Source: RFC 7541 section 5.2.
fn string(bytes: &[u8], out: &mut BytesMut) {
    let encoded_len = huffman::encoded_len(bytes);
    if encoded_len < bytes.len() {
        integer(encoded_len as u64, 7, 0x80, out);
        huffman::encode(bytes, out);
    } else {
        integer(bytes.len() as u64, 7, 0, out);
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    fn keep<'a>(name: &'a str, value: &'a str) -> (&'a [u8], &'a [u8], Indexing) {
        (name.as_bytes(), value.as_bytes(), Indexing::Keep)
    }

    #[test]
    fn a_field_kept_is_one_octet_the_second_time() {
        let mut encoder = Encoder::new();
        let mut out = BytesMut::new();
        encoder.encode([keep("grpc-status", "0")], &mut out);
        assert!(out.len() > 10);
        out.clear();
        encoder.encode([keep(":status", "200"), keep("grpc-status", "0")], &mut out);
        assert_eq!(&out[..], [0x88, 0xbe]);
    }

    #[test]
    fn a_memo_is_written_again_only_while_the_table_stays() {
        let mut encoder = Encoder::new();
        let mut memo = BlockMemo::default();
        let mut decoder = Decoder::new(4096, 4096);
        for round in 0..6 {
            if round == 3 {
                let mut out = BytesMut::new();
                encoder.encode([keep("x", "y")], &mut out);
                decoder.decode(&out).unwrap();
            }
            let mut out = BytesMut::new();
            encoder.encode_memo(&mut memo, || [keep("a", "b"), keep("c", "d")], &mut out);
            let decoded = decoder.decode(&out).unwrap();
            let fields: Vec<_> = decoded.headers.iter().collect();
            assert_eq!(fields, [(&b"a"[..], &b"b"[..]), (b"c", b"d")], "round {round}");
        }
    }

    #[test]
    fn the_peer_is_told_of_the_smallest_and_the_last_size() {
        let mut encoder = Encoder::new();
        encoder.allow_capacity(0);
        encoder.allow_capacity(100);
        let mut out = BytesMut::new();
        encoder.encode([keep(":status", "200")], &mut out);
        assert_eq!(&out[..], [0x20, 0x3f, 69, 0x88]);
        out.clear();
        encoder.encode([keep(":status", "200")], &mut out);
        assert_eq!(&out[..], [0x88]);
    }

    #[test]
    fn a_table_of_nothing_still_works() {
        let mut encoder = Encoder::new();
        encoder.allow_capacity(0);
        let mut decoder = Decoder::new(4096, 4096);
        let mut memo = BlockMemo::default();
        for _ in 0..3 {
            let mut out = BytesMut::new();
            encoder.encode_memo(&mut memo, || [keep("grpc-status", "0")], &mut out);
            assert_eq!(
                decoder.decode(&out).unwrap().headers.get("grpc-status"),
                Some(&b"0"[..])
            );
        }
    }

    #[test]
    fn a_secret_is_marked_never_to_be_kept() {
        let mut out = BytesMut::new();
        Encoder::new().encode([(&b"token"[..], &b"\x01"[..], Indexing::Never)], &mut out);
        assert_eq!(out[0], 0x10);
    }
}
