//! The host's clocks and the time-stamp counter.

use crate::raw::syscall;

const NR_CLOCK_GETTIME: u32 = 228;
/// `CLOCK_REALTIME`.
pub const REALTIME: i32 = 0;
/// `CLOCK_MONOTONIC`.
pub const MONOTONIC: i32 = 1;
/// `CLOCK_THREAD_CPUTIME_ID`.
pub const THREAD_CPU: i32 = 3;
/// `CLOCK_BOOTTIME`.
pub const BOOTTIME: i32 = 7;

/// The host's clock `clock` in ns; 0 if it has no such clock.
pub fn now_ns(clock: i32) -> u64 {
    let mut time = [0_u64; 2];
    let args = [clock as u64, time.as_mut_ptr() as u64, 0, 0, 0, 0];
    // SAFETY: the call writes two words, which `time` has.
    match unsafe { syscall(NR_CLOCK_GETTIME, args) } {
        Ok(_) => time[0].wrapping_mul(1_000_000_000).wrapping_add(time[1]),
        Err(_) => 0,
    }
}

/// CPU time of host process `pid` so far, in ns; 0 if there is none.
pub fn process_ns(pid: i32) -> u64 {
    // As clock_getcpuclockid(3) makes it: CPUCLOCK_SCHED of the process.
    now_ns(!pid << 3 | 2)
}

/// The time-stamp counter, not earlier than the loads before it.
#[inline]
pub fn tsc() -> u64 {
    core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
    // SAFETY: these read a counter; every x86-64 has them.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_go_forward() {
        let (mono, tsc_before) = (now_ns(MONOTONIC), tsc());
        assert!(mono > 0);
        assert!(now_ns(MONOTONIC) >= mono);
        assert!(tsc() > tsc_before);
        assert_eq!(now_ns(-1), 0);
        let before = process_ns(crate::process::getpid());
        assert!(before > 0 && process_ns(crate::process::getpid()) >= before);
    }
}
