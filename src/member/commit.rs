//! Moving applied state into the tree, beside the apply loop, a slice at a time.
//!
//! A commit takes a prefix of the store's blocks whose entries are persisted in the local log (DECISIONS 2, 10). No
//! answer ever waits for it.

use std::sync::Arc;

use raft::mutant;
use storage::{
    failpoint,
    io::{Completion, Disk},
    mvcc::{Base, CommitBatch, CommitOps, Store},
    tree::{MetaUser, Progress, Tree, TreeError},
};

use super::Fault;

/// Rows put into the tree in one slice.
const ROWS_PER_SLICE: usize = 256;
/// Bytes put into the tree in one slice. Units: bytes.
const BYTES_PER_SLICE: usize = 256 << 10;
/// Pages of a commit worked on in one slice.
const PAGES_PER_SLICE: usize = 64;
/// Tail pages moved down in one commit.
const SHRINK_PAGES: usize = 1024;
/// Pages that are read while the file is to be made shorter are waited for so long. Units: nanoseconds.
const SHRINK_WAIT_NS: u64 = 2_000_000_000;
/// The file shrinks by itself once more than one part in this many is free.
const FREE_PART: u64 = 4;
/// After the disk was full the next try comes after this long. Units: nanoseconds.
const SPACE_RETRY_NS: u64 = 1_000_000_000;

/// When commits happen.
#[derive(Clone, Copy, Debug)]
pub struct CommitPolicy {
    /// Longest time between two commits. Units: nanoseconds.
    pub interval_ns: u64,
    /// A commit starts early once this much is buffered. Units: bytes.
    pub bytes_max: usize,
}

enum State {
    Idle,
    Filling {
        batch: CommitBatch,
        ops: CommitOps,
        since_ns: u64,
    },
    Writing {
        batch: Option<CommitBatch>,
        since_ns: u64,
        sealed_ns: u64,
    },
}

/// What a step came to.
pub enum Step {
    /// Nothing finished.
    Idle,
    /// A commit is durable.
    Done {
        /// What the tree has applied.
        applied: MetaUser,
        /// How long it took.
        took_ns: u64,
        /// How much of that was writing.
        wrote_ns: u64,
    },
}

/// The tree and the commit under way.
pub struct Committer {
    tree: Tree,
    policy: CommitPolicy,
    state: State,
    next_ns: u64,
    hurry: bool,
    shrinking: bool,
    /// The pages have moved, and the next commit cuts the file.
    cut_next: bool,
    /// Until when readers are waited for.
    shrink_until_ns: u64,
    out_of_space: bool,
    complained: bool,
    /// The tree has pages to write that wait for nothing.
    working: bool,
    /// What the tree used after the last commit. Units: bytes.
    settled_bytes: u64,
}

impl Committer {
    /// Takes over an open tree.
    pub fn new(tree: Tree, policy: CommitPolicy) -> Self {
        Committer {
            settled_bytes: tree.in_use_bytes(),
            tree,
            policy,
            state: State::Idle,
            next_ns: 0,
            hurry: false,
            shrinking: false,
            cut_next: false,
            shrink_until_ns: 0,
            out_of_space: false,
            complained: false,
            working: false,
        }
    }

    /// The newest durable root.
    pub fn root(&self) -> Arc<storage::tree::Root> {
        self.tree.root()
    }

    /// Goes on with another tree and gives the old one back. Panics while a commit is under way.
    pub fn replace_tree(&mut self, mut tree: Tree) -> Tree {
        assert!(self.is_idle(), "a tree is replaced between commits");
        self.shrinking = false;
        self.cut_next = false;
        self.working = false;
        tree.keep_in_reserve(self.tree.reserve_bytes());
        self.settled_bytes = tree.in_use_bytes();
        std::mem::replace(&mut self.tree, tree)
    }

    /// (bytes of the file, bytes in use). What a commit under way takes counts at its end: until then the same rows
    /// count as buffered, and one must not add up to a full quota with the other.
    pub fn sizes(&self) -> (u64, u64) {
        (self.tree.size_bytes(), self.settled_bytes)
    }

    /// What the tree durably has.
    pub fn durable(&self) -> MetaUser {
        self.tree.root().user().clone()
    }

