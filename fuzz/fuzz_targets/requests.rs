//! Request messages: what decodes encodes to the same again, and a transaction is read as `prost` reads it.
#![no_main]

use std::fmt::Debug;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use net::pb::{self, etcdserverpb as api};
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    let data = Bytes::copy_from_slice(data);
    match which % 12 {
        0 => again::<api::RangeRequest>(data),
        1 => again::<api::PutRequest>(data),
        2 => again::<api::DeleteRangeRequest>(data),
        3 => again::<api::WatchRequest>(data),
        4 => again::<api::CompactionRequest>(data),
        5 => again::<api::LeaseGrantRequest>(data),
        6 => again::<api::AlarmRequest>(data),
        7 => again::<api::MemberAddRequest>(data),
        8 => entry(data),
        _ => transaction(data),
    }
});

fn again<M: Message + Default + PartialEq + Debug>(data: Bytes) {
    let Ok(message) = M::decode(data) else { return };
    assert_eq!(
        M::decode(message.encode_to_vec().as_slice()).expect("just encoded"),
        message
    );
}

fn transaction(data: Bytes) {
    let ours = pb::decode_txn(data.clone());
    // Where it names one nested transaction twice, `prost` puts both together and etcd takes the second.
    if let (Err(error), Ok(theirs)) = (&ours, api::TxnRequest::decode(data)) {
        panic!("{error}, but prost reads {theirs:?}");
    }
    let Ok(txn) = ours else { return };
    let encoded = Bytes::from(txn.encode_to_vec());
    assert_eq!(pb::decode_txn(encoded).expect("just encoded"), txn);
}

fn entry(data: Bytes) {
    let ours = pb::decode_entry(data.clone());
    if let (Err(error), Ok(theirs)) = (&ours, api::InternalRaftRequest::decode(data)) {
        panic!("{error}, but prost reads {theirs:?}");
    }
}
