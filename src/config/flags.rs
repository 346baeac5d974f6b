//! The table of every flag the server knows: its name, kind, default, and what becomes of it.
//!
//! Every flag that etcd 3.5 or 3.6 defines has one row here, so that an etcd command line is either obeyed or refused with a
//! reason; nothing is ignored in silence. The environment variable of a flag is derived from its name ([`env_name`]).
//! Parsing lives in `args.rs`, the meaning of each value in `settings.rs`.

mod table;

pub use table::FLAGS;

/// How the text of a flag's value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A Go boolean; the flag may stand without a value.
    Bool,
    /// An unsigned integer of 64 bits, in Go's base-prefix syntax.
    Uint,
    /// An unsigned integer of 32 bits.
    Uint32,
    /// A signed integer of 64 bits.
    Int,
    /// A Go duration such as `1m30s`.
    Duration,
    /// A span of time: whole microseconds, or a Go duration.
    Microseconds,
    /// A comma-separated list of URLs.
    Urls,
    /// One of a fixed set of words.
    Choice(&'static [&'static str]),
    /// A list of `Name=bool` feature gates.
    Gates,
    /// Anything at all; a legacy flag that may stand without a value.
    Any,
}

/// What the server does with a flag that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Obeyed.
    Effective,
    /// Another name of the flag it names; giving both is an error.
    Alias(&'static str),
    /// The old boolean form of the feature gate it names; giving both is an error.
    Gate(&'static str),
    /// Accepted for the sake of old command lines; etcd ignores it too.
    Legacy,
    /// Accepted with a warning: what it tunes has no counterpart here.
    Moot(&'static str),
    /// Accepted only with this value, which asks for what the server does anyway; refused otherwise with the reason.
    Only(&'static str, &'static str),
}

/// The heading under which `--help` lists a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The member itself: name, directories, listeners, limits.
    Member,
    /// The cluster it belongs to.
    Clustering,
    /// Metrics, profiling, tracing.
    Monitoring,
    /// Log level, format and sink.
    Logging,
    /// What etcore has and etcd has not.
    Etcore,
    /// Not listed.
    Hidden,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// The name without dashes.
    pub name: &'static str,
    /// How its value is read.
    pub kind: Kind,
    /// The default as text, in the syntax of the value.
    pub default: &'static str,
    /// The heading it is listed under.
    pub group: Group,
    /// What becomes of it.
    pub status: Status,
    /// One sentence for `--help`.
    pub help: &'static str,
}

impl Flag {
    /// Whether the flag may stand alone, without a value.
    pub fn may_stand_alone(&self) -> bool {
        matches!(self.kind, Kind::Bool | Kind::Any)
    }
}

/// The row of the flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The environment variable that sets the flag of that name.
pub fn env_name(name: &str) -> String {
    format!("ETCD_{}", name.replace('-', "_").to_uppercase())
}
