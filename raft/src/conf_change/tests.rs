use super::*;
use proptest::prelude::*;

fn change_types() -> impl Strategy<Value = ConfChangeType> {
    (0u64..4).prop_map(|number| ConfChangeType::from_number(number).expect("all four exist"))
}

fn transitions() -> impl Strategy<Value = ConfChangeTransition> {
    (0u64..3).prop_map(|number| ConfChangeTransition::from_number(number).expect("all three exist"))
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

#[test]
fn scalars_are_written_even_when_zero_and_bytes_only_when_set() {
    assert_eq!(ConfChange::default().encode(), &[0x08, 0, 0x10, 0, 0x18, 0][..]);
    assert_eq!(ConfChangeV2::default().encode(), &[0x08, 0][..]);
    assert_eq!(ConfState::default().encode(), &[0x28, 0][..]);
}

#[test]
fn changes_have_the_bytes_etcd_writes() {
    let change = ConfChange {
        id: 300,
        change_type: ConfChangeType::AddLearnerNode,
        node_id: 1,
        context: Bytes::from_static(b"hi"),
    };
    assert_eq!(
        change.encode(),
        &[0x08, 0xac, 0x02, 0x10, 3, 0x18, 1, 0x22, 2, b'h', b'i'][..]
    );
    let change = ConfChangeV2 {
        transition: ConfChangeTransition::JointExplicit,
        changes: vec![ConfChangeSingle {
            change_type: ConfChangeType::RemoveNode,
            node_id: 5,
        }],
        context: Bytes::from_static(b"c"),
    };
    assert_eq!(
        change.encode(),
        &[0x08, 2, 0x12, 4, 0x08, 1, 0x10, 5, 0x1a, 1, b'c'][..]
    );
}

#[test]
fn configurations_have_the_bytes_etcd_writes() {
    let state = ConfState {
        voters: vec![1, 2],
        learners: vec![3],
        voters_outgoing: vec![4],
        learners_next: vec![4],
        auto_leave: true,
    };
    let bytes = [0x08, 1, 0x08, 2, 0x10, 3, 0x18, 4, 0x20, 4, 0x28, 1];
    assert_eq!(state.encode(), &bytes[..]);
    let packed = Bytes::from_static(&[0x0a, 2, 1, 2, 0x28, 0]);
    assert_eq!(
        ConfState::decode(&packed).unwrap(),
        ConfState::of_voters([1, 2]),
        "packed numbers are read too"
    );
}

#[test]
fn empty_data_is_the_change_that_leaves_a_joint_configuration() {
    assert!(ConfChangeV2::decode(&Bytes::new()).unwrap().leaves_joint());
    assert!(
        ConfChangeV2::decode(&ConfChangeV2::leave_joint().encode())
            .unwrap()
            .leaves_joint()
    );
}

#[test]
fn damage_is_named() {
    let decode = |bytes: &'static [u8]| ConfChange::decode(&Bytes::from_static(bytes)).unwrap_err();
    assert_eq!(
        decode(&[0x08]),
        WireError::Truncated {
            message: "ConfChange",
            offset: 1
        }
    );
    assert_eq!(
        decode(&[0x22, 200, 1, 0]),
        WireError::Truncated {
            message: "ConfChange",
            offset: 3
        }
    );
    assert_eq!(
        decode(&[0x0a, 0]),
        WireError::WrongType {
            message: "ConfChange",
            field: 1
        }
    );
    assert_eq!(
        decode(&[0x10, 9]),
        WireError::UnknownEnumValue {
            message: "ConfChangeType",
            value: 9
        }
    );
    assert_eq!(
        decode(&[0x00]),
        WireError::Malformed {
            message: "ConfChange",
            offset: 1
        }
    );
    assert!(matches!(
        decode(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]),
        WireError::Malformed { .. }
    ));
}

#[test]
fn unknown_fields_are_skipped() {
    let bytes = Bytes::from_static(&[
        0x78, 1, 0x7a, 1, 7, 0x7d, 1, 2, 3, 4, 0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x18, 6,
    ]);
    assert_eq!(ConfChange::decode(&bytes).unwrap().node_id, 6);
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        id in any::<u64>(),
        change_type in change_types(),
        node_id in any::<u64>(),
        transition in transitions(),
        steps in prop::collection::vec((change_types(), any::<u64>()), 0..5),
        context in bytes(),
        lists in prop::array::uniform4(prop::collection::vec(any::<u64>(), 0..5)),
        auto_leave in any::<bool>(),
    ) {
        let old = ConfChange { id, change_type, node_id, context: context.clone() };
        prop_assert_eq!(&ConfChange::decode(&old.encode()).unwrap(), &old);
        let changes = steps.into_iter().map(|(change_type, node_id)| ConfChangeSingle { change_type, node_id });
        let new = ConfChangeV2 { transition, changes: changes.collect(), context };
        prop_assert_eq!(&ConfChangeV2::decode(&new.encode()).unwrap(), &new);
        let [voters, learners, voters_outgoing, learners_next] = lists;
        let state = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
        prop_assert_eq!(&ConfState::decode(&state.encode()).unwrap(), &state);
    }

    #[test]
    fn garbage_is_refused_or_read_but_never_panics(data in bytes()) {
        let _ = (ConfChange::decode(&data), ConfChangeV2::decode(&data), ConfState::decode(&data));
    }
}
