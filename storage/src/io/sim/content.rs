//! The bytes of one simulated file: a sparse array of shared pages, cheap to clone for a crash image.

use std::sync::Arc;

const PAGE: usize = 4096;

type Page = Arc<[u8; PAGE]>;

/// A byte array with holes; holes read as zeros and take no space.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: Vec<Option<Page>>,
    len: u64,
}

/// Splits a range of bytes at page borders: page number, offset in the page, length.
fn spans(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut at = usize::try_from(offset).expect("simulated files fit memory");
    let end = at + len;
    std::iter::from_fn(move || {
        let (page, inside) = (at / PAGE, at % PAGE);
        let n = (PAGE - inside).min(end - at);
        at += n;
        (n > 0).then_some((page, inside, n))
    })
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Space taken, in bytes.
    pub(super) fn taken(&self) -> u64 {
        self.pages.iter().flatten().count() as u64 * PAGE as u64
    }

    /// Space that taking the whole range would add, in bytes.
    pub(super) fn growth(&self, offset: u64, len: u64) -> u64 {
        let len = usize::try_from(len).expect("simulated files fit memory");
        let missing = spans(offset, len).filter(|&(page, ..)| self.pages.get(page).is_none_or(Option::is_none));
        missing.count() as u64 * PAGE as u64
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.truncate(len.div_ceil(PAGE as u64) as usize);
            let inside = (len % PAGE as u64) as usize;
            if inside > 0
                && let Some(Some(page)) = self.pages.get_mut((len / PAGE as u64) as usize)
            {
                Arc::make_mut(page)[inside..].fill(0);
            }
        }
        self.len = len;
    }

    fn page(&mut self, number: usize) -> &mut [u8; PAGE] {
        if self.pages.len() <= number {
            self.pages.resize(number + 1, None);
        }
        Arc::make_mut(self.pages[number].get_or_insert_with(|| Arc::new([0; PAGE])))
    }

    /// Writes, and extends the file when the data passes its end.
    pub(super) fn write(&mut self, offset: u64, mut data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        for (page, inside, n) in spans(offset, data.len()) {
            self.page(page)[inside..inside + n].copy_from_slice(&data[..n]);
            data = &data[n..];
        }
    }

    /// Takes space for the range without changing what it reads as; extends the file when needed.
    pub(super) fn allocate(&mut self, offset: u64, len: usize) {
        self.len = self.len.max(offset + len as u64);
        for (page, ..) in spans(offset, len) {
            self.page(page);
        }
    }

    /// Zeros the range; whole pages give their space back.
    pub(super) fn punch(&mut self, offset: u64, len: usize) {
        for (page, inside, n) in spans(offset, len) {
            match self.pages.get_mut(page) {
                Some(slot) if n == PAGE => *slot = None,
                Some(Some(bytes)) => Arc::make_mut(bytes)[inside..inside + n].fill(0),
                _ => {}
            }
        }
    }

    /// Reads `len` bytes, fewer at the end of the file.
    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let len = (len as u64).min(self.len.saturating_sub(offset)) as usize;
        let mut data = vec![0; len];
        let mut rest = &mut data[..];
        for (page, inside, n) in spans(offset, len) {
            let (head, tail) = rest.split_at_mut(n);
            if let Some(Some(bytes)) = self.pages.get(page) {
                head.copy_from_slice(&bytes[inside..inside + n]);
            }
            rest = tail;
        }
        data
    }
}
