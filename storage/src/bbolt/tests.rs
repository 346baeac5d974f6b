//! Round trips through a bbolt file, and damage.

use std::sync::Arc;

use bytes::Bytes;

use super::{BboltError, BboltFile, ConfStateJson, Export, ExportOptions, split_trailer};
use crate::{
    buckets::{Bucket, meta},
    mvcc::{AppliedState, Base, MemBase, Store, StoreView},
};

/// A view with `keys` keys of many sizes, half of them in the tree below.
fn some_view(keys: u32) -> StoreView {
    let mut store = Store::new();
    let mut tree = MemBase::default();
    for n in 0..keys {
        let key = format!("key-{:0width$}", n * 7919 % keys, width = 1 + (n % 90) as usize);
        let value = vec![n as u8; if n % 50 == 3 { 9000 } else { (n % 300) as usize }];
        let mut txn = store.begin();
        txn.put(key.as_bytes(), &value, i64::from(n % 4));
        txn.end();
        store.bucket_put(
            Bucket::Lease,
            &u64::from(n % 9).to_be_bytes(),
            &vec![1; n as usize % 700],
        );
        if n == keys / 2 {
            store.seal_block(AppliedState {
                index: 5,
                term: 2,
                ..AppliedState::default()
            });
            let batch = store.take_commit(usize::MAX, u64::MAX).unwrap();
            batch
                .ops()
                .for_each(|op| tree.apply(op.bucket, op.key.as_slice(), op.value.as_deref()));
            store.on_committed(Arc::new(tree.clone()), &batch);
        }
    }
    if keys > 10 {
        store.compact(i64::from(keys / 3)).unwrap();
        while store.compact_step(3, true) == crate::mvcc::CompactProgress::Working {}
    }
    store.seal_block(AppliedState {
        index: 77,
        term: 3,
        ..AppliedState::default()
    });
    store.view()
}

fn exported(view: &StoreView, trailer: bool, budget: usize) -> Bytes {
    let meta = vec![(
        meta::CONF_STATE.to_vec(),
        br#"{"voters":[1],"auto_leave":false}"#.to_vec(),
    )];
    let mut export = Export::new(view.clone(), ExportOptions { meta, trailer });
    while !export.plan(budget).unwrap() {}
    let mut file = Vec::new();
    while let Some(piece) = export.next_piece(budget).unwrap() {
        file.extend_from_slice(&piece);
    }
    assert_eq!(file.len() as u64, export.total_bytes());
    file.into()
}

fn all_rows(base: &dyn Base, bucket: Bucket) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = base.scan(bucket, b"").unwrap();
    let mut all = Vec::new();
    while let Some((key, value)) = rows.next().unwrap() {
        all.push((key.to_vec(), value.to_vec()));
    }
    all
}

#[test]
fn an_export_reads_back_row_by_row_whatever_its_size_and_pieces() {
    for (keys, budget) in [(0, 1), (1, 1 << 20), (3, 10), (40, 700), (900, 5000), (9000, 1 << 20)] {
        let view = some_view(keys);
        let file = exported(&view, true, budget);
        assert_eq!(file.len() % 512, 32);
        let body = split_trailer(file).unwrap();
        let file = BboltFile::open(body).unwrap();
        let mut rows = 0;
        let names: Vec<_> = Bucket::ALL
            .iter()
            .map(|bucket| bucket.name().as_bytes().to_vec())
            .collect();
        assert_eq!(file.buckets().unwrap(), names);
        for bucket in Bucket::ALL {
            let found = all_rows(&file, bucket);
            rows += found.len() as u64;
            let mut wanted = Vec::new();
            let mut walk = view.rows(bucket, b"").unwrap();
            while let Some((key, value)) = walk.next().unwrap() {
                wanted.push((key.as_ref().to_vec(), value.to_vec()));
            }
            if bucket == Bucket::Meta {
                wanted.push((meta::CONSISTENT_INDEX.to_vec(), 77u64.to_be_bytes().to_vec()));
                wanted.push((meta::TERM.to_vec(), 3u64.to_be_bytes().to_vec()));
                wanted.push((
                    meta::CONF_STATE.to_vec(),
                    br#"{"voters":[1],"auto_leave":false}"#.to_vec(),
                ));
                wanted.sort();
            }
            assert_eq!(found, wanted, "{} with {keys} keys", bucket.name());
            for (key, value) in found.iter().step_by(1 + found.len() / 20) {
                assert_eq!(file.get(bucket, key).unwrap(), Some(&value[..]));
                let mut missing = key.clone();
                missing.push(0);
                assert_eq!(file.get(bucket, &missing).unwrap(), None);
                assert_eq!(
                    file.scan(bucket, key).unwrap().next().unwrap(),
                    Some((&key[..], &value[..]))
                );
            }
        }
        assert_eq!(file.check().unwrap(), rows);
    }
}

