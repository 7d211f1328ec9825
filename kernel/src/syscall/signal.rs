//! Signals: actions, masks, waiting, sending.

use super::ipc::install;
use super::{Fd, Pid};
use crate::fs::OpenFlags;
use crate::signal::{self, Action, Restart, SIGCONT, SIGSEGV, SigInfo, UNBLOCKABLE, bit, code, is_valid};
use crate::task::{Process, Task, find_process, find_task, ids};
use crate::{Errno, Result, futex, time};
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use umbel_abi::linux::{SigSet, StackT};
use umbel_mm::user::{self, UserAddr};
use umbel_smp::wait::WaitQueue;

rows! {
    nr::__NR_rt_sigaction, rt_sigaction(signo: u32, new: u64, old: u64, size: u64) => rt_sigaction, Full;
    nr::__NR_rt_sigprocmask, rt_sigprocmask(how: u32, new: u64, old: u64, size: u64) => rt_sigprocmask, Full;
    nr::__NR_rt_sigpending, rt_sigpending(set: u64, size: u64) => rt_sigpending, Full;
    nr::__NR_rt_sigsuspend, rt_sigsuspend(mask: u64, size: u64) => rt_sigsuspend, Full;
    nr::__NR_rt_sigtimedwait, rt_sigtimedwait(set: u64, info: u64, timeout: u64, size: u64) => rt_sigtimedwait, Full;
    nr::__NR_rt_sigqueueinfo, rt_sigqueueinfo(pid: Pid, signo: u64, info: u64) => rt_sigqueueinfo, Full;
    nr::__NR_rt_tgsigqueueinfo, rt_tgsigqueueinfo(pid: Pid, tid: Pid, signo: u64, info: u64) => rt_tgsigqueueinfo, Full;
    nr::__NR_rt_sigreturn, rt_sigreturn() => rt_sigreturn, Full;
    nr::__NR_restart_syscall, restart_syscall() => restart_syscall, Full;
    nr::__NR_sigaltstack, sigaltstack(new: u64, old: u64) => sigaltstack, Full;
    nr::__NR_kill, kill(pid: Pid, signo: u64) => kill, Full;
    nr::__NR_tkill, tkill(tid: Pid, signo: u64) => tkill, Full;
    nr::__NR_tgkill, tgkill(pid: Pid, tid: Pid, signo: u64) => tgkill, Full;
    nr::__NR_signalfd, signalfd(fd: Fd, set: u64, size: u64) => signalfd, Full;
    nr::__NR_signalfd4, signalfd4(fd: Fd, set: u64, size: u64, flags: u32) => signalfd4, Full;
    nr::__NR_pause, pause() => pause, Full;
}

/// Bytes of a `sigset_t` that calls accept.
const SET_LEN: u64 = 8;

fn check_size(size: u64) -> Result<()> {
    if size == SET_LEN { Ok(()) } else { Err(Errno::EINVAL) }
}

fn rt_sigaction(task: &Arc<Task>, signo: u32, new: u64, old: u64, size: u64) -> Result<()> {
    check_size(size)?;
    if !is_valid(u64::from(signo)) || (new != 0 && bit(signo) & UNBLOCKABLE != 0) {
        return Err(Errno::EINVAL);
    }
    let action = if new == 0 { None } else { Some(Action::from_words(user::read_val(UserAddr(new))?)) };
    let before = signal::set_action(task.process(), signo, action);
    if old != 0 { user::write_val(UserAddr(old), &before.to_words()) } else { Ok(()) }
}

