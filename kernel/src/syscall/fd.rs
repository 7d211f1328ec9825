//! System calls on descriptors themselves: closing, duplicates, flags, owners, leases, control.
//!
//! Sources: close(2), close_range(2), dup(2), fcntl(2), ioctl(2).

use super::io::file;
use super::{Fd, Pid};
use crate::fs::lease::Lease;
use crate::fs::{File, InodeFlags, Kind, OnExec, OpenFlags, dnotify, lease, lock, plain, sigio};
use crate::landlock::right;
use crate::task::ns::pid::{caller_sees, of_caller};
use crate::task::{Task, find_task, ids};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi::{self as nr, *};
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_close, close(fd: Fd) => close, Full;
    nr::__NR_close_range, close_range(first: u32, last: u32, flags: u32) => close_range, Full;
    nr::__NR_dup, dup(fd: Fd) => dup, Full;
    nr::__NR_dup2, dup2(fd: Fd, new: Fd) => dup2, Full;
    nr::__NR_dup3, dup3(fd: Fd, new: Fd, flags: u32) => dup3, Full;
    nr::__NR_fcntl, fcntl(fd: Fd, command: u32, arg: u64) => fcntl, Full;
    nr::__NR_ioctl, ioctl(fd: Fd, request: u32, arg: u64) => ioctl, Full;
}

/// Highest signal number.
const SIGNALS: u32 = 64;

fn close(task: &Arc<Task>, fd: Fd) -> Result<()> {
    task.files()?.close(fd)
}