    /// Whether no commit is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Commits at the next step that may, whatever the interval says.
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// Moves tail pages down with every commit until the file is as short as it can be.
    pub fn start_shrinking(&mut self, now_ns: u64) {
        self.shrink_until_ns = now_ns + SHRINK_WAIT_NS;
        self.shrinking = true;
        self.cut_next = self.tree.shrinkable_pages() == 0;
        self.hurry = true;
    }

    /// Whether the file is still being made shorter.
    pub fn is_shrinking(&self) -> bool {
        self.shrinking
    }

    /// Whether the last commit could not take space, or took what is kept for those that free some.
    pub fn out_of_space(&self) -> bool {
        self.out_of_space || self.tree.space_low()
    }

    /// True once for every time the disk is found full.
    pub fn may_complain(&mut self) -> bool {
        !std::mem::replace(&mut self.complained, true)
    }

    /// When the next commit is due; far away when nothing waits.
    pub fn next_deadline_ns(&self) -> u64 {
        if self.is_idle() { self.next_ns } else { u64::MAX }
    }

    /// Takes the end of one of the tree's writes.
    pub fn on_completion(&mut self, completion: Completion) -> Result<(), TreeError> {
        assert!(
            self.tree.owns(completion.token),
            "every completion belongs to the log or to the tree"
        );
        self.tree.on_completion(completion)
    }

    /// The newest revision whose physical compaction is durable.
    pub fn finished_compaction(&self, store: &Store) -> Result<i64, Fault> {
        Ok(store.durable_compact_revision()?)
    }

    /// Does one slice of work. `persisted`: index up to which the local log is durable.
    pub fn step(&mut self, disk: &mut dyn Disk, store: &mut Store, persisted: u64, now_ns: u64) -> Result<Step, Fault> {
        if self.is_idle() {
            self.start(store, persisted, now_ns)?;
        }
        if let State::Filling { ops, .. } = &mut self.state {
            // The more waits, the larger the slices: a tree that lags would hold up the proposals.
            let pressure = 1 + store.buffered_bytes() / self.policy.bytes_max;
            let mut room = BYTES_PER_SLICE * pressure;
            for _ in 0..ROWS_PER_SLICE * pressure {
                let Some(op) = ops.next() else {
                    self.seal(now_ns)?;
                    break;
                };
                let bucket = op.bucket.id();
                room = room.saturating_sub(op.value.as_ref().map_or(0, |value| value.len()));
                match op.value {
                    Some(value) => self.tree.put(bucket, op.key.as_slice(), value)?,
                    None => {
                        self.tree.delete(bucket, op.key.as_slice())?;
                    }
                }
                if room == 0 {
                    break;
                }
            }
        }
        if matches!(self.state, State::Writing { .. }) {
            return self.write(disk, store, now_ns);
        }
        Ok(Step::Idle)
    }

    /// Whether a slice of work can be done at once.
    pub fn has_work(&self) -> bool {
        self.working || matches!(self.state, State::Filling { .. })
    }

    fn start(&mut self, store: &Store, persisted: u64, now_ns: u64) -> Result<(), Fault> {
        let due = now_ns >= self.next_ns && (store.buffered_bytes() > 0 || self.wants_shrinking());
        if !(due || self.hurry || store.buffered_bytes() >= self.policy.bytes_max) {
            self.next_ns = self.next_ns.max(now_ns);
            return Ok(());
        }
        let Some(batch) = store.take_commit(self.policy.bytes_max, persisted) else {
            if self.wants_shrinking() {
                self.begin_shrink(now_ns)?;
            }
            self.next_ns = now_ns + self.policy.interval_ns;
            return Ok(());
        };
        self.hurry = false;
        failpoint!("commitBeforePreCommitHook");
        let applied = batch.applied();
        let ahead = mutant::on("applied_index_ahead_of_the_tree");
        let user = MetaUser {
            applied_index: if ahead { persisted } else { applied.index },
            applied_term: applied.term,
            conf_state: applied.conf_state.clone(),
            ..MetaUser::default()
        };
        let user = if mutant::on("applied_index_behind_the_tree") {
            self.tree.root().user().clone()
        } else {
            user
        };
        failpoint!("commitAfterPreCommitHook");
        failpoint!("beforeStartDBTxn");
        self.tree.begin(user)?;
        failpoint!("afterStartDBTxn");
        let ops = batch.ops();
        self.state = State::Filling {
            batch,
            ops,
            since_ns: now_ns,
        };
        Ok(())
    }

