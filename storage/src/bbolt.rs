//! bbolt files at the border: what `Snapshot` streams, what restore and import read.
//!
//! Our own data never lives in this format. The writer lays a file out from a [`StoreView`](crate::mvcc::StoreView) and
//! streams it; the reader checks what it follows and never trusts a length.

mod export;
mod format;
mod pack;
mod reader;

#[cfg(test)]
mod tests;

pub use export::{ConfStateJson, Export, ExportOptions, TRAILER_LEN};
pub use reader::{BboltError, BboltFile, split_trailer};
