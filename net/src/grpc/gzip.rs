//! Messages in gzip, the one compression that etcd's clients and servers know.

use std::cell::RefCell;
use std::io::{ErrorKind, Read};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status as Progress};

use super::{Code, Status};

/// The name in `grpc-encoding`.
pub(super) const NAME: &[u8] = b"gzip";

/// Source: RFC 1952, 2.3: magic number, deflate, no flags, no time, no extra flags, system unknown.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Memory for what comes out is taken in steps that grow from here, not by what the message claims.
const FIRST_BYTES: usize = 4 * 1024;

thread_local! {
    /// What a compressor remembers is some hundred kilobytes: kept for the next message of this executor.
    static COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// Unpacks a message.
///
/// Bounds: stops one byte beyond `len_max`.
/// Errors: the texts of grpc-go's `decompress` and Go's `gzip`.
pub(super) fn unpack(packed: &[u8], len_max: u32) -> Result<Bytes, Status> {
    let internal = |text: &str| Err(Status::new(Code::Internal, text.to_owned()));
    match packed.get(..HEADER.len()) {
        None if packed.is_empty() => return internal("grpc: failed to decompress the message: EOF"),
        None => return internal("grpc: failed to decompress the message: unexpected EOF"),
        Some(header) if header[..3] != HEADER[..3] => {
            return internal("grpc: failed to decompress the message: gzip: invalid header");
        }
        Some(_) => {}
    }
    let mut message = Vec::with_capacity(FIRST_BYTES.min(len_max as usize));
    let read = MultiGzDecoder::new(packed)
        .take(u64::from(len_max) + 1)
        .read_to_end(&mut message);
    match read.map_err(|error| (error.kind(), error.to_string())) {
        Ok(len) if len > len_max as usize => {
            let text = format!("grpc: received message after decompression larger than max {len_max}");
            Err(Status::new(Code::ResourceExhausted, text))
        }
        Ok(_) => Ok(message.into()),
        Err((ErrorKind::UnexpectedEof, _)) => internal("grpc: failed to read decompressed data: unexpected EOF"),
        Err((_, text)) if text.contains("checksum") => {
            internal("grpc: failed to read decompressed data: gzip: invalid checksum")
        }
        Err((_, text)) if text.contains("header") => {
            internal("grpc: failed to read decompressed data: gzip: invalid header")
        }
        Err(_) => internal("grpc: failed to read decompressed data: flate: corrupt input"),
    }
}

/// Packs a message.
pub(super) fn pack(message: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(message.len() / 2 + 64);
    out.put_slice(&HEADER);
    COMPRESSOR.with_borrow_mut(|compressor| {
        compressor.reset();
        let mut taken = 0;
        let mut piece = [0; 4096];
        loop {
            let (before_in, before_out) = (compressor.total_in(), compressor.total_out());
            let progress = compressor
                .compress(&message[taken..], &mut piece, FlushCompress::Finish)
                .expect("a compressor fails only when it is used after its end, and it was just reset");
            taken += (compressor.total_in() - before_in) as usize;
            out.put_slice(&piece[..(compressor.total_out() - before_out) as usize]);
            if progress == Progress::StreamEnd {
                break;
            }
        }
    });
    let mut crc = Crc::new();
    crc.update(message);
    out.put_u32_le(crc.sum());
    out.put_u32_le(message.len() as u32);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(packed: &[u8], len_max: u32) -> (Code, String) {
        let status = unpack(packed, len_max).unwrap_err();
        (status.code, status.message.into_owned())
    }

    #[test]
    fn what_is_packed_comes_out_again() {
        let noise: Vec<u8> = (0..100_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for message in [&b""[..], b"v", &[b'v'; 70_000], &noise] {
            let packed = pack(message);
            assert_eq!(unpack(&packed, 100_000).unwrap(), message);
        }
        assert!(pack(&[b'v'; 70_000]).len() < 1000);
    }

    #[test]
    fn several_members_are_one_message() {
        let both = [&pack(b"ab")[..], &pack(b"cd")].concat();
        assert_eq!(unpack(&both, 10).unwrap(), "abcd");
    }

    #[test]
    fn a_bomb_is_refused_one_byte_beyond_the_limit() {
        let packed = pack(&vec![0; 10_000_000]);
        assert!(packed.len() < 100_000);
        let text = "grpc: received message after decompression larger than max 2097152";
        assert_eq!(refusal(&packed, 2_097_152), (Code::ResourceExhausted, text.into()));
        assert_eq!(unpack(&pack(&[0; 1000]), 1000).unwrap().len(), 1000);
        assert_eq!(refusal(&pack(&[0; 1001]), 1000).0, Code::ResourceExhausted);
    }

    #[test]
    fn broken_gzip_gives_the_texts_of_go() {
        let good = pack(b"hello");
        let cut = &good[..good.len() - 3];
        let wrong_sum = [&good[..good.len() - 8], &[0; 8]].concat();
        let garbage_behind = [&good[..], &[1; 20]].concat();
        let cases: [(&[u8], &str); 6] = [
            (b"", "grpc: failed to decompress the message: EOF"),
            (b"\x1f\x8b", "grpc: failed to decompress the message: unexpected EOF"),
            (
                b"garbage here",
                "grpc: failed to decompress the message: gzip: invalid header",
            ),
            (cut, "grpc: failed to read decompressed data: unexpected EOF"),
            (
                &wrong_sum,
                "grpc: failed to read decompressed data: gzip: invalid checksum",
            ),
            (
                &garbage_behind,
                "grpc: failed to read decompressed data: gzip: invalid header",
            ),
        ];
        for (packed, text) in cases {
            assert_eq!(refusal(packed, 100), (Code::Internal, text.into()));
        }
        let mut corrupt = good.to_vec();
        corrupt[10] = 0xff;
        let text = "grpc: failed to read decompressed data: flate: corrupt input";
        assert_eq!(refusal(&corrupt, 100), (Code::Internal, text.into()));
    }
}
