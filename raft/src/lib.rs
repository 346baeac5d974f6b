//! Raft consensus as a deterministic state machine, in the model and vocabulary of etcd-raft.
//!
//! There is no I/O here, no clock, no thread, no global randomness. A [`RawNode`] takes calls (`tick`, `step`, `propose`,
//! ...) and hands out a [`Ready`]: what to write, what to send, what to apply. The same calls with the same
//! [`Config::seed`] give the same Readys, bit for bit.

mod conf_change;
mod config;
mod error;
mod log;
mod membership;
pub mod quorum;
mod raw_node;
mod ready;
mod rng;
mod tracker;
mod types;
mod wire;

pub use conf_change::{
    AnyConfChange, ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
pub use config::{Config, Start};
pub use error::{
    CompactError, ConfChangeError, ConfigError, LogError, ProposeError, ReadIndexError, StartError, StepError,
    TransferError,
};
pub use raw_node::RawNode;
pub use ready::{PersistToken, ReadState, Ready, Status};
pub use tracker::{Inflights, Progress, ProgressState};
pub use types::{Entry, EntryType, HardState, Message, MessageType, Role, Snapshot, SnapshotMetadata, SoftState};
pub use wire::WireError;
