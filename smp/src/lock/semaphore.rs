//! The counting semaphore. Model: `loom-tests/tests/semaphore.rs`.

use crate::const_new;
use crate::sync::{AtomicU32, Ordering::*, order};
use crate::wait::{WaitQueue, Wake};

/// A count of units that threads take and give, sleeping while there is none.
#[derive(Debug)]
pub struct Semaphore {
    units: AtomicU32,
    waiters: WaitQueue,
}

impl Semaphore {
    const_new! {
        /// A semaphore with `units` to take.
        pub fn new(units: u32) -> Self {
            Self { units: AtomicU32::new(units), waiters: WaitQueue::new() }
        }
    }

    /// Takes a unit; sleeps until there is one.
    pub fn down(&self) {
        self.waiters.wait_until(|| self.take());
    }

    /// As [`Self::down`], given up at `deadline_ns` or when the thread is interrupted.
    pub fn down_interruptible(&self, deadline_ns: Option<u64>) -> Result<(), Wake> {
        self.waiters.wait_interruptible(deadline_ns, || self.take())
    }

    /// Takes a unit if there is one.
    #[must_use]
    pub fn try_down(&self) -> bool {
        self.take().is_some()
    }

    /// Gives a unit.
    pub fn up(&self) {
        self.units.fetch_add(1, order("semaphore-up-relaxed", AcqRel));
        self.waiters.wake_one();
    }

    /// Units at this instant.
    pub fn units(&self) -> u32 {
        self.units.load(Relaxed)
    }

    fn take(&self) -> Option<()> {
        self.units.fetch_update(AcqRel, Relaxed, |units| units.checked_sub(1)).ok().map(|_| ())
    }
}
