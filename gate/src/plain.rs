//! Descriptors that the gate closed for the guest: notes on the entry page, which guest code can write.
//!
//! A forged note closes what the guest could close by itself; the kernel believes notes only of descriptors for which it let the
//! gate answer (`SlotPage::plain`). Used by the kernel's run loop, first thing after [`crate::enter_user`].

use core::ptr::with_exposed_provenance_mut as at;
use umbel_abi::machine::PLAIN_FDS;
use umbel_abi::machine::layout::{CLOSED, CLOSED_ANY, ENTRY_PAGE};

/// Takes the notes of this slot: a bit for each descriptor.
#[inline]
pub fn take_closed() -> u64 {
    let any = at::<u64>((ENTRY_PAGE + CLOSED_ANY) as usize);
    // SAFETY: the entry page is mapped in every slot for life, and in kernel mode nobody else touches it.
    unsafe {
        if any.read_volatile() == 0 {
            return 0;
        }
        any.write_volatile(0);
    }
    take_all()
}

#[cold]
fn take_all() -> u64 {
    let notes = at::<[u8; PLAIN_FDS]>((ENTRY_PAGE + CLOSED) as usize);
    // SAFETY: as above.
    let notes = unsafe {
        let taken = notes.read_volatile();
        notes.write_volatile([0; PLAIN_FDS]);
        taken
    };
    notes.iter().enumerate().filter(|(_, note)| **note != 0).fold(0, |bits, (fd, _)| bits | 1 << fd)
}
