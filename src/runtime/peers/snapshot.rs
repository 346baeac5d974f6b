//! Snapshots for members that lag behind the log: the pages of one durable root, on a connection of their own.
//!
//! After the handshake come the message and the pieces that [`Outbound`](crate::member::Outbound) cuts and
//! [`Inbound`](crate::member::Inbound) takes; the answer goes back once the file is durable beside the tree. The frames
//! carry checksums. Nothing holds the core: pages are read on the thread that may block, a piece a time, and what is
//! received is written through the ring, bounded in each write and in what waits for a sync.
//!
//! A transfer that is cut leaves nothing behind: the receiver takes its file away, and the next one begins anew.

mod progress;
mod receive;
mod send;

use std::{io, time::Duration};

use net::{
    io::Stream,
    peer::{Decoder, Frame, FrameError},
};

pub use receive::{discard, receive};
pub use send::start;

use crate::member;

/// Bytes of pages in one piece. Units: bytes.
const PIECE_BYTES: usize = 1 << 20;
/// A receiver that gets nothing for this long gives up.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Units: bytes. One read.
const READ_BYTES: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    File(#[from] glommio::GlommioError<()>),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Pieces(#[from] member::TransferError),
    #[error("{0}")]
    Other(String),
}

/// The connection's next frame.
async fn next_frame(stream: &mut Stream, decoder: &mut Decoder, buf: &mut [u8]) -> Result<Frame, TransferError> {
    loop {
        if let Some(frame) = decoder.take_frame()? {
            return Ok(frame);
        }
        match stream.read(buf).await? {
            0 => return Err(TransferError::Other("the connection ended before its time".into())),
            read => decoder.feed(&buf[..read]),
        }
    }
}
