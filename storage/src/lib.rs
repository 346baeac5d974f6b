//! Durable state of a member: the write-ahead log, the copy-on-write B+tree and the multi-version store on it.
//!
//! Files are touched only through [`io::Disk`].

pub mod bbolt;
pub mod buckets;
pub mod failpoint;
pub mod io;
pub mod mvcc;
pub mod tree;
pub mod wal;
