//! Members that are killed, and members that stand still.

use super::story::Story;
use crate::{rig::Cluster, support::*};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_are_killed_at_any_moment() {
    let seed = seed(1);
    let mut story = Story::begin(Cluster::start(3, &[]).await, seed);
    for _ in 0..scaled(8) {
        story.calm_ms(200, 1200).await;
        let mut victims = vec![story.victim().await];
        if story.rng.chance(25) {
            // Without a majority nothing goes on, and nothing is lost.
            victims.push((victims[0] + 1) % 3);
        }
        for victim in &victims {
            story.cluster.nodes[*victim].kill_9();
        }
        story.calm_ms(0, 1000).await;
        for victim in &victims {
            story.cluster.nodes[*victim].start(false);
            story.calm_ms(0, 300).await;
        }
        for victim in victims {
            story.cluster.nodes[victim].wait_ready();
        }
    }
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_stand_still_and_wake_up_in_another_time() {
    let seed = seed(2);
    let mut story = Story::begin(Cluster::start(3, &[]).await, seed);
    for _ in 0..scaled(8) {
        story.calm_ms(200, 800).await;
        let victim = story.victim().await;
        let process = story.cluster.nodes[victim].process.as_ref().expect("it runs");
        process.signal("STOP");
        // Shorter and longer than an election; what waits in its sockets is answered when it wakes up.
        let long = story.rng.chance(60);
        story.calm_ms(20, if long { 2500 } else { 400 }).await;
        let process = story.cluster.nodes[victim].process.as_ref().expect("it runs");
        process.signal("CONT");
    }
    story.end().await;
}
