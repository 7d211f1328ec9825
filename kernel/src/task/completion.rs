//! Something that happens once, and those who wait for it.

use core::sync::atomic::{AtomicBool, Ordering::*};
use umbel_smp::wait::{WaitQueue, Wake};

/// A one-time event.
pub struct Completion {
    done: AtomicBool,
    waiters: WaitQueue,
}

impl Completion {
    /// Not yet.
    pub const fn new() -> Completion {
        Completion { done: AtomicBool::new(false), waiters: WaitQueue::new() }
    }

    /// Now.
    pub fn complete(&self) {
        self.done.store(true, Release);
        self.waiters.wake_all();
    }

    /// Waits for it; gives up when interrupted.
    ///
    /// # Errors
    /// `Wake::Interrupted`.
    pub fn wait(&self) -> Result<(), Wake> {
        self.waiters.wait_interruptible(None, || self.done.load(Acquire).then_some(()))
    }

    /// Whether it has happened.
    pub fn is_done(&self) -> bool {
        self.done.load(Acquire)
    }
}

impl Default for Completion {
    fn default() -> Self {
        Self::new()
    }
}
