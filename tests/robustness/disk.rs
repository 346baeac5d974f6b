//! One member of three whose disk fills up.

use std::time::Duration;

use super::{clients::Filled, story::Story};
use crate::{
    rig::{Cluster, Place},
    support::{
        pb::etcdserverpb::{AlarmType, alarm_request::AlarmAction},
        *,
    },
};

const DISK: u64 = 256 << 20;
/// What the member may still take once the disk is filled.
const LEFT: u64 = 24 << 20;
const VALUE_BYTES: usize = 100_000;
/// More than fits into what is left.
const VALUES: u64 = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_whose_disk_is_full_loses_nothing_and_comes_back() {
    let Some(disk) = SmallDisk::ext4(DISK) else {
        return skipped(SmallDisk::NEEDS);
    };
    let seed = seed(5);
    let mut places = vec![Place::default(); 3];
    places[0].data_dir = Some(disk.path().join("data"));
    let mut story = Story::begin(Cluster::start_at(places, &[]).await, seed);
    for round in 0..scaled(1) {
        disk.inflate(LEFT);
        let mut filler = story.crowd.worker(story.rng.bits());
        let filled = filler.fill(&format!("big{round}-"), VALUE_BYTES, VALUES).await;
        story.add(filler);
        story.calm_ms(500, 1500).await;
        let node = &mut story.cluster.nodes[0];
        let died = node
            .process
            .as_mut()
            .expect("it was not stopped")
            .wait(Duration::from_millis(10))
            .is_some();
        println!("of {VALUES} values: {filled:?}; the member died: {died}");
        assert!(matches!(filled, Filled::Refused(_)) || died, "the disk was never full");
        assert!(!died || is_reference(), "a full disk is no reason to die");
        disk.deflate();
        if died {
            node.process = None;
            node.start(true);
        }
        eventually("the alarms to be cleared for good", || disarm(&story.cluster)).await;
    }
    story.end().await;
}

/// Clears what alarms there are; whether there are none, and a write works.
async fn disarm(cluster: &Cluster) -> bool {
    let client = cluster.nodes[1].client();
    let alarms = client.alarm(AlarmAction::Get, 0, AlarmType::None).await.alarms;
    for alarm in &alarms {
        client
            .alarm(AlarmAction::Deactivate, alarm.member_id, AlarmType::Nospace)
            .await;
    }
    pause_ms(200).await;
    alarms.is_empty()
}
