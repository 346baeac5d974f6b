//! What a sealed commit does before it writes: merges nodes that shrank, and gives every dirty node its pages.
//!
//! One walk over the dirty branches, children before parents, that stops whenever its budget is spent.

use std::collections::VecDeque;

use super::{
    BucketId, TreeError,
    draft::{Body, Child, Draft, NodeId, branch_bytes},
    format::{HEADER_BYTES, PageRef, pages_for},
    space::Space,
};

/// A node that lost something is merged when less than one of this many parts of a page is left.
const UNDERFULL_PART: usize = 4;

/// Where the walk is, and what it found.
#[derive(Debug, Default)]
pub(super) struct Plan {
    buckets: VecDeque<BucketId>,
    stack: Vec<Frame>,
    /// The nodes to write, children before parents.
    pub order: Vec<NodeId>,
}

#[derive(Debug)]
struct Frame {
    bucket: BucketId,
    node: NodeId,
    height: u32,
    next: usize,
}

impl Plan {
    pub fn new(draft: &Draft) -> Plan {
        Plan {
            buckets: draft.buckets.keys().copied().collect(),
            ..Plan::default()
        }
    }

    /// Goes on for about `budget` nodes; whether the walk is done.
    pub fn step(&mut self, draft: &mut Draft, space: &mut Space, budget: usize) -> Result<bool, TreeError> {
        let stop_at = self.order.len().saturating_add(budget);
        while self.order.len() < stop_at {
            if let Some(frame) = self.stack.last_mut() {
                match frame.next_branch(draft) {
                    Some(child) => self.stack.push(child),
                    None => self.leave(draft, space)?,
                }
            } else if let Some(bucket) = self.buckets.pop_front() {
                self.enter(bucket, draft);
            } else {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn enter(&mut self, bucket: BucketId, draft: &Draft) {
        let state = &draft.buckets[&bucket];
        if let Some(Child::Dirty(node)) = state.root {
            self.stack.push(Frame {
                bucket,
                node,
                height: state.height,
                next: 0,
            });
        }
    }

    /// All dirty branches below the top of the stack are done: merge and place its children.
    fn leave(&mut self, draft: &mut Draft, space: &mut Space) -> Result<(), TreeError> {
        let &Frame {
            bucket, node, height, ..
        } = self.stack.last().expect("the caller looked at it");
        if height > 1 {
            draft.merge_children(node, height - 1)?;
            for index in 0..draft.node(node).len() {
                if let Child::Dirty(child) = draft.node(node).children()[index].1 {
                    self.place(child, draft, space);
                }
            }
        }
        self.stack.pop();
        if self.stack.is_empty() {
            draft.collapse_root(bucket);
            if let Some(Child::Dirty(root)) = draft.buckets[&bucket].root
                && draft.node(root).at.is_none()
            {
                self.place(root, draft, space);
            }
        }
        Ok(())
    }

    fn place(&mut self, id: NodeId, draft: &mut Draft, space: &mut Space) {
        let page_size = draft.base().page_size();
        let node = draft.node_mut(id);
        let pages = pages_for(node.bytes, page_size);
        node.at = Some(PageRef {
            page: space.take(pages),
            crc: 0,
            pages,
        });
        self.order.push(id);
    }
}

impl Frame {
    /// The next dirty branch below this one.
    fn next_branch(&mut self, draft: &Draft) -> Option<Frame> {
        if self.height <= 2 {
            return None;
        }
        let children = draft.node(self.node).children();
        while let Some(&(_, child)) = children.get(self.next) {
            self.next += 1;
            if let Child::Dirty(node) = child {
                return Some(Frame {
                    bucket: self.bucket,
                    node,
                    height: self.height - 1,
                    next: 0,
                });
            }
        }
        None
    }
}

impl Draft {
    /// Merges each child of `parent` that shrank too far with a neighbour, where both fit one page.
    fn merge_children(&mut self, parent: NodeId, child_height: u32) -> Result<(), TreeError> {
        let mut index = 0;
        while index < self.node(parent).len() {
            match self.mergeable(parent, index, child_height)? {
                Some(left) => {
                    self.merge(parent, left, child_height)?;
                    index = left;
                }
                None => index += 1,
            }
        }
        Ok(())
    }

    /// The left one of two neighbours to merge, if child `index` asks for it.
    fn mergeable(&self, parent: NodeId, index: usize, child_height: u32) -> Result<Option<usize>, TreeError> {
        let page_size = self.base().page_size();
        let children = self.node(parent).children();
        let Child::Dirty(id) = children[index].1 else {
            return Ok(None);
        };
        let node = self.node(id);
        if !node.shrunk || node.bytes >= page_size / UNDERFULL_PART {
            return Ok(None);
        }
        let neighbours = [
            Some(index + 1).filter(|&right| right < children.len()),
            index.checked_sub(1),
        ];
        for neighbour in neighbours.into_iter().flatten() {
            let left = neighbour.min(index);
            // The first child of a branch is led to without a key; merged behind another it needs one.
            let key = if child_height > 1 {
                children[left + 1].0.len()
            } else {
                0
            };
            let other = self.child_bytes(children[neighbour].1, child_height)?;
            if node.bytes + other - HEADER_BYTES + key <= page_size {
                return Ok(Some(left));
            }
        }
        Ok(None)
    }

    /// Moves everything of the child behind `left` into `left`.
    fn merge(&mut self, parent: NodeId, left: usize, child_height: u32) -> Result<(), TreeError> {
        let children = self.node(parent).children();
        let (left_child, right_child) = (children[left].1, children[left + 1].1);
        let left_id = self.dirty(left_child, child_height)?;
        self.node_mut(parent).children_mut()[left].1 = Child::Dirty(left_id);
        let right_id = self.dirty(right_child, child_height)?;
        let node = self.node_mut(parent);
        let (key, _) = node.children_mut().remove(left + 1);
        node.bytes -= branch_bytes(&key);
        node.shrunk = true;
        let mut right = self.remove_node(right_id);
        if let Body::Branch(children) = &mut right.body {
            right.bytes = right.bytes - children[0].0.len() + key.len();
            children[0].0 = key;
        }
        let node = self.node_mut(left_id);
        node.bytes += right.bytes - HEADER_BYTES;
        node.shrunk = true;
        match (&mut node.body, right.body) {
            (Body::Leaf(into), Body::Leaf(from)) => into.extend(from),
            (Body::Branch(into), Body::Branch(from)) => into.extend(from),
            _ => unreachable!("children of one branch are of one kind"),
        }
        Ok(())
    }

    /// A root branch with a single child gives way to it, unless it has its pages already as a child of the last.
    fn collapse_root(&mut self, bucket: BucketId) {
        while let Some(state) = self.buckets.get(&bucket)
            && state.height > 1
            && let Some(Child::Dirty(root)) = state.root
            && self.node(root).at.is_none()
            && self.node(root).len() == 1
        {
            let child = self.node(root).children()[0].1;
            self.remove_node(root);
            let state = self.buckets.get_mut(&bucket).expect("just looked at");
            state.root = Some(child);
            state.height -= 1;
        }
    }
}
