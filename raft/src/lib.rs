//! Raft consensus as a deterministic state machine, in the model and vocabulary of etcd-raft.
//!
//! There is no I/O here, no clock, no thread, no global randomness. A [`RawNode`] takes calls (`tick`, `step`, `propose`,
//! ...) and hands out a [`Ready`]: what to write, what to send, what to apply. The same calls with the same
//! [`Config::seed`] give the same Readys, bit for bit.
//!
//! ```text
//!   tick, step, propose, read_index, ...          on_persisted(token), on_applied(index)
//!                 |                                      ^                  ^
//!                 v                                      |                  |
//!              RawNode --- ready() ---> entries, hard state, snapshot       |
//!                                  \--> messages                           |
//!                                  \--> committed entries, read states ----+
//! ```
//!
//! The contract in full stands at [`Ready`] (order of effects), [`RawNode::on_persisted`] (what becomes legal when a write is
//! durable) and [`Config::commit_before_persist`] (what may be done with committed entries before that). In short:
//!
//! - Writes take effect in the order of their tokens; several may be in flight.
//! - A message in a Ready may leave at once. What a message promises is durable already; those that wait are held inside.
//! - Committed entries may be applied and answered for at once. What applying them stores durably stays at or below
//!   [`RawNode::persisted_index`].
//! - A configuration change takes effect in [`RawNode::apply_conf_change`], called while its entry is applied.
//!
//! # Differences from etcd-raft
//!
//! - One storage contract, [`PersistToken`], in place of `Advance` and of `MsgStorage*`, which are refused.
//! - Requests for votes wait for the candidate's disk too: they claim a log.
//! - Appends and ReadIndex heartbeats leave when a Ready is taken, so everything since the last one shares a message.
//! - The answer to a request for a vote tells the voter's commit index, and a removed leader hands over before it steps down: without either a
//!   configuration that takes effect when applied can leave a group that nobody may lead.
//! - A message of an older term from a leader is always answered, whatever PreVote and CheckQuorum say.
//! - Only the member a proposal or read is made on forwards it.
//! - A member takes a snapshot whose configuration does not contain it yet.
//!
//! # A group of one
//!
//! ```
//! use raft::{ConfState, Config, RawNode, Start};
//!
//! let start = Start { conf_state: ConfState::of_voters([1]), ..Default::default() };
//! let mut node = RawNode::new(Config::new(1), start)?;
//! node.campaign();
//! node.propose("too early".into()).unwrap_err();
//! let mut applied = Vec::new();
//! while applied.len() < 2 {
//!     let ready = node.ready();
//!     if let Some(token) = ready.token {
//!         // Write and sync `ready.snapshot`, `ready.entries` and `ready.hard_state` here, in this order.
//!         node.on_persisted(token);
//!     }
//!     for entry in ready.committed {
//!         applied.push(entry.data);
//!         node.on_applied(entry.index);
//!     }
//!     if node.is_leader() && node.last_index() == 1 {
//!         node.propose("value".into()).expect("a leader takes proposals");
//!     }
//! }
//! assert_eq!(applied, ["", "value"]);
//! # Ok::<(), raft::StartError>(())
//! ```

mod conf_change;
mod config;
mod error;
mod log;
mod membership;
pub mod mutant;
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
