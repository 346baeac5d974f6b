//! What watchers read: events of blocks, and history from a view.

use bytes::Bytes;
use raft::mutant;
use storage::mvcc::{Block, Kv, StoreView};

use super::watch::{Event, Past};

/// History of a view.
pub struct ViewPast<'v>(pub &'v StoreView);

/// Most changes looked at in one slice of history.
const SLICE_ITEMS: usize = 4096;

impl Past for ViewPast<'_> {
    fn revision(&self) -> i64 {
        self.0.revision()
    }

    fn compact_revision(&self) -> i64 {
        self.0.compact_revision()
    }

    fn scan(&self, from: i64, to: i64, max_bytes: usize, visit: &mut dyn FnMut(&Event<'_>)) -> i64 {
        let mut items = Vec::new();
        let next = match self.0.history(from, SLICE_ITEMS, max_bytes, &mut items) {
            Ok(next) => next,
            // Compaction went past it since it was looked at: the next round tells the watcher.
            Err(_) => return from,
        };
        for item in items.iter().take_while(|item| item.revision.main <= to) {
            visit(&event(item.revision, item.is_delete, item.key, item.encoded));
        }
        next.min(to + 1)
    }

    fn before(&self, key: &[u8], main: i64, sub: i64) -> Option<Bytes> {
        // As etcd: the state before the revision, even where the transaction changed the key twice.
        let _ = sub;
        let last = if mutant::on("prev_kv_is_the_new_one") {
            main
        } else {
            main - 1
        };
        self.0.kv_at(key, last).ok().flatten().map(Bytes::copy_from_slice)
    }
}

/// The events of a block.
pub fn events(block: &Block) -> impl Iterator<Item = Event<'_>> {
    block
        .changes()
        .map(|change| event(change.revision, change.is_delete, change.key, change.encoded))
}

fn event<'a>(revision: storage::mvcc::Revision, deleted: bool, key: &'a [u8], encoded: &'a [u8]) -> Event<'a> {
    let version = if deleted {
        0
    } else {
        Kv::decode(encoded).map_or(0, |kv| kv.version)
    };
    Event {
        main: revision.main,
        sub: i64::from(revision.sub),
        deleted,
        key,
        kv: encoded,
        version,
    }
}
