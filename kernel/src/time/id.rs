//! Clocks by number. Source: clock_getres(2), `MAKE_PROCESS_CPUCLOCK` of Linux.

use super::clock;
use crate::task::ns::pid::of_caller;
use crate::task::ns::time::Offset;
use crate::task::{self, Process, Task, Usage, find_process, find_task, ids};
use crate::{Errno, Pid, Result};
use core::sync::atomic::Ordering::Relaxed;

/// A clock that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockId {
    Realtime,
    /// CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW.
    Monotonic,
    Boottime,
    /// CPU time of a process: all, in user mode, …
    ProcessCpu(Pid),
    ProcessUser(Pid),
    /// CPU time of a thread.
    ThreadCpu(Pid),
    ThreadUser(Pid),
}

/// `CPUCLOCK_PERTHREAD_MASK` and the kinds below it.
const PER_THREAD: i32 = 4;
const CPU_VIRT: i32 = 1;

impl ClockId {
    /// From a guest's number.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn from_raw(raw: i32) -> Result<ClockId> {
        let current = task::current();
        Ok(match raw {
            0 | 5 | 8 | 11 => ClockId::Realtime,
            1 | 4 | 6 => ClockId::Monotonic,
            7 | 9 => ClockId::Boottime,
            2 => ClockId::ProcessCpu(current.process().pid()),
            3 => ClockId::ThreadCpu(current.tid()),
            raw if raw < 0 => return Self::of_process(raw),
            _ => return Err(Errno::EINVAL),
        })
    }

    fn of_process(raw: i32) -> Result<ClockId> {
        let (pid, kind) = (!(raw >> 3), raw & 3);
        if kind == 3 {
            return Err(Errno::EINVAL);
        }
        let current = task::current();
        let user = kind == CPU_VIRT;
        if raw & PER_THREAD != 0 {
            let tid = if pid == 0 { current.tid() } else { of_caller(pid) };
            let ours = find_task(tid).filter(|task| task.process().pid() == current.process().pid());
            ours.ok_or(Errno::EINVAL)?;
            return Ok(if user { ClockId::ThreadUser(tid) } else { ClockId::ThreadCpu(tid) });
        }
        let pid = if pid == 0 { current.process().pid() } else { of_caller(pid) };
        find_process(pid).ok_or(Errno::EINVAL)?;
        Ok(if user { ClockId::ProcessUser(pid) } else { ClockId::ProcessCpu(pid) })
    }

    /// Whether it counts CPU time.
    pub fn is_cpu_time(self) -> bool {
        !matches!(self, ClockId::Realtime | ClockId::Monotonic | ClockId::Boottime)
    }

    /// What it shows, ns.
    ///
    /// # Errors
    /// `EINVAL` if its thread or process is gone.
    pub fn read(self) -> Result<u64> {
        Ok(match self {
            ClockId::Monotonic => clock::monotonic_ns(),
            ClockId::Realtime => clock::realtime_ns(),
            ClockId::Boottime => clock::monotonic_ns().wrapping_add(clock::boot_offset_ns()),
            ClockId::ProcessCpu(pid) => process_cpu_ns(&*find_process(pid).ok_or(Errno::EINVAL)?),
            ClockId::ProcessUser(pid) => process_usage(&*find_process(pid).ok_or(Errno::EINVAL)?).user_ns,
            ClockId::ThreadCpu(tid) => find_task(tid).ok_or(Errno::EINVAL)?.sched.run_ns(),
            ClockId::ThreadUser(tid) => find_task(tid).ok_or(Errno::EINVAL)?.sched.usage().user_ns,
        })
    }

    /// What the time namespace of the running task adds to it, ns.
    fn offset_ns(self) -> i64 {
        match self {
            ClockId::Monotonic => task::current().time_offset_ns(Offset::Monotonic),
            ClockId::Boottime => task::current().time_offset_ns(Offset::Boottime),
            _ => 0,
        }
    }

    /// What it shows to the running task, ns.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn shown(self) -> Result<u64> {
        Ok(self.read()?.saturating_add_signed(self.offset_ns()))
    }

    /// The time of CLOCK_MONOTONIC at which this clock shows `value_ns` to the running task. Not for CPU-time clocks.
    pub fn to_monotonic(self, value_ns: u64) -> u64 {
        let value_ns = value_ns.saturating_add_signed(-self.offset_ns());
        match self {
            ClockId::Realtime => value_ns.saturating_sub(clock::real_offset_ns()),
            ClockId::Boottime => value_ns.saturating_sub(clock::boot_offset_ns()),
            _ => value_ns,
        }
    }
}

fn process_cpu_ns(process: &Process) -> u64 {
    let mut running_ns = 0;
    let ended = with_threads(process, |thread| running_ns += thread.sched.run_ns());
    ended.user_ns + ended.system_ns + running_ns
}

/// Times of a process: its threads, and those that have ended.
pub fn process_usage(process: &Process) -> Usage {
    let mut running = Usage::default();
    let mut sum = with_threads(process, |thread| running.add(&thread.sched.usage()));
    sum.add(&running);
    sum
}

/// What the threads of `process` used that have ended; the others are shown to `look`, so that each counts once.
fn with_threads(process: &Process, mut look: impl FnMut(&Task)) -> Usage {
    let threads = ids::table().node(process.pid()).map(|node| node.threads.clone()).unwrap_or_default();
    let times = process.times.lock();
    threads.iter().filter(|thread| !thread.counted.load(Relaxed)).for_each(|thread| look(thread));
    times.own
}
