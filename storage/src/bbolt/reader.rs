//! The reader.

use bytes::Bytes;

use crate::{
    buckets::Bucket,
    mvcc::{Base, BaseError, Rows},
};

/// Why a file is not a good bbolt file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BboltError {
    /// Neither meta page is valid.
    #[error("not a bbolt file: {0}; check that it is an etcd snapshot or a member/snap/db file")]
    NoMeta(String),
    /// A page or element is damaged.
    #[error("damaged bbolt file: page {page}: {problem}; take a new snapshot")]
    Damaged {
        /// The page.
        page: u64,
        /// What is wrong.
        problem: String,
    },
    /// The trailing SHA-256 does not match.
    #[error("snapshot hash mismatch: the file holds {expected}, its content has {found}; take a new snapshot")]
    HashMismatch {
        /// What the file says.
        expected: String,
        /// What its content gives.
        found: String,
    },
}

/// Splits the SHA-256 trailer off a snapshot file and checks it; a file without one comes back whole.
pub fn split_trailer(file: Bytes) -> Result<Bytes, BboltError> {
    let _ = file;
    todo!()
}

/// A bbolt file in memory. A [`Base`], so a store can be restored straight from it.
#[derive(Clone, Debug)]
pub struct BboltFile {}

impl BboltFile {
    /// Opens a file: picks its meta page and finds its buckets.
    pub fn open(file: Bytes) -> Result<BboltFile, BboltError> {
        let _ = file;
        todo!()
    }

    /// Names of the top-level buckets, in order.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, BboltError> {
        todo!()
    }

    /// Walks every page of every bucket: structure, order of keys, no page twice. Number of rows.
    pub fn check(&self) -> Result<u64, BboltError> {
        todo!()
    }
}

impl Base for BboltFile {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, BaseError> {
        let _ = (bucket, key);
        todo!()
    }

    fn scan<'a>(&'a self, bucket: Bucket, from: &[u8]) -> Result<Box<dyn Rows<'a> + 'a>, BaseError> {
        let _ = (bucket, from);
        todo!()
    }
}
