//! Who runs a virtual CPU: the owner word, hand-overs between its slots, and what the death of a slot means.
//!
//! ```text
//!             hand(t)                take over (t itself)
//! runs(s) ----------------> handed(t) -----------------> runs(t)
//!    ^                          ^
//!    | s was killed in guest    | a slot died meanwhile: ring t again,
//!    '--> handed(s): a fresh s  '  whatever of the hand-over was done
//! ```
//!
//! The owner word alone decides; the park word is only a doorbell. So ringing twice is harmless, and the parent of the slots
//! may ring whenever it is in doubt: a slot that was rung without being handed the virtual CPU sleeps again.
//! Used by [`crate::slot`] and [`crate::zygote`]. Model: `loom-tests/tests/teleport.rs`.

use crate::const_new;
use crate::sync::{AtomicU32, Ordering::*, futex_wait, futex_wake, mutant, order};

/// The slot was handed the virtual CPU and has not taken over yet.
const HANDED: u32 = 1 << 31;

/// The owner word of a virtual CPU.
#[derive(Debug)]
pub struct Owner(AtomicU32);

/// The doorbell of one slot.
#[derive(Debug)]
pub struct Park(AtomicU32);

/// What the owner word said when a slot died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Death {
    /// The dead slot ran the virtual CPU, in guest or kernel mode. Nobody else will touch the word until
    /// [`Owner::revive`].
    Running,
    /// The virtual CPU is being handed to this slot (perhaps the dead one): ring it once it has a host task.
    Handed(u32),
    /// Another slot runs the virtual CPU.
    Elsewhere,
}

impl Owner {
    const_new! {
        /// The virtual CPU is handed to slot `first`, whose host task does not exist yet.
        pub fn new(first: u32) -> Self {
            Self(AtomicU32::new(first | HANDED))
        }
    }

    /// Hands the virtual CPU over, in the slot that runs it. Afterwards the caller may only [`Self::wait`].
    pub fn hand(&self, to: u32, park: &Park) {
        self.give(to);
        park.ring();
    }

    /// The first half of [`Self::hand`].
    pub fn give(&self, to: u32) {
        self.0.store(to | HANDED, order("teleport-hand-relaxed", Release));
    }

    /// Sleeps until slot `me` was handed the virtual CPU, and takes over.
    pub fn wait(&self, me: u32, park: &Park) {
        loop {
            park.wait();
            if self.try_take(me) || mutant("teleport-doorbell-trusted") {
                return;
            }
        }
    }

    /// Takes over if slot `me` was handed the virtual CPU.
    #[must_use]
    pub fn try_take(&self, me: u32) -> bool {
        self.0.compare_exchange(me | HANDED, me, AcqRel, Relaxed).is_ok()
    }

    /// What the death of slot `dead` means. By the parent, after it has reaped the host task.
    pub fn on_death(&self, dead: u32) -> Death {
        let word = self.0.load(Acquire);
        if word & HANDED != 0 && !mutant("teleport-handed-ignored") {
            Death::Handed(word & !HANDED)
        } else if word == dead {
            Death::Running
        } else {
            Death::Elsewhere
        }
    }

    /// After [`Death::Running`]: the fresh host task of slot `dead` shall take over.
    pub fn revive(&self, dead: u32) {
        let handed = if mutant("teleport-revived-unhanded") { 0 } else { HANDED };
        self.0.store(dead | handed, Release);
    }

    /// The slot that runs the virtual CPU or was handed it.
    pub fn slot(&self) -> u32 {
        self.0.load(Acquire) & !HANDED
    }
}

impl Park {
    const_new! {
        /// A doorbell that was not rung.
        pub fn new() -> Self {
            Self(AtomicU32::new(0))
        }
    }

    /// Rings.
    pub fn ring(&self) {
        self.0.swap(1, AcqRel);
        futex_wake(&self.0, 1);
    }

    fn wait(&self) {
        while self.0.swap(0, AcqRel) == 0 {
            futex_wait(&self.0, 0);
        }
    }
}

impl Default for Park {
    fn default() -> Self {
        Self::new()
    }
}
