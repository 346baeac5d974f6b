//! A member of a cluster whose tree is damaged and whose log is not.
//!
//! The log holds its vote and every entry that it promised to keep, so it goes on voting and appending under its id. The
//! tree it throws away: it starts over an empty one, applies nothing, serves nobody and does not campaign, and asks the
//! leader for a snapshot until one comes that its log reaches ([`raft::RawNode::restart_at`]). From there on it applies the
//! entries of its own log. A log that lags behind the leader's gets its snapshot from consensus, as any.
//!
//! The damaged file stays where it is until the received one is renamed over it, so a crash on the way begins anew.
//! Damage that is found while the member serves ends it and leaves [`DAMAGED`], so that its next start knows.

use raft::ConfState;
use storage::{
    io::{Disk, ErrorKind, Op, Output},
    mvcc::StoreError,
    tree::{MetaUser, Tree, TreeError, TreeOptions},
};

use super::{
    BootError, Engine, Fault,
    boot::{MemberOptions, tree_options},
    install::INCOMING,
};

/// Its presence says that the tree was found to be damaged, and its text where.
pub const DAMAGED: &str = "tree.damaged";
/// The empty tree that stands in for the damaged one.
const STAND_IN: &str = "tree.empty";
/// A leader that sent nothing is asked again after this long. Units: nanoseconds.
const ASK_AGAIN_NS: u64 = 1_000_000_000;

/// A member that waits for its state.
#[derive(Debug)]
pub(super) struct Refill {
    next_ask_ns: u64,
}

impl BootError {
    /// Whether the tree's file is damaged.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            BootError::Tree(error) => matches!(error, TreeError::Corrupt { .. }),
            BootError::Store(error) => matches!(error, StoreError::Base(_) | StoreError::BadRow { .. }),
            BootError::Row { .. } | BootError::NotedDamage => true,
            _ => false,
        }
    }
}

impl Fault {
    /// Whether the tree's file is damaged: to be noted in [`DAMAGED`] before the member stops.
    pub fn is_damage(&self) -> bool {
        match self {
            Fault::Store(error) => matches!(error, StoreError::Base(_) | StoreError::BadRow { .. }),
            Fault::Tree(error) => matches!(error, TreeError::Corrupt { .. }),
            _ => false,
        }
    }
}

/// What an earlier run noted about the tree.
pub(super) fn noted_damage(disk: &mut dyn Disk) -> Result<bool, BootError> {
    match disk.call(Op::List(String::new()))? {
        Output::Names(names) => Ok(names.iter().any(|name| name == DAMAGED)),
        other => unreachable!("a list answers names, not {other:?}"),
    }
}

/// Whether others have what this member lost.
pub(super) fn has_others(options: &MemberOptions, user: &MetaUser) -> bool {
    let conf_state = ConfState::decode(&user.conf_state).unwrap_or_default();
    conf_state.voters.iter().any(|voter| *voter != options.member_id)
}

/// An empty tree in the place of the damaged one, and the state of waiting.
pub(super) fn begin(disk: &mut dyn Disk, options: &MemberOptions, why: &str) -> Result<(Tree, Refill), BootError> {
    tracing::error!(
        why,
        "the tree is damaged and the log is not: this member serves nobody until the leader has sent it a snapshot"
    );
    remove(disk, INCOMING)?;
    remove(disk, STAND_IN)?;
    let stand_in = TreeOptions {
        path: STAND_IN.to_owned(),
        ..tree_options(options)
    };
    Ok((Tree::open(disk, stand_in)?, Refill { next_ask_ns: 0 }))
}

/// Takes away what a refill that is over, or was given up, left behind, for good: a note that came back after a power
/// failure would throw a good tree away.
pub(super) fn clean_up(disk: &mut dyn Disk) -> Result<(), BootError> {
    let stood_in = remove(disk, STAND_IN)?;
    if remove(disk, DAMAGED)? || stood_in {
        disk.call(Op::SyncDir(String::new()))?;
    }
    Ok(())
}

/// Removes a file; whether there was one.
fn remove(disk: &mut dyn Disk, name: &str) -> Result<bool, BootError> {
    match disk.call(Op::Remove(name.to_owned())) {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Engine {
    /// Whether the member waits for its state: nobody is to be served.
    pub fn is_refilling(&self) -> bool {
        self.refill.is_some()
    }

    /// Asks for the snapshot when it is time to.
    pub(super) fn pump_refill(&mut self, now_ns: u64) {
        let receives = self.install.is_busy();
        let Some(refill) = self
            .refill
            .as_mut()
            .filter(|refill| refill.next_ask_ns <= now_ns && !receives)
        else {
            return;
        };
        refill.next_ask_ns = now_ns + ASK_AGAIN_NS;
        self.member.ask_for_refill();
    }

    /// Whether a received snapshot can be taken over without consensus: the own log reaches it.
    pub(super) fn log_reaches(&self, index: u64) -> bool {
        let raft = &self.member.raft;
        let limit = raft.commit_index().min(raft.persisted_index());
        self.refill.is_some() && (raft.first_index() - 1..=limit).contains(&index)
    }

    /// The state is whole again.
    pub(super) fn end_refill(&mut self, disk: &mut dyn Disk) -> Result<(), BootError> {
        if self.refill.take().is_some() {
            clean_up(disk)?;
            self.member.raft.hold_back(self.stall.is_stalled());
            tracing::info!("the damaged tree is replaced; this member serves again");
        }
        Ok(())
    }
}
