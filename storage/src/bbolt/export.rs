//! The writer: a view streamed as a bbolt file, its size known before the first byte.

use bytes::Bytes;

use crate::mvcc::{StoreError, StoreView};

/// What to add to the file.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Rows of bucket `meta` that take the place of the view's (`confState` as JSON, `storageVersion`, ...).
    /// `consistent_index` and `term` are taken from the view's applied state unless they stand here.
    pub meta: Vec<(Vec<u8>, Vec<u8>)>,
    /// End the stream with the SHA-256 of all before it, as the `Snapshot` RPC does.
    pub trailer: bool,
}

/// A view being written as a bbolt file: plan to the end, then emit. Holds its view until dropped.
pub struct Export {}

impl Export {
    /// Starts an export of `view`.
    pub fn new(view: StoreView, options: ExportOptions) -> Export {
        let _ = (view, options);
        todo!()
    }

    /// Lays out about `budget` bytes more; true when the layout is known.
    pub fn plan(&mut self, budget: usize) -> Result<bool, StoreError> {
        let _ = budget;
        todo!()
    }

    /// Size of the whole stream in bytes, trailer included.
    ///
    /// Order: after [`Export::plan`] answered true; panics before.
    pub fn total_bytes(&self) -> u64 {
        todo!()
    }

    /// The next piece of the stream, about `budget` bytes; nothing at the end.
    pub fn next_piece(&mut self, budget: usize) -> Result<Option<Bytes>, StoreError> {
        let _ = budget;
        todo!()
    }
}
