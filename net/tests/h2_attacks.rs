//! Each bound against a known attack is reached here, and holds; what honest clients do stays below it.

#[path = "support/wire.rs"]
mod wire;

use net::grpc::ErrorCode::*;
use net::grpc::{Limits, StreamId};
use net::h2::limits::*;
use wire::*;

/// Repeats until the connection is given up; returns how often that took.
fn until_closed(wire: &mut Wire, at_most: u32, mut attack: impl FnMut(&mut Wire, u32)) -> u32 {
    for n in 0..at_most {
        attack(wire, n);
        if wire.server.close_reason().is_some() {
            return n;
        }
    }
    panic!("{at_most} times did not suffice");
}

#[test]
fn rapid_reset_is_stopped() {
    let mut wire = Wire::new();
    let resets = until_closed(&mut wire, 20_000, |wire, n| {
        wire.call(2 * n + 1);
        wire.send(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]);
        wire.events();
    });
    assert_eq!(resets, RESETS_BY_PEER.burst);
    wire.expect_connection_error(EnhanceYourCalm);
}

#[test]
fn resets_at_a_modest_pace_are_no_attack() {
    let mut wire = Wire::new();
    for n in 0..30_000 {
        wire.server
            .on_time(n as u64 * SECOND_NS / RESETS_BY_PEER.per_second as u64);
        wire.call(2 * n + 1);
        wire.send(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8]);
        wire.events();
    }
    assert_eq!(wire.server.close_reason(), None);
}

#[test]
fn a_server_cannot_be_made_to_reset_without_end() {
    let mut wire = Wire::new();
    let resets = until_closed(&mut wire, 20_000, |wire, n| {
        wire.call(2 * n + 1);
        wire.send(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4]);
        wire.events();
        if wire.server.close_reason().is_none() {
            wire.output();
        }
    });
    assert_eq!(resets, STREAM_ERRORS.burst);
    wire.expect_connection_error(EnhanceYourCalm);
}

#[test]
fn a_continuation_flood_is_stopped() {
    let mut wire = Wire::new();
    wire.send(HEADERS, 0, 1, GRPC_POST);
    let frames = until_closed(&mut wire, 100, |wire, _| wire.send(CONTINUATION, 0, 1, &[]));
    assert_eq!(frames, CONTINUATION_FRAMES_MAX);
    wire.expect_connection_error(EnhanceYourCalm);

    let mut wire = Wire::new();
    wire.send(HEADERS, 0, 1, &[0x82; 16_384]);
    until_closed(&mut wire, 4, |wire, _| wire.send(CONTINUATION, 0, 1, &[0x82; 16_384]));
    wire.expect_connection_error(EnhanceYourCalm);
}

#[test]
fn a_header_bomb_is_refused_and_costs_no_memory() {
    let mut wire = Wire::new();
    // One entry of 4000 octets in the table, then 10,000 references to it.
    let mut block = GRPC_POST.to_vec();
    block.extend(b"\x40\x01a\x7f\xa1\x1e");
    block.extend([b'v'; 4000]);
    block.extend([0xbe; 10_000]);
    wire.send(HEADERS, END_HEADERS, 1, &block);
    assert!(wire.server.held_bytes() < 64 * 1024);
    wire.expect_stream_error(EnhanceYourCalm);
    // The tables are still in step.
    let mut block = GRPC_POST.to_vec();
    block.push(0xbe);
    wire.send(HEADERS, END_HEADERS, 3, &block);
    assert_eq!(wire.events(), ["3 request /a/b"]);
}

#[test]
fn a_settings_flood_is_stopped() {
    let mut wire = Wire::new();
    let frames = until_closed(&mut wire, 1000, |wire, _| {
        wire.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 9])
    });
    assert_eq!(frames, SETTINGS_FRAMES.burst - 1, "one was sent at the start");
    wire.expect_connection_error(EnhanceYourCalm);
}

