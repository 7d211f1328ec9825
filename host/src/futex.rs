//! Waiting on a word of shared memory (futex(2)).
//!
//! Never the private operations: the waiter and the waker are host processes with address spaces of their own.

use crate::raw;
use core::sync::atomic::AtomicU32;
use umbel_abi::linux::Errno;

const NR_FUTEX: u32 = 202;
const FUTEX_WAKE: u64 = 1;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_BITSET_MATCH_ANY: u64 = 0xffff_ffff;
const NS_PER_SEC: u64 = 1_000_000_000;

/// Sleeps while `*word == expected`, until woken or until CLOCK_MONOTONIC reaches `deadline_ns`.
///
/// May return early for any reason. `Err(ETIMEDOUT)` when the deadline passed, `Err(EAGAIN)` when the word differed,
/// `Err(EINTR)` when a host signal came.
pub fn wait(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> Result<(), Errno> {
    let time = deadline_ns.map(|ns| [ns / NS_PER_SEC, ns % NS_PER_SEC]);
    let time_ptr = time.as_ref().map_or(0, |t| t.as_ptr() as u64);
    // SAFETY: the word and the timespec outlive the call; the call writes neither.
    unsafe {
        raw::syscall(
            NR_FUTEX,
            [word.as_ptr() as u64, FUTEX_WAIT_BITSET, u64::from(expected), time_ptr, 0, FUTEX_BITSET_MATCH_ANY],
        )
    }
    .map(|_| ())
}

/// Wakes at most `count` waiters of `word`; returns how many there were.
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    let count = count.min(i32::MAX as u32);
    // SAFETY: the word outlives the call, which only uses its address.
    unsafe { raw::syscall(NR_FUTEX, [word.as_ptr() as u64, FUTEX_WAKE, u64::from(count), 0, 0, 0]) }.unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_with_another_value_returns_eagain() {
        assert_eq!(wait(&AtomicU32::new(1), 0, None), Err(Errno::EAGAIN));
    }

    #[test]
    fn wait_with_a_past_deadline_times_out() {
        assert_eq!(wait(&AtomicU32::new(0), 0, Some(1)), Err(Errno::ETIMEDOUT));
    }

    #[test]
    fn wake_without_waiters_wakes_nobody() {
        assert_eq!(wake(&AtomicU32::new(0), 1), 0);
    }
}
