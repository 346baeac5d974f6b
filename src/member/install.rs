//! Taking over another member's state when this one lags behind its log.
//!
//! The shell receives the pages of a durable root into [`INCOMING`], makes them durable and says so with
//! [`Event::SnapshotReceived`](super::Event). Then, each step only once the one before is durable:
//!
//! 1. no commit of the tree is under way, and consensus takes the snapshot: entries that wait to be applied are void;
//! 2. a marker goes into the write-ahead log;
//! 3. the received file is renamed over the tree and opened, and all state in memory is read from it anew;
//! 4. consensus acknowledges the snapshot to the leader.
//!
//! A crash before 2 leaves the old state and a file that is thrown away. A crash between 2 and 3 is finished at the next
//! start: [`finish`]. Views taken before keep the old file's map. ADR 6 says why the marker comes first.

use raft::{ConfState, Message, PersistToken, SnapshotMetadata, mutant};
use storage::{
    failpoint,
    io::{Disk, ErrorKind, Op},
    tree::{Tree, TreeOptions},
};

use super::{
    BootError, Engine, Fault,
    boot::{TREE_FILE, applied_state, restore, tree_options},
    engine::APPLY_TURN_MAX,
};

/// Where the pages of another member's tree are received, beside the tree.
pub const INCOMING: &str = "tree.incoming";

/// A snapshot on its way into the member.
#[derive(Debug, Default)]
pub(super) struct Install {
    /// Received whole; waits for the tree to be idle.
    received: Option<Box<Message>>,
    /// Taken by consensus; waits for the marker.
    under_way: Option<(PersistToken, SnapshotMetadata)>,
    /// The last one is dealt with: another may be received.
    done: bool,
    /// The state was replaced in this turn.
    installed: bool,
}

impl Install {
    /// Whether a snapshot is on its way into the member.
    pub(super) fn is_busy(&self) -> bool {
        self.received.is_some() || self.under_way.is_some()
    }
}

impl Engine {
    /// A snapshot was received and is durable.
    pub(super) fn on_received(&mut self, message: Box<Message>) {
        if self.install.received.is_none() && self.install.under_way.is_none() {
            self.install.received = Some(message);
        }
    }

    /// Whether the tree must stand still for a snapshot.
    pub(super) fn tree_stands_still(&self) -> bool {
        self.refill.is_some()
            || self.install.under_way.is_some()
            || (self.install.received.is_some() && self.committer.is_idle())
    }

    /// Hands a received snapshot to consensus once no commit is under way.
    pub(super) fn start_install(&mut self, disk: &mut dyn Disk) -> Result<(), Fault> {
        // With as much as a turn applies at hand, consensus would not be asked in this turn whether it wants it.
        let busy = !self.committer.is_idle() || self.to_apply.len() >= APPLY_TURN_MAX;
        if self.install.received.is_none() || busy {
            return Ok(());
        }
        let message = self.install.received.take().expect("just seen");
        tracing::info!(
            index = message.snapshot.as_ref().map(|s| s.metadata.index),
            "a snapshot was received"
        );
        if let Some(snapshot) = message
            .snapshot
            .as_ref()
            .filter(|snapshot| self.log_reaches(snapshot.metadata.index))
        {
            self.take_beside_log(disk, &snapshot.metadata)
                .map_err(|error| Fault::Snapshot(error.to_string()))?;
            (self.install.done, self.install.installed) = (true, true);
            return Ok(());
        }
        if let Err(error) = self.member.raft.step(*message) {
            tracing::warn!(%error, "the snapshot is not called for");
        }
        // Consensus says in its next Ready whether it wants it.
        self.install.done = true;
        Ok(())
    }

    /// Takes the state over that a member with a damaged tree asked for; its log stays.
    fn take_beside_log(&mut self, disk: &mut dyn Disk, metadata: &SnapshotMetadata) -> Result<(), BootError> {
        self.install(disk, metadata)?;
        let conf_state = ConfState::decode(&self.member.applied.conf_state);
        let conf_state = conf_state.map_err(|error| BootError::Raft(error.to_string()))?;
        let restarted = self.member.raft.restart_at(metadata.index, &conf_state);
        restarted.map_err(|error| BootError::Raft(error.to_string()))?;
        self.to_apply.clear();
        Ok(())
    }

    /// Consensus wants the snapshot: what was committed before it and is not applied is void.
    pub(super) fn snapshot_taken(&mut self, token: PersistToken, metadata: SnapshotMetadata) {
        self.to_apply.clear();
        self.install.done = false;
        self.member.metrics.installing.set(1);
        self.install.under_way = Some((token, metadata));
    }

