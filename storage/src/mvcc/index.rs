//! The index: user key -> its revisions.

use super::Revision;

/// The newest put of an existing key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyInfo {
    /// Its last change.
    pub mod_revision: Revision,
    /// Main revision of the put that created it.
    pub create_revision: i64,
    /// Puts since creation.
    pub version: i64,
    /// Its lease, 0 for none.
    pub lease: i64,
    /// Length of its encoded `mvccpb.KeyValue`.
    pub encoded_len: u32,
}
