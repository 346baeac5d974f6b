//! Snapshots for members that lag behind the log: the pages of one durable root, on a connection of their own.
//!
//! After the handshake come the message and the pieces that [`Outbound`] cuts and [`Inbound`] takes; the answer goes back
//! once the file is durable beside the tree. The frames carry checksums. Files are read and written on threads that may
//! block.

use std::{fs::File, io, os::unix::fs::FileExt, rc::Rc, sync::Arc, time::Duration};

use net::{
    io::Stream,
    peer::{Answer, Decoder, Encoder, Frame, FrameError, Purpose},
};
use raft::{Message, MessageType};
use storage::tree::Root;

use super::{Context, link::connect_to};
use crate::{
    member::{self, Event, INCOMING, Inbound, Outbound, Step},
    runtime::now_ns,
};

/// Bytes of pages in one piece. Units: bytes.
const PIECE_BYTES: usize = 1 << 20;
/// A transfer that takes longer is given up and begun anew: it keeps old pages from being reused.
const TRANSFER_MAX: Duration = Duration::from_secs(600);
/// A receiver that gets nothing for this long gives up.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A transfer that failed is begun anew after this long.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Pieces(#[from] member::TransferError),
    #[error("{0}")]
    Other(String),
}

/// Sends the root to the member that `message` is for, and tells consensus how it ended.
pub fn start(ctx: Rc<Context>, urls: Vec<String>, message: Message, root: Arc<Root>) {
    let to = message.to;
    if !ctx.sending.borrow_mut().insert(to) {
        return;
    }
    let task = async move {
        let (peer, metrics) = (format!("{to:x}"), ctx.metrics.peers.of(to));
        let started_ns = now_ns();
        metrics.snapshot_sent.inflight.set(1);
        tracing::info!(peer, bytes = root.size_bytes(), "sending a snapshot");
        let sent = glommio::timer::timeout(TRANSFER_MAX, async {
            Ok::<_, glommio::GlommioError<()>>(send(&ctx, &urls, message, root).await)
        });
        let result = sent
            .await
            .unwrap_or_else(|_| Err(TransferError::Other("it took too long".into())));
        match &result {
            Ok(()) => tracing::info!(peer, "the snapshot was taken over"),
            Err(error) => tracing::warn!(peer, %error, "the snapshot could not be sent"),
        }
        let ok = result.is_ok();
        metrics.snapshot_sent.ended(ok, now_ns() - started_ns);
        if !ok {
            // Consensus would try again with the next heartbeat.
            glommio::timer::sleep(RETRY_PAUSE).await;
        }
        ctx.sending.borrow_mut().remove(&to);
        ctx.tell(Event::SnapshotSent { to, ok });
    };
    glommio::spawn_local(task).detach();
}

async fn send(ctx: &Context, urls: &[String], message: Message, root: Arc<Root>) -> Result<(), TransferError> {
    let other = |error: &dyn std::fmt::Display| TransferError::Other(error.to_string());
    let url = urls.first().ok_or_else(|| other(&"it has no peer URL"))?;
    let mut stream = connect_to(ctx, message.to, url, Purpose::Snapshot)
        .await
        .map_err(|error| other(&error))?;
    let blocking = glommio::executor();
    let mut outbound = blocking
        .spawn_blocking(move || Outbound::plan(root, PIECE_BYTES))
        .await?;
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.message(&outbound.describe(message)?, &mut out);
    stream.write_all(&out).await?;
    loop {
        let read = blocking.spawn_blocking(move || (outbound.next_piece(), outbound));
        let (piece, rest) = read.await;
        outbound = rest;
        let Some(piece) = piece else { break };
        write_piece(&mut stream, &mut encoder, &piece).await?;
    }
    match next_frame(&mut stream, &mut Decoder::new(PIECE_BYTES)).await? {
        Frame::Answer(answer) if answer.status == 0 => Ok(()),
        _ => Err(other(&"the member could not take it over")),
    }
}

async fn write_piece(stream: &mut Stream, encoder: &mut Encoder, piece: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(piece.len() + 64);
    encoder.chunk(piece, &mut out);
    stream.write_all(&out).await
}

async fn next_frame(stream: &mut Stream, decoder: &mut Decoder) -> Result<Frame, TransferError> {
    let mut buf = vec![0; 256 << 10];
    loop {
        if let Some(frame) = decoder.take_frame()? {
            return Ok(frame);
        }
        match stream.read(&mut buf).await? {
            0 => return Err(TransferError::Other("the connection ended before its time".into())),
            read => decoder.feed(&buf[..read]),
        }
    }
}

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
    metrics.snapshot_received.ended(result.is_ok(), now_ns() - started_ns);
    match result {
        Ok(message) => ctx.tell(Event::SnapshotReceived(Box::new(message))),
        Err(error) => {
            tracing::warn!(peer, %error, "the snapshot could not be received");
            ctx.receiving.set(false);
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

async fn take_in(
    ctx: &Context,
    from: u64,
    stream: &mut Stream,
    decoder: &mut Decoder,
) -> Result<Message, TransferError> {
    let message = match frame_in_time(stream, decoder).await? {
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
    let path = ctx.data_dir.join(INCOMING);
    let blocking = glommio::executor();
    let file = Arc::new(blocking.spawn_blocking(move || File::create(path)).await?);
    let mut inbound = Inbound::default();
    loop {
        let Frame::Chunk(piece) = frame_in_time(stream, decoder).await? else {
            return Err(TransferError::Other("something else came between its pieces".into()));
        };
        match inbound.take(&piece)? {
            Step::Write { offset, bytes } => {
                let to = file.clone();
                blocking.spawn_blocking(move || to.write_all_at(&bytes, offset)).await?;
            }
            Step::End { len } => {
                let dir = ctx.data_dir.clone();
                blocking.spawn_blocking(move || make_durable(&file, len, &dir)).await?;
                return Ok(message);
            }
        }
    }
}

fn make_durable(file: &File, len: u64, dir: &std::path::Path) -> io::Result<()> {
    file.set_len(len)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

async fn frame_in_time(stream: &mut Stream, decoder: &mut Decoder) -> Result<Frame, TransferError> {
    let frame = glommio::timer::timeout(SILENCE_MAX, async {
        Ok::<_, glommio::GlommioError<()>>(next_frame(stream, decoder).await)
    });
    frame
        .await
        .unwrap_or_else(|_| Err(TransferError::Other("nothing came for too long".into())))
}
