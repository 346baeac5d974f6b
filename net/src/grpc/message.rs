//! Length-prefixed messages cut out of the DATA of a stream.
//!
//! A message that lies whole in one DATA frame becomes a slice of a copy of the receive buffer that it shares with its
//! neighbours: one allocation for a whole batch of small messages. Any other is gathered in a buffer of its own.

use bytes::{BufMut, Bytes, BytesMut};

use super::MESSAGE_PREFIX_BYTES;
use crate::h2::Data;

/// Most that is copied at once for small messages, and so the most that one of them can keep alive.
const SHARED_BYTES_MAX: usize = 16 * 1024;

/// Messages from this size on get memory of their own.
const SHARED_MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// A copy of part of the receive buffer, made when the first small message in it is met.
#[derive(Debug, Default)]
pub(super) struct SharedCopy {
    bytes: Bytes,
    /// Where in the receive buffer the copy starts.
    start: usize,
}

impl SharedCopy {
    /// A new receive buffer: the copy is of another.
    pub(super) fn forget(&mut self) {
        if !self.bytes.is_empty() {
            self.bytes = Bytes::new();
        }
    }

    /// The `len` bytes from `at` of that payload.
    #[inline]
    fn slice(&mut self, data: &Data<'_>, at: usize, len: usize) -> Bytes {
        if len == 0 {
            return Bytes::new();
        }
        let position = data.offset + at;
        let from = position.wrapping_sub(self.start);
        if position >= self.start && from + len <= self.bytes.len() {
            return self.bytes.slice(from..from + len);
        }
        if len >= SHARED_MESSAGE_BYTES_MAX {
            return Bytes::copy_from_slice(&data.rest[at..at + len]);
        }
        let end = data.rest.len().min(at + SHARED_BYTES_MAX);
        self.bytes = Bytes::copy_from_slice(&data.rest[at..end]);
        self.start = position;
        self.bytes.slice(..len)
    }
}

/// Why the DATA of a stream is no sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutError {
    TooLarge {
        len: u32,
    },
    /// The flag of a compressed message, though the head named no compression.
    Compressed,
    UnknownFlags(u8),
}

/// The flags of a message as it is, and of a compressed one.
///
/// Source: gRPC over HTTP2, "Compressed-Flag".
const PLAIN: u8 = 0;
const PACKED: u8 = 1;

/// What a message may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Units: bytes, as they come.
    pub(super) len_max: u32,
    /// Whether the head named a compression.
    pub(super) may_be_packed: bool,
}

/// A message as it came.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) message: Bytes,
    pub(super) is_packed: bool,
    /// Bytes of this payload that belong to it.
    pub(super) credit: u32,
}

/// What a stream has of its next message.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    partial: Option<Box<Partial>>,
}

#[derive(Debug, Default)]
struct Partial {
    prefix: [u8; MESSAGE_PREFIX_BYTES],
    prefix_len: usize,
    body: BytesMut,
    body_len: usize,
}

impl Assembly {
    /// Whether the stream is inside a message.
    pub(super) fn is_inside(&self) -> bool {
        self.partial.is_some()
    }

