//! Clocks, sleeps, timers.

use super::Fd;
use crate::fs::{OnExec, OpenFlags};
use crate::signal::{Signo, is_valid};
use crate::task::ns::pid::of_caller;
use crate::task::{Task, find_task};
use crate::time::posix::{self, Notify, Which};
use crate::time::{self, ClockId, Setting, sleep, timerfd};
use crate::{Errno, Result};
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_clock_gettime, clock_gettime(clock: i32, out: u64) => clock_gettime, Full;
    nr::__NR_clock_getres, clock_getres(clock: i32, out: u64) => clock_getres, Full;
    nr::__NR_clock_settime, clock_settime(clock: i32, new: u64) => clock_settime, Partial("never permitted");
    nr::__NR_clock_nanosleep, clock_nanosleep(clock: i32, flags: u32, request: u64, rem: u64) => clock_nanosleep, Full;
    nr::__NR_nanosleep, nanosleep(request: u64, rem: u64) => nanosleep, Full;
    nr::__NR_gettimeofday, gettimeofday(out: u64, zone: u64) => gettimeofday, Full;
    nr::__NR_adjtimex, adjtimex(state: UserAddr) => adjtimex, Partial("setting is never permitted");
    nr::__NR_clock_adjtime, clock_adjtime(clock: i32, state: UserAddr) => clock_adjtime, Partial("setting is never permitted");
    nr::__NR_settimeofday, settimeofday(new: u64, zone: u64) => settimeofday, Partial("never permitted");
    nr::__NR_time, time(out: u64) => time_call, Full;
    nr::__NR_alarm, alarm(seconds: u32) => alarm, Full;
    nr::__NR_getitimer, getitimer(which: u32, out: u64) => getitimer, Full;
    nr::__NR_setitimer, setitimer(which: u32, new: u64, old: u64) => setitimer, Full;
    nr::__NR_timer_create, timer_create(clock: i32, event: u64, id: u64) => timer_create, Full;
    nr::__NR_timer_settime, timer_settime(id: i32, flags: u32, new: u64, old: u64) => timer_settime, Full;
    nr::__NR_timer_gettime, timer_gettime(id: i32, out: u64) => timer_gettime, Full;
    nr::__NR_timer_getoverrun, timer_getoverrun(id: i32) => timer_getoverrun, Full;
    nr::__NR_timer_delete, timer_delete(id: i32) => timer_delete, Full;
    nr::__NR_timerfd_create, timerfd_create(clock: i32, flags: u32) => timerfd_create, Full;
    nr::__NR_timerfd_settime, timerfd_settime(fd: Fd, flags: u32, new: u64, old: u64) => timerfd_settime, Partial("no TFD_TIMER_CANCEL_ON_SET");
    nr::__NR_timerfd_gettime, timerfd_gettime(fd: Fd, out: u64) => timerfd_gettime, Full;
}

/// `CLOCK_THREAD_CPUTIME_ID`.
const THREAD_CPUTIME: i32 = 3;
/// `TIMER_ABSTIME`, `TFD_TIMER_ABSTIME`.
const ABSTIME: u32 = 1;
/// `TFD_TIMER_CANCEL_ON_SET`: nothing sets the clock.
const CANCEL_ON_SET: u32 = 2;
/// Words of `struct timex`, and what its fields may hold.
const TIMEX_WORDS: usize = 26;
const ADJ_OFFSET: u32 = 1;
const ADJ_OFFSET_READONLY: u32 = 0x2000;
const ADJ_ADJTIME: u32 = 0x8000;
const STA_UNSYNC: u32 = 0x40;
const TIME_ERROR: u32 = 5;
/// Resolution of the coarse clocks, ns.
const COARSE_NS: u64 = 4_000_000;

fn clock_gettime(_: &Arc<Task>, clock: i32, out: u64) -> Result<()> {
    time::write_timespec(out, ClockId::from_raw(clock)?.shown()?)
}

fn clock_getres(_: &Arc<Task>, clock: i32, out: u64) -> Result<()> {
    ClockId::from_raw(clock)?;
    let coarse = matches!(clock, 5 | 6);
    if out == 0 { Ok(()) } else { time::write_timespec(out, if coarse { COARSE_NS } else { 1 }) }
}

fn clock_settime(_: &Arc<Task>, clock: i32, new: u64) -> Result<()> {
    let settable = ClockId::from_raw(clock)? == ClockId::Realtime;
    time::read_timespec(new)?;
    Err(if settable { Errno::EPERM } else { Errno::EINVAL })
}

