//! Bytes by hand: HTTP/2 frame heads, request header blocks, and the little protobuf that the hot loops need.

/// Bytes before the payload of a frame.
///
/// Source: RFC 9113 section 4.1.
pub(super) const FRAME_HEAD_BYTES: usize = 9;

/// Bytes before a gRPC message: one of flags, four of length.
pub(super) const MESSAGE_PREFIX_BYTES: usize = 5;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITY: u8 = 0x20;

pub(super) const SETTING_HEADER_TABLE_SIZE: u16 = 1;
pub(super) const SETTING_ENABLE_PUSH: u16 = 2;
pub(super) const SETTING_MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const SETTING_INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const SETTING_MAX_FRAME_SIZE: u16 = 5;

/// The first nine bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    /// Reads a head from bytes that hold at least one.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> FrameHead {
        FrameHead {
            len: u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize,
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) & 0x7fff_ffff,
        }
    }

    #[inline]
    pub(super) fn put(self, out: &mut Vec<u8>) {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        out.extend_from_slice(&[a, b, c, self.kind, self.flags, d, e, f, g]);
    }
}

/// A whole frame.
pub(super) fn put_frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let len = payload.len();
    FrameHead {
        len,
        kind,
        flags,
        stream,
    }
    .put(out);
    out.extend_from_slice(payload);
}

/// A frame whose payload is one number: WINDOW_UPDATE or RST_STREAM.
pub(super) fn put_number(kind: u8, stream: u32, number: u32, out: &mut Vec<u8>) {
    put_frame(kind, 0, stream, &number.to_be_bytes(), out);
}

/// A SETTINGS frame.
pub(super) fn put_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    for (id, value) in settings {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put_frame(SETTINGS, 0, 0, &payload, out);
}

/// The header block of a unary or streaming call: what to send first on a connection, and what ever after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestBlocks {
    pub(super) first: Vec<u8>,
    pub(super) later: Vec<u8>,
}

impl RequestBlocks {
    /// Blocks for one path on one connection. When the server keeps a table (`indexed`), the first block fills it and the
    /// later ones are a few bytes, as every gRPC client does it; else each block spells everything out.
    ///
    /// Bounds: one path per connection, since the table's order is assumed.
    pub(super) fn new(path: &str, authority: &str, indexed: bool) -> RequestBlocks {
        const POST: u8 = 0x83;
        const SCHEME_HTTP: u8 = 0x86;
        // Name as an index of the static table (RFC 7541 appendix A), 0 for a new name.
        let fields: [(u8, &str, &str); 5] = [
            (4, ":path", path),
            (1, ":authority", authority),
            (31, "content-type", "application/grpc"),
            (58, "user-agent", "etcore-bench"),
            (0, "te", "trailers"),
        ];
        let mut first = vec![POST, SCHEME_HTTP];
        let mut later = first.clone();
        if !indexed {
            first.insert(0, 0x20); // the table shrinks to nothing, which the first block must say
        }
        for (place, (index, name, value)) in fields.into_iter().enumerate() {
            let literal = |out: &mut Vec<u8>| {
                let (kind, prefix_bits) = if indexed { (0x40, 6) } else { (0x00, 4) };
                put_integer(kind, prefix_bits, index as usize, out);
                if index == 0 {
                    put_string(name, out);
                }
                put_string(value, out);
            };
            literal(&mut first);
            if indexed {
                // The newest entry of the dynamic table is number 62.
                later.push(0x80 | (62 + fields.len() - 1 - place) as u8);
            } else {
                literal(&mut later);
            }
        }
        RequestBlocks { first, later }
    }
}

/// Source: RFC 7541 section 5.1.
fn put_integer(kind: u8, prefix_bits: u8, value: usize, out: &mut Vec<u8>) {
    let max = (1usize << prefix_bits) - 1;
    if value < max {
        return out.push(kind | value as u8);
    }
    out.push(kind | max as u8);
    put_varint((value - max) as u64, out);
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    put_integer(0, 7, text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// Source: the Protobuf wire format, "Base 128 Varints".
pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number field; 0 is left out, as proto3 does it.
pub(super) fn put_uint(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        put_varint(u64::from(field) << 3, out);
        put_varint(value, out);
    }
}

/// A bytes field, or a message in a field. Returns where the bytes begin in `out`.
pub(super) fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) -> usize {
    put_varint(u64::from(field) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
    out.len() - bytes.len()
}

/// The prefix and then the message.
pub(super) fn put_message(message: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Uint(u64),
    Bytes(&'a [u8]),
}

/// Walks over the fields of a message; stops at the end, or before what is no protobuf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    #[inline]
    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let len = usize::try_from(len).ok().filter(|&len| len <= self.0.len())?;
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    #[inline]
    fn next(&mut self) -> Option<(u32, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Uint(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Bytes(self.take(4)?),
            _ => return None,
        };
        Some(((tag >> 3) as u32, value))
    }
}
