//! Timers of virtual CPUs.
//!
//! A timer is armed on the virtual CPU that arms it. Expired ones run when that CPU handles interrupts: on its way out to
//! guest code, in the idle loop, in `schedule()`; whoever programs the host's timer asks [`next_deadline`]. Callbacks run
//! in kernel mode, outside the queue's lock, on whatever thread was running: they must not block.
//!
//! The timers of a virtual CPU that is offline stay where they are, so that whoever armed them can still cancel them, and are
//! run by virtual CPU 0, which is always there ([`leave_behind`], [`take_back`]).
//!
//! A callback may run just while [`Timer::cancel`] says that it came too late: state that both touch needs a lock of its own.
//! Locks: a queue's (rank `Timer`).

use super::queue::{Key, Queue};
use crate::Result;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use umbel_abi::machine::{MAX_CPUS, Mailbox};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::schedule::schedule;
use umbel_smp::thread::ThreadRef;

/// Something with a callback.
pub trait Expire: Send + Sync {
    /// Called once, at or after the deadline.
    fn expired(&self, now_ns: u64);
}

/// What an expired timer does.
pub enum Target {
    /// Ends the block of a thread.
    Wake(ThreadRef),
    /// Calls back, and keeps what it calls alive until then.
    Call(Arc<dyn Expire>),
    /// Calls back if it is still there: a repeating timer must not keep its own owner alive.
    Owner(Weak<dyn Expire>),
}

/// No deadline, in [`CpuTimers::next`].
const NEVER: u64 = u64::MAX;

struct CpuTimers {
    /// The earliest deadline, to look at without the lock.
    next: AtomicU64,
    queue: SpinLock<Queue<Target>>,
    /// Virtual CPU 0 runs them. Changed under the queue's lock.
    orphaned: AtomicBool,
}

static TIMERS: [CpuTimers; MAX_CPUS] = [const { CpuTimers::new() }; MAX_CPUS];
/// The earliest deadline of orphaned timers, or earlier.
static ORPHANS: AtomicU64 = AtomicU64::new(NEVER);

impl CpuTimers {
    const fn new() -> CpuTimers {
        CpuTimers {
            next: AtomicU64::new(NEVER),
            queue: SpinLock::new(Rank::Timer, Queue::new()),
            orphaned: AtomicBool::new(false),
        }
    }
}

/// An armed timer. Dropping it leaves it armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    cpu: u32,
    key: Key,
}

impl Timer {
    /// Disarms it; false if it has expired already (its callback may be running now).
    pub fn cancel(self) -> bool {
        let Some(timers) = TIMERS.get(self.cpu as usize) else { return false };
        let mut queue = timers.queue.lock();
        let removed = queue.remove(self.key);
        timers.next.store(queue.next().unwrap_or(NEVER), Relaxed);
        drop(queue);
        removed.is_some()
    }
}

/// Arms a timer for CLOCK_MONOTONIC `deadline_ns` on this virtual CPU.
///
/// # Errors
/// `ENOMEM`.
pub fn arm(deadline_ns: u64, target: Target) -> Result<Timer> {
    let cpu = super::this_cpu();
    let timers = &TIMERS[cpu as usize % MAX_CPUS];
    let mut queue = timers.queue.lock();
    let key = queue.insert(deadline_ns, target)?;
    timers.next.store(queue.next().unwrap_or(NEVER), Relaxed);
    Ok(Timer { cpu, key })
}

/// When the next timer that virtual CPU `cpu` runs expires.
pub fn next_deadline(cpu: u32) -> Option<u64> {
    let own = TIMERS.get(cpu as usize)?.next.load(Relaxed);
    let next = if cpu == 0 { own.min(ORPHANS.load(Relaxed)) } else { own };
    (next != NEVER).then_some(next)
}

/// Virtual CPU `cpu` goes offline: virtual CPU 0 runs its timers from now on.
pub fn leave_behind(cpu: u32) {
    let Some(timers) = TIMERS.get(cpu as usize) else { return };
    // Under the lock, as all that concerns orphans: the list and the deadline fit each other.
    let queue = timers.queue.lock();
    timers.orphaned.store(true, Relaxed);
    ORPHANS.fetch_min(queue.next().unwrap_or(NEVER), Relaxed);
    drop(queue);
    umbel_smp::ipi::send(0, Mailbox::RESCHEDULE);
}

/// Virtual CPU `cpu` is back and runs its timers itself.
pub fn take_back(cpu: u32) {
    if let Some(timers) = TIMERS.get(cpu as usize) {
        let _queue = timers.queue.lock();
        timers.orphaned.store(false, Relaxed);
    }
}

/// By virtual CPU 0: the expired timers of those that are offline, and when the next of them expires.
#[cold]
fn run_orphans() -> Option<u64> {
    ORPHANS.store(NEVER, SeqCst);
    let mut began = None;
    for timers in TIMERS.iter().filter(|timers| timers.orphaned.load(Relaxed)) {
        began = began.or(run(timers));
        let _queue = timers.queue.lock();
        if timers.orphaned.load(Relaxed) {
            ORPHANS.fetch_min(timers.next.load(Relaxed), Relaxed);
        }
    }
    began
}

/// Runs the expired timers that are virtual CPU `cpu`'s to run; returns when it began to, if there were any. Cheap if not.
pub fn run_expired(cpu: u32) -> Option<u64> {
    let timers = TIMERS.get(cpu as usize)?;
    let orphaned = cpu == 0 && ORPHANS.load(Relaxed) != NEVER;
    let orphans = if orphaned && ORPHANS.load(Relaxed) <= super::monotonic_ns() { run_orphans() } else { None };
    let own = run(timers);
    orphans.or(own)
}

fn run(timers: &CpuTimers) -> Option<u64> {
    if timers.next.load(Relaxed) == NEVER {
        return None;
    }
    let now_ns = super::monotonic_ns();
    let mut began = None;
    while timers.next.load(Relaxed) <= now_ns {
        let mut queue = timers.queue.lock();
        let expired = queue.take_expired(now_ns);
        timers.next.store(queue.next().unwrap_or(NEVER), Relaxed);
        drop(queue);
        match expired {
            Some(Target::Wake(thread)) => {
                if let Some(schedule) = schedule() {
                    schedule.wake(&thread);
                }
            }
            Some(Target::Call(target)) => target.expired(now_ns),
            Some(Target::Owner(target)) => {
                if let Some(target) = target.upgrade() {
                    target.expired(now_ns);
                }
            }
            None => break,
        }
        began = Some(now_ns);
    }
    began
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    struct Count(AtomicU32);
    impl Expire for Count {
        fn expired(&self, _: u64) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn expired_timers_run_once_and_cancelled_ones_never() {
        let count = Arc::new(Count(AtomicU32::new(0)));
        let now_ns = super::super::monotonic_ns();
        let call = || Target::Call(count.clone());
        let past = arm(now_ns, call()).unwrap();
        let future = arm(now_ns + 3_600_000_000_000, call()).unwrap();
        assert!(next_deadline(super::super::this_cpu()).is_some_and(|next| next <= now_ns));
        run_expired(super::super::this_cpu());
        assert_eq!(count.0.load(Relaxed), 1);
        assert!(!past.cancel());
        assert!(future.cancel());
        assert!(!future.cancel());
    }
}
