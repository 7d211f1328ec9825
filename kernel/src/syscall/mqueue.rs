//! POSIX message queues. Semantics: [`crate::ipc::mqueue`]; sources: mq_open(2) and the other calls' man pages.

use super::{Fd, UserStr};
use crate::fs::{File, OpenFlags};
use crate::ipc::mqueue::{self, COOKIE, How, Mq, PRIO_MAX, Size};
use crate::net::netlink;
use crate::task::Task;
use crate::{Errno, Result, time};
use alloc::sync::Arc;
use alloc::vec::Vec;
use umbel_abi::linux::uapi as nr;
use umbel_mm::user::{UserAddr, copy_in, copy_out, read_val, write_val};

rows! {
    nr::__NR_mq_open, mq_open(name: UserStr, flags: OpenFlags, mode: u32, attr: UserAddr) => mq_open, Full;
    nr::__NR_mq_unlink, mq_unlink(name: UserStr) => mq_unlink, Full;
    nr::__NR_mq_timedsend, mq_timedsend(fd: Fd, text: UserAddr, len: u64, priority: u32, timeout: u64) => mq_timedsend, Full;
    nr::__NR_mq_timedreceive, mq_timedreceive(fd: Fd, text: UserAddr, room: u64, priority: UserAddr, timeout: u64) => mq_timedreceive, Full;
    nr::__NR_mq_notify, mq_notify(fd: Fd, event: UserAddr) => mq_notify, Full;
    nr::__NR_mq_getsetattr, mq_getsetattr(fd: Fd, new: UserAddr, old: UserAddr) => mq_getsetattr, Full;
}

fn read_name(name: UserStr) -> Result<Vec<u8>> {
    let name = name.read()?;
    match name.as_slice() {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        text if text.len() > 255 => Err(Errno::ENAMETOOLONG),
        text if text.contains(&b'/') => Err(Errno::EACCES),
        _ => Ok(name),
    }
}

fn mq_open(task: &Arc<Task>, name: UserStr, flags: OpenFlags, mode: u32, attr: UserAddr) -> Result<Fd> {
    let size = if flags.contains(OpenFlags::CREAT) && !attr.is_null() {
        let [_, messages, bytes, _]: [i64; 4] = read_val(attr)?;
        Some(Size { messages, bytes })
    } else {
        None
    };
    let name = read_name(name)?;
    let mode = mode & 0o777 & !task.fs()?.umask();
    let file = mqueue::open(task, &name, flags, mode, size)?;
    // A queue's descriptor never survives execve(2).
    super::ipc::install(task, file, flags | OpenFlags::CLOEXEC)
}

fn mq_unlink(task: &Arc<Task>, name: UserStr) -> Result<()> {
    mqueue::unlink(&read_name(name)?, &task.cred())
}

/// The queue behind a descriptor. `EBADF` if it is none.
fn queue(file: &File) -> Result<&Mq> {
    file.ops_as::<Mq>().ok_or(Errno::EBADF)
}

/// CLOCK_MONOTONIC of an absolute time of day.
fn deadline(timeout: u64) -> Result<Option<u64>> {
    if timeout == 0 {
        return Ok(None);
    }
    let left = time::read_timespec(timeout)?.saturating_sub(time::realtime_ns());
    Ok(Some(time::deadline_in(left)))
}

fn mq_timedsend(task: &Arc<Task>, fd: Fd, text: UserAddr, len: u64, priority: u32, timeout: u64) -> Result<()> {
    let deadline = deadline(timeout)?;
    if priority >= PRIO_MAX {
        return Err(Errno::EINVAL);
    }
    let file = task.files()?.get(fd)?;
    let queue = queue(&file)?;
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    if len > queue.max_size() as u64 {
        return Err(Errno::EMSGSIZE);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len as usize).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len as usize, 0);
    copy_in(&mut bytes, text)?;
    queue.send(&file, bytes.into_boxed_slice(), priority, deadline)
}

fn mq_timedreceive(
    task: &Arc<Task>,
    fd: Fd,
    text: UserAddr,
    room: u64,
    priority: UserAddr,
    timeout: u64,
) -> Result<usize> {
    let deadline = deadline(timeout)?;
    let file = task.files()?.get(fd)?;
    let queue = queue(&file)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    if room < queue.max_size() as u64 {
        return Err(Errno::EMSGSIZE);
    }
    let (bytes, its_priority) = queue.receive(&file, deadline)?;
    copy_out(text, &bytes)?;
    if !priority.is_null() {
        write_val(priority, &its_priority)?;
    }
    Ok(bytes.len())
}

umbel_mm::pod! {
    /// The first part of `struct sigevent`.
    struct EventArg {
        value: u64,
        signo: i32,
        notify: i32,
    }
}

fn mq_notify(task: &Arc<Task>, fd: Fd, event: UserAddr) -> Result<()> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD: i32 = 2;
    /// Highest signal number.
    const SIGNALS: i32 = 64;
    let wanted = if event.is_null() { None } else { Some(read_val::<EventArg>(event)?) };
    let how = match &wanted {
        Some(event) => match event.notify {
            SIGEV_NONE => How::Silent,
            SIGEV_SIGNAL if event.signo == 0 => How::Silent,
            SIGEV_SIGNAL if (1..=SIGNALS).contains(&event.signo) => How::Signal(event.signo as u32, event.value),
            SIGEV_THREAD => {
                let cookie: [u8; COOKIE] = read_val(UserAddr(event.value))?;
                let socket = task.files()?.get(Fd(event.signo))?;
                netlink::deliver(&socket, &[])?;
                How::Socket(socket, cookie)
            }
            _ => return Err(Errno::EINVAL),
        },
        None => How::Silent,
    };
    let file = task.files()?.get(fd)?;
    let queue = queue(&file)?;
    if wanted.is_none() {
        queue.forget(task.process().pid().0);
        return Ok(());
    }
    queue.notify(task.process(), how)
}

fn mq_getsetattr(task: &Arc<Task>, fd: Fd, new: UserAddr, old: UserAddr) -> Result<()> {
    const NONBLOCK: i64 = OpenFlags::NONBLOCK.bits() as i64;
    let wanted = if new.is_null() { None } else { Some(read_val::<[i64; 4]>(new)?) };
    if wanted.is_some_and(|[flags, ..]| flags & !NONBLOCK != 0) {
        return Err(Errno::EINVAL);
    }
    let file = task.files()?.get(fd)?;
    let [messages, bytes, count] = queue(&file)?.attributes();
    let flags = if file.nonblocking() { NONBLOCK } else { 0 };
    if let Some([flags, ..]) = wanted {
        let kept = file.flags().difference(OpenFlags::NONBLOCK);
        file.set_flags(if flags != 0 { kept | OpenFlags::NONBLOCK } else { kept });
    }
    if !old.is_null() {
        write_val(old, &[flags, messages, bytes, count, 0, 0, 0, 0])?;
    }
    Ok(())
}
