//! Watching files. Semantics: [`crate::fs::inotify`]; sources: inotify_init(2), inotify_add_watch(2), inotify_rm_watch(2).

use super::fs::{AtFlags, path_at};
use super::{Fd, UserStr};
use crate::fs::inotify::{self, How, Inotify};
use crate::fs::{File, OpenFlags, notify};
use crate::task::{Task, User};
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi as nr;

rows! {
    nr::__NR_inotify_init, inotify_init() => inotify_init, Full;
    nr::__NR_inotify_init1, inotify_init1(flags: u32) => inotify_init1, Full;
    nr::__NR_inotify_add_watch, inotify_add_watch(fd: Fd, path: UserStr, mask: u32) => inotify_add_watch,
        Partial("changes that the host makes by itself are not seen");
    nr::__NR_inotify_rm_watch, inotify_rm_watch(fd: Fd, wd: i32) => inotify_rm_watch, Full;
}

fn inotify_init(task: &Arc<Task>) -> Result<Fd> {
    inotify_init1(task, 0)
}

fn inotify_init1(task: &Arc<Task>, flags: u32) -> Result<Fd> {
    let allowed = OpenFlags::NONBLOCK | OpenFlags::CLOEXEC;
    let flags = OpenFlags::from_bits(flags).filter(|flags| allowed.contains(*flags)).ok_or(Errno::EINVAL)?;
    super::ipc::install(task, inotify::new(&User::of(task.cred().euid), flags & OpenFlags::NONBLOCK)?, flags)
}

fn instance(task: &Arc<Task>, fd: Fd) -> Result<Arc<File>> {
    let file = task.files()?.get(fd)?;
    if file.ops_as::<Inotify>().is_some() { Ok(file) } else { Err(Errno::EINVAL) }
}

fn inotify_add_watch(task: &Arc<Task>, fd: Fd, path: UserStr, mask: u32) -> Result<i32> {
    let how = How::from_bits_truncate(mask);
    if mask & (inotify::ALL | (How::all()).bits()) == 0 {
        return Err(Errno::EINVAL);
    }
    task.files()?.get(fd)?;
    if how.contains(How::MASK_ADD | How::MASK_CREATE) {
        return Err(Errno::EINVAL);
    }
    let file = instance(task, fd)?;
    let flags = if how.contains(How::DONT_FOLLOW) { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    let path = path_at(task, Fd::CWD, path, flags)?;
    if how.contains(How::ONLYDIR) && !path.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    notify::check(&**path.inode(), &task.cred())?;
    file.ops_as::<Inotify>().ok_or(Errno::EINVAL)?.watch(&path, mask)
}

fn inotify_rm_watch(task: &Arc<Task>, fd: Fd, wd: i32) -> Result<()> {
    instance(task, fd)?.ops_as::<Inotify>().ok_or(Errno::EINVAL)?.remove(wd)
}
