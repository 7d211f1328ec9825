//! Dropping what a slot has mapped of hot KDATA, now and then: each entry and exit walks it, and a slot maps more huge pages the
//! longer it runs, most of which it touched once. What it needs it maps again, by faults that the host serves by itself.
//!
//! The memory is a shared file: only entries of the slot's page table go, whoever calls and whenever. It is done right before the
//! exit, whose lock then has nearly nothing to walk.
//!
//! The instruction is in kernel text: in guest mode user dispatch takes every call from there. The filter allows this call with
//! this range and this advice there, and nowhere else.

use crate::SlotBlock;
use crate::asm::gate_thin;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Times that a slot dropped its mappings.
pub static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Exits from one drop to the next. The call and the faults after it cost about as much as two entries and exits.
const EXITS: u32 = 1024;

/// Exits that a slot makes before it drops its mappings. The slot's own: nobody else reads or writes it.
#[derive(Debug)]
pub(crate) struct Thin(AtomicU32);

impl Thin {
    pub(crate) const fn new() -> Thin {
        Thin(AtomicU32::new(EXITS))
    }

    /// An exit; whether it is one that drops.
    #[inline]
    fn is_due(&self) -> bool {
        let left = self.0.load(Relaxed);
        self.0.store(if left == 0 { EXITS - 1 } else { left - 1 }, Relaxed);
        left == 0
    }
}

/// The slot is about to leave for guest code.
#[inline]
pub(crate) fn leaving(block: &SlotBlock) {
    if block.thin.is_due() {
        drop_mappings();
    }
}

#[cold]
fn drop_mappings() {
    // If the host refuses, the slot keeps them.
    if gate_thin() == 0 {
        DROPPED.fetch_add(1, Relaxed);
    }
}
