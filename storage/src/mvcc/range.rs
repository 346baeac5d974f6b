//! Range reads.

use super::{
    Kv, Revision, RowKey, StoreError, StoreView, framed_len,
    index::{Found, FoundIter, Moment},
    restore::bad_row,
};
use crate::buckets::Bucket;

/// The keys a request speaks of, in etcd's convention.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interval<'a> {
    /// The key, or the first key.
    pub key: &'a [u8],
    /// Empty: `key` alone. `"\0"`: every key from `key` on. Else the first key beyond the interval.
    pub range_end: &'a [u8],
}

impl<'a> Interval<'a> {
    /// One key.
    pub fn single(key: &'a [u8]) -> Interval<'a> {
        Interval { key, range_end: b"" }
    }

    /// Every key.
    pub fn all() -> Interval<'static> {
        Interval {
            key: b"",
            range_end: b"\0",
        }
    }

    /// True when `key`, which is not before the interval, is behind it.
    pub(super) fn is_beyond(&self, key: &[u8]) -> bool {
        match self.range_end {
            b"" => key != self.key,
            b"\0" => false,
            end => key >= end,
        }
    }
}

/// What to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeQuery<'a> {
    /// Which keys.
    pub interval: Interval<'a>,
    /// At which revision; 0 or less: now.
    pub revision: i64,
    /// At most so many keys; 0 or less: all.
    pub limit: i64,
    /// Only count.
    pub count_only: bool,
    /// Go on behind this key on a newer view; `revision` must then be the one the range began with.
    pub after: Option<&'a [u8]>,
    /// See only those changes of `revision` whose sub is below this: a range inside a transaction that had made so many
    /// changes before it ([`WriteTxn::next_revision`](super::WriteTxn::next_revision)). With 0 `revision` itself need
    /// not exist.
    pub sub_end: Option<u32>,
    /// The revision was good when the range began or was applied, so that only physical removal refuses it. A range
    /// that goes on (`after`) or stands inside a transaction (`sub_end`) is admitted without saying so.
    pub admitted: bool,
}

impl RangeQuery<'_> {
    /// Keys to yield at most.
    fn limit(&self) -> u64 {
        match self.limit {
            _ if self.count_only => 0,
            ..=0 => u64::MAX,
            limit => limit as u64,
        }
    }
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
        let row = RowKey::new(self.revision, false);
        Kv::decode(self.encoded).map_err(|error| bad_row(Bucket::Key, row.as_slice(), &error.to_string()))
    }
}

/// A range read in progress; borrows its view.
pub struct RangeCursor<'v> {
    view: &'v StoreView,
    query: RangeQuery<'v>,
    moment: Moment,
    keys: FoundIter<'v>,
    left: u64,
}

impl<'v> RangeCursor<'v> {
    pub(super) fn new(view: &'v StoreView, query: RangeQuery<'v>, moment: Moment) -> RangeCursor<'v> {
        let keys = view.index.range(query.interval, moment, query.after);
        RangeCursor {
            view,
            query,
            moment,
            keys,
            left: query.limit(),
        }
    }

    /// The revision it reads at.
    pub fn revision(&self) -> i64 {
        self.moment.main
    }

    /// Measures the whole answer without touching stored bytes (with `keys_only`, of pairs without values: bytes of
    /// keys that have changed since `revision` are then read). Leaves the cursor where it is.
    pub fn measure(&self, keys_only: bool) -> Result<RangeSize, StoreError> {
        let RangeQuery { interval, after, .. } = self.query;
        let mut size = RangeSize {
            count: self.count(),
            ..RangeSize::default()
        };
        let limit = usize::try_from(self.query.limit()).unwrap_or(usize::MAX);
        for found in self.view.index.range(interval, self.moment, after).take(limit) {
            let len = if keys_only {
                self.keys_only_len(&found)?
            } else {
                found.rev.len as usize
            };
            size.returned += 1;
            size.kv_bytes += len as u64;
            size.framed_bytes += framed_len(len) as u64;
        }
        Ok(size)
    }

    /// Keys of the interval, ignoring the limit (and `after`). O(log n) at the current revision, else a walk.
    pub fn count(&self) -> u64 {
        self.view.count_at(self.query.interval, self.moment)
    }

    /// Whether the interval has at most `max` keys; away from the current revision it looks at no more than that.
    pub fn count_at_most(&self, max: u64) -> bool {
        if self.moment == Moment::after(self.view.revision()) {
            return self.count() <= max;
        }
        let walk = self.view.index.range(self.query.interval, self.moment, None);
        let most = usize::try_from(max).unwrap_or(usize::MAX).saturating_add(1);
        walk.take(most).count() as u64 <= max
    }

    /// The next key, nothing at the end or at the limit.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RangeItem<'v>>, StoreError> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(found) = self.keys.next() else { return Ok(None) };
        self.left -= 1;
        self.item(&found).map(Some)
    }

    fn item(&self, found: &Found<'v>) -> Result<RangeItem<'v>, StoreError> {
        let revision = found.rev.revision();
        match self.view.kv(revision)? {
            Some(encoded) if encoded.len() == found.rev.len as usize => Ok(RangeItem {
                key: found.key,
                revision,
                encoded,
            }),
            stored => {
                let problem = match stored {
                    Some(encoded) => format!("it has {} bytes, the index says {}", encoded.len(), found.rev.len),
                    None => "it is missing".to_owned(),
                };
                Err(bad_row(Bucket::Key, RowKey::new(revision, false).as_slice(), &problem))
            }
        }
    }

    fn keys_only_len(&self, found: &Found<'v>) -> Result<usize, StoreError> {
        let kv = match found.head {
            Some(info) => Kv {
                key: found.key,
                create_revision: info.create_revision,
                mod_revision: info.mod_revision.main,
                version: info.version,
                value: b"",
                lease: info.lease,
            },
            None => self.item(found)?.kv()?.without_value(),
        };
        Ok(kv.encoded_len())
    }
}
