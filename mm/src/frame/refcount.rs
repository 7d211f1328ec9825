//! The reference count of a frame: a frame is free only at 0.
//!
//! ```text
//! 0 (free) --init--> 1 --get--> n --put--> n-1 … --put (last)--> 0: the putter frees it
//! ```
//!
//! A count that comes near its end stays there, and the frame is never free again: that takes 2^30 references, each of which takes
//! 8 bytes of some table, so only machines with much memory get there.
//!
//! Model: `loom-tests/tests/frame.rs`.

use umbel_smp::sync::{AtomicU32, Ordering, fence, order};

/// From here on a count does not go down: leaves room for racing increments.
const LIMIT: u32 = 1 << 30;
/// Where such a count is put: as far from 0 as from the end.
const STUCK: u32 = 1 << 31;

/// One frame's count.
#[derive(Debug)]
pub struct RefCount(AtomicU32);

impl Default for RefCount {
    fn default() -> Self {
        RefCount(AtomicU32::new(0))
    }
}

impl RefCount {
    /// Free → one reference. The caller took the frame out of the allocator, so nobody else looks at it.
    pub fn init(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// One more, by somebody who holds one.
    pub fn get(&self) {
        let old = self.0.fetch_add(1, Ordering::Relaxed);
        debug_assert!(old > 0);
        if old >= LIMIT {
            self.0.store(STUCK, Ordering::Relaxed);
        }
    }

    /// One less; true if it was the last and the caller must free the frame.
    #[must_use]
    pub fn put(&self) -> bool {
        let old = self.0.fetch_sub(1, order("frame-put-relaxed", Ordering::Release));
        debug_assert!(old > 0);
        if old != 1 {
            if old >= LIMIT {
                self.0.store(STUCK, Ordering::Relaxed);
            }
            return false;
        }
        fence(Ordering::Acquire);
        true
    }

    /// The count now. 1 is stable for the one holder; anything else is a snapshot.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_count_does_not_wrap() {
        let count = RefCount(AtomicU32::new(LIMIT - 1));
        count.get();
        count.get();
        for _ in 0..3 {
            assert!(!count.put() && count.count() == STUCK);
        }
        count.0.store(u32::MAX, Ordering::Relaxed);
        count.get();
        assert!(!count.put() && count.count() == STUCK);
    }
}
