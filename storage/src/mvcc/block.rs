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
    pub(super) first: i64,
    pub(super) last: i64,
    /// For each main revision from `first`, the place of its first change.
    starts: Vec<u32>,
    changes: Vec<RawChange>,
    pub(super) arena: Bytes,
    pub(super) ops: Vec<BucketOp>,
    pub(super) applied: AppliedState,
    pub(super) bytes: usize,
}

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
