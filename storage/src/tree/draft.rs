//! The open commit's changes in memory: nodes copied from pages when first touched, split when they grow too large.
//!
//! Merging waits until the commit is sealed (`plan`). Nothing here writes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    BucketId, Root, TreeError,
    format::{BRANCH_ELEMENT_BYTES, HEADER_BYTES, LEAF_ELEMENT_BYTES, PageRef},
    page::Kind,
};

pub(super) type NodeId = u32;

/// A leaf of middle-sized values may take this many pages, so that they do not each waste half a page.
const LEAF_PAGES_MAX: usize = 4;
/// A value is middle-sized from this part of a page on.
const MIDDLE_SIZED_PART: usize = 5;
/// Nodes at the growing end are filled to this many tenths.
const APPEND_FILL_TENTHS: usize = 9;

/// What a branch element points at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Child {
    Clean(PageRef),
    Dirty(NodeId),
}

#[derive(Debug)]
pub(super) enum Body {
    Leaf(Vec<(Bytes, Bytes)>),
    Branch(Vec<(Bytes, Child)>),
}

/// A node that the commit will write.
#[derive(Debug)]
pub(super) struct Node {
    pub body: Body,
    /// Length of its page run before padding.
    pub bytes: usize,
    /// It lost something, and may be merged with a neighbour.
    pub shrunk: bool,
    /// Where it goes, once planned; its checksum, once written.
    pub at: Option<PageRef>,
}

/// A bucket in the open commit.
#[derive(Debug)]
pub(super) struct Bucket {
    pub root: Option<Child>,
    pub height: u32,
    pub entries: u64,
    /// Way from the root to the last leaf, all dirty; empty when not known.
    tail: Vec<NodeId>,
}

/// All changes of the open commit.
#[derive(Debug)]
pub(super) struct Draft {
    base: Arc<Root>,
    nodes: Vec<Option<Node>>,
    /// The buckets touched.
    pub buckets: BTreeMap<BucketId, Bucket>,
    /// Page runs that the new root no longer reaches.
    pub freed: Vec<(u64, u32)>,
    path: Vec<(NodeId, usize)>,
}

impl Draft {
    pub fn new(base: Arc<Root>) -> Draft {
        Draft {
            base,
            nodes: Vec::new(),
            buckets: BTreeMap::new(),
            freed: Vec::new(),
            path: Vec::new(),
        }
    }

