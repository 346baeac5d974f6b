//! The bytes of a bbolt file. All numbers are little-endian.
//!
//! ```text
//! page header   id u64 | flags u16 | count u16 | overflow u32                                  16 bytes, at each page
//! leaf          header | { flags u32, pos u32, ksize u32, vsize u32 } x count | keys and values
//! branch        header | { pos u32, ksize u32, pgid u64 } x count             | keys
//! meta (0, 1)   header | magic u32 | version u32 | page size u32 | flags u32 | root pgid u64 | root sequence u64
//!                      | freelist pgid u64 | high-water pgid u64 | txid u64 | FNV-1a-64 of the 56 bytes before
//! bucket value  root pgid u64 | sequence u64, and behind it a leaf with page id 0 when root pgid is 0 (inline)
//! ```
//! `pos` counts from the start of its own element. A page with overflow n takes n + 1 page sizes.

/// Page size written; a reader honours what the meta page says.
pub const PAGE_SIZE: usize = 4096;
/// First number of a meta page.
pub const MAGIC: u32 = 0xED0C_DAED;
/// Version of the format.
pub const VERSION: u32 = 2;
/// Freelist pgid of a file that has none stored.
pub const NO_FREELIST: u64 = u64::MAX;

/// Length of a page header, of an element and of a bucket header.
pub const HEADER_LEN: usize = 16;
/// Length of a meta behind its page header.
pub const META_LEN: usize = 64;
/// Largest leaf, header included, that is stored inside its bucket's value.
pub const INLINE_MAX: usize = PAGE_SIZE / 4;

/// Page flag of a branch.
pub const BRANCH: u16 = 0x01;
/// Page flag of a leaf.
pub const LEAF: u16 = 0x02;
/// Page flag of a meta.
pub const META: u16 = 0x04;
/// Element flag of a leaf element that is a bucket.
pub const BUCKET: u32 = 0x01;

/// A meta page's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    pub page_size: u32,
    pub root: u64,
    pub high_water: u64,
    pub txid: u64,
}

impl Meta {
    pub fn encode(&self) -> [u8; META_LEN] {
        let mut out = [0; META_LEN];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&VERSION.to_le_bytes());
        out[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        out[16..24].copy_from_slice(&self.root.to_le_bytes());
        out[32..40].copy_from_slice(&NO_FREELIST.to_le_bytes());
        out[40..48].copy_from_slice(&self.high_water.to_le_bytes());
        out[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let sum = fnv1a(&out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a meta; the problem if it is not valid.
    pub fn decode(bytes: &[u8]) -> Result<Meta, String> {
        if bytes.len() < META_LEN {
            return Err("the file is too short".to_owned());
        }
        if u32_at(bytes, 0) != MAGIC {
            return Err(format!("magic number is {:08x}, not {MAGIC:08x}", u32_at(bytes, 0)));
        }
        if u32_at(bytes, 4) != VERSION {
            return Err(format!("format version is {}, not {VERSION}", u32_at(bytes, 4)));
        }
        let (stored, found) = (u64_at(bytes, 56), fnv1a(&bytes[..56]));
        if stored != found {
            return Err(format!("meta checksum is {stored:016x}, its content has {found:016x}"));
        }
        let page_size = u32_at(bytes, 8);
        if !page_size.is_power_of_two() || !(512..=1 << 16).contains(&page_size) {
            return Err(format!("page size is {page_size}"));
        }
        Ok(Meta {
            page_size,
            root: u64_at(bytes, 16),
            high_water: u64_at(bytes, 40),
            txid: u64_at(bytes, 48),
        })
    }
}

/// A page header.
pub fn page_header(id: u64, flags: u16, count: u16, overflow: u32) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(&id.to_le_bytes());
    out[8..10].copy_from_slice(&flags.to_le_bytes());
    out[10..12].copy_from_slice(&count.to_le_bytes());
    out[12..].copy_from_slice(&overflow.to_le_bytes());
    out
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_survives_and_any_flipped_byte_is_seen() {
        let meta = Meta {
            page_size: 4096,
            root: 9,
            high_water: 12,
            txid: 2,
        };
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Ok(meta));
        for at in 0..META_LEN {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(Meta::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Meta::decode(&bytes[..60]).is_err());
    }

    #[test]
    fn fnv1a_has_its_published_values() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
