//! The reference count of a frame: a frame is free only at 0.
//!
//! ```text
//! 0 (free) --init--> 1 --get--> n --put--> n-1 … --put (last)--> 0: the putter frees it
//! ```
//!
//! Model: `loom-tests/tests/frame.rs`.

use umbel_smp::sync::{AtomicU32, Ordering, fence, order};

/// Where a count must not go: leaves room for racing increments.
const LIMIT: u32 = 1 << 30;

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
        debug_assert!(old > 0 && old < LIMIT);
    }

    /// One less; true if it was the last and the caller must free the frame.
    #[must_use]
    pub fn put(&self) -> bool {
        let old = self.0.fetch_sub(1, order("frame-put-relaxed", Ordering::Release));
        debug_assert!(old > 0);
        if old != 1 {
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
