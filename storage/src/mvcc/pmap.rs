//! A counted, structurally shared B-tree in memory.
//!
//! Cloning the map costs one reference count. A change copies only the nodes on its path that a clone still shares, so
//! a map nobody looks at is changed in place. Every node knows the weight below it, so the weight of an interval is the
//! difference of two ranks.
//!
//! Balance is relaxed: nodes split when full, and merge with a neighbour only where both fit into one, since items
//! leave in bulk (compaction, commits) and seldom one by one.

use std::{slice::Iter as SliceIter, sync::Arc};

use super::key::Key;

/// What the map holds: something with a key that never changes, and a weight that may.
pub trait Item: Clone {
    /// Most items in a leaf and children in a branch. Bounds: at least 4.
    const NODE_MAX: usize = if cfg!(test) { 4 } else { 32 };

    /// The key.
    fn key(&self) -> &Key;

    /// What it counts for.
    fn weight(&self) -> u64;
}

/// An ordered map of items by their keys.
#[derive(Clone)]
pub struct PMap<E> {
    root: Arc<Node<E>>,
    len: u64,
    weight: u64,
}

#[derive(Clone)]
enum Node<E> {
    Leaf(Vec<E>),
    Branch(Vec<Child<E>>),
}

#[derive(Clone)]
struct Child<E> {
    /// Lower bound of the keys below; without meaning in the first child of a node.
    first: Key,
    weight: u64,
    node: Arc<Node<E>>,
}

/// What one insertion did to a subtree.
struct Inserted<E, R> {
    result: R,
    added: bool,
    gained: i64,
    split: Option<Child<E>>,
}

impl<E: Item> Default for PMap<E> {
    fn default() -> Self {
        PMap {
            root: Arc::new(Node::Leaf(Vec::new())),
            len: 0,
            weight: 0,
        }
    }
}

impl<E: Item> PMap<E> {
    /// Number of items.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Sum of the weights.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// The item of a key.
    pub fn get(&self, key: &[u8]) -> Option<&E> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(items) => return find(items, key).ok().map(|at| &items[at]),
                Node::Branch(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    /// Calls `change` with the item of `key`, if there is one, for change in place; an item it returns is put into the
    /// map, and it may return one only when there was none.
    pub fn upsert<R>(&mut self, key: &[u8], change: impl FnOnce(Option<&mut E>) -> (Option<E>, R)) -> R {
        let done = insert(Arc::make_mut(&mut self.root), key, change);
        self.len += u64::from(done.added);
        self.weight = self.weight.wrapping_add_signed(done.gained);
        if let Some(right) = done.split {
            let left_weight = self.weight - right.weight;
            let left = std::mem::replace(&mut self.root, Arc::new(Node::Branch(Vec::new())));
            let left = Child {
                first: Key::new(&[]),
                weight: left_weight,
                node: left,
            };
            self.root = Arc::new(Node::Branch(vec![left, right]));
        }
        done.result
    }

    /// Takes an item out.
    pub fn remove(&mut self, key: &[u8]) -> Option<E> {
        self.get(key)?;
        let removed = remove(Arc::make_mut(&mut self.root), key)?;
        self.len -= 1;
        self.weight -= removed.weight();
        self.collapse_root();
        Some(removed)
    }

    /// Works on the leaf that holds `from`, or would: if `wanted` of any item there, calls `keep` for all of them for
    /// change in place, and drops those it answers false for. Returns the lower bound of the next leaf and the number
    /// of items seen.
    pub fn retain_leaf(
        &mut self,
        from: &[u8],
        wanted: impl Fn(&E) -> bool,
        mut keep: impl FnMut(&mut E) -> bool,
    ) -> (Option<Key>, usize) {
        let (items, next) = self.leaf_of(from);
        let seen = items.len();
        let next = next.cloned();
        if items.iter().any(wanted) {
            let (dropped, gained) = retain(Arc::make_mut(&mut self.root), from, &mut keep);
            self.len -= dropped;
            self.weight = self.weight.wrapping_add_signed(gained);
            self.collapse_root();
        }
        (next, seen)
    }

    /// The items in key order from the first key that is not less than `from`.
    pub fn iter_from(&self, from: &[u8]) -> Iter<'_, E> {
        let mut path = Vec::with_capacity(6);
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(items) => {
                    let at = find(items, from).unwrap_or_else(|at| at);
                    return Iter {
                        path,
                        leaf: items[at..].iter(),
                    };
                }
                Node::Branch(children) => {
                    let at = child_of(children, from);
                    path.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
            }
        }
    }

    /// Sum of the weights of the keys less than `key`.
    pub fn rank(&self, key: &[u8]) -> u64 {
        let mut node = &*self.root;
        let mut rank = 0;
        loop {
            match node {
                Node::Leaf(items) => {
                    let at = find(items, key).unwrap_or_else(|at| at);
                    return rank + items[..at].iter().map(Item::weight).sum::<u64>();
                }
                Node::Branch(children) => {
                    let at = child_of(children, key);
                    rank += children[..at].iter().map(|child| child.weight).sum::<u64>();
                    node = &children[at].node;
                }
            }
        }
    }

    fn leaf_of(&self, key: &[u8]) -> (&[E], Option<&Key>) {
        let mut node = &*self.root;
        let mut next = None;
        loop {
            match node {
                Node::Leaf(items) => return (items, next),
                Node::Branch(children) => {
                    let at = child_of(children, key);
                    next = children.get(at + 1).map(|child| &child.first).or(next);
                    node = &children[at].node;
                }
            }
        }
    }

    fn collapse_root(&mut self) {
        while let Node::Branch(children) = &*self.root {
            match children.as_slice() {
                [] => self.root = Arc::new(Node::Leaf(Vec::new())),
                [only] => self.root = only.node.clone(),
                _ => return,
            }
        }
    }
}

