//! What readers see: one immutable picture of the member, published before any answer that depends on it.

use std::{collections::BTreeSet, sync::Arc};

use storage::mvcc::{Block, StoreView};

use super::Membership;

/// Defragmentations that were asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Defrag {
    /// One is under way.
    pub running: bool,
    /// How many have begun since the start.
    pub begun: u64,
}

/// An immutable picture of the member. A clone costs a few reference counts.
#[derive(Clone)]
pub struct View {
    /// Keys, revisions and buckets.
    pub store: StoreView,
    /// Last entry applied.
    pub applied_index: u64,
    /// Last entry known committed.
    pub committed_index: u64,
    /// Raft term.
    pub term: u64,
    /// The leader's id; 0 when none is known.
    pub leader: u64,
    /// This member does not vote.
    pub is_learner: bool,
    /// The cluster's members.
    pub members: Arc<Membership>,
    /// Active alarms: (member, kind).
    pub alarms: Arc<BTreeSet<(u64, i32)>>,
    /// Defragmentations.
    pub defrag: Defrag,
    /// Size of the tree's file. Units: bytes.
    pub db_size_bytes: u64,
    /// Bytes of it in use, and of what is buffered and not yet in it.
    pub db_in_use_bytes: u64,
    /// The disk does not take writes of the log.
    pub is_stalled: bool,
}

impl View {
    /// The configuration in force, as etcd writes it into its `meta` bucket.
    ///
    /// Source: ondisk table, "meta/confState".
    pub fn conf_state_json(&self) -> String {
        let of = |learner: bool| {
            let members = self
                .members
                .members
                .values()
                .filter(move |member| member.is_learner == learner);
            members
                .map(|member| member.id.to_string())
                .collect::<Vec<_>>()
                .join(",")
        };
        let learners = match of(true) {
            none if none.is_empty() => String::new(),
            learners => format!(r#""learners":[{learners}],"#),
        };
        format!(r#"{{"voters":[{}],{learners}"auto_leave":false}}"#, of(false))
    }

    /// Current revision.
    pub fn revision(&self) -> i64 {
        self.store.revision()
    }
}

/// What the core tells every shard after a turn.
#[derive(Clone)]
pub struct Published {
    /// The newest view.
    pub view: Arc<View>,
    /// The changes since the last publication, oldest first.
    pub blocks: Vec<Arc<Block>>,
}
