//! Kernel stacks: 32 KiB, aligned to their size, in the hot part of KDATA.
//!
//! A few freed ones are kept for the next thread. Locks: `Rank::Leaf`.

use crate::{Errno, Result};
use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use umbel_abi::machine::layout::KERNEL_STACK_LEN;
use umbel_smp::lock::{Rank, SpinLock};

const KEPT: usize = 32;

static SPARE: SpinLock<Spare> = SpinLock::new(Rank::Leaf, Spare { stacks: [None; KEPT], count: 0 });

struct Spare {
    stacks: [Option<NonNull<u8>>; KEPT],
    count: usize,
}

// SAFETY: the pointers own free memory.
unsafe impl Send for Spare {}

/// One kernel stack. Grows down from [`KernelStack::top`].
///
/// # Invariants
/// `base` is a live allocation of [`KernelStack::layout`], owned by this value.
#[derive(Debug)]
pub struct KernelStack {
    base: NonNull<u8>,
}

// SAFETY: owned memory without thread affinity.
unsafe impl Send for KernelStack {}
// SAFETY: shared references give out addresses only.
unsafe impl Sync for KernelStack {}

impl KernelStack {
    /// A stack of undefined contents.
    pub fn new() -> Result<Self> {
        let mut spare = SPARE.lock();
        if spare.count > 0 {
            spare.count -= 1;
            let index = spare.count;
            if let Some(base) = spare.stacks[index].take() {
                return Ok(KernelStack { base });
            }
        }
        drop(spare);
        crate::heap::room()?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc(Self::layout()) };
        NonNull::new(base).map(|base| KernelStack { base }).ok_or(Errno::ENOMEM)
    }

    /// Lowest address.
    pub fn base(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// First address above.
    pub fn top(&self) -> u64 {
        self.base() + KERNEL_STACK_LEN
    }

    /// Prepares the stack so that the first switch to it calls `entry(0)`; returns the stack pointer for `Thread::sp`.
    pub fn prepare(&mut self, entry: extern "C" fn(u64) -> !) -> u64 {
        // SAFETY: the top is aligned to 16, the memory below it is ours, and nothing runs on it yet.
        unsafe { umbel_smp::switch::prepare(self.top(), entry, 0) }
    }

    fn layout() -> Layout {
        const LEN: usize = KERNEL_STACK_LEN as usize;
        const { assert!(LEN.is_power_of_two()) };
        // SAFETY: a power of two is a valid size and alignment.
        unsafe { Layout::from_size_align_unchecked(LEN, LEN) }
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        let mut spare = SPARE.lock();
        if spare.count < KEPT {
            let index = spare.count;
            spare.stacks[index] = Some(self.base);
            spare.count += 1;
            return;
        }
        drop(spare);
        // SAFETY: by the invariant.
        unsafe { dealloc(self.base.as_ptr(), Self::layout()) };
    }
}
