//! Directories whose names somebody looks at one after the other, in the order of their bytes, as git(1) does.
//!
//! The third look at a name behind the one before has the directory listed, and sorted; from then on what follows a name is known.
//! Kept for a few directories at a time, and as long as listings are trusted. Locks: one a directory (`Rank::Leaf`).
//! Used by [`super::node`].

use super::TRUST_NS;
use super::listing::Listing;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_smp::lock::{Rank, SpinLock};

/// Directories at a time.
const RUNS: usize = 32;
/// Looks in order before a directory is listed.
const RISING: u32 = 2;
/// Most names of a directory that is sorted.
const NAMES: usize = 1024;
/// Longest name that is compared with the next one.
const NAME: usize = 40;

/// What is known of who looks at names in order.
pub(super) struct Orders(Box<[SpinLock<Option<Run>>]>);

/// Looks at one directory.
struct Run {
    dir: u64,
    last: [u8; NAME],
    len: usize,
    rising: u32,
    order: Option<Arc<Order>>,
}

/// What [`Orders::step`] finds.
pub(super) enum Step {
    /// No order.
    None,
    /// The directory is to be listed.
    Wanted,
    Known(Arc<Order>),
}

/// The names of a directory, sorted.
pub struct Order {
    names: Arc<Listing>,
    sorted: Vec<u32>,
    at_ns: u64,
}

/// Names in order.
pub struct Following {
    order: Arc<Order>,
    next: usize,
}

impl Orders {
    /// Nobody has looked at anything.
    pub fn new() -> Orders {
        Orders((0..RUNS).map(|_| SpinLock::new(Rank::Leaf, None)).collect())
    }

    /// Notes a look at `name` in directory `dir`.
    pub fn step(&self, dir: u64, name: &[u8], now_ns: u64) -> Step {
        let Some(cell) = self.0.get(dir as usize % RUNS) else { return Step::None };
        let mut last = [0; NAME];
        let Some(place) = last.get_mut(..name.len()) else { return Step::None };
        place.copy_from_slice(name);
        let mut run = cell.lock();
        let Some(known) = run.as_mut().filter(|run| run.dir == dir) else {
            let old = run.replace(Run { dir, last, len: name.len(), rising: 0, order: None });
            // What it keeps is freed after the lock.
            drop(run);
            drop(old);
            return Step::None;
        };
        let rises = known.last.get(..known.len).is_some_and(|last| last < name);
        (known.last, known.len) = (last, name.len());
        known.rising = if rises { known.rising.saturating_add(1) } else { 0 };
        match &known.order {
            _ if known.rising < RISING => Step::None,
            Some(order) if now_ns.saturating_sub(order.at_ns) < TRUST_NS => Step::Known(order.clone()),
            _ => Step::Wanted,
        }
    }

    /// Keeps the names of `dir`, if it is still looked at.
    pub fn keep(&self, dir: u64, order: &Arc<Order>) {
        let Some(cell) = self.0.get(dir as usize % RUNS) else { return };
        let mut run = cell.lock();
        let old = run.as_mut().filter(|run| run.dir == dir).and_then(|run| run.order.replace(order.clone()));
        drop(run);
        drop(old);
    }
}

impl Order {
    /// The names of a listing read at `at_ns`; `None` if they are too many.
    pub fn new(names: Arc<Listing>, at_ns: u64) -> Option<Arc<Order>> {
        let count = names.count();
        let mut sorted = Vec::new();
        if count > NAMES || sorted.try_reserve_exact(count).is_err() {
            return None;
        }
        sorted.extend(0..count as u32);
        sorted.sort_unstable_by_key(|index| names.name(*index));
        Some(Arc::new(Order { names, sorted, at_ns }))
    }
}

impl Following {
    /// What comes behind `name`, which is one of them.
    pub(super) fn behind(order: Arc<Order>, name: &[u8]) -> Option<Following> {
        let at = order.sorted.binary_search_by(|index| order.names.name(*index).cmp(name)).ok()?;
        Some(Following { order, next: at + 1 })
    }

    /// The next name.
    pub fn advance(&mut self) -> Option<&[u8]> {
        let index = *self.order.sorted.get(self.next)?;
        self.next += 1;
        Some(self.order.names.name(index))
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::Entry;
    use super::*;
    use alloc::string::String;

    fn listing(names: &[&str]) -> Arc<Listing> {
        let mut listing = Listing::default();
        for name in names {
            listing.push(&Entry { name: name.as_bytes(), ino: 1, kind: None }).unwrap();
        }
        Arc::new(listing)
    }

    fn step(orders: &Orders, dir: u64, name: &str, now_ns: u64) -> char {
        match orders.step(dir, name.as_bytes(), now_ns) {
            Step::None => '-',
            Step::Wanted => 'w',
            Step::Known(_) => 'k',
        }
    }

    #[test]
    fn names_follow_in_the_order_of_their_bytes() {
        let order = Order::new(listing(&["b", "a10", "c", "a2", "a1"]), 0).unwrap();
        let mut following = Following::behind(order.clone(), b"a1").unwrap();
        for name in ["a10", "a2", "b", "c"] {
            assert_eq!(following.advance(), Some(name.as_bytes()));
        }
        assert!(following.advance().is_none());
        assert!(Following::behind(order, b"a3").is_none());
        assert!(Order::new(listing(&["x"; NAMES + 1]), 0).is_none());
    }

    #[test]
    fn a_directory_is_listed_when_names_rise_and_again_when_that_is_old() {
        let orders = Orders::new();
        let steps: String = ["a", "c", "b", "c", "d", "e"].iter().map(|name| step(&orders, 5, name, 0)).collect();
        assert_eq!(steps, "----ww");
        orders.keep(5, &Order::new(listing(&["a"]), 7).unwrap());
        orders.keep(6, &Order::new(listing(&["a"]), 7).unwrap());
        assert_eq!((step(&orders, 5, "f", 8), step(&orders, 5, "g", 7 + TRUST_NS)), ('k', 'w'));
        assert_eq!((step(&orders, 5, "a", 8), step(&orders, 5 + RUNS as u64, "b", 8)), ('-', '-'));
        assert_eq!(step(&orders, 5, "h", 8), '-', "another directory took its place");
    }
}
