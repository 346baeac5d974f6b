//! A shard's tasks: answers from the core, jobs, time, and the end.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use net::io::{Intake, Shard};

use super::{
    METRICS_TAG, PEER_TAG, ShardSeed, Shared, corruption, die_of_damage,
    mailbox::Receiver,
    now_ns, options,
    pause::{TURN_BYTES_MAX, Turn, breathe, with_points},
    unix_ms,
};
use crate::{
    api::{Api, ApiSetup, FromCore},
    bell::Bell,
};

/// How often deadlines and progress are looked at.
const TICK: Duration = Duration::from_millis(50);
/// One turn of jobs: a request that comes meanwhile waits at most this long, and the slice that began in it.
const JOB_TURN: Duration = Duration::from_micros(250);
/// How often jobs look whether the requests that they let pass are answered, and how often at most.
const GIVE_WAY: Duration = Duration::from_micros(250);
const GIVE_WAY_MAX: u32 = 4;
/// A stopping shard gives its calls this long.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Makes a shard on the current executor and starts its tasks.
pub fn start(shared: Shared, seed: ShardSeed) -> Intake {
    let ShardSeed {
        index,
        slot,
        pins,
        hashes,
        to_core,
        from_core,
    } = seed;
    let jobs = Bell::default();
    let setup = ApiSetup {
        index: index as u16,
        shards: shared.shard_metrics.len() as u64,
        member_id: shared.identity.member_id,
        cluster_id: shared.identity.cluster_id,
        unix_ms: unix_ms(),
        features: shared.config.features.clone(),
        limits: options::api(&shared.config),
        slot,
        pins,
        hashes: hashes.clone(),
        metrics: shared.shard_metrics[index].clone(),
        all_metrics: shared.shard_metrics.clone(),
        core_metrics: shared.core_metrics.clone(),
        metrics_tag: METRICS_TAG,
        peer_tag: PEER_TAG,
        wants_blocks: shared.wants_blocks[index].clone(),
        outlet: Box::new(move |events| {
            // The core outlives its shards.
            let _ = to_core.send_batch(events);
        }),
        jobs: jobs.clone(),
        on_damage: die_of_damage,
        clock: now_ns,
    };
    let app = Rc::new(RefCell::new(Api::new(setup)));
    if index == 0 {
        corruption::start_checks(&app, &shared, hashes);
    }
    let shard = Shard::new(app.clone(), options::shard(&shared.config));
    let intake = shard.intake();
    glommio::spawn_local(take_answers(app.clone(), shard.clone(), from_core)).detach();
    glommio::spawn_local(run_jobs(app.clone(), shard.clone(), jobs)).detach();
    glommio::spawn_local(keep_time(app, shard, shared)).detach();
    intake
}

/// Waits until every shard has ended.
pub async fn ended(live: &Arc<AtomicUsize>) {
    while live.load(Ordering::SeqCst) > 0 {
        glommio::timer::sleep(TICK).await;
    }
}

async fn take_answers(app: Rc<RefCell<Api>>, shard: Shard<Api>, mut from_core: Receiver<FromCore>) {
    let mut messages = Vec::new();
    while from_core.recv_batch(&mut messages).await > 0 {
        with_points(|| {
            let mut api = app.borrow_mut();
            for message in messages.drain(..) {
                api.on_core(message, &shard);
            }
            api.flush_outbox();
        })
        .await;
        shard.flush_dirty();
    }
}

async fn run_jobs(app: Rc<RefCell<Api>>, shard: Shard<Api>, jobs: Bell) {
    loop {
        jobs.rung().await;
        loop {
            give_way(&app).await;
            let turn = Turn::with(JOB_TURN, TURN_BYTES_MAX);
            let more = with_points(|| app.borrow_mut().run_jobs(&shard, || turn.spent())).await;
            shard.flush_dirty();
            if !more {
                break;
            }
            breathe().await;
        }
    }
}

/// Lets requests that wait for the core go first. A put is several turns of this executor and wake-ups of the disk's
/// threads; beside slices of a large range each of them would wait for a slice, and for the reader of that range.
///
/// Bounds: `GIVE_WAY * GIVE_WAY_MAX`, so that jobs get on beside requests without end.
async fn give_way(app: &RefCell<Api>) {
    for _ in 0..GIVE_WAY_MAX {
        if !app.borrow().awaits_core() {
            return;
        }
        glommio::timer::sleep(GIVE_WAY).await;
    }
}

async fn keep_time(app: Rc<RefCell<Api>>, shard: Shard<Api>, shared: Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        glommio::timer::sleep(TICK).await;
        app.borrow_mut().tick(&shard);
        shard.flush_dirty();
    }
    app.borrow_mut().stop(&shard);
    shard.flush_dirty();
    let give_up_ns = now_ns() + DRAIN_MAX.as_nanos() as u64;
    while app.borrow().is_busy() && now_ns() < give_up_ns {
        glommio::timer::sleep(Duration::from_millis(5)).await;
    }
    shard.shutdown(Duration::from_millis(500)).await;
    shared.live_shards.fetch_sub(1, Ordering::SeqCst);
}
