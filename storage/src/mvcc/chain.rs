//! The older revisions of one key: a structurally shared sequence that grows at the end and shrinks at the front.
//!
//! Most keys have none, so the empty chain is a null pointer. An append under sharing copies one leaf and one short
//! branch per level, for a key with a million revisions too.

use std::sync::Arc;

use super::revision::{Revision, SUB_MAX};

/// One revision of a key, in 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rev {
    /// Main revision.
    pub main: i64,
    /// Sub revision, and the tombstone flag in the top bit.
    sub_and_flag: u32,
    /// Length of the encoded `mvccpb.KeyValue`.
    pub len: u32,
}

impl Rev {
    pub fn new(revision: Revision, tombstone: bool, len: u32) -> Rev {
        assert!(revision.sub <= SUB_MAX, "a transaction has fewer than 2^31 changes");
        Rev {
            main: revision.main,
            sub_and_flag: revision.sub | (u32::from(tombstone) << 31),
            len,
        }
    }

    pub fn revision(&self) -> Revision {
        Revision::new(self.main, self.sub_and_flag & SUB_MAX)
    }

    pub fn is_tombstone(&self) -> bool {
        self.sub_and_flag > SUB_MAX
    }
}

const LEAF_MAX: usize = if cfg!(test) { 4 } else { 64 };
const BRANCH_MAX: usize = if cfg!(test) { 3 } else { 32 };

/// Revisions in ascending order.
#[derive(Clone, Default)]
pub struct Chain(Option<Arc<Node>>);

#[derive(Clone)]
enum Node {
    Leaf(Vec<Rev>),
    Branch(Vec<Link>),
}

#[derive(Clone)]
struct Link {
    /// Revision of the first entry below.
    first: Revision,
    node: Arc<Node>,
}

impl Chain {
    /// Appends the newest revision.
    pub fn push(&mut self, rev: Rev) {
        let Some(root) = &mut self.0 else {
            self.0 = Some(Arc::new(Node::Leaf(vec![rev])));
            return;
        };
        if let Some(right) = push(Arc::make_mut(root), rev) {
            let left = Link {
                first: root.first(),
                node: root.clone(),
            };
            *root = Arc::new(Node::Branch(vec![left, right]));
        }
    }

    /// The oldest revision.
    pub fn first(&self) -> Option<Rev> {
        let mut node = self.0.as_deref()?;
        loop {
            match node {
                Node::Leaf(revs) => return revs.first().copied(),
                Node::Branch(links) => node = &links[0].node,
            }
        }
    }

    /// The newest revision below `end`.
    pub fn last_before(&self, end: Revision) -> Option<Rev> {
        let mut node = self.0.as_deref()?;
        loop {
            match node {
                Node::Leaf(revs) => return revs[..revs.partition_point(|rev| rev.revision() < end)].last().copied(),
                Node::Branch(links) => {
                    let at = links.partition_point(|link| link.first < end);
                    node = &links[at.checked_sub(1)?].node;
                }
            }
        }
    }

    /// Drops up to `max` of the oldest revisions below `cut`, handing each to `dropped`.
    /// True when none such is left.
    pub fn trim(&mut self, cut: Revision, max: usize, dropped: &mut impl FnMut(Rev)) -> bool {
        let Some(root) = &mut self.0 else { return true };
        let mut left = max;
        let emptied = trim(root, cut, &mut left, dropped);
        if emptied {
            self.0 = None;
        } else {
            while let Node::Branch(links) = &**root
                && let [only] = links.as_slice()
            {
                *root = only.node.clone();
            }
        }
        self.first().is_none_or(|first| first.revision() >= cut)
    }

    /// Every revision, oldest first.
    #[cfg(test)]
    pub fn to_vec(&self) -> Vec<Rev> {
        fn walk(node: &Node, out: &mut Vec<Rev>) {
            match node {
                Node::Leaf(revs) => out.extend_from_slice(revs),
                Node::Branch(links) => links.iter().for_each(|link| walk(&link.node, out)),
            }
        }
        let mut out = Vec::new();
        self.0.iter().for_each(|root| walk(root, &mut out));
        out
    }
}

impl Node {
    fn first(&self) -> Revision {
        match self {
            Node::Leaf(revs) => revs[0].revision(),
            Node::Branch(links) => links[0].first,
        }
    }
}

