//! Taking over another member's state when this one lags behind its log.
//!
//! The shell receives the pages of a durable root into [`INCOMING`], makes them durable and says so with
//! [`Event::SnapshotReceived`](super::Event). Then, each step only once the one before is durable:
//!
//! 1. no commit of the tree is under way, and consensus takes the snapshot: entries that wait to be applied are void;
//! 2. a marker goes into the write-ahead log;
//! 3. the received file is renamed over the tree and opened, and all state in memory is read from it anew, in slices, a
//!    turn each: meanwhile the member answers heartbeats, serves its old state and applies nothing;
//! 4. consensus acknowledges the snapshot to the leader.
//!
//! A crash before 2 leaves the old state and a file that is thrown away. A crash between 2 and 3 is finished at the next
//! start: [`finish`]. Views taken before keep the old file's map. ADR 6 says why the marker comes first.

use std::sync::Arc;

use raft::{ConfState, Message, PersistToken, SnapshotMetadata, mutant};
use storage::{
    failpoint,
    io::{Disk, ErrorKind, Op},
    mvcc::{AppliedState, Base, Restoring, StoreError},
    tree::{Tree, TreeOptions},
};

use super::{
    BootError, Engine, Fault,
    boot::{Rows, TREE_FILE, applied_state, tree_options},
    engine::APPLY_TURN_MAX,
};

/// Where the pages of another member's tree are received, beside the tree.
pub const INCOMING: &str = "tree.incoming";

/// A snapshot on its way into the member.
#[derive(Default)]
pub(super) struct Install {
    /// Received whole; waits for the tree to be idle.
    received: Option<Box<Message>>,
    /// Taken by consensus; waits for the marker.
    under_way: Option<(PersistToken, SnapshotMetadata)>,
    /// Its tree is in place; the state in memory is being read from it.
    reading: Option<Reading>,
    /// The last one is dealt with: another may be received.
    done: bool,
    /// The state was replaced in this turn.
    installed: bool,
}

/// A state on its way from the tree into memory.
struct Reading {
    metadata: SnapshotMetadata,
    applied: AppliedState,
    rows: Rows,
    restoring: Restoring,
    /// All rows are in the index; the leases are being told their keys.
    has_rows: bool,
}

impl Install {
    /// Whether a snapshot is on its way into the member.
    pub(super) fn is_busy(&self) -> bool {
        self.received.is_some() || self.under_way.is_some() || self.reading.is_some()
    }

    /// Whether the state is being read from the tree that was received.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }
}

impl Reading {
    fn begin(tree: &Tree, metadata: SnapshotMetadata, min_lease_ttl_seconds: i64) -> Result<Reading, BootError> {
        let root = tree.root();
        let applied = applied_state(root.user());
        let base: Arc<dyn Base> = root;
        Ok(Reading {
            metadata,
            rows: Rows::read(&*base, min_lease_ttl_seconds)?,
            restoring: Restoring::begin(base, applied.clone())?,
            applied,
            has_rows: false,
        })
    }

    /// Reads one slice; true once all is read.
    fn slice(&mut self, rows_max: usize) -> Result<bool, StoreError> {
        if !self.has_rows {
            self.has_rows = self.restoring.rows(rows_max)?;
            return Ok(false);
        }
        let rows = &mut self.rows;
        Ok(self
            .restoring
            .leased(rows_max, &mut |key, lease| rows.attach(key, lease)))
    }
}

impl Engine {
    /// A snapshot was received and is durable.
    pub(super) fn on_received(&mut self, message: Box<Message>) {
        if !self.install.is_busy() {
            self.install.received = Some(message);
        }
    }

    /// Whether the tree must stand still for a snapshot.
    pub(super) fn tree_stands_still(&self) -> bool {
        self.refill.is_some()
            || (self.install.under_way.is_some() && !mutant::on("tree_moves_under_a_snapshot"))
            || (self.install.received.is_some() && self.committer.is_idle())
    }