fn rt_sigprocmask(task: &Arc<Task>, how: u32, new: u64, old: u64, size: u64) -> Result<()> {
    check_size(size)?;
    let before = task.signal.mask();
    if new != 0 {
        let set: SigSet = user::read_val(UserAddr(new))?;
        let mask = match how {
            nr::SIG_BLOCK => before | set,
            nr::SIG_UNBLOCK => before & !set,
            nr::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        signal::set_mask(task, mask);
    }
    if old != 0 { user::write_val(UserAddr(old), &before) } else { Ok(()) }
}

fn rt_sigpending(task: &Arc<Task>, set: u64, size: u64) -> Result<()> {
    if size > SET_LEN {
        return Err(Errno::EINVAL);
    }
    let pending = signal::blocked_pending(task).to_le_bytes();
    user::copy_out(UserAddr(set), pending.get(..size as usize).unwrap_or(&[]))
}

fn rt_sigsuspend(task: &Arc<Task>, mask: u64, size: u64) -> Result<()> {
    check_size(size)?;
    let mask: SigSet = user::read_val(UserAddr(mask))?;
    signal::set_mask_for_call(task, mask);
    pause(task)
}

fn pause(_: &Arc<Task>) -> Result<()> {
    let queue = WaitQueue::new();
    queue.wait_interruptible(None, || None).map_err(|_| Errno::ERESTARTNOHAND)
}

fn rt_sigtimedwait(task: &Arc<Task>, set: u64, info: u64, timeout: u64, size: u64) -> Result<u32> {
    check_size(size)?;
    let set: SigSet = user::read_val(UserAddr(set))?;
    let deadline_ns = if timeout == 0 { None } else { Some(time::deadline_in(time::read_timespec(timeout)?)) };
    let taken = signal::wait_for(task, set & !UNBLOCKABLE, deadline_ns)?;
    if info != 0 {
        user::copy_out(UserAddr(info), &taken.to_bytes())?;
    }
    Ok(taken.signo())
}

fn rt_sigreturn(task: &Arc<Task>) -> Result<u64> {
    let mut regs = task.user.regs();
    let result = signal::sigreturn(task, &mut regs);
    regs.orig_rax = umbel_gate::Regs::NO_SYSCALL;
    task.user.set_regs(&regs);
    if result.is_err() {
        signal::force_fault(task, SigInfo::kernel(SIGSEGV));
    }
    Ok(regs.rax)
}

fn restart_syscall(task: &Arc<Task>) -> Result<u64> {
    match task.signal.take_restart() {
        Restart::None => Err(Errno::EINTR),
        Restart::Nanosleep { deadline_ns, rem } => time::sleep::restart(task, deadline_ns, rem).map(|()| 0),
        Restart::Poll { fds, count, deadline_ns } => super::poll::restart(task, fds, count, deadline_ns),
        Restart::Futex { addr, flags, value, bitset, deadline_ns } => {
            futex::restart(task, addr, flags, value, bitset, deadline_ns)
        }
    }
}

fn sigaltstack(task: &Arc<Task>, new: u64, old: u64) -> Result<()> {
    let sp = task.user.regs().rsp;
    let before = signal::altstack(task, sp);
    if new != 0 {
        let [addr, flags, size]: [u64; 3] = user::read_val(UserAddr(new))?;
        signal::set_altstack(task, StackT { sp: addr, flags: flags as i32, pad: 0, size }, sp)?;
    }
    if old != 0 {
        user::write_val(UserAddr(old), &[before.sp, u64::from(before.flags as u32), before.size])?;
    }
    Ok(())
}

pub(super) fn check_signo(signo: u64) -> Result<()> {
    if signo == 0 || is_valid(signo) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether the caller may send `signo` to `process`. A zombie hears nothing and refuses nobody.
pub(super) fn check_permission(task: &Task, process: &Process, signo: u64) -> Result<()> {
    let (target, same_session) = {
        let table = ids::table();
        let own = table.node(task.process().pid())?.pgrp.session.id;
        let node = table.node(process.pid())?;
        (node.threads.first().cloned(), node.pgrp.session.id == own)
    };
    match target {
        Some(target) if !Arc::ptr_eq(target.process(), task.process()) => {
            signal::may_signal(&task.cred(), &target.cred(), same_session && signo == u64::from(SIGCONT), signo)
        }
        _ => Ok(()),
    }
}

fn send(task: &Task, process: &Arc<Process>, signo: u64) -> Result<()> {
    check_permission(task, process, signo)?;
    if signo != 0 {
        let info = SigInfo::kill(signo as u32, process.sees(task.process().pid()), task.cred().uid);
        signal::queue_to_process(process, info)?;
    }
    Ok(())
}

fn kill(task: &Arc<Task>, pid: Pid, signo: u64) -> Result<()> {
    check_signo(signo)?;
    let targets = match pid.0 {
        1.. => {
            let thread = || find_task(pid).map(|task| task.process().clone());
            let process = find_process(pid).or_else(thread).ok_or(Errno::ESRCH)?;
            return send(task, &process, signo);
        }
        0 => {
            let own = ids::table().node(task.process().pid())?.pgrp.id;
            ids::find_pgrp(own)
        }
        -1 => {
            let own = task.process();
            let others = ids::all_processes().filter(|other| !Arc::ptr_eq(other, own) && own.sees(other.pid()) > 1);
            return send_to_each(others, |process| send(task, process, signo));
        }
        i32::MIN => return Err(Errno::ESRCH),
        group => ids::find_pgrp(Pid(-group)),
    };
    send_to_each(targets, |process| send(task, process, signo))
}

/// Sends `info` to all processes of group `pgrp`.
pub(super) fn send_info_to_group(task: &Task, pgrp: Pid, signo: u64, info: SigInfo) -> Result<()> {
    send_to_each(ids::find_pgrp(pgrp), |process| {
        check_permission(task, process, signo)?;
        if signo == 0 { Ok(()) } else { signal::queue_to_process(process, info).map(drop) }
    })
}

/// One that could be sent to is success; else the last reason counts.
fn send_to_each(
    targets: impl IntoIterator<Item = Arc<Process>>,
    send: impl Fn(&Arc<Process>) -> Result<()>,
) -> Result<()> {
    let mut result = Err(Errno::ESRCH);
    for process in targets {
        match send(&process) {
            Ok(()) => result = Ok(()),
            Err(error) if result.is_err() => result = Err(error),
            Err(_) => {}
        }
    }
    result
}

/// Thread `tid`, of process `pid` if that is given.
fn thread(pid: Option<Pid>, tid: Pid) -> Result<Arc<Task>> {
    if tid.0 <= 0 || pid.is_some_and(|pid| pid.0 <= 0) {
        return Err(Errno::EINVAL);
    }
    let found = find_task(tid).ok_or(Errno::ESRCH)?;
    if pid.is_none_or(|pid| found.process().pid() == pid) { Ok(found) } else { Err(Errno::ESRCH) }
}

fn send_to_thread(task: &Arc<Task>, pid: Option<Pid>, tid: Pid, signo: u64) -> Result<()> {
    let target = thread(pid, tid)?;
    check_signo(signo)?;
    check_permission(task, target.process(), signo)?;
    if signo != 0 {
        let info = SigInfo::tkill(signo as u32, target.process().sees(task.process().pid()), task.cred().uid);
        signal::queue_to_task(&target, info)?;
    }
    Ok(())
}

fn tkill(task: &Arc<Task>, tid: Pid, signo: u64) -> Result<()> {
    send_to_thread(task, None, tid, signo)
}

fn tgkill(task: &Arc<Task>, pid: Pid, tid: Pid, signo: u64) -> Result<()> {
    send_to_thread(task, Some(pid), tid, signo)
}

/// Reads the information that a caller sends. Nobody may pretend to be the kernel, or kill(2), towards others.
fn read_info(task: &Task, target: Pid, signo: u64, info: u64) -> Result<SigInfo> {
    let bytes: [u8; 128] = user::read_val(UserAddr(info))?;
    let info = SigInfo::from_bytes(signo as u32, &bytes).said_by(&task.cred());
    let pretends = info.code() >= 0 || info.code() == code::SI_TKILL;
    if pretends && target != task.process().pid() { Err(Errno::EPERM) } else { Ok(info) }
}

fn rt_sigqueueinfo(task: &Arc<Task>, pid: Pid, signo: u64, info: u64) -> Result<()> {
    let mut info = read_info(task, pid, signo, info)?;
    let thread = || find_task(pid).map(|task| task.process().clone());
    let process = find_process(pid).or_else(thread).ok_or(Errno::ESRCH)?;
    check_signo(signo)?;
    check_permission(task, &process, signo)?;
    if process.sees(task.process().pid()) == 0 {
        info.set_pid(0);
    }
    if signo != 0 {
        signal::queue_to_process(&process, info)?;
    }
    Ok(())
}

fn rt_tgsigqueueinfo(task: &Arc<Task>, pid: Pid, tid: Pid, signo: u64, info: u64) -> Result<()> {
    let info = read_info(task, pid, signo, info)?;
    let target = thread(Some(pid), tid)?;
    check_signo(signo)?;
    check_permission(task, target.process(), signo)?;
    if signo != 0 {
        signal::queue_to_task(&target, info)?;
    }
    Ok(())
}

fn signalfd(task: &Arc<Task>, fd: Fd, set: u64, size: u64) -> Result<Fd> {
    signalfd4(task, fd, set, size, 0)
}

fn signalfd4(task: &Arc<Task>, fd: Fd, set: u64, size: u64, flags: u32) -> Result<Fd> {
    check_size(size)?;
    let flags = OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL);
    }
    let set: SigSet = user::read_val(UserAddr(set))?;
    if fd.0 == -1 {
        return install(task, signal::fd::new(set, flags & OpenFlags::NONBLOCK), flags);
    }
    let file = task.files()?.get(fd)?;
    file.ops_as::<signal::fd::SignalFd>().ok_or(Errno::EINVAL)?.set(set);
    Ok(fd)
}
