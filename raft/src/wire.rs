//! A protobuf reader and writer just large enough for the messages that log entries carry.
//!
//! Input: untrusted bytes. Output: fields in the order they stand, payloads shared with the input, or an error that names
//! the message and the offset. Nothing here allocates in proportion to a length that the input merely claims.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Why bytes are not the protobuf message they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    /// A field runs past the end.
    #[error("{message}: truncated at byte {offset}; the entry or file that carries it is damaged")]
    Truncated {
        /// The message being read.
        message: &'static str,
        /// Where reading stopped.
        offset: usize,
    },
    /// A number is longer than 64 bits, or a tag is impossible.
    #[error("{message}: malformed field at byte {offset}; the entry or file that carries it is damaged")]
    Malformed {
        /// The message being read.
        message: &'static str,
        /// Where reading stopped.
        offset: usize,
    },
    /// A known field has the wrong wire type.
    #[error("{message}: field {field} has the wrong wire type; the entry or file that carries it is damaged")]
    WrongType {
        /// The message being read.
        message: &'static str,
        /// The field.
        field: u32,
    },
    /// An enum holds a number this version does not know.
    #[error("{message}: unknown value {value}; it was written by a newer version, upgrade this member")]
    UnknownEnumValue {
        /// The enum.
        message: &'static str,
        /// The number found.
        value: u64,
    },
}

/// The value of one field.
pub(crate) enum FieldValue {
    /// A varint.
    Uint(u64),
    /// A length-delimited field.
    Bytes(Bytes),
    /// A fixed-width field, which none of our messages has.
    Fixed,
}

/// Writes fields one after another.
pub(crate) struct FieldWriter {
    out: BytesMut,
}

impl FieldWriter {
    pub(crate) fn new() -> FieldWriter {
        FieldWriter { out: BytesMut::new() }
    }

    /// A varint field, written even when zero (proto2 as gogo emits it for non-nullable fields).
    pub(crate) fn uint(&mut self, number: u32, value: u64) {
        self.varint(u64::from(number) << 3);
        self.varint(value);
    }

    pub(crate) fn bytes(&mut self, number: u32, value: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(value.len() as u64);
        self.out.put_slice(value);
    }

    pub(crate) fn bytes_if_set(&mut self, number: u32, value: &[u8]) {
        if !value.is_empty() {
            self.bytes(number, value);
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        self.out.freeze()
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }
}

/// Reads fields one after another.
pub(crate) struct FieldReader<'a> {
    data: &'a Bytes,
    offset: usize,
    message: &'static str,
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(data: &'a Bytes, message: &'static str) -> FieldReader<'a> {
        FieldReader {
            data,
            offset: 0,
            message,
        }
    }

    /// The next field, or `None` at the end.
    pub(crate) fn next_field(&mut self) -> Result<Option<(u32, FieldValue)>, WireError> {
        if self.offset == self.data.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| self.malformed())?;
        if number == 0 {
            return Err(self.malformed());
        }
        let value = match tag & 7 {
            0 => FieldValue::Uint(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| self.truncated())?;
                FieldValue::Bytes(self.take(len)?)
            }
            5 => self.skip(4)?,
            _ => return Err(self.malformed()),
        };
        Ok(Some((number, value)))
    }

    /// Appends a repeated number, packed or not.
    pub(crate) fn push_uints(&self, field: u32, value: FieldValue, into: &mut Vec<u64>) -> Result<(), WireError> {
        match value {
            FieldValue::Uint(v) => into.push(v),
            FieldValue::Bytes(packed) => {
                let mut inner = FieldReader::new(&packed, self.message);
                while inner.offset < packed.len() {
                    into.push(inner.varint()?);
                }
            }
            FieldValue::Fixed => return Err(self.wrong_type(field)),
        }
        Ok(())
    }

    pub(crate) fn wrong_type(&self, field: u32) -> WireError {
        WireError::WrongType {
            message: self.message,
            field,
        }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.data.get(self.offset).ok_or_else(|| self.truncated())?;
            self.offset += 1;
            if shift == 63 && byte > 1 {
                return Err(self.malformed());
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    fn take(&mut self, len: usize) -> Result<Bytes, WireError> {
        let end = self
            .offset
            .checked_add(len)
            .filter(|&end| end <= self.data.len())
            .ok_or_else(|| self.truncated())?;
        let bytes = self.data.slice(self.offset..end);
        self.offset = end;
        Ok(bytes)
    }

    fn skip(&mut self, len: usize) -> Result<FieldValue, WireError> {
        self.take(len).map(|_| FieldValue::Fixed)
    }

    fn truncated(&self) -> WireError {
        WireError::Truncated {
            message: self.message,
            offset: self.offset,
        }
    }

    fn malformed(&self) -> WireError {
        WireError::Malformed {
            message: self.message,
            offset: self.offset,
        }
    }
}
