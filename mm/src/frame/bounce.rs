//! Buffers through which pages are copied: a few are kept, so that a copy costs no allocation.

use crate::{Errno, Result, percpu};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Bytes of a buffer.
pub const LEN: usize = 64 << 10;
const KEPT: usize = 8;

static SPARE: [AtomicPtr<[u8; LEN]>; KEPT] = [const { AtomicPtr::new(null_mut()) }; KEPT];

/// A buffer of undefined contents; returns to the shelf on drop.
pub struct Bounce(Option<Box<[u8; LEN]>>);

/// Takes a buffer. `ENOMEM` if the heap is exhausted.
pub fn take() -> Result<Bounce> {
    let spare = SPARE[percpu::cpu() % KEPT].swap(null_mut(), Ordering::Acquire);
    if !spare.is_null() {
        // SAFETY: came from `Box::into_raw`, and the swap made it ours alone.
        return Ok(Bounce(Some(unsafe { Box::from_raw(spare) })));
    }
    let mut fresh = Vec::new();
    fresh.try_reserve_exact(LEN).map_err(|_| Errno::ENOMEM)?;
    fresh.resize(LEN, 0);
    fresh.into_boxed_slice().try_into().map(|buffer| Bounce(Some(buffer))).map_err(|_| Errno::ENOMEM)
}

impl Deref for Bounce {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |buffer| &buffer[..])
    }
}

impl DerefMut for Bounce {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |buffer| &mut buffer[..])
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        let Some(buffer) = self.0.take() else {
            return;
        };
        let old = SPARE[percpu::cpu() % KEPT].swap(Box::into_raw(buffer), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: as in `take`.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}
