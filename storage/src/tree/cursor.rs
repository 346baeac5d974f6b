//! Walking a bucket in key order, both ways.

use super::{
    Root, TreeError,
    format::{BucketRef, PageRef},
    page::{Kind, Page},
};

/// A key and its value.
pub type Pair<'r> = (&'r [u8], &'r [u8]);

/// Walks the pairs of one bucket in key order, borrowing them from the map.
#[derive(Debug)]
pub struct Cursor<'r> {
    root: &'r Root,
    bucket: Option<BucketRef>,
    /// From the bucket's root down to a leaf; empty unless standing on a pair.
    path: Vec<(Page<'r>, usize)>,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Before,
    On,
    Behind,
}

/// Where a descent goes below a given page.
enum Way<'k> {
    First,
    Last,
    Key(&'k [u8]),
}

impl<'r> Cursor<'r> {
    pub(super) fn new(root: &'r Root, bucket: Option<BucketRef>) -> Cursor<'r> {
        Cursor {
            root,
            bucket,
            path: Vec::new(),
            place: Place::Before,
        }
    }

    /// Goes to the first pair whose key is `key` or greater, and gives it.
    ///
    /// Errors: [`TreeError::Corrupt`], here and below.
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<Pair<'r>>, TreeError> {
        self.restart(Way::Key(key))?;
        match self.path.last() {
            Some(&(leaf, index)) if index == leaf.count() => {
                self.path.last_mut().expect("just seen").1 -= 1;
                self.place = Place::On;
                self.next()
            }
            _ => Ok(self.stand(Place::Behind)),
        }
    }

    /// Goes to the first pair and gives it.
    pub fn first(&mut self) -> Result<Option<Pair<'r>>, TreeError> {
        self.restart(Way::First)?;
        Ok(self.stand(Place::Behind))
    }

    /// Goes to the last pair and gives it.
    pub fn last(&mut self) -> Result<Option<Pair<'r>>, TreeError> {
        self.restart(Way::Last)?;
        Ok(self.stand(Place::Before))
    }

    /// Goes one pair on and gives it; from a fresh cursor, the first.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and it goes both ways")]
    pub fn next(&mut self) -> Result<Option<Pair<'r>>, TreeError> {
        match self.place {
            Place::Before => return self.first(),
            Place::Behind => return Ok(None),
            Place::On => {}
        }
        while let Some((page, index)) = self.path.last_mut() {
            *index += 1;
            if *index < page.count() {
                self.descend(Way::First)?;
                break;
            }
            self.path.pop();
        }
        Ok(self.stand(Place::Behind))
    }

    /// Goes one pair back and gives it; from behind the end, the last.
    pub fn prev(&mut self) -> Result<Option<Pair<'r>>, TreeError> {
        match self.place {
            Place::Before => return Ok(None),
            Place::Behind => return self.last(),
            Place::On => {}
        }
        while let Some((_, index)) = self.path.last_mut() {
            if *index > 0 {
                *index -= 1;
                self.descend(Way::Last)?;
                break;
            }
            self.path.pop();
        }
        Ok(self.stand(Place::Before))
    }

    fn restart(&mut self, way: Way<'_>) -> Result<(), TreeError> {
        self.path.clear();
        self.place = Place::Before;
        match self.bucket {
            Some(bucket) => self.enter(bucket.root, way),
            None => Ok(()),
        }
    }

    /// From the deepest page of the path to a leaf.
    fn descend(&mut self, way: Way<'_>) -> Result<(), TreeError> {
        let &(page, index) = self.path.last().expect("a path to go on from");
        if self.on_leaf() {
            Ok(())
        } else {
            self.enter(page.child(index), way)
        }
    }

    fn enter(&mut self, root: PageRef, way: Way<'_>) -> Result<(), TreeError> {
        let mut at = root;
        while !self.on_leaf() {
            let page = self
                .root
                .run(at, Kind::at_height(self.height() - self.path.len() as u32))?;
            let leaf = self.path.len() as u32 + 1 == self.height();
            let index = match way {
                Way::First => 0,
                Way::Last => page.count() - 1,
                Way::Key(key) if leaf => page.search_leaf(key).unwrap_or_else(|index| index),
                Way::Key(key) => page.child_index(key),
            };
            self.path.push((page, index));
            if !leaf {
                at = page.child(index);
            }
        }
        Ok(())
    }

    fn height(&self) -> u32 {
        self.bucket.map_or(0, |bucket| bucket.height)
    }

    fn on_leaf(&self) -> bool {
        self.path.len() as u32 == self.height()
    }

    /// Settles on the pair of the path; with none, `otherwise`.
    fn stand(&mut self, otherwise: Place) -> Option<Pair<'r>> {
        self.place = if self.path.is_empty() { otherwise } else { Place::On };
        self.path.last().map(|&(leaf, index)| leaf.pair(index))
    }
}
