//! Every limit of a connection: what an operator may set, and the named bounds against known attacks.

/// What an operator may set for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message accepted, and longest body of a plain HTTP/2 request.
    ///
    /// Units: bytes. Source: etcd's `--max-request-bytes` + 512 KiB.
    pub message_bytes_max: u32,
    /// Streams a peer may have open, as told in SETTINGS; `u32::MAX` says nothing, as grpc-go does. The real bound is
    /// the smaller of this and [`STREAMS_OPEN_MAX`].
    pub streams_max: u32,
    /// What a peer may send on one stream before it is credited.
    ///
    /// Units: bytes.
    pub stream_window_bytes: u32,
    /// What a peer may send on all streams together before it is credited; at least 65,535. Bounds the messages that
    /// wait to be taken.
    ///
    /// Units: bytes.
    pub connection_window_bytes: u32,
    /// A client's pings may not come faster than this.
    ///
    /// Units: nanoseconds. Source: etcd's `--grpc-keepalive-min-time`.
    pub ping_interval_min_ns: u64,
    /// Whether a client may ping that often with no call open.
    pub ping_without_stream: bool,
    /// After that long without a byte from the peer it is pinged.
    ///
    /// Units: nanoseconds. Source: etcd's `--grpc-keepalive-interval`.
    pub keepalive_interval_ns: u64,
    /// After that long without a byte since the ping the connection is closed.
    ///
    /// Units: nanoseconds. Source: etcd's `--grpc-keepalive-timeout`.
    pub keepalive_timeout_ns: u64,
    /// How long the handshake may take, up to the peer's SETTINGS; and after that long without a byte in the middle of a
    /// frame, with all output taken, the connection is closed: such a peer cannot even answer a ping.
    ///
    /// Units: nanoseconds. Source: grpc-go's `connectionTimeout` for the handshake; it leaves half a frame to keepalive.
    pub unfinished_timeout_ns: u64,
    /// Queue length of a stream at which a sender should pause; below it again, it gets `Writable`.
    pub low_water_bytes: usize,
    /// Bytes of queued answers above which a server's requests wait (see `ServerConn::next_event`).
    pub queued_bytes_max: usize,
}

pub(crate) const SECOND_NS: u64 = 1_000_000_000;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: 1_572_864 + 524_288,
            streams_max: u32::MAX,
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            ping_interval_min_ns: 5 * SECOND_NS,
            ping_without_stream: false,
            keepalive_interval_ns: 2 * 3600 * SECOND_NS,
            keepalive_timeout_ns: 20 * SECOND_NS,
            unfinished_timeout_ns: 120 * SECOND_NS,
            low_water_bytes: 64 * 1024,
            queued_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// Default of [`Limits::stream_window_bytes`]: holds most etcd requests whole.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Default of [`Limits::connection_window_bytes`].
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Largest decoded header list, by the measure of RFC 9113 section 6.5.2. Against header bombs (CVE-2016-6581).
pub const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// The dynamic table a peer may fill here: the default, which needs no SETTINGS.
pub const HEADER_TABLE_BYTES: u32 = 4096;

/// Longest header block as encoded, over all its frames. Against CONTINUATION floods (CVE-2024-27316).
pub const HEADER_BLOCK_BYTES_MAX: usize = 64 * 1024;

/// CONTINUATION frames of one block. Against floods of empty ones (CVE-2024-27316); nobody needs to cut 64 KiB smaller.
pub const CONTINUATION_FRAMES_MAX: u32 = 8;

/// Streams open at once on a connection, whatever SETTINGS say: the real bound on their memory.
pub const STREAMS_OPEN_MAX: u32 = 65_536;

/// Bytes of unfinished messages and bodies kept for a connection; the stream that goes beyond is ended. Without it,
/// flow control that always gives credit would let each stream hold an almost whole message.
pub const PARTIAL_BYTES_MAX: usize = 32 << 20;

/// Bytes of request heads that wait to be taken; streams beyond are refused. Against many streams with large heads
/// while the peer does not read.
pub const HEADS_WAITING_BYTES_MAX: usize = 8 << 20;

/// Answers to PING, SETTINGS and bad frames that may wait in the output. Against floods of these by a peer that does
/// not read (CVE-2019-9512, CVE-2019-9514, CVE-2019-9515).
///
/// Source: the value of Go's `maxQueuedControlFrames`.
pub const CONTROL_FRAMES_PENDING_MAX: u32 = 10_000;

/// Streams a client may cancel: at once, and per second. Against rapid reset (CVE-2023-44487). Generous, since a client
/// whose deadline passes cancels all its calls at once.
pub const RESETS_BY_PEER: Allowance = Allowance {
    burst: 10_000,
    per_second: 200,
};

