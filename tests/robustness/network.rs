//! Members in network namespaces of their own, with a router between them that drops what it is told to.
//!
//! The router is the namespace of the test. It lives, with those of the members, in a world that ends with the story: the
//! test binary runs the story once more as a child with its own namespaces, so nothing is left behind whatever happens.

use std::{
    env,
    process::{Command, Stdio},
};

use super::story::Story;
use crate::{
    rig::{Cluster, Place},
    support::{
        scaled, seed, skipped,
        tools::{on_path, run},
    },
};

const INSIDE: &str = "ETCORE_TEST_INSIDE_NAMESPACE";
/// Namespaces of network, mounts and processes; the last ends with its first process.
const WORLD: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
/// What the story needs to be able to do, tried in a world of its own.
const PROBE: &str = "mkdir -p /run/netns && mount -t tmpfs none /run/netns && ip netns add probe && \
                     ip link add one type veth peer name two netns probe && ip rule add iif one to 10.99.9.9 blackhole";
const SET_UP: &str = "mount -t tmpfs none /run/netns && ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward";

/// Runs a story, named by its path in this binary, in a world of its own; true where it is to be told right here.
fn is_inside(name: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let world = || {
        let mut command = Command::new("unshare");
        command.args(WORLD);
        command
    };
    let probe = || world().args(["sh", "-c", PROBE]).stderr(Stdio::null()).status();
    if on_path("unshare").is_none() || !probe().is_ok_and(|status| status.success()) {
        skipped("root, unshare, ip netns and policy routing");
        return false;
    }
    let mut child = world();
    let binary = env::current_exe().expect("a test knows its own binary");
    child
        .arg(binary)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1");
    let said = run(&mut child);
    print!("{}", said.out);
    eprint!("{}", said.err);
    assert_eq!(said.code, Some(0), "the story in its own namespaces ends well");
    assert!(said.out.contains("1 passed"), "{name} is the name of a test");
    false
}

fn shell(command: &str) {
    run(Command::new("sh").args(["-ec", command])).ok();
}

/// The ways between members that are cut.
#[derive(Default)]
struct Network {
    cuts: Vec<(usize, usize)>,
}

impl Network {
    /// Lays out a namespace for each member, a pair of interfaces to each, and routes between all.
    fn lay_out(members: usize) -> (Network, Vec<Place>) {
        shell(SET_UP);
        for member in 0..members {
            shell(&format!(
                "ip netns add m{member}
                 ip link add r{member} type veth peer name e0 netns m{member}
                 ip addr add 10.99.{member}.1/24 dev r{member}
                 ip link set r{member} up
                 ip -n m{member} link set lo up
                 ip -n m{member} addr add {}/24 dev e0
                 ip -n m{member} link set e0 up
                 ip -n m{member} route add default via 10.99.{member}.1",
                host(member)
            ));
        }
        let launcher = |member| {
            ["ip", "netns", "exec", &format!("m{member}")]
                .map(str::to_owned)
                .to_vec()
        };
        let place = |member| Place {
            host: host(member),
            launcher: launcher(member),
            ..Place::default()
        };
        (Network::default(), (0..members).map(place).collect())
    }

    /// From now on nothing that `from` sends arrives at `to`, and nobody is told.
    fn cut(&mut self, from: usize, to: usize) {
        if !self.cuts.contains(&(from, to)) {
            shell(&rule("add", from, to));
            self.cuts.push((from, to));
        }
    }

    fn heal(&mut self) {
        for (from, to) in self.cuts.drain(..) {
            shell(&rule("del", from, to));
        }
    }
}

fn host(member: usize) -> String {
    format!("10.99.{member}.2")
}

fn rule(verb: &str, from: usize, to: usize) -> String {
    format!("ip rule {verb} iif r{from} to {} blackhole", host(to))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_are_cut_off_in_one_direction_or_both() {
    if !is_inside("robustness::network::members_are_cut_off_in_one_direction_or_both") {
        return;
    }
    let seed = seed(3);
    let (mut network, places) = Network::lay_out(3);
    let mut story = Story::begin(Cluster::start_at(places, &[]).await, seed);
    for round in 0..scaled(8) {
        story.calm_ms(300, 1000).await;
        let victim = story.victim().await;
        let (one, two) = ((victim + 1) % 3, (victim + 2) % 3);
        let cuts = match round % 5 {
            // Alone.
            0 => [(victim, one), (one, victim), (victim, two), (two, victim)].to_vec(),
            // It is heard by nobody, or hears nobody.
            1 => vec![(victim, one), (victim, two)],
            2 => vec![(one, victim), (two, victim)],
            // Two of them see each other only through the third.
            3 => vec![(victim, one), (one, victim)],
            // One way between two.
            _ => vec![(one, victim)],
        };
        cuts.into_iter().for_each(|(from, to)| network.cut(from, to));
        story.calm_ms(500, 2500).await;
        network.heal();
    }
    story.end().await;
}
