//! Guest memory: the only code that touches it from kernel mode.
//!
//! An address from a guest is a claim ([`UserAddr`], [`UserIn`], [`UserOut`], [`UserSlice`]) until a copy has gone
//! through. Copies run in active sections of at most 64 KiB (see [`crate::view`]). A fault inside one ends at a fixup;
//! the section ends, the [`Pager`] makes the page present or says no (`EFAULT`), and the copy goes on.
//!
//! Everything here may sleep: never under a spinlock.

mod pod;
mod typed;

pub use pod::Pod;
pub use typed::{UserIn, UserOut, UserSlice, read_cstr, read_val, read_vec, write_val};

use crate::view::Section;
use crate::{Errno, PAGE, Result, percpu};
use core::arch::global_asm;
use core::fmt;
use umbel_abi::machine::layout::USER_TOP;
use umbel_smp::lock::Once;

global_asm!(include_str!("copy.s"));

unsafe extern "C" {
    fn user_copy(to: *mut u8, from: *const u8, len: usize) -> usize;
    pub(crate) fn user_clear(to: *mut u8, len: usize) -> usize;
    fn user_load_u32(from: *const u32, value: *mut u32) -> u32;
    fn user_store_u32(to: *mut u32, value: u32) -> u32;
    fn user_cmpxchg_u32(to: *mut u32, expected: u32, new: u32, old: *mut u32) -> u32;
}

/// Longest active section, in bytes.
const SECTION: usize = 64 << 10;
/// Faults without progress before a copy gives up: only a race that never ends gets there.
const PATIENCE: u32 = 4096;

/// An address in guest memory. Not validated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct UserAddr(pub u64);

impl UserAddr {
    /// The null pointer.
    pub const NULL: UserAddr = UserAddr(0);

    /// Whether this is the null pointer.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `bytes` further on; wraps, as an address that no copy accepts.
    #[must_use]
    pub const fn add(self, bytes: u64) -> UserAddr {
        UserAddr(self.0.wrapping_add(bytes))
    }

    /// The start of its page.
    #[must_use]
    pub const fn page(self) -> UserAddr {
        UserAddr(self.0 & !(PAGE - 1))
    }

    /// Whether it is a multiple of the page size.
    pub const fn is_page_aligned(self) -> bool {
        self.0.is_multiple_of(PAGE)
    }
}

impl fmt::Debug for UserAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for UserAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Makes guest pages present. Implemented by the kernel's address spaces, for the current thread's.
pub trait Pager: Sync {
    /// Makes the page at `addr` readable, or writable, in the current slot; `EFAULT` if it may not be. May sleep.
    fn fault_in(&self, addr: UserAddr, write: bool) -> Result<()>;
    /// Binds the current slot to the current thread's space ([`crate::view::activate`]).
    fn activate(&self);
}

static PAGER: Once<&'static dyn Pager> = Once::new();

/// Names the pager. Once, at boot.
pub fn register(pager: &'static dyn Pager) {
    PAGER.call_once(|| pager);
}

/// First address that is not the guest's. The unit tests' guest memory is the test's own, wherever the host put it.
const LIMIT: u64 = if cfg!(test) { 1 << 47 } else { USER_TOP };

