//! The host calls that kernel text may make in a slot.

use umbel_abi::linux::uapi::*;

/// A condition on a call's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// None.
    Any,
    /// Arguments 0 and 1 are a range in guest memory or in the mapping window.
    Range,
    /// As `Range`, and argument 3 has `MAP_FIXED`.
    FixedMap,
    /// As `Range`; or all of cold KDATA from the one instruction that is there for it.
    Protect,
    /// `MADV_COLLAPSE`; or `MADV_DONTNEED` of all of hot KDATA from the one instruction that is there for it.
    Advise,
    /// Argument 2 is a signal that stands for an interrupt.
    Signal,
    /// The argument of that number is one of these values, in its lower half: all that the host looks at.
    Argument(u32, &'static [u32]),
    /// Only the one instruction that ends a nested signal.
    Sigreturn,
}

/// One allowed call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub nr: u32,
    pub check: Check,
}

const fn any(nr: u32) -> Call {
    Call { nr, check: Check::Any }
}

const fn checked(nr: u32, check: Check) -> Call {
    Call { nr, check }
}

/// Numbers and flags that calls are limited to.
const GLOBAL_EXPEDITED: u32 = 2;
const BLOCK_OR_SET_MASK: &[u32] = &[0, 2];
const WAKE_OR_WAIT: &[u32] = &[1, 9];
const KEEP_SIZE_PUNCH_HOLE: u32 = 3;
const SET_TSC: u32 = 26;
const ABSOLUTE: u32 = 1;
const MONOTONIC: u32 = 1;

/// Order does not matter. One line a call: who needs it stands behind it. What a slot calls before it has the filter
/// (timer, membarrier registration, signal handlers) is not here. Nor is any call that makes a task, a socket, a pipe or a
/// file, changes a file's name, or opens by the old rules of path look-up.
pub const WHITELIST: &[Call] = &[
    checked(__NR_mmap, Check::FixedMap),          // mm: guest mappings, window
    checked(__NR_munmap, Check::Range),           // mm
    checked(__NR_mprotect, Check::Protect),       // mm, gate: cold KDATA
    checked(__NR_madvise, Check::Advise),         // mm: steps of KDATA; gate: thin page tables
    checked(__NR_tgkill, Check::Signal),          // smp: interrupts
    checked(__NR_rt_sigreturn, Check::Sigreturn), // gate: end of a nested signal
    checked(__NR_rt_sigprocmask, Check::Argument(0, BLOCK_OR_SET_MASK)), // gate, smp: mask at exit, teleport, idle
    any(__NR_sigaltstack),                        // gate: re-arm at exit
    checked(__NR_futex, Check::Argument(1, WAKE_OR_WAIT)), // smp: locks, park, idle; machine wake-ups
    any(__NR_restart_syscall),                    // smp: a wait with a deadline, after a stop of the machine
    checked(__NR_membarrier, Check::Argument(0, &[GLOBAL_EXPEDITED])), // mm: shootdown
    any(__NR_sched_yield),                        // mm
    any(__NR_sched_setaffinity),                  // smp: slots follow their virtual CPU
    checked(__NR_timer_settime, Check::Argument(1, &[ABSOLUTE])), // smp
    any(__NR_clock_gettime),                      // time
    checked(__NR_prctl, Check::Argument(0, &[SET_TSC])), // smp: virtual time
    checked(__NR_clock_nanosleep, Check::Argument(0, &[MONOTONIC])), // panic
    any(__NR_exit_group),                         // smp: a slot that cannot be armed
    any(__NR_openat2),                            // fs: host directory
    any(__NR_close),                              // fs
    any(__NR_fstatfs),                            // fs
    any(__NR_statx),                              // fs
    any(__NR_readlinkat),                         // fs
    any(__NR_getdents64),                         // fs
    any(__NR_lseek),                              // fs: rewind a directory
    any(__NR_pread64),                            // fs, mm
    any(__NR_pwrite64),                           // fs, mm
    any(__NR_preadv2),                            // mm; standard streams that are files
    any(__NR_pwritev2),                           // likewise
    checked(__NR_fallocate, Check::Argument(1, &[0, KEEP_SIZE_PUNCH_HOLE])), // mm: give RAM back, make steps
];
