//! Write transactions.

use super::{Interval, Key, KeyInfo, Store, StoreError};

/// One transaction on the store: everything it changes gets the same main revision.
pub struct WriteTxn<'s> {
    store: &'s mut Store,
}

/// What a put replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PutOutcome {
    /// The key as it was before, if it existed. Its bytes: `view.kv(prev.mod_revision)`.
    pub prev: Option<KeyInfo>,
}

/// One key that a delete removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deleted {
    /// The user key.
    pub key: Key,
    /// The key as it was before.
    pub prev: KeyInfo,
}

impl WriteTxn<'_> {
    /// The revision its changes get.
    pub fn revision(&self) -> i64 {
        todo!()
    }

    /// True when it has changed something.
    pub fn changed(&self) -> bool {
        todo!()
    }

    /// Sets a key. `lease` 0 detaches the old one.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> PutOutcome {
        let _ = (key, value, lease, &self.store);
        todo!()
    }

    /// Deletes the keys of an interval; the deleted ones in key order.
    pub fn delete_range(&mut self, interval: Interval<'_>) -> Vec<Deleted> {
        let _ = interval;
        todo!()
    }

    /// A key as the transaction sees it, its own writes included.
    pub fn get(&self, key: &[u8]) -> Option<KeyInfo> {
        let _ = key;
        todo!()
    }

    /// The existing keys of an interval in key order, own writes included.
    pub fn range(&self, interval: Interval<'_>) -> impl Iterator<Item = (&[u8], KeyInfo)> {
        let _ = interval;
        std::iter::empty()
    }

    /// The encoded `mvccpb.KeyValue` of a key as the transaction sees it (for VALUE compares). May touch the tree.
    pub fn kv(&self, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        let _ = key;
        todo!()
    }

    /// Ends the transaction: the current revision after it, raised by one if it changed anything.
    pub fn end(self) -> i64 {
        todo!()
    }
}
