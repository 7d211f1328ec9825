//! The requests of ptrace(2) that return a number: how much there is, or how much was copied; and calls that go elsewhere.

use super::Event;
use super::request::with_stop;
use crate::signal;
use crate::task::{self, Task, dispatch};
use crate::{Errno, Pid, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_mm::UserAddr;
use umbel_mm::user::{copy_out, read_val, write_val};

/// `PTRACE_PEEKSIGINFO`.
const PEEK_SIGINFO: u32 = 0x4209;
/// `PTRACE_GET_SYSCALL_INFO`.
const GET_SYSCALL_INFO: u32 = 0x420e;
/// `PTRACE_GET_RSEQ_CONFIGURATION`.
const GET_RSEQ_CONFIGURATION: u32 = 0x420f;

/// `PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG`.
const SET_USER_DISPATCH: u32 = 0x4210;
/// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG`.
const GET_USER_DISPATCH: u32 = 0x4211;

/// Whether `request` is one of these.
pub fn is_one(request: u32) -> bool {
    let dispatch = matches!(request, SET_USER_DISPATCH | GET_USER_DISPATCH);
    dispatch || matches!(request, PEEK_SIGINFO | GET_SYSCALL_INFO | GET_RSEQ_CONFIGURATION)
}

/// One of these requests.
///
/// # Errors
/// See ptrace(2).
pub fn ptrace(task: &Arc<Task>, request: u32, pid: Pid, addr: u64, out: UserAddr) -> Result<u64> {
    let target = task::find_task(pid).ok_or(Errno::ESRCH)?;
    if !target.trace.tracer_task().is_some_and(|tracer| Arc::ptr_eq(&tracer, task)) {
        return Err(Errno::ESRCH);
    }
    let (code, message) = with_stop(&target, |_, stop| {
        if stop.listening {
            return Err(Errno::ESRCH);
        }
        Ok((stop.info.map_or(0, |info| info.code()), stop.message))
    })?;
    match request {
        PEEK_SIGINFO => peek_siginfo(task, &target, UserAddr(addr), out),
        SET_USER_DISPATCH | GET_USER_DISPATCH if addr != size_of::<[u64; 4]>() as u64 => Err(Errno::EINVAL),
        SET_USER_DISPATCH => dispatch::set(&target, read_val(out)?).map(|()| 0),
        GET_USER_DISPATCH => write_val(out, &target.dispatch.config()).map(|()| 0),
        GET_RSEQ_CONFIGURATION => copy_start(&target.rseq.configuration(), addr, out),
        _ => copy_start(&describe_call(&target, code as u32, message), addr, out),
    }
}

/// Writes as much of `bytes` as fits into `size`; returns how many there are.
fn copy_start(bytes: &[u8], size: u64, out: UserAddr) -> Result<u64> {
    let len = bytes.len().min(size as usize);
    copy_out(out, bytes.get(..len).unwrap_or(&[]))?;
    Ok(bytes.len() as u64)
}

/// Shows pending signals in the order in which they came: of the thread, or of its process. Returns how many.
fn peek_siginfo(task: &Task, target: &Task, args: UserAddr, out: UserAddr) -> Result<u64> {
    const SHARED: u32 = 1;
    /// Bytes of a `siginfo_t`.
    const LEN: u64 = 128;
    let [first, rest]: [u64; 2] = read_val(args)?;
    let (flags, count) = (rest as u32, (rest >> 32) as i32);
    let count = u64::try_from(count).map_err(|_| Errno::EINVAL)?;
    if flags & !SHARED != 0 {
        return Err(Errno::EINVAL);
    }
    // More than there is has nothing behind it.
    let first = usize::try_from(first).map_err(|_| Errno::EINVAL)?;
    for done in 0..count {
        let index = first.saturating_add(done as usize);
        let shared = flags & SHARED != 0;
        let Some(info) = (if shared { target.process().signal.peek(index) } else { target.signal.peek(index) }) else {
            return Ok(done);
        };
        match copy_out(out.add(done * LEN), &info.to_bytes()) {
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
            Ok(()) if task.thread.interrupted() => return Ok(done + 1),
            Ok(()) => {}
        }
    }
    Ok(count)
}

fn describe_call(target: &Task, code: u32, message: u64) -> Vec<u8> {
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    const AT_CALL: u32 = signal::SIGTRAP | 0x80;
    const AT_SECCOMP: u32 = signal::SIGTRAP | (Event::Seccomp as u32) << 8;
    let regs = target.user.regs();
    let kind: u32 = match (code, message) {
        (AT_CALL, 1) => 1,
        (AT_CALL, 2) => 2,
        (AT_SECCOMP, _) => 3,
        _ => 0,
    };
    let mut bytes = Vec::new();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(AUDIT_ARCH_X86_64.to_ne_bytes());
    bytes.extend(regs.rip.to_ne_bytes());
    bytes.extend(regs.rsp.to_ne_bytes());
    match kind {
        1 | 3 => {
            bytes.extend(regs.orig_rax.to_ne_bytes());
            bytes.extend(regs.args().iter().flat_map(|arg| arg.to_ne_bytes()));
            if kind == 3 {
                bytes.extend((message as u32).to_ne_bytes());
            }
        }
        2 => {
            bytes.extend(regs.rax.to_ne_bytes());
            bytes.push(u8::from(regs.rax > -4096_i64 as u64));
        }
        _ => {}
    }
    bytes
}