    /// Memory of the unfinished message.
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.body.len())
    }

    /// Takes a payload; calls `emit` for each message with how many bytes of the payload it brought. Returns the rest
    /// of the payload's bytes, which are part of an unfinished message.
    #[inline]
    pub(super) fn feed(
        &mut self,
        data: &Data<'_>,
        shared: &mut SharedCopy,
        rules: Rules,
        mut emit: impl FnMut(Cut),
    ) -> Result<u32, CutError> {
        let payload = data.payload();
        let mut at = 0;
        loop {
            if let Some(partial) = &mut self.partial {
                let before = at;
                at += partial.fill(&payload[at..], rules)?;
                if !partial.is_complete() {
                    return Ok((at - before) as u32);
                }
                let cut = Cut {
                    message: std::mem::take(&mut partial.body).freeze(),
                    is_packed: partial.prefix[0] == PACKED,
                    credit: (at - before) as u32,
                };
                self.partial = None;
                emit(cut);
            }
            let left = &payload[at..];
            if left.is_empty() {
                return Ok(0);
            }
            match left.first_chunk() {
                Some(prefix) => {
                    let len = message_len(prefix, rules)?;
                    if left.len() >= MESSAGE_PREFIX_BYTES + len {
                        let message = shared.slice(data, at + MESSAGE_PREFIX_BYTES, len);
                        at += MESSAGE_PREFIX_BYTES + len;
                        emit(Cut {
                            message,
                            is_packed: prefix[0] == PACKED,
                            credit: (MESSAGE_PREFIX_BYTES + len) as u32,
                        });
                        continue;
                    }
                    self.partial = Some(Box::default());
                }
                None => self.partial = Some(Box::default()),
            }
        }
    }
}

impl Partial {
    /// Takes what belongs to the message from the front of `bytes`; returns how much that was.
    fn fill(&mut self, bytes: &[u8], rules: Rules) -> Result<usize, CutError> {
        let mut taken = 0;
        if self.prefix_len < MESSAGE_PREFIX_BYTES {
            taken = bytes.len().min(MESSAGE_PREFIX_BYTES - self.prefix_len);
            self.prefix[self.prefix_len..self.prefix_len + taken].copy_from_slice(&bytes[..taken]);
            self.prefix_len += taken;
            if self.prefix_len < MESSAGE_PREFIX_BYTES {
                return Ok(taken);
            }
            self.body_len = message_len(&self.prefix, rules)?;
        }
        // The buffer grows with what has come, not with what the prefix promises.
        let part = (self.body_len - self.body.len()).min(bytes.len() - taken);
        self.body.extend_from_slice(&bytes[taken..taken + part]);
        Ok(taken + part)
    }

    fn is_complete(&self) -> bool {
        self.prefix_len == MESSAGE_PREFIX_BYTES && self.body.len() == self.body_len
    }
}

fn message_len(prefix: &[u8; MESSAGE_PREFIX_BYTES], rules: Rules) -> Result<usize, CutError> {
    let [flags, l3, l2, l1, l0] = *prefix;
    let len = u32::from_be_bytes([l3, l2, l1, l0]);
    match flags {
        PLAIN | PACKED if len > rules.len_max => Err(CutError::TooLarge { len }),
        PACKED if !rules.may_be_packed => Err(CutError::Compressed),
        PLAIN | PACKED => Ok(len as usize),
        _ => Err(CutError::UnknownFlags(flags)),
    }
}

