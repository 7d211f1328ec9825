//! Free lists by size class, one set a virtual CPU and region: reached without a lock, because kernel code is not preempted
//! and a magazine is never held across blocking.

use super::account::TAG;
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use umbel_abi::machine::MAX_CPUS;

/// Block sizes that magazines hold.
pub const CLASSES: [usize; 14] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096];
/// Blocks of a class that a magazine holds at most: as many as fill this many bytes, within bounds.
const MAGAZINE_BYTES: usize = 8192;

/// A free block: its first word points to the next one.
pub struct Block {
    next: *mut Block,
}

#[derive(Clone, Copy)]
pub struct Magazine {
    head: *mut Block,
    count: u32,
    /// Blocks that the last refill fetched.
    fetched: u32,
}

impl Magazine {
    pub const EMPTY: Magazine = Magazine { head: null_mut(), count: 0, fetched: 0 };

    #[inline]
    pub fn pop(&mut self) -> Option<*mut Block> {
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
    pub fn push(&mut self, block: *mut Block) -> usize {
        // SAFETY: the block is free, at least 16 bytes and aligned to 16.
        unsafe { (*block).next = self.head };
        self.head = block;
        self.count += 1;
        self.count as usize
    }

    /// Blocks to fetch now that it is empty: twice as many as the last time, so that a virtual CPU that allocates little keeps little.
    pub fn next_fetch(&mut self, class: usize) -> usize {
        let fetch = (self.fetched as usize * 2).clamp(1, capacity(class) / 2);
        self.fetched = fetch as u32;
        fetch
    }
}

#[repr(align(64))]
pub struct Stock(pub UnsafeCell<[Magazine; CLASSES.len()]>);

// SAFETY: element n of `Stocks` is touched only by the virtual CPU n, whose kernel code is not preempted.
unsafe impl Sync for Stock {}

/// All magazines of a region.
pub type Stocks = [Stock; MAX_CPUS];

/// Empty ones.
pub const fn empty_stocks() -> Stocks {
    [const { Stock(UnsafeCell::new([Magazine::EMPTY; CLASSES.len()])) }; MAX_CPUS]
}

/// The class of a layout, `None` if it is no magazine's.
pub fn class_of(layout: Layout) -> Option<usize> {
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

/// The layout of a class's blocks, tag included.
pub fn class_layout(class: usize) -> Layout {
    // SAFETY: classes are small multiples of 16.
    unsafe { Layout::from_size_align_unchecked(CLASSES[class] + TAG, 16) }
}

/// Blocks that a magazine of a class holds at most.
pub const fn capacity(class: usize) -> usize {
    let count = MAGAZINE_BYTES / CLASSES[class];
    if count > 64 {
        64
    } else if count < 4 {
        4
    } else {
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refill_fetches_twice_as_many_as_the_last_one_up_to_half_a_magazine() {
        let mut magazine = Magazine::EMPTY;
        let class = CLASSES.iter().position(|&size| size == 512).expect("a class");
        let fetched: [usize; 6] = core::array::from_fn(|_| magazine.next_fetch(class));
        assert_eq!(fetched, [1, 2, 4, 8, 8, 8]);
        let first = |class| {
            let mut empty = Magazine::EMPTY;
            empty.next_fetch(class)
        };
        assert!((0..CLASSES.len()).all(|class| first(class) == 1));
    }

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
