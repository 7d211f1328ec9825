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
//! Each block is charged to the user whose thread allocated it ([`account`]). One user gets at most as much as is left: see
//! [`overdrawn`].
//!
//! Running out: most kernel code cannot handle a failed small allocation, so calls that a guest makes are refused with
//! `ENOMEM` while memory is [`low`], before they begin; sizes that a guest chooses use `try_reserve`. What is left is
//! for exit, the out-of-memory killer and panic.

pub mod account;
mod holes;
mod magazine;
mod region;

use crate::{Errno, Result, frame, percpu, stack};
use core::alloc::{GlobalAlloc, Layout};
use core::fmt::{self, Display, Formatter};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering::*};
use region::{HOT_LEN, KDATA_FD, Kind, Region};
use umbel_abi::machine::layout::{self, COLD_BASE, COLD_LEN, HUGE};
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
/// How slots are aligned, and nothing else.
const SLOT_ALIGN: usize = crate::PAGE as usize;
/// Free bytes in one piece with which memory is not low although no more than the last step of the reserve can be taken. What of the
/// reserve is gone must be free in the same piece: it is infallible allocations' as before.
const PROBE: u64 = 1 << 20;

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
static OPENER: AtomicPtr<()> = AtomicPtr::new(null_mut());
static HOT: Region = Region::new(Kind::Hot, BASE, RESERVE);
static COLD: Region = Region::new(Kind::Cold, 0, 0);
/// The least that was ever left to take, free blocks included, in bytes.
pub static LEAST: AtomicU64 = AtomicU64::new(u64::MAX);
/// Allocations for which nothing was left.
static FAILED: AtomicU64 = AtomicU64::new(0);
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
    if open.is_null() || COLD.populated() == 0 {
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
    room_beside(bytes, kept_ram())
}

/// Whether there is room for the page table entries of a fault: served also from what calls leave to faults.
pub fn room_to_fault() -> Result<()> {
    room_beside(0, 0)
}

fn room_beside(bytes: u64, kept: u64) -> Result<()> {
    restore();
    if !percpu::in_slot() || left(kept) > LOW.saturating_add(bytes) || has(bytes) {
        return Ok(());
    }
    REFUSED.fetch_add(1, Relaxed);
    Err(Errno::ENOMEM)
}

/// Whether there is room for `bytes` that must be hot; else `ENOMEM`.
pub fn room_hot(bytes: u64) -> Result<()> {
    room_for(bytes)?;
    let left = HOT.rest().min(HOT.unclaimed() + free_ram());
    if !percpu::in_slot() || left > HOT_RESERVE + bytes || HOT.has(PROBE + bytes) {
        return Ok(());
    }
    REFUSED.fetch_add(1, Relaxed);
    Err(Errno::ENOMEM)
}

/// Whether kernel memory is low: calls that take some are to be refused.
pub fn low() -> bool {
    restore();
    percpu::in_slot() && left(kept_ram()) <= LOW && !has(0)
}

/// Whether it is so low that those without privilege are refused: the last sixteenth of RAM is left to the others.
pub fn scarce() -> bool {
    restore();
    percpu::in_slot() && left(2 * kept_ram()) <= LOW && !has(0)
}

/// Whether an account holds more than what is left, beside what is left to faults and to root: then calls of its user that would take
/// more are to be refused. So one user gets half, two a third each, and somebody who has little is served until nothing is left.
pub fn overdrawn(account: u16) -> bool {
    let held = account::held(account);
    let over = || held > left(2 * kept_ram());
    // Free blocks between used ones are not counted: they may be too small for what others need.
    held > 0 && percpu::in_slot() && over() && (!trim() || over())
}

/// Gives free steps back to RAM where enough was freed since this virtual CPU did so last: when it is idle, and before
/// somebody is killed for want of RAM. Whether there were any.
pub fn trim() -> bool {
    if !HOT.wants_trim() && !COLD.wants_trim() {
        return false;
    }
    let hot = HOT.wants_trim() && {
        stack::shed();
        HOT.trim()
    };
    if !COLD.wants_trim() {
        return hot;
    }
    open_cold();
    COLD.trim() || hot
}

/// Asks the other virtual CPUs to trim: what their magazines hold lies anywhere. The caller interrupts them; each does it in
/// [`trim_if_asked`], or when it is idle next.
pub fn ask_others() {
    HOT.ask_others();
}

/// Does what another virtual CPU has asked for.
pub fn trim_if_asked() {
    if HOT.is_asked() {
        trim_now();
    }
}

/// The same however little was freed, for somebody who has just let go of what lay here and there.
#[cold]
pub fn trim_now() -> bool {
    stack::shed();
    let hot = HOT.trim();
    if COLD.populated() == 0 {
        return hot;
    }
    open_cold();
    COLD.trim() || hot
}

