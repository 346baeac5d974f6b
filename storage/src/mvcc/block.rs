//! Blocks: the changes of one apply batch, immutable and shared once sealed; and the buffer of blocks that the tree
//! does not have yet.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    key::Key,
    kv::{Kv, framed_len},
    revision::Revision,
};
use crate::buckets::Bucket;

/// Where apply stands after a block; becomes durable in the same tree commit as the block's data.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AppliedState {
    /// Index of the last applied raft entry.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The configuration in force, in whatever form the caller stores it.
    pub conf_state: Bytes,
}

/// One sealed apply batch.
#[derive(Debug)]
pub struct Block {
    pub(super) sequence: u64,
    /// The store's revision after it.
    pub(super) last: i64,
    pub(super) log: ChangeLog,
    /// The encoded pairs of the changes, one behind the other.
    pub(super) arena: Bytes,
    pub(super) ops: Vec<BucketOp>,
    pub(super) applied: AppliedState,
    pub(super) bytes: usize,
}

/// Changes in revision order. Main revisions are dense, so a change is found by arithmetic.
#[derive(Default, Debug)]
pub(super) struct ChangeLog {
    first: i64,
    /// For each main revision from `first`, the place of its first change.
    starts: Vec<u32>,
    changes: Vec<RawChange>,
}

/// One change; its encoded pair stands in the arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawChange {
    pub revision: Revision,
    pub offset: u32,
    pub len: u32,
    pub key_len: u32,
    pub is_delete: bool,
    /// `main` is 0 when the key did not exist.
    pub prev: Revision,
    pub lease: i64,
}

/// A change of a row outside the revision stream (or the physical removal of a compacted revision).
#[derive(Debug)]
pub(super) struct BucketOp {
    pub bucket: Bucket,
    pub key: Key,
    pub value: Option<Bytes>,
}

/// One change of a block, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// When it happened.
    pub revision: Revision,
    /// A delete; `encoded` then holds only the key.
    pub is_delete: bool,
    /// The user key.
    pub key: &'a [u8],
    /// The encoded `mvccpb.KeyValue` as stored.
    pub encoded: &'a [u8],
    /// The change of the key before this one, if the key existed.
    pub prev: Option<Revision>,
    /// Lease of the put, 0 for none; for a delete the lease the key had.
    pub lease: i64,
}

/// Bytes a change costs beside its encoded pair, in memory and as a row.
const CHANGE_OVERHEAD: usize = size_of::<RawChange>() + 18;
/// Bytes a bucket operation costs beside its key and value.
const OP_OVERHEAD: usize = size_of::<BucketOp>() + 96;

impl ChangeLog {
    fn push(&mut self, change: RawChange) {
        let Revision { main, sub } = change.revision;
        if self.changes.is_empty() {
            self.first = main;
        }
        if main == self.first + self.starts.len() as i64 {
            assert_eq!(sub, 0, "a transaction begins at sub revision 0");
            self.starts.push(self.changes.len() as u32);
        } else {
            let last = self
                .changes
                .last()
                .expect("a change of a known main revision follows another")
                .revision;
            assert_eq!(
                change.revision,
                Revision::new(last.main, last.sub + 1),
                "revisions are dense"
            );
        }
        self.changes.push(change);
    }

    /// The change with this revision.
    pub fn find(&self, revision: Revision) -> Option<&RawChange> {
        let at = usize::try_from(revision.main.checked_sub(self.first)?).ok()?;
        let change = self
            .changes
            .get(*self.starts.get(at)? as usize + revision.sub as usize)?;
        (change.revision == revision).then_some(change)
    }

    /// The changes from main revision `main` on.
    fn from(&self, main: i64) -> &[RawChange] {
        let at = usize::try_from(main - self.first).unwrap_or(0);
        self.starts
            .get(at)
            .map_or(&[], |start| &self.changes[*start as usize..])
    }

    pub fn first_main(&self) -> Option<i64> {
        self.changes.first().map(|change| change.revision.main)
    }
}

impl Block {
    /// The store's revision after this block.
    pub fn revision(&self) -> i64 {
        self.last
    }

    /// The first main revision changed in it, if any.
    pub fn first_revision(&self) -> Option<i64> {
        self.log.first_main()
    }

    /// Where apply stood after it.
    pub fn applied(&self) -> &AppliedState {
        &self.applied
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.log.changes.len()
    }

    /// True when no key changed.
    pub fn is_empty(&self) -> bool {
        self.log.changes.is_empty()
    }

    /// The changes in revision order.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = Change<'_>> {
        self.log.changes.iter().map(|raw| self.change(raw))
    }

    /// The changes from main revision `main` on, in revision order.
    pub fn changes_from(&self, main: i64) -> impl ExactSizeIterator<Item = Change<'_>> {
        self.log.from(main).iter().map(|raw| self.change(raw))
    }

    /// One change, shared: the encoded pair without a copy, alive as long as the answer.
    pub fn encoded(&self, change: &Change<'_>) -> Bytes {
        self.arena.slice_ref(change.encoded)
    }

    pub(super) fn find(&self, revision: Revision) -> Option<Change<'_>> {
        self.log.find(revision).map(|raw| self.change(raw))
    }

    pub(super) fn raw_changes(&self) -> &[RawChange] {
        &self.log.changes
    }

    fn change(&self, raw: &RawChange) -> Change<'_> {
        let encoded = raw.slice(&self.arena);
        Change {
            revision: raw.revision,
            is_delete: raw.is_delete,
            key: key_in(encoded, raw.key_len),
            encoded,
            prev: (raw.prev.main != 0).then_some(raw.prev),
            lease: raw.lease,
        }
    }
}

