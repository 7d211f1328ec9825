//! The kernel heap, in the hot part of KDATA.
//!
//! Small blocks come from per-CPU magazines: free lists by size class, reached without a lock because kernel code is
//! not preempted and a magazine is never held across blocking. Below them is one talc under a lock. It grows at its end
//! in 2 MiB steps that are allocated on the host and collapsed into a huge page *before* they join, so that no first
//! touch can fail.
//!
//! When the hot range is used up allocations return null. Paths that a guest drives ask [`room`] first or use
//! `try_reserve`; what is left above [`RESERVE`] is for exit and panic.
//!
//! Locks: `Rank::Heap`: growth, then talc.

use crate::{Errno, Result, percpu};
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;
use umbel_abi::machine::layout::{HOT_BASE, HOT_HEAP_OFF, HOT_LEN, HUGE};
use umbel_abi::machine::{BootInfo, MAX_CPUS};
use umbel_host::mem;
use umbel_smp::lock::{Rank, SpinLock};

/// Block sizes that magazines hold.
const CLASSES: [usize; 14] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096];
/// Blocks of a class that a magazine holds at most: as many as fill this many bytes, within bounds.
const MAGAZINE_BYTES: usize = 8192;
/// Bytes kept for exit and panic.
const RESERVE: u64 = 3 << 20;

static KDATA_FD: AtomicI32 = AtomicI32::new(-1);
/// Bytes of the hot range that joined the heap.
static GROWN: AtomicU64 = AtomicU64::new(0);
/// Bytes handed out by talc (magazines' stock included).
static USED: AtomicU64 = AtomicU64::new(0);

/// A free block: its first word points to the next one.
struct Block {
    next: *mut Block,
}

#[derive(Clone, Copy)]
struct Magazine {
    head: *mut Block,
    count: usize,
}

impl Magazine {
    #[inline]
    fn pop(&mut self) -> Option<*mut Block> {
        if self.head.is_null() {
            return None;
        }
        let block = self.head;
        // SAFETY: blocks in a magazine are free and hold a valid link.
        self.head = unsafe { (*block).next };
        self.count -= 1;
        Some(block)
    }

    /// Adds a block; the count then.
    #[inline]
    fn push(&mut self, block: *mut Block) -> usize {
        // SAFETY: the block is free, at least 16 bytes and aligned to 16.
        unsafe { (*block).next = self.head };
        self.head = block;
        self.count += 1;
        self.count
    }
}

#[repr(align(64))]
struct Stock(UnsafeCell<[Magazine; CLASSES.len()]>);

// SAFETY: element n is touched only by the virtual CPU n, whose kernel code is not preempted.
unsafe impl Sync for Stock {}

/// The kernel's global allocator.
pub struct Heap {
    growth: SpinLock<Option<End>>,
    talc: SpinLock<Talc<Manual, DefaultBinning>>,
    stocks: [Stock; MAX_CPUS],
}

/// Where the heap ends, as talc wants it back.
struct End(NonNull<u8>);

// SAFETY: only an address, used under the growth lock.
unsafe impl Send for End {}

/// Names the memfd to grow in. Until then the heap grows without preallocation (the machine's first code).
pub fn init(boot: &BootInfo) {
    KDATA_FD.store(boot.files.kdata, Ordering::Release);
}

/// Whether there is room for what a guest asks for; else `ENOMEM`.
pub fn room() -> Result<()> {
    room_for(0)
}

/// Whether there is room for `bytes` more; else `ENOMEM`.
pub fn room_for(bytes: u64) -> Result<()> {
    const ALL: u64 = HOT_LEN - HOT_HEAP_OFF;
    if !percpu::in_slot() || USED.load(Ordering::Relaxed) + bytes + RESERVE < ALL {
        return Ok(());
    }
    Err(Errno::ENOMEM)
}

