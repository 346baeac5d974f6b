//! The whole check: structure, order, checksums, and who owns each page.

use super::{
    CheckReport, Root, Tree, TreeError,
    format::{BucketRef, FIRST_PAGE, PageRef},
    page::Kind,
};

/// The keys a node may hold: from `low` on, below `high`.
#[derive(Clone, Copy)]
struct Bounds<'r> {
    low: &'r [u8],
    high: Option<&'r [u8]>,
}

impl Root {
    /// Walks everything the root reaches: each page once, keys ordered and where they belong, checksums right,
    /// whether or not they were verified before.
    ///
    /// Errors: [`TreeError::Corrupt`].
    pub fn check(&self) -> Result<CheckReport, TreeError> {
        let mut report = CheckReport::default();
        if let Some(at) = self.meta.directory {
            self.shared.run_rechecked(at, Kind::Directory, self.meta.end_page)?;
        }
        for bucket in &self.directory {
            let before = report.entries;
            self.check_node(bucket.root, bucket.height, Bounds { low: &[], high: None }, &mut report)?;
            self.check_count(bucket, report.entries - before)?;
        }
        report.reachable_pages = self.runs()?.iter().map(|&(_, pages)| u64::from(pages)).sum();
        Ok(report)
    }

    fn check_count(&self, bucket: &BucketRef, found: u64) -> Result<(), TreeError> {
        if found == bucket.entries {
            return Ok(());
        }
        Err(self
            .shared
            .corrupt(bucket.root.page, "entries of a bucket", bucket.entries, found))
    }

    fn check_node(
        &self,
        at: PageRef,
        height: u32,
        bounds: Bounds<'_>,
        report: &mut CheckReport,
    ) -> Result<(), TreeError> {
        let kind = Kind::at_height(height);
        let page = self.shared.run_rechecked(at, kind, self.meta.end_page)?;
        if kind == Kind::Leaf {
            report.leaves += 1;
            report.entries += page.count() as u64;
            return self.check_order(at, (0..page.count()).map(|index| page.leaf_key(index)), bounds);
        }
        report.branches += 1;
        self.check_order(at, (1..page.count()).map(|index| page.branch_key(index)), bounds)?;
        for index in 0..page.count() {
            let low = if index == 0 { bounds.low } else { page.branch_key(index) };
            let high = if index + 1 < page.count() {
                Some(page.branch_key(index + 1))
            } else {
                bounds.high
            };
            self.check_node(page.child(index), height - 1, Bounds { low, high }, report)?;
        }
        Ok(())
    }

    fn check_order<'k>(
        &self,
        at: PageRef,
        keys: impl Iterator<Item = &'k [u8]>,
        bounds: Bounds<'_>,
    ) -> Result<(), TreeError> {
        let mut last: Option<&[u8]> = None;
        for (index, key) in keys.enumerate() {
            let rising = last.is_none_or(|last| last < key);
            let inside = bounds.low <= key && bounds.high.is_none_or(|high| key < high);
            if !rising || !inside {
                return Err(self.shared.corrupt(at.page, "place of the key", 0, index as u64));
            }
            last = Some(key);
        }
        Ok(())
    }
}

impl Tree {
    /// [`Root::check`], and for the newest root, between commits: free, pending and reachable pages make up the file.
    ///
    /// Errors: [`TreeError::Corrupt`].
    pub fn check(&self, root: &Root) -> Result<CheckReport, TreeError> {
        let mut report = root.check()?;
        report.free_pages = self.space.free().pages();
        report.pending_pages = self.space.pending_pages();
        if root.txid() == self.newest.txid() && self.commit.is_none() {
            self.check_owners(root)?;
        }
        Ok(report)
    }

    fn check_owners(&self, root: &Root) -> Result<(), TreeError> {
        let mut runs: Vec<(u64, u64)> = self.space.free().runs().collect();
        runs.extend(self.space.pending_runs().map(|(page, pages)| (page, u64::from(pages))));
        runs.extend(root.runs()?.into_iter().map(|(page, pages)| (page, u64::from(pages))));
        runs.sort_unstable();
        let mut from = FIRST_PAGE;
        for (page, pages) in runs {
            if page != from {
                return Err(self
                    .shared
                    .corrupt(page.min(from), "page with exactly one owner", from, page));
            }
            from += pages;
        }
        if from != self.space.end_page() {
            return Err(self
                .shared
                .corrupt(from, "end of the file in pages", self.space.end_page(), from));
        }
        Ok(())
    }
}
