//! The messages of each load, prepared once; what differs from one to the next is patched in.

use super::options::{Command, Consistency, Put, Range, Space, TxnMixed, TxnPut};
use super::wire::{MESSAGE_PREFIX_BYTES, put_bytes, put_message, put_uint, put_varint};

/// The methods called.
pub(super) const PUT: &str = "/etcdserverpb.KV/Put";
pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// What a timed value begins with; its time in nanoseconds follows.
pub(super) const TIME_MARK: &[u8; 8] = b"bench-at";

/// Random numbers that need no quality but a seed.
///
/// Source: splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Printable bytes.
    fn text(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| b'0' + (self.next() % 75) as u8).collect()
    }
}

/// Writes number `n` of the key space after the prefix, as etcd's tool does: a signed varint, then zeros.
#[inline]
pub(super) fn write_key(key: &mut [u8], prefix_len: usize, n: u64) {
    let mut left = n << 1;
    for byte in &mut key[prefix_len..] {
        *byte = left as u8 & 0x7f | if left >= 0x80 { 0x80 } else { 0 };
        left >>= 7;
    }
}

/// Which keys a load takes.
#[derive(Clone, Debug)]
struct Keys {
    prefix_len: usize,
    len: usize,
    space: u64,
    /// In order, from the first request on; else at random.
    sequential: bool,
    random: Random,
}

impl Keys {
    #[inline]
    fn write(&mut self, sequence: u64, key: &mut [u8]) {
        let n = if self.sequential { sequence } else { self.random.next() };
        write_key(key, self.prefix_len, n % self.space);
    }
}

/// A message with gaps.
#[derive(Clone, Debug)]
struct Template {
    /// With the gRPC prefix.
    message: Vec<u8>,
    /// Where the keys begin.
    keys_at: Vec<usize>,
    /// Where the time is written, if it is.
    time_at: Option<usize>,
}

/// What a load sends, request by request.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    /// The method.
    pub(super) path: &'static str,
    write: Template,
    keys: Option<Keys>,
    /// Another message and how often it is sent instead, of 1.
    read: Option<(Template, f64)>,
    random: Random,
}

impl Requests {
    /// The requests of a command. Each of several threads gives its own `seed`.
    ///
    /// Errors: what is wrong with the options.
    pub(super) fn new(command: &Command, seed: u64) -> Result<Requests, String> {
        match command {
            Command::Put(put) => Requests::put(put, seed),
            Command::Range(range) => Ok(Requests::range(range, seed)),
            Command::TxnPut(txn) => Requests::txn_put(txn, seed),
            Command::TxnMixed(txn) => Requests::txn_mixed(txn, seed),
            Command::Watch(watch) => Requests::timed_put(watch.watched_key_total, watch.key_size, watch.val_size, seed),
            Command::WatchLatency(watch) => Requests::timed_put(1, watch.key_size, watch.val_size, seed),
        }
    }

    fn put(put: &Put, seed: u64) -> Result<Requests, String> {
        check_space(&put.space)?;
        let mut random = Random(seed);
        let value = random.text(put.space.val_size);
        let (message, key_at) = put_request(&put.space.key_prefix, put.space.key_size, &value);
        Ok(Requests {
            path: PUT,
            write: framed(&message, vec![key_at]),
            keys: Some(keys_of(&put.space, put.sequential_keys, seed)),
            read: None,
            random,
        })
    }

    fn timed_put(keys: u64, key_size: usize, val_size: usize, seed: u64) -> Result<Requests, String> {
        let space = Space {
            key_size,
            val_size,
            key_space_size: keys,
            key_prefix: String::new(),
        };
        check_space(&space)?;
        let mut random = Random(seed);
        let mut value = random.text(val_size);
        let is_timed = value.len() >= 16;
        if is_timed {
            value[..8].copy_from_slice(TIME_MARK);
        }
        let (message, key_at) = put_request("", key_size, &value);
        let mut write = framed(&message, vec![key_at]);
        write.time_at = is_timed.then(|| write.message.len() - val_size + 8);
        Ok(Requests {
            path: PUT,
            write,
            keys: Some(keys_of(&space, true, seed)),
            read: None,
            random,
        })
    }

    fn range(range: &Range, seed: u64) -> Requests {
        let end = range.end.as_deref().unwrap_or_default();
        let mut message = range_request(range.key.as_bytes(), end.as_bytes(), range.limit, range.consistency);
        put_uint(9, range.count_only.into(), &mut message);
        Requests {
            path: RANGE,
            write: framed(&message, Vec::new()),
            keys: None,
            read: None,
            random: Random(seed),
        }
    }

    fn txn_put(txn: &TxnPut, seed: u64) -> Result<Requests, String> {
        check_space(&txn.space)?;
        if u64::from(txn.txn_ops) > txn.space.key_space_size {
            return Err(format!(
                "--txn-ops {} needs as many different keys, since a transaction may not put a key twice: raise \
                 --key-space-size",
                txn.txn_ops
            ));
        }
        let mut random = Random(seed);
        let value = random.text(txn.space.val_size);
        let (put, key_at) = put_request(&txn.space.key_prefix, txn.space.key_size, &value);
        let mut message = Vec::new();
        let mut keys_at = Vec::new();
        for _ in 0..txn.txn_ops {
            let op_at = put_op(2, &put, &mut message);
            keys_at.push(op_at + key_at);
        }
        Ok(Requests {
            path: TXN,
            write: framed(&message, keys_at),
            keys: Some(keys_of(&txn.space, true, seed)),
            read: None,
            random,
        })
    }

