//! What RFC 9113 forbids, and which error each offence gets; and ordinary life beside it.

#[path = "support/wire.rs"]
mod wire;

use net::grpc::ErrorCode::*;
use net::grpc::{CloseReason, ErrorCode, Limits, ServerConn, StreamId};
use wire::*;

/// Sends frames on a connection where stream 1 is open and stream 3 half-closed; expects the end of the connection.
#[track_caller]
fn fatal(code: ErrorCode, frames: &[(u8, u8, u32, &[u8])]) {
    let mut wire = open_wire();
    for &(kind, flags, stream, payload) in frames {
        wire.send(kind, flags, stream, payload);
    }
    wire.expect_connection_error(code);
    assert_eq!(
        wire.events().iter().filter(|e| e.ends_with("cancelled")).count(),
        2,
        "open calls are cancelled"
    );
}

#[track_caller]
fn stream_error(code: ErrorCode, frames: &[(u8, u8, u32, &[u8])]) {
    let mut wire = open_wire();
    for &(kind, flags, stream, payload) in frames {
        wire.send(kind, flags, stream, payload);
    }
    wire.expect_stream_error(code);
}

fn open_wire() -> Wire {
    let mut wire = Wire::new();
    wire.call(1);
    wire.send(HEADERS, END_HEADERS | END_STREAM, 3, GRPC_POST);
    wire.output();
    wire
}

#[test]
fn a_client_must_begin_with_the_preface_and_settings() {
    let mut server = ServerConn::new(Limits::default(), 0);
    server.receive(b"GET / HTTP/1.1\r\n");
    assert!(matches!(
        server.close_reason(),
        Some(CloseReason::Violation {
            code: ProtocolError,
            ..
        })
    ));

    let mut server = ServerConn::new(Limits::default(), 0);
    server.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(server.close_reason(), None);
    server.receive(&frame(PING, 0, 0, &[0; 8]));
    assert!(matches!(
        server.close_reason(),
        Some(CloseReason::Violation {
            code: ProtocolError,
            ..
        })
    ));
}

#[test]
fn a_server_begins_with_settings_and_its_window() {
    let server = ServerConn::new(
        Limits {
            streams_max: 100,
            ..Limits::default()
        },
        0,
    );
    let mut golden = frame(
        SETTINGS,
        0,
        0,
        &[0, 4, 0, 16, 0, 0, 0, 6, 0, 1, 0, 0, 0, 3, 0, 0, 0, 100],
    );
    golden.extend(frame(WINDOW_UPDATE, 0, 0, &((4 << 20) - 65_535u32).to_be_bytes()));
    assert_eq!(server.pending_output(), golden);
    let silent = ServerConn::new(Limits::default(), 0);
    assert_eq!(silent.pending_output()[2], 12, "u32::MAX streams are not announced");
}

#[test]
fn frames_of_wrong_size_end_the_connection() {
    // Section 4.2: larger than SETTINGS_MAX_FRAME_SIZE; told by the head alone.
    let mut wire = open_wire();
    wire.server.receive(&[0, 0x40, 1, 0, 0, 0, 0, 0, 1]);
    wire.expect_connection_error(FrameSizeError);
    fatal(FrameSizeError, &[(RST_STREAM, 0, 1, &[0; 3])]); // 6.4
    fatal(FrameSizeError, &[(SETTINGS, 0, 0, &[0; 5])]); // 6.5
    fatal(FrameSizeError, &[(SETTINGS, ACK, 0, &[0; 6])]); // 6.5
    fatal(FrameSizeError, &[(PING, 0, 0, &[0; 7])]); // 6.7
    fatal(FrameSizeError, &[(GOAWAY, 0, 0, &[0; 7])]); // 6.8
    fatal(FrameSizeError, &[(WINDOW_UPDATE, 0, 1, &[0; 5])]); // 6.9
    fatal(FrameSizeError, &[(HEADERS, END_HEADERS | HAS_PRIORITY, 5, &[0; 4])]); // 6.2
    fatal(FrameSizeError, &[(DATA, PADDED, 1, &[])]); // 6.1
    stream_error(FrameSizeError, &[(PRIORITY, 0, 1, &[0; 4])]); // 6.3
}

