//! Answers to newfstatat(2) that the gate gives from the slot's page: where it is among them, on the entry page, which guest code can
//! write. A forged place gives the guest wrong answers of its own. Used by the kernel's `fs::ahead`.

use core::ptr::with_exposed_provenance_mut as at;
use umbel_abi::machine::layout::{AHEAD_CURSOR, AHEAD_GIVEN, ENTRY_PAGE};

/// The next answer is the one at this offset in the slot's page.
pub fn begin(offset: u32) {
    // SAFETY: the entry page is mapped in every slot for life, and in kernel mode nobody else touches it.
    unsafe {
        at::<u32>((ENTRY_PAGE + AHEAD_CURSOR) as usize).write_volatile(offset);
        at::<u32>((ENTRY_PAGE + AHEAD_GIVEN) as usize).write_volatile(0);
    }
}

/// How many were given since [`begin`], if the guest tells the truth.
pub fn given() -> u32 {
    // SAFETY: as above.
    unsafe { at::<u32>((ENTRY_PAGE + AHEAD_GIVEN) as usize).read_volatile() }
}
