//! From a data directory to a running member: lock, format, tree, log, store.
//!
//! The tree says what is applied, the log what comes behind it. Entries at or below the tree's index are ignored but for
//! those kept for followers (DECISIONS 2). A log that is gone while the tree is there, or that does not reach the tree,
//! is never papered over: the error says what to do.

use std::{collections::VecDeque, sync::Arc};

use ahash::AHashMap;
use bytes::Bytes;
use raft::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, RawNode, SnapshotMetadata, Start, mutant,
};
use storage::{
    io::{BLOCK_SIZE, Disk, DiskError, ErrorKind, FileId, Op, OpenOptions, Output, WriteBuf},
    mvcc::{AppliedState, Base, Store, StoreError},
    tree::{MetaUser, Tree, TreeError, TreeOptions},
    wal::{AppendToken, Identity, Recovered, Wal, WalError, WalOptions},
};

use super::{
    AutoCompaction, Engine, HashCache, Member, MemberInfo,
    abilities::major_minor,
    alone::stand_alone,
    auto_compaction::Compactor,
    commit::{CommitPolicy, Committer},
    engine::Compaction,
    lessor::Lessor,
    refill::{self, DAMAGED, Refill},
    roster::Roster,
    rows::Rows,
};
use crate::{metrics::CoreMetrics, version};

/// The least that is kept ahead for the tree: some of the largest requests. Units: bytes.
const TREE_RESERVE_MIN: u64 = 4 << 20;
/// Version of the data directory this program writes.
const FORMAT_VERSION: u32 = 1;
/// Oldest version of this program's format that can read it.
const FORMAT_MIN_READER: u32 = 1;
/// Name of the file that says so.
const FORMAT_FILE: &str = "format";
/// Name of the tree's file.
pub(super) const TREE_FILE: &str = "tree";
/// Name of the file whose lock keeps a second member out.
const LOCK_FILE: &str = "lock";

/// Everything a member needs to know to start.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// This member's id.
    pub member_id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// This member's name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// The members a new cluster begins with, this one among them; empty: join a cluster that is there.
    pub initial_members: Vec<MemberInfo>,
    /// Go on as a cluster of one, without the other members.
    pub force_new_cluster: bool,
    /// Length of a raft tick, the heartbeat interval. Units: nanoseconds.
    pub tick_ns: u64,
    /// Election time-out. Units: ticks.
    pub election_ticks: u32,
    /// Election time-out. Units: nanoseconds.
    pub election_timeout_ns: u64,
    /// Refuse member changes that endanger the quorum.
    pub strict_reconfig_check: bool,
    /// How many learners the cluster may have.
    pub max_learners: u64,
    /// Ask before standing for election.
    pub pre_vote: bool,
    /// Whether most of the first election time-out is skipped once two other members are linked.
    pub initial_election_tick_advance: bool,
    /// Seed of the election jitter.
    pub seed: u64,
    /// A proposal or read that is not done by then fails. Units: nanoseconds.
    pub request_timeout_ns: u64,
    /// How often what is left of long leases is noted in the log. Units: nanoseconds.
    pub lease_checkpoint_interval_ns: u64,
    /// Above this much that is not in the tree or the log yet, proposals are refused. Units: bytes.
    pub buffered_bytes_max: usize,
    /// Log entries kept behind the tree for followers that lag.
    pub catch_up_entries: u64,
    /// When commits of the tree happen.
    pub commit: CommitPolicy,
    /// Rows that a compaction removes between two pauses. Bounds: at least 1.
    pub compaction_batch_rows: u64,
    /// How long such a pause is. Units: nanoseconds.
    pub compaction_pause_ns: u64,
    /// Compaction without being asked.
    pub auto_compaction: AutoCompaction,
    /// Directory of the log, relative to the disk's root.
    pub wal_dir: String,
    /// Size of a log segment; none: chosen by the size of the file system. Units: bytes.
    pub wal_segment_bytes: Option<u64>,
    /// Address space taken for the tree. Units: bytes.
    pub tree_reserve_bytes: u64,
    /// Page size of a new tree. Units: bytes.
    pub tree_page_bytes: usize,
    /// The tree's file grows in steps of this size. Units: bytes.
    pub tree_growth_bytes: u64,
    /// Rows, or keys, that one turn reads of a state that is taken over.
    pub install_slice_rows: usize,
}