fn close_range(task: &Arc<Task>, first: u32, last: u32, flags: u32) -> Result<()> {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if first > last || flags & !(UNSHARE | CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & UNSHARE != 0 {
        let own = task.files()?.duplicate()?;
        drop(task.replace_files(Some(own)));
    }
    let files = task.files()?;
    if flags & CLOEXEC != 0 {
        files.cloexec_range(first..=last);
    } else {
        files.close_range(first..=last);
    }
    Ok(())
}

fn limit(task: &Arc<Task>) -> u64 {
    task.process().limit(RLIMIT_NOFILE)
}

fn dup(task: &Arc<Task>, fd: Fd) -> Result<Fd> {
    let files = task.files()?;
    let file = files.get(fd)?;
    files.install(file, OnExec::Keep, limit(task))
}

fn dup2(task: &Arc<Task>, fd: Fd, new: Fd) -> Result<Fd> {
    if fd == new {
        return task.files()?.get(fd).map(|_| new);
    }
    duplicate_to(task, fd, new, OnExec::Keep)
}

fn dup3(task: &Arc<Task>, fd: Fd, new: Fd, flags: u32) -> Result<Fd> {
    if fd == new || flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    duplicate_to(task, fd, new, OnExec::close_if(flags & O_CLOEXEC != 0))
}

fn duplicate_to(task: &Arc<Task>, fd: Fd, new: Fd, on_exec: OnExec) -> Result<Fd> {
    let files = task.files()?;
    let file = files.get(fd)?;
    if let Some(old) = files.replace(new, file, on_exec, limit(task))? {
        lock::release_posix(&old, &files);
        // What flush says is lost, as in close(2)'s notes.
        let _ = old.ops().flush(&old);
    }
    Ok(new)
}

fn fcntl(task: &Arc<Task>, fd: Fd, command: u32, arg: u64) -> Result<u64> {
    let files = task.files()?;
    let file = files.get(fd)?;
    let path_only = file.flags().contains(OpenFlags::PATH);
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL | F_DUPFD_QUERY => {}
        F_SETLK | F_SETLKW => files.note_lock(),
        _ => files.spoil(&file),
    }
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let min = usize::try_from(arg as i32).map_err(|_| Errno::EINVAL)?;
            if min as u64 >= limit(task) {
                return Err(Errno::EINVAL);
            }
            let on_exec = OnExec::close_if(command == F_DUPFD_CLOEXEC);
            files.install_from(min, file, on_exec, limit(task)).map(|fd| fd.0 as u64)
        }
        F_GETFD => Ok(u64::from(files.on_exec(fd)? == OnExec::Close)),
        F_SETFD => files.set_on_exec(fd, OnExec::close_if(arg & 1 != 0)).map(|()| 0),
        F_GETFL => Ok(u64::from(file.flags().bits())),
        _ if path_only => Err(Errno::EBADF),
        F_SETFL if (arg as u32 ^ file.flags().bits()) & O_APPEND != 0 && only_grows(&file) => Err(Errno::EPERM),
        F_SETFL => {
            let before = file.flags();
            file.set_flags(OpenFlags::from_bits_truncate(arg as u32));
            // The descriptor that is told with signals stays the one by which the flag was set.
            let same = (before ^ file.flags()) & OpenFlags::ASYNC == OpenFlags::empty();
            if same { Ok(0) } else { sigio::update(&file, fd).map(|()| 0) }
        }
        F_GETSIG => Ok(u64::from(file.async_owner().signal())),
        F_SETSIG => {
            if arg > u64::from(SIGNALS) {
                return Err(Errno::EINVAL);
            }
            file.async_owner().set_signal(arg as u32);
            Ok(0)
        }
        F_GETOWN_EX => {
            user::write_val(UserAddr(arg), &[file.async_owner().kind(), shown_owner(&file).abs()]).map(|()| 0)
        }
        F_SETOWN_EX => {
            let [kind, id]: [i32; 2] = user::read_val(UserAddr(arg))?;
            if !(sigio::OWNER_TID..=sigio::OWNER_PGRP).contains(&kind) {
                return Err(Errno::EINVAL);
            }
            let id = existing(id, kind)?;
            file.async_owner().set(if kind == sigio::OWNER_PGRP { -id } else { id }, kind);
            Ok(0)
        }
        F_CREATED_QUERY => Ok(u64::from(file.is_created())),
        F_DUPFD_QUERY => Ok(u64::from(Arc::ptr_eq(&file, &files.get(Fd(arg as i32))?))),
        F_GETLEASE => Ok(u64::from(lease_number(lease::of(&file)))),
        F_SETLEASE => {
            let wanted = match arg as u32 {
                F_UNLCK => None,
                F_RDLCK => Some(Lease::Read),
                F_WRLCK => Some(Lease::Write),
                _ => return Err(Errno::EINVAL),
            };
            plain::settle();
            lease::set(task, &file, fd, wanted).map(|()| 0)
        }
        F_NOTIFY => dnotify::set(task, &file, fd, arg as u32).map(|()| 0),
        F_GETOWN => Ok(i64::from(shown_owner(&file)) as u64),
        F_SETOWN => set_owner(&file, arg as i32).map(|()| 0),
        F_GETLK | F_OFD_GETLK => super::lock::get(task, &file, command, UserAddr(arg)),
        F_SETLK | F_SETLKW | F_OFD_SETLK | F_OFD_SETLKW => super::lock::set(task, &file, command, UserAddr(arg)),
        // Pipe sizes and seals belong to what is behind the file.
        _ => file.ops().fcntl(task, &file, command, arg),
    }
}

/// Who is told of `file`, as the caller sees it: a group if negative.
pub(crate) fn shown_owner(file: &File) -> i32 {
    let owner = file.async_owner().id();
    caller_sees(Pid(owner.abs())) * owner.signum()
}

/// Whether the file may be appended to and nothing else.
pub(super) fn only_grows(file: &File) -> bool {
    file.inode().is_some_and(|inode| inode.flags().contains(InodeFlags::APPEND))
}