    fn txn_mixed(txn: &TxnMixed, seed: u64) -> Result<Requests, String> {
        check_space(&txn.space)?;
        if !(txn.rw_ratio.is_finite() && txn.rw_ratio >= 0.0) {
            return Err(format!("--rw-ratio {} must be 0 or more", txn.rw_ratio));
        }
        let mut random = Random(seed);
        let value = random.text(txn.space.val_size);
        let (put, key_at) = put_request(&txn.space.key_prefix, txn.space.key_size, &value);
        let mut write = Vec::new();
        let op_at = put_op(2, &put, &mut write);
        let all: &[u8] = b"\0";
        let start = if txn.start_key.is_empty() {
            all
        } else {
            txn.start_key.as_bytes()
        };
        let end = if txn.end_key.is_empty() {
            all
        } else {
            txn.end_key.as_bytes()
        };
        let mut read = Vec::new();
        put_op(1, &range_request(start, end, txn.limit, txn.consistency), &mut read);
        Ok(Requests {
            path: TXN,
            write: framed(&write, vec![op_at + key_at]),
            keys: Some(keys_of(&txn.space, false, seed)),
            read: Some((framed(&read, Vec::new()), txn.rw_ratio / (1.0 + txn.rw_ratio))),
            random,
        })
    }

    /// Request number `sequence`, with the gRPC prefix, queued at `now_ns`; valid until the next call.
    #[inline]
    pub(super) fn message(&mut self, sequence: u64, now_ns: u64) -> &[u8] {
        if let Some((read, share)) = &self.read
            && (self.random.next() >> 11) as f64 / ((1u64 << 53) as f64) < *share
        {
            return &read.message;
        }
        let template = &mut self.write;
        if let Some(keys) = &mut self.keys {
            let count = template.keys_at.len() as u64;
            for (place, &at) in template.keys_at.iter().enumerate() {
                let key = &mut template.message[at..at + keys.len];
                keys.write(sequence * count + place as u64, key);
            }
        }
        if let Some(at) = template.time_at {
            template.message[at..at + 8].copy_from_slice(&now_ns.to_le_bytes());
        }
        &template.message
    }
}

fn keys_of(space: &Space, sequential: bool, seed: u64) -> Keys {
    Keys {
        prefix_len: space.key_prefix.len(),
        len: space.key_size,
        space: space.key_space_size,
        sequential,
        random: Random(seed ^ 0x6b65_7973),
    }
}

fn check_space(space: &Space) -> Result<(), String> {
    let mut largest = Vec::new();
    if space.key_space_size > 1 {
        put_varint((space.key_space_size - 1) << 1, &mut largest);
    }
    let need = (space.key_prefix.len() + largest.len()).max(1);
    if space.key_size < need {
        return Err(format!(
            "--key-size {} is too small for the prefix and {} different keys: it takes {need}",
            space.key_size, space.key_space_size
        ));
    }
    Ok(())
}

fn framed(message: &[u8], mut keys_at: Vec<usize>) -> Template {
    let mut framed = Vec::with_capacity(MESSAGE_PREFIX_BYTES + message.len());
    put_message(message, &mut framed);
    keys_at.iter_mut().for_each(|at| *at += MESSAGE_PREFIX_BYTES);
    Template {
        message: framed,
        keys_at,
        time_at: None,
    }
}

/// A PutRequest, and where its key begins.
fn put_request(prefix: &str, key_size: usize, value: &[u8]) -> (Vec<u8>, usize) {
    let mut key = vec![0; key_size];
    key[..prefix.len()].copy_from_slice(prefix.as_bytes());
    let mut message = Vec::new();
    let key_at = put_bytes(1, &key, &mut message);
    put_bytes(2, value, &mut message);
    (message, key_at)
}

fn range_request(key: &[u8], end: &[u8], limit: u32, consistency: Consistency) -> Vec<u8> {
    let mut message = Vec::new();
    put_bytes(1, key, &mut message);
    if !end.is_empty() {
        put_bytes(2, end, &mut message);
    }
    put_uint(3, limit.into(), &mut message);
    put_uint(7, (consistency == Consistency::S).into(), &mut message);
    message
}

/// Adds an operation of a transaction's success branch; returns where the request in it begins.
fn put_op(kind: u32, request: &[u8], txn: &mut Vec<u8>) -> usize {
    let mut op = Vec::new();
    let request_at = put_bytes(kind, request, &mut op);
    put_bytes(2, &op, txn) + request_at
}

/// A WatchRequest that creates a watcher of one key, with the gRPC prefix.
pub(super) fn watch_request(key: &[u8], prev_kv: bool) -> Vec<u8> {
    let mut create = Vec::new();
    put_bytes(1, key, &mut create);
    put_uint(6, prev_kv.into(), &mut create);
    let mut request = Vec::new();
    put_bytes(1, &create, &mut request);
    let mut framed = Vec::new();
    put_message(&request, &mut framed);
    framed
}
