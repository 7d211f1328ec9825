//! The host mappings of the slot that runs: a cache of its space's page table.
//!
//! All functions act on the current slot and on guest addresses only, which no Rust reference ever points into: that
//! makes them safe. Outside slots (host unit tests) nothing is mapped. Callers claim the pages for the slot under the page
//! table's lock ([`crate::holders`]); they neither block nor let the space's lock go between looking and mapping.

use crate::frame::{self, Pfn};
use crate::{Errno, PAGE, Result, percpu};
use core::sync::atomic::{AtomicU32, Ordering};
use umbel_abi::machine::BootInfo;
use umbel_abi::machine::layout::{USER_BOTTOM, USER_TOP};
use umbel_host::mem::{self, MapKind, PROT_WRITE};

/// Host areas that a slot may hold, as the machine said.
static MAX_AREAS: AtomicU32 = AtomicU32::new(0);
/// The fewest: a slot works with less, slowly.
const FEW_AREAS: u32 = 64;

/// Upper bound of the areas in each slot.
static AREAS: [AtomicU32; percpu::MAX_SLOTS] = [const { AtomicU32::new(0) }; percpu::MAX_SLOTS];

/// Says how many host areas a slot may hold.
pub fn init(boot: &BootInfo) {
    MAX_AREAS.store(boot.slot_areas.max(FEW_AREAS), Ordering::Relaxed);
}

fn check(addr: u64, len: u64) -> Result<()> {
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    if addr < USER_BOTTOM || end > USER_TOP || !(addr | len).is_multiple_of(PAGE) || len == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Notes one more area; beyond the budget everything goes first.
fn count_area() {
    let areas = &AREAS[percpu::slot()];
    if areas.load(Ordering::Relaxed) >= MAX_AREAS.load(Ordering::Relaxed) {
        drop_all();
    }
    // Two: a mapping in the middle of another splits it.
    areas.fetch_add(2, Ordering::Relaxed);
}

/// Maps `count` contiguous frames at `addr`.
pub fn map_frames(addr: u64, first: Pfn, count: u32, prot: u32) -> Result<()> {
    let len = u64::from(count) * PAGE;
    check(addr, len)?;
    let (fd, offset) = frame::host(first)?;
    if !percpu::in_slot() {
        return Ok(());
    }
    count_area();
    // SAFETY: guest addresses only, by `check`.
    let mut map = || unsafe { mem::map_fixed(addr, len, prot, MapKind::SharedPopulated, fd, offset) };
    with_room(&mut map)
}

/// Zeroes pages that the caller has just mapped writable and nobody else can have. Several
/// times faster than writing to the memory file. `EFAULT` if not all could be.
pub fn clear(addr: u64, len: u64) -> Result<()> {
    check(addr, len)?;
    if !percpu::in_slot() {
        return Err(Errno::EFAULT);
    }
    // SAFETY: guest addresses only, by `check`; faults have a fixup.
    let left = unsafe { crate::user::user_clear(addr as *mut u8, len as usize) };
    if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Maps bytes of a host file at `addr`, never writable.
pub fn map_host(addr: u64, len: u64, fd: i32, offset: u64, prot: u32) -> Result<()> {
    check(addr, len)?;
    if prot & PROT_WRITE != 0 {
        return Err(Errno::EINVAL);
    }
    if !percpu::in_slot() {
        return Ok(());
    }
    count_area();
    // SAFETY: guest addresses only, by `check`.
    let mut map = || unsafe { mem::map_fixed(addr, len, prot, MapKind::Private, fd, offset) };
    with_room(&mut map)
}

/// A host that refuses for lack of areas or memory is asked again after everything was dropped.
fn with_room(map: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    match map() {
        Err(Errno::ENOMEM) => {
            drop_all();
            count_area();
            map()
        }
        done => done,
    }
}

/// Takes `prot` as the most that a range allows; where parts are not mapped, or the host refuses, unmaps it.
pub fn protect(addr: u64, len: u64, prot: u32) {
    if check(addr, len).is_err() || !percpu::in_slot() {
        return;
    }
    AREAS[percpu::slot()].fetch_add(2, Ordering::Relaxed);
    // SAFETY: guest addresses only, by `check`.
    if unsafe { mem::protect(addr, len, prot) }.is_err() {
        unmap(addr, len);
    }
}

/// Unmaps a range.
pub fn unmap(addr: u64, len: u64) {
    if check(addr, len).is_err() || !percpu::in_slot() {
        return;
    }
    // SAFETY: guest addresses only, by `check`.
    if unsafe { mem::unmap(addr, len) }.is_err() {
        // The host may not be able to split an area; without any it need not.
        drop_all();
    }
}

/// Unmaps all guest addresses of the current slot.
pub fn drop_all() {
    if !percpu::in_slot() {
        return;
    }
    // No area was counted since the last time: nothing is mapped.
    if AREAS[percpu::slot()].swap(0, Ordering::Relaxed) == 0 {
        return;
    }
    // SAFETY: guest addresses only. Unmapping whole areas needs no memory, so it does not fail.
    let _ = unsafe { mem::unmap(0, USER_TOP) };
}
