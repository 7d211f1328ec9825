//! The sizes of files, and what is foretold of them. Sources: truncate(2), fallocate(2), posix_fadvise(2), readahead(2).

use super::args::non_negative;
use super::fd::only_grows;
use super::fs::{AtFlags, path_at};
use super::io::{check_size_limit, file};
use super::{Fd, UserStr};
use crate::fs::notify::{self, Events};
use crate::fs::{InodeFlags, Kind, OpenFlags, SetAttr, lease, perm};
use crate::ipc::pipe::PipeEnd;
use crate::landlock::right;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi::{self as nr, FALLOC_FL_KEEP_SIZE, RLIMIT_FSIZE};

rows! {
    nr::__NR_truncate, truncate(path: UserStr, size: i64) => truncate, Full;
    nr::__NR_ftruncate, ftruncate(fd: Fd, length: i64) => ftruncate, Full;
    nr::__NR_fallocate, fallocate(fd: Fd, mode: u32, offset: i64, length: i64) => fallocate, Full;
    nr::__NR_fadvise64, fadvise64(fd: Fd, offset: i64, length: i64, advice: u32) => fadvise64, Full;
    nr::__NR_readahead, readahead(fd: Fd, offset: i64, count: usize) => readahead, Full;
}

fn truncate(task: &Arc<Task>, path: UserStr, size: i64) -> Result<()> {
    let size = non_negative(size)?;
    let path = path_at(task, Fd::CWD, path, AtFlags::empty())?;
    match path.inode().kind() {
        Kind::Regular => {}
        Kind::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    path.mount().check_writable()?;
    perm::check(&**path.inode(), &task.cred(), perm::Want::WRITE)?;
    task.cred().sandbox.check(&path, right::TRUNCATE)?;
    perm::check_free(&**path.inode())?;
    lease::break_for(&path, OpenFlags::WRONLY)?;
    let _writing = crate::fs::Writing::new(path.inode())?;
    if size > path.attr()?.size {
        check_size_limit(task, task.process().limit(RLIMIT_FSIZE), size)?;
    }
    path.inode().set_attr(&SetAttr { size: Some(size), ..SetAttr::default() })?;
    notify::changed(path.dentry(), Events::MODIFY);
    Ok(())
}

fn ftruncate(task: &Arc<Task>, fd: Fd, length: i64) -> Result<()> {
    let (file, length) = (file(task, fd)?, non_negative(length)?);
    if !file.flags().writable() {
        return Err(Errno::EINVAL);
    }
    if only_grows(&file) {
        return Err(Errno::EPERM);
    }
    file.check_right(right::TRUNCATE)?;
    if length > file.attr()?.size {
        check_size_limit(task, task.process().limit(RLIMIT_FSIZE), length)?;
    }
    file.ops().truncate(&file, length)?;
    file.notify(1, Events::MODIFY);
    Ok(())
}

fn fallocate(task: &Arc<Task>, fd: Fd, mode: u32, start: i64, length: i64) -> Result<()> {
    let file = file(task, fd)?;
    if start < 0 || length <= 0 {
        return Err(Errno::EINVAL);
    }
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let immutable = file.inode().is_some_and(|inode| inode.flags().contains(InodeFlags::IMMUTABLE));
    if immutable || only_grows(&file) && mode & !FALLOC_FL_KEEP_SIZE != 0 {
        return Err(Errno::EPERM);
    }
    let kind = file.inode().map(|inode| inode.kind());
    if file.ops_as::<PipeEnd>().is_some() {
        return Err(Errno::ESPIPE);
    } else if !matches!(kind, Some(Kind::Regular | Kind::Directory | Kind::Block)) {
        return Err(Errno::ENODEV);
    }
    let end = start.checked_add(length).ok_or(Errno::EFBIG)? as u64;
    check_size_limit(task, task.process().limit(RLIMIT_FSIZE), end)?;
    file.ops().allocate(&file, mode, start as u64, length as u64)?;
    file.notify(1, Events::MODIFY);
    Ok(())
}

fn fadvise64(task: &Arc<Task>, fd: Fd, _offset: i64, length: i64, advice: u32) -> Result<()> {
    /// `POSIX_FADV_NOREUSE`, the last of them.
    const LAST_ADVICE: u32 = 5;
    let file = file(task, fd)?;
    if !file.ops().seekable() {
        return Err(Errno::ESPIPE);
    }
    if length < 0 || advice > LAST_ADVICE { Err(Errno::EINVAL) } else { Ok(()) }
}

fn readahead(task: &Arc<Task>, fd: Fd, _offset: i64, _count: usize) -> Result<()> {
    let file = file(task, fd)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    if file.attr()?.kind == Kind::Regular { Ok(()) } else { Err(Errno::EINVAL) }
}
