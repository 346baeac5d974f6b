//! Frames: length, checksum, kind, and one table each.

use bytes::{Buf, Bytes, BytesMut};
use flatbuffers::FlatBufferBuilder;
use raft::Message;

use super::{Answer, Call, Handshake, MAGIC, table::TableError};

/// Bytes of a frame before its payload.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of the header that the checksum does not cover: magic, length, checksum.
const UNCOVERED_BYTES: usize = 12;

/// One thing a peer says.
#[expect(clippy::large_enum_variant, reason = "messages are by far the most frequent")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Who is there; the first frame each way.
    Handshake(Handshake),
    /// A message of consensus.
    Message(Message),
    /// A request to the leader.
    Call(Call),
    /// The answer to one.
    Answer(Answer),
    /// A piece of a snapshot.
    Chunk(Bytes),
    /// The connection is alive; who is asked so on a connection for messages says the same.
    Beat,
}

/// Why bytes are not a frame. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something else stands where a frame should begin.
    #[error(
        "no frame begins here (found {found:02x?}): the other side is no etcore member, or speaks another protocol"
    )]
    Magic {
        /// What stands there.
        found: [u8; 4],
    },
    /// The frame claims to be longer than allowed.
    #[error("a frame of {len} bytes is longer than the {max} allowed")]
    TooLong {
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The length was damaged on the way: without this check the rest of the connection would be waited for as one frame.
    #[error("a frame's header is damaged: expected check {expected:06x}, found {found:06x}")]
    Header {
        /// As the frame says.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// The bytes were damaged on the way.
    #[error("a frame's checksum is wrong: expected {expected:08x}, found {found:08x}")]
    Checksum {
        /// As the frame says.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// A kind that this version does not know.
    #[error("a frame has the unknown kind {0}; a newer member sent it")]
    Kind(u8),
    /// The payload is not what its kind promises.
    #[error("a frame of kind {kind} cannot be read: {error}")]
    Payload {
        /// Its kind.
        kind: u8,
        /// Why.
        error: TableError,
    },
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Handshake = 1,
    Message = 2,
    Call = 3,
    Answer = 4,
    Chunk = 5,
    Beat = 6,
}

/// Turns frames into bytes; keeps its working memory between calls.
#[derive(Default)]
pub struct Encoder {
    builder: FlatBufferBuilder<'static>,
}

impl Encoder {
    /// Appends a handshake to `out`.
    pub fn handshake(&mut self, handshake: &Handshake, out: &mut Vec<u8>) {
        handshake.build(&mut self.builder);
        self.finish(Kind::Handshake, out);
    }

    /// Appends a message of consensus.
    pub fn message(&mut self, message: &Message, out: &mut Vec<u8>) {
        super::message::build(message, &mut self.builder);
        self.finish(Kind::Message, out);
    }

    /// Appends a request to the leader.
    pub fn call(&mut self, call: &Call, out: &mut Vec<u8>) {
        call.build(&mut self.builder);
        self.finish(Kind::Call, out);
    }

    /// Appends an answer.
    pub fn answer(&mut self, answer: &Answer, out: &mut Vec<u8>) {
        answer.build(&mut self.builder);
        self.finish(Kind::Answer, out);
    }

    /// Appends a piece of a snapshot; its payload is the bare bytes.
    pub fn chunk(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        put(Kind::Chunk, bytes, out);
    }

    /// Appends a sign of life; it has no payload.
    pub fn beat(&mut self, out: &mut Vec<u8>) {
        put(Kind::Beat, &[], out);
    }

    fn finish(&mut self, kind: Kind, out: &mut Vec<u8>) {
        put(kind, self.builder.finished_data(), out);
        self.builder.reset();
    }
}

fn put(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(payload.len()).expect("the builder makes less than 2 GiB");
    let [a, b, c, _] = header_check(len, kind as u8).to_le_bytes();
    let covered = [kind as u8, a, b, c];
    let crc = crc32c::crc32c_append(crc32c::crc32c(&covered), payload);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&covered);
    out.extend_from_slice(payload);
}

/// What the three bytes behind the kind must be, so that a length can be trusted before its bytes have come.
fn header_check(len: u32, kind: u8) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&len.to_le_bytes()), &[kind]) & 0xff_ffff
}

/// Turns bytes into frames.
pub struct Decoder {
    held: BytesMut,
    frame_bytes_max: usize,
}

impl Decoder {
    /// A decoder that refuses longer payloads.
    pub fn new(frame_bytes_max: usize) -> Decoder {
        Decoder {
            held: BytesMut::new(),
            frame_bytes_max,
        }
    }

    /// Allows longer payloads from now on.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Addresses of what is held.
    #[cfg(test)]
    pub(super) fn held_range(&self) -> std::ops::Range<usize> {
        let start = self.held.as_ptr() as usize;
        start..start + self.held.len()
    }

    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// Errors: what came is no frame; nothing behind it can be read.
    pub fn take_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let begun = self.held.len().min(MAGIC.len());
        if self.held[..begun] != MAGIC[..begun] {
            let mut found = [0; 4];
            found[..begun].copy_from_slice(&self.held[..begun]);
            return Err(FrameError::Magic { found });
        }
        if self.held.len() < HEADER_BYTES {
            return Ok(None);
        }
        let word = |at: usize| u32::from_le_bytes(self.held[at..at + 4].try_into().expect("four bytes"));
        let (len, expected, kind) = (word(4), word(8), self.held[UNCOVERED_BYTES]);
        let (check, found) = (word(UNCOVERED_BYTES) >> 8, header_check(len, kind));
        if check != found {
            return Err(FrameError::Header { expected: check, found });
        }
        let len = len as usize;
        if len > self.frame_bytes_max {
            return Err(FrameError::TooLong {
                len,
                max: self.frame_bytes_max,
            });
        }
        if self.held.len() < HEADER_BYTES + len {
            return Ok(None);
        }
        let mut frame = self.held.split_to(HEADER_BYTES + len).freeze();
        let found = crc32c::crc32c(&frame[UNCOVERED_BYTES..]);
        if found != expected {
            return Err(FrameError::Checksum { expected, found });
        }
        frame.advance(HEADER_BYTES);
        parse(kind, &frame).map(Some)
    }
}

fn parse(kind: u8, payload: &Bytes) -> Result<Frame, FrameError> {
    let parsed = match kind {
        kind if kind == Kind::Handshake as u8 => Handshake::parse(payload).map(Frame::Handshake),
        kind if kind == Kind::Message as u8 => super::message::parse(payload).map(Frame::Message),
        kind if kind == Kind::Call as u8 => Call::parse(payload).map(Frame::Call),
        kind if kind == Kind::Answer as u8 => Answer::parse(payload).map(Frame::Answer),
        kind if kind == Kind::Chunk as u8 => Ok(Frame::Chunk(payload.clone())),
        kind if kind == Kind::Beat as u8 => Ok(Frame::Beat),
        kind => return Err(FrameError::Kind(kind)),
    };
    parsed.map_err(|error| FrameError::Payload { kind, error })
}
