//! etcore.
