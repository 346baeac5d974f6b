//! The points of [`mod@storage::failpoint`], armed as gofail's are, so that suites made for etcd can use them.
//!
//! `GOFAIL_FAILPOINTS="a=panic;b=sleep(100)"` arms points at start, `GOFAIL_HTTP=127.0.0.1:port` opens a port over which
//! they are armed later (`http.rs`). `terms.rs` has the language of what happens. A `panic` ends the process with exit
//! code 2 at that very instruction, from whatever thread: nothing is flushed and no destructor runs.
//!
//! Source: go.etcd.io/gofail, its design document and runtime. docs/FAULT_MODEL.md says where each point lies.

mod http;
mod terms;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use storage::failpoint::Reaction;

use terms::{Action, Terms};

/// Every point there is, sorted.
pub const NAMES: &[&str] = &[
    "afterCommit",
    "afterStartDBTxn",
    "afterWritebackBuf",
    "applyAfterOpenSnapshot",
    "applyBeforeOpenSnapshot",
    "beforeApplyOneConfChange",
    "beforeApplyOneEntryNormal",
    "beforeCommit",
    "beforeLookupWhenForwardLeaseTimeToLive",
    "beforeLookupWhenLeaseTimeToLive",
    "beforeSendWatchResponse",
    "beforeStartDBTxn",
    "beforeWritebackBuf",
    "commitAfterPreCommitHook",
    "commitBeforePreCommitHook",
    "compactAfterAcquiredBatchTxLock",
    "compactAfterCommitBatch",
    "compactAfterCommitScheduledCompact",
    "compactAfterSetFinishedCompact",
    "compactBeforeCommitBatch",
    "compactBeforeCommitScheduledCompact",
    "compactBeforeSetFinishedCompact",
    "defragBeforeCopy",
    "defragBeforeRename",
    "raftAfterApplySnap",
    "raftAfterSave",
    "raftAfterSaveSnap",
    "raftAfterWALRelease",
    "raftBeforeAdvance",
    "raftBeforeApplySnap",
    "raftBeforeFollowerSend",
    "raftBeforeLeaderSend",
    "raftBeforeSave",
    "raftBeforeSaveSnap",
    "raftBeforeSaveWaitWalSync",
    "raftBeforeWALSaveSnaphot",
    "raftDropHeartbeat",
    "walAfterSync",
    "walBeforeSync",
];

/// Exit code of a point that panics: that of a Go program.
const EXIT_PANIC: i32 = 2;

/// How many points are armed: a look at it is all that a point costs when none is.
static ARMED: AtomicUsize = AtomicUsize::new(0);
static POINTS: Mutex<BTreeMap<&'static str, Terms>> = Mutex::new(BTreeMap::new());
/// Held while a request arms a point: it is answered before the point ends the process.
static ANSWERING: Mutex<()> = Mutex::new(());

/// Why a point could not be armed, asked or disarmed.
#[derive(Debug, thiserror::Error)]
pub enum FailpointError {
    /// There is no point of that name.
    #[error("failpoint: failpoint does not exist")]
    NoExist,
    /// It is not armed.
    #[error("failpoint: failpoint is disabled")]
    Disabled,
    /// The terms make no sense.
    #[error("failpoint: could not parse terms")]
    Terms,
    /// A part of the list is not `name=terms`.
    #[error("bad failpoint {0:?}")]
    List(String),
    /// `GOFAIL_FAILPOINTS` cannot be obeyed.
    #[error("GOFAIL_FAILPOINTS: {name}: {error}; GET / on GOFAIL_HTTP lists the names")]
    Environment {
        /// The point.
        name: String,
        /// Why.
        error: Box<FailpointError>,
    },
    /// The port cannot be opened.
    #[error("GOFAIL_HTTP: {0}: {1}")]
    Listen(String, io::Error),
}

/// Obeys the environment: arms points and opens the port. Before anything else happens.
///
/// Errors: it cannot be obeyed.
pub fn start(variable: impl Fn(&str) -> Option<String>) -> Result<(), FailpointError> {
    storage::failpoint::install(reached);
    if let Some(list) = variable("GOFAIL_FAILPOINTS") {
        for (name, terms) in parse_list(&list)? {
            enable(name, terms).map_err(|error| FailpointError::Environment {
                name: name.to_owned(),
                error: Box::new(error),
            })?;
        }
    }
    match variable("GOFAIL_HTTP") {
        Some(address) if !address.is_empty() => {
            http::listen(&address).map_err(|error| FailpointError::Listen(address, error))
        }
        _ => Ok(()),
    }
}

fn points() -> MutexGuard<'static, BTreeMap<&'static str, Terms>> {
    POINTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answering() -> MutexGuard<'static, ()> {
    ANSWERING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `name=terms` parts between semicolons.
fn parse_list(list: &str) -> Result<Vec<(&str, &str)>, FailpointError> {
    let parts = list.split(';').filter(|part| !part.trim().is_empty());
    parts
        .map(|part| {
            part.trim()
                .split_once('=')
                .ok_or_else(|| FailpointError::List(part.to_owned()))
        })
        .collect()
}

fn known(name: &str) -> Result<&'static str, FailpointError> {
    let at = NAMES.binary_search(&name).map_err(|_| FailpointError::NoExist)?;
    Ok(NAMES[at])
}

/// Arms a point; its count begins anew.
fn enable(name: &str, terms: &str) -> Result<(), FailpointError> {
    let name = known(name)?;
    let terms = Terms::parse(terms).ok_or(FailpointError::Terms)?;
    let mut points = points();
    points.insert(name, terms);
    ARMED.store(points.len(), Ordering::Relaxed);
    Ok(())
}

fn disable(name: &str) -> Result<(), FailpointError> {
    let name = known(name)?;
    let mut points = points();
    let removed = points.remove(name);
    ARMED.store(points.len(), Ordering::Relaxed);
    removed.map(drop).ok_or(FailpointError::Disabled)
}

/// The terms of an armed point, and how often one of them was carried out.
fn status(name: &str) -> Result<(String, u64), FailpointError> {
    let name = known(name)?;
    let points = points();
    let terms = points.get(name).ok_or(FailpointError::Disabled)?;
    Ok((terms.text().to_owned(), terms.count()))
}

/// The handler of every point.
fn reached(name: &'static str) -> Reaction {
    if ARMED.load(Ordering::Relaxed) == 0 {
        return Reaction::GoOn;
    }
    debug_assert!(known(name).is_ok(), "{name} is missing in the list of points");
    let action = points().get_mut(name).and_then(Terms::next);
    match action {
        None | Some(Action::Off) => Reaction::GoOn,
        Some(Action::Print) => {
            println!("failpoint print: {name}");
            Reaction::GoOn
        }
        Some(Action::Sleep(time)) => Reaction::Delay(time),
        Some(Action::Return) => Reaction::Return,
        Some(Action::Panic(message)) => end(message.as_deref().unwrap_or(name)),
    }
}

fn end(message: &str) -> ! {
    let _gate = answering();
    eprintln!("panic: failpoint panic: {message}");
    signal_hook::low_level::exit(EXIT_PANIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(NAMES.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_list_is_read_as_gofail_reads_it() {
        let read = parse_list("a=panic;;b=sleep(\"1s\")").unwrap();
        assert_eq!(read, [("a", "panic"), ("b", "sleep(\"1s\")")]);
        assert!(matches!(parse_list("a=off;nonsense"), Err(FailpointError::List(_))));
    }
}
