//! One link to another member: a bounded queue and a task that dials, shakes hands and writes.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    net::{SocketAddr, ToSocketAddrs},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use net::{
    io::{Stream, connect, within},
    peer::{Answer, Call, Decoder, Encoder, FRAME_BYTES_MAX, Frame, HANDSHAKE_BYTES_MAX, Handshake, Purpose, Verdict},
};
use raft::{Message, MessageType};

use super::{Context, pulse::Pulse};
use crate::{
    bell::Bell,
    member::Event,
    metrics::PeerMetrics,
    runtime::{now_ns, pause::breathe, peer_http},
};

/// Frames that wait for the socket. Source: etcd's stream buffer.
const QUEUE_MAX: usize = 4096;
/// Bytes that wait for the socket; one message is always let in. Units: bytes.
const QUEUE_BYTES_MAX: u64 = 128 << 20;
/// Encoded bytes given to the socket at once. Units: bytes.
const WRITE_BYTES: usize = 1 << 20;
/// The first pause after a failure; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Connecting and shaking hands take no longer than this.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// A machine that acknowledges nothing for this long ends the connection. Source: etcd's connection read and write timeouts.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Time between two measurements of the round trip. Source: etcd's `ConnReadTimeout - 1 s`.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// A connection that lasted this long starts the next pauses from the shortest.
const GOOD_NS: u64 = 1_000_000_000;
/// So many dials follow the end of a connection fast, until one is refused: a process that ends may still take one and drop
/// it.
const FAST_DIALS: u32 = 4;
/// And no more often than this, however often connections end. Units: nanoseconds.
const FAST_INTERVAL_NS: u64 = 1_000_000_000;
/// The pause between two of them.
const FAST_PAUSE: Duration = Duration::from_millis(5);
/// Why a member cannot be reached is said again after this long. Units: nanoseconds.
const COMPLAIN_AGAIN_NS: u64 = 60_000_000_000;
/// Different reasons that are remembered.
const COMPLAINTS_MAX: usize = 16;

/// One thing to send.
#[expect(clippy::large_enum_variant, reason = "messages are by far the most frequent")]
pub enum Outgoing {
    Message(Message),
    Call(Call),
    Answer(Answer),
}

impl Outgoing {
    fn size_bytes(&self) -> u64 {
        match self {
            Outgoing::Message(message) => message.size_bytes(),
            Outgoing::Call(_) => 64,
            Outgoing::Answer(answer) => 64 + answer.keys.iter().map(|key| key.len() as u64).sum::<u64>(),
        }
    }
}

/// One link.
pub struct Link {
    ctx: Rc<Context>,
    to: u64,
    urls: RefCell<Vec<String>>,
    queue: RefCell<VecDeque<Outgoing>>,
    queued_bytes: Cell<u64>,
    connected: Cell<bool>,
    closed: Cell<bool>,
    bell: Bell,
    /// Rings when the other member has dialled.
    knock: Bell,
    metrics: Arc<PeerMetrics>,
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not answer as an etcore member: {0}")]
    Protocol(String),
    #[error(
        "it refuses us: {}", match .0 {
            Verdict::WrongCluster => "it belongs to another cluster; check --initial-cluster and --initial-cluster-token",
            Verdict::WrongMember => "another member answers at this address; check the peer URLs",
            Verdict::Removed => "this member was removed from the cluster",
            Verdict::WrongVersion => "its version of the peer protocol is too far from ours; upgrade step by step",
            Verdict::Accepted => "for no reason",
        }
    )]
    Refused(Verdict),
}

impl Link {
    /// Starts dialling.
    pub fn start(ctx: Rc<Context>, to: u64, urls: Vec<String>) -> Rc<Link> {
        let metrics = ctx.metrics.peers.of(to);
        let link = Rc::new(Link {
            metrics,
            ctx,
            to,
            urls: RefCell::new(urls),
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            connected: Cell::new(false),
            closed: Cell::new(false),
            bell: Bell::default(),
            knock: Bell::default(),
        });
        link.ctx.knocks.borrow_mut().insert(to, link.knock.clone());
        glommio::spawn_local(run(link.clone())).detach();
        glommio::spawn_local(probe(link.clone())).detach();
        link
    }

    /// Other addresses for the next connection.
    pub fn set_urls(&self, urls: Vec<String>) {
        *self.urls.borrow_mut() = urls;
    }