#[test]
fn frames_on_the_wrong_stream_end_the_connection() {
    fatal(ProtocolError, &[(DATA, 0, 0, b"x")]); // 6.1
    fatal(ProtocolError, &[(HEADERS, END_HEADERS, 0, GRPC_POST)]); // 6.2
    fatal(ProtocolError, &[(PRIORITY, 0, 0, &[0; 5])]); // 6.3
    fatal(ProtocolError, &[(RST_STREAM, 0, 0, &[0; 4])]); // 6.4
    fatal(ProtocolError, &[(SETTINGS, 0, 1, &[])]); // 6.5
    fatal(ProtocolError, &[(PING, 0, 1, &[0; 8])]); // 6.7
    fatal(ProtocolError, &[(GOAWAY, 0, 1, &[0; 8])]); // 6.8
    fatal(ProtocolError, &[(HEADERS, END_HEADERS, 2, GRPC_POST)]); // 5.1.1: even
    fatal(ProtocolError, &[(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])]); // 8.4
}

#[test]
fn frames_on_idle_streams_end_the_connection() {
    // Section 5.1, idle.
    fatal(ProtocolError, &[(DATA, 0, 5, b"x")]);
    fatal(ProtocolError, &[(RST_STREAM, 0, 5, &[0; 4])]);
    fatal(ProtocolError, &[(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1])]);
    fatal(ProtocolError, &[(WINDOW_UPDATE, 0, 4, &[0, 0, 0, 1])]);
}

#[test]
fn a_half_closed_stream_takes_no_more_data() {
    stream_error(StreamClosed, &[(DATA, 0, 3, b"x")]); // 5.1, half-closed (remote)
    stream_error(StreamClosed, &[(HEADERS, END_HEADERS | END_STREAM, 3, GRPC_POST)]);
}

#[test]
fn a_closed_stream_is_not_opened_again() {
    // Section 5.1, closed.
    let mut wire = open_wire();
    wire.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    wire.send(DATA, 0, 1, b"late");
    wire.expect_stream_error(StreamClosed);
    wire.send(HEADERS, END_HEADERS, 1, GRPC_POST);
    wire.expect_connection_error(StreamClosed);
    // A number that was skipped is closed too.
    let mut wire = open_wire();
    wire.call(9);
    wire.call(7);
    wire.expect_connection_error(StreamClosed);
}

#[test]
fn what_was_on_its_way_when_we_closed_a_stream_is_no_offence() {
    let mut wire = open_wire();
    wire.server.reset(StreamId(1), InternalError);
    wire.expect_stream_error(InternalError);
    wire.send(DATA, 0, 1, b"late");
    wire.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40\x01a\x01b");
    wire.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    assert_eq!(wire.output(), []);
    // The late block was decoded all the same: its entry is in the table.
    let mut block = GRPC_POST.to_vec();
    block.push(0xbe);
    wire.send(HEADERS, END_HEADERS, 5, &block);
    assert_eq!(wire.events().last().unwrap(), "5 request /a/b");
}

#[test]
fn header_blocks_may_not_be_interrupted_or_orphaned() {
    fatal(ProtocolError, &[(HEADERS, 0, 5, GRPC_POST), (PING, 0, 0, &[0; 8])]); // 6.2
    fatal(
        ProtocolError,
        &[(HEADERS, 0, 5, GRPC_POST), (CONTINUATION, END_HEADERS, 7, &[])],
    ); // 6.10
    fatal(ProtocolError, &[(CONTINUATION, END_HEADERS, 5, GRPC_POST)]); // 6.10
    fatal(CompressionError, &[(HEADERS, END_HEADERS, 5, &[0xff, 0xff])]); // 4.3
}

#[test]
fn padding_longer_than_its_frame_ends_the_connection() {
    fatal(ProtocolError, &[(DATA, PADDED, 1, &[2, 0])]); // 6.1
    fatal(ProtocolError, &[(HEADERS, PADDED | END_HEADERS, 5, &[9, 0x83])]); // 6.2
}

#[test]
fn settings_out_of_range_end_the_connection() {
    // Section 6.5.2.
    fatal(ProtocolError, &[(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])]);
    fatal(FlowControlError, &[(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])]);
    fatal(ProtocolError, &[(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff])]);
    fatal(ProtocolError, &[(SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0])]);
    let mut wire = open_wire();
    wire.send(SETTINGS, 0, 0, &[0xab, 0xcd, 1, 2, 3, 4]);
    assert_eq!(
        wire.output(),
        [Frame {
            kind: SETTINGS,
            flags: ACK,
            stream: 0,
            payload: vec![]
        }],
        "unknown: ignored"
    );
}

