//! Locks on files as calls: flock(2) and the records of fcntl(2).

use super::args::non_negative;
use super::io::file;
use super::{Fd, Pid};
use crate::fs::{File, lock};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi::{self as nr, *};
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_flock, flock(fd: Fd, operation: u32) => flock, Full;
}

umbel_mm::pod! {
    /// `struct flock` of x86-64.
    struct FlockArg {
        kind: i16,
        whence: i16,
        pad: u32,
        start: i64,
        len: i64,
        pid: i32,
        pad2: u32,
    }
}

/// `F_GETLK`, `F_OFD_GETLK`: the first lock in the way of the one that stands at `at`.
pub(super) fn get(task: &Arc<Task>, file: &File, command: u32, at: UserAddr) -> Result<u64> {
    let mut request: FlockArg = user::read_val(at)?;
    let mode = match request.kind as u32 {
        F_RDLCK => lock::Mode::Shared,
        F_WRLCK => lock::Mode::Exclusive,
        _ => return Err(Errno::EINVAL),
    };
    match lock::conflict(file, &requested(task, file, command, &request, mode)?) {
        None => request.kind = F_UNLCK as i16,
        Some(other) => {
            request.kind = if other.mode == lock::Mode::Exclusive { F_WRLCK } else { F_RDLCK } as i16;
            request.whence = SEEK_SET as i16;
            request.start = other.first as i64;
            request.len = if other.last == lock::TO_THE_END { 0 } else { (other.last - other.first + 1) as i64 };
            request.pid = if other.pid == -1 { -1 } else { task.process().sees(Pid(other.pid)) };
        }
    }
    user::write_val(at, &request).map(|()| 0)
}

/// `F_SETLK`, `F_SETLKW` and their OFD kin: takes, or gives back, the lock that stands at `at`.
pub(super) fn set(task: &Arc<Task>, file: &File, command: u32, at: UserAddr) -> Result<u64> {
    let request: FlockArg = user::read_val(at)?;
    let (mode, allowed) = match request.kind as u32 {
        F_RDLCK => (lock::Mode::Shared, file.flags().readable()),
        F_WRLCK => (lock::Mode::Exclusive, file.flags().writable()),
        F_UNLCK => {
            let (first, last) = range(file, &request)?;
            lock::release(file, holder(task, file, command)?, first, last);
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL),
    };
    if !allowed {
        return Err(Errno::EBADF);
    }
    let wait = if matches!(command, F_SETLKW | F_OFD_SETLKW) { lock::Wait::Yes } else { lock::Wait::No };
    lock::take(file, requested(task, file, command, &request, mode)?, wait).map(|()| 0)
}

fn requested(task: &Arc<Task>, file: &File, command: u32, request: &FlockArg, mode: lock::Mode) -> Result<lock::Lock> {
    let (first, last) = range(file, request)?;
    let holder = holder(task, file, command)?;
    let pid = if matches!(holder, lock::Holder::Posix(_)) { task.process().pid().0 } else { -1 };
    if pid == -1 && request.pid != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(lock::Lock { holder, mode, first, last, pid })
}

fn holder(task: &Arc<Task>, file: &File, command: u32) -> Result<lock::Holder> {
    Ok(match command {
        F_GETLK | F_SETLK | F_SETLKW => lock::posix_holder(&*task.files()?),
        _ => lock::Holder::Description(file.id()),
    })
}

/// First and last byte of a request.
fn range(file: &File, request: &FlockArg) -> Result<(u64, u64)> {
    let base = match request.whence as u32 {
        SEEK_SET => 0,
        SEEK_CUR => file.position() as i64,
        SEEK_END => file.attr()?.size as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(request.start).ok_or(Errno::EOVERFLOW)?;
    let (first, last) = match request.len {
        0 => (start, lock::TO_THE_END as i64),
        len if len > 0 => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        len => (start.checked_add(len).ok_or(Errno::EINVAL)?, start - 1),
    };
    Ok((non_negative(first)?, non_negative(last)?))
}

fn flock(task: &Arc<Task>, fd: Fd, operation: u32) -> Result<()> {
    /// `LOCK_MAND`, which Linux takes and ignores.
    const MANDATORY: u32 = 32;
    let file = file(task, fd)?;
    if operation & MANDATORY != 0 {
        return Ok(());
    }
    task.files()?.spoil(&file);
    let holder = lock::Holder::Flock(file.id());
    let mode = match operation & !LOCK_NB {
        LOCK_SH => lock::Mode::Shared,
        LOCK_EX => lock::Mode::Exclusive,
        LOCK_UN => {
            lock::release(&file, holder, 0, lock::TO_THE_END);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL),
    };
    let wait = if operation & LOCK_NB != 0 { lock::Wait::No } else { lock::Wait::Yes };
    let whole = lock::Lock { holder, mode, first: 0, last: lock::TO_THE_END, pid: task.process().pid().0 };
    lock::take(&file, whole, wait)
}
