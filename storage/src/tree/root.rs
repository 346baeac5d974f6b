//! The read side: one durable state of the tree.

use std::sync::Arc;

use super::{
    BucketId, Cursor, MetaUser, TreeError,
    format::{BucketRef, FIRST_PAGE, Meta, PageRef},
    page::{Kind, Page, Shared},
    walk::Walk,
};

/// One durable state of the tree, readable from any thread for as long as it is held.
///
/// The pages it reaches are not reused while it is held: hold it for a turn, not for ever.
#[derive(Debug)]
pub struct Root {
    pub(super) shared: Arc<Shared>,
    pub(super) meta: Meta,
    /// Ascending by bucket; only buckets that hold something.
    pub(super) directory: Vec<BucketRef>,
}

impl Root {
    /// Number of the commit that made it.
    pub fn txid(&self) -> u64 {
        self.meta.txid
    }

    /// What the owner stored with that commit.
    pub fn user(&self) -> &MetaUser {
        &self.meta.user
    }

    /// The value of a key.
    ///
    /// Errors: [`TreeError::Corrupt`].
    pub fn get(&self, bucket: BucketId, key: &[u8]) -> Result<Option<&[u8]>, TreeError> {
        let Some(found) = self.bucket(bucket) else {
            return Ok(None);
        };
        let mut at = found.root;
        for _ in 1..found.height {
            let page = self.run(at, Kind::Branch)?;
            at = page.child(page.child_index(key));
        }
        let leaf = self.run(at, Kind::Leaf)?;
        Ok(leaf.search_leaf(key).ok().map(|index| leaf.pair(index).1))
    }

    /// A cursor over a bucket, standing before the first pair.
    pub fn cursor(&self, bucket: BucketId) -> Cursor<'_> {
        Cursor::new(self, self.bucket(bucket).copied())
    }

    /// How many pairs a bucket holds.
    pub fn count(&self, bucket: BucketId) -> u64 {
        self.bucket(bucket).map_or(0, |found| found.entries)
    }

    /// The buckets that hold something, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = BucketId> + '_ {
        self.directory.iter().map(|found| found.bucket)
    }

    /// Where the used part of the file ends. Units: bytes.
    pub fn size_bytes(&self) -> u64 {
        self.meta.end_page * self.shared.page_size as u64
    }

    /// Units: bytes.
    pub fn page_size(&self) -> usize {
        self.shared.page_size
    }

    /// The page runs this root reaches, `(first page, pages)` ascending, metas left out: with [`Root::run_bytes`] and
    /// [`Root::meta_bytes`] they make a file that opens as this root. Reads the branch pages, not the leaves.
    ///
    /// Errors: [`TreeError::Corrupt`], also when a page is reached twice.
    pub fn runs(&self) -> Result<Vec<(u64, u32)>, TreeError> {
        let mut runs = Vec::new();
        let mut note = |run| {
            runs.push(run);
            Ok(())
        };
        Walk::over(self).go_on(self, usize::MAX, &mut note)?;
        runs.sort_unstable();
        self.check_apart(&runs)?;
        Ok(runs)
    }

    /// The bytes of a run that [`Root::runs`] named.
    pub fn run_bytes(&self, (page, pages): (u64, u32)) -> &[u8] {
        self.shared
            .map
            .bytes(page * self.page_size() as u64, pages as usize * self.page_size())
    }

    /// The two meta pages of a file that opens as this root.
    pub fn meta_bytes(&self) -> Vec<u8> {
        [self.meta.encode(), self.meta.encode()].concat()
    }

    pub(super) fn bucket(&self, bucket: BucketId) -> Option<&BucketRef> {
        let index = self
            .directory
            .binary_search_by_key(&bucket, |found| found.bucket)
            .ok()?;
        Some(&self.directory[index])
    }

    #[inline]
    pub(super) fn run(&self, at: PageRef, kind: Kind) -> Result<Page<'_>, TreeError> {
        self.shared.run(at, kind, self.meta.end_page)
    }

    /// Runs are in the file and do not overlap.
    fn check_apart(&self, runs: &[(u64, u32)]) -> Result<(), TreeError> {
        let mut free_from = FIRST_PAGE;
        for &(page, pages) in runs {
            if page < free_from {
                return Err(self
                    .shared
                    .corrupt(page, "first page not reached twice", free_from, page));
            }
            free_from = page.saturating_add(u64::from(pages));
        }
        if free_from > self.meta.end_page {
            return Err(self
                .shared
                .corrupt(free_from - 1, "end of the file in pages", self.meta.end_page, free_from));
        }
        Ok(())
    }
}
