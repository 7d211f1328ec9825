//! A treap of entities by key, each knowing the earliest deadline below it.
//!
//! Heap priorities are a hash of the arrival number, so the expected depth is logarithmic whatever the keys are.

use super::entity::Entity;
use alloc::boxed::Box;

type Link<T> = Option<Box<Entity<T>>>;

/// A position: by `major`, then by arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub(super) real_time: bool,
    pub(super) major: i64,
    pub(super) seq: i64,
}

/// An entity's place in a tree.
#[derive(Debug)]
pub(super) struct Links<T> {
    left: Link<T>,
    right: Link<T>,
    heap: u64,
    /// Earliest deadline of this entity and all below it.
    earliest: i64,
    /// Shortest slice of these.
    shortest_ns: u64,
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self { left: None, right: None, heap: 0, earliest: 0, shortest_ns: 0 }
    }
}

/// Entities in the order of their keys, which are distinct.
#[derive(Debug)]
pub(super) struct Tree<T> {
    root: Link<T>,
    len: usize,
}

impl<T> Tree<T> {
    pub(super) const fn new() -> Self {
        Self { root: None, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, mut entity: Box<Entity<T>>) {
        entity.links = Links { heap: mix(entity.key.seq as u64), ..Links::default() };
        let (below, above) = split(self.root.take(), entity.key);
        entity.update();
        self.root = merge(merge(below, Some(entity)), above);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, key: Key) -> Link<T> {
        let removed = remove(&mut self.root, key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    pub(super) fn first(&self) -> Option<&Entity<T>> {
        let mut at = self.root.as_deref()?;
        while let Some(left) = at.links.left.as_deref() {
            at = left;
        }
        Some(at)
    }

    /// The shortest slice that any of them asks for.
    pub(super) fn shortest_ns(&self) -> Option<u64> {
        self.root.as_deref().map(|root| root.links.shortest_ns)
    }

    pub(super) fn pop_first(&mut self) -> Link<T> {
        let key = self.first()?.key;
        self.remove(key)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Entity<T>> {
        let mut at = self.root.as_deref();
        while let Some(entity) = at {
            at = match key.cmp(&entity.key) {
                core::cmp::Ordering::Less => entity.links.left.as_deref(),
                core::cmp::Ordering::Greater => entity.links.right.as_deref(),
                core::cmp::Ordering::Equal => return Some(entity),
            };
        }
        None
    }

    /// The entity with the earliest deadline among those whose major key is eligible; these come first in the order.
    pub(super) fn earliest_deadline(&self, eligible: impl Fn(i64) -> bool) -> Option<Key> {
        let mut best: Option<(i64, Candidate<'_, T>)> = None;
        let mut offer = |deadline, candidate| {
            if best.as_ref().is_none_or(|(least, _)| deadline < *least) {
                best = Some((deadline, candidate));
            }
        };
        let mut at = self.root.as_deref();
        while let Some(entity) = at {
            if !eligible(entity.key.major) {
                at = entity.links.left.as_deref();
                continue;
            }
            if let Some(left) = entity.links.left.as_deref() {
                offer(left.links.earliest, Candidate::Below(left));
            }
            offer(entity.deadline, Candidate::This(entity));
            at = entity.links.right.as_deref();
        }
        best.map(|(_, candidate)| candidate.key())
    }

    pub(super) fn find_first(&self, accept: &impl Fn(&T) -> bool) -> Option<Key> {
        find(&self.root, accept, Side::Left)
    }

    pub(super) fn find_last(&self, accept: &impl Fn(&T) -> bool) -> Option<Key> {
        find(&self.root, accept, Side::Right)
    }

    pub(super) fn for_each(&self, visit: &mut impl FnMut(&Entity<T>)) {
        fn walk<T>(at: &Link<T>, visit: &mut impl FnMut(&Entity<T>)) {
            if let Some(entity) = at {
                walk(&entity.links.left, visit);
                visit(entity);
                walk(&entity.links.right, visit);
            }
        }
        walk(&self.root, visit);
    }
}

/// Where the earliest deadline was seen.
enum Candidate<'a, T> {
    This(&'a Entity<T>),
    Below(&'a Entity<T>),
}

impl<T> Candidate<'_, T> {
    fn key(self) -> Key {
        let mut at = match self {
            Self::This(entity) => return entity.key,
            Self::Below(root) => root,
        };
        let earliest = at.links.earliest;
        while at.deadline != earliest {
            let next = [at.links.left.as_deref(), at.links.right.as_deref()]
                .into_iter()
                .flatten()
                .find(|child| child.links.earliest == earliest);
            match next {
                Some(child) => at = child,
                None => break,
            }
        }
        at.key
    }
}

impl<T> Entity<T> {
    fn update(&mut self) {
        let below = [&self.links.left, &self.links.right];
        let (mut earliest, mut shortest_ns) = (self.deadline, self.slice_ns);
        for child in below.into_iter().flatten() {
            earliest = earliest.min(child.links.earliest);
            shortest_ns = shortest_ns.min(child.links.shortest_ns);
        }
        (self.links.earliest, self.links.shortest_ns) = (earliest, shortest_ns);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

fn find<T>(at: &Link<T>, accept: &impl Fn(&T) -> bool, from: Side) -> Option<Key> {
    let entity = at.as_deref()?;
    let (near, far) = match from {
        Side::Left => (&entity.links.left, &entity.links.right),
        Side::Right => (&entity.links.right, &entity.links.left),
    };
    find(near, accept, from).or_else(|| accept(&entity.item).then_some(entity.key)).or_else(|| find(far, accept, from))
}

/// Two trees: keys below `key`, and the rest.
fn split<T>(at: Link<T>, key: Key) -> (Link<T>, Link<T>) {
    let Some(mut entity) = at else {
        return (None, None);
    };
    if entity.key < key {
        let (below, above) = split(entity.links.right.take(), key);
        entity.links.right = below;
        entity.update();
        (Some(entity), above)
    } else {
        let (below, above) = split(entity.links.left.take(), key);
        entity.links.left = above;
        entity.update();
        (below, Some(entity))
    }
}

/// One tree of two, all keys of `below` below those of `above`.
fn merge<T>(below: Link<T>, above: Link<T>) -> Link<T> {
    match (below, above) {
        (None, tree) | (tree, None) => tree,
        (Some(mut low), Some(mut high)) => {
            if low.links.heap >= high.links.heap {
                low.links.right = merge(low.links.right.take(), Some(high));
                low.update();
                Some(low)
            } else {
                high.links.left = merge(Some(low), high.links.left.take());
                high.update();
                Some(high)
            }
        }
    }
}

fn remove<T>(at: &mut Link<T>, key: Key) -> Link<T> {
    let entity = at.as_deref_mut()?;
    let removed = match key.cmp(&entity.key) {
        core::cmp::Ordering::Less => remove(&mut entity.links.left, key),
        core::cmp::Ordering::Greater => remove(&mut entity.links.right, key),
        core::cmp::Ordering::Equal => {
            let mut entity = at.take()?;
            *at = merge(entity.links.left.take(), entity.links.right.take());
            return Some(entity);
        }
    };
    entity.update();
    removed
}

/// SplitMix64's finaliser.
fn mix(seq: u64) -> u64 {
    let mut z = seq.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
