//! The streams of a connection.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::hpack::Indexing;

/// The place of a stream in [`Streams`]; good as long as the stream is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

/// What ends the sending half once the queue is empty.
#[derive(Debug)]
pub(crate) enum Tail {
    /// END_STREAM on the last DATA frame.
    Plain,
    /// A HEADERS frame with these fields.
    Trailers(Vec<(Vec<u8>, Vec<u8>, Indexing)>),
}

/// One open stream, with what the layer above keeps for it.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    pub(crate) id: u32,
    /// The peer has sent END_STREAM.
    pub(crate) recv_closed: bool,
    /// This end has sent END_STREAM.
    pub(crate) send_closed: bool,
    /// Whether it stands in the queue of streams with something to send.
    pub(crate) is_ready: bool,
    /// Whether the queue has reached the low-water mark and the owner waits for `Writable`.
    pub(crate) was_full: bool,
    /// Client: the response headers have come.
    pub(crate) got_head: bool,
    /// What this end may send; negative after a smaller SETTINGS_INITIAL_WINDOW_SIZE.
    pub(crate) send_window: i64,
    /// What the peer may send.
    pub(crate) recv_window: i64,
    /// Bytes consumed but not yet told to the peer.
    pub(crate) credit: u32,
    /// Of a body with a content-length, what must still come.
    pub(crate) body_left: Option<u64>,
    pub(crate) queue: VecDeque<Bytes>,
    pub(crate) queued_bytes: usize,
    pub(crate) tail: Option<Tail>,
    pub(crate) user: S,
}

/// All open streams, by slot and by number.
///
/// Bounds: the owner limits how many are open.
#[derive(Debug)]
pub(crate) struct Streams<S> {
    slab: Vec<Option<Stream<S>>>,
    free: Vec<u32>,
    slots: HashMap<u32, u32, ahash::RandomState>,
    /// The stream looked up last.
    last: (u32, u32),
}

impl<S> Streams<S> {
    pub(crate) fn new() -> Streams<S> {
        Streams {
            slab: Vec::new(),
            free: Vec::new(),
            slots: HashMap::default(),
            last: (0, 0),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn insert(&mut self, stream: Stream<S>) -> Slot {
        let id = stream.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slab[slot as usize] = Some(stream);
                slot
            }
            None => {
                self.slab.push(Some(stream));
                self.slab.len() as u32 - 1
            }
        };
        self.slots.insert(id, slot);
        self.last = (id, slot);
        Slot(slot)
    }

    /// The slot of that stream, if it is open.
    #[inline]
    pub(crate) fn find(&mut self, id: u32) -> Option<Slot> {
        if self.last.0 != id {
            self.last = (id, *self.slots.get(&id)?);
        }
        // Stream 0 is the connection and never in a slot.
        (id != 0).then_some(Slot(self.last.1))
    }

    /// The stream of that number, if it is open.
    pub(crate) fn by_id(&self, id: u32) -> Option<&Stream<S>> {
        self.slots.get(&id).and_then(|&slot| self.slab[slot as usize].as_ref())
    }

    /// Whether the slot still holds the stream of that number.
    #[inline]
    pub(crate) fn holds(&self, slot: Slot, id: u32) -> bool {
        self.slab
            .get(slot.0 as usize)
            .and_then(Option::as_ref)
            .is_some_and(|stream| stream.id == id)
    }

    #[inline]
    pub(crate) fn get(&mut self, slot: Slot) -> &mut Stream<S> {
        self.slab[slot.0 as usize]
            .as_mut()
            .expect("a slot is used only while its stream is open")
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Stream<S> {
        let stream = self.slab[slot.0 as usize].take().expect("a stream is removed once");
        self.slots.remove(&stream.id);
        self.last = (0, 0);
        self.free.push(slot.0);
        // A burst of streams must not pin its memory for the life of the connection.
        if self.slots.is_empty() && self.slab.len() > 1024 {
            self.slab = Vec::new();
            self.free = Vec::new();
            self.slots = HashMap::default();
        }
        stream
    }

    /// The slots of all open streams, in a fixed order.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        (0..self.slab.len())
            .filter(|&i| self.slab[i].is_some())
            .map(|i| Slot(i as u32))
            .collect()
    }
}
