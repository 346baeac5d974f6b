//! A file that says it is one of bbolt's: it is read or refused, in bounded time. Worth a snapshot of etcd as a seed.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use storage::bbolt::{BboltFile, split_trailer};

fuzz_target!(|data: &[u8]| {
    let file = Bytes::copy_from_slice(data);
    let _ = split_trailer(file.clone());
    let Ok(file) = BboltFile::open(file) else { return };
    let _ = file.buckets();
    let _ = file.check();
});