impl MemberOptions {
    /// The shortest TTL of a lease. Units: seconds.
    ///
    /// Source: etcd `minTTL`: (3 * election ticks) / 2 * heartbeat, rounded up to whole seconds (limits table).
    pub fn min_lease_ttl_seconds(&self) -> i64 {
        let span_ns = u64::from(self.election_ticks) * 3 / 2 * self.tick_ns;
        span_ns.div_ceil(1_000_000_000) as i64
    }
}

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Another process has the data directory.
    #[error("the data directory is locked by another process; stop it first, or choose another --data-dir")]
    Locked,
    /// The data directory was written by a newer version.
    #[error(
        "the data directory has format version {found}, which needs a reader of version {min_reader} or newer; \
         this program reads up to version {FORMAT_VERSION}: use a newer etcore"
    )]
    TooNew {
        /// Its version.
        found: u32,
        /// What it takes to read it.
        min_reader: u32,
    },
    /// The format file makes no sense.
    #[error("file {FORMAT_FILE} in the data directory is not etcore's; is --data-dir right?")]
    NotOurs,
    /// The log is gone while the tree is there.
    #[error(
        "the log is missing or empty but the tree has applied entry {applied}: this member may have acknowledged what it \
         no longer has. It must not vote again: remove it from the cluster and add it anew, as a learner, with an empty data directory"
    )]
    LogLost {
        /// What the tree has.
        applied: u64,
    },
    /// The tree does not reach the first entry of the log.
    #[error(
        "the tree has applied entry {applied} but the log begins at entry {first}: the tree is lost or was replaced. \
         Restore this member from a snapshot, or remove it and add it anew with an empty data directory"
    )]
    TreeBehind {
        /// What the tree has.
        applied: u64,
        /// Where the log begins.
        first: u64,
    },
    /// The cluster removed this member.
    #[error(
        "the member has been permanently removed from the cluster; the data directory used by this member must be removed. \
         To have it back, add it anew (etcdctl member add) and start it with an empty one"
    )]
    Removed,
    /// All members of the cluster speak a newer version.
    #[error(
        "invalid downgrade; server version is lower than determined cluster version: the cluster is at {cluster} and this \
         program keeps to {}. Use the version that the other members run",
        version::ETCD_VERSION
    )]
    OlderThanCluster {
        /// The cluster's version.
        cluster: String,
    },
    /// The log of a member that is to stand alone does not know it.
    #[error(
        "--force-new-cluster needs a member that has taken part in its cluster, and the log of this one does not reach its \
         own addition: use another member, or restore a snapshot"
    )]
    NotInCluster,
    /// A file call failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log cannot be used.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The tree cannot be used.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An earlier run found a bad page.
    #[error("file {DAMAGED} in the data directory says that the tree is damaged")]
    NotedDamage,
    /// What was recovered breaks a rule of consensus.
    #[error("recovered state is not usable: {0}")]
    Raft(String),
    /// A row of the tree cannot be read.
    #[error("bucket {bucket} of the tree holds a row that cannot be read: {why}; restore this member from a snapshot")]
    Row {
        /// Which bucket.
        bucket: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Engine {
    /// Opens or creates the data directory and readies the member. Blocks; nothing is served meanwhile.
    pub fn boot(
        disk: &mut dyn Disk,
        options: MemberOptions,
        metrics: Arc<CoreMetrics>,
        now_ns: u64,
    ) -> Result<Engine, BootError> {
        claim(disk)?;
        let tree = Tree::open(disk, tree_options(&options)).map_err(BootError::from);
        // A damaged tree may be refilled if it still tells what it had; if not, the roster beside it does, with the log.
        let (tree, user) = match tree {
            Ok(tree) => {
                let user = tree.root().user().clone();
                (Ok(tree), Some(user))
            }
            Err(error) if error.is_damage() => (Err(error), Tree::user(disk, TREE_FILE).ok()),
            Err(error) => return Err(error),
        };
        let identity = Identity {
            member_id: options.member_id,
            cluster_id: options.cluster_id,
        };
        // Opening the log would make a new one, in the way of the old one that is put back.
        let applied = user.as_ref().map_or(0, |user| user.applied_index);
        if (applied > 0 || tree.is_err()) && Wal::identity(disk, &options.wal_dir)?.is_none() {
            return Err(tree
                .err()
                .filter(|_| applied == 0)
                .unwrap_or(BootError::LogLost { applied }));
        }
        let (mut wal, recovered) = Wal::open(disk, wal_options(&options), Some(identity))?;
        let user = match user {
            Some(user) => Some(user),
            None => Roster::read(disk)?.user(&recovered),
        };
        let (tree, user) = match (tree, user) {
            (tree, Some(user)) => (tree, user),
            (Err(error), None) => return Err(error),
            (Ok(_), None) => unreachable!("a tree that opens tells what it has"),
        };
        let (applied, marker) = (user.applied_index, recovered.snapshot.as_ref());
        let tree = super::install::finish(disk, &tree_options(&options), tree, applied, marker);
        let user = tree.as_ref().map_or(user, |tree| tree.root().user().clone());
        let whole = tree.and_then(|tree| read(disk, &options, tree));
        let may_refill =
            !options.force_new_cluster && refill::has_others(&options, &user) && recovered.reaches(user.applied_index);
        let (tree, rows, store, applied, refill) = match whole {
            Ok((tree, rows, store, applied)) => (tree, rows, store, applied, None),
            Err(error) if error.is_damage() && may_refill => {
                let applied = applied_state(&user);
                let (tree, refill) = refill::begin(disk, &options, &error.to_string())?;
                let (rows, store) = restore(&options, tree.root(), &applied)?;
                (tree, rows, store, applied, Some(refill))
            }
            Err(error) => return Err(error),
        };
        let is_new = recovered.entries.is_empty() && recovered.hard_state == HardState::default();
        if is_new && applied.index > 0 {
            return Err(BootError::LogLost { applied: applied.index });
        }
        if rows.members.removed.contains(&options.member_id) {
            return Err(BootError::Removed);
        }
        if let Some(cluster) = rows.members.cluster_version.as_ref()
            && major_minor(cluster) > major_minor(version::ETCD_VERSION)
        {
            let cluster = cluster.clone();
            return Err(BootError::OlderThanCluster { cluster });
        }
        let mut start = if is_new {
            bootstrap(&options)
        } else {
            resume(recovered, &applied)?
        };
        let decreed = match options.force_new_cluster && !is_new {
            true => stand_alone(&mut start, options.member_id)?,
            false => Vec::new(),
        };
        let first = if is_new { &start.entries } else { &decreed };
        let founding = (is_new || !decreed.is_empty()).then(|| wal.append(first, Some(start.hard_state), None));
        let mut raft =
            RawNode::new(raft_config(&options), start).map_err(|error| BootError::Raft(error.to_string()))?;
        raft.hold_back(refill.is_some() && !mutant::on("refilling_member_leads"));
        let member = rows.into_member(options, raft, store, applied, metrics, now_ns);
        Ok(Engine::assemble(member, wal, tree, founding, refill))
    }

    fn assemble(
        mut member: Member,
        wal: Wal,
        mut tree: Tree,
        founding: Option<AppendToken>,
        refill: Option<Refill>,
    ) -> Engine {
        let reserve = tree_reserve(&member.options, &wal);
        tree.keep_in_reserve(reserve);
        // What is on its way into the tree must fit there, or nothing could be deleted any more.
        let bytes_max = (reserve / 2) as usize;
        let commit = &mut member.options.commit;
        commit.bytes_max = commit.bytes_max.min(bytes_max / 2);
        member.options.buffered_bytes_max = member.options.buffered_bytes_max.min(bytes_max);
        let committer = Committer::new(tree, member.options.commit);
        let last_wal_bytes = wal.written_bytes();
        let (size, in_use) = committer.sizes();
        let published = Arc::new(super::View {
            store: member.store.view(),
            applied_index: member.applied.index,
            committed_index: member.raft.commit_index(),
            term: member.raft.term(),
            leader: 0,
            is_learner: false,
            members: member.members.clone(),
            alarms: member.alarms.clone(),
            defrag: Default::default(),
            db_size_bytes: size,
            db_in_use_bytes: in_use,
            is_stalled: false,
        });
        Engine {
            member,
            wal,
            founding,
            committer,
            appends: VecDeque::new(),
            completions: Vec::new(),
            to_apply: VecDeque::new(),
            compaction: Compaction::resumed(),
            defragmenting: Vec::new(),
            defrags_begun: 0,
            defrag_told: false,
            install: Default::default(),
            inflight: Default::default(),
            stall: Default::default(),
            refill,
            roster_of: None,
            published,
            dirty: false,
            last_wal_bytes,
            campaigned: false,
            next_space_retry_ns: 0,
            space_tries: 0,
            held: VecDeque::new(),
            unsettled_since_ns: None,
        }
    }
}

/// Everything the member keeps in memory, from a tree; the tree is closed if it turns out to be damaged.
type Whole = (Tree, Rows, Store, AppliedState);

fn read(disk: &mut dyn Disk, options: &MemberOptions, tree: Tree) -> Result<Whole, BootError> {
    let root = tree.root();
    let applied = applied_state(root.user());
    let others = refill::has_others(options, root.user());
    let read = match others && refill::noted_damage(disk)? {
        // The page that was found to be bad may be one that a start does not read.
        true => Err(BootError::NotedDamage),
        false => restore(options, root, &applied),
    };
    match read {
        Ok((rows, store)) => Ok((tree, rows, store, applied)),
        Err(error) => {
            tree.close(disk)?;
            Err(error)
        }
    }
}

/// What a member keeps in memory, from the rows of a tree.
fn restore(options: &MemberOptions, base: Arc<dyn Base>, applied: &AppliedState) -> Result<(Rows, Store), BootError> {
    let mut rows = Rows::begin(&*base, options.min_lease_ttl_seconds())?;
    while !rows.leases(&*base, usize::MAX)? {}
    Ok((rows, Store::restore(base, applied.clone())?))
}

/// How far a tree is.
pub(super) fn applied_state(user: &MetaUser) -> AppliedState {
    AppliedState {
        index: user.applied_index,
        term: user.applied_term,
        conf_state: user.conf_state.clone(),
    }
}

/// Takes the lock and checks the format, writing it into a new directory.
fn claim(disk: &mut dyn Disk) -> Result<(), BootError> {
    let lock = open(disk, LOCK_FILE)?;
    match disk.call(Op::Lock(lock)) {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::Locked => return Err(BootError::Locked),
        Err(error) => return Err(error.into()),
    }
    let file = open(disk, FORMAT_FILE)?;
    let Output::Data(text) = disk.call(Op::Read {
        file,
        offset: 0,
        len: BLOCK_SIZE,
    })?
    else {
        unreachable!("a read answers data");
    };
    disk.call(Op::Close(file))?;
    match text.is_empty() {
        true => Ok(write_format(disk)?),
        false => check_format(&text),
    }
}

/// Writes the file aside and renames it, so that a crash leaves all of it or an empty one.
fn write_format(disk: &mut dyn Disk) -> Result<(), DiskError> {
    let aside = format!("{FORMAT_FILE}.new");
    let file = open(disk, &aside)?;
    let text = format!("etcore\nversion {FORMAT_VERSION}\nmin_reader {FORMAT_MIN_READER}\n");
    disk.call(Op::SetLen(file, 0))?;
    disk.call(Op::Write {
        file,
        offset: 0,
        data: WriteBuf::Bytes(Bytes::from(text)),
    })?;
    disk.call(Op::Sync(file))?;
    disk.call(Op::Close(file))?;
    disk.call(Op::Rename {
        from: aside,
        to: FORMAT_FILE.to_owned(),
    })?;
    disk.call(Op::SyncDir(String::new()))?;
    Ok(())
}

fn check_format(text: &[u8]) -> Result<(), BootError> {
    let text = std::str::from_utf8(text).map_err(|_| BootError::NotOurs)?;
    let mut lines = text.lines();
    let mut number = |name: &str| {
        let line = lines.next().and_then(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().parse::<u32>().ok())
            .ok_or(BootError::NotOurs)
    };
    if !text.starts_with("etcore\n") {
        return Err(BootError::NotOurs);
    }
    let _ = number("etcore");
    let (found, min_reader) = (number("version")?, number("min_reader")?);
    if min_reader > FORMAT_VERSION {
        return Err(BootError::TooNew { found, min_reader });
    }
    Ok(())
}

fn open(disk: &mut dyn Disk, path: &str) -> Result<FileId, DiskError> {
    let options = OpenOptions {
        create: true,
        write: true,
        ..OpenOptions::default()
    };
    match disk.call(Op::Open {
        path: path.to_owned(),
        options,
    })? {
        Output::File(file) => Ok(file),
        other => unreachable!("an open answers a file, not {other:?}"),
    }
}

/// What the tree's file has ahead of need: the disk is found full by a commit, and the alarm is on only when that is
/// through. Less on a small disk, which the size of a segment tells. Units: bytes.
fn tree_reserve(options: &MemberOptions, wal: &Wal) -> u64 {
    let plenty = 2 * options.buffered_bytes_max as u64;
    plenty.min(wal.segment_size_bytes().max(TREE_RESERVE_MIN))
}

pub(super) fn tree_options(options: &MemberOptions) -> TreeOptions {
    TreeOptions {
        path: TREE_FILE.to_owned(),
        page_size: options.tree_page_bytes,
        growth_step_bytes: options.tree_growth_bytes,
        reserve_address_bytes: options.tree_reserve_bytes,
        token_base: 1 << 62,
        ..TreeOptions::default()
    }
}

fn wal_options(options: &MemberOptions) -> WalOptions {
    WalOptions {
        dir: options.wal_dir.clone(),
        segment_size_bytes: options.wal_segment_bytes,
        token_base: 1 << 61,
        log_id: options.seed,
        ..WalOptions::default()
    }
}

fn raft_config(options: &MemberOptions) -> raft::Config {
    raft::Config {
        election_ticks: options.election_ticks,
        heartbeat_ticks: 1,
        pre_vote: options.pre_vote,
        check_quorum: true,
        seed: options.seed,
        ..raft::Config::new(options.member_id)
    }
}

/// The log of a new cluster: one configuration change for each first member, by id.
///
/// Source: ondisk table, "bootstrap entries".
fn bootstrap(options: &MemberOptions) -> Start {
    let mut members = options.initial_members.clone();
    members.sort_by_key(|member| member.id);
    let entry = |(index, member): (usize, &MemberInfo)| {
        let context = serde_json::to_vec(member).expect("a member is plain data");
        let change = ConfChange {
            id: 0,
            change_type: ConfChangeType::AddNode,
            node_id: member.id,
            context: context.into(),
        };
        Entry {
            entry_type: EntryType::ConfChange,
            term: 1,
            index: index as u64 + 1,
            data: change.encode(),
        }
    };
    let entries: Vec<Entry> = members.iter().enumerate().map(entry).collect();
    let hard_state = HardState {
        // A member that joins has nothing to say before the others have told it who they are.
        term: u64::from(!entries.is_empty()),
        vote: 0,
        commit: entries.len() as u64,
    };
    Start {
        hard_state,
        conf_state: ConfState::default(),
        snapshot: SnapshotMetadata::default(),
        entries,
        applied: 0,
    }
}

/// Consensus state from what the log and the tree hold.
fn resume(recovered: Recovered, applied: &AppliedState) -> Result<Start, BootError> {
    let bad = |why: String| BootError::Raft(why);
    let conf_state = match &applied.conf_state {
        none if none.is_empty() => ConfState::default(),
        bytes => ConfState::decode(bytes).map_err(|error| bad(error.to_string()))?,
    };
    let mut entries = recovered.entries;
    let mut hard_state = recovered.hard_state;
    let first = entries.first().map_or(applied.index + 1, |entry| entry.index);
    if first > applied.index + 1 {
        return Err(BootError::TreeBehind {
            applied: applied.index,
            first,
        });
    }
    // A snapshot of another member took the place of everything up to its marker.
    let marker = recovered.snapshot.unwrap_or_default();
    let last = entries.last().map_or(marker.index, |entry| entry.index);
    if last < applied.index {
        return Err(BootError::LogLost { applied: applied.index });
    }
    // The entry before the first kept one gives the log its start; where it is gone, the first kept one does.
    let snapshot = if marker.index > 0 && (entries.is_empty() || first == marker.index + 1) {
        SnapshotMetadata {
            conf_state: conf_state.clone(),
            ..marker
        }
    } else if first == 1 {
        SnapshotMetadata::default()
    } else if first == applied.index + 1 {
        SnapshotMetadata {
            conf_state: conf_state.clone(),
            index: applied.index,
            term: applied.term,
        }
    } else {
        let start = entries.remove(0);
        SnapshotMetadata {
            conf_state: conf_state.clone(),
            index: start.index,
            term: start.term,
        }
    };
    hard_state.commit = hard_state.commit.max(applied.index);
    Ok(Start {
        hard_state,
        conf_state,
        snapshot,
        entries,
        applied: applied.index,
    })
}

impl Rows {
    fn into_member(
        self,
        options: MemberOptions,
        raft: RawNode,
        store: Store,
        applied: AppliedState,
        metrics: Arc<CoreMetrics>,
        now_ns: u64,
    ) -> Member {
        let Rows {
            mut lessor,
            alarms,
            members,
            ..
        } = self;
        let (auto_compaction, options_seed) = (options.auto_compaction, options.seed);
        let advances = options.initial_election_tick_advance;
        for (key, lease) in store.leased_keys() {
            lessor.attach(lease, Bytes::copy_from_slice(key));
        }
        Member {
            next_tick_ns: now_ns + options.tick_ns,
            // Own request ids have the top bit of the suffix set, which no shard's id has.
            next_own_id: (options.member_id & 0xffff) << 48 | 1 << 47 | (applied.index & 0x3fff_ffff) << 16,
            options,
            raft,
            store,
            lessor,
            alarms: Arc::new(alarms),
            members: Arc::new(members),
            applied,
            now_ns,
            next_checkpoint_ns: u64::MAX,
            checkpoint_from: None,
            proposals: AHashMap::new(),
            next_time_out_ns: 0,
            reads: Vec::new(),
            rounds: VecDeque::new(),
            ask_rounds_again: false,

            // An answer to a question from before a restart must not pass for one to a later question.
            next_context: if mutant::on("read_contexts_repeat") {
                1
            } else {
                (options_seed << 20) | 1
            },
            batch: Vec::new(),
            batch_ids: Vec::new(),
            batch_waits: false,
            replies: Vec::new(),
            forwards: Default::default(),
            renewals: Default::default(),
            transfers: Default::default(),
            leases_settled: false,
            elected_ns: 0,
            changes: Default::default(),
            refills: Vec::new(),
            abilities: Default::default(),
            removed: false,
            farewell: None,
            next_announce_ns: 0,
            first_wait_until_ns: advances.then_some(now_ns + super::FIRST_WAIT_MAX_NS),
            compactor: Compactor::new(auto_compaction, now_ns),
            sealed: Vec::new(),
            compacted: Vec::new(),
            hashes: HashCache::default(),
            was_leader: false,
            published_leader: 0,
            leaderless: Default::default(),
            metrics,
        }
    }
}

impl Member {
    /// Goes on with the state of a snapshot, whose leases know their keys; what it had before. What waits for entries within
    /// the snapshot times out.
    pub(super) fn take_over(&mut self, rows: Rows, store: Store, applied: AppliedState) -> (Store, Lessor) {
        let Rows {
            lessor,
            alarms,
            members,
            ..
        } = rows;
        let lessor = match mutant::on("snapshot_without_leases") {
            true => lessor,
            false => std::mem::replace(&mut self.lessor, lessor),
        };
        self.alarms = Arc::new(alarms);
        self.removed |= members.removed.contains(&self.options.member_id);
        if !mutant::on("snapshot_without_members") {
            self.members = Arc::new(members);
        }
        self.applied = applied;
        self.sealed.clear();
        self.compacted.clear();
        (std::mem::replace(&mut self.store, store), lessor)
    }
}
