//! What a put-sized unary call costs in the codec alone: parse, event, answer. Prints nanoseconds per call for the
//! server's and the client's end, for batches of one, ten and a hundred calls per read.
//!
//! `cargo run --release -p etcore-net --example unary_cost`

use std::time::{Duration, Instant};

use net::grpc::{ClientConn, ClientEvent, Event, Limits, ServerConn};

const CALLS: u32 = 1_000_000;
const REQUEST: [u8; 270] = [7; 270];
const ANSWER: [u8; 24] = [9; 24];

fn main() {
    for batch in [1, 10, 100] {
        for deadline in [false, true] {
            let (server, client) = measure(batch, deadline);
            let ns = |time: Duration| time.as_nanos() as f64 / CALLS as f64;
            let kind = if deadline {
                "a new grpc-timeout each"
            } else {
                "repeated headers"
            };
            println!(
                "{batch:>3} calls per read, {kind}: server {:.0} ns, client {:.0} ns",
                ns(server),
                ns(client)
            );
        }
    }
}

/// Time spent in each end for [`CALLS`] calls, so many at a time.
fn measure(batch: u32, deadline: bool) -> (Duration, Duration) {
    let mut server = ServerConn::new(Limits::default(), 0);
    let mut client = ClientConn::new(Limits::default(), "http", "127.0.0.1:2379", 0);
    let (mut server_time, mut client_time) = (Duration::ZERO, Duration::ZERO);
    for round in 0..CALLS / batch {
        let start = Instant::now();
        for n in 0..batch {
            let timeout = format!("{}u", 4_990_000 + (round * batch + n) % 9973);
            let metadata = [("user-agent", "grpc-go/1.71.1"), ("grpc-timeout", &timeout)];
            let used = if deadline { &metadata[..] } else { &metadata[..1] };
            let stream = client
                .start_call("/etcdserverpb.KV/Put", used)
                .expect("calls are taken");
            client.send_last_message(stream, REQUEST.len(), |out| out.extend_from_slice(&REQUEST));
        }
        client_time += start.elapsed();

        let request = client.pending_output();
        let start = Instant::now();
        server.receive(request);
        while let Some(event) = server.next_event() {
            if let Event::Message { stream, message } = event {
                assert_eq!(message.len(), REQUEST.len());
                server.reply(stream, ANSWER.len(), |out| out.extend_from_slice(&ANSWER));
            }
        }
        server_time += start.elapsed();
        client.advance_output(client.pending_output().len());

        let start = Instant::now();
        client.receive(server.pending_output());
        let mut ended = 0;
        while let Some(event) = client.next_event() {
            ended += matches!(event, ClientEvent::End { .. }) as u32;
        }
        client_time += start.elapsed();
        assert_eq!(ended, batch);
        let start = Instant::now();
        server.advance_output(server.pending_output().len());
        server_time += start.elapsed();
    }
    (server_time, client_time)
}
