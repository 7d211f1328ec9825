//! Groups of entities that share: the threads of a session, and above these all of one user.
//!
//! There is one tree of entities a queue and none of groups. An entity *weighs* what it is of its group (by its nice value,
//! among all attached entities of that group, on whichever queue) times what the group is of the one above it, and so on:
//! the hierarchy is flattened into the weights, as in "Flattening the CPU scheduler hierarchy" (van Riel, 2019). What the
//! attached entities of a group add up to is looked at when a queue goes on to the next entity, at most once in
//! [`PERIOD_NS`]; entities that wait are weighed anew when their turn comes. So a group's share settles within a round.
//!
//! Each queue keeps its own part of a group's sum, written under that queue's lock; sums are read without any.

use super::entity::{UNIT, weight_of_nice};
use crate::sync::{AtomicU64, Ordering::Relaxed, mutant};
use alloc::boxed::Box;
use alloc::sync::Arc;

/// Groups above an entity.
pub const LEVELS: usize = 2;
/// How old a sum may be.
const PERIOD_NS: u64 = 1_000_000;

/// What an entity adds at each level while it is attached, innermost first.
pub(super) type Parts = [u64; LEVELS];

/// A group: competes as one entity, however many it has.
#[derive(Debug)]
pub struct Group {
    /// The group that it is part of. Immutable.
    parent: Option<Arc<Group>>,
    /// What it weighs in there.
    weight: AtomicU64,
    /// What its attached entities add up to, by queue.
    loads: Box<[AtomicU64]>,
    /// The sum of those that counted, when somebody last looked, and when that was.
    total: AtomicU64,
    summed_ns: AtomicU64,
}

impl Group {
    /// A group for entities on the queues of `cpus` virtual CPUs.
    pub fn new(parent: Option<Arc<Group>>, cpus: u32) -> Arc<Group> {
        Arc::new(Group {
            parent,
            weight: AtomicU64::new(UNIT),
            loads: (0..cpus).map(|_| AtomicU64::new(0)).collect(),
            total: AtomicU64::new(0),
            summed_ns: AtomicU64::new(0),
        })
    }

    /// The group above it.
    pub fn parent(&self) -> Option<&Arc<Group>> {
        self.parent.as_ref()
    }

    /// Makes it weigh as much as an entity of this nice value.
    pub fn set_nice(&self, nice: i8) {
        self.weight.store(weight_of_nice(nice) * (UNIT / weight_of_nice(0)), Relaxed);
    }

    /// Adds up what is attached on the queues that `counts` accepts, here and above, unless that was done just now.
    pub fn sum(&self, now_ns: u64, counts: &impl Fn(u32) -> bool) {
        if now_ns.saturating_sub(self.summed_ns.load(Relaxed)) < PERIOD_NS {
            return;
        }
        self.summed_ns.store(now_ns, Relaxed);
        let counted = self.loads.iter().enumerate().filter(|(cpu, _)| counts(*cpu as u32));
        self.total.store(counted.fold(0, |sum, (_, load)| sum.wrapping_add(load.load(Relaxed))), Relaxed);
        if let Some(parent) = &self.parent {
            parent.sum(now_ns, counts);
        }
    }

    /// What a part of it weighs in the group above.
    fn scale(&self, part: u64) -> u64 {
        let total = self.total.load(Relaxed).max(part).max(1);
        (u128::from(part) * u128::from(self.weight.load(Relaxed)) / u128::from(total)) as u64
    }

    /// Changes what the entities on the queue of `cpu` add up to. Under that queue's lock.
    fn change(&self, cpu: u32, change: impl FnOnce(u64) -> u64) {
        let place = if mutant("group-one-sum") { 0 } else { cpu as usize };
        if let Some(load) = self.loads.get(place) {
            load.store(change(load.load(Relaxed)), Relaxed);
        }
    }
}

/// What an entity of `group` that asks for `nominal` adds at each level, and weighs in the end.
pub(super) fn weigh(group: Option<&Group>, nominal: u64) -> (Parts, u64) {
    let (mut parts, mut weight) = (Parts::default(), nominal);
    for (part, group) in parts.iter_mut().zip(above(group)) {
        *part = weight;
        weight = group.scale(weight);
    }
    (parts, weight)
}

/// An entity with these parts is attached on the queue of `cpu`.
pub(super) fn add(group: Option<&Group>, cpu: u32, parts: &Parts) {
    above(group).zip(parts).for_each(|(group, part)| group.change(cpu, |load| load.wrapping_add(*part)));
}

/// The same entity is detached.
pub(super) fn subtract(group: Option<&Group>, cpu: u32, parts: &Parts) {
    above(group).zip(parts).for_each(|(group, part)| group.change(cpu, |load| load.wrapping_sub(*part)));
}

/// The groups that an entity of `group` is in, innermost first.
fn above(group: Option<&Group>) -> impl Iterator<Item = &Group> {
    core::iter::successors(group, |group| group.parent.as_deref())
}