/// Charges the reserve that a shortage took to RAM, when there is some again: what lies in it may stay for long.
fn restore() {
    if HOT.wants_restore() && free_ram() > kept_ram() + HUGE {
        HOT.restore(kept_ram());
    }
}

/// Bytes that can still be taken in whole steps, beside `kept` of RAM. Free blocks between used ones are not counted: they may
/// be too small.
fn left(kept: u64) -> u64 {
    HOT.unclaimed() + COLD.rest().min(free_ram().saturating_sub(kept))
}

/// Notes how much is left now: at each block that comes from a region's talc.
fn note_left() {
    let idle = |region: &Region| region.populated().saturating_sub(region.used());
    let left = left(0) + idle(&HOT) + idle(&COLD);
    if left < LEAST.load(Relaxed) {
        LEAST.fetch_min(left, Relaxed);
    }
}

/// Bytes of RAM that calls leave to faults: without them whoever touches a page would be killed for what others had the kernel
/// take.
fn kept_ram() -> u64 {
    frame::usage().total * crate::PAGE / 16
}

/// Whether `bytes` and what infallible allocations may need are free in one piece.
#[cold]
fn has(bytes: u64) -> bool {
    if trim() && left(2 * kept_ram()) > LOW + bytes {
        return true;
    }
    let piece = bytes + PROBE.max(LOW.saturating_sub(HOT.unclaimed()));
    if HOT.has(piece) {
        return true;
    }
    if COLD.populated() == 0 {
        return false;
    }
    open_cold();
    COLD.has(piece)
}

fn free_ram() -> u64 {
    frame::usage().free * crate::PAGE
}

/// Bytes in use and bytes of KDATA taken.
pub fn usage() -> (u64, u64) {
    (HOT.used() + COLD.used(), HOT.populated() + COLD.populated())
}

/// What the report of a panic says of the heap: nothing as long as it served everybody.
pub struct Shortage;

impl Display for Shortage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let failed = FAILED.load(Relaxed);
        if failed == 0 {
            return Ok(());
        }
        write!(f, "\n{failed} allocations failed; KiB of RAM free {}", free_ram() >> 10)?;
        for region in [&HOT, &COLD] {
            let [used, populated, rest] = [region.used(), region.populated(), region.rest()].map(|bytes| bytes >> 10);
            write!(f, "; used {used} of {populated}, to take {rest}")?;
        }
        let (reserve, refusal) = (HOT.unclaimed() >> 10, region::HOST_REFUSAL.load(Relaxed));
        write!(f, "; reserve {reserve}; the host's last refusal {refusal}")
    }
}

/// How much a region holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct RegionUsage {
    /// Handed out.
    pub used: u64,
    /// Backed by the host's memory.
    pub populated: u64,
    /// The most that was.
    pub peak: u64,
}

/// The hot and the cold region.
pub fn regions() -> [RegionUsage; 2] {
    [&HOT, &COLD].map(|region| RegionUsage { used: region.used(), populated: region.populated(), peak: region.peak() })
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
        let owner = match layout.align() {
            // Slots are never freed, and each serves whoever comes: nobody's, and not of the reserve.
            SLOT_ALIGN if room_hot(layout.size() as u64).is_err() => return null_mut(),
            SLOT_ALIGN => account::NOBODY,
            _ => account::running(),
        };
        let bound = match Heap::class() {
            // Stacks and slots, which are asked for where there are no scopes.
            _ if layout.align() >= 4096 => u64::MAX,
            Class::Rest => FIRST.load(Relaxed) + REST_FROM,
            Class::Hot => u64::MAX,
            Class::Cold => FIRST.load(Relaxed) + COLD_FROM,
        };
        let hot = if HOT.used() < bound { HOT.alloc(layout) } else { null_mut() };
        let block = if hot.is_null() && bound != u64::MAX { Heap::alloc_cold(layout) } else { hot };
        if block.is_null() {
            FAILED.fetch_add(1, Relaxed);
            return block;
        }
        // SAFETY: regions give blocks with room for the tag.
        unsafe { account::charge(owner, block, region::tag_at(layout)) };
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let cold = (COLD_BASE..COLD_BASE + COLD_LEN).contains(&(block as u64));
        if cold {
            open_cold();
        }
        // SAFETY: `alloc` charged it.
        unsafe { account::uncharge(block, region::tag_at(layout)) };
        if cold {
            // SAFETY: by the caller, and by its address it is the cold region's.
            unsafe { COLD.dealloc(block, layout) };
        } else {
            // SAFETY: as above, the hot region's.
            unsafe { HOT.dealloc(block, layout) };
        }
    }
}