    /// Its addresses.
    pub fn urls(&self) -> Vec<String> {
        self.urls.borrow().clone()
    }

    /// Ends the link once what waits is sent.
    pub fn close(&self) {
        self.closed.set(true);
        self.bell.ring();
        self.ctx.knocks.borrow_mut().remove(&self.to);
    }

    /// Waits, or until the other member has dialled: then it is there.
    async fn pause(&self, span: Duration) {
        // Timed out or not, it is time to dial.
        let _ = within(span, self.knock.rung()).await;
    }

    /// Queues what is to be sent, or drops it and tells consensus when the link is down or full.
    pub fn send(&self, outgoing: Outgoing) {
        let mut queue = self.queue.borrow_mut();
        let bytes = outgoing.size_bytes();
        let full = queue.len() >= QUEUE_MAX || (!queue.is_empty() && self.queued_bytes.get() + bytes > QUEUE_BYTES_MAX);
        if full || !self.connected.get() {
            drop(queue);
            return self.dropped(&outgoing);
        }
        queue.push_back(outgoing);
        self.queued_bytes.set(self.queued_bytes.get() + bytes);
        drop(queue);
        self.bell.ring();
    }

    fn dropped(&self, outgoing: &Outgoing) {
        self.metrics.sent_failures.add(1);
        let Outgoing::Message(message) = outgoing else { return };
        match message.msg_type {
            MessageType::MsgSnap => self.ctx.tell(Event::SnapshotSent { to: self.to, ok: false }),
            MessageType::MsgApp => self.ctx.tell(Event::Unreachable(self.to)),
            _ => {}
        }
    }

    fn set_connected(&self, up: bool) {
        if self.connected.replace(up) && !up {
            self.metrics.disconnected.add(1);
        }
        self.metrics.active.set(u64::from(up));
        self.ctx.tell(Event::Link { id: self.to, up });
    }

    /// Says why a dial failed, unless that was said a moment ago.
    fn complain(&self, error: &DialError, url: &str, complaints: &mut Complaints) {
        if matches!(error, DialError::Refused(Verdict::Removed)) {
            self.ctx.tell(Event::Removed);
        }
        let text = error.to_string();
        if let Some(seconds) = complaints.is_news(&text, now_ns()) {
            tracing::warn!(peer = format!("{:x}", self.to), url, error = %text, seconds, "peer cannot be reached");
        }
    }

    fn drop_queue(&self) {
        self.set_connected(false);
        self.queued_bytes.set(0);
        let dropped = std::mem::take(&mut *self.queue.borrow_mut());
        self.metrics.sent_failures.add(dropped.len() as u64);
        if !dropped.is_empty() {
            self.ctx.tell(Event::Unreachable(self.to));
        }
    }

    /// Moves what waits, up to a bound, into `out` as frames.
    fn encode_some(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        while out.len() < WRITE_BYTES {
            let Some(outgoing) = self.queue.borrow_mut().pop_front() else {
                break;
            };
            self.queued_bytes
                .set(self.queued_bytes.get().saturating_sub(outgoing.size_bytes()));
            match &outgoing {
                Outgoing::Message(message) if message.size_bytes() > FRAME_BYTES_MAX as u64 / 2 => {
                    tracing::error!(bytes = message.size_bytes(), "a message is too large for a peer link");
                    self.dropped(&outgoing);
                }
                Outgoing::Message(message) => encoder.message(message, out),
                Outgoing::Call(call) => encoder.call(call, out),
                Outgoing::Answer(answer) => encoder.answer(answer, out),
            }
        }
    }
}

/// What was said of a member that cannot be reached.
#[derive(Default)]
struct Complaints {
    since_ns: Option<u64>,
    said: Vec<(String, u64)>,
}

impl Complaints {
    /// Whether that is to be said: for how many seconds it has not been reached.
    fn is_news(&mut self, text: &str, now_ns: u64) -> Option<u64> {
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        self.said.retain(|(_, said_ns)| now_ns < said_ns + COMPLAIN_AGAIN_NS);
        if self.said.len() >= COMPLAINTS_MAX || self.said.iter().any(|(said, _)| said == text) {
            return None;
        }
        self.said.push((text.to_owned(), now_ns));
        Some((now_ns - since_ns) / 1_000_000_000)
    }
}

/// What the end of a connection leaves to be found out: whether the process at the other side has ended too.
#[derive(Default)]
struct Aftermath {
    /// Dials that are still to be fast.
    fast: u32,
    /// Refusals in a row, one for each address, until it has.
    refusals_wanted: usize,
}

