//! Frames on the wire: the head of nine octets, types, flags and settings.
//!
//! Source: RFC 9113 sections 4.1 and 6.

use bytes::{BufMut, BytesMut};

/// What a client sends first; by it HTTP/2 is told from HTTP/1.1 on one port.
///
/// Source: RFC 9113 section 3.4.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Octets of the head of a frame.
pub(crate) const HEAD_BYTES: usize = 9;

/// Largest payload accepted and sent: the default, and the least that every peer must take.
///
/// Source: RFC 9113 section 4.2.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16_384;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const HAS_PRIORITY: u8 = 0x20;

pub(crate) const SETTING_HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const SETTING_ENABLE_PUSH: u16 = 2;
pub(crate) const SETTING_MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const SETTING_INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const SETTING_MAX_FRAME_SIZE: u16 = 5;
pub(crate) const SETTING_MAX_HEADER_LIST_SIZE: u16 = 6;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) len: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl FrameHead {
    /// Reads the head that `bytes` starts with.
    #[inline]
    pub(crate) fn parse(bytes: &[u8; HEAD_BYTES]) -> FrameHead {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *bytes;
        FrameHead {
            len: u32::from_be_bytes([0, l2, l1, l0]),
            kind,
            flags,
            stream: u32::from_be_bytes([s3, s2, s1, s0]) & 0x7fff_ffff,
        }
    }

    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let [_, l2, l1, l0] = self.len.to_be_bytes();
        let [s3, s2, s1, s0] = self.stream.to_be_bytes();
        [l2, l1, l0, self.kind, self.flags, s3, s2, s1, s0]
    }

    #[inline]
    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends the head of a frame.
#[inline]
pub(crate) fn put_head(kind: u8, flags: u8, stream: u32, len: usize, out: &mut BytesMut) {
    debug_assert!(len <= PAYLOAD_BYTES_MAX);
    out.extend_from_slice(
        &FrameHead {
            len: len as u32,
            kind,
            flags,
            stream,
        }
        .to_bytes(),
    );
}

/// Appends a frame whose payload is one number: RST_STREAM or WINDOW_UPDATE.
pub(crate) fn put_number(kind: u8, stream: u32, number: u32, out: &mut BytesMut) {
    put_head(kind, 0, stream, 4, out);
    out.put_u32(number);
}

/// Appends a SETTINGS frame.
pub(crate) fn put_settings(settings: &[(u16, u32)], out: &mut BytesMut) {
    put_head(SETTINGS, 0, 0, settings.len() * 6, out);
    for &(id, value) in settings {
        out.put_u16(id);
        out.put_u32(value);
    }
}

/// Appends a PING.
pub(crate) fn put_ping(flags: u8, payload: [u8; 8], out: &mut BytesMut) {
    put_head(PING, flags, 0, 8, out);
    out.extend_from_slice(&payload);
}

/// Appends a GOAWAY.
pub(crate) fn put_goaway(last_stream: u32, code: u32, debug: &[u8], out: &mut BytesMut) {
    put_head(GOAWAY, 0, 0, 8 + debug.len(), out);
    out.put_u32(last_stream);
    out.put_u32(code);
    out.extend_from_slice(debug);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    }

    #[test]
    fn the_head_is_nine_octets_in_network_order() {
        let head = FrameHead {
            len: 0x01_02_03,
            kind: HEADERS,
            flags: 0x25,
            stream: 0x0a_0b_0c_0d,
        };
        assert_eq!(head.to_bytes(), [1, 2, 3, 1, 0x25, 0x0a, 0x0b, 0x0c, 0x0d]);
        assert_eq!(FrameHead::parse(&head.to_bytes()), head);
    }

    #[test]
    fn the_reserved_bit_of_the_stream_number_is_ignored() {
        assert_eq!(FrameHead::parse(&[0, 0, 0, 0, 0, 0x80, 0, 0, 1]).stream, 1);
    }

    #[test]
    fn control_frames_have_their_golden_bytes() {
        assert_eq!(
            written(|o| put_settings(&[(4, 0x100000)], o)),
            [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 16, 0, 0]
        );
        assert_eq!(written(|o| put_settings(&[], o)), [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(
            written(|o| put_number(RST_STREAM, 3, 8, o)),
            [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8]
        );
        assert_eq!(
            written(|o| put_number(WINDOW_UPDATE, 0, 1, o)),
            [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        );
        assert_eq!(
            written(|o| put_ping(ACK, *b"12345678", o)),
            [
                0, 0, 8, 6, 1, 0, 0, 0, 0, b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8'
            ]
        );
        assert_eq!(
            written(|o| put_goaway(5, 11, b"x", o)),
            [0, 0, 9, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 11, b'x']
        );
    }
}