    /// Replaces the state once the marker is durable.
    pub(super) fn install_if_due(&mut self, disk: &mut dyn Disk, token: PersistToken) -> Result<(), Fault> {
        let due = self
            .install
            .under_way
            .as_ref()
            .is_some_and(|(awaited, _)| *awaited == token);
        if !due {
            return Ok(());
        }
        let (_, metadata) = self.install.under_way.take().expect("just seen");
        failpoint!("raftAfterSaveSnap");
        failpoint!("raftBeforeApplySnap");
        self.install(disk, &metadata)
            .map_err(|error| Fault::Snapshot(error.to_string()))?;
        failpoint!("raftAfterApplySnap");
        // The tree has it all, durably.
        self.wal.release(metadata.index);
        failpoint!("raftAfterWALRelease");
        self.install.done = true;
        self.install.installed = true;
        self.member.metrics.installing.set(0);
        Ok(())
    }

    fn install(&mut self, disk: &mut dyn Disk, metadata: &SnapshotMetadata) -> Result<(), BootError> {
        let options = tree_options(&self.member.options);
        let incoming = open_incoming(disk, &options)?;
        let found = incoming.root().user().applied_index;
        if found != metadata.index {
            return Err(BootError::Raft(format!(
                "the received tree ends at entry {found} and not at {}",
                metadata.index
            )));
        }
        failpoint!("applyBeforeOpenSnapshot");
        self.committer.replace_tree(incoming).close(disk)?;
        put_in_place(disk)?;
        let tree = Tree::open(disk, options)?;
        let root = tree.root();
        self.committer.replace_tree(tree).close(disk)?;
        let applied = applied_state(root.user());
        let (rows, mut store) = restore(&self.member.options, root, &applied)?;
        store.share_pins(self.member.store.pins());
        self.member.take_over(rows, store, applied);
        self.compaction.resume();
        self.dirty = true;
        self.end_refill(disk)?;
        tracing::info!(index = metadata.index, term = metadata.term, "a snapshot is installed");
        Ok(())
    }

    /// Whether a received snapshot is dealt with, and whether the state was replaced; each is told once.
    pub(super) fn take_install_news(&mut self) -> (bool, bool) {
        (
            std::mem::take(&mut self.install.done),
            std::mem::take(&mut self.install.installed),
        )
    }
}

fn open_incoming(disk: &mut dyn Disk, options: &TreeOptions) -> Result<Tree, BootError> {
    let options = TreeOptions {
        path: INCOMING.to_owned(),
        ..options.clone()
    };
    Ok(Tree::open(disk, options)?)
}

fn put_in_place(disk: &mut dyn Disk) -> Result<(), BootError> {
    disk.call(Op::Rename {
        from: INCOMING.to_owned(),
        to: TREE_FILE.to_owned(),
    })?;
    if !mutant::on("installed_name_not_synced") {
        disk.call(Op::SyncDir(String::new()))?;
    }
    Ok(())
}

/// Finishes at start an installation whose marker is in the log, and throws away what never got that far.
///
/// Errors: the log says that a snapshot was taken over and the state for it is nowhere.
pub(super) fn finish(
    disk: &mut dyn Disk,
    options: &TreeOptions,
    tree: Tree,
    marker: Option<&SnapshotMetadata>,
) -> Result<Tree, BootError> {
    let applied = tree.root().user().applied_index;
    let names = match disk.call(Op::List(String::new()))? {
        storage::io::Output::Names(names) => names,
        other => unreachable!("a list answers names, not {other:?}"),
    };
    let received = names.iter().any(|name| name == INCOMING);
    let Some(marker) = marker.filter(|marker| marker.index > applied && !mutant::on("unfinished_install_forgotten"))
    else {
        if received {
            match disk.call(Op::Remove(INCOMING.to_owned())) {
                Err(error) if error.kind != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        return Ok(tree);
    };
    let behind = BootError::TreeBehind {
        applied,
        first: marker.index,
    };
    if !received {
        return Err(behind);
    }
    let incoming = open_incoming(disk, options)?;
    let found = incoming.root().user().applied_index;
    incoming.close(disk)?;
    if found != marker.index {
        return Err(behind);
    }
    tree.close(disk)?;
    put_in_place(disk)?;
    Ok(Tree::open(disk, options.clone())?)
}
