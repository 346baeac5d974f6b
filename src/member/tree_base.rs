//! The tree's durable root as the base of the store.

use std::sync::Arc;

use storage::{
    buckets::Bucket,
    mvcc::{Base, BaseError, Rows},
    tree::{Cursor, Root, TreeError},
};

/// One durable root.
pub struct TreeBase(Arc<Root>);

impl TreeBase {
    /// Wraps a root.
    pub fn new(root: Arc<Root>) -> Self {
        TreeBase(root)
    }
}

impl Base for TreeBase {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<&[u8]>, BaseError> {
        self.0.get(bucket.id(), key).map_err(damage)
    }

    fn scan<'a>(&'a self, bucket: Bucket, from: &[u8]) -> Result<Box<dyn Rows<'a> + 'a>, BaseError> {
        let mut cursor = self.0.cursor(bucket.id());
        let first = cursor.seek(from).map_err(damage)?;
        Ok(Box::new(Walk { cursor, first }))
    }
}

struct Walk<'a> {
    cursor: Cursor<'a>,
    first: Option<(&'a [u8], &'a [u8])>,
}

impl<'a> Rows<'a> for Walk<'a> {
    fn next(&mut self) -> Result<Option<(&'a [u8], &'a [u8])>, BaseError> {
        match self.first.take() {
            Some(row) => Ok(Some(row)),
            None => self.cursor.next().map_err(damage),
        }
    }
}

fn damage(error: TreeError) -> BaseError {
    BaseError(Arc::new(error))
}
