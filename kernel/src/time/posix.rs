//! Timers of processes: setitimer(2), alarm(2), timer_create(2), and the one that watches `RLIMIT_CPU`.
//!
//! Timers on CPU-time clocks are checked at a time of CLOCK_MONOTONIC before which they cannot be due: what is left divided
//! by the number of virtual CPUs, at least a millisecond.
//!
//! A timer of timer_create(2), or setitimer(2)'s `ITIMER_REAL`, that repeats goes on when its signal is taken ([`delivered`]);
//! what it missed until then is its overrun. One whose signal finds no taker goes on by itself, [`IGNORED_NS`] later.

use super::interval::{Interval, Setting, cyclic};
use super::timer::Expire;
use super::{ClockId, SEC_NS, monotonic_ns};
use crate::signal::{self, Queued, SIGALRM, SIGKILL, SIGPROF, SIGVTALRM, SIGXCPU, SigInfo, Signo};
use crate::task::{Charge, Count, Process, Task, find_task};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::*};
use linux_raw_sys::general::{RLIMIT_CPU, RLIMIT_SIGPENDING};
use umbel_smp::lock::{Rank, SpinLock};

/// Shortest time between checks of a timer on a CPU-time clock, ns.
const CHECK_NS: u64 = 1_000_000;
/// Shortest time between expirations whose signal is ignored, ns.
const IGNORED_NS: u64 = 4_000_000;
/// Highest overrun count that is reported.
const OVERRUN_MAX: u64 = i32::MAX as u64;

/// Which interval timer of setitimer(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Real = 0,
    Virtual = 1,
    Prof = 2,
    /// Not a guest's: `RLIMIT_CPU`.
    CpuLimit = 3,
}

/// What an expiration sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Nothing (`SIGEV_NONE`), whatever else was asked for.
    Nothing { signo: Signo, value: u64 },
    /// A signal to the process.
    Process { signo: Signo, value: u64 },
    /// A signal to one thread (`SIGEV_THREAD_ID`).
    Thread { tid: i32, signo: Signo, value: u64 },
    /// SIGXCPU, at last SIGKILL.
    CpuLimit,
}

/// The timers of a process.
pub struct ProcessTimers {
    /// REAL, VIRTUAL, PROF, the limit's; made when first set.
    itimers: SpinLock<[Option<Arc<ProcessTimer>>; 4]>,
    posix: SpinLock<BTreeMap<i32, Arc<ProcessTimer>>>,
    /// The id after the last one given out. Protected by `posix`.
    next_id: AtomicI32,
}

impl ProcessTimers {
    /// None.
    pub const fn new() -> ProcessTimers {
        ProcessTimers {
            itimers: SpinLock::new(Rank::Leaf, [const { None }; 4]),
            posix: SpinLock::new(Rank::Leaf, BTreeMap::new()),
            next_id: AtomicI32::new(0),
        }
    }

    /// execve(2): timer_create's timers are gone, setitimer's stay.
    pub fn exec(&self) {
        let timers = core::mem::take(&mut *self.posix.lock());
        drop(timers);
    }

    /// The process ends: no timer expires any more.
    pub fn clear(&self) {
        self.exec();
        let timers = core::mem::take(&mut *self.itimers.lock());
        drop(timers);
    }
}

impl Default for ProcessTimers {
    fn default() -> Self {
        Self::new()
    }
}

/// One timer of a process.
pub struct ProcessTimer {
    process: Weak<Process>,
    clock: ClockId,
    notify: Notify,
    /// The clock as it was asked for.
    raw_clock: i32,
    /// `None` for setitimer's. As a signal that is always there, it counts as one.
    id: Option<(i32, Charge)>,
    interval: Interval,
    /// For CPU-time clocks: the clock's value at the next expiration, 0 = disarmed; and the period.
    cpu_deadline_ns: AtomicU64,
    cpu_interval_ns: AtomicU64,
    /// Expirations whose signal found no room since the last one was taken; all that were missed, as of the last one taken.
    overrun: AtomicU64,
    reported: AtomicU64,
}

