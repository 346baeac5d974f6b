//! The revisions of one key.