/// The state of a clock that nobody disciplines, as words of `struct timex`; the host sees to the time.
fn undisciplined() -> [i64; TIMEX_WORDS] {
    const ERROR_US: i64 = 16_000_000;
    let mut timex = [0; TIMEX_WORDS];
    let now_us = (time::realtime_ns() / 1000) as i64;
    let fields = [
        (3, ERROR_US),              // maxerror
        (4, ERROR_US),              // esterror
        (5, i64::from(STA_UNSYNC)), // status
        (6, 2),                     // constant
        (7, 1),                     // precision, us
        (8, 500 << 16),             // tolerance, ppm * 2^16
        (9, now_us / 1_000_000),    // time
        (10, now_us % 1_000_000),
        (11, 10_000), // tick, us
    ];
    for (word, value) in fields {
        timex[word] = value;
    }
    timex
}

fn adjtimex(_: &Arc<Task>, state: UserAddr) -> Result<u32> {
    let modes: u32 = user::read_val(state)?;
    if modes & ADJ_ADJTIME != 0 && modes & ADJ_OFFSET == 0 {
        return Err(Errno::EINVAL);
    }
    // ADJ_OFFSET_SS_READ asks and sets nothing.
    if modes != 0 && modes & ADJ_OFFSET_READONLY == 0 {
        return Err(Errno::EPERM);
    }
    let mut timex = undisciplined();
    timex[0] = i64::from(modes);
    user::write_val(state, &timex)?;
    Ok(TIME_ERROR)
}

