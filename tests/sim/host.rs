//! One machine of the simulated cluster: a disk, a clock, and, while it is up, a production engine with its watch hub.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use etcore::{
    api::{
        RequestIds,
        watch::{HeaderInfo, WatchHub},
    },
    member::{AutoCompaction, BootError, CommitPolicy, Engine, Event, MemberInfo, MemberOptions, View},
    metrics::CoreMetrics,
};
use storage::io::{ErrorKind, SimDisk, sim::Fault};

use crate::{
    consensus::Seen,
    network::Link,
    stalls::StallSeen,
    watching::{Call, Wire},
    weather::{Clock, MS, SEC, Weather},
};

/// Election time-out. Units: ticks.
const ELECTION_TICKS: u32 = 10;
/// A response of one revision longer than this is fragmented for those who ask. Units: bytes.
const FRAGMENT_BYTES: usize = 2048;

/// What lives only while the member is up.
pub struct Up {
    pub engine: Engine,
    pub ids: RequestIds,
    pub inbox: Vec<Event>,
    pub hub: WatchHub<Call>,
    pub wire: Wire,
    pub view: Arc<View>,
    /// Last revision published.
    pub revision: i64,
    /// Blocks are withheld from the hub, as from a shard that lags.
    pub withheld: bool,
    pub hub_due: bool,
    /// What it knows of its links, by the member at the other end.
    pub links: BTreeMap<u64, Link>,
    /// Members that a snapshot is being sent to.
    pub sending: BTreeSet<u64>,
    /// A snapshot is being received, or received and not yet dealt with.
    pub receiving: bool,
    /// What consensus was like after the last turn; none before the first.
    pub seen: Option<Seen>,
    /// It was removed and stops by then at the latest. Units: nanoseconds.
    pub leaves_ns: Option<u64>,
    /// It led after the last turn.
    pub led: bool,
    /// It calls its disk stalled.
    pub stall: Option<StallSeen>,
}

/// One machine.
pub struct Host {
    pub index: usize,
    pub id: u64,
    pub disk: SimDisk,
    pub clock: Clock,
    pub up: Option<Up>,
    /// Counts starts and ends, so that what was meant for an earlier life is not taken for a later one.
    pub life: u64,
    pub paused: bool,
    /// When the next turn is planned. Units: nanoseconds.
    pub next_turn_ns: u64,
    pub release_due: bool,
    /// A failing call was planned, so the member may stop.
    pub may_fail: bool,
    /// Space is limited.
    pub full: bool,
    /// No operation of the disk ends before. Units: nanoseconds.
    pub stalled_until_ns: u64,
    /// The member's tree may be damaged.
    pub rotten: bool,
    /// It was, once: a note of that may come back with a crash.
    pub was_rotten: bool,
    /// A member belongs on this machine, up or down.
    pub stands: bool,
    /// The member joins a cluster that is there.
    pub joins: bool,
}

/// The id of the member that a machine begins with.
pub fn founder_id(index: usize) -> u64 {
    0x1000_0000 + index as u64 + 1
}

impl Host {
    /// A machine with an empty disk.
    pub fn new(index: usize, clock_ns: u64) -> Host {
        Host {
            index,
            id: 0,
            disk: SimDisk::new(),
            clock: Clock::new(clock_ns),
            up: None,
            life: 0,
            paused: false,
            next_turn_ns: u64::MAX,
            release_due: false,
            may_fail: false,
            full: false,
            stalled_until_ns: 0,
            rotten: false,
            was_rotten: false,
            stands: false,
            joins: false,
        }
    }

    /// A machine of a member that the cluster begins with.
    pub fn founder(index: usize, clock_ns: u64) -> Host {
        Host {
            id: founder_id(index),
            stands: true,
            ..Host::new(index, clock_ns)
        }
    }

    /// The member, which is up.
    pub fn up(&mut self) -> &mut Up {
        self.up.as_mut().expect("the caller knows that the member is up")
    }

