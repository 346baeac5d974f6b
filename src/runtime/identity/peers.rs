//! The cluster as a running member describes it on its peer URL.

use std::time::Duration;

use crate::{config::Url, member::MemberInfo, runtime::peer_http};

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub cluster_id: u64,
    /// Its members, by id.
    pub members: Vec<MemberInfo>,
}

/// Asks one after the other; the first answer counts.
///
/// Errors: what went wrong with the last one.
pub async fn ask_any(urls: &[&Url], each_max: Duration) -> Result<Running, String> {
    let mut why = "--initial-cluster names no other member".to_owned();
    for url in urls {
        match ask(url, each_max).await {
            Ok(running) => return Ok(running),
            Err(error) => why = format!("{url}: {error}"),
        }
    }
    Err(why)
}

async fn ask(url: &Url, max: Duration) -> Result<Running, String> {
    let answer = peer_http::get(url.as_str(), "/members", None, "", max).await?;
    if answer.status != 200 {
        return Err(format!("it answered with status {}", answer.status));
    }
    let cluster_id = answer.cluster_id.ok_or("it names no cluster id")?;
    let members: Vec<MemberInfo> = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    if members.is_empty() {
        return Err("it knows no members yet".into());
    }
    Ok(Running { cluster_id, members })
}
