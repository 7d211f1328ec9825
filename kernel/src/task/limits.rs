//! Resource limits. Source: getrlimit(2).

use crate::{Errno, Result};
use linux_raw_sys::general as raw;

/// Number of resources.
pub const COUNT: usize = 16;
/// No limit.
pub const INFINITY: u64 = u64::MAX;
/// Most descriptors a process may ask for.
pub const NOFILE_MAX: u64 = 1 << 20;

/// One limit as the guest sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// All limits of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits([Limit; COUNT]);

impl Limits {
    /// What the first process starts with: Linux's defaults, `RLIMIT_NPROC` and `RLIMIT_SIGPENDING` by memory.
    pub fn first(ram_pages: u64) -> Limits {
        let mut limits = [Limit { soft: INFINITY, hard: INFINITY }; COUNT];
        let threads = (ram_pages / 64).clamp(64, super::ids::PID_MAX as u64);
        let mut set = |resource: u32, soft, hard| {
            if let Some(limit) = limits.get_mut(resource as usize) {
                *limit = Limit { soft, hard };
            }
        };
        set(raw::RLIMIT_STACK, 8 << 20, INFINITY);
        set(raw::RLIMIT_CORE, 0, INFINITY);
        set(raw::RLIMIT_NPROC, threads, threads);
        set(raw::RLIMIT_NOFILE, 1024, NOFILE_MAX);
        set(raw::RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
        set(raw::RLIMIT_SIGPENDING, threads, threads);
        set(raw::RLIMIT_MSGQUEUE, 819_200, 819_200);
        set(raw::RLIMIT_NICE, 0, 0);
        set(raw::RLIMIT_RTPRIO, 0, 0);
        Limits(limits)
    }

    /// The soft limit of `resource`; none for numbers that do not exist.
    pub fn soft(&self, resource: u32) -> u64 {
        self.get(resource).map_or(INFINITY, |limit| limit.soft)
    }

    /// Both limits.
    ///
    /// # Errors
    /// `EINVAL` if there is no such resource.
    pub fn get(&self, resource: u32) -> Result<Limit> {
        self.0.get(resource as usize).copied().ok_or(Errno::EINVAL)
    }

    /// Replaces a limit; `privileged` callers may raise the hard one.
    ///
    /// # Errors
    /// `EINVAL`: no such resource, or soft above hard. `EPERM`: raising the hard limit, or `RLIMIT_NOFILE` too high.
    pub fn set(&mut self, resource: u32, new: Limit, privileged: bool) -> Result<()> {
        let limit = self.0.get_mut(resource as usize).ok_or(Errno::EINVAL)?;
        if new.soft > new.hard {
            return Err(Errno::EINVAL);
        }
        if new.hard > limit.hard && !privileged {
            return Err(Errno::EPERM);
        }
        if resource == raw::RLIMIT_NOFILE && new.hard > NOFILE_MAX {
            return Err(Errno::EPERM);
        }
        *limit = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_limits_are_raised_only_with_privilege() {
        let mut limits = Limits::first(1 << 16);
        let low = Limit { soft: 10, hard: 20 };
        let high = Limit { soft: 10, hard: 30 };
        assert_eq!(limits.set(raw::RLIMIT_CORE, low, false), Ok(()));
        assert_eq!(limits.set(raw::RLIMIT_CORE, high, false), Err(Errno::EPERM));
        assert_eq!(limits.set(raw::RLIMIT_CORE, high, true), Ok(()));
        assert_eq!(limits.set(raw::RLIMIT_CORE, Limit { soft: 2, hard: 1 }, true), Err(Errno::EINVAL));
        assert_eq!(limits.set(16, low, true), Err(Errno::EINVAL));
    }
}
