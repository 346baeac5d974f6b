//! What members say to each other, as bytes: frames on a TCP connection, flatbuffers inside them.
//!
//! A member dials every other one and sends on that connection only; answers come on the connection that the other one
//! dialled. The first frame each way is a [`Handshake`]; after the dialler's, and a reply that accepts, frames follow.
//! The side that was dialled says nothing more but [`Frame::Beat`], once for each that came.
//!
//! ```text
//!  frame  | magic ec 50 4c 01 | length u32 | crc32c u32 | kind u8, check u24 | payload of that length |
//! ```
//!
//! Numbers are little-endian; the check is the low part of a crc32c over length and kind, the checksum covers all behind it. The payload of each kind is one flatbuffers table.
//! Reading checks every offset as it follows it, so no input can make it panic or allocate more than it has sent, and
//! payloads of entries are slices of the frame, not copies. The magic's first byte starts no HTTP request, so that peers
//! and plain HTTP share a port.

mod call;
mod frame;
mod handshake;
mod message;
mod table;

#[cfg(test)]
mod tests;

pub use call::{Answer, Call, CallMethod};
pub use frame::{Decoder, Encoder, Frame, FrameError};
pub use handshake::{Handshake, Purpose, Verdict};
pub use table::TableError;

/// What every connection between members begins with.
pub const MAGIC: [u8; 4] = [0xec, b'P', b'L', 1];

/// Version of the protocol this program speaks.
pub const PROTOCOL_VERSION: u16 = 2;

/// Oldest version of a peer's protocol that this program can talk to.
pub const PROTOCOL_MIN_VERSION: u16 = 2;

/// Longest frame before the handshake is done. Units: bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 4 << 10;

/// Longest frame after it; a message that needs more is dropped by its sender. Units: bytes.
pub const FRAME_BYTES_MAX: usize = 512 << 20;