/// A walk over items in key order.
pub struct Iter<'m, E> {
    /// What is left of each branch above the leaf.
    path: Vec<SliceIter<'m, Child<E>>>,
    leaf: SliceIter<'m, E>,
}

impl<E> Default for Iter<'_, E> {
    fn default() -> Self {
        Iter {
            path: Vec::new(),
            leaf: [].iter(),
        }
    }
}

impl<'m, E> Iterator for Iter<'m, E> {
    type Item = &'m E;

    fn next(&mut self) -> Option<&'m E> {
        loop {
            if let Some(item) = self.leaf.next() {
                return Some(item);
            }
            match &*self.next_child()?.node {
                Node::Leaf(items) => self.leaf = items.iter(),
                Node::Branch(children) => self.path.push(children.iter()),
            }
        }
    }
}

impl<'m, E> Iter<'m, E> {
    fn next_child(&mut self) -> Option<&'m Child<E>> {
        loop {
            match self.path.last_mut()?.next() {
                Some(child) => return Some(child),
                None => self.path.pop(),
            };
        }
    }
}

fn find<E: Item>(items: &[E], key: &[u8]) -> Result<usize, usize> {
    items.binary_search_by(|item| item.key().as_slice().cmp(key))
}

fn child_of<E>(children: &[Child<E>], key: &[u8]) -> usize {
    children[1..].partition_point(|child| child.first.as_slice() <= key)
}

fn insert<E: Item, R>(
    node: &mut Node<E>,
    key: &[u8],
    change: impl FnOnce(Option<&mut E>) -> (Option<E>, R),
) -> Inserted<E, R> {
    match node {
        Node::Leaf(items) => insert_item(items, key, change),
        Node::Branch(children) => {
            let at = child_of(children, key);
            let child = &mut children[at];
            let mut done = insert(Arc::make_mut(&mut child.node), key, change);
            child.weight = child.weight.wrapping_add_signed(done.gained);
            if let Some(right) = done.split.take() {
                child.weight -= right.weight;
                insert_slowly_growing(children, at + 1, right);
                done.split = split(children, |child| child.weight).map(|(first, weight, right)| Child {
                    first: first.first.clone(),
                    weight,
                    node: Arc::new(Node::Branch(right)),
                });
            }
            done
        }
    }
}

fn insert_item<E: Item, R>(
    items: &mut Vec<E>,
    key: &[u8],
    change: impl FnOnce(Option<&mut E>) -> (Option<E>, R),
) -> Inserted<E, R> {
    let (result, added, gained, split) = match find(items, key) {
        Ok(at) => {
            let before = items[at].weight() as i64;
            let (added, result) = change(Some(&mut items[at]));
            assert!(added.is_none(), "an item was returned for a key that has one");
            (result, false, items[at].weight() as i64 - before, None)
        }
        Err(at) => match change(None) {
            (None, result) => (result, false, 0, None),
            (Some(item), result) => {
                let gained = item.weight() as i64;
                insert_slowly_growing(items, at, item);
                (result, true, gained, split_items(items, at))
            }
        },
    };
    Inserted {
        result,
        added,
        gained,
        split,
    }
}

