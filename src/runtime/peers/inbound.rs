//! A connection that another member dialled: its handshake, then its frames as events.

use std::{future::poll_fn, io, rc::Rc, task::Poll, time::Duration};

use net::{
    io::{Guest, Stream, within},
    peer::{Decoder, Encoder, FRAME_BYTES_MAX, Frame, FrameError, HANDSHAKE_BYTES_MAX, Handshake, Purpose, Verdict},
};
use raft::MessageType;

use super::{Context, pulse::Pulse};
use crate::{
    member::Event,
    runtime::{now_ns, pause::breathe},
};

/// A dialler that has not said who it is by then is let go.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// A sign of life is written within this, to a socket that nearly nothing is written to.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Units: bytes. One read.
const READ_BYTES: usize = 256 << 10;
/// While this many events wait for the core, nothing more is read.
const EVENTS_MAX: usize = 1 << 16;

/// Serves the connection to its end. It is a `guest` until its handshake is there.
pub async fn serve(ctx: Rc<Context>, mut stream: Stream, guest: Guest) {
    let mut decoder = Decoder::new(HANDSHAKE_BYTES_MAX);
    let greeted = within(HANDSHAKE_MAX, greet(&mut stream, &mut decoder)).await;
    let Some(theirs) = greeted.flatten() else { return };
    drop(guest);
    let verdict = ctx.judge(&theirs);
    let mut reply = ctx.handshake(theirs.from, theirs.purpose);
    reply.verdict = verdict;
    let mut out = Vec::new();
    Encoder::default().handshake(&reply, &mut out);
    if stream.write_all(&out).await.is_err() {
        return;
    }
    let peer = format!("{:x}", theirs.from);
    if verdict != Verdict::Accepted {
        ctx.refuse(&theirs, verdict);
        let _ = stream.shutdown_write();
        return;
    }
    ctx.greeted(theirs.from, &theirs);
    decoder.set_frame_bytes_max(FRAME_BYTES_MAX);
    if theirs.purpose == Purpose::Snapshot {
        return super::snapshot::receive(ctx, theirs.from, stream, decoder).await;
    }
    // Without one there is no descriptor left, which is to be felt here and not by clients.
    let Ok(ender) = stream.ender() else { return };
    let number = ctx.presence.came(theirs.from);
    let is_member = |id| ctx.members.borrow().members.contains_key(&id);
    ctx.callers
        .enter(theirs.from, number, move || ender.end(), is_member, now_ns());
    if let Some(knock) = ctx.knocks.borrow().get(&theirs.from) {
        knock.ring();
    }
    if let Err(error) = receive(&ctx, theirs.from, &mut stream, &mut decoder).await {
        ctx.metrics.peers.of(theirs.from).received_failures.add(1);
        tracing::warn!(peer, %error, "a peer's connection makes no sense and is closed");
    }
    ctx.callers.leave(theirs.from, number);
    if ctx.presence.went(theirs.from, number) {
        ctx.gone(theirs.from);
    }
}

async fn greet(stream: &mut Stream, decoder: &mut Decoder) -> Option<Handshake> {
    let mut buf = [0; 1024];
    loop {
        match decoder.take_frame() {
            Ok(Some(Frame::Handshake(theirs))) => return Some(theirs),
            Ok(None) => {}
            other => {
                tracing::warn!(?other, "a connection to the peer port begins with no handshake");
                return None;
            }
        }
        match stream.read(&mut buf).await {
            Ok(read) if read > 0 => decoder.feed(&buf[..read]),
            _ => return None,
        }
    }
}

/// Turns frames into events until the connection ends or falls silent, which is no error.
async fn receive(ctx: &Context, from: u64, stream: &mut Stream, decoder: &mut Decoder) -> Result<(), FrameError> {
    let (mut buf, mut events, mut pulse) = (vec![0; READ_BYTES], Vec::new(), Pulse::new());
    let metrics = ctx.metrics.peers.of(from);
    loop {
        let mut beats = false;
        while let Some(frame) = decoder.take_frame()? {
            if matches!(frame, Frame::Beat) {
                beats = true;
                continue;
            }
            match event(ctx, from, frame) {
                Some(event) => events.push(event),
                None => tracing::warn!(
                    peer = format!("{from:x}"),
                    "a peer sent what is not for us; it is ignored"
                ),
            }
        }
        if ctx.to_core.send_batch(&mut events).is_err() {
            return Ok(());
        }
        while ctx.to_core.queued() > EVENTS_MAX {
            breathe().await;
        }
        if beats && !answer_beat(stream).await {
            return Ok(());
        }
        match read_or_beat(stream, &mut buf, &mut pulse).await {
            Ok(read) if read > 0 => {
                metrics.received_bytes.add(read as u64);
                decoder.feed(&buf[..read]);
            }
            Ok(_) => return Ok(()),
            Err(error) => {
                tracing::warn!(peer = format!("{from:x}"), %error, "a peer's connection is lost");
                return Ok(());
            }
        }
    }
}

/// Shows that this side lives; whether that could be said.
async fn answer_beat(stream: &mut Stream) -> bool {
    let mut out = Vec::new();
    Encoder::default().beat(&mut out);
    matches!(within(ANSWER_MAX, stream.write_all(&out)).await, Some(Ok(())))
}

/// Reads, unless nothing comes for too many beats.
async fn read_or_beat(stream: &mut Stream, buf: &mut [u8], pulse: &mut Pulse) -> io::Result<usize> {
    poll_fn(|cx| {
        if let Poll::Ready(read) = stream.poll_read(cx, buf) {
            pulse.heard();
            return Poll::Ready(read);
        }
        while let Poll::Ready(beat) = pulse.poll_beat(cx) {
            beat?;
        }
        Poll::Pending
    })
    .await
}

fn event(ctx: &Context, from: u64, frame: Frame) -> Option<Event> {
    match frame {
        #[cfg(feature = "failpoints")]
        Frame::Message(message)
            if message.msg_type == MessageType::MsgHeartbeat
                && storage::failpoint::reach("raftDropHeartbeat") == storage::failpoint::Reaction::Return =>
        {
            None
        }
        Frame::Message(message) => {
            // A wish to transfer leadership bears the heir's name.
            let theirs = message.from == from || message.msg_type == MessageType::MsgTransferLeader;
            (theirs && message.to == ctx.member_id).then(|| Event::Peer(Box::new(message)))
        }
        Frame::Call(call) => Some(Event::PeerCall { from, call }),
        Frame::Answer(answer) => Some(Event::PeerAnswer { answer }),
        Frame::Handshake(_) | Frame::Chunk(_) | Frame::Beat => None,
    }
}