fn clock_adjtime(task: &Arc<Task>, clock: i32, state: UserAddr) -> Result<u32> {
    match ClockId::from_raw(clock)? {
        ClockId::Realtime if clock == 0 => adjtimex(task, state),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn settimeofday(_: &Arc<Task>, new: u64, _zone: u64) -> Result<()> {
    if new != 0 {
        time::read_timeval(new)?;
    }
    Err(Errno::EPERM)
}

fn nanosleep(task: &Arc<Task>, request: u64, rem: u64) -> Result<()> {
    sleep::relative(task, time::read_timespec(request)?, rem)
}

fn clock_nanosleep(task: &Arc<Task>, clock: i32, flags: u32, request: u64, rem: u64) -> Result<()> {
    let id = ClockId::from_raw(clock)?;
    match id {
        _ if clock == THREAD_CPUTIME => return Err(Errno::EOPNOTSUPP),
        ClockId::ThreadCpu(_) | ClockId::ThreadUser(_) => return Err(Errno::EINVAL),
        _ if matches!(clock, 4..=6) => return Err(Errno::EOPNOTSUPP),
        _ => {}
    }
    let ns = time::read_timespec(request)?;
    if flags & ABSTIME != 0 {
        sleep::absolute(id, ns)
    } else if id.is_cpu_time() {
        sleep::absolute(id, id.read()?.saturating_add(ns))
    } else {
        sleep::relative(task, ns, rem)
    }
}

fn gettimeofday(_: &Arc<Task>, out: u64, zone: u64) -> Result<()> {
    if out != 0 {
        time::write_timeval(out, time::realtime_ns())?;
    }
    if zone != 0 { user::write_val(UserAddr(zone), &[0_i32; 2]) } else { Ok(()) }
}

fn time_call(_: &Arc<Task>, out: u64) -> Result<u64> {
    let seconds = time::realtime_ns() / time::SEC_NS;
    if out != 0 {
        user::write_val(UserAddr(out), &seconds)?;
    }
    Ok(seconds)
}

fn alarm(task: &Arc<Task>, seconds: u32) -> Result<u64> {
    let new = Setting { value_ns: u64::from(seconds) * time::SEC_NS, interval_ns: 0 };
    let old = posix::set_itimer(task.process(), Which::Real, new)?;
    // Rounded, but never to 0: that would say that there was none.
    let rounded = (old.value_ns + time::SEC_NS / 2) / time::SEC_NS;
    Ok(if old.value_ns > 0 { rounded.max(1) } else { 0 })
}

fn which(raw: u32) -> Result<Which> {
    Ok(match raw {
        0 => Which::Real,
        1 => Which::Virtual,
        2 => Which::Prof,
        _ => return Err(Errno::EINVAL),
    })
}

fn write_itimerval(addr: u64, setting: Setting) -> Result<()> {
    // What is left is never shown as nothing.
    let value_ns = if setting.value_ns > 0 { setting.value_ns.max(1000) } else { 0 };
    time::write_timeval(addr, setting.interval_ns)?;
    time::write_timeval(addr.wrapping_add(16), value_ns)
}

fn getitimer(task: &Arc<Task>, raw: u32, out: u64) -> Result<()> {
    write_itimerval(out, posix::get_itimer(task.process(), which(raw)?))
}

fn setitimer(task: &Arc<Task>, raw: u32, new: u64, old: u64) -> Result<()> {
    let which = which(raw)?;
    let setting = if new == 0 {
        Setting::default()
    } else {
        Setting { interval_ns: time::read_timeval(new)?, value_ns: time::read_timeval(new.wrapping_add(16))? }
    };
    let before = posix::set_itimer(task.process(), which, setting)?;
    if old != 0 { write_itimerval(old, before) } else { Ok(()) }
}

fn read_itimerspec(addr: u64) -> Result<Setting> {
    Ok(Setting { interval_ns: time::read_timespec(addr)?, value_ns: time::read_timespec(addr.wrapping_add(16))? })
}

fn write_itimerspec(addr: u64, setting: Setting) -> Result<()> {
    time::write_timespec(addr, setting.interval_ns)?;
    time::write_timespec(addr.wrapping_add(16), setting.value_ns)
}

/// Reads a `struct sigevent`.
fn read_event(task: &Task, addr: u64) -> Result<Notify> {
    let [value, numbers, third, _]: [u64; 4] = user::read_val(UserAddr(addr))?;
    let (signo, kind, tid) = (numbers as Signo, (numbers >> 32) as u32, third as i32);
    if kind == nr::SIGEV_NONE {
        return Ok(Notify::Nothing { signo, value });
    }
    if !is_valid(u64::from(signo)) {
        return Err(Errno::EINVAL);
    }
    match kind {
        nr::SIGEV_SIGNAL | nr::SIGEV_THREAD => Ok(Notify::Process { signo, value }),
        nr::SIGEV_THREAD_ID => {
            let ours = |thread: &Arc<Task>| Arc::ptr_eq(thread.process(), task.process());
            let thread = find_task(of_caller(tid)).filter(ours).ok_or(Errno::EINVAL)?;
            Ok(Notify::Thread { tid: thread.tid().0, signo, value })
        }
        _ => Err(Errno::EINVAL),
    }
}

fn timer_create(task: &Arc<Task>, clock: i32, event: u64, id: u64) -> Result<()> {
    let shown = match clock {
        // As numbers that also name the clocks of others.
        2 => -6,
        3 => -2,
        other => other,
    };
    let clock = (ClockId::from_raw(clock)?, shown);
    let notify = if event == 0 { None } else { Some(read_event(task, event)?) };
    let new = posix::create(task, clock, notify)?;
    user::write_val(UserAddr(id), &new).inspect_err(|_| {
        // Made just now: nobody else can have deleted it.
        let _ = posix::delete(task.process(), new);
    })
}

fn timer_settime(task: &Arc<Task>, id: i32, flags: u32, new: u64, old: u64) -> Result<()> {
    if new == 0 {
        return Err(Errno::EINVAL);
    }
    let setting = read_itimerspec(new)?;
    let before = posix::find(task.process(), id)?.set(setting, flags & ABSTIME != 0)?;
    if old != 0 { write_itimerspec(old, before) } else { Ok(()) }
}

fn timer_gettime(task: &Arc<Task>, id: i32, out: u64) -> Result<()> {
    write_itimerspec(out, posix::find(task.process(), id)?.get())
}

fn timer_getoverrun(task: &Arc<Task>, id: i32) -> Result<i32> {
    Ok(posix::find(task.process(), id)?.overrun())
}

fn timer_delete(task: &Arc<Task>, id: i32) -> Result<()> {
    posix::delete(task.process(), id)
}

fn timerfd_create(task: &Arc<Task>, clock: i32, flags: u32) -> Result<Fd> {
    let flags = OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let clock = match clock {
        0 | 1 | 7 | 8 | 9 => ClockId::from_raw(clock)?,
        _ => return Err(Errno::EINVAL),
    };
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let on_exec = OnExec::close_if(flags.contains(OpenFlags::CLOEXEC));
    let limit = task.process().limit(nr::RLIMIT_NOFILE);
    task.files()?.install(timerfd::new(clock, flags & OpenFlags::NONBLOCK), on_exec, limit)
}

fn timerfd_settime(task: &Arc<Task>, fd: Fd, flags: u32, new: u64, old: u64) -> Result<()> {
    if flags & !(ABSTIME | CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let setting = read_itimerspec(new)?;
    let timer = timerfd::of(&*task.files()?.get(fd)?)?;
    let before = timer.set(setting, flags & ABSTIME != 0)?;
    if old != 0 { write_itimerspec(old, before) } else { Ok(()) }
}

fn timerfd_gettime(task: &Arc<Task>, fd: Fd, out: u64) -> Result<()> {
    let timer = timerfd::of(&*task.files()?.get(fd)?)?;
    write_itimerspec(out, timer.get())
}
