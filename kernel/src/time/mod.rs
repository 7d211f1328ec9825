//! Clocks, timers, sleeps. All times are ns in `u64`; deadlines are CLOCK_MONOTONIC.
//!
//! * [`clock`]: what time it is. [`ClockId`]: clocks by number. [`timer`]: callbacks at a deadline, per virtual CPU.
//! * [`posix`]: timers of processes. [`timerfd`]: timers with a descriptor. [`sleep`]: nanosleep(2).

pub mod clock;
mod id;
pub mod interval;
pub mod posix;
mod queue;
pub mod sleep;
pub mod timer;
pub mod timerfd;

pub use clock::{monotonic_ns, realtime_ns};
pub use id::{ClockId, process_usage};
pub use interval::Setting;
pub use posix::ProcessTimers;

use crate::{Errno, Result};
use umbel_mm::user::{self, UserAddr};

/// ns in a second.
pub const SEC_NS: u64 = 1_000_000_000;

/// The virtual CPU that runs this.
fn this_cpu() -> u32 {
    umbel_smp::cpu::this().id()
}

/// Reads a `struct timespec` of the guest's, as ns.
///
/// # Errors
/// `EFAULT`; `EINVAL` if it is negative or not normal.
pub fn read_timespec(addr: u64) -> Result<u64> {
    let [sec, nsec]: [i64; 2] = user::read_val(UserAddr(addr))?;
    if sec < 0 || !(0..SEC_NS as i64).contains(&nsec) {
        return Err(Errno::EINVAL);
    }
    Ok((sec as u64).saturating_mul(SEC_NS).saturating_add(nsec as u64))
}

/// Writes ns as a `struct timespec`.
///
/// # Errors
/// `EFAULT`.
pub fn write_timespec(addr: u64, ns: u64) -> Result<()> {
    user::write_val(UserAddr(addr), &[ns / SEC_NS, ns % SEC_NS])
}

/// Reads a `struct timeval`, as ns.
///
/// # Errors
/// `EFAULT`; `EINVAL` if it is negative or not normal.
pub fn read_timeval(addr: u64) -> Result<u64> {
    let [sec, usec]: [i64; 2] = user::read_val(UserAddr(addr))?;
    if sec < 0 || !(0..1_000_000).contains(&usec) {
        return Err(Errno::EINVAL);
    }
    Ok((sec as u64).saturating_mul(SEC_NS).saturating_add(usec as u64 * 1000))
}

/// Writes ns as a `struct timeval`.
///
/// # Errors
/// `EFAULT`.
pub fn write_timeval(addr: u64, ns: u64) -> Result<()> {
    user::write_val(UserAddr(addr), &[ns / SEC_NS, ns % SEC_NS / 1000])
}

/// The CLOCK_MONOTONIC deadline of a timeout from now, for `poll`-like calls.
pub fn deadline_in(ns: u64) -> u64 {
    monotonic_ns().saturating_add(ns)
}
