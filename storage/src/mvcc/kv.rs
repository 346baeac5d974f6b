//! The stored form of a key-value pair: exactly the bytes of `mvccpb.KeyValue` as etcd writes them.
//!
//! Fields ascend and zero fields are left out, so equal histories give equal bytes and equal hashes:
//! `key = 1`, `create_revision = 2`, `mod_revision = 3`, `version = 4`, `value = 5`, `lease = 6`.
//! A tombstone is a pair with nothing but its key.

/// A key-value pair, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kv<'a> {
    /// The user key.
    pub key: &'a [u8],
    /// Main revision of the put that created the key.
    pub create_revision: i64,
    /// Main revision of the last put.
    pub mod_revision: i64,
    /// Number of puts since creation, this one included.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// Id of the attached lease, 0 for none.
    pub lease: i64,
}

/// A row that is not an encoded `mvccpb.KeyValue`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an encoded KeyValue: bad field at byte {offset}")]
pub struct BadKv {
    /// Where decoding failed.
    pub offset: usize,
}

impl<'a> Kv<'a> {
    /// Length of the encoded form in bytes.
    pub fn encoded_len(&self) -> usize {
        bytes_len(self.key)
            + int_len(self.create_revision)
            + int_len(self.mod_revision)
            + int_len(self.version)
            + bytes_len(self.value)
            + int_len(self.lease)
    }

    /// Appends the encoded form to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        put_bytes(out, 1, self.key);
        put_int(out, 2, self.create_revision);
        put_int(out, 3, self.mod_revision);
        put_int(out, 4, self.version);
        put_bytes(out, 5, self.value);
        put_int(out, 6, self.lease);
    }

    /// Reads an encoded pair; unknown fields are skipped.
    pub fn decode(bytes: &'a [u8]) -> Result<Kv<'a>, BadKv> {
        let mut kv = Kv::default();
        let mut at = 0;
        while at < bytes.len() {
            let bad = BadKv { offset: at };
            let (tag, next) = varint(bytes, at).ok_or(bad)?;
            match (tag >> 3, tag & 7) {
                (1, 2) => (kv.key, at) = span(bytes, next).ok_or(bad)?,
                (2, 0) => (kv.create_revision, at) = int(bytes, next).ok_or(bad)?,
                (3, 0) => (kv.mod_revision, at) = int(bytes, next).ok_or(bad)?,
                (4, 0) => (kv.version, at) = int(bytes, next).ok_or(bad)?,
                (5, 2) => (kv.value, at) = span(bytes, next).ok_or(bad)?,
                (6, 0) => (kv.lease, at) = int(bytes, next).ok_or(bad)?,
                (_, wire) => at = skip(bytes, next, wire).ok_or(bad)?,
            }
        }
        Ok(kv)
    }

    /// The same pair without its value, as a `keys_only` answer has it.
    pub fn without_value(self) -> Kv<'a> {
        Kv { value: &[], ..self }
    }
}

/// Appends the re-encoding of an encoded pair without its value (`keys_only`).
pub fn encode_keys_only(encoded: &[u8], out: &mut Vec<u8>) -> Result<(), BadKv> {
    Kv::decode(encoded)?.without_value().encode(out);
    Ok(())
}

/// Bytes that a length-delimited field of `len` bytes takes inside a message whose tag is one byte long.
pub fn framed_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn int_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

fn bytes_len(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { framed_len(value.len()) }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_int(out: &mut Vec<u8>, field: u8, value: i64) {
    if value != 0 {
        out.push(field << 3);
        put_varint(out, value as u64);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if !value.is_empty() {
        out.push(field << 3 | 2);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

fn varint(bytes: &[u8], mut at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some((value, at));
        }
    }
    None
}

fn int(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    varint(bytes, at).map(|(value, next)| (value as i64, next))
}

fn span(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (len, start) = varint(bytes, at)?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    Some((bytes.get(start..end)?, end))
}

fn skip(bytes: &[u8], at: usize, wire: u64) -> Option<usize> {
    let end = match wire {
        0 => varint(bytes, at)?.1,
        1 => at.checked_add(8)?,
        2 => span(bytes, at)?.1,
        5 => at.checked_add(4)?,
        _ => return None,
    };
    (end <= bytes.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kv: Kv<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        kv.encode(&mut out);
        assert_eq!(out.len(), kv.encoded_len());
        out
    }

    #[test]
    fn encoding_has_the_bytes_of_etcd() {
        let kv = Kv {
            key: b"foo",
            create_revision: 2,
            mod_revision: 300,
            version: 3,
            value: b"bar",
            lease: 7,
        };
        assert_eq!(
            encoded(kv),
            b"\x0a\x03foo\x10\x02\x18\xac\x02\x20\x03\x2a\x03bar\x30\x07"
        );
        let tombstone = Kv {
            key: b"foo",
            ..Kv::default()
        };
        assert_eq!(encoded(tombstone), b"\x0a\x03foo");
        let no_value = Kv {
            value: b"",
            lease: 0,
            ..kv
        };
        assert_eq!(encoded(no_value), b"\x0a\x03foo\x10\x02\x18\xac\x02\x20\x03");
    }

    #[test]
    fn decoding_gives_back_what_was_encoded() {
        let value = vec![9; 70_000];
        for kv in [
            Kv::default(),
            Kv {
                key: b"k",
                value: &value,
                ..Kv::default()
            },
            Kv {
                key: &value,
                create_revision: i64::MAX,
                mod_revision: 1 << 35,
                version: 127,
                value: b"v",
                lease: -1,
            },
        ] {
            assert_eq!(Kv::decode(&encoded(kv)), Ok(kv));
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_cut_messages_refused() {
        let kv = Kv {
            key: b"foo",
            mod_revision: 9,
            value: b"bar",
            ..Kv::default()
        };
        let mut bytes = encoded(kv);
        bytes.extend_from_slice(b"\x78\x05\x7a\x02xx\x7d\0\0\0\0");
        assert_eq!(Kv::decode(&bytes), Ok(kv));
        for cut in [1, 4, 6, 11, 13, 15, 20] {
            assert!(Kv::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Kv::decode(&[0x10; 1]).is_err());
        assert!(Kv::decode(&[0xff; 12]).is_err());
    }

    #[test]
    fn keys_only_drops_nothing_but_the_value() {
        let kv = Kv {
            key: b"foo",
            create_revision: 2,
            mod_revision: 5,
            version: 3,
            value: b"bar",
            lease: 4,
        };
        let mut out = Vec::new();
        encode_keys_only(&encoded(kv), &mut out).unwrap();
        assert_eq!(Kv::decode(&out), Ok(Kv { value: b"", ..kv }));
    }
}
