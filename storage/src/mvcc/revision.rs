//! Revisions and their row keys in the `key` bucket.

/// One change: the `main` revision of its transaction and its place `sub` inside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision {
    /// Revision of the transaction, as clients see it.
    pub main: i64,
    /// Number of the change inside its transaction, from 0.
    pub sub: u32,
}

impl Revision {
    /// The revision `{main, sub}`.
    pub const fn new(main: i64, sub: u32) -> Revision {
        Revision { main, sub }
    }
}

/// Highest `sub` of a revision; its top bit is used as a flag in memory.
pub const SUB_MAX: u32 = u32::MAX >> 1;

const SEPARATOR: u8 = b'_';
const TOMBSTONE_MARK: u8 = b't';
pub(super) const PUT_LEN: usize = 17;

/// Key of a row in the `key` bucket: main u64 big-endian, `_`, sub u64 big-endian, and `t` for a tombstone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowKey {
    bytes: [u8; PUT_LEN + 1],
    len: u8,
}

impl RowKey {
    /// The row key of a change.
    pub fn new(revision: Revision, tombstone: bool) -> RowKey {
        let mut bytes = [0; PUT_LEN + 1];
        bytes[..8].copy_from_slice(&revision.main.to_be_bytes());
        bytes[8] = SEPARATOR;
        bytes[9..PUT_LEN].copy_from_slice(&u64::from(revision.sub).to_be_bytes());
        bytes[PUT_LEN] = TOMBSTONE_MARK;
        RowKey {
            bytes,
            len: (PUT_LEN + usize::from(tombstone)) as u8,
        }
    }

    /// The encoded key.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Reads a row key back: the revision and whether it is a tombstone; nothing if it is not a row key.
    pub fn parse(bytes: &[u8]) -> Option<(Revision, bool)> {
        let tombstone = match bytes.len() {
            PUT_LEN => false,
            n if n == PUT_LEN + 1 && bytes[PUT_LEN] == TOMBSTONE_MARK => true,
            _ => return None,
        };
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = u64::from_be_bytes(bytes[9..PUT_LEN].try_into().ok()?);
        let sub = u32::try_from(sub).ok().filter(|sub| *sub <= SUB_MAX)?;
        (main >= 0 && bytes[8] == SEPARATOR).then_some((Revision { main, sub }, tombstone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_keys_have_the_bytes_of_etcd() {
        let put = RowKey::new(Revision::new(0x0102_0304, 5), false);
        assert_eq!(put.as_slice(), b"\0\0\0\0\x01\x02\x03\x04_\0\0\0\0\0\0\0\x05");
        let tombstone = RowKey::new(Revision::new(2, 0), true);
        assert_eq!(tombstone.as_slice(), b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0t");
        assert_eq!(
            RowKey::parse(put.as_slice()),
            Some((Revision::new(0x0102_0304, 5), false))
        );
        assert_eq!(RowKey::parse(tombstone.as_slice()), Some((Revision::new(2, 0), true)));
    }

    #[test]
    fn what_is_not_a_row_key_is_refused() {
        let good = RowKey::new(Revision::new(7, 1), true);
        let mut bytes = good.as_slice().to_vec();
        assert_eq!(RowKey::parse(&bytes[..16]), None);
        bytes[8] = b'-';
        assert_eq!(RowKey::parse(&bytes), None, "wrong separator");
        bytes[8] = b'_';
        bytes[17] = b'x';
        assert_eq!(RowKey::parse(&bytes), None, "wrong tombstone mark");
        bytes[17] = b't';
        bytes[9] = 1;
        assert_eq!(RowKey::parse(&bytes), None, "sub too large");
        bytes[9] = 0;
        bytes[0] = 0x80;
        assert_eq!(RowKey::parse(&bytes), None, "negative revision");
    }
}
