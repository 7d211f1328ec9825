//! Calls that a program handles itself, by where they are made. Source: prctl(2), `PR_SET_SYSCALL_USER_DISPATCH`;
//! Documentation/admin-guide/syscall-user-dispatch.rst of Linux.
//!
//! A call from outside the allowed range of addresses becomes SIGSYS, unless a byte that the program keeps says that calls
//! are allowed now. The run loop asks at every call, before tracers and filters. Neither children nor new programs keep it.

use super::{Task, WaitStatus, exit, seccomp};
use crate::signal::{SIGSEGV, SIGSYS, code};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use linux_raw_sys::prctl as pr;
use umbel_abi::machine::layout::USER_TOP;
use umbel_mm::UserAddr;
use umbel_mm::user::read_val;

/// Values of the program's byte.
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

/// What a thread has of it. Changed by the thread, or by a tracer while it is stopped.
#[derive(Debug, Default)]
pub struct UserDispatch {
    on: AtomicBool,
    /// The addresses from which calls are made.
    start: AtomicU64,
    len: AtomicU64,
    /// Address of the program's byte, 0 = none.
    selector: AtomicU64,
}

impl UserDispatch {
    /// Whether calls are to be looked at.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Mode, address of the byte, start and length, as `struct ptrace_sud_config` has them.
    pub fn config(&self) -> [u64; 4] {
        let [selector, start, len] = [&self.selector, &self.start, &self.len].map(|word| word.load(Relaxed));
        [u64::from(self.is_on()), selector, start, len]
    }
}

/// Sets it for `task`.
///
/// # Errors
/// `EINVAL`: an unknown mode, an empty or endless range, arguments without a use. `EFAULT`: the byte is not the program's.
pub fn set(task: &Task, [mode, selector, start, len]: [u64; 4]) -> Result<()> {
    let end = start.wrapping_add(len);
    let mode = u32::try_from(mode).map_err(|_| Errno::EINVAL)?;
    let (start, len) = match mode {
        pr::PR_SYS_DISPATCH_OFF if (selector, start, len) == (0, 0, 0) => (0, 0),
        pr::PR_SYS_DISPATCH_EXCLUSIVE_ON if start == 0 || end > start => (start, len),
        // The range that is not allowed: all the others are one that wraps around.
        pr::PR_SYS_DISPATCH_INCLUSIVE_ON if len != 0 && end > start => (end, len.wrapping_neg()),
        _ => return Err(Errno::EINVAL),
    };
    if selector >= USER_TOP {
        return Err(Errno::EFAULT);
    }
    let own = &task.dispatch;
    own.start.store(start, Relaxed);
    own.len.store(len, Relaxed);
    own.selector.store(selector, Relaxed);
    own.on.store(mode != pr::PR_SYS_DISPATCH_OFF, Relaxed);
    task.change_identity();
    Ok(())
}

/// For a new program: calls are made.
pub fn clear(task: &Task) {
    task.dispatch.on.store(false, Relaxed);
    task.change_identity();
}

/// Whether the call that `task` is about to make is the program's own affair. Then SIGSYS is on its way, or its end.
pub fn takes(task: &Arc<Task>) -> bool {
    let [_, selector, start, len] = task.dispatch.config();
    if task.user.regs().rip.wrapping_sub(start) < len {
        return false;
    }
    let says = if selector == 0 { Ok(BLOCK) } else { read_val::<u8>(UserAddr(selector)) };
    match says {
        Ok(ALLOW) => return false,
        Ok(BLOCK) => seccomp::send_sigsys(task, code::SYS_USER_DISPATCH, 0),
        Ok(_) => exit::group_exit(task.process(), WaitStatus::signaled(SIGSYS, false)),
        Err(_) => exit::group_exit(task.process(), WaitStatus::signaled(SIGSEGV, false)),
    }
    true
}
