//! Every limit of a connection.

/// What an operator may set for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message accepted, and longest body of a plain HTTP/2 request.
    ///
    /// Units: bytes. Source: etcd's `--max-request-bytes` + 512 KiB.
    pub message_bytes_max: u32,
    /// Streams a peer may have open, as told in SETTINGS; `u32::MAX` says nothing, as grpc-go does. The real bound is the smaller
    /// of this and an internal one.
    pub streams_max: u32,
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
    /// Queue length of a stream at which a sender should pause; below it again, it gets `Writable`.
    pub low_water_bytes: usize,
    /// Bytes of queued answers above which a server's requests wait (see `ServerConn::next_event`).
    pub queued_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        const SECOND_NS: u64 = 1_000_000_000;
        Limits {
            message_bytes_max: 1_572_864 + 524_288,
            streams_max: u32::MAX,
            ping_interval_min_ns: 5 * SECOND_NS,
            ping_without_stream: false,
            keepalive_interval_ns: 2 * 3600 * SECOND_NS,
            keepalive_timeout_ns: 20 * SECOND_NS,
            low_water_bytes: 64 * 1024,
            queued_bytes_max: 16 * 1024 * 1024,
        }
    }
}
