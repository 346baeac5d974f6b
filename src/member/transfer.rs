//! A member snapshot in pieces: what goes over the wire, without the wire and without files.
//!
//! The sender cuts the pages of one pinned durable root into pieces ([`Outbound`]); the receiver is told what to do with
//! each ([`Inbound`]). Sockets and files are the shell's: the runtime and the simulator drive the same two.
//!
//! ```text
//!  sender    the message, whose snapshot carries {bytes of all pieces u64}, pieces {offset u64, bytes} ..., the end {u64::MAX, length of the file u64, bytes sent u64}
//!  receiver  an answer once the file is durable beside the tree
//! ```
//!
//! Order on the receiver: each [`Step::Write`] into an empty [`INCOMING`](super::INCOMING); at [`Step::End`] set the
//! length, sync the file, sync the directory, and only then [`Event::SnapshotReceived`](super::Event) and the answer.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use raft::{ConfState, Message, Snapshot, SnapshotMetadata};
use storage::tree::{Root, TreeError};

/// The offset of the piece that is the end.
const END: u64 = u64::MAX;
/// No tree is longer. Units: bytes.
const FILE_BYTES_MAX: u64 = 1 << 40;

/// Why a transfer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The tree that is to be sent is damaged.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// The tree that is to be sent holds no configuration.
    #[error("the tree holds no configuration: {0}")]
    Configuration(String),
    /// A piece is shorter than its head.
    #[error("a piece is cut off")]
    CutOff,
    /// A piece would lie behind the end of the longest file.
    #[error("a piece lies outside of any file")]
    Outside,
    /// Fewer or more bytes came than were sent.
    #[error("not all of its pieces came")]
    Incomplete,
}

/// The sending side: one root, pinned until this is dropped.
#[derive(Debug)]
pub struct Outbound {
    root: Arc<Root>,
    piece_bytes: usize,
    runs: VecDeque<(u64, u32)>,
    /// Of all pieces. Units: bytes.
    total: u64,
    sent: u64,
    metas_sent: bool,
    ended: bool,
}

impl Outbound {
    /// Plans the transfer of a root, with about `piece_bytes` of pages in a piece. Reads the branch pages: slow.
    pub fn plan(root: Arc<Root>, piece_bytes: usize) -> Result<Outbound, TransferError> {
        let runs = root.runs()?;
        let pages: u64 = 2 + runs.iter().map(|run| u64::from(run.1)).sum::<u64>();
        Ok(Outbound {
            runs: runs.into(),
            total: pages * root.page_size() as u64,
            root,
            piece_bytes,
            sent: 0,
            metas_sent: false,
            ended: false,
        })
    }

    /// The message to go ahead of the pieces: consensus's, about this root, which may be newer than it had in mind.
    pub fn describe(&self, mut message: Message) -> Result<Message, TransferError> {
        let user = self.root.user();
        let conf_state = ConfState::decode(&user.conf_state);
        let metadata = SnapshotMetadata {
            conf_state: conf_state.map_err(|error| TransferError::Configuration(error.to_string()))?,
            index: user.applied_index,
            term: user.applied_term,
        };
        message.snapshot = Some(Snapshot {
            metadata,
            data: Bytes::copy_from_slice(&self.total.to_le_bytes()),
        });
        Ok(message)
    }

    /// Bytes of all pieces together.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Takes out of a received message how much is to come; 0 when its sender did not say.
    pub fn told_bytes(message: &mut Message) -> u64 {
        let data = message
            .snapshot
            .as_mut()
            .map(|snapshot| std::mem::take(&mut snapshot.data));
        let data = data.filter(|data| data.len() == 8);
        data.map_or(0, |data| word(&data))
    }

    /// The next piece; none after the end. Reads pages: may fault.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        let piece = if !self.metas_sent {
            self.metas_sent = true;
            piece(0, &self.root.meta_bytes())
        } else if self.runs.is_empty() {
            self.ended = true;
            let end = [self.root.size_bytes().to_le_bytes(), self.sent.to_le_bytes()].concat();
            return Some(piece(END, &end));
        } else {
            self.next_pages()
        };
        self.sent += piece.len() as u64 - 8;
        Some(piece)
    }

    /// Pages that lie together, up to the bound; one run is never cut.
    fn next_pages(&mut self) -> Vec<u8> {
        let page_bytes = self.root.page_size() as u64;
        let start = self.runs.front().expect("called while there are runs").0;
        let (mut next, mut bytes) = (start, piece(start * page_bytes, &[]));
        while let Some(run) = self.runs.front().copied().filter(|run| run.0 == next) {
            bytes.extend_from_slice(self.root.run_bytes(run));
            next = run.0 + u64::from(run.1);
            self.runs.pop_front();
            if bytes.len() >= self.piece_bytes {
                break;
            }
        }
        bytes
    }
}

/// What the receiver does with a piece.
#[derive(Debug)]
pub enum Step {
    /// Write it.
    Write {
        /// Where to. Units: bytes.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// All is there: make a file of this length durable.
    End {
        /// Units: bytes.
        len: u64,
    },
}

/// The receiving side.
#[derive(Debug, Default)]
pub struct Inbound {
    received: u64,
}

impl Inbound {
    /// Takes the next piece.
    pub fn take(&mut self, piece: &Bytes) -> Result<Step, TransferError> {
        if piece.len() < 8 {
            return Err(TransferError::CutOff);
        }
        let (offset, bytes) = (word(piece), piece.slice(8..));
        if offset == END {
            if bytes.len() != 16 || word(&bytes[8..]) != self.received || word(&bytes) > FILE_BYTES_MAX {
                return Err(TransferError::Incomplete);
            }
            return Ok(Step::End { len: word(&bytes) });
        }
        self.received += bytes.len() as u64;
        if offset.saturating_add(bytes.len() as u64) > FILE_BYTES_MAX {
            return Err(TransferError::Outside);
        }
        Ok(Step::Write { offset, bytes })
    }
}

fn piece(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut piece = Vec::with_capacity(8 + bytes.len());
    piece.extend_from_slice(&offset.to_le_bytes());
    piece.extend_from_slice(bytes);
    piece
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("the length was checked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_add_up_is_refused() {
        let end = |len: u64, sent: u64| Bytes::from(piece(END, &[len.to_le_bytes(), sent.to_le_bytes()].concat()));
        let mut inbound = Inbound::default();
        assert!(matches!(
            inbound.take(&Bytes::from_static(b"short")),
            Err(TransferError::CutOff)
        ));
        let step = inbound.take(&piece(512, b"page").into()).expect("a piece");
        assert!(matches!(step, Step::Write { offset: 512, bytes } if bytes == "page"));
        assert!(matches!(inbound.take(&end(1024, 3)), Err(TransferError::Incomplete)));
        assert!(matches!(
            inbound.take(&end(FILE_BYTES_MAX + 1, 4)),
            Err(TransferError::Incomplete)
        ));
        assert!(matches!(inbound.take(&end(1024, 4)), Ok(Step::End { len: 1024 })));
        let far = piece(FILE_BYTES_MAX, b"page");
        assert!(matches!(inbound.take(&far.into()), Err(TransferError::Outside)));
    }
}
