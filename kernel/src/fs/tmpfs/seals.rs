//! Seals of a file in RAM: what nobody may do to it any more. Source: fcntl(2), "File Sealing"; memfd_create(2).
//!
//! Every file of a tmpfs has them; only those that memfd_create(2) made for it take more than `F_SEAL_SEAL`.
//!
//! # Invariants
//! * Seals are set under the contents' `write` lock and never taken away again.
//! * With `F_SEAL_WRITE` no area maps the file shared and may be, or become, writable: areas are looked for after the
//!   seal is set, and a new area looks at the seals under its space's lock (`Mappable::write_sealed`).

use super::content::PAGE;
use crate::{Errno, Result};
use core::sync::atomic::{AtomicU32, Ordering::*};
use umbel_abi::linux::uapi;

const ALL: u32 = uapi::F_SEAL_SEAL
    | uapi::F_SEAL_SHRINK
    | uapi::F_SEAL_GROW
    | uapi::F_SEAL_WRITE
    | uapi::F_SEAL_FUTURE_WRITE
    | uapi::F_SEAL_EXEC;

/// Either keeps contents from changing.
const NO_WRITE: u32 = uapi::F_SEAL_WRITE | uapi::F_SEAL_FUTURE_WRITE;
/// What makes a file that can be executed one whose contents stay.
const FIXED: u32 = uapi::F_SEAL_SHRINK | uapi::F_SEAL_GROW | NO_WRITE;
const EXECUTE: u32 = 0o111;

/// The seals of one file.
pub(super) struct Seals(AtomicU32);

impl Seals {
    /// Those of a file that takes none.
    pub const fn sealed() -> Seals {
        Seals(AtomicU32::new(uapi::F_SEAL_SEAL))
    }

    /// All of them (`F_GET_SEALS`).
    pub fn get(&self) -> u32 {
        self.0.load(Acquire)
    }

    /// Those that a new file of memfd_create(2) begins with, before anybody else has it.
    pub fn start(&self, seals: u32) {
        self.0.store(seals, Release);
    }

    /// Adds `seals` (`F_ADD_SEALS`) to a file of this mode; `mapped` says whether it is mapped shared and writable. Under `write`.
    ///
    /// # Errors
    /// `EINVAL` for unknown ones, `EPERM` once sealed against it, `EBUSY` if a mapping may still write.
    pub fn add(&self, seals: u32, mode: u32, mapped: impl FnOnce() -> bool) -> Result<()> {
        if seals & !ALL != 0 {
            return Err(Errno::EINVAL);
        }
        let old = self.get();
        if old & uapi::F_SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        let fixed = if seals & uapi::F_SEAL_EXEC != 0 && mode & EXECUTE != 0 { FIXED } else { 0 };
        self.0.store(old | seals | fixed, Release);
        if seals & !old & uapi::F_SEAL_WRITE != 0 && mapped() {
            self.0.store(old, Release);
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    /// Whether no new mapping may write.
    pub fn no_write(&self) -> bool {
        self.get() & NO_WRITE != 0
    }

    /// Whether contents may change.
    pub fn check_write(&self) -> Result<()> {
        permit(!self.no_write())
    }

    /// How far a write at `offset` to `end` gets in a file of `size` bytes, page by page.
    pub fn check_write_to(&self, offset: u64, end: u64, size: u64) -> Result<u64> {
        self.check_write()?;
        if self.get() & uapi::F_SEAL_GROW == 0 || end <= size {
            return Ok(end);
        }
        let end = size / PAGE * PAGE;
        permit(end > offset).map(|()| end)
    }

    /// Whether the size may change from `old` to `new`.
    pub fn check_size(&self, old: u64, new: u64) -> Result<()> {
        let seals = self.get();
        let denied = new < old && seals & uapi::F_SEAL_SHRINK != 0 || new > old && seals & uapi::F_SEAL_GROW != 0;
        permit(!denied)
    }

    /// Whether the mode may change from `old` to `new`.
    pub fn check_mode(&self, old: u32, new: u32) -> Result<()> {
        permit(self.get() & uapi::F_SEAL_EXEC == 0 || (old ^ new) & EXECUTE == 0)
    }
}

fn permit(allowed: bool) -> Result<()> {
    if allowed { Ok(()) } else { Err(Errno::EPERM) }
}