    /// Hands a received snapshot to consensus once no commit is under way, or goes on with one beside the log.
    pub(super) fn start_install(&mut self, disk: &mut dyn Disk) -> Result<(), Fault> {
        if self.install.reading.is_some() && self.install.under_way.is_none() {
            return self.go_on_beside_log(disk);
        }
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
            self.begin_install(disk, snapshot.metadata.clone())?;
            return self.go_on_beside_log(disk);
        }
        if let Err(error) = self.member.raft.step(*message) {
            tracing::warn!(%error, "the snapshot is not called for");
        }
        // Consensus says in its next Ready whether it wants it.
        self.install.done = true;
        Ok(())
    }

    /// Takes the state over that a member with a damaged tree asked for; its log stays.
    fn go_on_beside_log(&mut self, disk: &mut dyn Disk) -> Result<(), Fault> {
        let Some(metadata) = self.go_on(disk)? else {
            return Ok(());
        };
        let mut restart = || {
            let conf_state = ConfState::decode(&self.member.applied.conf_state).map_err(|error| error.to_string())?;
            let restarted = self.member.raft.restart_at(metadata.index, &conf_state);
            restarted.map_err(|error| error.to_string())
        };
        restart().map_err(Fault::Snapshot)?;
        self.to_apply.clear();
        (self.install.done, self.install.installed) = (true, true);
        Ok(())
    }

    /// Consensus wants the snapshot: what was committed before it and is not applied is void.
    pub(super) fn snapshot_taken(&mut self, token: PersistToken, metadata: SnapshotMetadata) {
        self.to_apply.clear();
        self.install.done = false;
        self.member.metrics.installing.set(1);
        self.install.under_way = Some((token, metadata));
    }

    /// Whether consensus may be told that what `token` names is durable. Where that is a snapshot's marker, the state is
    /// replaced first, one slice a call.
    pub(super) fn installs(&mut self, disk: &mut dyn Disk, token: PersistToken) -> Result<bool, Fault> {
        let due = self.install.under_way.as_ref().filter(|(awaited, _)| *awaited == token);
        let Some((_, metadata)) = due.cloned() else {
            return Ok(true);
        };
        if self.install.reading.is_none() {
            failpoint!("raftAfterSaveSnap");
            failpoint!("raftBeforeApplySnap");
            self.begin_install(disk, metadata)?;
        }
        let Some(metadata) = self.go_on(disk)? else {
            return Ok(false);
        };
        self.install.under_way = None;
        failpoint!("raftAfterApplySnap");
        // The tree has it all, durably.
        self.wal.release(metadata.index);
        failpoint!("raftAfterWALRelease");
        self.install.done = true;
        self.install.installed = true;
        self.member.metrics.installing.set(0);
        Ok(true)
    }

    /// Puts the received tree in place and begins to read it.
    fn begin_install(&mut self, disk: &mut dyn Disk, metadata: SnapshotMetadata) -> Result<(), Fault> {
        let begun = self.place_tree(disk, metadata);
        self.install.reading = Some(begun.map_err(|error| Fault::Snapshot(error.to_string()))?);
        Ok(())
    }

    fn place_tree(&mut self, disk: &mut dyn Disk, metadata: SnapshotMetadata) -> Result<Reading, BootError> {
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
        let reading = Reading::begin(&tree, metadata, self.member.options.min_lease_ttl_seconds())?;
        self.committer.replace_tree(tree).close(disk)?;
        failpoint!("applyAfterOpenSnapshot");
        Ok(reading)
    }

    /// Reads one slice of the new state; once all is read, replaces the old one and says which snapshot it is.
    fn go_on(&mut self, disk: &mut dyn Disk) -> Result<Option<SnapshotMetadata>, Fault> {
        let mut reading = self.install.reading.take().expect("called while a state is read");
        let rows_max = self.member.options.install_slice_rows;
        if !reading
            .slice(rows_max)
            .map_err(|error| Fault::Snapshot(error.to_string()))?
        {
            self.install.reading = Some(reading);
            return Ok(None);
        }
        let mut store = reading.restoring.finish();
        store.share_pins(self.member.store.pins());
        self.member.take_over(reading.rows, store, reading.applied);
        self.compaction.resume();
        self.dirty = true;
        self.end_refill(disk)
            .map_err(|error| Fault::Snapshot(error.to_string()))?;
        let SnapshotMetadata { index, term, .. } = reading.metadata;
        tracing::info!(index, term, "a snapshot is installed");
        Ok(Some(reading.metadata))
    }

    /// Whether a received snapshot is dealt with, and whether the state was replaced; each is told once.
    pub(super) fn take_install_news(&mut self) -> (bool, bool) {
        (
            std::mem::take(&mut self.install.done),
            std::mem::take(&mut self.install.installed) && !mutant::on("snapshot_untold"),
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
