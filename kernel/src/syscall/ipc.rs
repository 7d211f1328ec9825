//! Pipes, futexes.

use super::Fd;
use crate::fs::{File, OnExec, OpenFlags};
use crate::ipc::pipe;
use crate::task::Task;
use crate::{Errno, Result, futex};
use alloc::sync::Arc;
use linux_raw_sys::general as nr;
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_pipe, pipe(fds: u64) => pipe, Full;
    nr::__NR_pipe2, pipe2(fds: u64, flags: u32) => pipe2, Partial("O_DIRECT is taken, packets are not kept apart");
    nr::__NR_futex, futex(addr: u64, op: u32, value: u32, timeout: u64, addr2: u64, value3: u32) => futex_call, Partial("no priority inheritance");
}

/// Installs a new file; `flags` has `O_CLOEXEC` or not.
fn install(task: &Task, file: Arc<File>, flags: OpenFlags) -> Result<Fd> {
    let on_exec = OnExec::close_if(flags.contains(OpenFlags::CLOEXEC));
    task.files()?.install(file, on_exec, task.process().limit(nr::RLIMIT_NOFILE))
}

/// Installs two files and writes their descriptors to `out`; undoes all if that fails.
fn install_pair(task: &Task, pair: (Arc<File>, Arc<File>), flags: OpenFlags, out: u64) -> Result<()> {
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
