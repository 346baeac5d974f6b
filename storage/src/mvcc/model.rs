//! The naive store that tests compare with: a list of changes and the rules, word for word.

use std::collections::{BTreeMap, BTreeSet};

use super::{Interval, Kv, Revision, RowKey};

/// A small generator with a printable seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One pair as the model has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
    pub value: Vec<u8>,
}

impl Pair {
    pub fn encoded(&self, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Kv {
            key,
            create_revision: self.create,
            mod_revision: self.modified,
            version: self.version,
            value: &self.value,
            lease: self.lease,
        }
        .encode(&mut out);
        out
    }
}

#[derive(Clone)]
pub struct Logged {
    pub revision: Revision,
    pub key: Vec<u8>,
    pub pair: Option<Pair>,
}

impl Logged {
    pub fn row(&self) -> Vec<u8> {
        RowKey::new(self.revision, self.pair.is_none()).as_slice().to_vec()
    }

    pub fn encoded(&self) -> Vec<u8> {
        match &self.pair {
            Some(pair) => pair.encoded(&self.key),
            None => {
                let mut out = Vec::new();
                Kv {
                    key: &self.key,
                    ..Kv::default()
                }
                .encode(&mut out);
                out
            }
        }
    }
}

/// Every change since the beginning.
#[derive(Clone)]
pub struct Model {
    pub log: Vec<Logged>,
    pub revision: i64,
    pub compacted: i64,
}

pub fn inside(interval: &Interval<'_>, key: &[u8]) -> bool {
    match interval.range_end {
        b"" => key == interval.key,
        b"\0" => key >= interval.key,
        end => key >= interval.key && key < end,
    }
}

impl Model {
    pub fn new() -> Model {
        Model {
            log: Vec::new(),
            revision: 1,
            compacted: -1,
        }
    }

    pub fn put(&mut self, revision: Revision, key: &[u8], value: &[u8], lease: i64) {
        let prev = self.state(i64::MAX).remove(key);
        let (create, version) = prev.map_or((revision.main, 1), |pair| (pair.create, pair.version + 1));
        let pair = Pair {
            create,
            modified: revision.main,
            version,
            lease,
            value: value.to_vec(),
        };
        self.log.push(Logged {
            revision,
            key: key.to_vec(),
            pair: Some(pair),
        });
    }

    pub fn delete(&mut self, revision: Revision, key: &[u8]) {
        self.log.push(Logged {
            revision,
            key: key.to_vec(),
            pair: None,
        });
    }

    /// The pairs that exist at a revision.
    pub fn state(&self, main: i64) -> BTreeMap<Vec<u8>, Pair> {
        let mut state = BTreeMap::new();
        for change in self.log.iter().take_while(|change| change.revision.main <= main) {
            match &change.pair {
                Some(pair) => state.insert(change.key.clone(), pair.clone()),
                None => state.remove(&change.key),
            };
        }
        state
    }

    /// The rows that stay when the compaction is physically done.
    pub fn rows(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut first_kept = BTreeMap::new();
        for change in self.log.iter().filter(|change| change.revision.main <= self.compacted) {
            let edge = |kept: &&Logged| kept.pair.is_none() && kept.revision.main == self.compacted;
            if first_kept.get(&change.key).is_none_or(|kept: &&Logged| !edge(kept)) {
                first_kept.insert(change.key.clone(), change);
            }
        }
        let stays = |change: &&Logged| {
            let main = change.revision.main;
            let dead = change.pair.is_none() && main < self.compacted;
            main > self.compacted || (first_kept[&change.key].revision <= change.revision && !dead)
        };
        self.log
            .iter()
            .filter(stays)
            .map(|change| (change.row(), change.encoded()))
            .collect()
    }

    /// `HashKV` by the words of the rule, over `rows`.
    pub fn hash_kv(&self, main: i64, rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> u32 {
        let kept: BTreeSet<_> = {
            let mut newest = BTreeMap::new();
            for change in self.log.iter().filter(|change| change.revision.main <= main) {
                newest.insert(&change.key, change);
            }
            newest
                .values()
                .filter(|change| change.pair.is_some())
                .map(|change| change.revision)
                .collect()
        };
        let mut hash = crc32c::crc32c(b"key");
        for (row, value) in rows {
            let (revision, tombstone) = RowKey::parse(row).unwrap();
            let newer = revision.main > main;
            let compacted = revision.main <= self.compacted && !kept.is_empty() && !kept.contains(&revision);
            let edge = tombstone && revision.main == self.compacted;
            if !newer && !compacted && !edge {
                hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, row), value);
            }
        }
        hash
    }
}
