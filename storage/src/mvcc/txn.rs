//! Write transactions.

use raft::mutant;

use super::{
    Interval, Key, KeyInfo, Kv, Revision, Store, StoreError,
    block::RawChange,
    index::{Found, Moment},
    revision::PUT_LEN,
};

/// One transaction on the store: everything it changes gets the same main revision.
///
/// Dropping it ends it too: what it changed stays.
pub struct WriteTxn<'s> {
    store: &'s mut Store,
    next: Revision,
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

impl<'s> WriteTxn<'s> {
    pub(super) fn new(store: &'s mut Store) -> WriteTxn<'s> {
        let next = Revision::new(store.revision + 1, 0);
        WriteTxn { store, next }
    }

    /// The revision its changes get.
    pub fn revision(&self) -> i64 {
        self.next.main
    }

    /// The revision its next change gets: what it reads at is all before that.
    pub fn next_revision(&self) -> Revision {
        self.next
    }

    /// True when it has changed something.
    pub fn changed(&self) -> bool {
        self.next.sub > 0
    }

    /// Sets a key. `lease` 0 detaches the old one.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> PutOutcome {
        let revision = self.next;
        let open = &mut self.store.open;
        let mut len = 0;
        let prev = self.store.index.put(key, revision, lease, |create_revision, version| {
            len = open.encode(&Kv {
                key,
                create_revision,
                mod_revision: revision.main,
                version,
                value,
                lease,
            });
            len
        });
        self.record(key, len, false, prev, lease);
        PutOutcome { prev }
    }

    /// Deletes the keys of an interval; the deleted ones in key order.
    pub fn delete_range(&mut self, interval: Interval<'_>) -> Vec<Deleted> {
        let found = self.store.index.range(interval, Moment::END, None);
        let deleted: Vec<_> = found
            .filter_map(|Found { key, head, .. }| {
                head.map(|prev| Deleted {
                    key: Key::new(key),
                    prev,
                })
            })
            .collect();
        for Deleted { key, prev } in &deleted {
            let key = key.as_slice();
            let len = self.store.open.encode(&Kv { key, ..Kv::default() });
            let gone = self.store.index.tombstone(key, self.next, len);
            assert_eq!(gone, Some(*prev), "the key was just listed");
            self.record(key, len, true, gone, prev.lease);
        }
        deleted
    }

    fn record(&mut self, key: &[u8], len: u32, is_delete: bool, prev: Option<KeyInfo>, lease: i64) {
        self.store.open.push(RawChange {
            revision: self.next,
            offset: 0,
            len,
            key_len: key.len() as u32,
            is_delete,
            prev: prev.map_or(Revision::default(), |prev| prev.mod_revision),
            lease,
        });
        self.store.rows += 1;
        self.store.row_bytes += u64::from(len) + PUT_LEN as u64 + u64::from(is_delete);
        self.next.sub += 1;
    }

    /// A key as the transaction sees it, its own writes included.
    pub fn get(&self, key: &[u8]) -> Option<KeyInfo> {
        self.store.index.get_head(key)
    }

    /// The existing keys of an interval in key order, own writes included.
    pub fn range<'a>(&'a self, interval: Interval<'a>) -> impl Iterator<Item = (&'a [u8], KeyInfo)> {
        let found = self.store.index.range(interval, Moment::END, None);
        found.filter_map(|Found { key, head, .. }| head.map(|info| (key, info)))
    }

    /// Number of existing keys of an interval, own writes included. O(log n).
    pub fn count(&self, interval: Interval<'_>) -> u64 {
        self.store.index.count_now(interval)
    }

    /// The encoded `mvccpb.KeyValue` of a key as the transaction sees it (for VALUE compares). May touch the tree.
    pub fn kv(&self, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        match self.get(key) {
            Some(info) => self.store.kv(info.mod_revision),
            None => Ok(None),
        }
    }

    /// Ends the transaction: the current revision after it, raised by one if it changed anything.
    pub fn end(self) -> i64 {
        self.final_revision()
    }

    fn final_revision(&self) -> i64 {
        if self.changed() || mutant::on("empty_delete_makes_a_revision") {
            self.next.main
        } else {
            self.next.main - 1
        }
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        self.store.revision = self.final_revision();
    }
}
