//! A user key in 24 bytes: inline when short, shared when long.

use std::{cmp::Ordering, fmt, sync::Arc};

const INLINE_MAX: usize = 22;

/// A byte string that is cheap to clone; up to 22 bytes need no allocation.
#[derive(Clone)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_MAX] },
    Shared(Arc<[u8]>),
}

impl Key {
    /// A key with these bytes.
    pub fn new(key: &[u8]) -> Key {
        if key.len() > INLINE_MAX {
            return Key(Repr::Shared(Arc::from(key)));
        }
        let mut bytes = [0; INLINE_MAX];
        bytes[..key.len()].copy_from_slice(key);
        Key(Repr::Inline {
            len: key.len() as u8,
            bytes,
        })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Key {
        Key::new(key)
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_slice().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_24_bytes_and_keeps_its_content() {
        assert_eq!(size_of::<Key>(), 24);
        for len in [0, 1, 21, 22, 23, 300] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            assert_eq!(Key::new(&bytes).as_slice(), bytes);
        }
        assert!(Key::new(b"a") < Key::new(b"aa") && Key::new(&[b'a'; 30]) < Key::new(b"b"));
    }
}
