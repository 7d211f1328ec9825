//! Sending signals between host tasks.

use crate::raw;
use umbel_abi::linux::Errno;

const NR_TGKILL: u32 = 234;

/// Stands for an inter-processor interrupt.
pub const SIGUSR1: i32 = 10;

/// Sends `signal` to host thread `tid` of host process `tgid`.
pub fn tgkill(tgid: i32, tid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: the call touches no memory of this process.
    unsafe { raw::syscall(NR_TGKILL, [tgid as u64, tid as u64, signal as u64, 0, 0, 0]) }.map(|_| ())
}
