//! kcmp(2): whether two processes share something.

use super::{Fd, Pid};
use crate::ipc::sysv;
use crate::task::access::{Creds, may_access};
use crate::task::{self, Task};
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::cmp::Ordering;
use linux_raw_sys::general as nr;

rows! {
    nr::__NR_kcmp, kcmp(first: Pid, second: Pid, kind: u32, one: u64, other: u64) => kcmp, Partial("no epoll targets; semaphore adjustments by process");
}

const FILE: u32 = 0;
const VM: u32 = 1;
const FILES: u32 = 2;
const FS: u32 = 3;
const SIGHAND: u32 = 4;
const IO: u32 = 5;
const SYSVSEM: u32 = 6;

/// 0 the same, 1 and 2 an order that lasts as long as both do.
fn kcmp(task: &Arc<Task>, first: Pid, second: Pid, kind: u32, one: u64, other: u64) -> Result<u32> {
    let found = |pid: Pid| task::find_task(pid).ok_or(Errno::ESRCH);
    let (first, second) = (found(first)?, found(second)?);
    may_access(task, &first, Creds::Real)?;
    may_access(task, &second, Creds::Real)?;
    let file = |of: &Task, fd: u64| Ok(of.files()?.get(Fd(i32::try_from(fd).map_err(|_| Errno::EBADF)?))?.id());
    let order = match kind {
        FILE => file(&first, one)?.cmp(&file(&second, other)?),
        VM => order(first.space().as_ref(), second.space().as_ref()),
        FILES => order(first.files().ok().as_ref(), second.files().ok().as_ref()),
        FS => order(first.fs().ok().as_ref(), second.fs().ok().as_ref()),
        SIGHAND => first.process().signal.actions_id().cmp(&second.process().signal.actions_id()),
        // As on Linux, those who have no adjustments share that.
        SYSVSEM if !sysv::adjusts(first.process().pid().0) && !sysv::adjusts(second.process().pid().0) => {
            Ordering::Equal
        }
        SYSVSEM => order(Some(first.process()), Some(second.process())),
        // Nobody has an I/O context.
        IO => Ordering::Equal,
        _ => return Err(Errno::EINVAL),
    };
    Ok(match order {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    })
}

fn order<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> Ordering {
    one.map(Arc::as_ptr).cmp(&other.map(Arc::as_ptr))
}