#[test]
fn windows_may_neither_stand_still_nor_overflow() {
    // Section 6.9 and 6.9.1.
    fatal(ProtocolError, &[(WINDOW_UPDATE, 0, 0, &[0; 4])]);
    stream_error(ProtocolError, &[(WINDOW_UPDATE, 0, 1, &[0; 4])]);
    fatal(FlowControlError, &[(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]);
    stream_error(FlowControlError, &[(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])]);
    // 6.9.2: by way of the initial window.
    let most: &[u8] = &[0x7f, 0xff, 0, 0];
    fatal(
        FlowControlError,
        &[
            (WINDOW_UPDATE, 0, 1, most),
            (SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
        ],
    );
}

#[test]
fn malformed_requests_are_reset() {
    // Section 8.1.1.
    stream_error(ProtocolError, &[(HEADERS, END_HEADERS, 5, b"\x83\x86")]);
    stream_error(
        ProtocolError,
        &[(HEADERS, END_HEADERS, 5, b"\x83\x86\x84\x00\x01A\x01b")],
    );
    stream_error(
        ProtocolError,
        &[(HEADERS, END_HEADERS, 5, b"\x83\x86\x84\x00\x0aconnection\x05close")],
    );
    // Trailers that do not end the stream, or with pseudo-headers.
    stream_error(ProtocolError, &[(HEADERS, END_HEADERS, 1, b"\x00\x01a\x01b")]);
    stream_error(ProtocolError, &[(HEADERS, END_HEADERS | END_STREAM, 1, b"\x84")]);
    // A body that is not as long as its content-length (0x0f 0x0d: literal, name 28).
    let mut block = GRPC_POST.to_vec();
    block.extend(b"\x0f\x0d\x015");
    stream_error(ProtocolError, &[(HEADERS, END_HEADERS | END_STREAM, 5, &block)]);
    stream_error(
        ProtocolError,
        &[(HEADERS, END_HEADERS, 5, &block), (DATA, END_STREAM, 5, b"1234")],
    );
    stream_error(
        ProtocolError,
        &[(HEADERS, END_HEADERS, 5, &block), (DATA, 0, 5, b"123456")],
    );
}

#[test]
fn unknown_frames_and_priorities_are_ignored() {
    let mut wire = open_wire();
    wire.send(0x77, 0xff, 1, b"whatever");
    wire.send(PRIORITY, 0, 99, &[0, 0, 0, 99, 1]);
    wire.send(HEADERS, END_HEADERS | HAS_PRIORITY | PADDED, 5, &{
        let mut payload = vec![3, 0x80, 0, 0, 1, 16];
        payload.extend(GRPC_POST);
        payload.extend([0; 3]);
        payload
    });
    assert_eq!(wire.output(), []);
    assert_eq!(wire.events().last().unwrap(), "5 request /a/b");
}

#[test]
fn a_header_block_in_pieces_is_one_block() {
    let mut wire = open_wire();
    wire.send(HEADERS, END_STREAM, 5, &GRPC_POST[..3]);
    wire.send(CONTINUATION, 0, 5, &GRPC_POST[3..10]);
    wire.send(CONTINUATION, END_HEADERS, 5, &GRPC_POST[10..]);
    assert_eq!(wire.events()[3..], ["5 request /a/b", "5 half-close"]);
}

#[test]
fn pings_and_settings_are_answered_in_order() {
    let mut wire = open_wire();
    wire.send(PING, 0, 0, b"abcdefgh");
    wire.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
    let answers = wire.output();
    assert_eq!(
        answers[0],
        Frame {
            kind: PING,
            flags: ACK,
            stream: 0,
            payload: b"abcdefgh".to_vec()
        }
    );
    assert_eq!(
        answers[1],
        Frame {
            kind: SETTINGS,
            flags: ACK,
            stream: 0,
            payload: vec![]
        }
    );
}

#[test]
fn an_answer_waits_for_the_windows() {
    let mut wire = Wire::new();
    wire.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]);
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, GRPC_POST);
    wire.output();
    wire.server
        .reply(StreamId(1), 20, |out| out.extend_from_slice(b"01234567890123456789"));
    let frames = wire.output();
    assert_eq!((frames.len(), frames[1].payload.len(), frames[1].flags), (2, 10, 0));
    assert_eq!(wire.server.queued(StreamId(1)), 15);
    wire.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 14]);
    assert_eq!(wire.output()[0].payload.len(), 14);
    // A smaller initial window makes the window of the stream negative (section 6.9.2).
    wire.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 5]);
    wire.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 5]);
    assert_eq!(wire.output().len(), 1, "only the answer to SETTINGS");
    wire.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    let frames = wire.output();
    assert_eq!(
        (frames[0].payload.len(), frames[1].kind, frames[1].flags),
        (1, HEADERS, END_HEADERS | END_STREAM)
    );
    assert_eq!(wire.server.open_streams(), 0);
}