/// Appends a message with its prefix; `write` appends the message.
#[inline]
pub(super) fn put_message(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.extend_from_slice(&[0; MESSAGE_PREFIX_BYTES]);
    write(out);
    let len = u32::try_from(out.len() - start - MESSAGE_PREFIX_BYTES).expect("a message is shorter than 4 GiB");
    out[start + 1..start + MESSAGE_PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
}

/// Appends a compressed message with its prefix.
pub(super) fn put_packed(out: &mut BytesMut, packed: &[u8]) {
    out.put_u8(PACKED);
    out.put_u32(u32::try_from(packed.len()).expect("a message is shorter than 4 GiB"));
    out.put_slice(packed);
}

/// Appends the prefix of a message of that length.
pub(super) fn put_prefix(out: &mut BytesMut, len: u32) {
    out.put_u8(PLAIN);
    out.put_u32(len);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(len_max: u32) -> Rules {
        Rules {
            len_max,
            may_be_packed: false,
        }
    }

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for message in messages {
            put_message(&mut out, |o| o.extend_from_slice(message));
        }
        out.to_vec()
    }

    fn feed(assembly: &mut Assembly, bytes: &[u8], found: &mut Vec<Vec<u8>>) -> Result<u32, CutError> {
        let data = Data {
            rest: bytes,
            offset: 0,
            len: bytes.len(),
        };
        assembly.feed(&data, &mut SharedCopy::default(), rules(100_000), |cut| {
            found.push(cut.message.to_vec())
        })
    }

    #[test]
    fn messages_are_the_same_however_the_bytes_are_cut() {
        let messages: Vec<Vec<u8>> = [0, 1, 5, 300, 0, 5000, 4].iter().map(|&n| vec![n as u8; n]).collect();
        let bytes = framed(&messages);
        for step in [1, 2, 3, 5, 6, 7, 100, 4096, bytes.len()] {
            let (mut assembly, mut found) = (Assembly::default(), Vec::new());
            for piece in bytes.chunks(step) {
                feed(&mut assembly, piece, &mut found).unwrap();
            }
            assert_eq!(found, messages, "step {step}");
            assert!(!assembly.is_inside());
        }
    }

    #[test]
    fn every_byte_is_credited_once() {
        let bytes = framed(&[vec![1; 10], vec![2; 20], vec![3; 30]]);
        for step in [1, 7, 16, 33, 100] {
            let (mut assembly, mut credited) = (Assembly::default(), 0);
            for piece in bytes.chunks(step) {
                let data = Data {
                    rest: piece,
                    offset: 0,
                    len: piece.len(),
                };
                credited += assembly
                    .feed(&data, &mut SharedCopy::default(), rules(100), |cut| {
                        credited += cut.credit
                    })
                    .unwrap();
            }
            assert_eq!(credited as usize, bytes.len(), "step {step}");
        }
    }

    #[test]
    fn small_neighbours_share_one_copy_and_large_ones_have_their_own() {
        let bytes = framed(&[vec![1; 300], vec![2; 300], vec![3; 5000], vec![4; 300]]);
        let data = Data {
            rest: &bytes,
            offset: 0,
            len: bytes.len(),
        };
        let mut found = Vec::new();
        Assembly::default()
            .feed(&data, &mut SharedCopy::default(), rules(10_000), |cut| {
                found.push(cut.message)
            })
            .unwrap();
        assert_eq!(found[0].as_ptr() as usize + 305, found[1].as_ptr() as usize);
        assert_eq!(found[0].as_ptr() as usize + 2 * 305 + 5005, found[3].as_ptr() as usize);
    }

    #[test]
    fn a_compressed_message_is_told_from_others_where_the_head_allows_it() {
        let mut bytes = BytesMut::new();
        put_packed(&mut bytes, b"packed");
        put_message(&mut bytes, |out| out.extend_from_slice(b"plain"));
        let rules = Rules {
            len_max: 100,
            may_be_packed: true,
        };
        for step in [1, 8, bytes.len()] {
            let (mut assembly, mut found) = (Assembly::default(), Vec::new());
            for piece in bytes.chunks(step) {
                let data = Data {
                    rest: piece,
                    offset: 0,
                    len: piece.len(),
                };
                let emit = |cut: Cut| found.push((cut.message, cut.is_packed));
                assembly.feed(&data, &mut SharedCopy::default(), rules, emit).unwrap();
            }
            assert_eq!(found, [("packed".into(), true), ("plain".into(), false)], "step {step}");
        }
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_by_its_prefix() {
        let mut found = Vec::new();
        let result = feed(&mut Assembly::default(), &[0, 0, 1, 0x86, 0xa1], &mut found);
        assert_eq!(result, Err(CutError::TooLarge { len: 100_001 }));
        assert_eq!(
            feed(&mut Assembly::default(), &[1, 0, 0, 0, 0], &mut found),
            Err(CutError::Compressed)
        );
        assert_eq!(
            feed(&mut Assembly::default(), &[2, 0, 0, 0, 0], &mut found),
            Err(CutError::UnknownFlags(2))
        );
    }
}
