//! The kernel heap, in KDATA: a hot region, which the gate opens and locks, and a cold one, which is opened when it is touched.
//!
//! Where an allocation goes is said by its *class*: by scope, [`hot`] or [`cold`], else neither.
//! * hot: must never be locked in kernel mode: stacks, what the gate's assembly touches, what other host tasks read;
//! * cold: many and seldom touched: inodes, dentries, page tables. In the hot region while that is small, so that a small
//!   machine never opens cold memory;
//! * the rest: hot up to a bound, then cold, and hot again from the reserve when neither RAM nor host has more.
//!
//! Small blocks come from per-CPU magazines ([`magazine`]), below them is one talc a region ([`region`]).
//!
//! Running out: most kernel code cannot handle a failed small allocation, so calls that a guest makes are refused with
//! `ENOMEM` while memory is [`low`], before they begin; sizes that a guest chooses use `try_reserve`. What is left is
//! for exit, the out-of-memory killer and panic.

mod magazine;
mod region;

use crate::{Errno, Result, frame, percpu};
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering::*};
use region::{HOT_LEN, KDATA_FD, Kind, Region};
use umbel_abi::machine::layout::{self, COLD_BASE, COLD_LEN};
use umbel_abi::machine::{BootInfo, MAX_CPUS};

/// Hot bytes in use when the first slot came up: slots and first stacks.
static FIRST: AtomicU64 = AtomicU64::new(0);
/// Hot bytes in use beyond these from which on cold allocations go to the cold region.
const COLD_FROM: u64 = 10 << 20;
/// Hot bytes in use from which on the rest does.
const REST_FROM: u64 = 14 << 20;
/// Hot bytes that every machine has beside its RAM.
const BASE: u64 = Kind::Hot.step_end(6 << 20);
/// And those taken when RAM is used up: what infallible allocations can count on while memory is not low, and then some.
const RESERVE: u64 = 6 << 20;
/// Bytes left at which memory is low.
const LOW: u64 = 3 << 20;
/// Hot bytes kept from hot allocations.
const HOT_RESERVE: u64 = 3 << 20;

/// Where an allocation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Rest = 0,
    Hot = 1,
    Cold = 2,
}

/// The class of each virtual CPU's running scope, a [`Class`].
static CLASSES: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];
/// Opens cold memory in the running slot.
static OPENER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static HOT: Region = Region::new(Kind::Hot, BASE, RESERVE);
static COLD: Region = Region::new(Kind::Cold, 0, 0);
/// Calls refused because memory was low.
pub static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Names the memfd to grow in. Until then the heap grows without preallocation (the machine's first code).
pub fn init(boot: &BootInfo) {
    HOT_LEN.store(layout::hot_len(boot.ram_pages), Relaxed);
    KDATA_FD.store(boot.files.kdata, Release);
}

/// Says how to open cold memory in the running slot: returns whether it was locked, takes no lock. Once, in the first slot:
/// until then everything is hot.
pub fn set_opener(open: fn() -> bool) {
    FIRST.store(HOT.used(), Relaxed);
    OPENER.store(open as *mut (), Release);
}

/// Opens cold memory in the running slot ahead of its use, if there is any: cheaper than the fault that would do it.
/// Whether it was locked.
pub fn open_cold() -> bool {
    let open = OPENER.load(Acquire);
    if open.is_null() || COLD.grown() == 0 {
        return false;
    }
    // SAFETY: `set_opener` stores such a function, nobody anything else.
    let open = unsafe { core::mem::transmute::<*mut (), fn() -> bool>(open) };
    open()
}

/// Runs `make`, whose allocations must be hot. It does not block. Check [`room_hot`] first.
pub fn hot<R>(make: impl FnOnce() -> R) -> R {
    scope(Class::Hot, make)
}

/// Runs `make`, whose allocations may be cold. It does not block.
pub fn cold<R>(make: impl FnOnce() -> R) -> R {
    scope(Class::Cold, make)
}

fn scope<R>(class: Class, make: impl FnOnce() -> R) -> R {
    let own = &CLASSES[percpu::cpu()];
    let outer = own.load(Relaxed);
    own.store(class as u8, Relaxed);
    let made = make();
    own.store(outer, Relaxed);
    made
}

/// Whether there is room for what a guest asks for; else `ENOMEM`.
pub fn room() -> Result<()> {
    room_for(0)
}

/// Whether there is room for `bytes` more; else `ENOMEM`.
pub fn room_for(bytes: u64) -> Result<()> {
    if !percpu::in_slot() || left() > LOW.saturating_add(bytes) {
        return Ok(());
    }
    REFUSED.fetch_add(1, Relaxed);
    Err(Errno::ENOMEM)
}

/// Whether there is room for `bytes` that must be hot; else `ENOMEM`.
pub fn room_hot(bytes: u64) -> Result<()> {
    room_for(bytes)?;
    if !percpu::in_slot() || HOT.rest() > HOT_RESERVE + bytes {
        return Ok(());
    }
    REFUSED.fetch_add(1, Relaxed);
    Err(Errno::ENOMEM)
}

/// Whether kernel memory is low: calls that take some are to be refused.
pub fn low() -> bool {
    percpu::in_slot() && left() <= LOW
}

/// Bytes that can still be handed out.
fn left() -> u64 {
    HOT.spare().min(HOT.rest()) + COLD.spare() + COLD.rest().min(frame::usage().free * crate::PAGE)
}

/// Bytes in use and bytes of KDATA taken.
pub fn usage() -> (u64, u64) {
    (HOT.used() + COLD.used(), HOT.grown() + COLD.grown())
}

/// Bytes in use and bytes taken of the hot and of the cold region.
pub fn regions() -> [(u64, u64); 2] {
    [(HOT.used(), HOT.grown()), (COLD.used(), COLD.grown())]
}

/// The kernel's global allocator.
pub struct Heap;

impl Heap {
    #[inline]
    fn class() -> Class {
        match CLASSES[percpu::cpu()].load(Relaxed) {
            0 => Class::Rest,
            1 => Class::Hot,
            _ => Class::Cold,
        }
    }

    #[cold]
    fn alloc_cold(layout: Layout) -> *mut u8 {
        if OPENER.load(Relaxed).is_null() {
            return HOT.alloc(layout);
        }
        // Free lists lie in the region itself.
        open_cold();
        let block = COLD.alloc(layout);
        if block.is_null() { HOT.alloc(layout) } else { block }
    }
}

// SAFETY: blocks are disjoint, live until freed, and as large and aligned as asked for.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let bound = match Heap::class() {
            // Stacks and slots, which are asked for where there are no scopes.
            _ if layout.align() >= 4096 => u64::MAX,
            Class::Rest => FIRST.load(Relaxed) + REST_FROM,
            Class::Hot => u64::MAX,
            Class::Cold => FIRST.load(Relaxed) + COLD_FROM,
        };
        if HOT.used() < bound { HOT.alloc(layout) } else { Heap::alloc_cold(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if (COLD_BASE..COLD_BASE + COLD_LEN).contains(&(block as u64)) {
            open_cold();
            // SAFETY: by the caller, and by its address it is the cold region's.
            unsafe { COLD.dealloc(block, layout) };
        } else {
            // SAFETY: as above, the hot region's.
            unsafe { HOT.dealloc(block, layout) };
        }
    }
}
