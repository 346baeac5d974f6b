//! The ids of members and clusters, derived as etcd derives them, so that both sides of a migration agree.

use sha1::{Digest, Sha1};

use super::Url;

/// The id of a member that was there when the cluster was born.
///
/// Source: the first eight bytes, big-endian, of SHA-1 over the sorted peer URLs joined without a separator, then the token.
pub fn member_id(peer_urls: &[Url], token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(Url::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    first_eight_bytes(hash)
}

/// The id of the cluster that was born with these members.
///
/// Source: the first eight bytes, big-endian, of SHA-1 over the ids in ascending order, eight big-endian bytes each.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight_bytes(hash)
}

fn first_eight_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(head)
}
