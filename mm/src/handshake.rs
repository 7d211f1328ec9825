//! The handshake between whoever takes translations away and the virtual CPUs that may act on them: the part of
//! [`crate::view`] that depends on nothing but atomics.
//!
//! Model: `loom-tests/tests/shootdown.rs`.

use crate::log::UpdateLog;
use umbel_smp::const_new;
use umbel_smp::sync::{AtomicU32, AtomicUsize, Ordering, SPIN_ROUNDS, full_fence, mutant, order, spin_hint};

/// Initiator: between its append and its look at the views.
pub fn behind_append() {
    full_fence("view-initiator-unfenced");
}

/// What a virtual CPU shows to initiators.
#[repr(align(64))]
pub struct View {
    /// Address of the log of the space it runs, 0 if none.
    pub(crate) log: AtomicUsize,
    /// Odd inside an active section.
    section: AtomicU32,
}

impl Default for View {
    fn default() -> Self {
        Self::new()
    }
}

impl View {
    const_new! {
        /// A virtual CPU that runs nothing.
        pub fn new() -> Self {
            View { log: AtomicUsize::new(0), section: AtomicU32::new(0) }
        }
    }

    /// Publishes the log, for who fences and looks at its head later: the gate's exit.
    pub fn announce(&self, log: &UpdateLog) {
        let address = core::ptr::from_ref(log) as usize;
        if self.log.load(Ordering::Relaxed) != address && !mutant("view-unpublished") {
            self.log.store(address, Ordering::Release);
        }
    }

    /// Publishes the log, then looks for changes in it only afterwards.
    pub fn publish(&self, log: &UpdateLog) {
        self.announce(log);
        full_fence("view-receiver-unfenced");
    }

    /// The virtual CPU acts on nothing until it publishes a log again, and is not called meanwhile. Not in an active section.
    pub fn leave(&self) {
        self.log.store(0, Ordering::Release);
    }

    /// Begins an active section. The caller must catch up before it touches anything.
    pub fn begin(&self, log: &UpdateLog) {
        let count = self.section.load(Ordering::Relaxed);
        // Release: an initiator that waits for the section before may see only this one.
        self.section.store(count.wrapping_add(1), order("view-begin-relaxed", Ordering::Release));
        self.publish(log);
    }

    /// Ends an active section.
    pub fn end(&self) {
        let count = self.section.load(Ordering::Relaxed);
        self.section.store(count.wrapping_add(1), order("view-end-relaxed", Ordering::Release));
    }

    /// Whether this virtual CPU may act on `log`. After a full fence behind the append.
    pub fn runs(&self, log: &UpdateLog) -> bool {
        self.log.load(Ordering::Acquire) == core::ptr::from_ref(log) as usize
    }

    /// Waits for the end of the active section in progress, if there is one.
    pub fn wait_section(&self) {
        let seen = self.section.load(Ordering::Acquire);
        if seen.is_multiple_of(2) || mutant("view-section-ignored") {
            return;
        }
        let mut rounds = 0;
        while self.section.load(Ordering::Acquire) == seen {
            rounds += 1;
            if rounds < SPIN_ROUNDS {
                spin_hint();
            } else {
                give_way();
            }
        }
    }
}

/// The other virtual CPU's host thread may not be running: let it.
fn give_way() {
    #[cfg(not(loom))]
    {
        const NR_SCHED_YIELD: u32 = 24;
        // SAFETY: touches no memory.
        let _ = unsafe { umbel_host::raw::syscall(NR_SCHED_YIELD, [0; 6]) };
    }
    #[cfg(loom)]
    umbel_smp::sync::yield_now();
}
