//! The same cluster twice, one of etcd and one of etcore: whatever is asked of their members gets the same answers.
//!
//! Needs the real etcd: `ETCORE_TEST_ETCD`, else `etcd` on PATH. Compared are codes, texts, pages, what matters of an
//! answer, and whether it came at once or only after the request time-out. Where 3.5 differs from 3.6 the answers of a
//! 3.5 are put as 3.6 puts them, by the list [`IN_3_6`]; what
//! differs on purpose is in [`ON_PURPOSE`].

mod probes;
mod stories;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tonic::Status;

use crate::{
    rig::{Cluster, Place},
    support::*,
};

/// An answer that takes this long was waited for. The request time-out of these clusters is six seconds.
const AT_ONCE: Duration = Duration::from_millis(3500);
/// One that has not come by then never will.
const NEVER: Duration = Duration::from_secs(10);

/// What 3.5 says, and what 3.6 says instead. Source: errors table.
const IN_3_6: &[(&str, &str)] = &[(
    "Unavailable: etcdserver: rpc not supported for learner",
    "FailedPrecondition: etcdserver: rpc not supported for learner",
)];

/// Questions that etcd and etcore answer differently on purpose: the end of what is asked, etcd's answer, etcore's.
const ON_PURPOSE: &[(&str, &str, &str)] = &[];

/// One thing that was looked at, and what was seen.
#[derive(Clone, PartialEq, Debug)]
struct Note {
    what: String,
    said: String,
}

/// One of the two clusters, and all that was seen of it, in order.
struct Side {
    cluster: Cluster,
    notes: Vec<Note>,
    /// Names for what differs from cluster to cluster.
    names: Vec<(String, String)>,
    is_3_5: bool,
}

impl Side {
    /// Writes down what was seen.
    fn note(&mut self, what: impl Into<String>, said: impl Into<String>) {
        let mut said = said.into();
        for (id, name) in &self.names {
            said = said.replace(id, name);
        }
        for (theirs, newer) in IN_3_6 {
            if self.is_3_5 {
                said = said.replace(theirs, newer);
            }
        }
        let what = what.into();
        self.notes.push(Note { what, said });
    }

    /// Asks one thing and writes down what it got.
    async fn ask<T>(&mut self, what: &str, call: impl Future<Output = Result<T, Status>>) -> Option<T> {
        let mut answer = None;
        let said = timed(async { call.await.map(|told| answer = Some(told)).map(|()| "done".to_owned()) }).await;
        self.note(what, said);
        answer
    }

    /// Calls members by their parts from now on: the leader, and the others in their order.
    async fn name_members(&mut self) -> [usize; 3] {
        let leader = self.cluster.leader().await;
        let parts = [leader, (leader + 1) % 3, (leader + 2) % 3];
        for (at, name) in parts.into_iter().zip(["leader", "follower", "other"]) {
            self.name_member(at, name).await;
        }
        parts
    }

    async fn name_member(&mut self, at: usize, name: &str) {
        let (id, node) = (self.cluster.nodes[at].id().await, &self.cluster.nodes[at]);
        let urls = [node.url(), node.peer_url()];
        let words = [id.to_string(), format!("{id:x}"), urls[0].clone(), urls[1].clone()];
        let kinds = ["", "", "client of ", "peer of "];
        for (word, kind) in words.into_iter().zip(kinds) {
            self.names.push((word, format!("<{kind}{name}>")));
        }
    }
}

/// What came of a call, with how long it took, in words.
async fn timed(call: impl Future<Output = Result<String, Status>>) -> String {
    let started = Instant::now();
    let Ok(answer) = tokio::time::timeout(NEVER, call).await else {
        return "no answer".to_owned();
    };
    let when = match started.elapsed() < AT_ONCE {
        true => "at once",
        false => "in the end",
    };
    match answer {
        Ok(told) => format!("{told} ({when})"),
        Err(status) => format!("{:?}: {} ({when})", status.code(), status.message()),
    }
}

/// Tells the same story of both clusters at the same time, and compares what was seen.
async fn told_of_both(members: usize, flags: &[&str], story: impl AsyncFn(&mut Side)) {
    let Some(etcd) = tools::reference_etcd() else {
        return skipped("etcd on PATH or in ETCORE_TEST_ETCD");
    };
    let is_3_5 = tools::run(std::process::Command::new(&etcd).arg("--version"))
        .ok()
        .contains("etcd Version: 3.5.");
    let place = Place {
        etcd: Some(etcd),
        ..Place::default()
    };
    let (theirs, ours) = tokio::join!(
        Cluster::start_at(vec![place; members], flags),
        Cluster::start(members, flags)
    );
    let side = |cluster, is_3_5| Side {
        cluster,
        notes: Vec::new(),
        names: Vec::new(),
        is_3_5,
    };
    let (mut theirs, mut ours) = (side(theirs, is_3_5), side(ours, false));
    tokio::join!(story(&mut theirs), story(&mut ours));
    compare(&theirs.notes, &ours.notes);
}

fn compare(theirs: &[Note], ours: &[Note]) {
    let whats = |notes: &[Note]| notes.iter().map(|note| note.what.clone()).collect::<Vec<_>>();
    assert_eq!(whats(theirs), whats(ours), "both were asked the same");
    assert!(!ours.is_empty());
    let pairs = theirs.iter().zip(ours);
    let on_purpose = |theirs: &Note, ours: &Note| {
        let is_it = |(what, etcd, etcore): &(&str, &str, &str)| {
            ours.what.ends_with(what) && theirs.said == *etcd && ours.said == *etcore
        };
        ON_PURPOSE.iter().any(is_it)
    };
    let different = pairs.filter(|(theirs, ours)| theirs != ours && !on_purpose(theirs, ours));
    let lines: Vec<String> = different
        .map(|(theirs, ours)| format!("{}:\n  etcd   {}\n  etcore {}\n", ours.what, theirs.said, ours.said))
        .collect();
    assert!(
        lines.is_empty(),
        "{} of {} answers differ:\n{}",
        lines.len(),
        ours.len(),
        lines.concat()
    );
    println!("{} answers are the same", ours.len());
}
