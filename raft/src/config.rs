//! What a [`crate::RawNode`] is told when it is made: limits and timing, and the durable state it starts from.

use crate::conf_change::ConfState;
use crate::error::{ConfigError, StartError};
use crate::types::{Entry, HardState, SnapshotMetadata};

/// Timing and limits of one member.
///
/// Every `max_*` is a bound on memory or on the size of one hand-over, so none may be zero. A limit in bytes always lets one
/// entry through, however large; the member above bounds the size of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The member's id, never 0 and never reused in the life of the cluster.
    pub id: u64,
    /// Silence after which a follower campaigns; the actual time-out is drawn from `election_ticks .. 2 * election_ticks`.
    /// Too small and slow disks depose healthy leaders; too large and a dead leader is missed for long.
    ///
    /// Units: ticks. Bounds: more than `heartbeat_ticks`; ten times is usual.
    pub election_ticks: u32,
    /// Interval of heartbeats.
    ///
    /// Units: ticks.
    pub heartbeat_ticks: u32,
    /// Ask whether an election can be won before raising the term, so that a member that was cut off does not depose a
    /// healthy leader when it returns.
    ///
    /// Source: Raft thesis, section 9.6.
    pub pre_vote: bool,
    /// Step down as leader when no quorum was heard for an election time-out, and refuse votes while a leader was heard
    /// within one.
    ///
    /// Source: Raft thesis, section 6.2.
    pub check_quorum: bool,
    /// Refuse proposals on followers instead of forwarding them to the leader.
    pub disable_proposal_forwarding: bool,
    /// Hand out committed entries before this member's own disk has them, once a quorum of others does.
    ///
    /// The member may apply such entries in memory and answer clients (a quorum holds them durably), but what it stores
    /// durably from applying them may not pass [`crate::RawNode::persisted_index`]: otherwise a crash leaves a state ahead
    /// of its log, which [`crate::RawNode::new`] refuses.
    pub commit_before_persist: bool,
    /// Size of the entries in one message.
    ///
    /// Units: bytes.
    pub max_size_per_message: u64,
    /// Number of entries in one message.
    pub max_entries_per_message: usize,
    /// Appends to one follower that may be unanswered.
    pub max_inflight_messages: usize,
    /// Size of the appends to one follower that may be unanswered.
    ///
    /// Units: bytes.
    pub max_inflight_bytes: u64,
    /// Size of the entries a leader holds uncommitted before it refuses proposals.
    ///
    /// Units: bytes.
    pub max_uncommitted_bytes: u64,
    /// Number of entries a leader holds uncommitted before it refuses proposals.
    pub max_uncommitted_entries: usize,
    /// Size of the committed entries that may be handed out and not yet applied.
    ///
    /// Units: bytes.
    pub max_committed_bytes_per_ready: u64,
    /// Number of committed entries in one Ready.
    pub max_committed_entries_per_ready: usize,
    /// Linearizable reads that may wait at a leader.
    pub max_pending_read_index: usize,
    /// Outgoing messages that may wait for [`crate::RawNode::ready`], and as many that may wait for a token. At the bound
    /// `step` refuses, which to the sender is a lost message.
    pub max_queued_messages: usize,
    /// Seed of the election jitter. Members of a group should have different seeds; the same seed and inputs give the same
    /// outputs, bit for bit.
    pub seed: u64,
}

impl Config {
    /// etcd's defaults for a member.
    pub fn new(id: u64) -> Config {
        Config {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            disable_proposal_forwarding: false,
            commit_before_persist: true,
            max_size_per_message: 1 << 20,
            max_entries_per_message: 64 << 10,
            max_inflight_messages: 512,
            max_inflight_bytes: 64 << 20,
            max_uncommitted_bytes: 1 << 30,
            max_uncommitted_entries: 1 << 20,
            max_committed_bytes_per_ready: 16 << 20,
            max_committed_entries_per_ready: 64 << 10,
            max_pending_read_index: 64 << 10,
            max_queued_messages: 64 << 10,
            seed: id,
        }
    }

    /// Checks that the values make sense together.
    ///
    /// Errors: the first value that does not, with what to do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id == 0 {
            return Err(ConfigError::ZeroId);
        }
        if self.heartbeat_ticks == 0 {
            return Err(ConfigError::ZeroLimit {
                name: "heartbeat_ticks",
            });
        }
        if self.election_ticks <= self.heartbeat_ticks {
            return Err(ConfigError::ElectionTooShort {
                election_ticks: self.election_ticks,
                heartbeat_ticks: self.heartbeat_ticks,
            });
        }
        let limits = [
            ("max_size_per_message", self.max_size_per_message),
            ("max_entries_per_message", self.max_entries_per_message as u64),
            ("max_inflight_messages", self.max_inflight_messages as u64),
            ("max_inflight_bytes", self.max_inflight_bytes),
            ("max_uncommitted_bytes", self.max_uncommitted_bytes),
            ("max_uncommitted_entries", self.max_uncommitted_entries as u64),
            ("max_committed_bytes_per_ready", self.max_committed_bytes_per_ready),
            (
                "max_committed_entries_per_ready",
                self.max_committed_entries_per_ready as u64,
            ),
            ("max_pending_read_index", self.max_pending_read_index as u64),
            ("max_queued_messages", self.max_queued_messages as u64),
        ];
        match limits.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(ConfigError::ZeroLimit { name }),
            None if self.max_inflight_bytes < self.max_size_per_message => Err(ConfigError::InflightTooSmall {
                max_inflight_bytes: self.max_inflight_bytes,
                max_size_per_message: self.max_size_per_message,
            }),
            None => Ok(()),
        }
    }
}

