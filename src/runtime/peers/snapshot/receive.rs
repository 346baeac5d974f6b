//! The receiving side.

use std::{path::Path, rc::Rc};

use bytes::Bytes;
use glommio::io::{BufferedFile, Directory, OpenOptions, remove};
use net::{
    io::{Stream, within},
    peer::{Answer, Decoder, Encoder, Frame},
};
use raft::{Message, MessageType};

use super::{super::Context, READ_BYTES, SILENCE_MAX, TransferError, next_frame, progress::Progress};
use crate::{
    member::{Event, INCOMING, Inbound, Outbound, Step},
    runtime::{now_ns, pause::breathe},
};

/// Longest write of the file: what the kernel copies while the core waits. Units: bytes.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// So much of the file may wait for the disk; it bounds what is written to after the last piece. Units: bytes.
const UNSYNCED_BYTES_MAX: u64 = 16 << 20;

/// Takes in a snapshot, answers, and tells the core.
pub async fn receive(ctx: Rc<Context>, from: u64, mut stream: Stream, mut decoder: Decoder) {
    let peer = format!("{from:x}");
    if ctx.receiving.replace(true) {
        tracing::warn!(peer, "another snapshot is on its way already; this one is refused");
        return;
    }
    let (metrics, started_ns) = (ctx.metrics.peers.of(from), now_ns());
    metrics.snapshot_received.inflight.set(1);
    tracing::info!(peer, "receiving a snapshot");
    let result = take_in(&ctx, from, &mut stream, &mut decoder).await;
    let status = u8::from(result.is_err());
    let took_ns = now_ns() - started_ns;
    metrics.snapshot_received.ended(result.is_ok(), took_ns);
    match result {
        Ok(message) => {
            ctx.metrics.snapshot_save.observe_ns(took_ns);
            ctx.tell(Event::SnapshotReceived(Box::new(message)));
        }
        Err(error) => {
            tracing::warn!(peer, %error, "the snapshot could not be received; what came of it is thrown away");
            discard(&ctx).await;
        }
    }
    let mut out = Vec::new();
    let answer = Answer {
        status,
        ..Answer::default()
    };
    Encoder::default().answer(&answer, &mut out);
    let _ = stream.write_all(&out).await;
    let _ = stream.shutdown_write();
}

/// Takes away what was received and is not wanted, and lets the next one come.
pub async fn discard(ctx: &Context) {
    let path = ctx.data_dir.join(INCOMING);
    // Where it never came to a file there is none to remove; and what stays is overwritten by the next.
    let _ = remove(path).await;
    ctx.receiving.set(false);
}

async fn take_in(
    ctx: &Context,
    from: u64,
    stream: &mut Stream,
    decoder: &mut Decoder,
) -> Result<Message, TransferError> {
    let mut buf = vec![0; READ_BYTES];
    let mut message = match frame_in_time(stream, decoder, &mut buf).await? {
        Frame::Message(message)
            if message.msg_type == MessageType::MsgSnap
                && message.from == from
                && message.to == ctx.member_id
                && message.snapshot.is_some() =>
        {
            message
        }
        _ => return Err(TransferError::Other("it does not begin with its message".into())),
    };
    let mut incoming = Incoming::create(ctx, from, Outbound::told_bytes(&mut message)).await?;
    let mut inbound = Inbound::default();
    loop {
        let Frame::Chunk(piece) = frame_in_time(stream, decoder, &mut buf).await? else {
            return Err(TransferError::Other("something else came between its pieces".into()));
        };
        match inbound.take(&piece)? {
            Step::Write { offset, bytes } => incoming.write(offset, bytes).await?,
            Step::End { len } => {
                incoming.finish(len).await?;
                return Ok(message);
            }
        }
    }
}

/// The file that a snapshot is received into.
struct Incoming<'c> {
    ctx: &'c Context,
    file: BufferedFile,
    unsynced: u64,
    progress: Progress,
}

impl Incoming<'_> {
    async fn create(ctx: &Context, from: u64, total_bytes: u64) -> Result<Incoming<'_>, TransferError> {
        let mut how = OpenOptions::new();
        how.write(true).create(true).truncate(true).mode(0o600);
        Ok(Incoming {
            ctx,
            file: how.buffered_open(ctx.data_dir.join(INCOMING)).await?,
            unsynced: 0,
            progress: Progress::begin("receiving a snapshot", from, total_bytes, now_ns()),
        })
    }

    /// Writes a piece, in parts, with a breath after each.
    async fn write(&mut self, mut offset: u64, bytes: Bytes) -> Result<(), TransferError> {
        for part in bytes.chunks(WRITE_BYTES_MAX) {
            let mut rest = part;
            while !rest.is_empty() {
                let written = self.file.write_at(rest.to_vec(), offset).await?;
                if written == 0 {
                    return Err(TransferError::Other("the disk took nothing of a write".into()));
                }
                rest = &rest[written..];
                offset += written as u64;
            }
            breathe().await;
        }
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= UNSYNCED_BYTES_MAX {
            self.sync().await?;
        }
        self.progress.add(bytes.len() as u64, now_ns());
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), TransferError> {
        let since_ns = now_ns();
        self.file.fdatasync().await?;
        self.ctx.metrics.snapshot_fsync.observe_ns(now_ns() - since_ns);
        self.unsynced = 0;
        Ok(())
    }

    /// Makes a durable file of `len` bytes.
    async fn finish(mut self, len: u64) -> Result<(), TransferError> {
        self.file.truncate(len).await?;
        self.sync().await?;
        self.file.close().await?;
        sync_dir(&self.ctx.data_dir).await?;
        self.progress.end("a snapshot is received whole", now_ns());
        Ok(())
    }
}

async fn sync_dir(path: &Path) -> Result<(), TransferError> {
    let dir = Directory::open(path).await?;
    dir.sync().await?;
    Ok(dir.close().await?)
}

async fn frame_in_time(stream: &mut Stream, decoder: &mut Decoder, buf: &mut [u8]) -> Result<Frame, TransferError> {
    let frame = within(SILENCE_MAX, next_frame(stream, decoder, buf)).await;
    frame.unwrap_or_else(|| Err(TransferError::Other("nothing came for too long".into())))
}