    pub fn base(&self) -> &Arc<Root> {
        &self.base
    }

    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes[id as usize].as_ref().expect("a node that its parent names")
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id as usize].as_mut().expect("a node that its parent names")
    }

    pub fn remove_node(&mut self, id: NodeId) -> Node {
        self.nodes[id as usize].take().expect("a node that its parent names")
    }

    /// Sets a key. The bounds are the caller's.
    pub fn put(&mut self, bucket: BucketId, key: &[u8], value: Bytes) -> Result<(), TreeError> {
        let state = self.open_bucket(bucket);
        if let Some(&leaf) = state.tail.last()
            && self.is_behind(leaf, key)
        {
            self.take_tail_path(bucket);
        } else if !self.descend(bucket, key)? {
            self.plant(bucket);
        }
        self.insert(bucket, key, value);
        Ok(())
    }

    /// Removes a key; whether it was there.
    pub fn delete(&mut self, bucket: BucketId, key: &[u8]) -> Result<bool, TreeError> {
        if !self.contains(bucket, key)? {
            return Ok(false);
        }
        self.descend(bucket, key)?;
        let state = self.open_bucket(bucket);
        state.tail.clear();
        state.entries -= 1;
        let &(leaf, _) = self.path.last().expect("the key is in a leaf");
        let node = self.node_mut(leaf);
        let entries = node.pairs_mut();
        let index = entries
            .binary_search_by(|(other, _)| other.as_ref().cmp(key))
            .expect("the key was just seen");
        let (key, value) = entries.remove(index);
        node.bytes -= leaf_bytes(&key, &value);
        node.shrunk = true;
        self.drop_empty(bucket);
        Ok(true)
    }

    /// Copies the nodes on the way to `key`, so that the commit writes them anew elsewhere.
    pub fn touch(&mut self, bucket: BucketId, key: &[u8]) -> Result<(), TreeError> {
        self.descend(bucket, key).map(drop)
    }

    /// The child as a dirty node, copied from its page if need be.
    pub fn dirty(&mut self, child: Child, height: u32) -> Result<NodeId, TreeError> {
        match child {
            Child::Dirty(id) => Ok(id),
            Child::Clean(at) => self.copy(at, Kind::at_height(height)),
        }
    }

    /// Length of a child's page run before padding.
    pub fn child_bytes(&self, child: Child, height: u32) -> Result<usize, TreeError> {
        let kind = Kind::at_height(height);
        match child {
            Child::Dirty(id) => Ok(self.node(id).bytes),
            Child::Clean(at) => Ok(self.base.run(at, kind)?.used_bytes(kind)),
        }
    }

    fn open_bucket(&mut self, bucket: BucketId) -> &mut Bucket {
        let base = &self.base;
        self.buckets.entry(bucket).or_insert_with(|| {
            let found = base.bucket(bucket);
            Bucket {
                root: found.map(|found| Child::Clean(found.root)),
                height: found.map_or(0, |found| found.height),
                entries: found.map_or(0, |found| found.entries),
                tail: Vec::new(),
            }
        })
    }

    /// Whether `key` comes behind everything in this last leaf.
    fn is_behind(&self, leaf: NodeId, key: &[u8]) -> bool {
        self.node(leaf)
            .pairs()
            .last()
            .is_some_and(|(last, _)| last.as_ref() < key)
    }

    fn take_tail_path(&mut self, bucket: BucketId) {
        let (nodes, tail) = (&self.nodes, &self.buckets[&bucket].tail);
        self.path.clear();
        self.path.extend(tail.iter().map(|&id| {
            let node = nodes[id as usize]
                .as_ref()
                .expect("the tail is dropped when a node of it goes");
            (id, node.len().saturating_sub(1))
        }));
    }

    /// Makes the way to `key` dirty and leaves it in `path`; whether the bucket has a root.
    fn descend(&mut self, bucket: BucketId, key: &[u8]) -> Result<bool, TreeError> {
        self.path.clear();
        let state = self.open_bucket(bucket);
        let height = state.height;
        let Some(root) = state.root else { return Ok(false) };
        let mut id = self.dirty(root, height)?;
        self.open_bucket(bucket).root = Some(Child::Dirty(id));
        for below in (1..height).rev() {
            let children = self.node(id).children();
            let index = child_index(children, key);
            let child = children[index].1;
            let next = self.dirty(child, below)?;
            self.node_mut(id).children_mut()[index].1 = Child::Dirty(next);
            self.path.push((id, index));
            id = next;
        }
        self.path.push((id, 0));
        Ok(true)
    }

    /// Gives an empty bucket its first leaf.
    fn plant(&mut self, bucket: BucketId) {
        let id = self.add(Body::Leaf(Vec::new()), HEADER_BYTES);
        let state = self.open_bucket(bucket);
        state.root = Some(Child::Dirty(id));
        state.height = 1;
        self.path.push((id, 0));
    }

    /// Puts a pair into the leaf at the end of `path`.
    fn insert(&mut self, bucket: BucketId, key: &[u8], value: Bytes) {
        let &(leaf, _) = self.path.last().expect("a way to a leaf");
        let last_way = self.is_last_way();
        let node = self.node_mut(leaf);
        let entries = node.pairs_mut();
        let behind = entries.last().is_none_or(|(last, _)| last.as_ref() < key);
        let place = if behind {
            Err(entries.len())
        } else {
            entries.binary_search_by(|(k, _)| k.as_ref().cmp(key))
        };
        let (grown, lost, added) = match place {
            Ok(index) => {
                let old = std::mem::replace(&mut entries[index].1, value);
                (entries[index].1.len(), old.len(), 0)
            }
            Err(index) => {
                let grown = leaf_bytes(key, &value);
                entries.insert(index, (Bytes::copy_from_slice(key), value));
                (grown, 0, 1)
            }
        };
        node.bytes = node.bytes + grown - lost;
        node.shrunk |= lost > grown;
        let append = behind && last_way;
        let state = self.open_bucket(bucket);
        state.entries += added;
        self.split_if_large(bucket, append);
        if last_way && !self.path.is_empty() && self.buckets[&bucket].tail.is_empty() {
            let tail = self.path.iter().map(|&(id, _)| id).collect();
            self.open_bucket(bucket).tail = tail;
        }
    }

    /// Whether `path` ends in the last leaf of its bucket.
    fn is_last_way(&self) -> bool {
        let (_, branches) = self.path.split_last().expect("a way to a leaf");
        branches.iter().all(|&(id, index)| index + 1 == self.node(id).len())
    }

    /// Splits the nodes of `path` from the leaf up as far as they are too large, emptying it if any is.
    fn split_if_large(&mut self, bucket: BucketId, append: bool) {
        let page_size = self.base.page_size();
        let &(leaf, _) = self.path.last().expect("a way to a leaf");
        if self.node(leaf).fits(page_size, append) {
            return;
        }
        self.open_bucket(bucket).tail.clear();
        while let Some((id, _)) = self.path.pop() {
            let node = self.node_mut(id);
            if node.fits(page_size, append) {
                break;
            }
            let parts = node.split(page_size, append);
            let parts: Vec<_> = parts
                .into_iter()
                .map(|(key, part)| (key, self.add_node(part)))
                .collect();
            self.adopt(bucket, id, parts);
        }
        self.path.clear();
    }

    /// Hangs the new right neighbours of `left` into its parent, the end of `path`, or under a new root.
    fn adopt(&mut self, bucket: BucketId, left: NodeId, parts: Vec<(Bytes, NodeId)>) {
        let (parent, index) = match self.path.last() {
            Some(&place) => place,
            None => {
                let first = vec![(Bytes::new(), Child::Dirty(left))];
                let parent = self.add(Body::Branch(first), HEADER_BYTES + BRANCH_ELEMENT_BYTES);
                let state = self.open_bucket(bucket);
                state.root = Some(Child::Dirty(parent));
                state.height += 1;
                self.path.push((parent, 0));
                (parent, 0)
            }
        };
        let node = self.node_mut(parent);
        node.bytes += parts.iter().map(|(key, _)| branch_bytes(key)).sum::<usize>();
        let parts = parts.into_iter().map(|(key, id)| (key, Child::Dirty(id)));
        node.children_mut().splice(index + 1..index + 1, parts);
    }

    /// Removes empty nodes from the end of `path` up.
    fn drop_empty(&mut self, bucket: BucketId) {
        while let Some((id, _)) = self.path.pop() {
            if self.node(id).len() > 0 {
                return;
            }
            self.remove_node(id);
            if let Some(&(parent, index)) = self.path.last() {
                let node = self.node_mut(parent);
                let (key, _) = node.children_mut().remove(index);
                node.bytes -= branch_bytes(&key);
                node.shrunk = true;
            } else {
                let state = self.open_bucket(bucket);
                state.root = None;
                state.height = 0;
            }
        }
    }

    fn contains(&self, bucket: BucketId, key: &[u8]) -> Result<bool, TreeError> {
        let Some(state) = self.buckets.get(&bucket) else {
            return Ok(self.base.get(bucket, key)?.is_some());
        };
        let Some(mut child) = state.root else { return Ok(false) };
        for height in (1..=state.height).rev() {
            child = match (child, height) {
                (Child::Dirty(id), 1) => {
                    let pairs = self.node(id).pairs();
                    return Ok(pairs.binary_search_by(|(other, _)| other.as_ref().cmp(key)).is_ok());
                }
                (Child::Dirty(id), _) => {
                    let children = self.node(id).children();
                    children[child_index(children, key)].1
                }
                (Child::Clean(at), 1) => return Ok(self.base.run(at, Kind::Leaf)?.search_leaf(key).is_ok()),
                (Child::Clean(at), _) => {
                    let page = self.base.run(at, Kind::Branch)?;
                    Child::Clean(page.child(page.child_index(key)))
                }
            };
        }
        unreachable!("a leaf stands at height 1")
    }

    fn add(&mut self, body: Body, bytes: usize) -> NodeId {
        self.add_node(Node {
            body,
            bytes,
            shrunk: false,
            at: None,
        })
    }

    fn add_node(&mut self, node: Node) -> NodeId {
        self.nodes.push(Some(node));
        NodeId::try_from(self.nodes.len() - 1).expect("a commit is bounded far below four billion nodes")
    }

    /// Copies a page run into memory; the run is free once the commit is done.
    fn copy(&mut self, at: PageRef, kind: Kind) -> Result<NodeId, TreeError> {
        let page = self.base.run(at, kind)?;
        let bytes = page.used_bytes(kind);
        let body = match kind {
            Kind::Leaf => {
                let copied = Bytes::copy_from_slice(page.bytes);
                let slice =
                    |part: &[u8]| copied.slice(offset_in(page.bytes, part)..offset_in(page.bytes, part) + part.len());
                let pairs = (0..page.count()).map(|index| page.pair(index));
                Body::Leaf(pairs.map(|(key, value)| (slice(key), slice(value))).collect())
            }
            _ => {
                let children = (0..page.count()).map(|index| (page.branch_key(index), page.child(index)));
                Body::Branch(
                    children
                        .map(|(key, at)| (Bytes::copy_from_slice(key), Child::Clean(at)))
                        .collect(),
                )
            }
        };
        self.freed.push((at.page, at.pages));
        Ok(self.add(body, bytes))
    }
}

