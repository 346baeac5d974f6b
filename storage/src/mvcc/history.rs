//! Scans by revision, for watchers that read history.

use super::{Revision, RowKey, StoreError, StoreView, restore::bad_row};
use crate::{buckets::Bucket, mvcc::Kv};

/// One change of the past.
#[derive(Clone, Copy, Debug)]
pub struct HistoryItem<'v> {
    /// When it happened.
    pub revision: Revision,
    /// A delete; `encoded` then holds only the key.
    pub is_delete: bool,
    /// The user key.
    pub key: &'v [u8],
    /// The encoded `mvccpb.KeyValue` as stored.
    pub encoded: &'v [u8],
}

/// Collects changes until a bound is reached, and then to the end of the main revision it is in.
struct Collector<'v, 'o> {
    out: &'o mut Vec<HistoryItem<'v>>,
    main: i64,
    items: usize,
    bytes: usize,
}

impl<'v> Collector<'v, '_> {
    /// False when `item` begins a main revision that has no room.
    fn take(&mut self, item: HistoryItem<'v>) -> bool {
        let full = self.items == 0 || self.bytes == 0;
        if full && item.revision.main != self.main {
            return false;
        }
        self.main = item.revision.main;
        self.items = self.items.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(item.encoded.len());
        self.out.push(item);
        true
    }
}

/// See [`StoreView::history`].
pub(super) fn collect<'v>(
    view: &'v StoreView,
    from: i64,
    max_items: usize,
    max_bytes: usize,
    out: &mut Vec<HistoryItem<'v>>,
) -> Result<i64, StoreError> {
    let mut collector = Collector {
        out,
        main: 0,
        items: max_items.max(1),
        bytes: max_bytes.max(1),
    };
    if !view.buffer.holds(from) && !from_tree(view, from, &mut collector)? {
        return Ok(collector.main + 1);
    }
    for block in view.buffer.iter_from(from) {
        for change in block.changes_from(from) {
            let (revision, is_delete) = (change.revision, change.is_delete);
            if !collector.take(HistoryItem {
                revision,
                is_delete,
                key: change.key,
                encoded: change.encoded,
            }) {
                return Ok(collector.main + 1);
            }
        }
    }
    Ok(view.revision + 1)
}

/// False when the collector is full.
fn from_tree<'v>(view: &'v StoreView, from: i64, collector: &mut Collector<'v, '_>) -> Result<bool, StoreError> {
    let start = RowKey::new(Revision::new(from.max(0), 0), false);
    let mut rows = view.base.scan(Bucket::Key, start.as_slice())?;
    while let Some((row, encoded)) = rows.next()? {
        let bad = |problem: &str| bad_row(Bucket::Key, row, problem);
        let (revision, is_delete) = RowKey::parse(row).ok_or_else(|| bad("its key is not a revision"))?;
        let key = Kv::decode(encoded).map_err(|error| bad(&error.to_string()))?.key;
        if !collector.take(HistoryItem {
            revision,
            is_delete,
            key,
            encoded,
        }) {
            return Ok(false);
        }
    }
    Ok(true)
}
