//! Locks. Those that spin briefly and then wait on the host: [`SpinLock`], [`RwLock`], [`SeqLock`]'s writers, [`Once`].
//! Those that put the thread to sleep: [`Mutex`], [`RwMutex`], [`Semaphore`].
//!
//! Kernel code is not preempted and signal handlers take no locks, so spinning locks mask nothing; they must not be
//! held across blocking. Order: [`Rank`].

mod irq;
mod mutex;
#[cfg(not(loom))]
mod occupancy;
mod once;
mod rank;
mod rw;
mod rwmutex;
mod semaphore;
mod seq;
mod spin;
#[cfg(not(loom))]
pub mod stat;
#[cfg(loom)]
mod stat {
    //! Models count no locks.
    use super::rank::Rank;
    pub const fn enabled() -> bool {
        false
    }
    pub fn acquire(_: Rank, _: impl FnOnce() -> bool, _: impl FnOnce()) {}
    pub enum Hold {
        Alone,
        Shared,
    }
    pub fn release<T>(_: Rank, _: &T, _: Hold) {}
    pub fn wait(_: Rank, _: impl FnOnce() -> bool, _: impl FnOnce()) -> u64 {
        0
    }
    pub fn held<T>(_: Rank, _: &T, _: Hold, _: u64) {}
}

pub use irq::IrqGuard;
pub use mutex::{Mutex, MutexGuard};
pub use once::Once;
pub use rank::{CHECKED, HeldLocks, Rank, might_sleep, register_cpu_held};
pub use rw::{RwLock, RwReadGuard, RwWriteGuard};
pub use rwmutex::{RwMutex, RwMutexReadGuard, RwMutexWriteGuard};
pub use semaphore::Semaphore;
pub use seq::{SeqData, SeqLock, SeqWords};
pub use spin::{RawSpin, SpinGuard, SpinLock};

#[cfg(all(test, not(loom)))]
mod tests;