#[test]
fn streams_share_the_window_of_the_connection_in_turn() {
    let mut wire = Wire::new();
    wire.send(SETTINGS, 0, 0, &[0, 4, 0x7f, 0, 0, 0]);
    for stream in [1, 3] {
        wire.send(HEADERS, END_HEADERS | END_STREAM, stream, GRPC_POST);
        wire.server
            .reply(StreamId(stream), 60_000, |out| out.extend_from_slice(&[7; 60_000]));
    }
    let sent: usize = wire
        .output()
        .iter()
        .filter(|f| f.kind == DATA)
        .map(|f| f.payload.len())
        .sum();
    assert_eq!(sent, 65_535, "the default window of a connection");
    wire.send(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]);
    let streams: Vec<u32> = wire
        .output()
        .iter()
        .filter(|f| f.kind == DATA)
        .map(|f| f.stream)
        .collect();
    assert_eq!(
        streams.iter().filter(|&&s| s == 3).count(),
        streams.len(),
        "stream 1 went out first: {streams:?}"
    );
    assert_eq!(wire.server.open_streams(), 0);
}

#[test]
fn a_client_gets_credit_in_large_steps() {
    let mut wire = Wire::new();
    wire.call(1);
    wire.output();
    let body = [9; 16_379];
    let mut updates = Vec::new();
    for _ in 0..200 {
        wire.send(DATA, 0, 1, &message(&body));
        wire.events();
        updates.extend(wire.output());
    }
    let of = |stream| {
        updates
            .iter()
            .filter(|f| f.kind == WINDOW_UPDATE && f.stream == stream)
            .count()
    };
    assert_eq!((of(0), of(1)), (1, 6), "3.1 MiB in steps of 2 MiB and 512 KiB");
}

#[test]
fn a_client_that_exceeds_a_window_is_stopped() {
    let limits = Limits {
        stream_window_bytes: 100,
        ..Limits::default()
    };
    let mut wire = Wire::with(limits);
    wire.call(1);
    wire.send(DATA, 0, 1, &[0; 101]);
    wire.expect_stream_error(FlowControlError);
    // Messages that are not taken are not credited, so the window of the connection runs out.
    let mut wire = Wire::with(Limits {
        connection_window_bytes: 65_535,
        ..Limits::default()
    });
    wire.call(1);
    for _ in 0..4 {
        wire.send(DATA, 0, 1, &message(&[9; 16_379]));
    }
    wire.expect_connection_error(FlowControlError);
}

#[test]
fn shutdown_takes_what_was_on_its_way_and_ends_behind_the_last_stream() {
    let mut wire = open_wire();
    wire.server.shutdown();
    let frames = wire.output();
    assert_eq!(
        (frames[0].kind, &frames[0].payload[..8]),
        (GOAWAY, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0][..])
    );
    assert_eq!(frames[1].kind, PING);
    wire.call(5);
    wire.send(PING, ACK, 0, &frames[1].payload);
    let goaway = wire.output().remove(0);
    assert_eq!(
        (goaway.kind, &goaway.payload[..8]),
        (GOAWAY, &[0, 0, 0, 5, 0, 0, 0, 0][..])
    );
    wire.call(7);
    wire.expect_stream_error(RefusedStream);
    for stream in [1, 3, 5] {
        assert!(!wire.server.is_done());
        wire.server.finish(StreamId(stream), &net::grpc::Status::ok());
        wire.output();
    }
    assert!(wire.server.is_done());
    assert_eq!(wire.server.close_reason(), Some(&CloseReason::ShutDown));
}