impl ProcessTimer {
    fn new(
        process: &Arc<Process>,
        (clock, raw_clock): (ClockId, i32),
        notify: Notify,
        id: Option<(i32, Charge)>,
    ) -> Arc<ProcessTimer> {
        let process = Arc::downgrade(process);
        cyclic(|interval| ProcessTimer {
            process,
            clock,
            notify,
            raw_clock,
            id,
            interval,
            cpu_deadline_ns: AtomicU64::new(0),
            cpu_interval_ns: AtomicU64::new(0),
            overrun: AtomicU64::new(0),
            reported: AtomicU64::new(0),
        })
    }

    /// The setting now.
    pub fn get(&self) -> Setting {
        if !self.clock.is_cpu_time() {
            return self.interval.get();
        }
        let deadline_ns = self.cpu_deadline_ns.load(Relaxed);
        let now_ns = self.clock.read().unwrap_or(0);
        let value_ns = if deadline_ns == 0 { 0 } else { deadline_ns.saturating_sub(now_ns).max(1) };
        Setting { value_ns, interval_ns: self.cpu_interval_ns.load(Relaxed) }
    }

    /// Sets the timer: `value_ns` from now, or at that time of its clock if `absolute`; 0 disarms. Returns the old setting.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set(&self, new: Setting, absolute: bool) -> Result<Setting> {
        let old = self.get();
        self.overrun.store(0, Relaxed);
        if self.clock.is_cpu_time() {
            let base_ns = if absolute { 0 } else { self.clock.read()? };
            let deadline_ns = if new.value_ns == 0 { 0 } else { base_ns.saturating_add(new.value_ns) };
            self.cpu_deadline_ns.store(deadline_ns, Relaxed);
            self.cpu_interval_ns.store(new.interval_ns, Relaxed);
            self.interval.set(self.next_check(), 0)?;
        } else {
            let deadline_ns = match new.value_ns {
                0 => None,
                value if absolute => Some(self.clock.to_monotonic(value)),
                value => Some(monotonic_ns().saturating_add(value)),
            };
            match self.notify {
                Notify::Nothing { .. } => self.interval.note(deadline_ns, new.interval_ns)?,
                _ => self.interval.set(deadline_ns, new.interval_ns)?,
            };
        }
        Ok(old)
    }

    /// Expirations that the last signal taken stood for, beyond one (timer_getoverrun(2)).
    pub fn overrun(&self) -> i32 {
        self.reported.load(Relaxed).min(OVERRUN_MAX) as i32
    }

    /// When a timer on a CPU-time clock is looked at next.
    fn next_check(&self) -> Option<u64> {
        let deadline_ns = self.cpu_deadline_ns.load(Relaxed);
        if deadline_ns == 0 {
            return None;
        }
        let left_ns = deadline_ns.saturating_sub(self.clock.read().ok()?);
        let threads = u64::from(umbel_smp::cpu::count()).max(1);
        Some(monotonic_ns().saturating_add((left_ns / threads).max(CHECK_NS)))
    }

    /// Expirations of a CPU-time clock's timer by now.
    fn cpu_expirations(&self) -> u64 {
        let deadline_ns = self.cpu_deadline_ns.load(Relaxed);
        let Ok(now_ns) = self.clock.read() else { return 0 };
        if deadline_ns == 0 || now_ns < deadline_ns {
            return 0;
        }
        let interval_ns = self.cpu_interval_ns.load(Relaxed);
        let count = (now_ns - deadline_ns).checked_div(interval_ns).map_or(1, |more| more + 1);
        let next = if interval_ns == 0 { 0 } else { deadline_ns.saturating_add(count.saturating_mul(interval_ns)) };
        self.cpu_deadline_ns.store(next, Relaxed);
        count
    }

    /// Sends the signal; returns whether somebody will take it.
    fn send(&self) -> bool {
        let Some(process) = self.process.upgrade() else { return false };
        let info = |signo, value| match &self.id {
            Some((id, _)) => SigInfo::timer(signo, *id, value),
            None => SigInfo::kernel(signo),
        };
        let queued = match self.notify {
            Notify::Nothing { .. } => return false,
            Notify::CpuLimit => {
                cpu_limit(&process, self.clock);
                return false;
            }
            Notify::Process { signo, value } => signal::queue_to_process(&process, info(signo, value)),
            Notify::Thread { tid, signo, value } => match find_task(crate::Pid(tid)) {
                Some(task) => signal::queue_to_task(&task, info(signo, value)),
                None => return false,
            },
        };
        if queued.is_err() {
            self.overrun.fetch_add(1, Relaxed);
        }
        matches!(queued, Ok(Queued::New | Queued::Already))
    }

    /// A timer that stopped at an expiration goes on. Returns how many it missed since.
    fn go_on(&self, earliest_ns: u64) -> u64 {
        if !self.clock.is_cpu_time() {
            return self.interval.go_on(monotonic_ns(), earliest_ns);
        }
        if self.cpu_interval_ns.load(Relaxed) == 0 || self.interval.get() != Setting::default() {
            return 0;
        }
        let count = self.cpu_expirations();
        // Without memory the timer stops: nothing else can be done here.
        let _ = self.interval.set(self.next_check(), 0);
        count
    }
}

