//! `Maintenance.Downgrade`: agreeing with the cluster to keep to the minor version below.
//!
//! It is checked and written down as etcd does: the cluster's version goes down, the status tells of it, and a cancel takes
//! it back. etcore's own files have one form and stay as they are.
//!
//! Source: etcd's `EtcdServer.Downgrade` and `version.Manager`; rpcs table, "Downgrade".

use std::sync::Arc;

use bytes::Bytes;
use net::pb::{
    etcdserverpb::{DowngradeRequest, DowngradeResponse, downgrade_request::DowngradeAction},
    membershippb::DowngradeInfoSetRequest,
};
use prost::Message;

use super::{
    Api,
    core::{Pending, Waiting},
    kv::{EntryField, entry},
    shard::{CallKey, Wires, decode},
    status::{self, Failure},
};
use crate::member::{Request, View, is_downgrade};

/// What is wanted, once the words of the request are known to make sense.
#[derive(Debug)]
pub(super) enum Wish {
    /// To know whether the cluster may go to `X.Y.0`.
    Validate(String),
    /// To go there.
    Enable(String),
    /// To stay.
    Cancel,
}

impl Api {
    /// Checks the words; what they mean for the cluster is checked against its newest state.
    pub(super) fn downgrade(&mut self, key: CallKey, message: Bytes) -> Result<(), Failure> {
        let request: DowngradeRequest = decode(message)?;
        let wish = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => Wish::Validate(target(&request.version)?),
            Ok(DowngradeAction::Enable) => Wish::Enable(target(&request.version)?),
            Ok(DowngradeAction::Cancel) => Wish::Cancel,
            Err(_) => return Err(status::UNKNOWN_METHOD),
        };
        self.wait_for_round(Waiting::Downgrade { key, wish })
    }

    /// Answers, or proposes, what was wished.
    pub(super) fn serve_downgrade(&mut self, view: &Arc<View>, key: CallKey, wish: &Wish, wires: &dyn Wires) {
        match self.grant(view, key, wish) {
            Ok(true) => self.downgraded(view, key, wires),
            Ok(false) => {}
            Err(failure) => self.fail(key, failure, wires),
        }
    }

    /// Whether there is nothing more to do than to answer.
    fn grant(&mut self, view: &View, key: CallKey, wish: &Wish) -> Result<bool, Failure> {
        let members = &view.members;
        let under_way = members.downgrade_target.is_some();
        match wish {
            Wish::Validate(target) | Wish::Enable(target) => {
                let version = members.cluster_version.as_deref();
                let version = version.ok_or(status::CLUSTER_VERSION_UNAVAILABLE)?;
                if !is_downgrade(version, target) {
                    return Err(status::INVALID_DOWNGRADE_TARGET_VERSION);
                }
                if under_way {
                    return Err(status::DOWNGRADE_IN_PROCESS);
                }
            }
            // etcd 3.6 logs that there is none and answers all the same.
            Wish::Cancel if !under_way => tracing::warn!("failed to cancel downgrade: no inflight downgrade job"),
            Wish::Cancel => {}
        }
        let request = match wish {
            Wish::Enable(target) => DowngradeInfoSetRequest {
                enabled: true,
                ver: target.clone(),
            },
            Wish::Cancel if under_way => DowngradeInfoSetRequest::default(),
            _ => return Ok(true),
        };
        let id = self.next_id();
        let data = entry(EntryField::DowngradeInfoSet, &request.encode_to_vec(), id);
        self.ask_as(id, Request::ProposeDowngrade { data }, Pending::Plain { key });
        Ok(false)
    }

    /// Answers a downgrade that was granted.
    pub(super) fn downgraded(&mut self, view: &View, key: CallKey, wires: &dyn Wires) {
        let version = view.members.cluster_version.as_deref().unwrap_or_default();
        let minor = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
        let answer = DowngradeResponse {
            header: Some(self.header(view, view.revision())),
            version: minor.to_owned(),
        };
        self.reply_to(key, &answer, wires);
    }
}

/// `X.Y` or `X.Y.Z`, of which the cluster keeps `X.Y.0`.
fn target(text: &str) -> Result<String, Failure> {
    // Go's semver takes digits only, and neither a leading zero nor nothing at all.
    let number = |part: &str| {
        let is_plain = part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
        part.parse::<u32>().ok().filter(|_| is_plain)
    };
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let core = if core.matches('.').count() == 2 { core } else { text };
    let numbers: Option<Vec<u32>> = core.split('.').map(number).collect();
    match numbers.as_deref() {
        Some([major, minor] | [major, minor, _]) => Ok(format!("{major}.{minor}.0")),
        _ => Err(status::WRONG_DOWNGRADE_VERSION_FORMAT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_version_with_or_without_its_patch_number() {
        for (text, kept) in [("3.5", "3.5.0"), ("3.5.7", "3.5.0"), ("3.10.0-rc.1", "3.10.0")] {
            assert_eq!(target(text).as_deref(), Ok(kept));
        }
        for text in [
            "", "3", "3.", "3.5.0.1", "3.x", "v3.5", "+3.5", "3.-5", "3.05.0", " 3.5",
        ] {
            assert_eq!(target(text), Err(status::WRONG_DOWNGRADE_VERSION_FORMAT), "{text:?}");
        }
    }
}
