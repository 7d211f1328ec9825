//! Pipes, futexes, eventfd, epoll.

use super::Fd;
use crate::fs::{File, OnExec, OpenFlags};
use crate::ipc::epoll::{self, ADD, DEL, Epoll, Event, MOD};
use crate::ipc::eventfd::{self, Take};
use crate::ipc::pipe;
use crate::task::Task;
use crate::{Errno, Result, futex, time};
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_pipe, pipe(fds: u64) => pipe, Full;
    nr::__NR_pipe2, pipe2(fds: u64, flags: u32) => pipe2, Full;
    nr::__NR_eventfd, eventfd(count: u32) => eventfd, Full;
    nr::__NR_eventfd2, eventfd2(count: u32, flags: u32) => eventfd2, Full;
    nr::__NR_epoll_create, epoll_create(size: i32) => epoll_create, Full;
    nr::__NR_epoll_create1, epoll_create1(flags: u32) => epoll_create1, Full;
    nr::__NR_epoll_ctl, epoll_ctl(epoll: Fd, op: u32, fd: Fd, event: u64) => epoll_ctl, Full;
    nr::__NR_epoll_wait, epoll_wait(epoll: Fd, events: u64, max: i32, timeout_ms: i32) => epoll_wait, Full;
    nr::__NR_epoll_pwait, epoll_pwait(epoll: Fd, events: u64, max: i32, timeout_ms: i32, mask: u64, size: u64) => epoll_pwait, Full;
    nr::__NR_epoll_pwait2, epoll_pwait2(epoll: Fd, events: u64, max: i32, timeout: u64, mask: u64, size: u64) => epoll_pwait2, Full;
    nr::__NR_futex, futex(addr: u64, op: u32, value: u32, timeout: u64, addr2: u64, value3: u32) => futex_call, Full;
    nr::__NR_futex_waitv, futex_waitv(waiters: u64, count: u32, flags: u32, timeout: u64, clock: u32) => futex_waitv, Full;
    454, futex_wake(addr: u64, mask: u64, count: i32, flags: u32) => futex_wake, Full;
    455, futex_wait(addr: u64, value: u64, mask: u64, flags: u32, timeout: u64, clock: u32) => futex_wait, Full;
    456, futex_requeue(waiters: u64, flags: u32, wakes: i32, moves: i32) => futex_requeue, Full;
}

/// Installs a new file; `flags` has `O_CLOEXEC` or not.
pub(crate) fn install(task: &Task, file: Arc<File>, flags: OpenFlags) -> Result<Fd> {
    let on_exec = OnExec::close_if(flags.contains(OpenFlags::CLOEXEC));
    task.files()?.install(file, on_exec, task.process().limit(nr::RLIMIT_NOFILE))
}

/// Installs two files and writes their descriptors to `out`; undoes all if that fails.
pub(super) fn install_pair(task: &Task, pair: (Arc<File>, Arc<File>), flags: OpenFlags, out: u64) -> Result<()> {
    let files = task.files()?;
    let first = install(task, pair.0, flags)?;
    let close = |fd| {
        // Made just now; if another thread closed it, that is what it asked for.
        let _ = files.close(fd);
    };
    let second = install(task, pair.1, flags).inspect_err(|_| close(first))?;
    user::write_val(UserAddr(out), &[first.0, second.0]).inspect_err(|_| {
        close(first);
        close(second);
    })
}

fn pipe(task: &Arc<Task>, fds: u64) -> Result<()> {
    pipe2(task, fds, 0)
}

fn pipe2(task: &Arc<Task>, fds: u64, flags: u32) -> Result<()> {
    let flags = OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC | OpenFlags::DIRECT).contains(flags) {
        return Err(Errno::EINVAL);
    }
    install_pair(task, pipe::new(flags)?, flags, fds)
}

fn futex_call(task: &Arc<Task>, addr: u64, op: u32, value: u32, timeout: u64, addr2: u64, value3: u32) -> Result<u64> {
    futex::futex(task, addr, op, value, timeout, addr2, value3)
}

fn futex_waitv(task: &Arc<Task>, waiters: u64, count: u32, flags: u32, timeout: u64, clock: u32) -> Result<usize> {
    futex::many::wait_any(task, waiters, count, flags, timeout, clock)
}

fn futex_wake(task: &Arc<Task>, addr: u64, mask: u64, count: i32, flags: u32) -> Result<u64> {
    futex::many::wake_some(task, addr, mask, count, flags)
}

fn futex_wait(task: &Arc<Task>, addr: u64, value: u64, mask: u64, flags: u32, timeout: u64, clock: u32) -> Result<()> {
    futex::many::wait_one(task, addr, value, mask, flags, timeout, clock)
}

fn futex_requeue(task: &Arc<Task>, waiters: u64, flags: u32, wakes: i32, moves: i32) -> Result<u64> {
    futex::many::move_some(task, waiters, flags, wakes, moves)
}

/// `EFD_SEMAPHORE`.
const EFD_SEMAPHORE: u32 = 1;

