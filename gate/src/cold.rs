//! Cold KDATA: opened when kernel code touches it, by a fault ([`crate::nested`]) or ahead of it ([`open`]), and locked again
//! before the slot leaves for guest code ([`lock`]): the exit assembly looks at [`SlotBlock::cold`] once more and comes back
//! while it is set.
//!
//! A fault costs several openings, so where faults follow each other closely, the next system calls open at once ([`Ahead`]).
//!
//! The instruction is in kernel text: in guest mode user dispatch takes every call from there.
//!
//! What the exit touches once `in_kernel` is 0, kernel stacks, and what other host tasks read must not be cold.

use crate::asm::gate_cold_protect;
use crate::block::try_this;
use crate::{SlotBlock, panic};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};
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
        block.ahead.faulted();
        return unlock(block);
    }
    false
}

/// Opens cold KDATA in the running slot, if it is locked; whether it was.
pub fn open() -> bool {
    try_this().is_some_and(|block| block.cold.load(Relaxed) == 0 && unlock(block))
}

/// A guest made a system call: opens cold KDATA ahead of the fault that is likely.
#[inline]
pub(crate) fn entered(block: &SlotBlock) {
    if block.ahead.entered() {
        open();
    }
}

/// A slot's guess whether a system call will touch cold KDATA. The slot's own: nobody else reads or writes it.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Calls that still open ahead; below zero the calls since then.
    left: AtomicI32,
    /// Calls that opened ahead last time.
    span: AtomicI32,
}

impl Ahead {
    /// Calls without cold memory open after which a fault is one by itself.
    const SOON: i32 = 3;
    /// Most calls that open ahead after one fault: as many may do so in vain.
    const LONGEST: i32 = 64;

    pub(crate) const fn new() -> Ahead {
        Ahead { left: AtomicI32::new(-Self::SOON - 1), span: AtomicI32::new(0) }
    }

    /// A call begins; whether it opens ahead.
    #[inline]
    fn entered(&self) -> bool {
        let left = self.left.load(Relaxed);
        if left < -Self::SOON {
            return false;
        }
        self.left.store(left - 1, Relaxed);
        left > 0
    }

    /// A call faulted.
    fn faulted(&self) {
        let span = self.span.load(Relaxed);
        let soon = self.left.load(Relaxed) >= -Self::SOON;
        let span = if soon { (span * 2).clamp(2, Self::LONGEST) } else { span / 4 };
        self.span.store(span, Relaxed);
        self.left.store(span, Relaxed);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `calls` calls opened ahead and how many faulted, where every `every`th one touches cold memory.
    fn run(ahead: &Ahead, calls: u32, every: u32) -> (u32, u32) {
        let (mut opened, mut faults) = (0, 0);
        for call in 0..calls {
            let open = ahead.entered();
            opened += u32::from(open);
            if call % every == 0 && !open {
                ahead.faulted();
                faults += 1;
            }
        }
        (opened, faults)
    }

    #[test]
    fn calls_that_touch_cold_memory_again_and_again_do_not_fault() {
        for every in 1..=3 {
            let (_, faults) = run(&Ahead::new(), 10_000, every);
            assert!(faults < 250, "{every}: {faults}");
        }
    }

    #[test]
    fn calls_that_touch_it_rarely_do_not_open_it_in_vain() {
        let ahead = Ahead::new();
        run(&ahead, 1000, 1);
        let (opened, faults) = run(&ahead, 10_000, 100);
        assert!(opened < 200 && faults >= 90, "{opened} {faults}");
    }
}
