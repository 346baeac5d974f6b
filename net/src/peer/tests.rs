//! The peer codec: what goes in comes out, the bytes stay as they are, and garbage is told as such.

use bytes::Bytes;
use proptest::prelude::*;
use raft::{ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};

use super::*;

fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    decoder.feed(bytes);
    decoder.take_frame()
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::default().message(message, &mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_of_a_message_do_not_change() {
    let message = Message {
        msg_type: MessageType::MsgApp,
        to: 2,
        from: 1,
        term: 3,
        log_term: 2,
        index: 9,
        entries: vec![Entry::normal(3, 10, &b"data"[..])],
        commit: 8,
        ..Message::default()
    };
    assert_eq!(hex(&encoded(&message)), include_str!("tests/message.hex").trim());
}

#[test]
fn a_handshake_comes_out_as_it_went_in() {
    let handshake = Handshake {
        version: 1,
        min_version: 1,
        cluster_id: u64::MAX,
        from: 7,
        to: 8,
        entry_kinds: 3,
        etcd_version: "3.6.14".into(),
        purpose: Purpose::Snapshot,
        verdict: Verdict::Removed,
    };
    let mut bytes = Vec::new();
    Encoder::default().handshake(&handshake, &mut bytes);
    assert!(bytes.len() < HANDSHAKE_BYTES_MAX);
    assert_eq!(decode(&bytes), Ok(Some(Frame::Handshake(handshake))));
}

#[test]
fn calls_answers_chunks_and_beats_come_out_as_they_went_in() {
    let call = Call {
        id: 1 << 60,
        method: CallMethod::LeaseInfo,
        subject: 42,
        with_keys: true,
    };
    let answer = Answer {
        id: 1 << 60,
        status: 4,
        first: -1,
        second: 60,
        keys: vec![Bytes::from("a"), Bytes::new(), Bytes::from("c")],
    };
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    encoder.call(&call, &mut bytes);
    encoder.answer(&answer, &mut bytes);
    encoder.chunk(b"pages", &mut bytes);
    encoder.beat(&mut bytes);
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    // One byte at a time: a frame is given once its last byte is there.
    let mut frames = Vec::new();
    for byte in bytes {
        decoder.feed(&[byte]);
        frames.extend(decoder.take_frame().unwrap());
    }
    let expected = [
        Frame::Call(call),
        Frame::Answer(answer),
        Frame::Chunk(Bytes::from("pages")),
        Frame::Beat,
    ];
    assert_eq!(frames, expected);
}

#[test]
fn the_payload_of_an_entry_is_not_copied() {
    let bytes = encoded(&Message {
        entries: vec![Entry::normal(1, 1, vec![7; 1 << 20])],
        ..Message::default()
    });
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    decoder.feed(&bytes);
    let held = decoder.held_range();
    let Some(Frame::Message(message)) = decoder.take_frame().unwrap() else {
        panic!("a message")
    };
    assert!(held.contains(&(message.entries[0].data.as_ptr() as usize)));
}

#[test]
fn garbage_is_refused_at_its_first_byte() {
    let error = decode(b"GET /").unwrap_err();
    assert!(error.to_string().contains("no etcore member"), "{error}");
    assert_eq!(decode(&[]), Ok(None));
}

#[test]
fn a_claimed_length_beyond_the_bound_is_refused_before_its_bytes_come() {
    let mut bytes = Vec::new();
    Encoder::default().chunk(&[0; 101], &mut bytes);
    let mut decoder = Decoder::new(100);
    decoder.feed(&bytes[..16]);
    assert_eq!(decoder.take_frame(), Err(FrameError::TooLong { len: 101, max: 100 }));
}

#[test]
fn a_damaged_length_is_refused_before_its_bytes_come() {
    let mut bytes = encoded(&Message::default());
    bytes[7] ^= 0x10;
    // Else 256 MiB of later frames would vanish in this one.
    assert!(matches!(decode(&bytes), Err(FrameError::Header { .. })));
}

#[test]
fn an_unknown_kind_is_refused() {
    let mut bytes = encoded(&Message::default());
    bytes[12] = 99;
    let check = crc32c::crc32c_append(crc32c::crc32c(&bytes[4..8]), &[99]);
    bytes[13..16].copy_from_slice(&check.to_le_bytes()[..3]);
    let crc = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode(&bytes), Err(FrameError::Kind(99)));
}

fn entry() -> impl Strategy<Value = Entry> {
    (
        0_u64..3,
        any::<u64>(),
        any::<u64>(),
        proptest::collection::vec(any::<u8>(), 0..200),
    )
        .prop_map(|(kind, term, index, data)| Entry {
            entry_type: EntryType::from_number(kind).expect("three types"),
            term,
            index,
            data: data.into(),
        })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let ids = || proptest::collection::vec(any::<u64>(), 0..4);
    (any::<u64>(), any::<u64>(), ids(), ids(), any::<bool>()).prop_map(|(index, term, voters, learners, auto_leave)| {
        let conf_state = ConfState {
            voters,
            learners,
            auto_leave,
            ..ConfState::default()
        };
        Snapshot {
            data: Bytes::from("data"),
            metadata: SnapshotMetadata {
                conf_state,
                index,
                term,
            },
        }
    })
}

fn message() -> impl Strategy<Value = Message> {
    let numbers = proptest::array::uniform8(prop_oneof![Just(0), any::<u64>()]);
    let entries = proptest::collection::vec(entry(), 0..20);
    let context = proptest::collection::vec(any::<u8>(), 0..20);
    (
        0_u64..24,
        numbers,
        entries,
        context,
        any::<bool>(),
        proptest::option::of(snapshot()),
    )
        .prop_map(|(kind, numbers, entries, context, reject, snapshot)| {
            let [to, from, term, log_term, index, commit, reject_hint, vote] = numbers;
            Message {
                msg_type: MessageType::from_number(kind).expect("24 types"),
                to,
                from,
                term,
                log_term,
                index,
                entries,
                commit,
                snapshot,
                reject,
                reject_hint,
                context: context.into(),
                vote,
                responses: Vec::new(),
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_message_comes_out_as_it_went_in(message in message()) {
        prop_assert_eq!(decode(&encoded(&message)), Ok(Some(Frame::Message(message))));
    }

    #[test]
    fn a_flipped_bit_never_goes_unnoticed(message in message(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = encoded(&message);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn damaged_tables_with_a_right_checksum_never_panic(
        message in message(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encoded(&message);
        for (at, byte) in changes {
            let at = 16 + at.index(bytes.len() - 16);
            bytes[at] = byte;
        }
        let crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        let _ = decode(&bytes);
    }
}
