//! etcd's error codes and texts, exactly: Go clients compare the text.

use net::grpc::{Code, Status};

use crate::member::Refusal;

/// One error of the API: a gRPC code and a fixed text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// gRPC status code.
    pub code: Code,
    /// `grpc-message`.
    pub text: &'static str,
}

macro_rules! failures {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        $(#[doc = $text] pub const $name: Failure = Failure { code: Code::$code, text: $text };)*
        /// Every error of the table.
        pub const ALL: &[Failure] = &[$($name),*];
    };
}

failures! {
    EMPTY_KEY = InvalidArgument, "etcdserver: key is not provided";
    KEY_NOT_FOUND = InvalidArgument, "etcdserver: key not found";
    VALUE_PROVIDED = InvalidArgument, "etcdserver: value is provided";
    LEASE_PROVIDED = InvalidArgument, "etcdserver: lease is provided";
    TOO_MANY_OPS = InvalidArgument, "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument, "etcdserver: duplicate key given in txn request";
    INVALID_SORT_OPTION = InvalidArgument, "etcdserver: invalid sort option";
    COMPACTED = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    UNREADABLE = Internal, "grpc: error unmarshalling request: the message is not valid protobuf";
    NO_SPACE = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LEASE_NOT_FOUND = NotFound, "etcdserver: requested lease not found";
    LEASE_EXISTS = FailedPrecondition, "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE = OutOfRange, "etcdserver: too large lease TTL";
    WATCH_CANCELED = Canceled, "etcdserver: watch canceled";
    MEMBER_EXISTS = FailedPrecondition, "etcdserver: member ID already exist";
    PEER_URL_EXISTS = FailedPrecondition, "etcdserver: Peer URLs already exists";
    MEMBER_NOT_ENOUGH_STARTED = Unknown, "etcdserver: re-configuration failed due to not enough started members";
    MEMBER_BAD_URLS = InvalidArgument, "etcdserver: given member URLs are invalid";
    MEMBER_NOT_FOUND = NotFound, "etcdserver: member not found";
    MEMBER_NOT_LEARNER = FailedPrecondition, "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY = FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS = FailedPrecondition, "etcdserver: too many learner members in cluster";
    REQUEST_TOO_LARGE = InvalidArgument, "etcdserver: request is too large";
    TOO_MANY_REQUESTS = Unknown, "etcdserver: too many requests";
    NO_LEADER = Unavailable, "etcdserver: no leader";
    NOT_FOR_LEARNER = FailedPrecondition, "etcdserver: rpc not supported for learner";
    NOT_LEADER = FailedPrecondition, "etcdserver: not leader";
    LEADER_CHANGED = Unavailable, "etcdserver: leader changed";
    NOT_CAPABLE = FailedPrecondition, "etcdserver: not capable";
    STOPPED = Unavailable, "etcdserver: server stopped";
    TIMEOUT = Unavailable, "etcdserver: request timed out";
    TIMEOUT_LEADER_FAILED = Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TIMEOUT_CONNECTION_LOST = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TRANSFER_TIMEOUT = Unknown, "etcdserver: request timed out, leader transfer took too long";
    UNHEALTHY = Unavailable, "etcdserver: unhealthy cluster";
    CORRUPT = DataLoss, "etcdserver: corrupt cluster";
    BAD_LEADER_TRANSFEREE = FailedPrecondition, "etcdserver: bad leader transferee";
    DEADLINE_EXCEEDED = DeadlineExceeded, "etcdserver: context deadline exceeded";
    NEVER_PROPOSED = DeadlineExceeded, "context deadline exceeded";
    INVALID_CLIENT_API_VERSION = InvalidArgument, "etcdserver: invalid client api version";
    AUTH_NOT_ENABLED = FailedPrecondition, "etcdserver: authentication is not enabled";
    NOT_PRIMARY = Unknown, "not a primary lessor";
    PROPOSAL_DROPPED = Unknown, "raft proposal dropped";
    WRONG_DOWNGRADE_VERSION_FORMAT = InvalidArgument, "etcdserver: wrong downgrade target version format";
    CLUSTER_VERSION_UNAVAILABLE = FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DOWNGRADE_IN_PROCESS = FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    INVALID_DOWNGRADE_TARGET_VERSION = InvalidArgument, "etcdserver: invalid downgrade target version";
    UNKNOWN_METHOD = Unknown, "etcdserver: unknown method";
    UNKNOWN_HEALTH_SERVICE = NotFound, "unknown service";
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        match refusal {
            Refusal::Compacted => COMPACTED,
            Refusal::FutureRevision => FUTURE_REVISION,
            Refusal::KeyNotFound => KEY_NOT_FOUND,
            Refusal::LeaseNotFound => LEASE_NOT_FOUND,
            Refusal::LeaseExists => LEASE_EXISTS,
            Refusal::LeaseTtlTooLarge => LEASE_TTL_TOO_LARGE,
            Refusal::NoSpace => NO_SPACE,
            Refusal::Corrupt => CORRUPT,
            Refusal::TooManyRequests => TOO_MANY_REQUESTS,
            Refusal::ProposalDropped => PROPOSAL_DROPPED,
            Refusal::LeaderChanged => LEADER_CHANGED,
            Refusal::Timeout => TIMEOUT,
            Refusal::TimeoutLeaderFailed => TIMEOUT_LEADER_FAILED,
            Refusal::TimeoutConnectionLost => TIMEOUT_CONNECTION_LOST,
            Refusal::NeverProposed => NEVER_PROPOSED,
            Refusal::TransferTimeout => TRANSFER_TIMEOUT,
            Refusal::NoLeader => NO_LEADER,
            Refusal::Stopped => STOPPED,
            Refusal::NotLeader => NOT_LEADER,
            Refusal::NotPrimary => NOT_PRIMARY,
            Refusal::BadTransferee => BAD_LEADER_TRANSFEREE,
            Refusal::MemberNotFound => MEMBER_NOT_FOUND,
            Refusal::MemberExists => MEMBER_EXISTS,
            Refusal::PeerUrlExists => PEER_URL_EXISTS,
            Refusal::NotEnoughStarted => MEMBER_NOT_ENOUGH_STARTED,
            Refusal::TooManyLearners => TOO_MANY_LEARNERS,
            Refusal::MemberNotLearner => MEMBER_NOT_LEARNER,
            Refusal::LearnerNotReady => LEARNER_NOT_READY,
            Refusal::Unhealthy => UNHEALTHY,
            Refusal::NotCapable => NOT_CAPABLE,
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        Status::new(failure.code, failure.text)
    }
}
