//! The sending side.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use net::{
    io::{Stream, within},
    peer::{Decoder, Encoder, Frame, Purpose},
};
use raft::Message;
use storage::tree::Root;

use super::{
    super::{Context, link::connect_to},
    PIECE_BYTES, READ_BYTES, TransferError, next_frame,
    progress::Progress,
};
use crate::{
    member::{Event, Outbound},
    runtime::{now_ns, pause::breathe},
};

/// A transfer that takes longer is given up and begun anew: it keeps old pages from being reused. With a limited rate it
/// is twice the time that the rate asks for, if that is longer.
const TRANSFER_MAX: Duration = Duration::from_secs(600);
/// A transfer that failed is begun anew after this long.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

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
        let patience = patience(ctx.snapshot_rate, root.size_bytes());
        let sent = within(patience, send(&ctx, &urls, message, root)).await;
        let result = sent.unwrap_or_else(|| Err(TransferError::Other("it took too long".into())));
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

fn patience(rate: Option<u64>, bytes: u64) -> Duration {
    let by_rate = rate.map_or(0, |rate| 2 * bytes / rate.max(1));
    TRANSFER_MAX.max(Duration::from_secs(by_rate))
}

async fn send(ctx: &Context, urls: &[String], message: Message, root: Arc<Root>) -> Result<(), TransferError> {
    let other = |error: &dyn std::fmt::Display| TransferError::Other(error.to_string());
    let url = urls.first().ok_or_else(|| other(&"it has no peer URL"))?;
    let metrics = ctx.metrics.peers.of(message.to);
    let mut stream = connect_to(ctx, message.to, url, Purpose::Snapshot)
        .await
        .map_err(|error| other(&error))?;
    let blocking = glommio::executor();
    let mut outbound = blocking
        .spawn_blocking(move || Outbound::plan(root, PIECE_BYTES))
        .await?;
    let mut progress = Progress::begin("sending a snapshot", message.to, outbound.total_bytes(), now_ns());
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    encoder.message(&outbound.describe(message)?, &mut out);
    stream.write_all(&out).await?;
    loop {
        let read = blocking.spawn_blocking(move || (outbound.next_piece(), outbound));
        let (piece, rest) = read.await;
        outbound = rest;
        let Some(piece) = piece else { break };
        let bytes = write_piece(&mut stream, &mut encoder, &piece).await?;
        metrics.sent_bytes.add(bytes);
        progress.add(piece.len() as u64, now_ns());
        match ctx.snapshot_rate {
            Some(rate) => glommio::timer::sleep(progress.pause(rate, now_ns()).max(Duration::from_micros(1))).await,
            None => breathe().await,
        }
    }
    let mut buf = vec![0; READ_BYTES];
    match next_frame(&mut stream, &mut Decoder::new(PIECE_BYTES), &mut buf).await? {
        Frame::Answer(answer) if answer.status == 0 => Ok(()),
        _ => Err(other(&"the member could not take it over")),
    }
}

async fn write_piece(stream: &mut Stream, encoder: &mut Encoder, piece: &[u8]) -> io::Result<u64> {
    let mut out = Vec::with_capacity(piece.len() + 64);
    encoder.chunk(piece, &mut out);
    stream.write_all(&out).await?;
    Ok(out.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_rate_is_given_the_time_it_takes() {
        assert_eq!(patience(None, u64::MAX), TRANSFER_MAX);
        assert_eq!(patience(Some(1 << 20), 1 << 20), TRANSFER_MAX);
        assert_eq!(patience(Some(1 << 20), 2 << 30), Duration::from_secs(4096));
    }
}
