//! Deadlines in order, each with something to do.
//!
//! A binary heap, the earliest first; each entry stands at a place that never changes while it is there, which says where in
//! the heap it is, so that one is taken out before its time without a search. All steps are logarithmic.

use crate::{Errno, Result};
use alloc::vec::Vec;

/// Names an entry: its place, and a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    place: u32,
    id: u64,
}

#[derive(Debug)]
struct Entry<T> {
    /// Orders entries; of equal deadlines the older one is first.
    deadline_ns: u64,
    id: u64,
    place: u32,
    what: T,
}

/// See the module.
#[derive(Debug)]
pub struct Queue<T> {
    /// No entry is earlier than the one at half its index (counted from one).
    heap: Vec<Entry<T>>,
    /// By place: the index in the heap; of free places, the next free one.
    places: Vec<u32>,
    /// The first free place, if it is less than their number.
    free: u32,
    last_id: u64,
    #[cfg(test)]
    swaps: usize,
}

impl<T> Queue<T> {
    /// Nothing to do.
    pub const fn new() -> Queue<T> {
        Queue {
            heap: Vec::new(),
            places: Vec::new(),
            free: 0,
            last_id: 0,
            #[cfg(test)]
            swaps: 0,
        }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn insert(&mut self, deadline_ns: u64, what: T) -> Result<Key> {
        self.heap.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let index = self.heap.len() as u32;
        let place = self.free;
        match self.places.get_mut(place as usize) {
            Some(slot) => self.free = core::mem::replace(slot, index),
            None => {
                self.places.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.places.push(index);
                self.free = self.places.len() as u32;
            }
        }
        self.last_id += 1;
        let id = self.last_id;
        self.heap.push(Entry { deadline_ns, id, place, what });
        self.rise(index as usize);
        Ok(Key { place, id })
    }

    /// Takes an entry out before its time; `None` if it is not there any more.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let index = *self.places.get(key.place as usize)? as usize;
        let entry = self.heap.get(index)?;
        if (entry.place, entry.id) != (key.place, key.id) {
            return None;
        }
        self.take_at(index)
    }

    /// Takes the earliest entry if its deadline is not after `now_ns`.
    pub fn take_expired(&mut self, now_ns: u64) -> Option<T> {
        let expired = self.next()? <= now_ns;
        if expired { self.take_at(0) } else { None }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.deadline_ns)
    }

    fn take_at(&mut self, index: usize) -> Option<T> {
        let last = self.heap.len().checked_sub(1)?;
        self.swap(index, last);
        let entry = self.heap.pop()?;
        if let Some(slot) = self.places.get_mut(entry.place as usize) {
            *slot = core::mem::replace(&mut self.free, entry.place);
        }
        if index < last {
            self.rise(index);
            self.sink(index);
        }
        self.give_back();
        Some(entry.what)
    }

    /// The memory of many entries goes when none is left.
    fn give_back(&mut self) {
        if self.heap.is_empty() && self.heap.capacity() > 64 {
            let last_id = self.last_id;
            *self = Queue { last_id, ..Queue::new() };
        }
    }

    fn is_earlier(&self, a: usize, b: usize) -> bool {
        let order = |index: usize| self.heap.get(index).map(|entry| (entry.deadline_ns, entry.id));
        matches!((order(a), order(b)), (Some(a), Some(b)) if a < b)
    }

    fn rise(&mut self, mut index: usize) {
        while index > 0 && self.is_earlier(index, (index - 1) / 2) {
            self.swap(index, (index - 1) / 2);
            index = (index - 1) / 2;
        }
    }

    fn sink(&mut self, mut index: usize) {
        loop {
            let (left, right) = (2 * index + 1, 2 * index + 2);
            let child = if self.is_earlier(right, left) { right } else { left };
            if !self.is_earlier(child, index) {
                return;
            }
            self.swap(index, child);
            index = child;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for index in [a, b] {
            let place = self.heap.get(index).map_or(u32::MAX, |entry| entry.place);
            if let Some(slot) = self.places.get_mut(place as usize) {
                *slot = index as u32;
            }
        }
        #[cfg(test)]
        {
            self.swaps += 1;
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_by_deadline_and_by_arrival() {
        let mut queue = Queue::new();
        for (deadline, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.insert(deadline, name).unwrap();
        }
        assert_eq!(queue.next(), Some(1));
        assert_eq!(queue.take_expired(0), None);
        let order: [_; 5] = core::array::from_fn(|_| queue.take_expired(5));
        assert_eq!(order, [Some('a'), Some('b'), Some('c'), Some('d'), None]);
    }

    #[test]
    fn a_removed_entry_is_gone_and_the_others_stay() {
        let mut queue = Queue::new();
        let first = queue.insert(7, 1).unwrap();
        let second = queue.insert(7, 2).unwrap();
        assert_eq!(queue.remove(first), Some(1));
        assert_eq!(queue.remove(first), None);
        assert_eq!(queue.take_expired(7), Some(2));
        assert_eq!(queue.remove(second), None);
    }

    #[test]
    fn entries_taken_out_anywhere_leave_the_others_in_order() {
        let mut queue = Queue::new();
        // Deadlines that repeat and come in no order.
        let mut keys: std::vec::Vec<_> = (0..500_u64)
            .map(|n| (n * 7919 % 101, n))
            .map(|(deadline, n)| (deadline, n, queue.insert(deadline, n).unwrap()))
            .collect();
        for round in 0..3 {
            let removed: std::vec::Vec<_> = keys.extract_if(.., |(_, n, _)| *n % 5 == round).collect();
            for (deadline, n, key) in removed {
                assert_eq!(queue.remove(key), Some(n));
                assert_eq!(queue.remove(key), None);
                if round == 1 {
                    keys.push((deadline, n + 1000, queue.insert(deadline, n + 1000).unwrap()));
                }
            }
        }
        keys.sort_by_key(|&(deadline, n, _)| (deadline, n));
        let order: std::vec::Vec<_> = core::iter::from_fn(|| queue.take_expired(u64::MAX)).collect();
        assert_eq!(order, keys.iter().map(|&(_, n, _)| n).collect::<std::vec::Vec<_>>());
    }

    #[test]
    fn many_entries_cost_few_steps_each() {
        let mut queue = Queue::new();
        let keys: std::vec::Vec<_> = (0..20_000).map(|n| queue.insert(40_000 - n, n).unwrap()).collect();
        for key in keys.into_iter().step_by(2) {
            queue.remove(key).unwrap();
        }
        while queue.take_expired(u64::MAX).is_some() {}
        // The height of the heap is 15, and each entry is added and taken once.
        assert!(queue.swaps < 20_000 * 2 * 16, "{} swaps", queue.swaps);
        assert_eq!(queue.heap.capacity(), 0, "kept memory");
    }
}
