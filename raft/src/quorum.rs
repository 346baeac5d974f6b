//! Quorums: who must agree before something counts.

mod joint;
mod majority;

pub use joint::JointConfig;
pub use majority::MajorityConfig;

/// Where an election stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VoteResult {
    /// Open: the votes still missing decide.
    Pending,
    /// A quorum said no.
    Lost,
    /// A quorum said yes.
    Won,
}
