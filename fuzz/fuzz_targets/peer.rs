//! What another member says, in any cuts.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if !data.is_empty() {
        net::fuzzing::fuzz_peer_bytes(data);
    }
});
