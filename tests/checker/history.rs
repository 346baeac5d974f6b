//! The one history that all members must tell: what each revision changed.
//!
//! Whoever tells of a revision first is believed if it fits what came before; every other teller must repeat it byte for
//! byte. What is once written down is committed, so it is never taken back. Answers, reads and watches are compared with it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use storage::mvcc::Kv;

/// One change as published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub key: Bytes,
    pub deleted: bool,
    /// The encoded pair.
    pub encoded: Bytes,
}

impl Change {
    /// The decoded pair; a tombstone has a key only.
    pub fn kv(&self) -> Kv<'_> {
        Kv::decode(&self.encoded).expect("it was decoded when it was written down")
    }
}

/// First letter of the keys whose value may be written a second time, by a put that ignores it.
pub const IGNORING: u8 = b'i';

/// First line of a value: which request wrote it.
pub fn writer_of(value: &[u8]) -> Option<u64> {
    let text = value.split(|byte| *byte == b'.').next()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Result of a check; the text says what is wrong.
pub type Check = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// The revisions that are known to have happened.
#[derive(Default)]
pub struct History {
    /// Changes of each revision from 2 on.
    revisions: Vec<Vec<Change>>,
    /// Of each key: (revision, the pair; none: deleted).
    keys: BTreeMap<Bytes, Vec<(i64, Option<Bytes>)>>,
    /// Writer -> revision.
    written: BTreeMap<u64, i64>,
    /// Requests that were refused for good: they must not show up.
    refused: BTreeSet<u64>,
    /// Highest revision that any member has compacted.
    pub compacted: i64,
}

impl History {
    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revisions.len() as i64 + 1
    }

    /// The changes of a revision.
    pub fn changes(&self, revision: i64) -> &[Change] {
        usize::try_from(revision - 2)
            .ok()
            .and_then(|at| self.revisions.get(at))
            .map_or(&[], Vec::as_slice)
    }

    /// Where a request wrote, if it did.
    pub fn written_at(&self, writer: u64) -> Option<i64> {
        self.written.get(&writer).copied()
    }

    /// Notes that a request was refused in a way that promises it has no effect.
    pub fn refuse(&mut self, writer: u64) -> Check {
        ensure!(
            !self.written.contains_key(&writer),
            "request {writer} was refused, but it wrote revision {}",
            self.written[&writer]
        );
        self.refused.insert(writer);
        Ok(())
    }

    /// The pair of a key as of a revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<Kv<'_>> {
        let versions = self.keys.get(key)?;
        let at = versions.partition_point(|(at, _)| *at <= revision);
        let (_, encoded) = versions.get(at.checked_sub(1)?)?;
        Some(Kv::decode(encoded.as_ref()?).expect("it was decoded when it was written down"))
    }

    /// All pairs of an interval as of a revision, encoded, in key order.
    pub fn range(&self, from: &[u8], end: &[u8], revision: i64) -> Vec<&Bytes> {
        let inside = |key: &[u8]| match end {
            b"" => key == from,
            b"\0" => key >= from,
            end => key >= from && key < end,
        };
        let keys = self.keys.range(Bytes::copy_from_slice(from)..);
        let keys = keys.take_while(|(key, _)| inside(key));
        let last = |versions: &'_ Vec<(i64, Option<Bytes>)>| {
            let at = versions.partition_point(|(at, _)| *at <= revision);
            at.checked_sub(1)
        };
        keys.filter_map(|(_, versions)| versions[last(versions)?].1.as_ref())
            .collect()
    }

    /// Takes what a member tells of the revision `main`, and the revisions at which its keys were changed before.
    pub fn tell(&mut self, main: i64, changes: Vec<Change>, prevs: &[Option<i64>]) -> Check {
        if main > self.revision() {
            return self.extend(main, changes, prevs);
        }
        let known = self.changes(main);
        ensure!(
            known == changes.as_slice(),
            "revision {main} differs: {changes:?} was {known:?} elsewhere"
        );
        Ok(())
    }

    fn extend(&mut self, main: i64, changes: Vec<Change>, prevs: &[Option<i64>]) -> Check {
        ensure!(main == self.revision() + 1, "revision {main} skips some");
        for (change, prev) in changes.iter().zip(prevs) {
            let kv = Kv::decode(&change.encoded).map_err(|error| format!("revision {main}: {error}"))?;
            ensure!(kv.key == change.key, "revision {main} holds a pair of another key");
            // A key may be put and deleted within one transaction, so the state just before is the newest of all.
            let before = self.get(&change.key, main);
            ensure!(
                before.map(|kv| kv.mod_revision) == *prev,
                "revision {main}: key {:?} was last changed at {before:?}, not {prev:?}",
                change.key
            );
            if change.deleted {
                ensure!(before.is_some(), "revision {main} deletes {:?} twice", change.key);
            } else {
                let (version, create) = before.map_or((1, main), |kv| (kv.version + 1, kv.create_revision));
                ensure!(
                    kv.mod_revision == main && kv.version == version && kv.create_revision == create,
                    "revision {main}: {kv:?} should have version {version}, creation {create}"
                );
            }
            let again = kv.key.first() == Some(&IGNORING) && before.is_some_and(|before| before.value == kv.value);
            if let Some(writer) = writer_of(kv.value).filter(|_| !again) {
                let earlier = self.written.insert(writer, main);
                ensure!(
                    earlier.is_none_or(|earlier| earlier == main),
                    "request {writer} was applied twice, at {earlier:?} and {main}"
                );
                ensure!(
                    !self.refused.contains(&writer),
                    "request {writer} was refused, but it wrote revision {main}"
                );
            }
            let encoded = (!change.deleted).then(|| change.encoded.clone());
            self.keys.entry(change.key.clone()).or_default().push((main, encoded));
        }
        self.revisions.push(changes);
        Ok(())
    }
}