    /// A commit with no rows, only to move pages down.
    fn begin_shrink(&mut self, now_ns: u64) -> Result<(), Fault> {
        let user = self.tree.root().user().clone();
        self.tree.begin(user)?;
        self.shrink()?;
        self.tree.seal();
        self.hurry = false;
        self.state = State::Writing {
            batch: None,
            since_ns: now_ns,
            sealed_ns: now_ns,
        };
        Ok(())
    }

    /// Moves part of the tail down when asked to, and by itself once a good part of the file is free.
    fn shrink(&mut self) -> Result<(), Fault> {
        if self.wants_shrinking() {
            self.tree.shrink_step(SHRINK_PAGES)?;
        }
        Ok(())
    }

    fn wants_shrinking(&self) -> bool {
        let free_bytes = self.tree.size_bytes() - self.tree.in_use_bytes();
        let moves = self.shrinking || free_bytes * FREE_PART > self.tree.size_bytes();
        self.cut_next || (self.tree.shrinkable_pages() > 0 && moves)
    }

    /// Ends a shrink that was asked for, once there is nothing left to move and the file is cut: the commit that moves
    /// the last pages must leave them where the root before it has them.
    ///
    /// What was freed just now may still be read: it is waited for, with a commit now and then, for a while.
    fn finish_shrinking(&mut self, now_ns: u64) {
        let is_moved = self.shrinking && self.tree.shrinkable_pages() == 0;
        if is_moved && self.tree.is_held_back() && now_ns < self.shrink_until_ns {
            self.cut_next = true;
            return;
        }
        if is_moved && self.cut_next {
            failpoint!("defragBeforeRename");
            self.shrinking = false;
        }
        self.cut_next = is_moved && self.shrinking;
        self.hurry |= self.cut_next;
    }

    fn seal(&mut self, now_ns: u64) -> Result<(), Fault> {
        self.shrink()?;
        self.tree.seal();
        let State::Filling { batch, since_ns, .. } = std::mem::replace(&mut self.state, State::Idle) else {
            unreachable!("sealing follows filling");
        };
        #[cfg(feature = "failpoints")]
        batch.reach_points_before();
        failpoint!("beforeCommit");
        self.state = State::Writing {
            batch: Some(batch),
            since_ns,
            sealed_ns: now_ns,
        };
        Ok(())
    }

    fn write(&mut self, disk: &mut dyn Disk, store: &mut Store, now_ns: u64) -> Result<Step, Fault> {
        if self.out_of_space && now_ns < self.next_ns {
            return Ok(Step::Idle);
        }
        let root = match self.tree.step(
            disk,
            PAGES_PER_SLICE * (1 + store.buffered_bytes() / self.policy.bytes_max),
        ) {
            Ok(Progress::Done(root)) => root,
            Ok(progress) => {
                self.working = matches!(progress, Progress::Working);
                return Ok(Step::Idle);
            }
            Err(TreeError::NoSpace { .. }) => {
                // Nothing was changed yet: the same commit is tried again later (DECISIONS 4).
                self.out_of_space = true;
                self.complained = false;
                self.working = false;
                self.next_ns = now_ns + SPACE_RETRY_NS;
                return Ok(Step::Idle);
            }
            Err(error) => return Err(error.into()),
        };
        self.out_of_space = false;
        self.complained = false;
        self.working = false;
        let State::Writing {
            batch,
            since_ns,
            sealed_ns,
        } = std::mem::replace(&mut self.state, State::Idle)
        else {
            unreachable!("writing ends once");
        };
        failpoint!("afterCommit");
        #[cfg(feature = "failpoints")]
        batch.iter().for_each(CommitBatch::reach_points_after);
        let applied = root.user().clone();
        let base: Arc<dyn Base> = root;
        match batch {
            Some(batch) => store.on_committed(base, &batch),
            None => store.on_root(base),
        }
        self.settled_bytes = self.tree.in_use_bytes();
        self.finish_shrinking(now_ns);
        self.next_ns = since_ns + self.policy.interval_ns;
        Ok(Step::Done {
            applied,
            took_ns: now_ns.saturating_sub(since_ns),
            wrote_ns: now_ns.saturating_sub(sealed_ns),
        })
    }
}
