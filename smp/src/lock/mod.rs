//! Locks. Those that spin briefly and then wait on the host: [`SpinLock`], [`RwLock`], [`SeqLock`]'s writers, [`Once`].
//! Those that put the thread to sleep: [`Mutex`], [`Semaphore`].
//!
//! Kernel code is not preempted and signal handlers take no locks, so spinning locks mask nothing; they must not be
//! held across blocking. Order: [`Rank`].

mod irq;
mod mutex;
mod once;
mod rank;
mod rw;
mod semaphore;
mod seq;
mod spin;

pub use irq::IrqGuard;
pub use mutex::{Mutex, MutexGuard};
pub use once::Once;
pub use rank::{CHECKED, HeldLocks, Rank, might_sleep, register_cpu_held};
pub use rw::{RwLock, RwReadGuard, RwWriteGuard};
pub use semaphore::Semaphore;
pub use seq::{SeqData, SeqLock, SeqWords};
pub use spin::{RawSpin, SpinGuard, SpinLock};

#[cfg(all(test, not(loom)))]
mod tests;
