//! The making of a spare segment: a new slot file, space taken, filled with zeros, its name durable.
//!
//! Each step is one operation; the maker says which comes next and is told how it ended. Out of space it keeps what it
//! has and goes on from the same step when told to.

use bytes::Bytes;

use super::slot_path;
use crate::io::{DiskError, ErrorKind, FileId, Op, OpenOptions, Output, Token, WriteBuf};

/// Zeros are written in pieces of this size, so that log writes pass between them.
const FILL_BYTES: u64 = 256 << 10;

/// How a slot file is opened.
pub(super) const SLOT_OPTIONS: OpenOptions = OpenOptions {
    create: true,
    exclusive: false,
    write: true,
    direct_dsync: true,
};

/// A slot file that may become a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) file: FileId,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Open,
    Allocate,
    Fill { offset: u64 },
    SyncDir,
}

/// Makes one spare slot.
#[derive(Debug)]
pub(super) struct SpareMaker {
    number: u32,
    file: Option<FileId>,
    step: Step,
    /// The operation under way.
    pub(super) in_flight: Option<Token>,
    /// Why it does not go on: no space.
    pub(super) no_space: Option<DiskError>,
}

impl SpareMaker {
    /// Begins slot `number`; `file` when it exists and is open already.
    pub(super) fn new(number: u32, file: Option<FileId>) -> SpareMaker {
        let step = if file.is_some() { Step::Allocate } else { Step::Open };
        SpareMaker {
            number,
            file,
            step,
            in_flight: None,
            no_space: None,
        }
    }

    fn file(&self) -> FileId {
        self.file.expect("the open step gave the file")
    }

    /// The next operation to perform.
    pub(super) fn next_op(&self, dir: &str, segment_size_bytes: u64) -> Op {
        match self.step {
            Step::Open => Op::Open {
                path: slot_path(dir, self.number),
                options: SLOT_OPTIONS,
            },
            Step::Allocate => Op::Allocate {
                file: self.file(),
                offset: 0,
                len: segment_size_bytes,
            },
            Step::Fill { offset } => {
                let len = FILL_BYTES.min(segment_size_bytes - offset) as usize;
                Op::Write {
                    file: self.file(),
                    offset,
                    data: WriteBuf::Bytes(Bytes::from(vec![0; len])),
                }
            }
            Step::SyncDir => Op::SyncDir(dir.to_owned()),
        }
    }

    /// Takes in the end of that operation; answers the slot when it is ready.
    ///
    /// Errors: anything but a lack of space.
    pub(super) fn ended(
        &mut self,
        result: Result<Output, DiskError>,
        segment_size_bytes: u64,
    ) -> Result<Option<Slot>, DiskError> {
        self.in_flight = None;
        let output = match result {
            Ok(output) => output,
            Err(error) if error.kind == ErrorKind::NoSpace => {
                self.no_space = Some(error);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.step = match (self.step, output) {
            (Step::Open, Output::File(file)) => {
                self.file = Some(file);
                Step::Allocate
            }
            (Step::Allocate, _) => Step::Fill { offset: 0 },
            (Step::Fill { offset }, _) if offset + FILL_BYTES < segment_size_bytes => Step::Fill {
                offset: offset + FILL_BYTES,
            },
            (Step::Fill { .. }, _) => Step::SyncDir,
            (Step::SyncDir, _) => {
                return Ok(Some(Slot {
                    number: self.number,
                    file: self.file(),
                }));
            }
            (Step::Open, other) => panic!("an open answers a file, not {other:?}"),
        };
        Ok(None)
    }
}
