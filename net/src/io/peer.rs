//! The peer port: tells peer links from HTTP requests by their first bytes.
//!
//! Peer links stay on the executor that opened the door; everything else goes on to the shard with the fewest
//! connections, with nothing of it read.
//!
//! Bounds: [`GUESTS_MAX`] connections that have not said who they are; when one more comes, the one that has waited
//! longest is closed, so that a member gets in however many others only wait. One that says nothing at all is closed
//! after [`SILENCE_MAX`]. The shards take plain connections up to their own bound.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::Shutdown,
    rc::Rc,
    time::{Duration, Instant},
};

use glommio::net::TcpStream;

use super::{Intake, Stream, listen::Accepted, within};
use crate::peer::MAGIC;

/// Connections that have not said who they are.
const GUESTS_MAX: usize = 64;
/// How long a connection may stay silent.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Between two looks at a connection that has said only part of the magic.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Between two lines that say that connections were turned away.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Opens a door on the current executor: peer links are given to `on_peer`, other connections to `shards`, which have up to
/// `connections_max` together.
///
/// `on_peer` gets a [`Guest`] with each link, to be dropped once the link has said who it is.
pub fn peer_door(shards: Vec<Intake>, connections_max: usize, on_peer: impl Fn(Stream, Guest) + 'static) -> Intake {
    assert!(!shards.is_empty(), "plain connections need a shard");
    let intake = Intake::new();
    let (door, hall) = (intake.clone(), Rc::new(Hall::default()));
    let inside = Rc::new((shards, connections_max, on_peer));
    let take_in = async move {
        while let Some(batch) = intake.take().await {
            for accepted in batch {
                intake.leave();
                let Ok(copy) = accepted.socket.try_clone() else {
                    continue;
                };
                let tcp = TcpStream::from(socket2::Socket::from(copy));
                let guest = Hall::enter(&hall, accepted);
                let inside = inside.clone();
                glommio::spawn_local(async move { sort(tcp, guest, &inside.0, inside.1, &inside.2).await }).detach();
            }
        }
    };
    glommio::spawn_local(take_in).detach();
    door
}

/// Where connections wait until it is known who they are.
#[derive(Default)]
struct Hall {
    /// By the order in which they came.
    guests: RefCell<BTreeMap<u64, Accepted>>,
    next: Cell<u64>,
    turned_away: Cell<u64>,
    complained: Cell<Option<Instant>>,
}

/// A connection that has not said who it is. Dropping it says that this is known now, or no longer of interest.
pub struct Guest {
    hall: Rc<Hall>,
    number: u64,
}

impl Hall {
    fn enter(hall: &Rc<Hall>, accepted: Accepted) -> Guest {
        let number = hall.next.replace(hall.next.get() + 1);
        let mut guests = hall.guests.borrow_mut();
        while guests.len() >= GUESTS_MAX {
            let (_, oldest) = guests.pop_first().expect("it is not empty");
            // Whoever waits for it to say something finds that it has ended.
            let _ = oldest.socket.shutdown(Shutdown::Both);
            hall.turned_away.set(hall.turned_away.get() + 1);
        }
        guests.insert(number, accepted);
        drop(guests);
        hall.complain();
        Guest {
            hall: hall.clone(),
            number,
        }
    }

    fn complain(&self) {
        let since = self.complained.get();
        if self.turned_away.get() > 0 && since.is_none_or(|since| since.elapsed() >= COMPLAIN_EVERY) {
            self.complained.set(Some(Instant::now()));
            tracing::warn!(
                count = self.turned_away.take(),
                "connections to the peer port were closed: too many came that did not say who they are"
            );
        }
    }
}

impl Guest {
    /// Takes the connection out of the hall; none when it was turned away meanwhile.
    fn leave(self) -> Option<Accepted> {
        self.hall.guests.borrow_mut().remove(&self.number)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hall.guests.borrow_mut().remove(&self.number);
    }
}

async fn sort(
    tcp: TcpStream,
    guest: Guest,
    shards: &[Intake],
    connections_max: usize,
    on_peer: &impl Fn(Stream, Guest),
) {
    let looked = within(SILENCE_MAX, is_peer(&tcp)).await.flatten();
    match looked {
        Some(true) => on_peer(Stream::from_tcp(tcp), guest),
        Some(false) => {
            drop(tcp);
            let full = shards.iter().map(Intake::load).sum::<usize>() >= connections_max;
            if let Some(accepted) = guest.leave().filter(|_| !full) {
                let least = shards.iter().min_by_key(|shard| shard.load());
                least.expect("there is a shard").hand_over(accepted);
            }
        }
        // It has ended, or is to.
        None => {}
    }
}

/// Looks at the first bytes and leaves them; `None` when the connection ends before.
async fn is_peer(tcp: &TcpStream) -> Option<bool> {
    let mut first = [0; MAGIC.len()];
    loop {
        let seen = tcp.peek(&mut first).await.ok().filter(|seen| *seen > 0)?;
        if first[..seen] != MAGIC[..seen] {
            return Some(false);
        }
        if seen == MAGIC.len() {
            return Some(true);
        }
        glommio::timer::sleep(LOOK_AGAIN).await;
    }
}