#[test]
fn shutdown_does_not_wait_long_for_a_silent_client() {
    let mut wire = Wire::new();
    wire.server.shutdown();
    wire.output();
    let deadline = wire.server.on_time(1);
    assert_eq!(deadline, 5 * SECOND_NS);
    wire.server.on_time(deadline);
    assert_eq!(wire.output()[0].payload[..4], [0; 4]);
    assert!(wire.server.is_done());
}

#[test]
fn a_client_that_goes_away_is_served_to_the_end() {
    let mut wire = open_wire();
    wire.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    wire.send(GOAWAY, 0, 0, &[0; 8]);
    assert!(!wire.server.is_done());
    wire.server.finish(StreamId(3), &net::grpc::Status::ok());
    wire.output();
    assert!(wire.server.is_done());
    assert_eq!(wire.server.close_reason(), Some(&CloseReason::PeerGoAway));
}

#[test]
fn a_silent_peer_is_pinged_and_then_given_up() {
    let mut wire = open_wire();
    let ping_at = wire.server.on_time(SECOND_NS);
    assert_eq!(ping_at, 2 * 3600 * SECOND_NS);
    let give_up_at = wire.server.on_time(ping_at);
    assert_eq!(give_up_at, ping_at + 20 * SECOND_NS);
    let ping = wire.output().remove(0);
    assert_eq!((ping.kind, ping.flags), (PING, 0));
    // Any byte is a sign of life.
    wire.server.on_time(give_up_at - 1);
    wire.send(PING, ACK, 0, &ping.payload);
    assert_eq!(wire.server.on_time(give_up_at), give_up_at - 1 + 2 * 3600 * SECOND_NS);

    let ping_at = wire.server.on_time(give_up_at);
    let give_up_at = wire.server.on_time(ping_at);
    wire.server.on_time(give_up_at);
    assert!(wire.server.is_done());
    assert_eq!(wire.server.close_reason(), Some(&CloseReason::KeepaliveTimeout));
    assert_eq!(wire.events()[3..], ["1 cancelled", "3 cancelled"]);
}

#[test]
fn a_handshake_or_a_frame_left_unfinished_ends_the_connection() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const LIMIT_NS: u64 = 120 * SECOND_NS;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let beginnings = [PREFACE.to_vec(), [PREFACE, &settings[..12]].concat()];
    for bytes in beginnings {
        let mut server = ServerConn::new(Limits::default(), 0);
        server.receive(&bytes);
        server.advance_output(server.pending_output().len());
        // The handshake as a whole has its time, whatever came when.
        server.on_time(LIMIT_NS - 1);
        assert_eq!(server.deadline_ns(), LIMIT_NS);
        assert!(!server.is_done());
        server.on_time(LIMIT_NS);
        assert!(server.is_done());
        assert_eq!(server.close_reason(), Some(&CloseReason::Unfinished));
    }
    // A header block whose CONTINUATION does not come, and a frame of which one byte is missing.
    let block = frame(HEADERS, 0, 5, GRPC_POST);
    let data = frame(DATA, 0, 1, &[0; 100]);
    for bytes in [&block[..], &data[..108]] {
        let mut wire = open_wire();
        wire.output();
        wire.server.on_time(SECOND_NS);
        wire.server.receive(&bytes[..10]);
        wire.server.on_time(60 * SECOND_NS);
        wire.server.receive(&bytes[10..]);
        assert_eq!(wire.server.deadline_ns(), 60 * SECOND_NS + LIMIT_NS);
        wire.server.on_time(60 * SECOND_NS + LIMIT_NS - 1);
        assert!(!wire.server.is_done());
        wire.server.on_time(60 * SECOND_NS + LIMIT_NS);
        assert!(wire.server.is_done());
        assert_eq!(wire.server.close_reason(), Some(&CloseReason::Unfinished));
    }
}

#[test]
fn a_peer_that_does_not_read_is_not_judged_by_half_a_frame() {
    let mut wire = open_wire();
    wire.output();
    wire.send(PING, 0, 0, &[0; 8]);
    wire.server.receive(&[0, 0, 100]);
    let late_ns = 1000 * SECOND_NS;
    assert!(wire.server.on_time(late_ns) > late_ns);
    assert!(!wire.server.is_done());
    wire.output();
    wire.server.on_time(late_ns);
    assert_eq!(wire.server.close_reason(), Some(&CloseReason::Unfinished));
}
