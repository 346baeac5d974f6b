//! What the store needs of the B+tree below it: one durable, immutable root.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use crate::{
    buckets::Bucket,
    tree::{Cursor, Root, TreeError},
};

/// A read of the tree failed: damage or a local fault. The message says which file and where.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BaseError(pub Arc<dyn std::error::Error + Send + Sync>);

/// One immutable, durable state of all buckets.
pub trait Base: Send + Sync {
    /// The value of `key` in `bucket`.
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, BaseError>;

    /// The rows of `bucket` in key order, from the first key that is not less than `from`.
    fn scan<'a>(&'a self, bucket: Bucket, from: &[u8]) -> Result<Box<dyn Rows<'a> + 'a>, BaseError>;
}

/// A row: key and value.
pub type Row<'a> = (&'a [u8], &'a [u8]);

/// A walk over rows in key order.
pub trait Rows<'a> {
    /// The next row, nothing at the end.
    fn next(&mut self) -> Result<Option<Row<'a>>, BaseError>;
}

impl From<TreeError> for BaseError {
    fn from(error: TreeError) -> BaseError {
        BaseError(Arc::new(error))
    }
}

impl Base for Root {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, BaseError> {
        Ok(Root::get(self, bucket.id(), key)?)
    }

    fn scan<'a>(&'a self, bucket: Bucket, from: &[u8]) -> Result<Box<dyn Rows<'a> + 'a>, BaseError> {
        let mut cursor = self.cursor(bucket.id());
        let ahead = cursor.seek(from)?;
        Ok(Box::new(RootRows { cursor, ahead }))
    }
}

struct RootRows<'a> {
    cursor: Cursor<'a>,
    /// The next row, nothing once the end was met.
    ahead: Option<Row<'a>>,
}

impl<'a> Rows<'a> for RootRows<'a> {
    fn next(&mut self) -> Result<Option<Row<'a>>, BaseError> {
        let Some(row) = self.ahead else { return Ok(None) };
        self.ahead = self.cursor.next()?;
        Ok(Some(row))
    }
}

/// A [`Base`] in memory: an empty start, a test double, the content of an imported file.
#[derive(Clone, Default, Debug)]
pub struct MemBase {
    rows: BTreeMap<(Bucket, Vec<u8>), Vec<u8>>,
}

impl MemBase {
    /// Sets or removes a row.
    pub fn apply(&mut self, bucket: Bucket, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.rows.insert((bucket, key.to_vec()), value.to_vec()),
            None => self.rows.remove(&(bucket, key.to_vec())),
        };
    }
}

impl Base for MemBase {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, BaseError> {
        Ok(self.rows.get(&(bucket, key.to_vec())).map(Vec::as_slice))
    }

    fn scan<'a>(&'a self, bucket: Bucket, from: &[u8]) -> Result<Box<dyn Rows<'a> + 'a>, BaseError> {
        let rows = self
            .rows
            .range((Bound::Included((bucket, from.to_vec())), Bound::Unbounded));
        Ok(Box::new(MemRows { bucket, rows }))
    }
}

struct MemRows<'a> {
    bucket: Bucket,
    rows: std::collections::btree_map::Range<'a, (Bucket, Vec<u8>), Vec<u8>>,
}

impl<'a> Rows<'a> for MemRows<'a> {
    fn next(&mut self) -> Result<Option<Row<'a>>, BaseError> {
        let row = self.rows.next().filter(|((bucket, _), _)| *bucket == self.bucket);
        Ok(row.map(|((_, key), value)| (key.as_slice(), value.as_slice())))
    }
}
