//! What a root reaches, found in slices: a walk over its branch pages, and a set of pages.

use super::{
    Root, TreeError,
    format::{FIRST_PAGE, PageRef},
    page::{Kind, Shared},
};

/// A walk over everything that a root reaches. Reads the branch pages, not the leaves.
#[derive(Debug)]
pub(super) struct Walk {
    directory: Option<PageRef>,
    /// Nodes to look at, with their heights.
    todo: Vec<(PageRef, u32)>,
    found: u64,
}

impl Walk {
    /// Before the first step.
    pub fn over(root: &Root) -> Walk {
        Walk {
            directory: root.meta.directory,
            todo: root.directory.iter().map(|found| (found.root, found.height)).collect(),
            found: 0,
        }
    }

    /// Visits runs, `(first page, pages)`, in no order, until there are no more or `runs_max` are exceeded by those of one
    /// branch page; true at the end.
    ///
    /// Errors: [`TreeError::Corrupt`], and what `visit` answers.
    pub fn go_on(
        &mut self,
        root: &Root,
        runs_max: usize,
        visit: &mut impl FnMut((u64, u32)) -> Result<(), TreeError>,
    ) -> Result<bool, TreeError> {
        let stop = self.found.saturating_add(runs_max as u64);
        if let Some(at) = self.directory.take() {
            self.meet(at, visit)?;
        }
        while let Some((at, height)) = self.todo.pop() {
            self.meet(at, visit)?;
            if height == 1 {
                continue;
            }
            let page = root.run(at, Kind::Branch)?;
            let children = (0..page.count()).map(|index| page.child(index));
            if height == 2 {
                children.into_iter().try_for_each(|child| self.meet(child, visit))?;
            } else {
                self.todo.extend(children.map(|child| (child, height - 1)));
            }
            if self.found > root.meta.end_page {
                return Err(root
                    .shared
                    .corrupt(at.page, "runs in the file", root.meta.end_page, self.found));
            }
            if self.found >= stop {
                return Ok(self.todo.is_empty());
            }
        }
        Ok(true)
    }

    fn meet(
        &mut self,
        at: PageRef,
        visit: &mut impl FnMut((u64, u32)) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        self.found += 1;
        visit((at.page, at.pages))
    }
}

/// The pages of a file that something reaches, a bit each.
#[derive(Debug)]
pub(super) struct Reached {
    words: Vec<u64>,
    end: u64,
}

impl Reached {
    /// None of the pages below `end`.
    pub fn none(end: u64) -> Reached {
        let words = usize::try_from(end.div_ceil(64)).expect("the pages of a mapped file can be counted");
        Reached {
            words: vec![0; words],
            end,
        }
    }

    /// Adds a run.
    ///
    /// Errors: [`TreeError::Corrupt`] when a page of it is reached already, or is not in the file's tree.
    pub fn add(&mut self, (page, pages): (u64, u32), shared: &Shared) -> Result<(), TreeError> {
        let end = page.saturating_add(u64::from(pages));
        if page < FIRST_PAGE {
            return Err(shared.corrupt(page, "first page of the tree", FIRST_PAGE, page));
        }
        if end > self.end {
            return Err(shared.corrupt(page, "end of the file in pages", self.end, end));
        }
        let mut from = page;
        while from < end {
            let (at, bit) = ((from / 64) as usize, from % 64);
            let count = (end - from).min(64 - bit);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if self.words[at] & mask != 0 {
                return Err(shared.corrupt(page, "times that a page of the run is reached", 1, 2));
            }
            self.words[at] |= mask;
            from += count;
        }
        Ok(())
    }

    /// The first run of pages from `from` on that nothing reaches: its first page, and the one behind its last.
    pub fn next_free(&self, from: u64) -> Option<(u64, u64)> {
        let start = self.next(from, |word| !word)?;
        Some((start, self.next(start, |word| word).unwrap_or(self.end)))
    }

    /// The first page from `from` on whose bit is set in what `read` makes of its word.
    fn next(&self, from: u64, read: impl Fn(u64) -> u64) -> Option<u64> {
        let mut at = from;
        while at < self.end {
            let word = read(self.words[(at / 64) as usize]) >> (at % 64);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros())).filter(|page| *page < self.end);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::{io::Pages, tree::page::Verified};

    struct NoPages;

    impl Pages for NoPages {
        fn bytes(&self, _: u64, _: usize) -> &[u8] {
            unreachable!("only numbers are looked at")
        }
    }

    fn shared() -> Shared {
        Shared {
            map: Arc::new(NoPages),
            verified: Verified::new(1),
            path: "tree".into(),
            page_size: 512,
        }
    }

    fn free(reached: &Reached) -> Vec<(u64, u64)> {
        let (mut runs, mut from) = (Vec::new(), FIRST_PAGE);
        while let Some((start, end)) = reached.next_free(from) {
            runs.push((start, end));
            from = end;
        }
        runs
    }

    #[test]
    fn what_is_free_is_what_nothing_reaches() {
        let (shared, end) = (shared(), 1000);
        let mut state = 7_u64;
        for _ in 0..200 {
            let (mut reached, mut model) = (Reached::none(end), (FIRST_PAGE..end).collect::<BTreeSet<u64>>());
            let mut page = FIRST_PAGE;
            loop {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                page += (state >> 33) % 130;
                let pages = 1 + (state >> 45) % 130;
                if page + pages > end {
                    break;
                }
                reached.add((page, pages as u32), &shared).expect("they lie apart");
                (page..page + pages).for_each(|page| {
                    model.remove(&page);
                });
                page += pages;
            }
            let found: BTreeSet<u64> = free(&reached).into_iter().flat_map(|(from, to)| from..to).collect();
            assert_eq!(found, model);
        }
    }

    #[test]
    fn a_page_that_is_reached_twice_or_is_not_there_is_damage() {
        let (shared, mut reached) = (shared(), Reached::none(200));
        reached.add((60, 10), &shared).expect("it is free");
        for bad in [(69, 1), (50, 11), (66, 100), (1, 1), (190, 11), (u64::MAX, 2)] {
            assert!(
                matches!(reached.add(bad, &shared), Err(TreeError::Corrupt { .. })),
                "{bad:?}"
            );
        }
        reached.add((190, 10), &shared).expect("it ends where the file does");
        assert_eq!(free(&Reached::none(FIRST_PAGE)), []);
    }
}