impl Node {
    pub fn pairs(&self) -> &[(Bytes, Bytes)] {
        match &self.body {
            Body::Leaf(pairs) => pairs,
            Body::Branch(_) => unreachable!("leaves stand at height 1 only"),
        }
    }

    pub fn pairs_mut(&mut self) -> &mut Vec<(Bytes, Bytes)> {
        match &mut self.body {
            Body::Leaf(pairs) => pairs,
            Body::Branch(_) => unreachable!("leaves stand at height 1 only"),
        }
    }

    pub fn children(&self) -> &[(Bytes, Child)] {
        match &self.body {
            Body::Branch(children) => children,
            Body::Leaf(_) => unreachable!("branches stand above height 1 only"),
        }
    }

    pub fn children_mut(&mut self) -> &mut Vec<(Bytes, Child)> {
        match &mut self.body {
            Body::Branch(children) => children,
            Body::Leaf(_) => unreachable!("branches stand above height 1 only"),
        }
    }

    pub fn len(&self) -> usize {
        match &self.body {
            Body::Leaf(pairs) => pairs.len(),
            Body::Branch(children) => children.len(),
        }
    }

    /// Whether it may stay in one piece.
    fn fits(&self, page_size: usize, append: bool) -> bool {
        let limit = match self.body {
            Body::Leaf(ref pairs) if pairs.len() <= 1 => return true,
            // Fewer than four children cannot be split into branches of two, however long their keys are.
            Body::Branch(ref children) if children.len() <= 3 => return true,
            Body::Leaf(ref pairs) => leaf_limit(self.bytes, pairs.len(), page_size),
            Body::Branch(_) => page_size,
        };
        let limit = if append { limit * APPEND_FILL_TENTHS / 10 } else { limit };
        self.bytes <= limit
    }

