//! Scans by revision, for watchers that read history.

use super::Revision;

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
