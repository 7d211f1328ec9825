//! prctl(2).

use crate::task::{COMM_LEN, Task, cap, dispatch, seccomp};
use crate::vm::Mdwe;
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;
use linux_raw_sys::general as nr;
use linux_raw_sys::prctl as pr;
use umbel_mm::UserAddr;
use umbel_mm::user::{copy_in_partial, copy_out, read_val, write_val};

rows! {
    nr::__NR_seccomp, seccomp(operation: u32, flags: u32, args: UserAddr) => seccomp_call, Full;
    nr::__NR_prctl, prctl(option: u32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) => prctl, Partial("names, death signals, dumpable, no_new_privs, subreaper, securebits, capabilities, timer slack, handling calls oneself, running what was written; not machine checks, speculation, merging of pages, names of areas");
}

fn prctl(task: &Arc<Task>, option: u32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) -> Result<u64> {
    let process = task.process();
    let unused = |args: &[u64]| if args.iter().all(|&arg| arg == 0) { Ok(()) } else { Err(Errno::EINVAL) };
    match option {
        pr::PR_SET_NAME => return set_name(task, UserAddr(arg2)),
        pr::PR_GET_NAME => return write_val(UserAddr(arg2), &task.comm()).map(|()| 0),
        pr::PR_SET_PDEATHSIG => {
            if arg2 > 64 {
                return Err(Errno::EINVAL);
            }
            task.parent_death_signal.store(arg2 as u32, Relaxed);
        }
        pr::PR_GET_PDEATHSIG => {
            write_val(UserAddr(arg2), &task.parent_death_signal.load(Relaxed))?;
        }
        pr::PR_SET_DUMPABLE => {
            if arg2 > 1 {
                return Err(Errno::EINVAL);
            }
            process.dumpable.store(arg2 as u32, Relaxed);
        }
        // Areas of the program are as execve(2) laid them out.
        pr::PR_SET_MM if !task.capable(cap::SYS_RESOURCE) => return Err(Errno::EPERM),
        pr::PR_GET_DUMPABLE => return Ok(u64::from(process.dumpable.load(Relaxed))),
        pr::PR_SET_NO_NEW_PRIVS => {
            unused(&[arg3, arg4, arg5])?;
            if arg2 != 1 {
                return Err(Errno::EINVAL);
            }
            task.no_new_privs.store(true, Relaxed);
        }
        pr::PR_GET_NO_NEW_PRIVS => {
            unused(&[arg2, arg3, arg4, arg5])?;
            return Ok(u64::from(task.no_new_privs.load(Relaxed)));
        }
        pr::PR_SET_CHILD_SUBREAPER => process.subreaper.store(arg2 != 0, Relaxed),
        pr::PR_GET_CHILD_SUBREAPER => {
            let value = i32::from(process.subreaper.load(Relaxed));
            write_val(UserAddr(arg2), &value)?;
        }
        pr::PR_SET_TIMERSLACK => {
            let slack = if arg2 == 0 { task.default_slack_ns.load(Relaxed) } else { arg2 };
            task.timer_slack_ns.store(slack, Relaxed);
        }
        pr::PR_GET_TIMERSLACK => return Ok(task.timer_slack_ns.load(Relaxed)),
        pr::PR_GET_TIMING => return Ok(0),
        pr::PR_SET_TIMING => return if arg2 == 0 { Ok(0) } else { Err(Errno::EINVAL) },
        pr::PR_GET_TSC => {
            let denied = task.no_counter.load(Relaxed);
            write_val(UserAddr(arg2), &if denied { pr::PR_TSC_SIGSEGV } else { pr::PR_TSC_ENABLE })?;
        }
        pr::PR_SET_TSC => match u32::try_from(arg2) {
            Ok(pr::PR_TSC_ENABLE) => task.no_counter.store(false, Relaxed),
            Ok(pr::PR_TSC_SIGSEGV) => task.no_counter.store(true, Relaxed),
            _ => return Err(Errno::EINVAL),
        },
        pr::PR_GET_KEEPCAPS
        | pr::PR_SET_KEEPCAPS
        | pr::PR_GET_SECUREBITS
        | pr::PR_SET_SECUREBITS
        | pr::PR_CAPBSET_READ
        | pr::PR_CAPBSET_DROP
        | pr::PR_CAP_AMBIENT => {
            return capabilities(task, option, arg2, arg3);
        }
        pr::PR_GET_SECCOMP => return Ok(u64::from(task.seccomp.mode())),
        pr::PR_SET_SECCOMP => match arg2 {
            1 => seccomp::set_strict(task)?,
            2 => return seccomp::add_filter(task, 0, UserAddr(arg3)),
            _ => return Err(Errno::EINVAL),
        },
        pr::PR_SET_SYSCALL_USER_DISPATCH => dispatch::set(task, [arg2, arg5, arg3, arg4])?,
        pr::PR_SET_MDWE => {
            unused(&[arg3, arg4, arg5])?;
            let mdwe = Mdwe::from_bits(arg2).ok_or(Errno::EINVAL)?;
            if mdwe == Mdwe::NO_INHERIT {
                return Err(Errno::EINVAL);
            }
            task.space().ok_or(Errno::ESRCH)?.promise(mdwe)?;
        }
        pr::PR_GET_MDWE => {
            unused(&[arg2, arg3, arg4, arg5])?;
            return Ok(task.space().map_or(0, |space| space.mdwe().bits()));
        }
        pr::PR_GET_AUXV => {
            unused(&[arg4, arg5])?;
            let image = process.image();
            let len = image.auxv.len().min(usize::try_from(arg3).unwrap_or(usize::MAX));
            copy_out(UserAddr(arg2), image.auxv.get(..len).unwrap_or(&[]))?;
            return Ok(image.auxv.len() as u64);
        }
        pr::PR_GET_TID_ADDRESS => write_val(UserAddr(arg2), &task.clear_child_tid.load(Relaxed))?,
        // There are no such events, so none is running.
        pr::PR_TASK_PERF_EVENTS_DISABLE | pr::PR_TASK_PERF_EVENTS_ENABLE => {}
        pr::PR_SET_THP_DISABLE => return unused(&[arg3, arg4, arg5]).map(|()| 0),
        pr::PR_GET_THP_DISABLE => return unused(&[arg2, arg3, arg4, arg5]).map(|()| 0),
        _ => {
            return Err(Errno::EINVAL);
        }
    }
    Ok(0)
}

