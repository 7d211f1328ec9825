//! The first step of KDATA, as the machine sees it: the kernel's statics, then the control block.

use memmap2::{MmapOptions, MmapRaw};
use std::cell::UnsafeCell;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use umbel_abi::machine::layout::{CONTROL_LEN, CONTROL_OFF, PAGE, STATICS_LEN};
use umbel_abi::machine::{BootInfo, CANARY_WORDS, Control};

/// The mapping; lives as long as the process.
pub struct SharedKdata {
    map: &'static MmapRaw,
}

/// Maps it.
pub fn map(kdata: &OwnedFd) -> std::io::Result<SharedKdata> {
    let map = MmapOptions::new().len((CONTROL_OFF + CONTROL_LEN) as usize).map_raw(kdata)?;
    Ok(SharedKdata { map: Box::leak(Box::new(map)) })
}

impl SharedKdata {
    /// The control block.
    pub fn control(&self) -> &'static Control {
        // SAFETY: the mapping is large and aligned enough and never unmapped; zeroes are valid for every field, and all
        // that changes once the kernel runs is atomic or in cells.
        unsafe { &*self.map.as_mut_ptr().add(CONTROL_OFF as usize).cast::<Control>() }
    }

    /// The boot information, to be filled before the kernel runs.
    pub fn fill(&mut self, fill: impl FnOnce(&mut BootInfo)) {
        // SAFETY: `self` is borrowed mutably, `control` gives out references whose `boot` nobody reads before the kernel
        // runs, and the kernel does not run yet (the caller forks the zygote afterwards).
        let boot = unsafe { &mut (*self.map.as_mut_ptr().add(CONTROL_OFF as usize).cast::<Control>()).boot };
        fill(boot);
    }

    /// Copies initial data of the kernel to `offset`; false if it does not lie in the place of the statics.
    pub fn load(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let fits = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= STATICS_LEN);
        if fits {
            // SAFETY: the range is inside the mapping, and the kernel does not run yet.
            unsafe {
                let to = self.map.as_mut_ptr().add(offset as usize);
                to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        }
        fits
    }
}

/// One page of kernel memory; lives as long as the process.
pub struct Page(&'static [AtomicU64; CANARY_WORDS]);

/// Maps the page at `offset` of the memory file.
///
/// # Errors
/// The host has no room.
pub fn map_page(kdata: &OwnedFd, offset: u64) -> std::io::Result<Page> {
    let map = Box::leak(Box::new(MmapOptions::new().offset(offset).len(PAGE as usize).map_raw(kdata)?));
    // SAFETY: the mapping is a page, aligned, never unmapped; any bytes are valid words, which are only reached as atomics.
    Ok(Page(unsafe { &*map.as_mut_ptr().cast() }))
}

impl Page {
    /// Its words.
    pub fn words(&self) -> &'static [AtomicU64] {
        self.0
    }
}

/// Copies bytes out of memory that the kernel may still write: the copy is what is looked at.
pub fn read_cells(cells: &[UnsafeCell<u8>]) -> Vec<u8> {
    // SAFETY: each cell is a live byte; a torn value is as good as any.
    cells.iter().map(|cell| unsafe { cell.get().read_volatile() }).collect()
}

/// Copies bytes into such memory; returns how many fit.
pub fn write_cells(cells: &[UnsafeCell<u8>], bytes: &[u8]) -> usize {
    for (cell, byte) in cells.iter().zip(bytes) {
        // SAFETY: each cell is a live byte, and the kernel is gone.
        unsafe { cell.get().write_volatile(*byte) };
    }
    cells.len().min(bytes.len())
}
