//! Pings, time, and the end of a connection.

use super::super::limits::{self, SECOND_NS};
use super::super::{CloseReason, ErrorCode, frame};
use super::recv::{Fault, calm};
use super::{Connection, Event, Handler, Role};

/// Payloads of our pings: of keepalive, and of the shutdown.
const KEEPALIVE_PING: [u8; 8] = *b"etcore\0\x01";
pub(super) const SHUTDOWN_PING: [u8; 8] = *b"etcore\0\x02";

/// While nothing is due, time is wanted again after this long at the latest.
const DEADLINE_FAR_NS: u64 = 24 * 3600 * SECOND_NS;

/// How much of a peer's debug text is kept.
const DEBUG_BYTES_MAX: usize = 256;

/// Pings of both directions.
#[derive(Debug)]
pub(super) struct Pings {
    /// When the last bytes came.
    heard_ns: u64,
    /// When our keepalive ping went out, while nothing was heard since.
    asked_ns: Option<u64>,
    /// When the peer last pinged.
    last_ns: Option<u64>,
    strikes: u32,
    /// We have sent HEADERS or DATA since the peer's last ping, so a ping is no strike (it may measure bandwidth).
    pub(super) forgiven: bool,
}

impl Pings {
    pub(super) fn new(now_ns: u64) -> Pings {
        Pings {
            heard_ns: now_ns,
            asked_ns: None,
            last_ns: None,
            strikes: 0,
            forgiven: false,
        }
    }

    pub(super) fn heard(&mut self, now_ns: u64) {
        self.heard_ns = now_ns;
        self.asked_ns = None;
    }
}

/// How far a connection is on its way out.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) reason: Option<CloseReason>,
    /// Nothing is received or sent any more, but the output that stands.
    pub(super) failed: bool,
    /// A shutdown was announced; it becomes final when its ping comes back, or then.
    announced_until_ns: Option<u64>,
    /// The last stream accepted, once the final GOAWAY is out.
    pub(super) last_stream: Option<u32>,
    peer_goes: bool,
}

impl<S: Default> Connection<S> {
    /// Notes the time, does what is due, and returns the next deadline.
    pub(crate) fn on_time<H: Handler<User = S>>(&mut self, now_ns: u64, handler: &mut H) -> u64 {
        self.now_ns = self.now_ns.max(now_ns);
        if !self.ending.failed {
            if self
                .ending
                .announced_until_ns
                .is_some_and(|until_ns| self.now_ns >= until_ns)
            {
                self.shutdown_final();
            }
            self.keep_alive(handler);
            if self.out.is_empty()
                && self
                    .unfinished_until_ns()
                    .is_some_and(|until_ns| self.now_ns >= until_ns)
            {
                self.break_off(CloseReason::Unfinished, handler);
            }
        }
        self.deadline_ns()
    }

    /// When the time is wanted next, at the latest.
    pub(crate) fn deadline_ns(&self) -> u64 {
        let far_ns = self.now_ns.saturating_add(DEADLINE_FAR_NS);
        if self.ending.failed {
            return far_ns;
        }
        let alive_ns = match self.pings.asked_ns {
            Some(asked_ns) => asked_ns.saturating_add(self.limits.keepalive_timeout_ns),
            None => self.pings.heard_ns.saturating_add(self.limits.keepalive_interval_ns),
        };
        // While a peer does not read, it is not judged by what it does not send.
        let judged_ns = if self.out.is_empty() {
            0
        } else {
            self.now_ns + SECOND_NS
        };
        let whole_ns = self.unfinished_until_ns().map(|until_ns| until_ns.max(judged_ns));
        let others = [self.ending.announced_until_ns, whole_ns];
        others.into_iter().flatten().fold(alive_ns.min(far_ns), u64::min)
    }

    /// Until when the peer may finish its handshake, or the frame or header block it has begun, if there is one.
    fn unfinished_until_ns(&self) -> Option<u64> {
        let since_ns = if self.settings_awaited {
            self.begun_ns
        } else if !self.carry.is_empty() || self.block_of.is_some() {
            self.pings.heard_ns
        } else {
            return None;
        };
        Some(since_ns.saturating_add(self.limits.unfinished_timeout_ns))
    }

    /// Source: RFC 9113 section 6.7; grpc-go's server keepalive.
    fn keep_alive<H: Handler<User = S>>(&mut self, handler: &mut H) {
        match self.pings.asked_ns {
            None => {
                let due_ns = self.pings.heard_ns.saturating_add(self.limits.keepalive_interval_ns);
                if self.now_ns >= due_ns {
                    frame::put_ping(0, KEEPALIVE_PING, &mut self.out);
                    self.pings.asked_ns = Some(self.now_ns);
                }
            }
            // A peer that says nothing reads nothing either: no use in keeping the output.
            Some(asked_ns) if self.now_ns >= asked_ns.saturating_add(self.limits.keepalive_timeout_ns) => {
                self.break_off(CloseReason::KeepaliveTimeout, handler);
            }
            Some(_) => {}
        }
    }

