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
    /// Argument 2 is a signal that stands for an interrupt.
    Signal,
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

/// Order does not matter. One line a call: who needs it stands behind it.
pub const WHITELIST: &[Call] = &[
    checked(__NR_mmap, Check::FixedMap),          // mm: guest mappings, window
    checked(__NR_munmap, Check::Range),           // mm
    checked(__NR_mprotect, Check::Range),         // mm
    any(__NR_madvise),                            // mm: collapse of hot steps, prefault
    checked(__NR_tgkill, Check::Signal),          // smp: interrupts
    checked(__NR_rt_sigreturn, Check::Sigreturn), // gate: end of a nested signal
    any(__NR_rt_sigprocmask),                     // gate, smp: mask at exit, teleport, idle
    any(__NR_sigaltstack),                        // gate: re-arm at exit
    any(__NR_futex),                              // smp: locks, park, idle; machine wake-ups
    any(__NR_restart_syscall),                    // smp: a wait with a deadline, after a stop of the machine
    any(__NR_membarrier),                         // mm: shootdown
    any(__NR_sched_yield),                        // smp
    any(__NR_sched_setaffinity),                  // smp: slots follow their virtual CPU
    any(__NR_getcpu),                             // smp
    any(__NR_gettid),                             // smp
    any(__NR_timer_create),                       // time
    any(__NR_timer_settime),                      // time
    any(__NR_timer_delete),                       // time
    any(__NR_clock_gettime),                      // time
    any(__NR_clock_nanosleep),                    // panic
    any(__NR_exit_group),                         // smp: retired slots
    any(__NR_openat2),                            // fs: host directory
    any(__NR_openat),                             // fs: reopen a directory to list it
    any(__NR_close),                              // fs
    any(__NR_fstat),                              // fs
    any(__NR_fstatfs),                            // fs
    any(__NR_statx),                              // fs
    any(__NR_readlinkat),                         // fs
    any(__NR_getdents64),                         // fs
    any(__NR_lseek),                              // fs: rewind a directory
    any(__NR_pread64),                            // fs, mm
    any(__NR_pwrite64),                           // fs, mm
    any(__NR_preadv2),                            // fs, mm
    any(__NR_pwritev2),                           // fs, mm
    any(__NR_read),                               // drivers: standard streams that are files, at the shared offset
    any(__NR_write),                              // drivers
    any(__NR_readv),                              // drivers
    any(__NR_writev),                             // drivers
    any(__NR_getpid),                             // smp
    any(__NR_ftruncate),                          // mm
    any(__NR_fallocate),                          // mm: hole punching
    any(__NR_getrandom),                          // random
];