/// Stream errors a client may provoke: at once, and per second. Against "made you reset" (CVE-2025-8671).
///
/// Source: nghttp2's limits for "glitches".
pub const STREAM_ERRORS: Allowance = Allowance {
    burst: 1000,
    per_second: 33,
};

/// SETTINGS frames: at once, and per second; each may touch every stream (CVE-2019-9515).
pub const SETTINGS_FRAMES: Allowance = Allowance {
    burst: 100,
    per_second: 10,
};

/// Frames that bring nothing (empty DATA, PRIORITY, unknown types, frames for closed streams): at once, and per second
/// (CVE-2019-9513, CVE-2019-9518).
pub const EMPTY_FRAMES: Allowance = Allowance {
    burst: 10_000,
    per_second: 100,
};

/// WINDOW_UPDATE frames that open a window by less than [`WINDOW_INCREMENT_SMALL`]: at once, and per second. Against
/// dribbled windows, where each frame buys another one of a few bytes (CVE-2019-9511). Each message that is sent allows
/// [`SMALL_INCREMENTS_EARNED`] more: gRPC's C core gives the window back for each small message its application reads.
pub const SMALL_INCREMENTS: Allowance = Allowance {
    burst: 10_000,
    per_second: 1000,
};

/// See [`SMALL_INCREMENTS`]: one for the stream, one for the connection.
pub const SMALL_INCREMENTS_EARNED: u32 = 2;

/// Small increments that are saved up at most. Units: frames.
pub const SMALL_INCREMENTS_SAVED_MAX: u32 = 1 << 20;

/// See [`SMALL_INCREMENTS`].
pub const WINDOW_INCREMENT_SMALL: u32 = 256;

/// Pings a client may send too early, with no answer of ours in between, before it is told to go.
///
/// Source: grpc-go's `maxPingStrikes`.
pub const PING_STRIKES_MAX: u32 = 2;

/// The least interval of pings while no call is open and [`Limits::ping_without_stream`] is off.
///
/// Source: grpc-go's `defaultPingTimeout`.
pub const PING_INTERVAL_IDLE_NS: u64 = 2 * 3600 * SECOND_NS;

/// How long a shutdown waits for the answer to its ping before it refuses new streams.
///
/// Source: grpc-go's `drainServerTransports`.
pub const SHUTDOWN_GRACE_NS: u64 = 5 * SECOND_NS;

/// Pending output above which queued DATA stays in its queue; one write of a socket takes about that much.
pub(crate) const OUTPUT_TARGET_BYTES: usize = 256 * 1024;

/// An empty queue is given back beyond this many places, so that a burst does not pin its memory.
pub(crate) const QUEUE_KEEP: usize = 1024;

/// An allowance of events: a bucket of `burst` that refills by `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many may come at once.
    pub burst: u32,
    /// How many may come per second in the long run.
    pub per_second: u32,
}

/// What is left of an [`Allowance`].
#[derive(Debug)]
pub(crate) struct Budget {
    allowance: Allowance,
    left: u32,
    /// Up to when the refill is counted.
    refilled_ns: u64,
}

impl Budget {
    pub(crate) fn new(allowance: Allowance, now_ns: u64) -> Budget {
        Budget {
            allowance,
            left: allowance.burst,
            refilled_ns: now_ns,
        }
    }

    /// Takes one event; whether it was still allowed.
    pub(crate) fn take(&mut self, now_ns: u64) -> bool {
        if self.left == 0 {
            self.refill(now_ns);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }

    /// Allows `more` events, as long as no more than `max` are left then.
    pub(crate) fn earn(&mut self, more: u32, max: u32) {
        self.left = self.left.saturating_add(more).min(max.max(self.left));
    }

    fn refill(&mut self, now_ns: u64) {
        let interval_ns = SECOND_NS / self.allowance.per_second as u64;
        let due = now_ns.saturating_sub(self.refilled_ns) / interval_ns;
        if due >= self.allowance.burst as u64 {
            self.left = self.allowance.burst;
            self.refilled_ns = now_ns;
        } else {
            self.left = due as u32;
            self.refilled_ns += due * interval_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_allows_its_burst_and_then_its_rate() {
        let mut budget = Budget::new(
            Allowance {
                burst: 3,
                per_second: 2,
            },
            0,
        );
        assert!((0..3).all(|_| budget.take(0)));
        assert!(!budget.take(0));
        assert!(!budget.take(SECOND_NS / 2 - 1));
        assert!(budget.take(SECOND_NS / 2));
        assert!(!budget.take(SECOND_NS / 2));
        let hour_later = 3600 * SECOND_NS;
        assert!(
            (0..3).all(|_| budget.take(hour_later)),
            "no more than the burst is saved"
        );
        assert!(!budget.take(hour_later));
    }
}
