//! A proxy before a member's peer port that delays, loses, repeats, reorders and damages frames, and cuts connections.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use net::peer::{Decoder, FRAME_BYTES_MAX, Frame};
use raft::MessageType;

use super::story::Story;
use crate::{
    rig::{Cluster, Place},
    support::{Rng, free_port, scaled, seed},
};

/// What stands before the payload of a frame; the bytes from 4 to 8 are its length. Source: docs/FORMAT.md.
const HEADER_BYTES: usize = 16;

/// What happens to frames. Units: per thousand of them, but for the delay.
#[derive(Clone, Copy, Default, Debug)]
struct Mischief {
    lose: u64,
    repeat: u64,
    swap: u64,
    damage: u64,
    cut: u64,
    /// Units: per thousand, and milliseconds at most.
    delay: (u64, u64),
}

/// One proxy; its threads end with the connections and the listener that it is dropped with.
struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    mischief: std::sync::Mutex<Mischief>,
    over: AtomicBool,
    /// Of the next connection.
    seed: AtomicU64,
    done: AtomicU64,
}

impl Proxy {
    /// Listens before `target`.
    fn start(target: u16, seed: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            mischief: Default::default(),
            over: AtomicBool::new(false),
            seed: AtomicU64::new(seed),
            done: AtomicU64::new(0),
        });
        let ours = shared.clone();
        thread::spawn(move || {
            for dialled in listener.incoming().map_while(Result::ok) {
                if ours.over.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(member) = TcpStream::connect(("127.0.0.1", target)) {
                    join(dialled, member, &ours);
                }
            }
        });
        Proxy { port, shared }
    }

    fn set(&self, mischief: Mischief) {
        *self.shared.mischief.lock().expect("nobody panics with it") = mischief;
    }

    /// How many frames it did something to.
    fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Passes on what each side of a connection says: frames of the dialler, and bytes of the other one.
fn join(dialled: TcpStream, member: TcpStream, shared: &Arc<Shared>) {
    let _ = (dialled.set_nodelay(true), member.set_nodelay(true));
    let (Ok(mut from), Ok(mut to)) = (member.try_clone(), dialled.try_clone()) else {
        return;
    };
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
    let shared = shared.clone();
    let rng = Rng::new(shared.seed.fetch_add(1, Ordering::Relaxed));
    thread::spawn(move || {
        let _ = pass_frames(&dialled, &member, &shared, rng);
        let _ = (dialled.shutdown(Shutdown::Both), member.shutdown(Shutdown::Both));
    });
}

fn pass_frames(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared, mut rng: Rng) -> io::Result<()> {
    // The handshake goes through: without it there would be no connection to trouble.
    to.write_all(&read_frame(&mut from)?)?;
    let mut held: Option<Vec<u8>> = None;
    loop {
        let mut frame = read_frame(&mut from)?;
        let mischief = *shared.mischief.lock().expect("nobody panics with it");
        let mut happens = |per_mille: u64| {
            let happens = rng.below(1000) < per_mille;
            shared.done.fetch_add(u64::from(happens), Ordering::Relaxed);
            happens
        };
        let (lose, repeat, swap) = (happens(mischief.lose), happens(mischief.repeat), happens(mischief.swap));
        let (damage, cut, delay) = (
            happens(mischief.damage),
            happens(mischief.cut),
            happens(mischief.delay.0),
        );
        if delay {
            thread::sleep(Duration::from_millis(rng.below(mischief.delay.1)));
        }
        if damage {
            let at = rng.below(frame.len() as u64) as usize;
            frame[at] ^= 1 << rng.below(8);
        }
        if cut {
            // In the middle of it.
            return to.write_all(&frame[..rng.below(frame.len() as u64) as usize]);
        }
        if swap && held.is_none() {
            held = Some(frame);
            continue;
        }
        if !lose {
            to.write_all(&frame)?;
        }
        if repeat && !is_proposal(&frame) {
            to.write_all(&frame)?;
        }
        if let Some(held) = held.take() {
            to.write_all(&held)?;
        }
    }
}

/// A write on its way to the leader: that TCP delivers it once at most is what keeps it from happening twice.
fn is_proposal(frame: &[u8]) -> bool {
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    decoder.feed(frame);
    matches!(decoder.take_frame(), Ok(Some(Frame::Message(message))) if message.msg_type == MessageType::MsgProp)
}

fn read_frame(from: &mut &TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER_BYTES];
    from.read_exact(&mut frame)?;
    let length = u32::from_le_bytes(frame[4..8].try_into().expect("four bytes"));
    frame.resize(HEADER_BYTES + length as usize, 0);
    from.read_exact(&mut frame[HEADER_BYTES..])?;
    Ok(frame)
}

/// A kind of bad network of chance.
fn draw(rng: &mut Rng) -> Mischief {
    let calm = Mischief::default();
    match rng.below(5) {
        0 => Mischief {
            delay: (300, 10),
            ..calm
        },
        1 => Mischief {
            lose: 80,
            repeat: 100,
            swap: 100,
            ..calm
        },
        2 => Mischief {
            damage: 4,
            cut: 4,
            ..calm
        },
        // Longer than an election.
        3 => Mischief {
            delay: (10, 1500),
            ..calm
        },
        _ => Mischief {
            lose: 20,
            repeat: 20,
            swap: 20,
            damage: 1,
            cut: 1,
            delay: (50, 10),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn links_lose_repeat_reorder_damage_and_cut() {
    if crate::support::is_reference() {
        return crate::support::skipped("members whose frames the proxy knows");
    }
    let seed = seed(4);
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let proxies: Vec<Proxy> = ports
        .iter()
        .map(|port| Proxy::start(*port, seed.wrapping_mul(1000) + u64::from(*port)))
        .collect();
    let place = |(port, proxy): (&u16, &Proxy)| Place {
        peer_port: Some(*port),
        dialled_at: Some(proxy.port),
        ..Place::default()
    };
    let places = ports.iter().zip(&proxies).map(place).collect();
    let mut story = Story::begin(Cluster::start_at(places, &[]).await, seed);
    for _ in 0..scaled(8) {
        for proxy in &proxies {
            let mischief = draw(&mut story.rng);
            proxy.set(mischief);
        }
        story.calm_ms(1000, 2500).await;
    }
    proxies.iter().for_each(|proxy| proxy.set(Mischief::default()));
    let done: u64 = proxies.iter().map(Proxy::done).sum();
    println!("{done} frames were lost, repeated, reordered, delayed, damaged or cut");
    assert!(done > 100, "the network was too good to test anything");
    story.end().await;
}
