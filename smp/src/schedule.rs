//! What blocking primitives need from the scheduler, which is the kernel's and registers itself at boot.

use crate::thread::ThreadRef;

/// Why [`Schedule::block`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockEnd {
    /// A wake-up, an interrupt, or no particular reason: look at the condition again.
    Woken,
    /// The deadline passed.
    TimedOut,
}

/// The scheduler, as seen from below.
pub trait Schedule: Sync {
    /// The running thread.
    fn current(&self) -> ThreadRef;

    /// Gives the CPU up if the current thread is Blocking; returns with the thread Running.
    ///
    /// The caller went through `prepare_block` and holds no spinning lock. A wake-up that came since makes this return
    /// at once. `deadline_ns` is CLOCK_MONOTONIC.
    fn block(&self, deadline_ns: Option<u64>) -> BlockEnd;

    /// Ends the block of `thread` and enqueues it if that is needed; returns whether it was blocked.
    fn wake(&self, thread: &ThreadRef) -> bool;

    /// Whether the current thread has something to attend to that ends interruptible waits.
    fn interrupted(&self) -> bool;
}

#[cfg(not(loom))]
static SCHEDULE: crate::lock::Once<&'static dyn Schedule> = crate::lock::Once::new();

/// Registers the scheduler. Later calls change nothing.
#[cfg(not(loom))]
pub fn register(schedule: &'static dyn Schedule) {
    // There is one scheduler a boot; unit tests register the same one many times.
    let _ = SCHEDULE.set(schedule);
}

/// The scheduler, once registered. Unit tests of other crates have host threads from the start: a scheduler that came later
/// would see locks released that it has not seen taken.
#[cfg(not(loom))]
pub fn schedule() -> Option<&'static dyn Schedule> {
    let registered = SCHEDULE.get().copied();
    #[cfg(feature = "testing")]
    let registered = registered.or(Some(&crate::testing::HostThreads));
    registered
}

#[cfg(loom)]
pub use crate::testing::{register, schedule};

/// The scheduler, where a thread is about to block.
///
/// # Panics
/// Before [`register`]: nothing can block that early in the boot.
pub(crate) fn scheduler() -> &'static dyn Schedule {
    schedule().expect("blocking needs a scheduler, registered at boot")
}
