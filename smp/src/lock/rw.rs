//! The adaptive reader-writer lock: spins briefly, then sleeps on the host.
//!
//! The word holds the number of readers, or [`WRITER`], and the flag [`WAITERS`]. While the flag is set no new reader
//! enters, so that writers are not starved; whoever leaves the lock free with the flag set clears it and wakes all.
//! Not recursive for readers either. Never held across blocking. Model: `loom-tests/tests/rwlock.rs`.

use super::rank::{Nesting, Rank, note_acquire, note_release};
use super::stat;
use crate::const_new;
use crate::sync::{
    AtomicU32, CellRef, CellRefMut, Ordering::*, SPIN_ROUNDS, UnsafeCell, futex_wait, futex_wake, mutant, order,
    spin_hint,
};
use core::ops::{Deref, DerefMut};

/// Somebody sleeps on the word.
const WAITERS: u32 = 1 << 31;
/// The count when a writer is inside.
const WRITER: u32 = WAITERS - 1;
/// Mask of the count.
const COUNT: u32 = WAITERS - 1;
/// Most readers: far above the number of virtual CPUs.
const MAX_READERS: u32 = 1 << 20;

/// A value behind an adaptive reader-writer lock.
///
/// # Invariants
/// `value` is shared by readers that are counted in `word`, or exclusive to the writer it names.
#[derive(Debug)]
pub struct RwLock<T> {
    word: AtomicU32,
    rank: Rank,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands out `&T` to many threads or `&mut T` to one.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    const_new! {
        /// A free lock of `rank` around `value`.
        pub fn new(rank: Rank, value: T) -> Self {
            Self { word: AtomicU32::new(0), rank, value: UnsafeCell::new(value) }
        }
    }

    /// Enters as one of several readers.
    #[track_caller]
    pub fn read(&self) -> RwReadGuard<'_, T> {
        note_acquire(self.rank, Nesting::Below);
        self.acquire(Self::add_reader);
        RwReadGuard { value: self.value.get(), leave: LeaveRead(&self.word, self.rank) }
    }

    /// Enters alone.
    #[track_caller]
    pub fn write(&self) -> RwWriteGuard<'_, T> {
        note_acquire(self.rank, Nesting::Below);
        self.acquire(Self::add_writer);
        RwWriteGuard { value: self.value.get_mut(), leave: LeaveWrite(&self.word, self.rank) }
    }

    /// The word with one more reader, if one may enter.
    fn add_reader(word: u32) -> Option<u32> {
        (word < MAX_READERS).then(|| word + 1)
    }

    /// The word with a writer inside, if one may enter.
    fn add_writer(word: u32) -> Option<u32> {
        (word & COUNT == 0).then_some(word | WRITER)
    }

    #[inline]
    fn acquire(&self, enter: fn(u32) -> Option<u32>) {
        let quick = || self.word.fetch_update(Acquire, Relaxed, enter).is_ok();
        if stat::enabled() {
            stat::acquire(self.rank, quick, || self.acquire_slow(enter));
        } else if !quick() {
            self.acquire_slow(enter);
        }
    }

    #[cold]
    fn acquire_slow(&self, enter: fn(u32) -> Option<u32>) {
        let mut spins = 0;
        loop {
            let Err(word) = self.word.fetch_update(Acquire, Relaxed, enter) else {
                return;
            };
            if spins < SPIN_ROUNDS && word & WAITERS == 0 {
                spins += 1;
                spin_hint();
                continue;
            }
            let flagged = word | WAITERS;
            if word == flagged || self.word.compare_exchange(word, flagged, Relaxed, Relaxed).is_ok() {
                futex_wait(&self.word, flagged);
            }
        }
    }
}

/// Leaves the word free and wakes whoever slept, if nobody entered meanwhile.
fn wake_waiters(word: &AtomicU32) {
    if word.compare_exchange(WAITERS, 0, Relaxed, Relaxed).is_ok() {
        futex_wake(word, u32::MAX);
    }
}

/// Shared access; dropping it leaves the lock.
#[derive(Debug)]
#[must_use]
pub struct RwReadGuard<'a, T> {
    // The access ends before the lock is left: fields drop in this order.
    value: CellRef<T>,
    #[expect(dead_code, reason = "held for its drop")]
    leave: LeaveRead<'a>,
}

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: Sync> Sync for RwReadGuard<'_, T> {}

impl<T> Deref for RwReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this reader is counted, so no writer is inside.
        unsafe { &*self.value.as_ptr() }
    }
}

#[derive(Debug)]
struct LeaveRead<'a>(&'a AtomicU32, Rank);

impl Drop for LeaveRead<'_> {
    fn drop(&mut self) {
        note_release(self.1);
        if stat::enabled() {
            stat::release(self.1, self.0, stat::Hold::Shared);
        }
        if self.0.fetch_sub(1, order("rw-read-unlock-relaxed", Release)) == WAITERS | 1 {
            wake_waiters(self.0);
        }
    }
}

/// Exclusive access; dropping it leaves the lock.
#[derive(Debug)]
#[must_use]
pub struct RwWriteGuard<'a, T> {
    // The access ends before the lock is left: fields drop in this order.
    value: CellRefMut<T>,
    #[expect(dead_code, reason = "held for its drop")]
    leave: LeaveWrite<'a>,
}

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: Sync> Sync for RwWriteGuard<'_, T> {}

impl<T> Deref for RwWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the writer is alone.
        unsafe { &*self.value.as_ptr() }
    }
}

impl<T> DerefMut for RwWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the writer is alone and the guard is borrowed exclusively.
        unsafe { &mut *self.value.as_ptr() }
    }
}

#[derive(Debug)]
struct LeaveWrite<'a>(&'a AtomicU32, Rank);

impl Drop for LeaveWrite<'_> {
    fn drop(&mut self) {
        note_release(self.1);
        if stat::enabled() {
            stat::release(self.1, self.0, stat::Hold::Alone);
        }
        if self.0.swap(0, Release) & WAITERS != 0 && !mutant("rw-write-unlock-silent") {
            futex_wake(self.0, u32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_beside_a_writer_whoever_waits() {
        for word in [WRITER, WRITER | WAITERS] {
            assert_eq!((RwLock::<()>::add_reader(word), RwLock::<()>::add_writer(word)), (None, None));
        }
        assert_eq!(RwLock::<()>::add_reader(1), Some(2));
        assert_eq!(RwLock::<()>::add_reader(WAITERS | 1), None, "writers are not starved");
        assert_eq!(RwLock::<()>::add_writer(WAITERS), Some(WRITER | WAITERS));
    }
}