impl RawChange {
    pub fn slice<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.offset as usize..][..self.len as usize]
    }
}

/// The key stands first in an encoded pair, behind its tag and its length.
fn key_in(encoded: &[u8], key_len: u32) -> &[u8] {
    let framed = framed_len(key_len as usize);
    &encoded[framed - key_len as usize..framed]
}

/// The batch being applied.
#[derive(Default)]
pub(super) struct OpenBlock {
    pub log: ChangeLog,
    pub arena: Vec<u8>,
    pub ops: Vec<BucketOp>,
    op_bytes: usize,
}

impl OpenBlock {
    /// Appends an encoded pair to the arena; the length of it.
    pub fn encode(&mut self, kv: &Kv<'_>) -> u32 {
        let before = self.arena.len();
        kv.encode(&mut self.arena);
        (self.arena.len() - before) as u32
    }

    /// Records a change whose encoded pair is the last in the arena.
    pub fn push(&mut self, mut change: RawChange) {
        let offset = self.arena.len() - change.len as usize;
        change.offset = u32::try_from(offset).expect("an apply batch is sealed long before 4 GiB");
        self.log.push(change);
    }

    pub fn push_op(&mut self, op: BucketOp) {
        self.op_bytes += op.key.as_slice().len() + op.value.as_ref().map_or(0, Bytes::len) + OP_OVERHEAD;
        self.ops.push(op);
    }

    pub fn is_empty(&self) -> bool {
        self.log.changes.is_empty() && self.ops.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.arena.len() + self.log.changes.len() * CHANGE_OVERHEAD + self.op_bytes
    }

    /// The encoded pair of a change of this batch.
    pub fn find(&self, revision: Revision) -> Option<&[u8]> {
        self.log.find(revision).map(|raw| raw.slice(&self.arena))
    }

    pub fn seal(&mut self, sequence: u64, last: i64, applied: AppliedState) -> Block {
        let bytes = self.bytes();
        let size_hint = self.arena.len();
        let open = std::mem::replace(
            self,
            OpenBlock {
                arena: Vec::with_capacity(size_hint),
                ..OpenBlock::default()
            },
        );
        Block {
            sequence,
            last,
            log: open.log,
            arena: open.arena.into(),
            ops: open.ops,
            applied,
            bytes,
        }
    }
}

const CHUNK: usize = 64;

/// Sealed blocks in order. A clone costs one reference count, an append at most a chunk and a list of chunks.
#[derive(Clone, Default)]
pub(super) struct BlockList {
    /// Changes up to this revision are in the tree, later ones here.
    floor: i64,
    chunks: Arc<Vec<Arc<Vec<Arc<Block>>>>>,
}

impl BlockList {
    /// An empty list over a tree that has everything up to `floor`.
    pub fn over(floor: i64) -> BlockList {
        BlockList {
            floor,
            ..BlockList::default()
        }
    }

    /// Whether a change of main revision `main` would be here and not in the tree.
    pub fn holds(&self, main: i64) -> bool {
        main > self.floor
    }

    pub fn push(&mut self, block: Arc<Block>) {
        let chunks = Arc::make_mut(&mut self.chunks);
        match chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => Arc::make_mut(chunk).push(block),
            None => chunks.push(Arc::new(vec![block])),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The blocks that may hold main revision `main` or later ones.
    pub fn iter_from(&self, main: i64) -> impl Iterator<Item = &Arc<Block>> {
        let ends_before = |chunk: &Arc<Vec<Arc<Block>>>| chunk.last().is_none_or(|block| block.last < main);
        let at = self.chunks.partition_point(ends_before);
        self.chunks[at..]
            .iter()
            .flat_map(|chunk| chunk.iter())
            .skip_while(move |block| block.last < main)
    }

    pub fn find(&self, revision: Revision) -> Option<Change<'_>> {
        let main = revision.main;
        let at = self
            .chunks
            .partition_point(|chunk| chunk.last().is_none_or(|block| block.last < main));
        let chunk = self.chunks.get(at)?;
        chunk
            .get(chunk.partition_point(|block| block.last < main))?
            .find(revision)
    }

    /// Drops the blocks up to `sequence`.
    pub fn drop_through(&mut self, sequence: u64) {
        let dropped = self.iter().take_while(|block| block.sequence <= sequence).last();
        let mut kept = BlockList::over(dropped.map_or(self.floor, |block| block.last));
        for block in self.iter().filter(|block| block.sequence > sequence) {
            kept.push(block.clone());
        }
        *self = kept;
    }
}