impl Expire for ProcessTimer {
    fn expired(&self, now_ns: u64) {
        if !self.interval.due(now_ns) {
            return;
        }
        let cpu_time = self.clock.is_cpu_time();
        let count = if cpu_time { self.cpu_expirations() } else { 1 };
        if cpu_time && (count == 0 || self.id.is_none()) {
            // setitimer's do not wait for who takes the signal: the time between checks paces them.
            let _ = self.interval.set(self.next_check(), 0);
        }
        if count == 0 {
            return;
        }
        self.overrun.fetch_add(count - 1, Relaxed);
        if !self.send() {
            self.go_on(now_ns + IGNORED_NS);
        }
    }
}

/// Sets an interval timer; returns the old setting.
///
/// # Errors
/// `ENOMEM`.
pub fn set_itimer(process: &Arc<Process>, which: Which, new: Setting) -> Result<Setting> {
    let timer = {
        let mut itimers = process.timers.itimers.lock();
        let slot = itimers.get_mut(which as usize).ok_or(Errno::EINVAL)?;
        slot.get_or_insert_with(|| {
            let signal = |signo| Notify::Process { signo, value: 0 };
            let (clock, notify) = match which {
                Which::Real => (ClockId::Monotonic, signal(SIGALRM)),
                Which::Virtual => (ClockId::ProcessUser(process.pid()), signal(SIGVTALRM)),
                Which::Prof => (ClockId::ProcessCpu(process.pid()), signal(SIGPROF)),
                Which::CpuLimit => (ClockId::ProcessCpu(process.pid()), Notify::CpuLimit),
            };
            ProcessTimer::new(process, (clock, 0), notify, None)
        })
        .clone()
    };
    timer.set(new, which == Which::CpuLimit)
}

/// The limit of CPU time is another one, or the process is new: watches it, if there is one.
///
/// # Errors
/// `ENOMEM`.
pub fn watch_cpu_limit(process: &Arc<Process>) -> Result<()> {
    let soft = process.limit(RLIMIT_CPU);
    let watched = process.timers.itimers.lock().last().is_some_and(|timer| timer.is_some());
    if soft == u64::MAX && !watched {
        return Ok(());
    }
    let value_ns = if soft == u64::MAX { 0 } else { soft.max(1).saturating_mul(SEC_NS) };
    set_itimer(process, Which::CpuLimit, Setting { value_ns, interval_ns: SEC_NS }).map(drop)
}

/// Once a second beyond the soft limit: SIGXCPU, and SIGKILL at the hard one.
fn cpu_limit(process: &Arc<Process>, clock: ClockId) {
    let used = clock.read().unwrap_or(0) / SEC_NS;
    let Ok(limit) = process.limits().get(RLIMIT_CPU) else { return };
    let signo = match used {
        used if used >= limit.hard => SIGKILL,
        used if used >= limit.soft => SIGXCPU,
        _ => return,
    };
    signal::send_to_process(process, SigInfo::kernel(signo));
}

