//! Revisions that running ranges still read.

/// The register of revisions in use, shared by the core and the shards.
#[derive(Clone, Default)]
pub struct Pins {}

/// Holds a revision against physical removal until dropped.
pub struct Pin {}

impl Pins {
    /// Registers a reader at `revision`.
    pub fn pin(&self, revision: i64) -> Pin {
        let _ = revision;
        todo!()
    }

    /// The oldest revision in use.
    pub fn oldest(&self) -> Option<i64> {
        todo!()
    }
}
