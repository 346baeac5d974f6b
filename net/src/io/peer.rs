//! The peer port: tells peer links from HTTP requests by their first bytes.
//!
//! Peer links stay on the executor that opened the door; everything else goes on to the shard with the fewest
//! connections, with nothing of it read.

use std::{rc::Rc, time::Duration};

use glommio::net::TcpStream;

use super::{Intake, Stream, listen::Accepted};
use crate::peer::MAGIC;

/// How long a connection may stay silent before it is taken for a plain one.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Between two looks at a connection that has said only part of the magic.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Opens a door on the current executor: peer links are given to `on_peer`, other connections to `shards`.
pub fn peer_door(shards: Vec<Intake>, on_peer: impl Fn(Stream) + 'static) -> Intake {
    assert!(!shards.is_empty(), "plain connections need a shard");
    let intake = Intake::new();
    let (door, on_peer, shards) = (intake.clone(), Rc::new(on_peer), Rc::new(shards));
    let take_in = async move {
        while let Some(batch) = intake.take().await {
            for accepted in batch {
                intake.leave();
                glommio::spawn_local(sort(accepted, shards.clone(), on_peer.clone())).detach();
            }
        }
    };
    glommio::spawn_local(take_in).detach();
    door
}

async fn sort(accepted: Accepted, shards: Rc<Vec<Intake>>, on_peer: Rc<impl Fn(Stream)>) {
    let Ok(copy) = accepted.socket.try_clone() else { return };
    let tcp = TcpStream::from(socket2::Socket::from(copy));
    let looked = glommio::timer::timeout(SILENCE_MAX, async {
        Ok::<_, glommio::GlommioError<()>>(is_peer(&tcp).await)
    });
    match looked.await {
        Ok(Some(true)) => on_peer(Stream::from_tcp(tcp)),
        Ok(None) => {}
        Ok(Some(false)) | Err(_) => {
            drop(tcp);
            let least = shards.iter().min_by_key(|shard| shard.load());
            least.expect("there is a shard").hand_over(accepted);
        }
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
