//! Which virtual CPU and which slot runs this code.
//!
//! Read from the slot page, whose address is the same in every slot. Before [`enter_slots`] (host unit tests, the
//! machine's own code) there is no slot page and everything is number 0.

use core::sync::atomic::{AtomicBool, Ordering};
use umbel_abi::machine::{MAX_CPUS, SlotPage, layout};

/// Most slots of a machine.
pub const MAX_SLOTS: usize = 4096;

static IN_SLOT: AtomicBool = AtomicBool::new(false);

/// Says that from now on this image runs in slots only. Called once at boot.
pub fn enter_slots() {
    IN_SLOT.store(true, Ordering::Release);
}

/// Whether [`enter_slots`] was called.
#[inline]
pub fn in_slot() -> bool {
    IN_SLOT.load(Ordering::Relaxed)
}

/// Number of the virtual CPU. Stale as soon as the caller blocks.
#[inline]
pub fn cpu() -> usize {
    if !in_slot() {
        return 0;
    }
    let page = layout::SLOT_PAGE as *const SlotPage;
    // SAFETY: every slot maps its page there for life; volatile because a teleport changes it under us.
    let cpu = unsafe { (&raw const (*page).cpu).read_volatile() };
    cpu as usize % MAX_CPUS
}

/// Number of the slot. Stale as soon as the caller blocks.
#[inline]
pub fn slot() -> usize {
    if !in_slot() {
        return 0;
    }
    let page = layout::SLOT_PAGE as *const SlotPage;
    // SAFETY: as in `cpu`.
    let index = unsafe { (&raw const (*page).index).read_volatile() };
    index as usize % MAX_SLOTS
}