fn seccomp_call(task: &Arc<Task>, operation: u32, flags: u32, args: UserAddr) -> Result<u64> {
    match operation {
        0 if flags == 0 && args.is_null() => seccomp::set_strict(task).map(|()| 0),
        1 => seccomp::add_filter(task, flags, args),
        2 if flags == 0 => seccomp::is_available(read_val(args)?).map(|()| 0),
        3 if flags == 0 => write_val(args, &seccomp::notify::SIZES).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

fn set_name(task: &Task, addr: UserAddr) -> Result<u64> {
    let mut name = [0; COMM_LEN - 1];
    let (read, result) = copy_in_partial(&mut name, addr);
    let end = name.iter().take(read).position(|&byte| byte == 0);
    // The string may end at the end of readable memory.
    let len = match end {
        Some(end) => end,
        None => result.map(|()| read)?,
    };
    task.set_comm(name.get(..len).unwrap_or(&[]));
    Ok(0)
}

const KEEP_CAPS: u32 = 1 << 4;
const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
/// All flags, each followed by its lock; the locks.
const SECURE_ALL: u32 = 0xfff;
const SECURE_LOCKS: u32 = 0xaaa;

fn capabilities(task: &Task, option: u32, arg2: u64, arg3: u64) -> Result<u64> {
    let mut cred = (*task.cred()).clone();
    let bit = |cap: u64| if cap <= u64::from(cap::LAST) { Ok(1_u64 << cap) } else { Err(Errno::EINVAL) };
    match option {
        pr::PR_GET_KEEPCAPS => return Ok(u64::from(cred.securebits & KEEP_CAPS != 0)),
        pr::PR_GET_SECUREBITS => return Ok(u64::from(cred.securebits)),
        pr::PR_CAPBSET_READ => return Ok(u64::from(cred.bounding & bit(arg2)? != 0)),
        pr::PR_SET_KEEPCAPS if arg2 <= 1 && cred.securebits & KEEP_CAPS << 1 != 0 => return Err(Errno::EPERM),
        pr::PR_SET_KEEPCAPS => match arg2 {
            0 => cred.securebits &= !KEEP_CAPS,
            1 => cred.securebits |= KEEP_CAPS,
            _ => return Err(Errno::EINVAL),
        },
        pr::PR_SET_SECUREBITS => {
            if !cred.capable_here(cap::SETPCAP) {
                return Err(Errno::EPERM);
            }
            let (old, new) = (cred.securebits, u32::try_from(arg2).map_err(|_| Errno::EPERM)?);
            // What is locked stays, and so do the locks.
            let locked = (old & SECURE_LOCKS) >> 1;
            if locked & (old ^ new) != 0 || old & SECURE_LOCKS & !new != 0 || new & !SECURE_ALL != 0 {
                return Err(Errno::EPERM);
            }
            cred.securebits = new;
        }
        pr::PR_CAPBSET_DROP => {
            if !cred.capable_here(cap::SETPCAP) {
                return Err(Errno::EPERM);
            }
            cred.bounding &= !bit(arg2)?;
        }
        _ => match arg2 as u32 {
            pr::PR_CAP_AMBIENT_IS_SET => return Ok(u64::from(cred.ambient & bit(arg3)? != 0)),
            pr::PR_CAP_AMBIENT_RAISE => {
                let bit = bit(arg3)?;
                if cred.permitted & cred.inheritable & bit == 0 || cred.securebits & NO_CAP_AMBIENT_RAISE != 0 {
                    return Err(Errno::EPERM);
                }
                cred.ambient |= bit;
            }
            pr::PR_CAP_AMBIENT_LOWER => cred.ambient &= !bit(arg3)?,
            pr::PR_CAP_AMBIENT_CLEAR_ALL if arg3 != 0 => return Err(Errno::EINVAL),
            pr::PR_CAP_AMBIENT_CLEAR_ALL => cred.ambient = 0,
            _ => return Err(Errno::EINVAL),
        },
    }
    task.set_cred(cred);
    Ok(0)
}
