//! Taking over another member's state when this one lags behind its log.
//!
//! The shell receives the pages of a durable root into [`INCOMING`], makes them durable and says so with
//! [`Event::SnapshotReceived`](super::Event). Then, each step only once the one before is durable:
//!
//! 1. no commit of the tree is under way, and consensus takes the snapshot: entries that wait to be applied are void;
//! 2. a marker goes into the write-ahead log;
//! 3. the received file is renamed over the tree and its name synced, beside the turns; then it is opened, its free pages
//!    looked for and all state in memory read from it anew, in slices, a turn each: meanwhile the member answers heartbeats,
//!    serves its old state and applies nothing;
//! 4. consensus acknowledges the snapshot to the leader.
//!
//! A crash before 2 leaves the old state and a file that is thrown away. A crash between 2 and 3 is finished at the next
//! start: [`finish`]. Views taken before keep the old file's map. The old state is given out as [`Outgrown`], since to free
//! it takes as long as to read the new one. ADR 6 says why the marker comes first.
//!
//! Bounds: no turn looks at more than [`MemberOptions::install_slice_rows`] rows, keys, leases or runs of pages, nor waits
//! for the disk.

use std::{any::Any, sync::Arc};

use raft::{ConfState, Message, PersistToken, SnapshotMetadata, mutant};
use storage::{
    failpoint,
    io::{Completion, Disk, ErrorKind, Op, Token},
    mvcc::{AppliedState, Restoring},
    tree::{Leftover, Opening, Root, Tree, TreeOptions},
};

use super::{
    BootError, Engine, Fault,
    boot::{MemberOptions, TREE_FILE, applied_state, tree_options},
    engine::APPLY_TURN_MAX,
    refill,
    rows::Rows,
};

/// Where the pages of another member's tree are received, beside the tree.
pub const INCOMING: &str = "tree.incoming";

/// Names the one call of the disk that an installation has under way: neither the log's nor the tree's.
const TOKEN: Token = 1 << 60;

/// What nobody needs any more and what takes long to free: drop it where nobody waits, once no view of it is held.
pub type Outgrown = Box<dyn Any + Send>;

/// A snapshot on its way into the member.
#[derive(Default)]
pub(super) struct Install {
    /// Received whole; waits for the tree to be idle.
    received: Option<Box<Message>>,
    /// Taken by consensus; waits for the marker.
    under_way: Option<(PersistToken, SnapshotMetadata)>,
    /// On its way from a received file to the member's state.
    taking: Option<(SnapshotMetadata, Stage)>,
    /// The call of the disk that is waited for has ended.
    called: bool,
    /// The state that was replaced.
    outgrown: Option<Outgrown>,
    /// The last one is dealt with: another may be received.
    done: bool,
    /// The state was replaced in this turn.
    installed: bool,
}

/// How far a received file is on its way to being the state.
enum Stage {
    /// It is renamed over the tree.
    Renaming,
    /// Its new name is made durable.
    Naming,
    /// It is the tree, and its free pages are looked for.
    Opening(Box<Opening>),
    /// The state in memory is read from it.
    Reading(Box<Reading>),
}

/// A state on its way from the tree into memory.
struct Reading {
    base: Arc<Root>,
    applied: AppliedState,
    rows: Rows,
    restoring: Restoring,
    pass: Pass,
    /// Of the tree that was replaced.
    leftover: Leftover,
}

/// What is read, in this order.
#[derive(Clone, Copy)]
enum Pass {
    Leases,
    /// Revisions, into the index.
    Revisions,
    /// Keys, for their leases.
    Keys,
}

impl Install {
    /// Whether a snapshot is on its way into the member.
    pub(super) fn is_busy(&self) -> bool {
        self.received.is_some() || self.under_way.is_some() || self.taking.is_some()
    }

    /// Whether a received file is taking the place of the tree, and the state in memory is yet that of the old one.
    pub(super) fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// Whether another slice can follow at once.
    pub(super) fn has_work(&self) -> bool {
        let stage = self.taking.as_ref().map(|(_, stage)| stage);
        matches!(stage, Some(Stage::Opening(_) | Stage::Reading(_)))
    }

    /// Whether a completion of the disk is the installation's.
    pub(super) fn owns(&self, token: Token) -> bool {
        token == TOKEN
    }

    /// Takes the end of the call that is waited for.
    pub(super) fn on_completion(&mut self, completion: Completion) -> Result<(), Fault> {
        completion.result.map_err(|error| Fault::Snapshot(error.to_string()))?;
        self.called = true;
        Ok(())
    }

    /// What the last installation replaced.
    pub(super) fn take_outgrown(&mut self) -> Option<Outgrown> {
        self.outgrown.take()
    }
}

impl Reading {
    fn begin(base: Arc<Root>, leftover: Leftover, options: &MemberOptions) -> Result<Reading, BootError> {
        let applied = applied_state(base.user());
        Ok(Reading {
            rows: Rows::begin(&*base, options.min_lease_ttl_seconds())?,
            restoring: Restoring::begin(base.clone(), applied.clone())?,
            base,
            applied,
            pass: Pass::Leases,
            leftover,
        })
    }