    /// The connection is of no use any more: drops the output and ends every stream.
    pub(crate) fn break_off<H: Handler<User = S>>(&mut self, reason: CloseReason, handler: &mut H) {
        self.ending.failed = true;
        self.ending.reason.get_or_insert(reason);
        self.out.clear();
        self.abandon_streams(handler);
    }

    /// A PING of the peer. The policy is grpc-go's, so that clients find the same tolerance as with etcd.
    ///
    /// Source: RFC 9113 section 6.7; grpc-go's `handlePing`.
    pub(super) fn on_ping(&mut self, is_ack: bool, payload: [u8; 8]) -> Result<(), Fault> {
        if is_ack {
            if payload == SHUTDOWN_PING && self.ending.announced_until_ns.is_some() {
                self.shutdown_final();
            }
            return self.count_empty();
        }
        frame::put_ping(frame::ACK, payload, &mut self.out);
        self.count_control()?;
        if self.role == Role::Client {
            return Ok(());
        }
        let last_ns = self.pings.last_ns.replace(self.now_ns);
        if std::mem::take(&mut self.pings.forgiven) {
            self.pings.strikes = 0;
            return Ok(());
        }
        let is_idle = self.streams.len() == 0 && !self.limits.ping_without_stream;
        let interval_ns = if is_idle {
            limits::PING_INTERVAL_IDLE_NS
        } else {
            self.limits.ping_interval_min_ns
        };
        if last_ns.is_some_and(|last_ns| last_ns.saturating_add(interval_ns) > self.now_ns) {
            self.pings.strikes += 1;
        }
        if self.pings.strikes > limits::PING_STRIKES_MAX {
            return Err(calm("too_many_pings"));
        }
        Ok(())
    }

    /// Announces the end. A server first says so without a limit and asks for an answer: streams already on their way
    /// when the client learns of it are still taken.
    ///
    /// Source: RFC 9113 section 6.8.
    pub(crate) fn shutdown(&mut self) {
        const ALL_STREAMS: u32 = (1 << 31) - 1;
        if self.ending.failed || self.ending.last_stream.is_some() || self.ending.announced_until_ns.is_some() {
            return;
        }
        self.ending.reason.get_or_insert(CloseReason::ShutDown);
        if self.role == Role::Client {
            return self.shutdown_final();
        }
        frame::put_goaway(ALL_STREAMS, ErrorCode::NoError as u32, b"graceful_stop", &mut self.out);
        frame::put_ping(0, SHUTDOWN_PING, &mut self.out);
        self.ending.announced_until_ns = Some(self.now_ns.saturating_add(limits::SHUTDOWN_GRACE_NS));
    }

    fn shutdown_final(&mut self) {
        let last_stream = self.last_peer_stream();
        self.ending.announced_until_ns = None;
        self.ending.last_stream = Some(last_stream);
        frame::put_goaway(last_stream, ErrorCode::NoError as u32, b"graceful_stop", &mut self.out);
    }

    /// Gives the connection up: GOAWAY with that code, and nothing more.
    ///
    /// Source: RFC 9113 section 5.4.1.
    pub(super) fn fail(&mut self, code: ErrorCode, detail: &'static str) {
        frame::put_goaway(self.last_peer_stream(), code as u32, detail.as_bytes(), &mut self.out);
        self.ending.failed = true;
        self.ending.reason = Some(CloseReason::Violation { code, detail });
    }

    fn last_peer_stream(&self) -> u32 {
        if self.role == Role::Server { self.stream_mark } else { 0 }
    }

    /// Tells the handler that every stream is over.
    pub(super) fn abandon_streams<H: Handler<User = S>>(&mut self, handler: &mut H) {
        for slot in self.streams.slots() {
            self.drop_stream(slot, ErrorCode::Cancel, handler);
        }
    }

    /// A GOAWAY of the peer: it opens no more streams, or (at a client) takes none beyond `last_stream`.
    pub(super) fn on_goaway<H: Handler<User = S>>(
        &mut self,
        last_stream: u32,
        code: u32,
        debug: &[u8],
        handler: &mut H,
    ) -> Result<(), Fault> {
        if code != ErrorCode::NoError as u32 {
            let debug = String::from_utf8_lossy(&debug[..debug.len().min(DEBUG_BYTES_MAX)]).into_owned();
            self.ending.reason = Some(CloseReason::PeerError { code, debug });
        } else {
            self.ending.reason.get_or_insert(CloseReason::PeerGoAway);
        }
        if self.role == Role::Client {
            for slot in self.streams.slots() {
                if self.stream_id(slot) > last_stream {
                    self.drop_stream(slot, ErrorCode::RefusedStream, handler);
                }
            }
        }
        if !std::mem::replace(&mut self.ending.peer_goes, true) {
            handler.event(self, Event::GoAway);
        }
        self.count_empty()
    }

    /// Whether this end may open new streams.
    pub(crate) fn takes_calls(&self) -> bool {
        !self.ending.failed && !self.ending.peer_goes && self.ending.last_stream.is_none()
    }

    /// Whether all is said and all output is taken.
    pub(crate) fn is_done(&self) -> bool {
        let going = self.ending.last_stream.is_some() || self.ending.peer_goes;
        (self.ending.failed || (going && self.streams.len() == 0)) && self.out.is_empty()
    }
}
