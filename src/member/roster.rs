//! The members with their addresses in a small file beside the tree, for a start whose tree cannot be read.
//!
//! The shell writes it whenever the members have changed ([`Outputs::roster`](super::Outputs)): aside, synced, renamed. It
//! promises nothing that the log does not know already: it tells a member with a damaged tree whom to ask for a snapshot,
//! whatever its flags say now, and stands in for both meta pages ([`Roster::user`]).
//!
//! ```text
//!  etcore-members 1 crc32c=xxxxxxxx          over all bytes of the second line
//!  {"applied_index":N,"applied_term":N,"conf_state":"hex","members":[...]}
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use storage::{
    io::{Disk, DiskError, ErrorKind, Op, OpenOptions, Output},
    tree::MetaUser,
    wal::Recovered,
};

use super::{Engine, MemberInfo, Membership};

/// Name of the file.
pub const ROSTER: &str = "members";
/// Its longest text. Units: bytes.
const BYTES_MAX: usize = 1 << 20;
/// What its first line begins with.
const HEAD: &str = "etcore-members 1 crc32c=";

/// The members as of some applied entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    applied_index: u64,
    applied_term: u64,
    /// `raftpb.ConfState`, in hexadecimal.
    conf_state: String,
    /// The members, by id.
    pub members: Vec<MemberInfo>,
}

impl Roster {
    /// The text of the file.
    pub fn encode(&self) -> String {
        let line = serde_json::to_string(self).expect("it is plain data") + "\n";
        format!("{HEAD}{:08x}\n{line}", crc32c::crc32c(line.as_bytes()))
    }

    /// Reads the text back; none when it is damaged, or of another version.
    pub fn decode(text: &[u8]) -> Option<Roster> {
        let (head, line) = std::str::from_utf8(text).ok()?.split_once('\n')?;
        let sum = u32::from_str_radix(head.strip_prefix(HEAD)?, 16).ok()?;
        if crc32c::crc32c(line.as_bytes()) != sum {
            return None;
        }
        serde_json::from_str(line).ok()
    }

    /// Reads the file; nobody where there is none, or a damaged one. Blocks.
    ///
    /// Errors: the disk's.
    pub fn read(disk: &mut dyn Disk) -> Result<Roster, DiskError> {
        let open = Op::Open {
            path: ROSTER.to_owned(),
            options: OpenOptions::default(),
        };
        let file = match disk.call(open) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Roster::default()),
            Err(error) => return Err(error),
            Ok(Output::File(file)) => file,
            Ok(other) => unreachable!("an open answers a file, not {other:?}"),
        };
        let text = disk.call(Op::Read {
            file,
            offset: 0,
            len: BYTES_MAX,
        });
        disk.call(Op::Close(file))?;
        let Output::Data(text) = text? else {
            unreachable!("a read answers data");
        };
        let roster = Roster::decode(&text);
        if roster.is_none() {
            tracing::warn!(
                "file {ROSTER} in the data directory is damaged; it is written anew once the members are known"
            );
        }
        Ok(roster.unwrap_or_default())
    }

    /// What to go on with where no meta page can be read: at least this was applied. The log may know of more, since it lets
    /// go of nothing that is not in the tree.
    pub(super) fn user(&self, log: &Recovered) -> Option<MetaUser> {
        let mut user = MetaUser {
            applied_index: self.applied_index,
            applied_term: self.applied_term,
            conf_state: from_hex(&self.conf_state)?.into(),
            ..MetaUser::default()
        };
        let marker = log.snapshot.as_ref().map(|marker| (marker.index, marker.term));
        let first = log.entries.first().map(|entry| (entry.index, entry.term));
        if let Some(marker) = marker.filter(|marker| marker.0 > user.applied_index) {
            (user.applied_index, user.applied_term) = marker;
        }
        if let Some(first) = first.filter(|first| first.0 > user.applied_index + 1) {
            (user.applied_index, user.applied_term) = first;
        }
        (self.applied_index > 0).then_some(user)
    }
}

impl Engine {
    /// The roster to write, when the members have changed and everything applied is in the log for good.
    pub(super) fn changed_roster(&mut self) -> Option<String> {
        let member = &self.member;
        let known = self
            .roster_of
            .as_ref()
            .is_some_and(|members| Arc::ptr_eq(members, &member.members));
        let settled = member.applied.index > 0 && member.raft.persisted_index() >= member.applied.index;
        if known || !settled || self.refill.is_some() || self.install.is_taking() {
            return None;
        }
        self.roster_of = Some(member.members.clone());
        let Membership { members, .. } = &*member.members;
        let roster = Roster {
            applied_index: member.applied.index,
            applied_term: member.applied.term,
            conf_state: format!("{:x}", member.applied.conf_state),
            members: members.values().cloned().collect(),
        };
        Some(roster.encode())
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster() -> Roster {
        Roster {
            applied_index: 7,
            applied_term: 2,
            conf_state: "0a01ff".into(),
            members: vec![MemberInfo {
                id: 1,
                peer_urls: vec!["http://a:2380".into()],
                ..MemberInfo::default()
            }],
        }
    }

    #[test]
    fn its_text_is_pinned_and_read_back_whole_or_not_at_all() {
        let text = roster().encode();
        let line = r#"{"applied_index":7,"applied_term":2,"conf_state":"0a01ff","members":[{"id":1,"peerURLs":["http://a:2380"]}]}"#;
        let sum = crc32c::crc32c(format!("{line}\n").as_bytes());
        assert_eq!(text, format!("etcore-members 1 crc32c={sum:08x}\n{line}\n"));
        assert_eq!(Roster::decode(text.as_bytes()), Some(roster()));
        for at in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[at] ^= 1;
            // The sum's own digits may be written in capitals.
            assert!(Roster::decode(&bad).is_none_or(|read| read == roster()), "byte {at}");
            assert_eq!(Roster::decode(&text.as_bytes()[..at]), None);
        }
    }

    #[test]
    fn it_stands_in_for_the_meta_pages_with_what_the_log_must_have_applied() {
        let entry = |index| raft::Entry::normal(3, index, "");
        let log = |first: u64, last: u64| Recovered {
            identity: storage::wal::Identity {
                member_id: 1,
                cluster_id: 1,
            },
            created: false,
            hard_state: raft::HardState::default(),
            snapshot: None,
            entries: (first..=last).map(entry).collect(),
            torn_tail: None,
        };
        let applied = |log: &Recovered| roster().user(log).map(|user| (user.applied_index, user.applied_term));
        assert_eq!(applied(&log(1, 20)), Some((7, 2)));
        assert_eq!(applied(&log(8, 20)), Some((7, 2)), "it follows at once");
        assert_eq!(applied(&log(12, 20)), Some((12, 3)), "what lay between was applied");
        let mut marked = log(13, 20);
        marked.snapshot = Some(raft::SnapshotMetadata {
            index: 12,
            term: 2,
            ..raft::SnapshotMetadata::default()
        });
        assert_eq!(applied(&marked), Some((12, 2)), "a snapshot was taken over");
        assert_eq!(Roster::default().user(&log(1, 20)), None, "there is no file");
        assert_eq!(
            roster().user(&log(1, 20)).map(|user| user.conf_state.to_vec()),
            Some(vec![10, 1, 255])
        );
    }
}
