//! One POSIX timer a slot, absolute on CLOCK_MONOTONIC, that signals the slot's own thread.

use crate::process::SIGALRM;
use crate::raw::syscall;
use umbel_abi::linux::Errno;

const NR_TIMER_CREATE: u32 = 222;
const NR_TIMER_SETTIME: u32 = 223;
const CLOCK_MONOTONIC: u64 = 1;
const TIMER_ABSTIME: u64 = 1;
const SIGEV_THREAD_ID: u32 = 4;
const NS_PER_SEC: u64 = 1_000_000_000;

/// Makes the timer of the calling thread `tid`: SIGALRM when it expires. Returns its number.
pub fn create(tid: i32) -> Result<i32, Errno> {
    let mut event = [0_u32; 16];
    event[2] = SIGALRM as u32;
    event[3] = SIGEV_THREAD_ID;
    event[4] = tid as u32;
    let mut id = 0_i32;
    let args = [CLOCK_MONOTONIC, event.as_ptr() as u64, &raw mut id as u64, 0, 0, 0];
    // SAFETY: the event is readable, the number ours.
    unsafe { syscall(NR_TIMER_CREATE, args) }?;
    Ok(id)
}

/// Arms the timer for `deadline_ns`; 0 disarms it.
pub fn arm(id: i32, deadline_ns: u64) -> Result<(), Errno> {
    let time = [0, 0, deadline_ns / NS_PER_SEC, deadline_ns % NS_PER_SEC];
    let args = [id as u64, TIMER_ABSTIME, time.as_ptr() as u64, 0, 0, 0];
    // SAFETY: the time is readable.
    unsafe { syscall(NR_TIMER_SETTIME, args) }.map(drop)
}