/// Sets who is told of `file`, a group if negative.
///
/// # Errors
/// `EINVAL`, `ESRCH`.
pub(crate) fn set_owner(file: &File, owner: i32) -> Result<()> {
    if owner == i32::MIN {
        return Err(Errno::EINVAL);
    }
    let kind = if owner < 0 { sigio::OWNER_PGRP } else { sigio::OWNER_PID };
    let id = existing(owner.abs(), kind)?;
    file.async_owner().set(id * owner.signum(), kind);
    Ok(())
}

/// The thread, process or group that the caller calls `number`; 0 = nobody.
fn existing(number: i32, kind: i32) -> Result<i32> {
    if number == 0 {
        return Ok(0);
    }
    let id = of_caller(number);
    let exists = match kind {
        sigio::OWNER_PGRP => !ids::find_pgrp(id).is_empty(),
        sigio::OWNER_TID => find_task(id).is_some(),
        _ => ids::find_process(id).is_some(),
    };
    if exists { Ok(id.0) } else { Err(Errno::ESRCH) }
}

fn lease_number(lease: Option<Lease>) -> u32 {
    lease.map_or(F_UNLCK, |lease| if lease == Lease::Read { F_RDLCK } else { F_WRLCK })
}

fn ioctl(task: &Arc<Task>, fd: Fd, request: u32, arg: u64) -> Result<u64> {
    const FIONCLEX: u32 = 0x5450;
    const FIOCLEX: u32 = 0x5451;
    const FIONBIO: u32 = 0x5421;
    const FIOASYNC: u32 = 0x5452;
    const FIOQSIZE: u32 = 0x5460;
    const FIONREAD: u32 = 0x541b;
    const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
    const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
    const FICLONE: u32 = 0x4004_9409;
    const FICLONERANGE: u32 = 0x4020_940d;
    let file = file(task, fd)?;
    let toggle = |flag: OpenFlags| -> Result<u64> {
        let on = user::read_val::<i32>(UserAddr(arg))? != 0;
        let flags = file.flags();
        task.files()?.spoil(&file);
        file.set_flags(if on { flags | flag } else { flags - flag });
        Ok(0)
    };
    let harmless =
        [FIOCLEX, FIONCLEX, FIONBIO, FIOASYNC, FIOQSIZE, FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FICLONE, FICLONERANGE];
    if !harmless.contains(&request) {
        file.check_right(right::IOCTL_DEV)?;
    }
    match request {
        FIOCLEX => task.files()?.set_on_exec(fd, OnExec::Close).map(|()| 0),
        FIONCLEX => task.files()?.set_on_exec(fd, OnExec::Keep).map(|()| 0),
        FIONBIO => toggle(OpenFlags::NONBLOCK),
        FIOASYNC => toggle(OpenFlags::ASYNC).and_then(|_| sigio::update(&file, fd).map(|()| 0)),
        FIOQSIZE if file.ops().seekable() => user::write_val(UserAddr(arg), &file.attr()?.size).map(|()| 0),
        FIONREAD if file.ops().seekable() && file.attr()?.kind == Kind::Regular => {
            let left = file.attr()?.size.saturating_sub(file.position());
            user::write_val(UserAddr(arg), &(left.min(i32::MAX as u64) as i32)).map(|()| 0)
        }
        FS_IOC_GETFLAGS => {
            let flags = file.inode().filter(|inode| inode.fs().name() != "proc").ok_or(Errno::ENOTTY)?.flags();
            user::write_val(UserAddr(arg), &flags.bits()).map(|()| 0)
        }
        FS_IOC_SETFLAGS => {
            let path = file.path().ok_or(Errno::ENOTTY)?;
            super::attr::set_inode_flags(task, path, user::read_val(UserAddr(arg))?).map(|()| 0)
        }
        FICLONE => super::sendfile::clone_blocks(task, &file, Fd(arg as i32)),
        FICLONERANGE => super::sendfile::clone_blocks(task, &file, Fd(user::read_val::<i64>(UserAddr(arg))? as i32)),
        _ => file.ops().ioctl(task, &file, request, arg),
    }
}
