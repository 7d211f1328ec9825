//! Committed memory: what has been promised to processes, and whether more may be. Source: Linux's
//! Documentation/mm/overcommit-accounting.rst, proc_sys_vm(5).
//!
//! Private writable areas count whole (by [`super::vma::VmaSet`], which holds the count exactly), shared anonymous
//! memory by its size, files in RAM by their pages. There is no swap. The counters are hints to each other: a race may
//! promise a little more than the limit, never account for it wrongly.

use crate::setting::Setting;
use crate::{Errno, Result};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_mm::{PAGE, frame};

/// `vm.overcommit_memory`: 0 refuses what can never be there, 1 nothing, 2 what goes beyond [`limit`].
pub static MODE: Setting = Setting::new(0, 0, 2);
/// `vm.overcommit_ratio`: percent of RAM.
pub static RATIO: Setting = Setting::new(50, 0, i32::MAX as u64);
/// `vm.overcommit_kbytes`, in the place of the ratio unless 0.
pub static KBYTES: Setting = Setting::new(0, 0, u64::MAX);

/// Bytes of areas and of shared anonymous memory.
static COMMITTED: AtomicU64 = AtomicU64::new(0);

/// `CommitLimit`, bytes.
pub fn limit() -> u64 {
    match KBYTES.get() {
        0 => (frame::usage().total * PAGE / 100).saturating_mul(RATIO.get()),
        kbytes => kbytes.saturating_mul(1024),
    }
}

/// `Committed_AS` without files in RAM, bytes.
pub fn committed() -> u64 {
    COMMITTED.load(Relaxed)
}

/// Whether `bytes` more may be promised.
///
/// # Errors
/// `ENOMEM`.
pub fn check(bytes: u64) -> Result<()> {
    let fits = match MODE.get() {
        0 => bytes <= frame::usage().total * PAGE,
        1 => true,
        _ => committed().saturating_add(bytes) <= limit(),
    };
    if fits { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// The same for what consists of areas that have been checked one by one: fork(2).
pub(super) fn check_sum(bytes: u64) -> Result<()> {
    if MODE.get() == 2 { check(bytes) } else { Ok(()) }
}

pub(super) fn add(bytes: u64) {
    COMMITTED.fetch_add(bytes, Relaxed);
}

pub(super) fn sub(bytes: u64) {
    COMMITTED.fetch_sub(bytes, Relaxed);
}