    /// Keeps the front and gives the parts behind it, each with its first key.
    fn split(&mut self, page_size: usize, append: bool) -> Vec<(Bytes, Node)> {
        let mut parts = Vec::new();
        if append {
            parts.push(self.split_off(self.len() - 1));
        }
        // The front may have come from a commit that filled it further, or hold values of very different sizes.
        while !self.fits(page_size, false) {
            let (key, mut right) = self.split_off(self.middle());
            let mut behind = right.split(page_size, false);
            behind.reverse();
            parts.extend(behind);
            parts.push((key, right));
        }
        parts.reverse();
        parts
    }

    /// Where half of the bytes are passed.
    fn middle(&self) -> usize {
        let (mut sum, half, least) = (HEADER_BYTES, self.bytes / 2, if self.is_leaf() { 1 } else { 2 });
        let index = (0..self.len()).position(|index| {
            sum += self.element_bytes(index);
            sum > half
        });
        index.unwrap_or(least).clamp(least, self.len() - least)
    }

    fn is_leaf(&self) -> bool {
        matches!(self.body, Body::Leaf(_))
    }

    fn element_bytes(&self, index: usize) -> usize {
        match &self.body {
            Body::Leaf(pairs) => leaf_bytes(&pairs[index].0, &pairs[index].1),
            Body::Branch(children) => branch_bytes(&children[index].0),
        }
    }

    fn split_off(&mut self, index: usize) -> (Bytes, Node) {
        let moved = (index..self.len())
            .map(|index| self.element_bytes(index))
            .sum::<usize>();
        let (key, body) = match &mut self.body {
            Body::Leaf(pairs) => (pairs[index].0.clone(), Body::Leaf(pairs.split_off(index))),
            Body::Branch(children) => (children[index].0.clone(), Body::Branch(children.split_off(index))),
        };
        self.bytes -= moved;
        (
            key,
            Node {
                body,
                bytes: HEADER_BYTES + moved,
                shrunk: false,
                at: None,
            },
        )
    }
}

/// How long a leaf may get, by how large its pairs are on average.
pub(super) fn leaf_limit(bytes: usize, pairs: usize, page_size: usize) -> usize {
    if bytes > pairs * (page_size / MIDDLE_SIZED_PART) {
        LEAF_PAGES_MAX * page_size
    } else {
        page_size
    }
}

pub(super) fn leaf_bytes(key: &[u8], value: &[u8]) -> usize {
    LEAF_ELEMENT_BYTES + key.len() + value.len()
}

pub(super) fn branch_bytes(key: &[u8]) -> usize {
    BRANCH_ELEMENT_BYTES + key.len()
}

/// Which child leads to `key`. The first takes everything below the second key, whatever its own key says.
fn child_index(children: &[(Bytes, Child)], key: &[u8]) -> usize {
    children[1..].partition_point(|(other, _)| other.as_ref() <= key)
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}