#[test]
fn control_frames_whose_answers_are_not_read_are_stopped() {
    let mut wire = Wire::with(Limits {
        ping_interval_min_ns: 0,
        ..Limits::default()
    });
    wire.call(1);
    let pings = until_closed(&mut wire, 20_000, |wire, n| {
        wire.send(PING, 0, 0, &(n as u64).to_be_bytes())
    });
    assert_eq!(pings, CONTROL_FRAMES_PENDING_MAX);
    wire.expect_connection_error(EnhanceYourCalm);
}

#[test]
fn empty_frames_without_end_are_stopped() {
    for (kind, stream, payload) in [(DATA, 1, &[][..]), (PRIORITY, 1, &[0; 5]), (0x55, 1, &[])] {
        let mut wire = Wire::new();
        wire.call(1);
        let frames = until_closed(&mut wire, 20_000, |wire, _| wire.send(kind, 0, stream, payload));
        assert_eq!(
            frames,
            EMPTY_FRAMES.burst - 1,
            "kind {kind}: one was the answer to SETTINGS"
        );
        wire.expect_connection_error(EnhanceYourCalm);
    }
}

#[test]
fn a_dribbled_window_is_stopped() {
    let mut wire = Wire::new();
    wire.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    wire.call(1);
    wire.server
        .send_message(StreamId(1), 50_000, |out| out.extend_from_slice(&[1; 50_000]));
    let updates = until_closed(&mut wire, 20_000, |wire, _| {
        wire.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
        if wire.server.close_reason().is_none() {
            wire.output();
        }
    });
    assert_eq!(updates, SMALL_INCREMENTS.burst + SMALL_INCREMENTS_EARNED);
    wire.expect_connection_error(EnhanceYourCalm);
}

#[test]
fn a_peer_that_gives_the_window_back_for_each_small_message_is_no_attacker() {
    let mut wire = Wire::new();
    wire.call(1);
    for _ in 0..2 * SMALL_INCREMENTS.burst {
        wire.server
            .send_message(StreamId(1), 50, |out| out.extend_from_slice(&[1; 50]));
        wire.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 55]);
        wire.send(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 55]);
        wire.output();
        assert_eq!(wire.server.close_reason(), None);
    }
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let mut wire = Wire::with(Limits {
        streams_max: 2,
        ..Limits::default()
    });
    wire.call(1);
    wire.call(3);
    wire.call(5);
    wire.expect_stream_error(RefusedStream);
    wire.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    wire.call(7);
    assert_eq!(wire.server.open_streams(), 2);
}

#[test]
fn however_many_streams_are_advertised_their_number_is_bounded() {
    let mut wire = Wire::new();
    for n in 0..=STREAMS_OPEN_MAX {
        wire.call(2 * n + 1);
        wire.events();
    }
    assert_eq!(wire.server.open_streams(), STREAMS_OPEN_MAX as usize);
    wire.expect_stream_error(RefusedStream);
}

#[test]
fn unfinished_messages_of_all_streams_together_are_bounded() {
    let mut wire = Wire::new();
    let mut payload = vec![0, 0, 0x1f, 0, 0];
    payload.resize(16_384, 7);
    let mut cancelled = 0;
    for stream in (1..64).step_by(2) {
        wire.call(stream);
        for _ in 0..120 {
            wire.send(DATA, 0, stream, &payload);
            payload[..5].fill(7);
        }
        payload[..5].copy_from_slice(&[0, 0, 0x1f, 0, 0]);
        cancelled += wire
            .events()
            .iter()
            .filter(|event| event.ends_with("cancelled"))
            .count();
        wire.output();
        assert!(wire.server.held_bytes() <= PARTIAL_BYTES_MAX + (1 << 20));
    }
    assert!(cancelled > 0);
    assert_eq!(wire.server.close_reason(), None);
}

