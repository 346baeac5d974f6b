//! Rows outside the revision stream that the tree does not have yet, and rows it has and should not.

use bytes::Bytes;

use super::{
    key::Key,
    pmap::{Item, Iter, PMap},
};
use crate::buckets::Bucket;

/// The newest state of one row.
#[derive(Clone)]
pub struct Patch {
    /// Bucket id, then the row's key.
    key: Key,
    /// The block that holds it.
    sequence: u64,
    /// Nothing for a removed row.
    pub value: Option<Bytes>,
}

impl Patch {
    /// The row's key.
    pub fn row(&self) -> &[u8] {
        &self.key.as_slice()[1..]
    }
}

impl Item for Patch {
    fn key(&self) -> &Key {
        &self.key
    }

    fn weight(&self) -> u64 {
        1
    }
}

/// Patches by bucket and key; a clone is a picture of it.
#[derive(Clone, Default)]
pub struct Overlay {
    map: PMap<Patch>,
}

impl Overlay {
    /// Sets or removes a row.
    pub fn set(&mut self, bucket: Bucket, row: &[u8], sequence: u64, value: Option<Bytes>) {
        with_key(bucket, row, |key| {
            self.map.upsert(key, |patch| match patch {
                Some(patch) => {
                    (patch.sequence, patch.value) = (sequence, value);
                    (None, ())
                }
                None => (
                    Some(Patch {
                        key: Key::new(key),
                        sequence,
                        value,
                    }),
                    (),
                ),
            });
        });
    }

    /// What is known of a row: nothing, its removal, or its value.
    pub fn get(&self, bucket: Bucket, row: &[u8]) -> Option<Option<&Bytes>> {
        if self.map.len() == 0 {
            return None;
        }
        with_key(bucket, row, |key| self.map.get(key)).map(|patch| patch.value.as_ref())
    }

    /// Forgets a row if its newest state is in the tree, that is, in a block up to `committed`.
    pub fn forget(&mut self, bucket: Bucket, row: &[u8], committed: u64) {
        with_key(bucket, row, |key| {
            if self.map.get(key).is_some_and(|patch| patch.sequence <= committed) {
                self.map.remove(key);
            }
        });
    }

    /// The patches of a bucket in key order from `from` on.
    pub fn patches(&self, bucket: Bucket, from: &[u8]) -> Patches<'_> {
        Patches {
            bucket,
            iter: with_key(bucket, from, |key| self.map.iter_from(key)),
        }
    }
}

/// A walk over the patches of one bucket.
pub struct Patches<'m> {
    bucket: Bucket,
    iter: Iter<'m, Patch>,
}

impl<'m> Iterator for Patches<'m> {
    type Item = &'m Patch;

    fn next(&mut self) -> Option<&'m Patch> {
        self.iter
            .next()
            .filter(|patch| patch.key.as_slice()[0] == self.bucket.id())
    }
}

fn with_key<R>(bucket: Bucket, row: &[u8], then: impl FnOnce(&[u8]) -> R) -> R {
    let mut short = [0; 64];
    if row.len() < short.len() {
        short[0] = bucket.id();
        short[1..=row.len()].copy_from_slice(row);
        return then(&short[..=row.len()]);
    }
    let mut long = Vec::with_capacity(row.len() + 1);
    long.push(bucket.id());
    long.extend_from_slice(row);
    then(&long)
}