fn split_items<E: Item>(items: &mut Vec<E>, inserted_at: usize) -> Option<Child<E>> {
    if items.len() <= E::NODE_MAX {
        return None;
    }
    // Ascending keys fill leaves to the brim.
    let at = if inserted_at + 1 == items.len() {
        inserted_at
    } else {
        items.len() / 2
    };
    let right = cut_off(items, at);
    let weight = right.iter().map(Item::weight).sum();
    Some(Child {
        first: right[0].key().clone(),
        weight,
        node: Arc::new(Node::Leaf(right)),
    })
}

/// Splits a branch that is too full; the right half with its first child's copy and its weight.
fn split<E: Item>(
    children: &mut Vec<Child<E>>,
    weight: impl Fn(&Child<E>) -> u64,
) -> Option<(Child<E>, u64, Vec<Child<E>>)> {
    if children.len() <= E::NODE_MAX {
        return None;
    }
    let right = cut_off(children, children.len() / 2);
    Some((right[0].clone(), right.iter().map(weight).sum(), right))
}

/// `Vec::split_off` that leaves no large unused capacity behind.
fn cut_off<T>(from: &mut Vec<T>, at: usize) -> Vec<T> {
    let right = from.split_off(at);
    from.shrink_to(at + 4);
    right
}

/// `Vec::insert` that grows by few slots at a time: there are many nodes, and most are only partly filled.
fn insert_slowly_growing<T>(to: &mut Vec<T>, at: usize, value: T) {
    if to.len() == to.capacity() {
        to.reserve_exact(4);
    }
    to.insert(at, value);
}

fn remove<E: Item>(node: &mut Node<E>, key: &[u8]) -> Option<E> {
    match node {
        Node::Leaf(items) => find(items, key).ok().map(|at| items.remove(at)),
        Node::Branch(children) => {
            let at = child_of(children, key);
            let removed = remove(Arc::make_mut(&mut children[at].node), key)?;
            children[at].weight -= removed.weight();
            tidy_child(children, at);
            Some(removed)
        }
    }
}

fn retain<E: Item>(node: &mut Node<E>, from: &[u8], keep: &mut impl FnMut(&mut E) -> bool) -> (u64, i64) {
    match node {
        Node::Leaf(items) => {
            let total = |items: &[E]| items.iter().map(|item| item.weight() as i64).sum::<i64>();
            let (len, weight) = (items.len(), total(items));
            items.retain_mut(keep);
            ((len - items.len()) as u64, total(items) - weight)
        }
        Node::Branch(children) => {
            let at = child_of(children, from);
            let (dropped, gained) = retain(Arc::make_mut(&mut children[at].node), from, keep);
            children[at].weight = children[at].weight.wrapping_add_signed(gained);
            if dropped > 0 {
                tidy_child(children, at);
            }
            (dropped, gained)
        }
    }
}

/// Drops the child at `at` when it is empty, and merges it with a neighbour when it is small and both fit into one.
fn tidy_child<E: Item>(children: &mut Vec<Child<E>>, at: usize) {
    let len = children[at].node.len();
    if len == 0 {
        children.remove(at);
        return;
    }
    if len > E::NODE_MAX / 4 {
        return;
    }
    let fits = |left: usize| match children.get(left..left + 2) {
        Some([a, b]) => a.node.len() + b.node.len() <= E::NODE_MAX,
        _ => false,
    };
    let left = if fits(at) {
        at
    } else if at > 0 && fits(at - 1) {
        at - 1
    } else {
        return;
    };
    let right = children.remove(left + 1);
    children[left].weight += right.weight;
    Arc::make_mut(&mut children[left].node).append(right);
}

impl<E> Node<E> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(children) => children.len(),
        }
    }
}

impl<E: Item> Node<E> {
    fn append(&mut self, right: Child<E>) {
        match (self, &*right.node) {
            (Node::Leaf(items), Node::Leaf(more)) => items.extend_from_slice(more),
            (Node::Branch(children), Node::Branch(more)) => {
                let at = children.len();
                children.extend_from_slice(more);
                children[at].first = right.first;
            }
            _ => unreachable!("neighbours have the same height"),
        }
    }
}

