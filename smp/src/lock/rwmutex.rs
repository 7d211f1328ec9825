//! The sleeping reader-writer lock: its waiters give up their virtual CPU.
//!
//! The word holds the number of readers, or [`WRITER`]. While a writer waits a reader enters only if some writer has left
//! since it came: neither starves the other. Not recursive for readers, therefore. The last reader wakes one writer, a
//! writer wakes all readers and one writer. Its rank is accounted to the thread. Model: `loom-tests/tests/rwmutex.rs`.

use super::mutex::{Note, note};
use super::rank::{Nesting, Rank, might_sleep};
use super::stat;
use crate::const_new;
use crate::sync::{AtomicU32, CellRef, CellRefMut, Ordering::*, UnsafeCell, full_fence, mutant, order};
use crate::wait::WaitQueue;
use core::ops::{Deref, DerefMut};

/// The word when a writer is inside.
const WRITER: u32 = u32::MAX;

/// A value behind a sleeping reader-writer lock.
///
/// # Invariants
/// `value` is shared by readers that are counted in `word`, or exclusive to the writer it names.
#[derive(Debug)]
pub struct RwMutex<T> {
    gate: Gate,
    value: UnsafeCell<T>,
}

/// The lock without its value.
#[derive(Debug)]
struct Gate {
    word: AtomicU32,
    /// Writers that wait, or are about to.
    waiting: AtomicU32,
    /// Times that a writer has left.
    phase: AtomicU32,
    rank: Rank,
    readers: WaitQueue,
    writers: WaitQueue,
}

// SAFETY: the lock hands out `&T` to many threads or `&mut T` to one.
unsafe impl<T: Send> Send for RwMutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for RwMutex<T> {}

impl<T> RwMutex<T> {
    const_new! {
        /// A free lock of `rank` around `value`.
        pub fn new(rank: Rank, value: T) -> Self {
            let gate = Gate {
                word: AtomicU32::new(0),
                waiting: AtomicU32::new(0),
                phase: AtomicU32::new(0),
                rank,
                readers: WaitQueue::new(),
                writers: WaitQueue::new(),
            };
            Self { gate, value: UnsafeCell::new(value) }
        }
    }

    /// Enters as one of several readers; sleeps while a writer is inside or waits.
    #[track_caller]
    pub fn read(&self) -> RwMutexReadGuard<'_, T> {
        might_sleep();
        note(self.gate.rank, Note::Acquire(Nesting::Below));
        let gate = &self.gate;
        let since_ns = gate.enter_shared();
        RwMutexReadGuard { value: self.value.get(), leave: LeaveRead { gate, since_ns } }
    }

    /// Enters alone; sleeps while anybody is inside.
    #[track_caller]
    pub fn write(&self) -> RwMutexWriteGuard<'_, T> {
        might_sleep();
        note(self.gate.rank, Note::Acquire(Nesting::Below));
        let since_ns = self.gate.enter_alone();
        RwMutexWriteGuard { value: self.value.get_mut(), leave: LeaveWrite { gate: &self.gate, since_ns } }
    }

    /// The value, without locking: the exclusive borrow proves that nobody else is here.
    #[cfg(not(loom))]
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: `&mut self` is exclusive.
        unsafe { &mut *self.value.get_mut().as_ptr() }
    }
}

impl Gate {
    /// Adds a reader who came in `phase`.
    fn add_reader(&self, phase: u32) -> Option<()> {
        if self.waiting.load(Relaxed) != 0 && self.phase.load(Relaxed) == phase {
            return None;
        }
        self.word.fetch_update(Acquire, Relaxed, |word| (word < WRITER - 1).then(|| word + 1)).ok().map(|_| ())
    }

    fn add_writer(&self) -> Option<()> {
        self.word.compare_exchange(0, WRITER, Acquire, Relaxed).ok().map(|_| ())
    }

    /// Enters as a reader; returns when that was if locks are counted, else 0.
    fn enter_shared(&self) -> u64 {
        let phase = self.phase.load(Relaxed);
        let quick = || self.add_reader(phase);
        let sleep = || self.readers.wait_until(quick);
        if stat::enabled() {
            return stat::wait(self.rank, || quick().is_some(), sleep);
        }
        sleep();
        0
    }

    /// Enters as the writer; returns when that was if locks are counted, else 0.
    fn enter_alone(&self) -> u64 {
        let sleep = || {
            self.waiting.fetch_add(1, Relaxed);
            self.writers.wait_until(|| self.add_writer());
            self.waiting.fetch_sub(1, Relaxed);
        };
        let quick = || self.add_writer().is_some();
        if stat::enabled() {
            return stat::wait(self.rank, quick, sleep);
        }
        if !quick() {
            sleep();
        }
        0
    }

    /// The lock is free: lets a writer try. It has said that it waits before it looked at the word.
    fn wake_writer(&self) {
        full_fence("rwmutex-leave-unfenced");
        if self.waiting.load(Relaxed) != 0 {
            self.writers.wake_one();
        }
    }
}

/// Shared access; dropping it leaves the lock.
#[derive(Debug)]
#[must_use]
pub struct RwMutexReadGuard<'a, T> {
    // The access ends before the lock is left: fields drop in this order.
    value: CellRef<T>,
    #[expect(dead_code, reason = "held for its drop")]
    leave: LeaveRead<'a>,
}

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: Sync> Sync for RwMutexReadGuard<'_, T> {}

impl<T> Deref for RwMutexReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this reader is counted, so no writer is inside.
        unsafe { &*self.value.as_ptr() }
    }
}

#[derive(Debug)]
struct LeaveRead<'a> {
    gate: &'a Gate,
    /// When it was taken, if locks are counted, else 0.
    since_ns: u64,
}

impl Drop for LeaveRead<'_> {
    fn drop(&mut self) {
        let gate = self.gate;
        note(gate.rank, Note::Release);
        if self.since_ns != 0 {
            stat::held(gate.rank, &gate.word, stat::Hold::Shared, self.since_ns);
        }
        if gate.word.fetch_sub(1, order("rwmutex-read-unlock-relaxed", Release)) == 1 {
            gate.wake_writer();
        }
    }
}

/// Exclusive access; dropping it leaves the lock.
#[derive(Debug)]
#[must_use]
pub struct RwMutexWriteGuard<'a, T> {
    // The access ends before the lock is left: fields drop in this order.
    value: CellRefMut<T>,
    #[expect(dead_code, reason = "held for its drop")]
    leave: LeaveWrite<'a>,
}

// SAFETY: a shared guard gives only `&T`.
unsafe impl<T: Sync> Sync for RwMutexWriteGuard<'_, T> {}

impl<T> Deref for RwMutexWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the writer is alone.
        unsafe { &*self.value.as_ptr() }
    }
}

impl<T> DerefMut for RwMutexWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the writer is alone and the guard is borrowed exclusively.
        unsafe { &mut *self.value.as_ptr() }
    }
}

#[derive(Debug)]
struct LeaveWrite<'a> {
    gate: &'a Gate,
    since_ns: u64,
}

impl Drop for LeaveWrite<'_> {
    fn drop(&mut self) {
        let gate = self.gate;
        note(gate.rank, Note::Release);
        if self.since_ns != 0 {
            stat::held(gate.rank, &gate.word, stat::Hold::Alone, self.since_ns);
        }
        gate.phase.fetch_add(1, Relaxed);
        gate.word.store(0, order("rwmutex-write-unlock-relaxed", Release));
        if !mutant("rwmutex-readers-forgotten") {
            gate.readers.wake_all();
        }
        gate.wake_writer();
    }
}