fn eventfd(task: &Arc<Task>, count: u32) -> Result<Fd> {
    eventfd2(task, count, 0)
}

fn eventfd2(task: &Arc<Task>, count: u32, flags: u32) -> Result<Fd> {
    let take = if flags & EFD_SEMAPHORE != 0 { Take::One } else { Take::All };
    let flags = OpenFlags::from_bits(flags & !EFD_SEMAPHORE).ok_or(Errno::EINVAL)?;
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL);
    }
    install(task, eventfd::new(u64::from(count), take, flags & OpenFlags::NONBLOCK), flags)
}

fn epoll_create(task: &Arc<Task>, size: i32) -> Result<Fd> {
    if size <= 0 { Err(Errno::EINVAL) } else { epoll_create1(task, 0) }
}

fn epoll_create1(task: &Arc<Task>, flags: u32) -> Result<Fd> {
    if flags & !OpenFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    install(task, epoll::new(), OpenFlags::from_bits_truncate(flags))
}

fn epoll_ctl(task: &Arc<Task>, epoll: Fd, op: u32, fd: Fd, event: u64) -> Result<()> {
    let event = if op == DEL { Event::default() } else { read_event(event)? };
    let files = task.files()?;
    let (outer, file) = (files.get(epoll)?, files.get(fd)?);
    let instance = outer.ops_as::<Epoll>().ok_or(Errno::EINVAL)?;
    match op {
        ADD => instance.add(fd, &file, event)?,
        DEL => instance.remove(fd, &file)?,
        MOD => instance.modify(fd, &file, event)?,
        _ => return Err(Errno::EINVAL),
    }
    match file.ops_as::<Epoll>() {
        // Who waits for the outer one learns of it.
        Some(_) => files.spoil(&file),
        None if op == DEL => files.unwatch(fd),
        None if event.has_options() => {}
        None => files.watch(epoll, &outer, fd, &file, || instance.is_idle()),
    }
    Ok(())
}

/// Bytes of `struct epoll_event`, which is packed.
const EVENT_LEN: usize = 12;
/// Events that epoll_wait(2) copies out together.
const EVENTS_AT_ONCE: usize = 32;

fn read_event(addr: u64) -> Result<Event> {
    let [events, low, high]: [u32; 3] = user::read_val(UserAddr(addr))?;
    Ok(Event { events, data: u64::from(high) << 32 | u64::from(low) })
}

fn epoll_wait_until(task: &Task, epoll: Fd, addr: u64, max: i32, deadline_ns: Option<u64>) -> Result<usize> {
    const MAX: i32 = i32::MAX / EVENT_LEN as i32;
    if !(1..=MAX).contains(&max) {
        return Err(Errno::EINVAL);
    }
    let file = task.files()?.get(epoll)?;
    let instance = file.ops_as::<Epoll>().ok_or(Errno::EINVAL)?;
    let events = instance.wait(task, max as usize, deadline_ns)?;
    let mut at = UserAddr(addr);
    // Each copy costs more than the bytes it moves.
    for some in events.chunks(EVENTS_AT_ONCE) {
        let mut bytes = [0; EVENTS_AT_ONCE * EVENT_LEN];
        for (event, to) in some.iter().zip(bytes.chunks_exact_mut(EVENT_LEN)) {
            let (events, data) = to.split_at_mut(4);
            events.copy_from_slice(&event.events.to_le_bytes());
            data.copy_from_slice(&event.data.to_le_bytes());
        }
        let filled = bytes.get(..some.len() * EVENT_LEN).unwrap_or(&[]);
        user::copy_out(at, filled)?;
        at = at.add(filled.len() as u64);
    }
    Ok(events.len())
}

fn deadline_ms(timeout_ms: i32) -> Option<u64> {
    match timeout_ms {
        0 => Some(0),
        1.. => Some(time::deadline_in(timeout_ms as u64 * 1_000_000)),
        _ => None,
    }
}

fn epoll_wait(task: &Arc<Task>, epoll: Fd, events: u64, max: i32, timeout_ms: i32) -> Result<usize> {
    epoll_wait_until(task, epoll, events, max, deadline_ms(timeout_ms))
}

fn epoll_pwait(
    task: &Arc<Task>,
    epoll: Fd,
    events: u64,
    max: i32,
    timeout_ms: i32,
    mask: u64,
    size: u64,
) -> Result<usize> {
    super::poll::with_mask(task, mask, size, || epoll_wait_until(task, epoll, events, max, deadline_ms(timeout_ms)))
}

fn epoll_pwait2(
    task: &Arc<Task>,
    epoll: Fd,
    events: u64,
    max: i32,
    timeout: u64,
    mask: u64,
    size: u64,
) -> Result<usize> {
    let deadline_ns = match timeout {
        0 => None,
        addr => Some(time::deadline_in(time::read_timespec(addr)?)),
    };
    super::poll::with_mask(task, mask, size, || epoll_wait_until(task, epoll, events, max, deadline_ns))
}