/// Whether a range lies in guest addresses. Says nothing about what is mapped there.
pub fn access_ok(addr: UserAddr, len: usize) -> Result<()> {
    match addr.0.checked_add(len as u64) {
        Some(end) if end <= LIMIT => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Runs `body` in an active section, binding the slot first if need be.
pub(crate) fn in_section<R>(body: impl FnOnce() -> R) -> R {
    if !percpu::in_slot() {
        return body();
    }
    let section = loop {
        if let Some(section) = Section::begin() {
            break section;
        }
        if let Some(pager) = PAGER.get() {
            pager.activate();
        }
    };
    let result = body();
    drop(section);
    result
}

pub(crate) fn fault_in(addr: u64, write: bool) -> Result<()> {
    let pager = PAGER.get().ok_or(Errno::EFAULT)?;
    pager.fault_in(UserAddr(addr), write).map_err(|_| Errno::EFAULT)
}

/// Runs `step(done) -> bytes it did` until `len` bytes are done, faulting in at the place where it stopped short.
/// Returns the bytes done, and the error that ended it.
fn transfer(addr: UserAddr, len: usize, write: bool, step: impl Fn(usize, usize) -> usize) -> (usize, Result<()>) {
    if let Err(error) = access_ok(addr, len) {
        return (0, Err(error));
    }
    let mut done = 0;
    let mut patience = PATIENCE;
    while done < len {
        let chunk = (len - done).min(SECTION);
        let left = in_section(|| step(done, chunk));
        done += chunk - left;
        if left == 0 {
            continue;
        }
        if chunk != left {
            patience = PATIENCE;
        }
        patience -= 1;
        if patience == 0 {
            return (done, Err(Errno::EFAULT));
        }
        if let Err(error) = fault_in(addr.0 + done as u64, write) {
            return (done, Err(error));
        }
    }
    (done, Ok(()))
}

/// Copies from guest memory; bytes copied, and why not all.
pub fn copy_in_partial(to: &mut [u8], from: UserAddr) -> (usize, Result<()>) {
    let base = to.as_mut_ptr();
    transfer(from, to.len(), false, |done, chunk| {
        let source = (from.0 + done as u64) as *const u8;
        // SAFETY: the destination lies within `to`; the source is guest memory, whose faults have a fixup.
        unsafe { user_copy(base.add(done), source, chunk) }
    })
}

/// Copies to guest memory; bytes copied, and why not all.
pub fn copy_out_partial(to: UserAddr, from: &[u8]) -> (usize, Result<()>) {
    let base = from.as_ptr();
    transfer(to, from.len(), true, |done, chunk| {
        let target = (to.0 + done as u64) as *mut u8;
        // SAFETY: the source lies within `from`; the target is guest memory, whose faults have a fixup.
        unsafe { user_copy(target, base.add(done), chunk) }
    })
}

/// Fills `to` from guest memory. `EFAULT` if any byte is not readable.
pub fn copy_in(to: &mut [u8], from: UserAddr) -> Result<()> {
    copy_in_partial(to, from).1
}

/// Copies all of `from` to guest memory. `EFAULT` if any byte is not writable; those before it may be written.
pub fn copy_out(to: UserAddr, from: &[u8]) -> Result<()> {
    copy_out_partial(to, from).1
}

/// Writes zeroes to guest memory; bytes written, and why not all.
pub fn clear_partial(to: UserAddr, len: usize) -> (usize, Result<()>) {
    transfer(to, len, true, |done, chunk| {
        // SAFETY: guest memory, whose faults have a fixup.
        unsafe { user_clear((to.0 + done as u64) as *mut u8, chunk) }
    })
}

/// Writes zeroes to guest memory.
pub fn clear(to: UserAddr, len: usize) -> Result<()> {
    clear_partial(to, len).1
}

/// One access to an aligned 32-bit word, faulting in as needed. `EINVAL` if misaligned, as futex(2) wants it.
fn word_access(addr: UserAddr, write: bool, access: impl Fn(*mut u32) -> u32) -> Result<()> {
    if !addr.0.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    access_ok(addr, 4)?;
    for _ in 0..PATIENCE {
        if in_section(|| access(addr.0 as *mut u32)) == 0 {
            return Ok(());
        }
        fault_in(addr.0, write)?;
    }
    Err(Errno::EFAULT)
}

/// Reads an aligned word at once.
pub fn fetch_u32(addr: UserAddr) -> Result<u32> {
    let value = core::cell::Cell::new(0);
    // SAFETY: guest memory, whose faults have a fixup; the value goes to our own cell.
    word_access(addr, false, |word| unsafe { user_load_u32(word, value.as_ptr()) })?;
    Ok(value.get())
}

/// Writes an aligned word at once.
pub fn store_u32(addr: UserAddr, value: u32) -> Result<()> {
    // SAFETY: guest memory, whose faults have a fixup.
    word_access(addr, true, |word| unsafe { user_store_u32(word, value) })
}

/// Reads an aligned word without faulting in: under a spinlock. `EFAULT` also where the page is merely absent.
pub fn fetch_u32_nofault(addr: UserAddr) -> Result<u32> {
    if !addr.0.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    access_ok(addr, 4)?;
    let mut value = 0;
    // SAFETY: guest memory, whose faults have a fixup; the value goes to our own variable.
    let faulted = in_section(|| unsafe { user_load_u32(addr.0 as *const u32, &raw mut value) });
    if faulted == 0 { Ok(value) } else { Err(Errno::EFAULT) }
}

/// Compares and exchanges an aligned word; the old value: it took place if that is `expected`.
pub fn cmpxchg_u32(addr: UserAddr, expected: u32, new: u32) -> Result<u32> {
    let old = core::cell::Cell::new(0);
    // SAFETY: guest memory, whose faults have a fixup; the old value goes to our own cell.
    word_access(addr, true, |word| unsafe { user_cmpxchg_u32(word, expected, new, old.as_ptr()) })?;
    Ok(old.get())
}

/// As [`cmpxchg_u32`] without faulting in: under a spinlock. `EFAULT` also where the page is merely absent or not writable.
pub fn cmpxchg_u32_nofault(addr: UserAddr, expected: u32, new: u32) -> Result<u32> {
    if !addr.0.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    access_ok(addr, 4)?;
    let mut old = 0;
    // SAFETY: guest memory, whose faults have a fixup; the old value goes to our own variable.
    let faulted = in_section(|| unsafe { user_cmpxchg_u32(addr.0 as *mut u32, expected, new, &raw mut old) });
    if faulted == 0 { Ok(old) } else { Err(Errno::EFAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr_of(bytes: &[u8]) -> UserAddr {
        UserAddr(bytes.as_ptr() as u64)
    }

    #[test]
    fn copies_of_every_small_length_are_exact() {
        let source: std::vec::Vec<u8> = (0..300).map(|n| n as u8).collect();
        for len in 0..200 {
            let mut to = [0xee; 256];
            copy_in(&mut to[3..3 + len], addr_of(&source[5..])).unwrap();
            assert_eq!(&to[3..3 + len], &source[5..5 + len]);
            assert!(to[3 + len..].iter().all(|&b| b == 0xee));
        }
    }

    #[test]
    fn kernel_addresses_are_refused() {
        assert_eq!(copy_in(&mut [0; 8], UserAddr(LIMIT - 4)), Err(Errno::EFAULT));
        assert_eq!(copy_out(UserAddr(u64::MAX - 2), &[0; 8]), Err(Errno::EFAULT));
        assert_eq!(fetch_u32(UserAddr(LIMIT)), Err(Errno::EFAULT));
    }

    #[test]
    fn a_word_is_exchanged_only_if_it_is_as_expected() {
        let mut word = 5u32;
        let addr = UserAddr(&raw mut word as u64);
        assert_eq!(cmpxchg_u32(addr, 4, 9), Ok(5));
        assert_eq!(fetch_u32(addr), Ok(5));
        assert_eq!(cmpxchg_u32(addr, 5, 9), Ok(5));
        assert_eq!(fetch_u32(addr), Ok(9));
        assert_eq!(fetch_u32(UserAddr(addr.0 + 1)), Err(Errno::EINVAL));
    }
}
