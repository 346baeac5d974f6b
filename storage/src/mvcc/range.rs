//! Range reads.

use super::{Kv, Revision, StoreError};

/// The keys a request speaks of, in etcd's convention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval<'a> {
    /// The key, or the first key.
    pub key: &'a [u8],
    /// Empty: `key` alone. `"\0"`: every key from `key` on. Else the first key beyond the interval.
    pub range_end: &'a [u8],
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct RangeQuery<'a> {
    /// Which keys.
    pub interval: Interval<'a>,
    /// At which revision; 0 or less: now.
    pub revision: i64,
    /// At most so many keys; 0 or less: all.
    pub limit: i64,
    /// Only count.
    pub count_only: bool,
    /// Go on behind this key on a newer view; `revision` must then be the one the range began with, and only physical
    /// removal refuses it (hold a [`Pin`](super::Pin)).
    pub after: Option<&'a [u8]>,
}

/// How large an answer will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RangeSize {
    /// Keys of the interval at the revision, ignoring the limit (and `after`).
    pub count: u64,
    /// Keys the cursor will yield.
    pub returned: u64,
    /// Sum of the encoded lengths of the yielded pairs.
    pub kv_bytes: u64,
    /// The same, each with the tag and length that frame it as a repeated field with a number below 16.
    pub framed_bytes: u64,
}

/// One key of a range.
#[derive(Clone, Copy, Debug)]
pub struct RangeItem<'v> {
    /// The user key.
    pub key: &'v [u8],
    /// Its last change at or below the revision read.
    pub revision: Revision,
    /// The encoded `mvccpb.KeyValue` as stored.
    pub encoded: &'v [u8],
}

impl<'v> RangeItem<'v> {
    /// The decoded pair.
    pub fn kv(&self) -> Result<Kv<'v>, StoreError> {
        todo!()
    }
}

/// A range read in progress; borrows its view.
pub struct RangeCursor<'v> {
    _view: std::marker::PhantomData<&'v ()>,
}

impl<'v> RangeCursor<'v> {
    /// The revision it reads at.
    pub fn revision(&self) -> i64 {
        todo!()
    }

    /// Measures the whole answer without touching stored bytes (with `keys_only`, of pairs without values: bytes of
    /// keys that have changed since `revision` are then read). Leaves the cursor where it is.
    pub fn measure(&self, keys_only: bool) -> Result<RangeSize, StoreError> {
        let _ = keys_only;
        todo!()
    }

    /// The next key, nothing at the end or at the limit.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RangeItem<'v>>, StoreError> {
        todo!()
    }
}