#[cfg(test)]
impl<E: Item> PMap<E> {
    /// Panics unless order, bounds, counts and heights are right.
    pub fn check(&self) {
        fn walk<E: Item>(node: &Node<E>, low: Option<&Key>, high: Option<&Key>) -> (usize, u64, u64) {
            match node {
                Node::Leaf(items) => {
                    assert!(items.len() <= E::NODE_MAX);
                    assert!(
                        items.windows(2).all(|pair| pair[0].key() < pair[1].key()),
                        "keys out of order"
                    );
                    let inside = |key: &Key| low.is_none_or(|low| low <= key) && high.is_none_or(|high| key < high);
                    assert!(
                        items.iter().all(|item| inside(item.key())),
                        "key outside its node's bounds"
                    );
                    (1, items.len() as u64, items.iter().map(Item::weight).sum())
                }
                Node::Branch(children) => {
                    assert!(!children.is_empty() && children.len() <= E::NODE_MAX);
                    let (mut height, mut len, mut weight) = (0, 0, 0);
                    for (at, child) in children.iter().enumerate() {
                        assert!(child.node.len() > 0, "empty node");
                        let low = if at == 0 { low } else { Some(&child.first) };
                        let high = children.get(at + 1).map(|next| &next.first).or(high);
                        let below = walk(&*child.node, low, high);
                        assert!(at == 0 || below.0 == height, "uneven height");
                        assert_eq!(below.2, child.weight, "weight of a child");
                        (height, len, weight) = (below.0, len + below.1, weight + below.2);
                    }
                    (height + 1, len, weight)
                }
            }
        }
        let (_, len, weight) = walk(&*self.root, None, None);
        assert_eq!((len, weight), (self.len, self.weight));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, PartialEq, Debug)]
    struct Tiny(Key, u64);

    impl Item for Tiny {
        fn key(&self) -> &Key {
            &self.0
        }

        fn weight(&self) -> u64 {
            self.1
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u16, u64),
        Remove(u16),
        Retain(u16, u64),
        Clone,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..500u16, 0..3u64).prop_map(|(k, w)| Step::Set(k, w)),
            3 => (0..500u16).prop_map(Step::Remove),
            2 => (0..500u16, 0..3u64).prop_map(|(k, w)| Step::Retain(k, w)),
            1 => Just(Step::Clone),
        ]
    }

    fn key(n: u16) -> [u8; 2] {
        n.to_be_bytes()
    }

    fn set(map: &mut PMap<Tiny>, n: u16, weight: u64) {
        map.upsert(&key(n), |found| match found {
            Some(item) => {
                item.1 = weight;
                (None, ())
            }
            None => (Some(Tiny(Key::new(&key(n)), weight)), ()),
        });
    }

    fn same(map: &PMap<Tiny>, model: &BTreeMap<u16, u64>, from: u16) {
        map.check();
        let listed: Vec<_> = map.iter_from(&key(from)).map(|item| (item.0.clone(), item.1)).collect();
        let wanted: Vec<_> = model.range(from..).map(|(n, w)| (Key::new(&key(*n)), *w)).collect();
        assert_eq!(listed, wanted);
        assert_eq!(map.rank(&key(from)), model.range(..from).map(|(_, w)| w).sum::<u64>());
        assert_eq!(map.get(&key(from)).map(|item| item.1), model.get(&from).copied());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_behaves_as_an_ordered_map_and_clones_stay_as_they_were(steps in prop::collection::vec(step(), 1..400)) {
            let mut map = PMap::default();
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for step in steps {
                let probe = match step {
                    Step::Set(n, weight) => {
                        set(&mut map, n, weight);
                        model.insert(n, weight);
                        n
                    }
                    Step::Remove(n) => {
                        assert_eq!(map.remove(&key(n)).map(|item| item.1), model.remove(&n));
                        n
                    }
                    Step::Retain(n, weight) => {
                        let (next, _) = map.retain_leaf(&key(n), |item| item.1 == weight, |item| item.1 != weight);
                        let bound = |key: Key| u16::from_be_bytes(key.as_slice().try_into().unwrap());
                        // The leaf may begin before `n`: take over what became of that part.
                        let end = next.map_or(u16::MAX, bound);
                        model.retain(|k, w| {
                            !(*w == weight && *k < end && (*k >= n || map.get(&key(*k)).is_none()))
                        });
                        n
                    }
                    Step::Clone => {
                        kept.push((map.clone(), model.clone()));
                        0
                    }
                };
                same(&map, &model, probe);
            }
            for (map, model) in kept {
                same(&map, &model, 0);
            }
        }
    }

    #[test]
    fn ascending_keys_fill_their_leaves() {
        let mut map = PMap::default();
        for n in 0..1000 {
            set(&mut map, n, 1);
        }
        map.check();
        let mut leaves = 0;
        let mut from = Some(Key::new(&[]));
        while let Some(at) = from {
            from = map.retain_leaf(at.as_slice(), |_| false, |_| true).0;
            leaves += 1;
        }
        assert_eq!(leaves, 250);
    }
}
