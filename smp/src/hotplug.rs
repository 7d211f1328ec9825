//! The life of a virtual CPU.
//!
//! ```text
//!                          arrive              leave               depart
//! absent --create--> coming -----> online -----------> leaving ------------> offline
//!    ^                 | ^                                                     |
//!    '------ fail -----' '------------------------- call ----------------------'
//! ```
//!
//! `create`, `leave` and `call` are steps of whoever has it added or removed, one at a time; `arrive` and `depart` of the
//! virtual CPU itself, when its run queue is open, or empty and closed ([`crate::runqueue::RunQueue::close`]). The stage is a
//! hint to whoever places threads; the closed queue is what turns away those that looked before it changed.
//!
//! Used by [`crate::cpu`], [`crate::zygote`], the scheduler. Model: `loom-tests/tests/hotplug.rs`.

use crate::const_new;
use crate::sync::{AtomicU32, Ordering::*, futex_wait, futex_wake, mutant, order};

/// How the life of a virtual CPU stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Never started, or it could not be.
    Absent = 0,
    /// Asked to start, or to come back.
    Coming = 1,
    /// Runs threads.
    Online = 2,
    /// Asked to go: it gives its threads away.
    Leaving = 3,
    /// It has nothing and sleeps.
    Offline = 4,
}

/// The word behind it; a futex word while the virtual CPU is offline.
#[derive(Debug)]
pub struct Life(AtomicU32);

impl Life {
    const_new! {
        /// Absent.
        pub fn new() -> Self {
            Self(AtomicU32::new(Stage::Absent as u32))
        }
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        match self.0.load(Acquire) {
            1 => Stage::Coming,
            2 => Stage::Online,
            3 => Stage::Leaving,
            4 => Stage::Offline,
            _ => Stage::Absent,
        }
    }

    /// Whether threads may be put there. A hint: the run queue decides.
    #[inline]
    pub fn takes_threads(&self) -> bool {
        self.0.load(Relaxed) == Stage::Online as u32
    }

    /// Whether it was asked to go.
    #[inline]
    pub fn is_leaving(&self) -> bool {
        self.0.load(Relaxed) == Stage::Leaving as u32
    }

    /// Absent → coming: true if the caller shall make it.
    pub fn create(&self) -> bool {
        self.change(Stage::Absent, Stage::Coming)
    }

    /// Coming → absent: it could not be made.
    pub fn fail(&self) {
        self.change(Stage::Coming, Stage::Absent);
    }

    /// Online → leaving. The caller then makes it look.
    pub fn leave(&self) -> bool {
        self.change(Stage::Online, Stage::Leaving)
    }

    /// Offline → coming, and wakes it.
    pub fn call(&self) -> bool {
        let called = self.change(Stage::Offline, Stage::Coming);
        if called && !mutant("hotplug-call-silent") {
            futex_wake(&self.0, u32::MAX);
        }
        called
    }

    /// Coming → online, by itself: its run queue is open.
    pub fn arrive(&self) {
        self.0.store(Stage::Online as u32, Release);
    }

    /// Leaving → offline, by itself: its run queue is empty and closed.
    pub fn depart(&self) {
        self.0.store(Stage::Offline as u32, order("hotplug-depart-relaxed", Release));
    }

    /// Sleeps while it is offline, by itself.
    pub fn rest(&self) {
        while self.0.load(Acquire) == Stage::Offline as u32 {
            futex_wait(&self.0, Stage::Offline as u32);
        }
    }

    fn change(&self, from: Stage, to: Stage) -> bool {
        self.0.compare_exchange(from as u32, to as u32, AcqRel, Acquire).is_ok()
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}