#[test]
fn a_store_restored_from_an_export_is_the_same_store() {
    let view = some_view(700);
    let file = BboltFile::open(exported(&view, false, 1 << 16)).unwrap();
    let mut restored = Store::restore(Arc::new(file), AppliedState::default()).unwrap();
    while restored.compact_step(1000, false) != crate::mvcc::CompactProgress::Idle {}
    restored.seal_block(AppliedState::default());
    let other = restored.view();
    assert_eq!(
        (other.revision(), other.compact_revision()),
        (view.revision(), view.compact_revision())
    );
    for revision in view.compact_revision()..=view.revision() {
        let hash = |view: &StoreView| view.hash_kv(revision).unwrap().step(usize::MAX).unwrap().unwrap();
        assert_eq!(hash(&other), hash(&view), "revision {revision}");
    }
}

#[test]
fn damage_is_told_apart_and_never_followed() {
    let file = exported(&some_view(400), true, 1 << 20);
    let mut flipped = file.to_vec();
    flipped[9000] ^= 1;
    assert!(matches!(
        split_trailer(flipped.into()),
        Err(BboltError::HashMismatch { .. })
    ));
    assert!(matches!(
        BboltFile::open(Bytes::from_static(b"no")),
        Err(BboltError::NoMeta(_))
    ));
    assert!(matches!(
        BboltFile::open(vec![0; 1 << 16].into()),
        Err(BboltError::NoMeta(_))
    ));
    let body = split_trailer(file).unwrap();
    let cut = body.slice(..body.len() - 4096);
    assert!(matches!(BboltFile::open(cut), Err(BboltError::Damaged { .. })));
    let mut one_meta = body.to_vec();
    one_meta[20] ^= 1;
    BboltFile::open(one_meta.into()).unwrap().check().unwrap();
    let mut noticed = 0;
    for at in (8192..body.len()).step_by(101) {
        let mut bad = body.to_vec();
        bad[at] ^= 0xff;
        let file = BboltFile::open(bad.into()).unwrap();
        // No panic and no endless walk; what is not structure can only be seen by the trailer.
        noticed += u32::from(file.check().is_err());
        for bucket in Bucket::ALL {
            if let Ok(mut rows) = file.scan(bucket, b"") {
                while let Ok(Some(_)) = rows.next() {}
            }
        }
    }
    assert!(noticed > 50, "{noticed} of the flips were noticed");
}

#[test]
fn a_configuration_has_the_json_of_etcd() {
    let only = ConfStateJson {
        voters: &[10_276_657_743_932_975_437],
        ..ConfStateJson::default()
    };
    assert_eq!(
        only.encode(),
        br#"{"voters":[10276657743932975437],"auto_leave":false}"#
    );
    let joint = ConfStateJson {
        voters: &[1, 2],
        learners: &[3],
        voters_outgoing: &[1],
        learners_next: &[4],
        auto_leave: true,
    };
    let wanted = br#"{"voters":[1,2],"learners":[3],"voters_outgoing":[1],"learners_next":[4],"auto_leave":true}"#;
    assert_eq!(joint.encode(), wanted);
}
