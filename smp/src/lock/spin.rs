//! The adaptive spin lock: spins briefly, then sleeps on the host.
//!
//! The holder's host thread may not be running, so spinning for long would waste its processor. Three states, as in
//! Drepper's "Futexes are tricky":
//!
//! ```text
//! FREE --lock--> LOCKED --a waiter gives up spinning--> CONTENDED
//!   ^---unlock------'---------------unlock, wake one--------'
//! ```
//!
//! Never held across blocking: kernel code is not preempted, and nothing masks signals because handlers that hit
//! kernel code take no locks. Model: `loom-tests/tests/spin.rs`.

use super::rank::{Nesting, Rank, note_acquire, note_release};
use super::stat;
use crate::const_new;
use crate::sync::{
    AtomicU32, CellRefMut, Ordering::*, SPIN_ROUNDS, UnsafeCell, futex_wait, futex_wake, mutant, order, spin_hint,
};
use core::ops::{Deref, DerefMut};

const FREE: u32 = 0;
const LOCKED: u32 = 1;
const CONTENDED: u32 = 2;

/// The lock word alone, for structures that place their data themselves.
#[derive(Debug)]
pub struct RawSpin(AtomicU32);

impl RawSpin {
    const_new! {
        /// A free lock.
        pub fn new() -> Self {
            Self(AtomicU32::new(FREE))
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    #[must_use]
    pub fn try_lock(&self) -> bool {
        self.0.compare_exchange(FREE, LOCKED, Acquire, Relaxed).is_ok()
    }

    /// Takes the lock.
    #[inline]
    pub fn lock(&self) {
        if !self.try_lock() {
            self.lock_slow();
        }
    }

    #[cold]
    fn lock_slow(&self) {
        for _ in 0..SPIN_ROUNDS {
            match self.0.load(Relaxed) {
                FREE if self.try_lock() => return,
                CONTENDED => break,
                _ => spin_hint(),
            }
        }
        // From here on this waiter may have been asleep with others: it must leave the word contended.
        let marked = if mutant("spin-waiter-unmarked") { LOCKED } else { CONTENDED };
        while self.0.swap(marked, Acquire) != FREE {
            futex_wait(&self.0, marked);
        }
    }

    /// Releases the lock, which the caller holds.
    #[inline]
    pub fn unlock(&self) {
        if self.0.swap(FREE, order("spin-unlock-relaxed", Release)) == CONTENDED {
            futex_wake(&self.0, 1);
        }
    }

    /// Whether somebody holds it at this instant: for assertions and reports.
    pub fn is_locked(&self) -> bool {
        self.0.load(Relaxed) != FREE
    }
}

impl Default for RawSpin {
    fn default() -> Self {
        Self::new()
    }
}

/// A value behind an adaptive spin lock.
///
/// # Invariants
/// `value` is accessed only by the holder of `raw`.
#[derive(Debug)]
pub struct SpinLock<T> {
    raw: RawSpin,
    rank: Rank,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives one thread at a time access to the value, which may then move between threads.
unsafe impl<T: Send> Send for SpinLock<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    const_new! {
        /// A free lock of `rank` around `value`.
        pub fn new(rank: Rank, value: T) -> Self {
            Self { raw: RawSpin::new(), rank, value: UnsafeCell::new(value) }
        }
    }

    /// Takes the lock. Everything held must rank above it.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        note_acquire(self.rank, Nesting::Below);
        self.take();
        self.guard()
    }

    /// Takes a second lock of the same rank; the caller has an order among equals.
    #[inline]
    #[track_caller]
    pub fn lock_nested(&self) -> SpinGuard<'_, T> {
        note_acquire(self.rank, Nesting::Beside);
        self.take();
        self.guard()
    }

    #[inline(always)]
    fn take(&self) {
        if stat::enabled() {
            stat::acquire(self.rank, || self.raw.try_lock(), || self.raw.lock());
        } else {
            self.raw.lock();
        }
    }

    /// Takes the lock if it is free; any rank may be held.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        if !self.raw.try_lock() {
            return None;
        }
        if stat::enabled() {
            stat::acquire(self.rank, || true, || ());
        }
        note_acquire(self.rank, Nesting::Try);
        Some(self.guard())
    }

    /// The value, without locking: the exclusive borrow proves that nobody else is here.
    #[cfg(not(loom))]
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: `&mut self` is exclusive.
        unsafe { &mut *self.value.get_mut().as_ptr() }
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }

    /// Whether somebody holds it at this instant: for assertions and reports.
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    fn guard(&self) -> SpinGuard<'_, T> {
        SpinGuard { value: self.value.get_mut(), release: Unlock { raw: &self.raw, rank: self.rank } }
    }
}

/// Proof that the lock is held; dropping it releases the lock.
#[derive(Debug)]
#[must_use]
pub struct SpinGuard<'a, T> {
    // The access ends before the lock is released: fields drop in this order.
    value: CellRefMut<T>,
    release: Unlock<'a>,
}

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: Sync> Sync for SpinGuard<'_, T> {}

impl<T> SpinGuard<'_, T> {
    /// Gives the lock up without releasing it; [`SpinLock::unlock_leaked`]'s caller will, perhaps on another stack.
    pub fn leak(self) {
        core::mem::forget(self.release);
    }
}

impl<T> SpinLock<T> {
    /// Releases a lock whose guard was leaked, on the same virtual CPU.
    ///
    /// # Safety
    /// The lock is held and its guard was given up by [`SpinGuard::leak`].
    pub unsafe fn unlock_leaked(&self) {
        release(&self.raw, self.rank);
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard proves that the lock is held; the borrow of the guard bounds the reference.
        unsafe { &*self.value.as_ptr() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; the guard is borrowed exclusively.
        unsafe { &mut *self.value.as_ptr() }
    }
}

/// Releases the lock when dropped.
#[derive(Debug)]
struct Unlock<'a> {
    raw: &'a RawSpin,
    rank: Rank,
}

impl Drop for Unlock<'_> {
    #[inline]
    fn drop(&mut self) {
        release(self.raw, self.rank);
    }
}

#[inline(always)]
fn release(raw: &RawSpin, rank: Rank) {
    note_release(rank);
    if stat::enabled() {
        stat::release(rank, raw, stat::Hold::Alone);
    }
    raw.unlock();
}
