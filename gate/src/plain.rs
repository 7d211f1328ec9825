//! Calls that the gate answered for the guest and did not make: notes on the entry page, which guest code can write.
//!
//! A forged note is a call that the guest could make by itself; the kernel believes notes only of descriptors for which it let the
//! gate answer (`SlotPage::plain`, `SlotPage::watched`). Used by the kernel's run loop, first thing after [`crate::enter_user`].

use core::ptr::with_exposed_provenance_mut as at;
use umbel_abi::machine::PLAIN_FDS;
use umbel_abi::machine::layout::{
    CLOCK_READS, CLOSED, ENTRY_PAGE, NOTED, READS, WATCH_COUNT, WATCH_DATA, WATCH_EVENTS, WATCH_NUMBER, WATCH_OP,
};

const _: () = {
    assert!(READS >= WATCH_COUNT + 8 && CLOCK_READS == READS + 8);
    assert!(CLOSED >= CLOCK_READS + 8 && WATCH_OP >= CLOSED + PLAIN_FDS as u64);
    assert!(WATCH_NUMBER >= WATCH_OP + PLAIN_FDS as u64 && WATCH_EVENTS >= WATCH_NUMBER + 4 * PLAIN_FDS as u64);
    assert!(WATCH_DATA >= WATCH_EVENTS + 4 * PLAIN_FDS as u64 && WATCH_DATA + 8 * PLAIN_FDS as u64 <= 4096);
};

/// What was noted.
#[derive(Clone, Copy, Debug)]
pub struct Notes {
    /// A bit for each descriptor that was closed.
    pub closed: u64,
    /// The last epoll_ctl(2) on each descriptor, 0 = none.
    pub watches: [u8; PLAIN_FDS],
}

/// What goes with an epoll_ctl(2), but for one that removes.
#[derive(Clone, Copy, Debug)]
pub struct WatchNote {
    /// Grows from one to the next.
    pub number: u32,
    pub events: u32,
    pub data: u64,
}

/// How many answers guest code took from the slot's page without entering the kernel, as it says itself.
#[derive(Clone, Copy, Debug)]
pub struct Reads {
    /// System calls.
    pub calls: u64,
    /// Clocks and CPU numbers, from the vDSO.
    pub clocks: u64,
}

/// Takes the counts of this slot: advisory, since guest code can write what it likes there. A stay in guest mode has no more than the
/// limit, so an honest count is whole.
#[inline]
pub fn take_reads() -> Option<Reads> {
    const MOST: u64 = 1 << 48;
    let counts = at::<[u64; 2]>((ENTRY_PAGE + READS) as usize);
    // SAFETY: the entry page is mapped in every slot for life, and in kernel mode nobody else touches it.
    let [calls, clocks] = unsafe { counts.read_volatile() };
    if calls | clocks == 0 {
        return None;
    }
    // SAFETY: as above.
    unsafe { counts.write_volatile([0; 2]) };
    Some(Reads { calls: calls.min(MOST), clocks: clocks.min(MOST) })
}

/// Takes the notes of this slot.
#[inline]
pub fn take_notes() -> Option<Notes> {
    let noted = at::<u64>((ENTRY_PAGE + NOTED) as usize);
    // SAFETY: the entry page is mapped in every slot for life, and in kernel mode nobody else touches it.
    unsafe {
        if noted.read_volatile() == 0 {
            return None;
        }
        noted.write_volatile(0);
    }
    Some(take_all())
}

#[inline(never)]
fn take_all() -> Notes {
    let take = |offset: u64| {
        let notes = at::<[u8; PLAIN_FDS]>((ENTRY_PAGE + offset) as usize);
        // SAFETY: as above.
        unsafe {
            let taken = notes.read_volatile();
            notes.write_volatile([0; PLAIN_FDS]);
            taken
        }
    };
    let noted = take(CLOSED);
    let closed = match noted == [0; PLAIN_FDS] {
        true => 0,
        false => noted.iter().enumerate().filter(|(_, note)| **note != 0).fold(0, |bits, (fd, _)| bits | 1 << fd),
    };
    Notes { closed, watches: take(WATCH_OP) }
}

impl Notes {
    /// The event that was noted last for `fd`, until guest code runs again.
    pub fn watch(&self, fd: usize) -> WatchNote {
        let fd = fd.min(PLAIN_FDS - 1);
        // SAFETY: as above; the index is below the length of each.
        unsafe {
            WatchNote {
                number: at::<u32>((ENTRY_PAGE + WATCH_NUMBER) as usize).add(fd).read_volatile(),
                events: at::<u32>((ENTRY_PAGE + WATCH_EVENTS) as usize).add(fd).read_volatile(),
                data: at::<u64>((ENTRY_PAGE + WATCH_DATA) as usize).add(fd).read_volatile(),
            }
        }
    }
}