/// Appends below `node`; a new right neighbour of `node` when it was full.
fn push(node: &mut Node, rev: Rev) -> Option<Link> {
    match node {
        Node::Leaf(revs) if revs.len() < LEAF_MAX => {
            revs.push(rev);
            None
        }
        Node::Leaf(_) => Some(Link {
            first: rev.revision(),
            node: Arc::new(Node::Leaf(vec![rev])),
        }),
        Node::Branch(links) => {
            let last = links.last_mut().expect("a branch is never empty");
            let right = push(Arc::make_mut(&mut last.node), rev)?;
            if links.len() < BRANCH_MAX {
                links.push(right);
                return None;
            }
            Some(Link {
                first: right.first,
                node: Arc::new(Node::Branch(vec![right])),
            })
        }
    }
}

/// True when nothing is left below `node`, which is then to be dropped by the caller.
fn trim(node: &mut Arc<Node>, cut: Revision, left: &mut usize, dropped: &mut impl FnMut(Rev)) -> bool {
    if *left == 0 || node.first() >= cut {
        return false;
    }
    if let Node::Leaf(revs) = &**node {
        let n = revs.partition_point(|rev| rev.revision() < cut).min(*left);
        revs[..n].iter().for_each(|rev| dropped(*rev));
        *left -= n;
        if n < revs.len() {
            *node = Arc::new(Node::Leaf(revs[n..].to_vec()));
            return false;
        }
        return true;
    }
    let Node::Branch(links) = Arc::make_mut(node) else {
        unreachable!("leaves are done above")
    };
    let kept = links
        .iter_mut()
        .position(|link| !trim(&mut link.node, cut, left, dropped));
    let gone = kept.unwrap_or(links.len());
    links.drain(..gone);
    if let Some(link) = links.first_mut() {
        link.first = link.node.first();
    }
    links.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rev(main: i64) -> Rev {
        Rev::new(Revision::new(main, 0), main % 7 == 0, 10)
    }

    fn mains(chain: &Chain) -> Vec<i64> {
        chain.to_vec().iter().map(|rev| rev.main).collect()
    }

    #[test]
    fn a_revision_remembers_its_flag() {
        assert_eq!(size_of::<Rev>(), 16);
        let tombstone = Rev::new(Revision::new(5, 3), true, 9);
        assert!(tombstone.is_tombstone() && !rev(5).is_tombstone());
        assert_eq!(tombstone.revision(), Revision::new(5, 3));
    }

    #[test]
    fn every_point_in_time_finds_the_newest_revision_before_it() {
        let mut chain = Chain::default();
        let last_at = |chain: &Chain, main| chain.last_before(Revision::new(main + 1, 0));
        assert_eq!(last_at(&chain, 100), None);
        for n in 1..=200 {
            chain.push(rev(2 * n));
        }
        assert_eq!(last_at(&chain, 1), None);
        for n in 1..=200 {
            assert_eq!(last_at(&chain, 2 * n), Some(rev(2 * n)));
            assert_eq!(last_at(&chain, 2 * n + 1), Some(rev(2 * n)));
        }
        assert_eq!(chain.first(), Some(rev(2)));
    }

    #[test]
    fn trimming_in_small_bites_drops_each_old_revision_once_and_leaves_clones_alone() {
        for cut in [0, 1, 5, 17, 99, 100, 101, 300] {
            let mut chain = Chain::default();
            (1..=100).for_each(|n| chain.push(rev(n)));
            let before = chain.clone();
            let mut dropped = Vec::new();
            let mut bites = 0;
            let end = Revision::new(cut, 0);
            while !chain.trim(end, 7, &mut |rev| dropped.push(rev.main)) {
                bites += 1;
                assert!(dropped.len() <= 7 * bites);
            }
            assert_eq!(dropped, (1..cut.min(101)).collect::<Vec<_>>());
            assert_eq!(mains(&chain), (cut.max(1)..=100).collect::<Vec<_>>());
            assert_eq!(mains(&before), (1..=100).collect::<Vec<_>>());
            chain.push(rev(400));
            assert_eq!(chain.last_before(Revision::new(1000, 0)), Some(rev(400)));
            assert_eq!(chain.last_before(end), None, "cut {cut}");
        }
    }

    #[test]
    fn changes_of_one_transaction_are_told_apart() {
        let at = |sub| Rev::new(Revision::new(7, sub), sub % 2 == 1, 10);
        let mut chain = Chain::default();
        chain.push(rev(5));
        (0..20).for_each(|sub| chain.push(at(sub)));
        assert_eq!(chain.last_before(Revision::new(7, 0)), Some(rev(5)));
        for sub in 0..20 {
            assert_eq!(chain.last_before(Revision::new(7, sub + 1)), Some(at(sub)));
        }
        let mut dropped = 0;
        assert!(chain.trim(Revision::new(7, 13), 100, &mut |_| dropped += 1));
        assert_eq!((dropped, chain.first()), (14, Some(at(13))));
    }
}
