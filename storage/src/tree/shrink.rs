//! Moving the tail of the file down, a few pages with each commit.
//!
//! A page moves by being written anew: the free list hands out low pages first. Which pages lie in the tail is found
//! by walking the branch pages of the durable root round and round, from where the last step stopped.

use super::{BucketId, Root, Tree, TreeError, commit::Stage, format::PageRef, page::Kind};

/// How many elements are looked at for each page that may be moved.
const LOOKS_PER_PAGE: usize = 64;

/// Where a walk goes on: a bucket, and a key in it.
pub(super) type Place = (BucketId, Vec<u8>);

/// One bounded walk over the tree for pages in the tail.
struct Walk<'r> {
    root: &'r Root,
    /// Pages from here on are in the tail.
    tail_page: u64,
    looks_left: usize,
    finds_left: usize,
    found: Vec<Place>,
    /// Where the walk stopped before its end.
    stopped: Option<Place>,
}

impl Tree {
    /// How many pages could be cut from the end if the rest were moved together; zero below one growth step.
    pub fn shrinkable_pages(&self) -> u64 {
        Some(self.space.free().pages())
            .filter(|&pages| pages >= self.step_pages())
            .unwrap_or(0)
    }

    /// Whether what earlier commits freed, and older roots still reach, would be worth cutting off.
    pub fn is_held_back(&self) -> bool {
        self.space.free().pages() + self.space.pending_pages() >= self.step_pages()
    }

    /// One growth step: less is not worth cutting off.
    fn step_pages(&self) -> u64 {
        self.options.growth_step_bytes / self.shared.page_size as u64
    }

    /// Moves up to `pages_max` nodes from the end of the file to free pages nearer the start, as part of the open
    /// commit; call it with each commit while [`Tree::shrinkable_pages`] is not zero. The end is cut off by itself once
    /// nobody holds a root that reaches it. Gives how many moved.
    ///
    /// Errors: [`TreeError::Corrupt`]; [`TreeError::Io`] when poisoned. Panics when no commit is open.
    pub fn shrink_step(&mut self, pages_max: usize) -> Result<usize, TreeError> {
        self.check_alive()?;
        let shrinkable = self.shrinkable_pages();
        let commit = self.commit.as_mut().expect("a commit is open");
        assert!(commit.stage == Stage::Open, "the commit is sealed");
        if shrinkable == 0 || pages_max == 0 {
            return Ok(0);
        }
        let root = commit.draft.base().clone();
        let mut walk = Walk {
            root: &root,
            tail_page: self.space.end_page().saturating_sub(shrinkable),
            looks_left: pages_max.saturating_mul(LOOKS_PER_PAGE),
            finds_left: pages_max,
            found: Vec::new(),
            stopped: None,
        };
        walk.go(self.shrink_from.take())?;
        self.shrink_from = walk.stopped;
        for (bucket, key) in &walk.found {
            commit.draft.touch(*bucket, key)?;
        }
        Ok(walk.found.len())
    }
}

impl Walk<'_> {
    fn go(&mut self, from: Option<Place>) -> Result<(), TreeError> {
        let root = self.root;
        let (first, key) = from.unwrap_or_default();
        for bucket in root.directory.iter().filter(|bucket| bucket.bucket >= first) {
            let key = if bucket.bucket == first { key.as_slice() } else { &[] };
            self.visit(bucket.bucket, bucket.root, bucket.height, &[], key)?;
        }
        Ok(())
    }

    /// Looks at a node and what is below it from `from` on. `low` is a key that leads to the node.
    fn visit(&mut self, bucket: u8, at: PageRef, height: u32, low: &[u8], from: &[u8]) -> Result<(), TreeError> {
        if self.stopped.is_some() {
            return Ok(());
        }
        if self.looks_left == 0 || self.finds_left == 0 {
            self.stopped = Some((bucket, low.max(from).to_vec()));
            return Ok(());
        }
        self.looks_left -= 1;
        if at.page + u64::from(at.pages) > self.tail_page {
            self.finds_left -= 1;
            self.found.push((bucket, low.to_vec()));
        }
        if height == 1 {
            return Ok(());
        }
        let page = self.root.run(at, Kind::Branch)?;
        let first = page.child_index(from);
        for index in first..page.count() {
            let low = if index == 0 { low } else { page.branch_key(index) };
            let from = if index == first { from } else { &[] };
            if self.stopped.is_some() {
                break;
            }
            self.visit(bucket, page.child(index), height - 1, low, from)?;
        }
        Ok(())
    }
}
