//! Snapshots for members that lag behind the log: the pages of one durable root, on a connection of their own.
//!
//! ```text
//!  sender    handshake, the message, pieces {offset u64, bytes} ..., the end {u64::MAX, length of the file, bytes sent}
//!  receiver  handshake, an answer once the file is durable beside the tree
//! ```
//!
//! The frames carry checksums. Files are read and written on threads that may block.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt, rc::Rc, sync::Arc, time::Duration};

use net::{
    io::Stream,
    peer::{Answer, Decoder, Encoder, Frame, FrameError, Purpose},
};
use raft::{ConfState, Message, MessageType, SnapshotMetadata};
use storage::tree::Root;

use super::{Context, link::connect_to};
use crate::member::{Event, INCOMING};

/// Bytes of pages in one piece. Units: bytes.
const PIECE_BYTES: usize = 1 << 20;
/// A transfer that takes longer is given up and begun anew: it keeps old pages from being reused.
const TRANSFER_MAX: Duration = Duration::from_secs(600);
/// A receiver that gets nothing for this long gives up.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A transfer that failed is begun anew after this long.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The offset of the piece that is the end.
const END: u64 = u64::MAX;
/// No tree is longer. Units: bytes.
const FILE_BYTES_MAX: u64 = 1 << 40;

#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
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
        let peer = format!("{to:x}");
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
        if !ok {
            // Consensus would try again with the next heartbeat.
            glommio::timer::sleep(RETRY_PAUSE).await;
        }
        ctx.sending.borrow_mut().remove(&to);
        ctx.tell(Event::SnapshotSent { to, ok });
    };
    glommio::spawn_local(task).detach();
}

async fn send(ctx: &Context, urls: &[String], mut message: Message, root: Arc<Root>) -> Result<(), TransferError> {
    let other = |error: &dyn std::fmt::Display| TransferError::Other(error.to_string());
    let url = urls.first().ok_or_else(|| other(&"it has no peer URL"))?;
    let mut stream = connect_to(ctx, message.to, url, Purpose::Snapshot)
        .await
        .map_err(|error| other(&error))?;
    let user = root.user();
    // The newest durable state, which may be newer than the one consensus had in mind.
    let metadata = SnapshotMetadata {
        conf_state: ConfState::decode(&user.conf_state).map_err(|error| other(&error))?,
        index: user.applied_index,
        term: user.applied_term,
    };
    message.snapshot = Some(raft::Snapshot {
        metadata,
        ..raft::Snapshot::default()
    });
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.message(&message, &mut out);
    stream.write_all(&out).await?;
    let planned = root.clone();
    let runs = glommio::executor().spawn_blocking(move || planned.runs());
    let mut runs: VecDeque<(u64, u32)> = runs.await.map_err(|error| other(&error))?.into();
    let mut sent = 0;
    let metas = piece(0, &root.meta_bytes());
    sent += write_piece(&mut stream, &mut encoder, &metas).await?;
    while !runs.is_empty() {
        let source = root.clone();
        let read = glommio::executor().spawn_blocking(move || {
            let read = next_piece(&source, &mut runs);
            (read, runs)
        });
        let (read, left) = read.await;
        runs = left;
        sent += write_piece(&mut stream, &mut encoder, &read).await?;
    }
    let end = [root.size_bytes().to_le_bytes(), sent.to_le_bytes()].concat();
    write_piece(&mut stream, &mut encoder, &piece(END, &end)).await?;
    match next_frame(&mut stream, &mut Decoder::new(PIECE_BYTES)).await? {
        Frame::Answer(answer) if answer.status == 0 => Ok(()),
        _ => Err(other(&"the member could not take it over")),
    }
}

fn piece(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut piece = Vec::with_capacity(8 + bytes.len());
    piece.extend_from_slice(&offset.to_le_bytes());
    piece.extend_from_slice(bytes);
    piece
}

/// Pages that lie together, up to the bound, from the front of `runs`; one run is never cut.
fn next_piece(root: &Root, runs: &mut VecDeque<(u64, u32)>) -> Vec<u8> {
    let page_bytes = root.page_size() as u64;
    let start = runs.front().expect("called while there are runs").0;
    let (mut next, mut bytes) = (start, piece(start * page_bytes, &[]));
    while let Some(run) = runs.front().copied().filter(|run| run.0 == next) {
        bytes.extend_from_slice(root.run_bytes(run));
        next = run.0 + u64::from(run.1);
        runs.pop_front();
        if bytes.len() >= PIECE_BYTES {
            break;
        }
    }
    bytes
}

async fn write_piece(stream: &mut Stream, encoder: &mut Encoder, piece: &[u8]) -> Result<u64, TransferError> {
    let mut out = Vec::with_capacity(piece.len() + 64);
    encoder.chunk(piece, &mut out);
    stream.write_all(&out).await?;
    Ok(piece.len() as u64 - 8)
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
    tracing::info!(peer, "receiving a snapshot");
    let result = take_in(&ctx, from, &mut stream, &mut decoder).await;
    let status = u8::from(result.is_err());
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
    let mut received = 0;
    loop {
        let Frame::Chunk(piece) = frame_in_time(stream, decoder).await? else {
            return Err(TransferError::Other("something else came between its pieces".into()));
        };
        if piece.len() < 8 {
            return Err(TransferError::Other("a piece is cut off".into()));
        }
        let (offset, bytes) = (word(&piece), piece.slice(8..));
        if offset == END {
            return finish(ctx, file, &bytes, received).await.map(|()| message);
        }
        received += bytes.len() as u64;
        if offset.saturating_add(bytes.len() as u64) > FILE_BYTES_MAX {
            return Err(TransferError::Other("a piece lies outside of any file".into()));
        }
        let to = file.clone();
        blocking.spawn_blocking(move || to.write_all_at(&bytes, offset)).await?;
    }
}

async fn finish(ctx: &Context, file: Arc<File>, end: &[u8], received: u64) -> Result<(), TransferError> {
    if end.len() != 16 || word(&end[8..]) != received || word(end) > FILE_BYTES_MAX {
        return Err(TransferError::Other("not all of its pieces came".into()));
    }
    let (len, dir) = (word(end), ctx.data_dir.clone());
    let sync = move || {
        file.set_len(len)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    };
    glommio::executor().spawn_blocking(sync).await?;
    Ok(())
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("the length was checked"))
}

async fn frame_in_time(stream: &mut Stream, decoder: &mut Decoder) -> Result<Frame, TransferError> {
    let frame = glommio::timer::timeout(SILENCE_MAX, async {
        Ok::<_, glommio::GlommioError<()>>(next_frame(stream, decoder).await)
    });
    frame
        .await
        .unwrap_or_else(|_| Err(TransferError::Other("nothing came for too long".into())))
}