impl Aftermath {
    /// Of a connection that has just ended.
    fn of(link: &Link, is_fast: bool) -> Aftermath {
        Aftermath {
            fast: if is_fast { FAST_DIALS } else { 0 },
            refusals_wanted: link.urls.borrow().len().max(1),
        }
    }

    /// A dial failed.
    fn failed(&mut self, link: &Link, error: &DialError) {
        let presence = &link.ctx.presence;
        let refused = matches!(error, DialError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused);
        if !refused {
            presence.answered(link.to);
            if self.refusals_wanted > 0 {
                self.refusals_wanted = link.urls.borrow().len().max(1);
            }
            return;
        }
        if self.refusals_wanted == 1 {
            self.fast = 0;
            if presence.refused(link.to) {
                link.ctx.gone(link.to);
            }
        }
        self.refusals_wanted = self.refusals_wanted.saturating_sub(1);
    }

    /// The pause before the next dial, if that is to be fast.
    fn pause(&mut self) -> Option<Duration> {
        let before = self.fast;
        self.fast = before.saturating_sub(1);
        match before {
            0 => None,
            FAST_DIALS => Some(Duration::ZERO),
            _ => Some(FAST_PAUSE),
        }
    }
}

/// The task of a link.
async fn run(link: Rc<Link>) {
    let (mut pause, mut complaints, mut turn) = (PAUSE_MIN, Complaints::default(), 0);
    let (mut aftermath, mut fast_ns) = (Aftermath::default(), None::<u64>);
    while !link.closed.get() {
        let url = {
            let urls = link.urls.borrow();
            urls.get(turn % urls.len().max(1)).cloned().unwrap_or_default()
        };
        turn += 1;
        let since_ns = now_ns();
        let dialled = dial(&link, &url).await;
        let is_down = dialled.is_err();
        match dialled {
            Ok(stream) => {
                complaints = Complaints::default();
                carry(&link, stream, &url).await;
                let is_fast = fast_ns.is_none_or(|since| now_ns() > since + FAST_INTERVAL_NS);
                if is_fast {
                    fast_ns = Some(now_ns());
                }
                aftermath = Aftermath::of(&link, is_fast);
            }
            Err(error) => {
                aftermath.failed(&link, &error);
                link.complain(&error, &url, &mut complaints);
            }
        }
        if now_ns() - since_ns > GOOD_NS {
            pause = PAUSE_MIN;
        }
        if let Some(pause) = aftermath.pause() {
            glommio::timer::sleep(pause).await;
            continue;
        }
        // Members that lost each other at the same time do not come back at the same time.
        let jitter = Duration::from_nanos(now_ns() % (pause.as_nanos() as u64 / 2));
        if is_down {
            link.pause(pause + jitter).await;
        } else {
            // Two that keep ending each other's connections do not hurry each other on.
            glommio::timer::sleep(pause + jitter).await;
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Uses a connection until it ends.
async fn carry(link: &Link, stream: Stream, url: &str) {
    tracing::info!(peer = format!("{:x}", link.to), url, "peer link is up");
    link.ctx.presence.answered(link.to);
    link.set_connected(true);
    let error = pass_on(link, stream).await;
    link.drop_queue();
    if let Err(error) = error
        && !link.closed.get()
    {
        tracing::warn!(peer = format!("{:x}", link.to), url, %error, "peer link is lost");
    }
}

/// Measures the way to the other member and back now and then.
async fn probe(link: Rc<Link>) {
    while !link.closed.get() {
        glommio::timer::sleep(PROBE_INTERVAL).await;
        let url = link.urls.borrow().first().cloned();
        if let Some(url) = url.filter(|_| link.connected.get())
            && let Ok(answer) = peer_http::get(&url, "/raft/probing", None, "", PROBE_INTERVAL).await
        {
            link.metrics.round_trip.observe_ns(answer.took.as_nanos() as u64);
        }
    }
}

async fn dial(link: &Link, url: &str) -> Result<Stream, DialError> {
    connect_to(&link.ctx, link.to, url, Purpose::Messages).await
}

/// Connects and shakes hands.
pub(super) async fn connect_to(ctx: &Context, to: u64, url: &str, purpose: Purpose) -> Result<Stream, DialError> {
    let address = resolve(url).await?;
    let mut stream = connect(address, DIAL_MAX).await?;
    stream.set_silence_max(SILENCE_MAX)?;
    let ours = ctx.handshake(to, purpose);
    let reply = within(DIAL_MAX, shake(&mut stream, &ours)).await;
    let reply = reply.ok_or_else(|| DialError::Protocol("no answer in time".into()))??;
    match reply.verdict {
        Verdict::Accepted => {
            ctx.greeted(to, &reply);
            Ok(stream)
        }
        verdict => Err(DialError::Refused(verdict)),
    }
}

async fn shake(stream: &mut Stream, ours: &Handshake) -> Result<Handshake, DialError> {
    let mut hello = Vec::new();
    Encoder::default().handshake(ours, &mut hello);
    stream.write_all(&hello).await?;
    let (mut decoder, mut buf) = (Decoder::new(HANDSHAKE_BYTES_MAX), [0; 1024]);
    loop {
        match decoder.take_frame() {
            Ok(Some(Frame::Handshake(theirs))) => return Ok(theirs),
            Ok(Some(_)) => return Err(DialError::Protocol("its first frame is no handshake".into())),
            Err(error) => return Err(DialError::Protocol(error.to_string())),
            Ok(None) => {}
        }
        match stream.read(&mut buf).await? {
            0 => return Err(DialError::Protocol("it closed the connection".into())),
            read => decoder.feed(&buf[..read]),
        }
    }
}

/// Writes what is queued until the link is closed or the connection fails.
async fn pass_on(link: &Link, mut stream: Stream) -> io::Result<()> {
    let (mut encoder, mut out, mut pulse) = (Encoder::default(), Vec::new(), Pulse::new());
    loop {
        out.clear();
        link.encode_some(&mut encoder, &mut out);
        if out.is_empty() {
            if link.closed.get() {
                return stream.shutdown_write();
            }
            match wait(link, &mut stream, &mut pulse).await? {
                Woken::ToSend => continue,
                Woken::Beat => encoder.beat(&mut out),
            }
        }
        stream.write_all(&out).await?;
        link.metrics.sent_bytes.add(out.len() as u64);
        if out.len() >= WRITE_BYTES {
            out = Vec::new();
            breathe().await;
        }
    }
}

/// What ended a wait.
enum Woken {
    ToSend,
    Beat,
}

/// Waits for something to send, or for the time to show that this side lives; of the other side nothing but signs of life
/// comes on this connection.
async fn wait(link: &Link, stream: &mut Stream, pulse: &mut Pulse) -> io::Result<Woken> {
    use std::task::Poll;
    let mut buf = [0; 64];
    std::future::poll_fn(|cx| {
        if link.bell.poll_rung(cx).is_ready() {
            return Poll::Ready(Ok(Woken::ToSend));
        }
        while let Poll::Ready(read) = stream.poll_read(cx, &mut buf) {
            match read {
                Ok(0) => return Poll::Ready(Err(io::Error::other("it closed the connection"))),
                Ok(_) => pulse.heard(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        pulse.poll_beat(cx).map_ok(|()| Woken::Beat)
    })
    .await
}

/// The address of a peer URL; a host name is looked up on a thread that may block.
pub async fn resolve(url: &str) -> io::Result<SocketAddr> {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest).to_owned();
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let looked_up = glommio::executor().spawn_blocking(move || {
        let all: Vec<SocketAddr> = host.to_socket_addrs()?.collect();
        let best = all.iter().find(|a| a.is_ipv4()).or(all.first()).copied();
        best.ok_or_else(|| io::Error::other("the host name has no address"))
    });
    looked_up.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_member_cannot_be_reached_is_said_once_a_minute_for_each_reason() {
        const S: u64 = 1_000_000_000;
        let mut complaints = Complaints::default();
        let mut told = |text: &str, seconds: u64| complaints.is_news(text, seconds * S);
        assert_eq!(told("refused", 1), Some(0));
        assert_eq!(told("timed out", 3), Some(2));
        // An address that refuses and one that is silent take turns.
        assert_eq!((told("refused", 5), told("timed out", 7)), (None, None));
        assert_eq!((told("refused", 61), told("timed out", 62)), (Some(60), None));
        for reason in 0..2 * COMPLAINTS_MAX {
            told(&reason.to_string(), 62);
        }
        assert_eq!(told("one too many", 62), None, "what is remembered is bounded");
    }
}