    /// Reads one slice; true once all is read.
    fn slice(&mut self, rows_max: usize) -> Result<bool, BootError> {
        let (rows, restoring) = (&mut self.rows, &mut self.restoring);
        let (read, next) = match self.pass {
            Pass::Leases => (rows.leases(&*self.base, rows_max)?, Pass::Revisions),
            Pass::Revisions => (restoring.rows(rows_max)?, Pass::Keys),
            Pass::Keys => return Ok(restoring.leased(rows_max, &mut |key, lease| rows.attach(key, lease))),
        };
        if read {
            self.pass = next;
        }
        Ok(false)
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
        if self.install.taking.is_some() && self.install.under_way.is_none() {
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
        if self.install.taking.is_none() {
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

    /// Begins to put the received tree in place.
    fn begin_install(&mut self, disk: &mut dyn Disk, metadata: SnapshotMetadata) -> Result<(), Fault> {
        assert!(self.committer.is_idle(), "the tree stands still for a snapshot");
        let user = Tree::user(disk, INCOMING).map_err(|error| Fault::Snapshot(error.to_string()))?;
        let (found, wanted) = (user.applied_index, metadata.index);
        if found != wanted {
            let text = format!("the received tree ends at entry {found} and not at {wanted}");
            return Err(Fault::Snapshot(text));
        }
        failpoint!("applyBeforeOpenSnapshot");
        self.install.called = false;
        disk.submit(TOKEN, rename());
        self.install.taking = Some((metadata, Stage::Renaming));
        Ok(())
    }

    /// Does one slice of what is to be done; once all is, replaces the old state and says by which snapshot.
    fn go_on(&mut self, disk: &mut dyn Disk) -> Result<Option<SnapshotMetadata>, Fault> {
        let (metadata, stage) = self.install.taking.take().expect("called while one is taken over");
        let next = self.next_stage(disk, stage);
        match next.map_err(|error| Fault::Snapshot(error.to_string()))? {
            Some(stage) => {
                self.install.taking = Some((metadata, stage));
                Ok(None)
            }
            None => {
                let SnapshotMetadata { index, term, .. } = metadata;
                tracing::info!(index, term, "a snapshot is installed");
                Ok(Some(metadata))
            }
        }
    }

    /// One slice of a stage; none once the state is replaced.
    fn next_stage(&mut self, disk: &mut dyn Disk, stage: Stage) -> Result<Option<Stage>, BootError> {
        let slice = self.member.options.install_slice_rows;
        let next = match stage {
            Stage::Renaming if !self.install.called => Stage::Renaming,
            Stage::Renaming if !syncs_the_name() => self.open_installed(disk)?,
            Stage::Renaming => {
                self.install.called = false;
                disk.submit(TOKEN, Op::SyncDir(String::new()));
                Stage::Naming
            }
            Stage::Naming if !self.install.called => Stage::Naming,
            Stage::Naming => self.open_installed(disk)?,
            Stage::Opening(mut opening) => match opening.slice(slice)? {
                false => Stage::Opening(opening),
                true => Stage::Reading(Box::new(self.begin_reading(disk, *opening)?)),
            },
            Stage::Reading(mut reading) => match reading.slice(slice)? {
                false => Stage::Reading(reading),
                true => {
                    self.replace_state(disk, *reading)?;
                    return Ok(None);
                }
            },
        };
        Ok(Some(next))
    }

    fn open_installed(&self, disk: &mut dyn Disk) -> Result<Stage, BootError> {
        let opening = Opening::begin(disk, tree_options(&self.member.options))?;
        Ok(Stage::Opening(Box::new(opening)))
    }

    fn begin_reading(&mut self, disk: &mut dyn Disk, opening: Opening) -> Result<Reading, BootError> {
        let tree = opening.finish();
        failpoint!("applyAfterOpenSnapshot");
        let root = tree.root();
        let leftover = self.committer.replace_tree(tree).close(disk)?;
        Reading::begin(root, leftover, &self.member.options)
    }

    fn replace_state(&mut self, disk: &mut dyn Disk, reading: Reading) -> Result<(), BootError> {
        let mut store = reading.restoring.finish();
        store.share_pins(self.member.store.pins());
        let old = self.member.take_over(reading.rows, store, reading.applied);
        self.install.outgrown = Some(Box::new((self.published.clone(), old, reading.leftover)));
        self.compaction.resume();
        self.dirty = true;
        self.end_refill(disk)
    }

    /// Whether a received snapshot is dealt with, and whether the state was replaced; each is told once.
    pub(super) fn take_install_news(&mut self) -> (bool, bool) {
        (
            std::mem::take(&mut self.install.done),
            std::mem::take(&mut self.install.installed) && !mutant::on("snapshot_untold"),
        )
    }
}

fn rename() -> Op {
    Op::Rename {
        from: INCOMING.to_owned(),
        to: TREE_FILE.to_owned(),
    }
}

/// Finishes at start an installation whose marker is in the log, and throws away what never got that far. The tree so far
/// ends at entry `applied` and may be damaged: the received one takes its place all the same.
///
/// Errors: the log says that a snapshot was taken over and the state for it is nowhere; or those of the tree so far.
pub(super) fn finish(
    disk: &mut dyn Disk,
    options: &TreeOptions,
    tree: Result<Tree, BootError>,
    applied: u64,
    marker: Option<&SnapshotMetadata>,
) -> Result<Tree, BootError> {
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
        return tree;
    };
    let behind = BootError::TreeBehind {
        applied,
        first: marker.index,
    };
    if !received || Tree::user(disk, INCOMING)?.applied_index != marker.index {
        return Err(tree.err().unwrap_or(behind));
    }
    if let Ok(tree) = tree {
        tree.close(disk)?;
    }
    disk.call(rename())?;
    if syncs_the_name() {
        disk.call(Op::SyncDir(String::new()))?;
    }
    // What was noted of damage was noted of the tree before.
    if !mutant::on("note_of_the_old_tree_stays") {
        refill::clean_up(disk)?;
    }
    Ok(Tree::open(disk, options.clone())?)
}

/// The name of an installed tree is durable before anything relies on it.
fn syncs_the_name() -> bool {
    !mutant::on("installed_name_not_synced")
}
