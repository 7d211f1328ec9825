//! What restart_syscall(2) does: calls with a relative timeout go on with what is left of it.

/// The call to go on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// None: `EINTR`.
    #[default]
    None,
    /// nanosleep(2), clock_nanosleep(2): CLOCK_MONOTONIC deadline; `rem`: the guest's address for the rest, 0 = none.
    Nanosleep { deadline_ns: u64, rem: u64 },
    /// poll(2): CLOCK_MONOTONIC deadline.
    Poll { fds: u64, count: u64, deadline_ns: Option<u64> },
    /// futex(2) FUTEX_WAIT with a relative timeout, now absolute on CLOCK_MONOTONIC.
    Futex { addr: u64, flags: u32, value: u32, bitset: u32, deadline_ns: u64 },
}
