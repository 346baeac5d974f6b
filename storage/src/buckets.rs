//! The buckets of the B+tree: their ids in our format and their names in etcd's.

/// A top-level bucket. The number is its id in our B+tree and never changes meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Bucket {
    /// Raised alarms: `AlarmMember` message -> nothing.
    Alarm = 1,
    /// `authEnabled`, `authRevision`.
    Auth = 2,
    /// Role name -> `authpb.Role`.
    AuthRoles = 3,
    /// User name -> `authpb.User`.
    AuthUsers = 4,
    /// `clusterVersion`, `downgrade`.
    Cluster = 5,
    /// Revision -> `mvccpb.KeyValue`.
    Key = 6,
    /// Lease id (u64 big-endian) -> `leasepb.Lease`.
    Lease = 7,
    /// Member id (hexadecimal) -> JSON of the member.
    Members = 8,
    /// Member id (hexadecimal) -> `removed`.
    MembersRemoved = 9,
    /// Bookkeeping: compaction marks, consistent index, term, conf state.
    Meta = 10,
}

impl Bucket {
    /// Every bucket, in the order of etcd's names (bbolt keeps its buckets in byte order of their names).
    pub const ALL: [Bucket; 10] = [
        Bucket::Alarm,
        Bucket::Auth,
        Bucket::AuthRoles,
        Bucket::AuthUsers,
        Bucket::Cluster,
        Bucket::Key,
        Bucket::Lease,
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Meta,
    ];

    /// The id in our B+tree.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The bucket of an id, if there is one.
    pub fn from_id(id: u8) -> Option<Bucket> {
        Bucket::ALL.into_iter().find(|bucket| bucket.id() == id)
    }

    /// etcd's name of the bucket.
    pub const fn name(self) -> &'static str {
        match self {
            Bucket::Alarm => "alarm",
            Bucket::Auth => "auth",
            Bucket::AuthRoles => "authRoles",
            Bucket::AuthUsers => "authUsers",
            Bucket::Cluster => "cluster",
            Bucket::Key => "key",
            Bucket::Lease => "lease",
            Bucket::Members => "members",
            Bucket::MembersRemoved => "members_removed",
            Bucket::Meta => "meta",
        }
    }

    /// The bucket that etcd calls `name`, if there is one.
    pub fn from_name(name: &[u8]) -> Option<Bucket> {
        Bucket::ALL.into_iter().find(|bucket| bucket.name().as_bytes() == name)
    }
}

/// Keys of [`Bucket::Meta`].
pub mod meta {
    /// Index of the last applied raft entry, u64 big-endian. In our tree it stands in the meta page instead.
    pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    /// Term of that entry, u64 big-endian. In our tree it stands in the meta page instead.
    pub const TERM: &[u8] = b"term";
    /// JSON of `raftpb.ConfState`.
    pub const CONF_STATE: &[u8] = b"confState";
    /// Revision of the last compaction whose physical deletes are done, 17 bytes.
    pub const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
    /// Revision of the last compaction accepted, 17 bytes.
    pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
    /// Text of the storage version, since etcd 3.6.
    pub const STORAGE_VERSION: &[u8] = b"storageVersion";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_of_names_and_ids_name_one_bucket_each() {
        assert!(Bucket::ALL.windows(2).all(|pair| pair[0].name() < pair[1].name()));
        for bucket in Bucket::ALL {
            assert_eq!(Bucket::from_id(bucket.id()), Some(bucket));
            assert_eq!(Bucket::from_name(bucket.name().as_bytes()), Some(bucket));
        }
        assert_eq!(Bucket::from_id(0), None);
        assert_eq!(Bucket::from_name(b"lessor"), None);
    }
}