    fn options(&self, weather: &Weather, seed: u64) -> MemberOptions {
        let founders = if self.joins { 0 } else { weather.members as usize };
        let initial = (0..founders).map(|index| MemberInfo {
            id: founder_id(index),
            peer_urls: vec![format!("http://m{index}:2380")],
            name: format!("m{index}"),
            ..MemberInfo::default()
        });
        MemberOptions {
            member_id: self.id,
            cluster_id: 0xc105,
            name: format!("m{}-{:x}", self.index, self.id),
            client_urls: vec![format!("http://m{}:2379", self.index)],
            initial_members: initial.collect(),
            force_new_cluster: false,
            tick_ns: weather.tick_ns,
            election_ticks: ELECTION_TICKS,
            election_timeout_ns: weather.tick_ns * u64::from(ELECTION_TICKS),
            pre_vote: weather.pre_vote,
            initial_election_tick_advance: true,
            seed,
            request_timeout_ns: 5 * SEC,
            lease_checkpoint_interval_ns: weather.lease_checkpoint_ns,
            buffered_bytes_max: 4 << 20,
            catch_up_entries: weather.catch_up_entries,
            commit: CommitPolicy {
                interval_ns: weather.commit_interval_ns,
                bytes_max: 256 << 10,
            },
            // Few, so that what else happens meets compactions half done.
            compaction_batch_rows: 16,
            compaction_pause_ns: 10 * MS,
            auto_compaction: AutoCompaction::Off,
            max_learners: 1,
            strict_reconfig_check: true,
            wal_dir: "wal".to_owned(),
            wal_segment_bytes: Some(weather.wal_segment_bytes),
            tree_reserve_bytes: 256 << 20,
            tree_page_bytes: weather.tree_page_bytes,
            tree_growth_bytes: weather.tree_growth_bytes,
            // From what is there, so that no seed tells another story.
            install_slice_rows: weather.piece_bytes >> 8,
        }
    }

    /// Starts the member from what the disk holds.
    pub fn boot(&mut self, weather: &Weather, seed: u64, now_ns: u64) -> Result<(), BootError> {
        let options = self.options(weather, seed);
        let clock_ns = self.clock.read(now_ns);
        let engine = Engine::boot(&mut self.disk, options, Arc::new(CoreMetrics::default()), clock_ns)?;
        self.disk.hold_completions(Some(seed));
        let view = engine.view();
        let revision = view.revision();
        let header = HeaderInfo {
            cluster_id: 0xc105,
            member_id: self.id,
            term: view.term,
        };
        self.up = Some(Up {
            // Request ids carry wall time; here it moves on with every start.
            ids: RequestIds::new(self.id, 1_700_000_000_000 + now_ns / MS + self.life, 0, 1),
            inbox: Vec::new(),
            hub: WatchHub::new(header, revision, FRAGMENT_BYTES, SEC),
            wire: Wire::default(),
            revision,
            view,
            engine,
            withheld: false,
            hub_due: false,
            links: BTreeMap::new(),
            sending: BTreeSet::new(),
            receiving: false,
            seen: None,
            leaves_ns: None,
            led: false,
            stall: None,
        });
        self.life += 1;
        (self.next_turn_ns, self.release_due) = (u64::MAX, false);
        Ok(())
    }

    /// How long it takes the member to elect, at least. Units: nanoseconds.
    pub fn election_ns(weather: &Weather) -> u64 {
        weather.tick_ns * u64::from(ELECTION_TICKS)
    }

    /// The end of the process (`power`: of the machine, too). What was not durable may be lost.
    pub fn crash(&mut self, power: Option<u64>) {
        self.up = None;
        self.life += 1;
        self.paused = false;
        self.may_fail = false;
        self.stalled_until_ns = 0;
        self.disk = match power {
            Some(seed) => self.disk.crash_image(seed),
            None => self.disk.kill(),
        };
    }

    /// Some later call fails.
    pub fn plan_error(&mut self, op: Option<&'static str>, path: &str, after: u64) {
        self.may_fail = true;
        self.disk.inject(Fault {
            op,
            path: path.to_owned(),
            after,
            kind: ErrorKind::Io,
        });
    }

    /// Leaves the disk `room` bytes (none: as much as there may be).
    pub fn limit_space(&mut self, room: Option<u64>) {
        self.full = room.is_some();
        let used = self.disk.used();
        self.disk.set_capacity(room.map(|room| used + room));
    }
}