#[test]
fn requests_wait_while_their_client_reads_no_answers() {
    let mut wire = Wire::with(Limits {
        queued_bytes_max: 100_000,
        ..Limits::default()
    });
    wire.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut answered = 0;
    for stream in (1..2000).step_by(2) {
        wire.send(HEADERS, END_HEADERS | END_STREAM, stream, GRPC_POST);
        for event in wire.events() {
            if event.ends_with("half-close") {
                answered += 1;
                wire.server.reply(StreamId(answered * 2 - 1), 10_000, |out| {
                    out.extend_from_slice(&[1; 10_000])
                });
            }
        }
        wire.output();
    }
    assert!(answered <= 11, "{answered} calls were answered");
    assert!(wire.server.queued_total() <= 110_100);
    // Reading lets them go on.
    wire.send(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    wire.output();
    assert!(!wire.events().is_empty());
}

#[test]
fn heads_that_wait_are_bounded() {
    let mut wire = Wire::new();
    let mut block = GRPC_POST.to_vec();
    block.extend(b"\x40\x01a\x7f\xa1\x1e");
    block.extend([b'v'; 4000]);
    wire.send(HEADERS, END_HEADERS, 1, &block);
    // Each head is another list of some 60 KiB, by references to the entry.
    for n in 1..400u32 {
        let mut block = GRPC_POST.to_vec();
        block.extend([0xbe; 14]);
        block.extend(b"\x00\x01n\x04");
        block.extend(format!("{n:04}").bytes());
        wire.send(HEADERS, END_HEADERS, 2 * n + 1, &block);
    }
    assert!(wire.server.held_bytes() < HEADS_WAITING_BYTES_MAX + (1 << 20));
    wire.expect_stream_error(RefusedStream);
    wire.events();
    wire.call(901);
    assert_eq!(wire.events(), ["901 request /a/b"], "once taken, there is room again");
}

#[test]
fn bytes_that_come_one_by_one_cost_one_frame_of_memory() {
    let mut wire = Wire::new();
    wire.output();
    let mut bytes = frame(HEADERS, END_HEADERS, 1, GRPC_POST);
    bytes.extend(frame(DATA, END_STREAM, 1, &message(&[5; 16_000])));
    for byte in bytes {
        wire.server.receive(&[byte]);
        assert!(wire.server.held_bytes() < 64 * 1024);
    }
    assert_eq!(wire.events(), ["1 request /a/b", "1 message of 16000", "1 half-close"]);
}

#[test]
fn pings_faster_than_the_minimum_are_too_many() {
    let mut wire = Wire::new();
    wire.call(1);
    let ping = |wire: &mut Wire, at_ns| {
        wire.server.on_time(at_ns);
        wire.send(PING, 0, 0, &[0; 8]);
    };
    // The first is free, and PING_STRIKES_MAX are borne.
    for n in 0..=PING_STRIKES_MAX as u64 {
        ping(&mut wire, n * SECOND_NS);
    }
    assert_eq!(wire.server.close_reason(), None);
    ping(&mut wire, 3 * SECOND_NS);
    let goaway = wire.output().pop().unwrap();
    assert_eq!(&goaway.payload[4..], [&[0, 0, 0, 11][..], b"too_many_pings"].concat());
}

#[test]
fn pings_at_the_minimum_are_welcome_while_a_call_is_open_and_not_without() {
    for (open, survives) in [(true, true), (false, false)] {
        let mut wire = Wire::new();
        if open {
            wire.call(1);
        }
        for n in 0..10 {
            wire.server.on_time(n * 5 * SECOND_NS);
            wire.send(PING, 0, 0, &[0; 8]);
        }
        assert_eq!(wire.server.close_reason().is_none(), survives, "open: {open}");
    }
    let mut wire = Wire::with(Limits {
        ping_without_stream: true,
        ..Limits::default()
    });
    for n in 0..10 {
        wire.server.on_time(n * 5 * SECOND_NS);
        wire.send(PING, 0, 0, &[0; 8]);
    }
    assert_eq!(wire.server.close_reason(), None);
}