/// Bytes in use and bytes of the hot range taken.
pub fn usage() -> (u64, u64) {
    (USED.load(Ordering::Relaxed), GROWN.load(Ordering::Relaxed))
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

impl Heap {
    /// An empty heap: it takes its first step at the first allocation.
    pub const fn new() -> Self {
        const EMPTY: Magazine = Magazine { head: null_mut(), count: 0 };
        Heap {
            growth: SpinLock::new(Rank::Heap, None),
            talc: SpinLock::new(Rank::Heap, Talc::new(Manual)),
            stocks: [const { Stock(UnsafeCell::new([EMPTY; CLASSES.len()])) }; MAX_CPUS],
        }
    }

    /// Works on this virtual CPU's magazine of a class. `work` does not block.
    #[inline]
    fn with<R>(&self, class: usize, work: impl FnOnce(&mut Magazine) -> R) -> R {
        let cell = &self.stocks[percpu::cpu()].0;
        // SAFETY: this virtual CPU's own element; nothing that `work` calls comes back here.
        let stock = unsafe { &mut *cell.get() };
        work(&mut stock[class])
    }

    /// From the magazine, refilled by half when empty.
    #[inline]
    fn small(&self, class: usize) -> *mut u8 {
        match self.with(class, Magazine::pop) {
            Some(block) => block.cast(),
            None => self.refill(class),
        }
    }

    #[cold]
    fn refill(&self, class: usize) -> *mut u8 {
        let layout = class_layout(class);
        let first = self.large(layout);
        if first.is_null() {
            return first;
        }
        let mut talc = self.talc.lock();
        for _ in 1..capacity(class) / 2 {
            // SAFETY: the layout is not empty.
            let Some(block) = (unsafe { talc.allocate(layout) }) else {
                break;
            };
            USED.fetch_add(cost(layout), Ordering::Relaxed);
            self.with(class, |magazine| magazine.push(block.as_ptr().cast()));
        }
        first
    }

    #[cold]
    fn flush(&self, class: usize) {
        let layout = class_layout(class);
        let mut talc = self.talc.lock();
        for _ in 0..capacity(class) / 2 {
            let Some(block) = self.with(class, Magazine::pop) else {
                return;
            };
            // SAFETY: allocated from talc with this layout.
            unsafe { talc.deallocate(block.cast(), layout) };
            USED.fetch_sub(cost(layout), Ordering::Relaxed);
        }
    }

    fn large(&self, layout: Layout) -> *mut u8 {
        loop {
            let grown = GROWN.load(Ordering::Acquire);
            // SAFETY: the layout is not empty.
            let found = unsafe { self.talc.lock().allocate(layout) };
            if let Some(block) = found {
                USED.fetch_add(cost(layout), Ordering::Relaxed);
                return block.as_ptr();
            }
            if !self.grow(layout, grown) {
                return null_mut();
            }
        }
    }

    /// Adds steps at the end, unless somebody else did since `seen`; false if the range is used up.
    fn grow(&self, layout: Layout, seen: u64) -> bool {
        let mut end = self.growth.lock();
        let grown = GROWN.load(Ordering::Acquire);
        if grown != seen {
            return true;
        }
        let need = layout.size() as u64 + layout.align() as u64 + 4096;
        let step = need.next_multiple_of(HUGE);
        if grown + step > HOT_LEN - HOT_HEAP_OFF {
            return false;
        }
        let offset = HOT_HEAP_OFF + grown;
        if !populate(offset, step) {
            return false;
        }
        let new_end = (HOT_BASE + offset + step) as *mut u8;
        let mut talc = self.talc.lock_nested();
        // SAFETY: the range is mapped, populated, behind all that was given before, and nobody else's.
        let joined = unsafe {
            match end.as_ref() {
                None => talc.claim((HOT_BASE + offset) as *mut u8, step as usize),
                Some(end) => Some(talc.extend(end.0, new_end)),
            }
        };
        let Some(joined) = joined else {
            return false;
        };
        *end = Some(End(joined));
        GROWN.store(grown + step, Ordering::Release);
        true
    }
}

/// Makes a range of the hot part exist on the host, on huge pages where they can be had.
fn populate(offset: u64, len: u64) -> bool {
    let fd = KDATA_FD.load(Ordering::Acquire);
    if fd < 0 {
        return true;
    }
    if mem::allocate(fd, offset, len).is_err() {
        return false;
    }
    // SAFETY: collapsing keeps contents. Where it fails plain pages do.
    let _ = unsafe { mem::advise(HOT_BASE + offset, len, mem::MADV_COLLAPSE) };
    true
}

/// Bytes that a block takes from talc: its tag, rounded to the alignment, is part of it.
const fn cost(layout: Layout) -> u64 {
    layout.size() as u64 + 16
}

fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size();
    if layout.align() > 16 {
        return None;
    }
    BY_SIZE.get(size.div_ceil(16)).map(|&class| usize::from(class))
}

/// The class for a size, by units of 16 bytes.
static BY_SIZE: [u8; 257] = {
    let mut table = [0; 257];
    let (mut unit, mut class) = (0, 0);
    while unit < table.len() {
        if unit * 16 > CLASSES[class] {
            class += 1;
        }
        table[unit] = class as u8;
        unit += 1;
    }
    table
};

fn class_layout(class: usize) -> Layout {
    // SAFETY: classes are small multiples of 16.
    unsafe { Layout::from_size_align_unchecked(CLASSES[class], 16) }
}

const fn capacity(class: usize) -> usize {
    let count = MAGAZINE_BYTES / CLASSES[class];
    if count > 64 {
        64
    } else if count < 4 {
        4
    } else {
        count
    }
}

// SAFETY: blocks are disjoint, live until freed, and as large and aligned as asked for.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_of(layout) {
            Some(class) => self.small(class),
            None => self.large(layout),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout) else {
            // SAFETY: allocated by `large` with this layout.
            unsafe { self.talc.lock().deallocate(block, layout) };
            USED.fetch_sub(cost(layout), Ordering::Relaxed);
            return;
        };
        let count = self.with(class, |magazine| magazine.push(block.cast()));
        if count > capacity(class) {
            self.flush(class);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_size_has_a_class_that_holds_it() {
        for size in 1..=4096 {
            let class = class_of(Layout::from_size_align(size, 8).unwrap()).unwrap();
            assert!(CLASSES[class] >= size);
            assert!(class == 0 || CLASSES[class - 1] < size);
        }
        assert_eq!(class_of(Layout::from_size_align(4097, 8).unwrap()), None);
        assert_eq!(class_of(Layout::from_size_align(64, 64).unwrap()), None);
    }
}
