//! The sleeping lock: its waiters give up their virtual CPU.
//!
//! A word and a wait queue: whoever unlocks wakes one waiter, which competes with newcomers. Its rank is accounted to
//! the thread. Model: `loom-tests/tests/mutex.rs`.

use super::rank::{CHECKED, Nesting, Rank, might_sleep};
use super::stat;
use crate::const_new;
use crate::schedule::schedule;
use crate::sync::{AtomicU32, CellRefMut, Ordering::*, UnsafeCell, order};
use crate::wait::{WaitQueue, Wake};
use core::ops::{Deref, DerefMut};

/// A value behind a sleeping lock.
///
/// # Invariants
/// `value` is accessed only by the thread that moved `locked` from 0 to 1.
#[derive(Debug)]
pub struct Mutex<T> {
    locked: AtomicU32,
    rank: Rank,
    waiters: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives one thread at a time access to the value, which may then move between threads.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    const_new! {
        /// A free lock of `rank` around `value`.
        pub fn new(rank: Rank, value: T) -> Self {
            Self { locked: AtomicU32::new(0), rank, waiters: WaitQueue::new(), value: UnsafeCell::new(value) }
        }
    }

    /// Takes the lock; sleeps while another thread holds it.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        might_sleep();
        note(self.rank, Note::Acquire(Nesting::Below));
        let since_ns = self.take();
        self.guard(since_ns)
    }

    /// Takes a second lock of the same rank; the caller has an order among equals.
    #[track_caller]
    pub fn lock_nested(&self) -> MutexGuard<'_, T> {
        might_sleep();
        note(self.rank, Note::Acquire(Nesting::Beside));
        let since_ns = self.take();
        self.guard(since_ns)
    }

    /// As [`Self::lock`], given up when the thread is interrupted.
    #[track_caller]
    pub fn lock_interruptible(&self) -> Result<MutexGuard<'_, T>, Wake> {
        might_sleep();
        note(self.rank, Note::Acquire(Nesting::Below));
        let mut end = Ok(());
        let mut sleep = || end = self.waiters.wait_interruptible(None, || self.acquire());
        let since_ns = if stat::enabled() {
            stat::wait(self.rank, || self.acquire().is_some(), sleep)
        } else {
            sleep();
            0
        };
        match end {
            Ok(()) => Ok(self.guard(since_ns)),
            Err(wake) => {
                note(self.rank, Note::Release);
                Err(wake)
            }
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.acquire()?;
        note(self.rank, Note::Acquire(Nesting::Try));
        let since_ns = if stat::enabled() { stat::wait(self.rank, || true, || ()) } else { 0 };
        Some(self.guard(since_ns))
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }

    /// Whether somebody holds it at this instant: for assertions and reports.
    pub fn is_locked(&self) -> bool {
        self.locked.load(Relaxed) != 0
    }

    fn acquire(&self) -> Option<()> {
        self.locked.compare_exchange(0, 1, Acquire, Relaxed).ok().map(|_| ())
    }

    /// Sleeps until the lock is the caller's; returns when that was if locks are counted, else 0.
    fn take(&self) -> u64 {
        let sleep = || self.waiters.wait_until(|| self.acquire());
        if stat::enabled() {
            return stat::wait(self.rank, || self.acquire().is_some(), sleep);
        }
        sleep();
        0
    }

    fn guard(&self, since_ns: u64) -> MutexGuard<'_, T> {
        let unlock = Unlock { locked: &self.locked, waiters: &self.waiters, rank: self.rank, since_ns };
        MutexGuard { value: self.value.get_mut(), unlock }
    }
}

/// What to record in the thread's account.
pub(super) enum Note {
    Acquire(Nesting),
    Release,
}

/// Records it.
pub(super) fn note(rank: Rank, what: Note) {
    if !CHECKED {
        return;
    }
    // Before the scheduler there is one thread, which cannot wait.
    let Some(schedule) = schedule() else { return };
    let thread = schedule.current();
    match what {
        Note::Acquire(nesting) => thread.held.acquire(rank, nesting),
        Note::Release => thread.held.release(rank),
    }
}

/// Proof that the lock is held; dropping it releases the lock.
#[derive(Debug)]
#[must_use]
pub struct MutexGuard<'a, T> {
    // The access ends before the lock is released: fields drop in this order.
    value: CellRefMut<T>,
    #[expect(dead_code, reason = "held for its drop")]
    unlock: Unlock<'a>,
}

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard proves that the lock is held.
        unsafe { &*self.value.as_ptr() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard proves that the lock is held and is borrowed exclusively.
        unsafe { &mut *self.value.as_ptr() }
    }
}

#[derive(Debug)]
struct Unlock<'a> {
    locked: &'a AtomicU32,
    waiters: &'a WaitQueue,
    rank: Rank,
    /// When it was taken, if locks are counted, else 0.
    since_ns: u64,
}

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        note(self.rank, Note::Release);
        if self.since_ns != 0 {
            stat::held(self.rank, self.locked, stat::Hold::Alone, self.since_ns);
        }
        self.locked.store(0, order("mutex-unlock-relaxed", Release));
        self.waiters.wake_one();
    }
}
