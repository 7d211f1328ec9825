//! Cold KDATA: opened when kernel code touches it, by a fault ([`crate::nested`]) or ahead of it ([`open`]), and locked again
//! before the slot leaves for guest code ([`lock`]): the exit assembly looks at [`SlotBlock::cold`] once more and comes back
//! while it is set.
//!
//! The instruction is in kernel text: in guest mode user dispatch takes every call from there.
//!
//! What the exit touches once `in_kernel` is 0, kernel stacks, and what other host tasks read must not be cold.

use crate::asm::gate_cold_protect;
use crate::block::try_this;
use crate::{SlotBlock, panic};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_abi::machine::layout::{COLD_BASE, COLD_LEN};

const READ_WRITE: u32 = 3;
const NONE: u32 = 0;

/// Times that cold KDATA was opened.
pub static OPENED: AtomicU64 = AtomicU64::new(0);
/// Of these, by a fault.
pub static FAULTED: AtomicU64 = AtomicU64::new(0);

/// Kernel code faulted at `addr`. Whether that was locked KDATA, which is open now.
pub(crate) fn fault(block: &SlotBlock, addr: u64) -> bool {
    if (COLD_BASE..COLD_BASE + COLD_LEN).contains(&addr) && block.cold.load(Relaxed) == 0 {
        FAULTED.fetch_add(1, Relaxed);
        return unlock(block);
    }
    false
}

/// Opens cold KDATA in the running slot, if it is locked; whether it was.
pub fn open() -> bool {
    try_this().is_some_and(|block| block.cold.load(Relaxed) == 0 && unlock(block))
}

fn unlock(block: &SlotBlock) -> bool {
    // Before the call: whatever happens, the next exit locks.
    block.cold.store(1, Relaxed);
    OPENED.fetch_add(1, Relaxed);
    gate_cold_protect(READ_WRITE) == 0
}

/// Locks cold KDATA again; the last thing before the exit.
#[cold]
pub(crate) fn lock(block: &SlotBlock) {
    if gate_cold_protect(NONE) != 0 {
        panic::fatal(format_args!("the host does not lock cold kernel memory"), 0, 0);
    }
    block.cold.store(0, Relaxed);
}
