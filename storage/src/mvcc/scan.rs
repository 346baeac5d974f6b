//! Rows of a bucket as a view has them: the tree's, the buffer's, and what the buffer removes.

use super::StoreError;

/// A row: key and value.
pub type ViewRow<'v> = (ViewBytes<'v>, &'v [u8]);

/// Placeholder of the row key form.
pub type ViewBytes<'v> = std::borrow::Cow<'v, [u8]>;

/// A walk over the rows of one bucket.
pub struct ViewRows<'v> {
    _view: std::marker::PhantomData<&'v ()>,
}

impl<'v> ViewRows<'v> {
    /// The next row, nothing at the end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<ViewRow<'v>>, StoreError> {
        todo!()
    }
}
