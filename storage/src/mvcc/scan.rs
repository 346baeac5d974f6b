//! Rows of a bucket as a view has them: the tree's, the buffer's, and what the buffer removes.

use std::cmp::Ordering;

use super::{
    Change, Row, RowKey, Rows, StoreError, StoreView,
    overlay::{Patch, Patches},
};
use crate::buckets::Bucket;

/// The key of a row.
#[derive(Clone, Copy, Debug)]
pub enum RowName<'v> {
    /// Stored somewhere.
    Stored(&'v [u8]),
    /// Made from a buffered revision.
    Made(RowKey),
}

impl AsRef<[u8]> for RowName<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            RowName::Stored(key) => key,
            RowName::Made(key) => key.as_slice(),
        }
    }
}

/// A row: key and value.
pub type ViewRow<'v> = (RowName<'v>, &'v [u8]);

/// A walk over the rows of one bucket.
pub struct ViewRows<'v> {
    view: &'v StoreView,
    stored: Box<dyn Rows<'v> + 'v>,
    next_stored: Option<Row<'v>>,
    patches: Patches<'v>,
    next_patch: Option<&'v Patch>,
    buffered: Box<dyn Iterator<Item = Change<'v>> + 'v>,
}

impl<'v> ViewRows<'v> {
    pub(super) fn new(view: &'v StoreView, bucket: Bucket, from: &[u8]) -> Result<ViewRows<'v>, StoreError> {
        let mut stored = view.base.scan(bucket, from)?;
        let next_stored = stored.next()?;
        let mut patches = view.overlay.patches(bucket, from);
        let next_patch = patches.next();
        let buffered = if bucket == Bucket::Key {
            buffered(view, from)
        } else {
            Box::new(std::iter::empty())
        };
        Ok(ViewRows {
            view,
            stored,
            next_stored,
            patches,
            next_patch,
            buffered,
        })
    }

    /// The next row, nothing at the end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<ViewRow<'v>>, StoreError> {
        while self.next_stored.is_some() || self.next_patch.is_some() {
            if let Some(row) = self.merged()? {
                return Ok(Some(row));
            }
        }
        // Buffered revisions are newer than every stored one.
        for change in self.buffered.by_ref() {
            let row = RowKey::new(change.revision, change.is_delete);
            if self.view.overlay.get(Bucket::Key, row.as_slice()).is_none() {
                return Ok(Some((RowName::Made(row), change.encoded)));
            }
        }
        Ok(None)
    }

    /// Takes the lower of the next stored row and the next patch; a patch hides the stored row of the same key.
    fn merged(&mut self) -> Result<Option<ViewRow<'v>>, StoreError> {
        let order = match (self.next_stored, self.next_patch) {
            (Some((key, _)), Some(patch)) => key.cmp(patch.row()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let mut row = None;
        if order.is_le() {
            row = self.next_stored.map(|(key, value)| (RowName::Stored(key), value));
            self.next_stored = self.stored.next()?;
        }
        if order.is_ge()
            && let Some(patch) = self.next_patch
        {
            row = patch
                .value
                .as_ref()
                .map(|value| (RowName::Stored(patch.row()), &value[..]));
            self.next_patch = self.patches.next();
        }
        Ok(row)
    }
}

fn buffered<'v>(view: &'v StoreView, from: &[u8]) -> Box<dyn Iterator<Item = Change<'v>> + 'v> {
    // `from` may be any bytes; its first eight bound the main revision, the filter does the rest.
    let mut main = [0; 8];
    let len = from.len().min(8);
    main[..len].copy_from_slice(&from[..len]);
    let main = u64::from_be_bytes(main);
    let Ok(main) = i64::try_from(main) else {
        return Box::new(std::iter::empty());
    };
    let from = from.to_vec();
    let changes = view
        .buffer
        .iter_from(main)
        .flat_map(move |block| block.changes_from(main));
    Box::new(
        changes.skip_while(move |change| RowKey::new(change.revision, change.is_delete).as_slice() < from.as_slice()),
    )
}