/// The setting of an interval timer.
pub fn get_itimer(process: &Process, which: Which) -> Setting {
    let timer = process.timers.itimers.lock().get(which as usize).cloned().flatten();
    timer.map_or(Setting::default(), |timer| timer.get())
}

/// Makes a timer on a clock, which is told with the number that it was asked for by. Without `notify` it sends SIGALRM with its id as value.
///
/// # Errors
/// `EAGAIN` if the user has too many (`RLIMIT_SIGPENDING`).
pub fn create(task: &Arc<Task>, clock: (ClockId, i32), notify: Option<Notify>) -> Result<i32> {
    let process = task.process();
    let limit = process.limit(RLIMIT_SIGPENDING);
    let charge = process.user().charge(Count::Signals, 1, limit).ok_or(Errno::EAGAIN)?;
    let mut timers = process.timers.posix.lock();
    let mut id = process.timers.next_id.load(Relaxed);
    // An id comes back when all others have been given out.
    while timers.contains_key(&id) {
        id = following(id);
    }
    process.timers.next_id.store(following(id), Relaxed);
    let notify = notify.unwrap_or(Notify::Process { signo: SIGALRM, value: id as u64 });
    timers.insert(id, ProcessTimer::new(process, clock, notify, Some((id, charge))));
    Ok(id)
}

/// The timers of timer_create(2), the last one first: ids, numbers of clocks, and what they send.
///
/// # Errors
/// `ENOMEM`.
pub fn list(process: &Process) -> Result<Vec<(i32, i32, Notify)>> {
    let timers = process.timers.posix.lock();
    let mut list = Vec::new();
    list.try_reserve_exact(timers.len()).map_err(|_| Errno::ENOMEM)?;
    list.extend(timers.iter().rev().map(|(id, timer)| (*id, timer.raw_clock, timer.notify)));
    Ok(list)
}

fn following(id: i32) -> i32 {
    id.checked_add(1).unwrap_or(0)
}

/// Timer `id` of a process.
///
/// # Errors
/// `EINVAL`.
pub fn find(process: &Process, id: i32) -> Result<Arc<ProcessTimer>> {
    process.timers.posix.lock().get(&id).cloned().ok_or(Errno::EINVAL)
}

/// Deletes timer `id`.
///
/// # Errors
/// `EINVAL`.
pub fn delete(process: &Process, id: i32) -> Result<()> {
    let removed = process.timers.posix.lock().remove(&id);
    removed.map(drop).ok_or(Errno::EINVAL)
}

/// A signal has been taken: if a timer sent it, the timer goes on, and what it missed is counted into the signal.
pub fn delivered(process: &Process, info: &mut SigInfo) {
    let Some(id) = info.timer_id() else {
        if info.signo() == SIGALRM {
            go_on_itimer(process, 0);
        }
        return;
    };
    if let Ok(timer) = find(process, id) {
        let count = timer.overrun.swap(0, Relaxed).saturating_add(timer.go_on(0));
        timer.reported.store(count, Relaxed);
        info.set_overrun(timer.overrun());
    }
}

fn go_on_itimer(process: &Process, earliest_ns: u64) {
    let timer = process.timers.itimers.lock().first().cloned().flatten();
    if let Some(timer) = timer {
        timer.go_on(earliest_ns);
    }
}

/// A signal that was pending has been dropped: if timers sent it, they go on.
pub fn dropped(process: &Process, signo: Signo) {
    if signo == SIGALRM {
        go_on_itimer(process, monotonic_ns() + IGNORED_NS);
    }
    let timers: Vec<_> = process.timers.posix.lock().values().cloned().collect();
    for timer in timers {
        if matches!(timer.notify, Notify::Process { signo: own, .. } | Notify::Thread { signo: own, .. } if own == signo)
        {
            timer.go_on(monotonic_ns() + IGNORED_NS);
        }
    }
}
