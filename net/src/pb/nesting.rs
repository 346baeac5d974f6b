//! Decoding transactions, which nest: the one message of etcd's API that does.
//!
//! `prost` gives up below a hundred levels of messages, which is fifty transactions, and unbounded it would recurse as
//! deep as a client likes. So the levels are taken apart here, counted, and `prost` reads what stands on each.

use bytes::{Buf, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint},
};

use super::etcdserverpb::{InternalRaftRequest, RequestOp, TxnRequest, request_op::Request as Op};

/// Levels of transactions that are read; also the bound of every later walk over one, each of which recurses.
///
/// Source: ours. etcd has no bound but `--max-txn-ops`, from which each level takes one or more; its default is 128.
pub const TXN_LEVELS_MAX: u32 = 1000;

/// `TxnRequest.success`.
const SUCCESS: u32 = 2;
/// `TxnRequest.failure`.
const FAILURE: u32 = 3;
/// `RequestOp.request_txn`.
const REQUEST_TXN: u32 = 4;
/// `InternalRaftRequest.txn`.
const ENTRY_TXN: u32 = 6;

/// Why a transaction cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// It is not protobuf.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// A nested message claims more bytes than there are.
    #[error("a message of {claimed} bytes in {left} bytes")]
    Short {
        /// Its length, as told.
        claimed: u64,
        /// What is left of the message around it.
        left: usize,
    },
    /// It has more levels than [`TXN_LEVELS_MAX`].
    #[error("transactions nested more than {TXN_LEVELS_MAX} deep")]
    TooDeep,
}

/// Decodes a `TxnRequest`.
pub fn decode_txn(message: Bytes) -> Result<TxnRequest, TxnError> {
    txn(message, TXN_LEVELS_MAX)
}

/// Decodes a log entry, which may hold a transaction.
pub fn decode_entry(mut message: Bytes) -> Result<InternalRaftRequest, TxnError> {
    let mut entry = InternalRaftRequest::default();
    while message.has_remaining() {
        match decode_key(&mut message)? {
            (ENTRY_TXN, WireType::LengthDelimited) => entry.txn = Some(decode_txn(inner(&mut message)?)?),
            (field, wire) => entry.merge_field(field, wire, &mut message, DecodeContext::default())?,
        }
    }
    Ok(entry)
}

fn txn(mut message: Bytes, levels: u32) -> Result<TxnRequest, TxnError> {
    let levels = levels.checked_sub(1).ok_or(TxnError::TooDeep)?;
    let mut txn = TxnRequest::default();
    while message.has_remaining() {
        match decode_key(&mut message)? {
            (SUCCESS, WireType::LengthDelimited) => txn.success.push(op(inner(&mut message)?, levels)?),
            (FAILURE, WireType::LengthDelimited) => txn.failure.push(op(inner(&mut message)?, levels)?),
            (field, wire) => txn.merge_field(field, wire, &mut message, DecodeContext::default())?,
        }
    }
    Ok(txn)
}

fn op(mut message: Bytes, levels: u32) -> Result<RequestOp, TxnError> {
    let mut op = RequestOp::default();
    while message.has_remaining() {
        match decode_key(&mut message)? {
            (REQUEST_TXN, WireType::LengthDelimited) => {
                op.request = Some(Op::RequestTxn(txn(inner(&mut message)?, levels)?));
            }
            (field, wire) => op.merge_field(field, wire, &mut message, DecodeContext::default())?,
        }
    }
    Ok(op)
}

/// Takes a message with its length before it; no byte is copied.
fn inner(message: &mut Bytes) -> Result<Bytes, TxnError> {
    let claimed = decode_varint(message)?;
    let left = message.len();
    match usize::try_from(claimed) {
        Ok(len) if len <= left => Ok(message.split_to(len)),
        _ => Err(TxnError::Short { claimed, left }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestHeader};
    use super::*;

    fn put(key: &'static str) -> RequestOp {
        RequestOp {
            request: Some(Op::RequestPut(PutRequest {
                key: key.into(),
                ..PutRequest::default()
            })),
        }
    }

    fn nested(levels: u32) -> TxnRequest {
        let mut txn = TxnRequest {
            failure: vec![put("innermost")],
            ..TxnRequest::default()
        };
        for _ in 1..levels {
            txn = TxnRequest {
                success: vec![RequestOp {
                    request: Some(Op::RequestTxn(txn)),
                }],
                ..TxnRequest::default()
            };
        }
        txn
    }

    #[test]
    fn it_reads_what_prost_reads() {
        let range = RequestOp {
            request: Some(Op::RequestRange(RangeRequest {
                key: "r".into(),
                ..RangeRequest::default()
            })),
        };
        let mut txn = nested(7);
        txn.compare = vec![Compare::default(); 3];
        txn.failure = vec![put("a"), range, RequestOp::default()];
        let bytes = Bytes::from(txn.encode_to_vec());
        assert_eq!(decode_txn(bytes.clone()).unwrap(), txn);
        assert_eq!(TxnRequest::decode(bytes).unwrap(), txn);
        let entry = InternalRaftRequest {
            header: Some(RequestHeader {
                id: 7,
                ..RequestHeader::default()
            }),
            txn: Some(txn),
            ..InternalRaftRequest::default()
        };
        assert_eq!(decode_entry(entry.encode_to_vec().into()).unwrap(), entry);
    }

    #[test]
    fn a_thousand_levels_are_read_and_not_one_more() {
        let deepest = nested(TXN_LEVELS_MAX);
        assert_eq!(decode_txn(deepest.encode_to_vec().into()).unwrap(), deepest);
        let deeper = nested(TXN_LEVELS_MAX + 1).encode_to_vec();
        assert!(matches!(decode_txn(deeper.into()), Err(TxnError::TooDeep)));
    }

    #[test]
    fn broken_ones_are_refused() {
        let whole = nested(60).encode_to_vec();
        for len in 1..whole.len() {
            assert!(
                decode_txn(Bytes::copy_from_slice(&whole[..len])).is_err(),
                "{len} bytes"
            );
        }
        // A group that opens ever more groups, in a transaction within one.
        let groups = [&[0x12, 0x80 | 100, 3, 0x22, 0x80 | 97, 3][..], &[0x0b; 481]].concat();
        assert!(matches!(decode_txn(groups.into()), Err(TxnError::Unreadable(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_as_prost_reads_them_or_refused(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            match (decode_txn(bytes.clone()), TxnRequest::decode(bytes)) {
                (ours, Ok(theirs)) => proptest::prop_assert_eq!(ours.unwrap(), theirs),
                (ours, Err(_)) => proptest::prop_assert!(ours.is_err()),
            }
        }
    }
}
