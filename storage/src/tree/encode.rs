//! Dirty nodes and the directory as page runs.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    draft::{Body, Child, Draft, NodeId},
    format::{BRANCH_ELEMENT_BYTES, BucketRef, DIRECTORY_ELEMENT_BYTES, HEADER_BYTES, LEAF_ELEMENT_BYTES, PageRef},
    page::Kind,
};

/// A single value from this size on is not copied into the write buffer. Units: bytes.
pub(super) const LONE_VALUE_BYTES_MIN: usize = 64 << 10;

/// Appends the page run of a planned node to `out` and keeps its checksum in the node, whose content is dropped.
pub(super) fn node(draft: &mut Draft, id: NodeId, page_size: usize, out: &mut BytesMut) {
    let start = out.len();
    let node = draft.node(id);
    let at = node.at.expect("only planned nodes are written");
    match &node.body {
        Body::Leaf(pairs) => leaf(pairs, at.page, out),
        Body::Branch(children) => branch(draft, children, at.page, out),
    }
    assert_eq!(
        out.len() - start,
        node.bytes,
        "the length kept with a node is the length of its run"
    );
    out.put_bytes(0, at.pages as usize * page_size - (out.len() - start));
    finish(draft, id, crc32c::crc32c(&out[start..]));
}

/// Whether a node is one large value, which is better written from where it lies.
pub(super) fn is_lone_value(draft: &Draft, id: NodeId) -> bool {
    match &draft.node(id).body {
        Body::Leaf(pairs) => pairs.len() == 1 && pairs[0].1.len() >= LONE_VALUE_BYTES_MIN,
        Body::Branch(_) => false,
    }
}

/// The page run of a lone value in pieces, without copying the value.
pub(super) fn lone_value(draft: &mut Draft, id: NodeId, page_size: usize) -> Vec<Bytes> {
    let node = draft.node(id);
    let at = node.at.expect("only planned nodes are written");
    let (key, value) = node.pairs()[0].clone();
    let mut head = BytesMut::new();
    leaf_head(&[(key, value.clone())], at.page, &mut head);
    head.extend_from_slice(&node.pairs()[0].0);
    let padding = Bytes::from(vec![0; at.pages as usize * page_size - head.len() - value.len()]);
    let pieces = vec![head.freeze(), value, padding];
    let crc = pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
    finish(draft, id, crc);
    pieces
}

/// The page run of the directory.
pub(super) fn directory(buckets: &[BucketRef], page: u64, run_bytes: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(run_bytes);
    header(Kind::Directory, buckets.len(), page, &mut out);
    for bucket in buckets {
        out.put_u32_le(u32::from(bucket.bucket));
        out.put_u32_le(bucket.height);
        page_ref(bucket.root, &mut out);
        out.put_u64_le(bucket.entries);
    }
    out.put_bytes(0, run_bytes - out.len());
    out.freeze()
}

/// Length of a directory before padding.
pub(super) fn directory_bytes(buckets: usize) -> usize {
    HEADER_BYTES + buckets * DIRECTORY_ELEMENT_BYTES
}

fn finish(draft: &mut Draft, id: NodeId, crc: u32) {
    let node = draft.node_mut(id);
    node.at = node.at.map(|at| PageRef { crc, ..at });
    node.body = Body::Leaf(Vec::new());
}

fn header(kind: Kind, count: usize, page: u64, out: &mut BytesMut) {
    out.put_u32_le(kind as u32);
    out.put_u32_le(count as u32);
    out.put_u64_le(page);
}

fn page_ref(at: PageRef, out: &mut BytesMut) {
    out.put_u64_le(at.page);
    out.put_u32_le(at.crc);
    out.put_u32_le(at.pages);
}

fn leaf(pairs: &[(Bytes, Bytes)], page: u64, out: &mut BytesMut) {
    leaf_head(pairs, page, out);
    for (key, value) in pairs {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
}

fn leaf_head(pairs: &[(Bytes, Bytes)], page: u64, out: &mut BytesMut) {
    header(Kind::Leaf, pairs.len(), page, out);
    let mut position = HEADER_BYTES + pairs.len() * LEAF_ELEMENT_BYTES;
    for (key, value) in pairs {
        out.put_u32_le(position as u32);
        out.put_u32_le(key.len() as u32);
        out.put_u32_le(value.len() as u32);
        position += key.len() + value.len();
    }
}

fn branch(draft: &Draft, children: &[(Bytes, Child)], page: u64, out: &mut BytesMut) {
    header(Kind::Branch, children.len(), page, out);
    let mut position = HEADER_BYTES + children.len() * BRANCH_ELEMENT_BYTES;
    for (key, child) in children {
        out.put_u32_le(position as u32);
        out.put_u32_le(key.len() as u32);
        page_ref(child_ref(draft, *child), out);
        position += key.len();
    }
    for (key, _) in children {
        out.extend_from_slice(key);
    }
}

/// Where a child is; a dirty one has been written by now.
pub(super) fn child_ref(draft: &Draft, child: Child) -> PageRef {
    match child {
        Child::Clean(at) => at,
        Child::Dirty(id) => draft
            .node(id)
            .at
            .expect("children are planned and written before their parents"),
    }
}
