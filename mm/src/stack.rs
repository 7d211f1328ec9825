//! Kernel stacks: aligned to their size, in the hot part of KDATA.
//!
//! A few freed ones are kept for the next thread, until the heap gives back what is free: they lie where the last threads of many
//! were, each on a huge page of its own. Locks: `Rank::Leaf`.

use crate::{Errno, Result};
use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use umbel_abi::machine::layout::KERNEL_STACK_LEN;
use umbel_smp::lock::{Rank, SpinLock};

const KEPT: usize = 16;
const WORDS: usize = KERNEL_STACK_LEN as usize / 8;
/// Words at the low end that no code may reach.
const GUARD: usize = 8;
/// Words beyond the deepest use that must be left, for what comes on top of it seldom: with debug assertions, whose frames
/// are larger than those of a release, a thread that used more ends the machine.
const MARGIN: usize = 2048 / 8;
const MARK: u64 = 0x5741_434b_9e37_79b9;

/// The deepest use of any stack so far, bytes. Measured with debug assertions only.
pub static PEAK: AtomicU64 = AtomicU64::new(0);

static SPARE: SpinLock<Spare> = SpinLock::new(Rank::Leaf, Spare::EMPTY);

struct Spare {
    stacks: [Option<NonNull<u8>>; KEPT],
    count: usize,
}

impl Spare {
    const EMPTY: Spare = Spare { stacks: [None; KEPT], count: 0 };
}

// SAFETY: the pointers own free memory.
unsafe impl Send for Spare {}

/// Frees the stacks that are kept.
pub(crate) fn shed() {
    let kept = core::mem::replace(&mut *SPARE.lock(), Spare::EMPTY);
    for base in kept.stacks.into_iter().take(kept.count).flatten() {
        // SAFETY: a kept stack is a live allocation of this layout that nobody uses.
        unsafe { dealloc(base.as_ptr(), KernelStack::layout()) };
    }
}

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
                return Ok(KernelStack::prepared(base));
            }
        }
        drop(spare);
        crate::heap::room_hot(KERNEL_STACK_LEN)?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc(Self::layout()) };
        NonNull::new(base).map(KernelStack::prepared).ok_or(Errno::ENOMEM)
    }

    /// Marks the guard, and with debug assertions all of the stack, to see later how far it was used.
    fn prepared(base: NonNull<u8>) -> Self {
        let len = if cfg!(debug_assertions) { WORDS } else { GUARD };
        // SAFETY: the allocation is ours, aligned, and at least that long.
        unsafe { core::slice::from_raw_parts_mut(base.cast::<u64>().as_ptr(), len) }.fill(MARK);
        KernelStack { base }
    }

    /// Whether the stack never grew into its guard, its lowest words.
    pub fn is_sound(&self) -> bool {
        self.words()[..GUARD].iter().all(|&word| word == MARK)
    }

    /// Not while somebody runs on it.
    fn words(&self) -> &[u64] {
        // SAFETY: by the invariant; a stack that nobody runs on does not change.
        unsafe { core::slice::from_raw_parts(self.base.cast::<u64>().as_ptr(), WORDS) }
    }

    /// Notes how far it was used.
    fn measure(&self) {
        assert!(self.is_sound(), "a kernel stack overflowed");
        if cfg!(debug_assertions) {
            let untouched = self.words().iter().take_while(|&&word| word == MARK).count();
            PEAK.fetch_max((WORDS - untouched) as u64 * 8, Ordering::Relaxed);
            assert!(untouched >= MARGIN, "a thread left {} bytes of its kernel stack", untouched * 8);
        }
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
        self.measure();
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
