//! Request ids, unique over all shards, members and restarts.

/// Makes the ids of one shard.
///
/// Source: ids table, "request ID": low 16 bits of the member id, 40 bits of Unix milliseconds, then a counter that may
/// flow over into the time.
#[derive(Clone, Copy, Debug)]
pub struct RequestIds {
    prefix: u64,
    suffix: u64,
    step: u64,
}

/// Bits below the member's part.
const SUFFIX_BITS: u32 = 48;
/// Suffixes stay below this bit: the member's own proposals have it set.
const OWN_BIT: u64 = 1 << 47;

impl RequestIds {
    /// Ids of shard `index` of `shards`, starting at `unix_ms`.
    pub fn new(member_id: u64, unix_ms: u64, index: u64, shards: u64) -> Self {
        let suffix = (unix_ms << 8) % OWN_BIT;
        let first = suffix - suffix % shards + index;
        RequestIds {
            prefix: (member_id & 0xffff) << SUFFIX_BITS,
            suffix: first,
            step: shards,
        }
    }

    /// The next id.
    pub fn make(&mut self) -> u64 {
        self.suffix = (self.suffix + self.step) % OWN_BIT;
        self.prefix | self.suffix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_never_make_the_same_id() {
        let mut ids: Vec<u64> = Vec::new();
        for shard in 0..3 {
            let mut maker = RequestIds::new(0xabcd_ef01_2345, 1_700_000_000_000, shard, 3);
            ids.extend((0..1000).map(|_| maker.make()));
        }
        assert!(ids.iter().all(|id| id >> 48 == 0x2345));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 3000);
    }
}
