//! Sleeping. Source: nanosleep(2), clock_nanosleep(2).

use super::{ClockId, monotonic_ns, write_timespec};
use crate::signal::Restart;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_smp::wait::{WaitQueue, Wake};

/// Sleeps until CLOCK_MONOTONIC `deadline_ns`.
///
/// # Errors
/// `Wake::Interrupted`.
pub fn until(deadline_ns: u64) -> core::result::Result<(), Wake> {
    let queue = WaitQueue::new();
    let over = || (monotonic_ns() >= deadline_ns).then_some(());
    match queue.wait_interruptible(Some(deadline_ns), over) {
        Ok(()) | Err(Wake::TimedOut) => Ok(()),
        Err(wake) => Err(wake),
    }
}

/// Sleeps for `ns`; what is left goes to the guest's `rem` (0 = nowhere) if a handler ends it.
///
/// # Errors
/// `ERESTART_RESTARTBLOCK`, `EFAULT`.
pub fn relative(task: &Arc<Task>, ns: u64, rem: u64) -> Result<()> {
    restart(task, super::deadline_in(ns), rem)
}

/// Goes on with a relative sleep.
///
/// # Errors
/// `ERESTART_RESTARTBLOCK`, `EFAULT`.
pub fn restart(task: &Arc<Task>, deadline_ns: u64, rem: u64) -> Result<()> {
    if until(deadline_ns).is_ok() {
        return Ok(());
    }
    let left_ns = deadline_ns.saturating_sub(monotonic_ns());
    if left_ns == 0 {
        return Ok(());
    }
    if rem != 0 {
        write_timespec(rem, left_ns)?;
    }
    task.signal.set_restart(Restart::Nanosleep { deadline_ns, rem });
    Err(Errno::ERESTART_RESTARTBLOCK)
}

/// Sleeps until `clock` shows `at_ns`.
///
/// # Errors
/// `ERESTARTNOHAND`.
pub fn absolute(clock: ClockId, at_ns: u64) -> Result<()> {
    loop {
        let now_ns = clock.shown()?;
        if now_ns >= at_ns {
            return Ok(());
        }
        // CPU time passes no faster than this, however many threads run.
        let left_ns = (at_ns - now_ns) / u64::from(umbel_smp::cpu::count()).max(1);
        let deadline_ns =
            if clock.is_cpu_time() { super::deadline_in(left_ns.max(1_000_000)) } else { clock.to_monotonic(at_ns) };
        until(deadline_ns).map_err(|_| Errno::ERESTARTNOHAND)?;
    }
}
