//! Deadlines in order, each with something to do.
//!
//! A vector sorted latest first: the earliest is taken from the end, inserting moves the few entries that are earlier.

use crate::{Errno, Result};
use alloc::vec::Vec;

/// Names an entry: its deadline and a number that is never used again.
pub type Key = (u64, u64);

/// See the module.
#[derive(Debug)]
pub struct Queue<T> {
    entries: Vec<(Key, T)>,
    last_id: u64,
}

impl<T> Queue<T> {
    /// Nothing to do.
    pub const fn new() -> Queue<T> {
        Queue { entries: Vec::new(), last_id: 0 }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn insert(&mut self, deadline_ns: u64, what: T) -> Result<Key> {
        self.entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        self.last_id += 1;
        let key = (deadline_ns, self.last_id);
        let at = self.entries.partition_point(|entry| entry.0 > key);
        self.entries.insert(at, (key, what));
        Ok(key)
    }

    /// Takes an entry out before its time; `None` if it is not there any more.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let at = self.entries.binary_search_by(|entry| key.cmp(&entry.0)).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// Takes the earliest entry if its deadline is not after `now_ns`.
    pub fn take_expired(&mut self, now_ns: u64) -> Option<T> {
        let expired = self.next()? <= now_ns;
        if expired { self.entries.pop().map(|entry| entry.1) } else { None }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.0.0)
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
}