/// What a member found on its disk when it started; the default is a member that has nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// The last durable hard state. A commit index behind `applied` or the log's start is raised to it.
    pub hard_state: HardState,
    /// The configuration as of `applied`.
    ///
    /// Changes in the log are applied on top of it, so members that replay the log from its beginning must all begin with
    /// the same one. A group is founded either with that one given to everybody, later joiners included, or, as etcd does
    /// it, with an empty one and a log that begins with a committed [`crate::ConfChange`] for each founder, all in term 1.
    /// A joiner that is served by snapshot begins with an empty one.
    pub conf_state: ConfState,
    /// Where the log begins: the entry before `entries[0]`. Its `conf_state` matters only if it is offered to followers.
    pub snapshot: SnapshotMetadata,
    /// The log after `snapshot`, without gaps.
    pub entries: Vec<Entry>,
    /// The last entry the member's durable state contains.
    pub applied: u64,
}

impl Start {
    /// Checks that the parts fit together.
    ///
    /// Errors: the first part that does not; each means a damaged or foreign data directory.
    pub fn validate(&self) -> Result<(), StartError> {
        let mut index = self.snapshot.index;
        let mut term = self.snapshot.term;
        for entry in &self.entries {
            if entry.index != index + 1 {
                return Err(StartError::Gap {
                    expected: index + 1,
                    found: entry.index,
                });
            }
            if entry.term < term {
                return Err(StartError::TermDecreases {
                    index: entry.index,
                    before: term,
                    found: entry.term,
                });
            }
            (index, term) = (entry.index, entry.term);
        }
        if self.hard_state.term < term {
            return Err(StartError::TermBehindLog {
                term: self.hard_state.term,
                last_term: term,
            });
        }
        if self.hard_state.commit > index {
            return Err(StartError::CommitBeyondLog {
                commit: self.hard_state.commit,
                last_index: index,
            });
        }
        if self.applied > index {
            return Err(StartError::AppliedBeyondLog {
                applied: self.applied,
                last_index: index,
            });
        }
        if self.applied < self.snapshot.index {
            return Err(StartError::AppliedBeforeLog {
                applied: self.applied,
                log_start: self.snapshot.index,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_etcd_are_valid() {
        assert_eq!(Config::new(1).validate(), Ok(()));
    }

    #[test]
    fn senseless_values_are_refused_by_name() {
        assert_eq!(Config::new(0).validate(), Err(ConfigError::ZeroId));
        let config = Config {
            election_ticks: 3,
            heartbeat_ticks: 3,
            ..Config::new(1)
        };
        assert!(matches!(config.validate(), Err(ConfigError::ElectionTooShort { .. })));
        let config = Config {
            max_pending_read_index: 0,
            ..Config::new(1)
        };
        assert_eq!(
            config.validate(),
            Err(ConfigError::ZeroLimit {
                name: "max_pending_read_index"
            })
        );
        let config = Config {
            max_inflight_bytes: 10,
            ..Config::new(1)
        };
        assert!(matches!(config.validate(), Err(ConfigError::InflightTooSmall { .. })));
    }

    #[test]
    fn durable_state_that_does_not_fit_together_is_refused() {
        let good = Start {
            hard_state: HardState {
                term: 3,
                vote: 0,
                commit: 6,
            },
            snapshot: SnapshotMetadata {
                index: 4,
                term: 2,
                ..Default::default()
            },
            entries: vec![Entry::normal(2, 5, "a"), Entry::normal(3, 6, "b")],
            applied: 5,
            ..Default::default()
        };
        assert_eq!(good.validate(), Ok(()));
        let spoiled = |spoil: fn(&mut Start)| {
            let mut start = good.clone();
            spoil(&mut start);
            start.validate().unwrap_err()
        };
        assert_eq!(
            spoiled(|start| start.entries[1].index = 7),
            StartError::Gap { expected: 6, found: 7 }
        );
        let decreasing = StartError::TermDecreases {
            index: 6,
            before: 2,
            found: 1,
        };
        assert_eq!(spoiled(|start| start.entries[1].term = 1), decreasing);
        assert_eq!(
            spoiled(|start| start.hard_state.term = 2),
            StartError::TermBehindLog { term: 2, last_term: 3 }
        );
        let beyond = StartError::CommitBeyondLog {
            commit: 7,
            last_index: 6,
        };
        assert_eq!(spoiled(|start| start.hard_state.commit = 7), beyond);
        assert_eq!(
            spoiled(|start| start.applied = 7),
            StartError::AppliedBeyondLog {
                applied: 7,
                last_index: 6
            }
        );
        assert_eq!(
            spoiled(|start| start.applied = 3),
            StartError::AppliedBeforeLog {
                applied: 3,
                log_start: 4
            }
        );
    }
}
