//! Reading flatbuffers tables without trust: each offset is checked when it is followed.
//!
//! ```text
//!  buffer  root u32 ──► table: back-offset i32 to its vtable, fields     vtable: size u16, table size u16, field offsets u16
//! ```
//!
//! The accessors of generated code are unsafe and need a pass of verification before; these check as they go, which
//! costs a comparison each.

use bytes::Bytes;

/// Why a payload is not the table it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// An offset or a length leads outside.
    #[error("an offset at byte {at} leads outside of the frame")]
    Outside {
        /// Where in the payload.
        at: usize,
    },
    /// A field must be there and is not.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A number that this version does not know.
    #[error("{what} has the unknown value {value}; a newer member sent it")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// The value.
        value: u64,
    },
}

/// Number of a field, from 0.
pub(super) type Slot = u16;

/// Offset of a field within a vtable, as the builder wants it.
pub(super) const fn offset_of(slot: Slot) -> u16 {
    4 + 2 * slot
}

/// One table of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Table<'b> {
    buf: &'b Bytes,
    at: usize,
    vtable: usize,
    vtable_len: usize,
}

impl<'b> Table<'b> {
    /// The table at the root of a buffer.
    pub fn root(buf: &'b Bytes) -> Result<Table<'b>, TableError> {
        Table::at(buf, follow(buf, 0)?)
    }

    fn at(buf: &'b Bytes, at: usize) -> Result<Table<'b>, TableError> {
        let outside = TableError::Outside { at };
        let back = i64::from(i32::from_le_bytes(array(buf, at)?));
        let vtable = usize::try_from(at as i64 - back).map_err(|_| outside)?;
        let vtable_len = usize::from(u16::from_le_bytes(array(buf, vtable)?));
        if vtable_len < 4 || vtable + vtable_len > buf.len() {
            return Err(outside);
        }
        Ok(Table {
            buf,
            at,
            vtable,
            vtable_len,
        })
    }

    /// Where a field stands, if it is there.
    fn field(&self, slot: Slot) -> Result<Option<usize>, TableError> {
        let entry = usize::from(offset_of(slot));
        if entry + 2 > self.vtable_len {
            return Ok(None);
        }
        let offset = u16::from_le_bytes(array(self.buf, self.vtable + entry)?);
        Ok((offset != 0).then(|| self.at + usize::from(offset)))
    }

    /// A number; 0 when absent.
    pub fn u64(&self, slot: Slot) -> Result<u64, TableError> {
        self.field(slot)?
            .map_or(Ok(0), |at| Ok(u64::from_le_bytes(array(self.buf, at)?)))
    }

    /// A small number; 0 when absent.
    pub fn u8(&self, slot: Slot) -> Result<u8, TableError> {
        self.field(slot)?.map_or(Ok(0), |at| Ok(array::<1>(self.buf, at)?[0]))
    }

    /// A version number; 0 when absent.
    pub fn u16(&self, slot: Slot) -> Result<u16, TableError> {
        self.field(slot)?
            .map_or(Ok(0), |at| Ok(u16::from_le_bytes(array(self.buf, at)?)))
    }

    /// Bytes, shared with the buffer; empty when absent.
    pub fn bytes(&self, slot: Slot) -> Result<Bytes, TableError> {
        let Some(at) = self.field(slot)? else {
            return Ok(Bytes::new());
        };
        let at = follow(self.buf, at)?;
        let len = u32::from_le_bytes(array(self.buf, at)?) as usize;
        let (start, outside) = (at + 4, TableError::Outside { at });
        match start.checked_add(len).filter(|end| *end <= self.buf.len()) {
            Some(end) => Ok(self.buf.slice(start..end)),
            None => Err(outside),
        }
    }

    /// A table within this one.
    pub fn table(&self, slot: Slot) -> Result<Option<Table<'b>>, TableError> {
        let Some(at) = self.field(slot)? else { return Ok(None) };
        Table::at(self.buf, follow(self.buf, at)?).map(Some)
    }

    /// A list of tables; empty when absent.
    pub fn tables(
        &self,
        slot: Slot,
    ) -> Result<impl ExactSizeIterator<Item = Result<Table<'b>, TableError>> + use<'b>, TableError> {
        let (buf, start) = match self.field(slot)? {
            Some(at) => (self.buf, Some(follow(self.buf, at)?)),
            None => (self.buf, None),
        };
        let len = match start {
            Some(at) => u32::from_le_bytes(array(buf, at)?) as usize,
            None => 0,
        };
        let start = start.unwrap_or(0) + 4;
        let fits = len
            .checked_mul(4)
            .and_then(|bytes| bytes.checked_add(start))
            .is_some_and(|end| end <= buf.len());
        if len > 0 && !fits {
            return Err(TableError::Outside { at: start });
        }
        Ok((0..len).map(move |index| Table::at(buf, follow(buf, start + 4 * index)?)))
    }
}

/// Where the offset that stands at `at` leads.
fn follow(buf: &Bytes, at: usize) -> Result<usize, TableError> {
    let offset = u32::from_le_bytes(array(buf, at)?) as usize;
    at.checked_add(offset)
        .filter(|to| *to < buf.len())
        .ok_or(TableError::Outside { at })
}

fn array<const N: usize>(buf: &Bytes, at: usize) -> Result<[u8; N], TableError> {
    let outside = TableError::Outside { at };
    let bytes = at.checked_add(N).and_then(|end| buf.get(at..end)).ok_or(outside)?;
    Ok(bytes.try_into().expect("the slice has that length"))
}
