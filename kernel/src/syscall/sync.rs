//! Telling that data is safe. Sources: fsync(2), sync(2), sync_file_range(2).

use super::Fd;
use super::io::file;
use crate::fs::Kind;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use umbel_abi::linux::uapi as nr;

rows! {
    nr::__NR_fsync, fsync(fd: Fd) => fsync, Full;
    nr::__NR_fdatasync, fdatasync(fd: Fd) => fsync, Full;
    nr::__NR_sync, sync() => sync, Full;
    nr::__NR_syncfs, syncfs(fd: Fd) => syncfs, Full;
    nr::__NR_sync_file_range, sync_file_range(fd: Fd, at: i64, count: i64, flags: u32) => sync_file_range, Full;
}

fn fsync(task: &Arc<Task>, fd: Fd) -> Result<()> {
    let file = file(task, fd)?;
    let device = file.inode().is_some_and(|inode| inode.kind() == Kind::Char);
    if device || !file.ops().seekable() && !file.is_dir() {
        return Err(Errno::EINVAL);
    }
    file.ops().fsync(&file)
}

/// Everything is in memory.
fn sync(_: &Arc<Task>) -> Result<()> {
    Ok(())
}

fn syncfs(task: &Arc<Task>, fd: Fd) -> Result<()> {
    task.files()?.get(fd).map(drop)
}

fn sync_file_range(task: &Arc<Task>, fd: Fd, at: i64, count: i64, flags: u32) -> Result<()> {
    let file = task.files()?.get(fd)?;
    if flags & !7 != 0 || at < 0 || count < 0 || at.checked_add(count).is_none() {
        return Err(Errno::EINVAL);
    }
    let kind = file.inode().map(|inode| inode.kind());
    let kept = matches!(kind, Some(Kind::Regular | Kind::Directory | Kind::Block | Kind::Symlink));
    if kept { Ok(()) } else { Err(Errno::ESPIPE) }
}
