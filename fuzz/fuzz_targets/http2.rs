//! HTTP/2 and gRPC on a connection of either role: bare bytes, frames that are mostly well formed, header blocks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use net::fuzzing;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 6 {
        0 => fuzzing::fuzz_server_bytes(data),
        1 => fuzzing::fuzz_server_frames(data),
        2 => fuzzing::fuzz_client_bytes(data),
        3 => fuzzing::fuzz_hpack_decode(data),
        4 => fuzzing::fuzz_hpack_round_trip(data),
        _ => fuzzing::fuzz_round_trip(data),
    }
});
