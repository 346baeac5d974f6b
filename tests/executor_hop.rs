//! The hop between two executors never sleeps through a message: millions of round trips, with the process stopped and
//! continued at random, under a watchdog.
//!
//! The process that is stopped is this test binary run again with [`ROLE`] set, so the test runner itself goes on.

use etcore::runtime::mailbox::{Receiver, Sender, mailbox};
use glommio::{LocalExecutorBuilder, Placement};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Environment variable that makes this binary play; its value is `two` or `one` executors.
const ROLE: &str = "ETCORE_HOP_ROLE";

/// No progress for so long while the process runs is a lost wake-up.
const WATCHDOG: Duration = Duration::from_secs(5);

/// Round trips in flight at once; 1 parks both executors all the time, which is where wake-ups get lost.
const WINDOWS: [u64; 3] = [1, 7, 256];

#[test]
fn two_executors_never_lose_a_wake_up_while_the_process_is_stopped_and_continued() {
    play_with_pauses("two", scaled(Duration::from_secs(12)));
}

#[test]
fn one_executor_passes_messages_to_itself_while_the_process_is_stopped_and_continued() {
    play_with_pauses("one", scaled(Duration::from_secs(4)));
}

fn scaled(duration: Duration) -> Duration {
    let scale = std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|scale| scale.parse().ok())
        .unwrap_or(1.0);
    duration.mul_f64(scale)
}

/// Runs the player for that long, pausing it at random, and expects progress at every report.
fn play_with_pauses(role: &str, duration: Duration) {
    let seed = 0x5eed ^ u64::from(std::process::id());
    println!("role {role}, seed {seed:#x}");
    let mut child = spawn_player(role);
    let reports = BufReader::new(child.stdout.take().expect("it is piped"));
    let pid = child.id();
    let mut player = EndWithTest(child);
    let end = Instant::now() + duration;
    let pauser = thread::spawn(move || pause_at_random(pid, seed, end));
    let mut round_trips = 0;
    // The player reports each second and ends by itself, with an error text, when its watchdog barks.
    for line in reports.lines() {
        let line = line.expect("the player writes text");
        let Some(count) = line.strip_prefix("round trips ") else {
            continue;
        };
        round_trips = count.parse().expect("a count");
        if Instant::now() >= end {
            break;
        }
    }
    let pauses = pauser.join().expect("the pausing thread panicked");
    let died = player.0.try_wait().expect("the player can be waited for");
    assert!(
        died.is_none(),
        "seed {seed:#x}: the player ended after {round_trips} round trips, {pauses} pauses: {died:?}"
    );
    println!("role {role}: {round_trips} round trips, {pauses} pauses");
    assert!(
        round_trips > 10_000,
        "seed {seed:#x}: only {round_trips} round trips in {duration:?}"
    );
    assert!(pauses > 3, "only {pauses} pauses");
}

struct EndWithTest(Child);

impl Drop for EndWithTest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn_player(role: &str) -> Child {
    Command::new(std::env::current_exe().expect("this binary has a path"))
        .args(["--exact", "player", "--nocapture", "--ignored"])
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary can run again")
}

fn pause_at_random(pid: u32, seed: u64, end: Instant) -> u32 {
    let mut random = seed;
    let mut below = |n: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let mut pauses = 0;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(below(120)));
        signal(pid, "STOP");
        thread::sleep(Duration::from_micros(below(40_000)));
        signal(pid, "CONT");
        pauses += 1;
    }
    pauses
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "cannot send {name} to the player"
    );
}

/// Not a test: what the child process does.
#[test]
#[ignore = "run by the other tests as a child process"]
fn player() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let progress = Arc::new(AtomicU64::new(0));
    let (watched, reported) = (Arc::clone(&progress), Arc::clone(&progress));
    thread::spawn(move || watchdog(&watched));
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            println!("round trips {}", reported.load(Ordering::Relaxed));
        }
    });
    let (to_echo, echo_inbox) = mailbox(1 << 16);
    let (to_asker, asker_inbox) = mailbox(1 << 16);
    let builder = || LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10);
    if role == "two" {
        let echo = builder()
            .spawn(move || echo(echo_inbox, to_asker))
            .expect("an executor");
        let asker = builder()
            .spawn(move || ask(to_echo, asker_inbox, progress))
            .expect("an executor");
        asker.join().expect("the asking executor panicked");
        echo.join().expect("the echoing executor panicked");
    } else {
        builder().make().expect("an executor").run(async move {
            glommio::spawn_local(echo(echo_inbox, to_asker)).detach();
            ask(to_echo, asker_inbox, progress).await;
        });
    }
}

async fn echo(mut inbox: Receiver<u64>, back: Sender<u64>) {
    let mut batch = Vec::new();
    while inbox.recv_batch(&mut batch).await > 0 {
        back.send_batch(&mut batch).expect("the asker never ends");
    }
}

async fn ask(to: Sender<u64>, mut inbox: Receiver<u64>, progress: Arc<AtomicU64>) {
    let (mut next, mut answered) = (0, 0);
    let (mut questions, mut answers) = (Vec::new(), Vec::new());
    loop {
        // Every so often another number in flight, and a rest that lets both sides park.
        let window = WINDOWS[(answered as usize / 2_000) % WINDOWS.len()];
        questions.extend(next..(answered + window).max(next));
        next += questions.len() as u64;
        to.send_batch(&mut questions).expect("the echo never ends");
        inbox.recv_batch(&mut answers).await;
        for answer in answers.drain(..) {
            assert_eq!(
                answer, answered,
                "answers come in the order of the questions, each once"
            );
            answered += 1;
        }
        if progress.swap(answered, Ordering::Relaxed) / 1000 != answered / 1000 {
            glommio::timer::sleep(Duration::from_micros(1)).await;
        }
    }
}

/// Ends the process when the count stands still while the process runs; time in which it was stopped does not count.
fn watchdog(progress: &AtomicU64) {
    const STEP: Duration = Duration::from_millis(20);
    let (mut last, mut still) = (0, Duration::ZERO);
    loop {
        thread::sleep(STEP);
        let now = progress.load(Ordering::Relaxed);
        still = if now == last { still + STEP } else { Duration::ZERO };
        last = now;
        if still >= WATCHDOG {
            eprintln!("watchdog: no round trip for {WATCHDOG:?} after {now}");
            std::process::exit(3);
        }
    }
}
