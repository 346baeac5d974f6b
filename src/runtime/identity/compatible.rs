//! Whether a running cluster is one that this program can join, by the versions that its members tell on their peer URLs.
//!
//! Source: etcd's `isCompatibleWithCluster`.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    member::{MemberInfo, major_minor},
    runtime::peer_http,
    version::{CLUSTER_VERSION, MIN_CLUSTER_VERSION},
};

/// A member gets this long to tell its version.
const ASK_MAX: Duration = Duration::from_secs(5);
/// The first member of a new cluster may not have decided its version yet: it is asked so often.
const TRIES: u32 = 10;
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What `/version` answers.
#[derive(Deserialize)]
struct Versions {
    #[serde(rename = "etcdcluster", default)]
    cluster: String,
}

/// Asks all members but `me` for the cluster's version.
///
/// Errors: etcd's text, and why, when one is at a version that this program does not keep to, or when none tells one.
pub async fn check(members: &[MemberInfo], me: u64) -> Result<(), String> {
    let mut why = String::new();
    for _ in 0..TRIES {
        let mut told = Vec::new();
        for member in members.iter().filter(|member| member.id != me) {
            if let Some(version) = ask(member).await {
                told.push((member.id, version));
            }
        }
        match judge(&told) {
            Ok(()) => return Ok(()),
            Err(Unfit::Silent) => why = "no other member told its version in time".to_owned(),
            Err(Unfit::Wrong(text)) => {
                why = text;
                break;
            }
        }
        glommio::timer::sleep(TRY_AGAIN).await;
    }
    Err(format!("incompatible with current running cluster: {why}"))
}

/// Why a cluster cannot be joined.
#[derive(Debug, PartialEq, Eq)]
enum Unfit {
    /// Nobody said anything that is a version.
    Silent,
    /// Somebody said one that does not do.
    Wrong(String),
}

fn judge(told: &[(u64, String)]) -> Result<(), Unfit> {
    let ours = |text| major_minor(text).expect("it is a version");
    let (lowest, highest) = (ours(MIN_CLUSTER_VERSION), ours(CLUSTER_VERSION));
    let mut decided = false;
    for (id, text) in told {
        let Some(version) = major_minor(text) else {
            tracing::warn!(
                member = format!("{id:x}"),
                version = text,
                "a member's cluster version is none"
            );
            continue;
        };
        if version < lowest || version > highest {
            return Err(Unfit::Wrong(format!(
                "member {id:x} says that the cluster is at version {text}, and this program joins {}.{} to {}.{}; use the \
                 version that the other members run",
                lowest.0, lowest.1, highest.0, highest.1
            )));
        }
        decided = true;
    }
    decided.then_some(()).ok_or(Unfit::Silent)
}

/// The cluster's version as a member tells it; none when none of its URLs answers.
async fn ask(member: &MemberInfo) -> Option<String> {
    for url in &member.peer_urls {
        match peer_http::get(url, "/version", None, "", ASK_MAX).await {
            Ok(answer) if answer.status == 200 => match serde_json::from_str::<Versions>(&answer.body) {
                Ok(versions) => return Some(versions.cluster),
                Err(error) => tracing::warn!(url, %error, "a member's version cannot be read"),
            },
            Ok(answer) => tracing::warn!(url, status = answer.status, "a member does not tell its version"),
            Err(error) => tracing::warn!(url, error, "a member cannot be asked for its version"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_member_at_a_version_of_ours_is_enough_and_one_at_another_too_much() {
        let judge = |told: &[&str]| {
            let told: Vec<_> = told.iter().map(|version| (0xa, version.to_string())).collect();
            judge(&told)
        };
        assert_eq!(judge(&["3.6.0"]), Ok(()));
        assert_eq!(judge(&["not_decided", "3.5.0"]), Ok(()));
        assert_eq!(judge(&["3.0.0", "3.6.0"]), Ok(()));
        assert_eq!(judge(&[]), Err(Unfit::Silent));
        assert_eq!(judge(&["not_decided", ""]), Err(Unfit::Silent));
        for wrong in ["2.3.0", "3.7.0", "4.0.0"] {
            let Err(Unfit::Wrong(text)) = judge(&["3.6.0", wrong]) else {
                panic!("{wrong} does");
            };
            assert!(text.contains("member a ") && text.contains(wrong), "{text}");
        }
    }
}
