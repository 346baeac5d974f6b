//! etcore.

pub mod runtime;
