//! What real-time threads leave the fair class: a part of each period, so that one that never sleeps does not hold its virtual
//! CPU for ever, nor whoever could end it. Source: sched(7), "Limiting the CPU usage of real-time and deadline processes".
//!
//! Counted in run time, not in time that passed: fair threads are starved for as long as others ran while they waited.
//! Deadlines are not limited here: they are admitted only as far as they leave something.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How long real-time threads run while fair ones wait, and how long fair ones run then, ns.
static REAL_TIME_NS: AtomicU64 = AtomicU64::new(950_000_000);
static FAIR_NS: AtomicU64 = AtomicU64::new(50_000_000);

/// Sets what real-time threads may have of each period while others wait; `None`: all of it.
pub fn set_real_time_share(share: Option<(u64, u64)>) {
    let (real_time_ns, period_ns) = share.unwrap_or((u64::MAX, u64::MAX));
    FAIR_NS.store(period_ns.saturating_sub(real_time_ns), Relaxed);
    REAL_TIME_NS.store(real_time_ns, Relaxed);
}

/// Of one run queue.
#[derive(Debug)]
pub(super) struct Share {
    /// How long others ran while fair threads waited.
    starved_ns: u64,
    /// What is left of the fair threads' turn.
    turn_ns: u64,
}

impl Share {
    pub const fn new() -> Share {
        Share { starved_ns: 0, turn_ns: 0 }
    }

    /// Whether it is the fair threads' turn.
    pub fn is_turn(&self) -> bool {
        self.turn_ns != 0
    }

    /// A fair thread ran.
    pub fn fair_ran(&mut self, ran_ns: u64) {
        self.turn_ns = self.turn_ns.saturating_sub(ran_ns);
        self.starved_ns = 0;
    }

    /// Another ran, while fair ones waited or not.
    pub fn other_ran(&mut self, ran_ns: u64, fair_wait: bool) {
        if !fair_wait {
            *self = Share::new();
        } else if !self.is_turn() {
            self.starved_ns = self.starved_ns.saturating_add(ran_ns);
            if self.starved_ns >= REAL_TIME_NS.load(Relaxed) {
                self.turn_ns = FAIR_NS.load(Relaxed);
            }
        }
    }
}
