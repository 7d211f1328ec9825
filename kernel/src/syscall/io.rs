//! System calls that read, write and move the position.
//!
//! Sources: the man pages of the calls.

use super::Fd;
use super::args::non_negative;
use crate::fs::{File, IoDst, IoSrc, Kind, OpenFlags, PollEvents, Whence};
use crate::signal;
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::linux::uapi::{self as nr, *};
use umbel_mm::io::{IoVec, MAX_RW, read_iovecs};
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_read, read(fd: Fd, buf: UserAddr, count: usize) => read, Full;
    nr::__NR_write, write(fd: Fd, buf: Text, count: usize) => write, Full;
    nr::__NR_pread64, pread64(fd: Fd, buf: UserAddr, count: usize, offset: i64) => pread64, Full;
    nr::__NR_pwrite64, pwrite64(fd: Fd, buf: UserAddr, count: usize, offset: i64) => pwrite64, Full;
    nr::__NR_readv, readv(fd: Fd, iov: UserAddr, count: usize) => readv, Full;
    nr::__NR_writev, writev(fd: Fd, iov: UserAddr, count: usize) => writev, Full;
    nr::__NR_preadv, preadv(fd: Fd, iov: UserAddr, count: usize, offset: i64) => preadv, Full;
    nr::__NR_pwritev, pwritev(fd: Fd, iov: UserAddr, count: usize, offset: i64) => pwritev, Full;
    nr::__NR_preadv2, preadv2(fd: Fd, iov: UserAddr, count: usize, offset: i64, high: u64, flags: u32) => preadv2, Full;
    nr::__NR_pwritev2, pwritev2(fd: Fd, iov: UserAddr, count: usize, offset: i64, high: u64, flags: u32) => pwritev2, Partial("RWF_NOWAIT and RWF_ATOMIC are EOPNOTSUPP");
    nr::__NR_lseek, lseek(fd: Fd, offset: i64, whence: u32) => lseek, Full;
}

/// `RWF_HIPRI | RWF_DSYNC | RWF_SYNC`: nothing to do for files in memory.
pub(super) const RWF_HARMLESS: u32 = 0x1 | 0x2 | 0x4;

/// `RWF_NOWAIT`, `RWF_APPEND`, `RWF_NOAPPEND`, `RWF_DONTCACHE`.
pub(super) const RWF_NOWAIT: u32 = 0x8;
pub(super) const RWF_APPEND: u32 = 0x10;
pub(super) const RWF_NOAPPEND: u32 = 0x20;
pub(super) const RWF_DONTCACHE: u32 = 0x80;

/// Memory whose text `--strace` shows: as many bytes as the next argument says.
#[derive(Clone, Copy, Debug)]
struct Text(UserAddr);

impl super::FromArg for Text {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(Text(UserAddr(raw)))
    }
}

impl super::ArgFmt for Text {
    fn arg_fmt(&self, task: &Task, out: &mut alloc::string::String) {
        super::args::format_user_bytes(self.0, task.user.regs().rdx, out);
    }
}

/// The open file that a descriptor stands for; `EBADF` for one of `O_PATH` too.
pub(super) fn file(task: &Arc<Task>, fd: Fd) -> Result<Arc<File>> {
    let file = task.files()?.get(fd)?;
    if file.flags().contains(OpenFlags::PATH) { Err(Errno::EBADF) } else { Ok(file) }
}

fn user_dst(buf: UserAddr, count: usize) -> Result<IoDst<'static>> {
    let count = count.min(MAX_RW);
    user::access_ok(buf, count)?;
    Ok(IoDst::user(buf, count))
}

fn user_src(buf: UserAddr, count: usize) -> Result<IoSrc<'static>> {
    let count = count.min(MAX_RW);
    user::access_ok(buf, count)?;
    Ok(IoSrc::user(buf, count))
}

fn read(task: &Arc<Task>, fd: Fd, buf: UserAddr, count: usize) -> Result<usize> {
    let result = file(task, fd)?.read(&mut user_dst(buf, count)?);
    note_read(task, result)
}

/// Counts a call that read.
pub(super) fn note_read(task: &Task, result: Result<usize>) -> Result<usize> {
    let io = &task.process().io;
    io.reads.fetch_add(1, Relaxed);
    io.read_bytes.fetch_add(*result.as_ref().unwrap_or(&0) as u64, Relaxed);
    result
}

/// Counts a call that wrote.
pub(super) fn note_write(task: &Task, result: Result<usize>) -> Result<usize> {
    let io = &task.process().io;
    io.writes.fetch_add(1, Relaxed);
    io.written_bytes.fetch_add(*result.as_ref().unwrap_or(&0) as u64, Relaxed);
    result
}

fn write(task: &Arc<Task>, fd: Fd, buf: Text, count: usize) -> Result<usize> {
    let file = file(task, fd)?;
    let count = within_limit(task, &file, None, count)?;
    let result = file.write(&mut user_src(buf.0, count)?);
    note_write(task, result)
}

/// How many of `count` bytes at `at` (the position if `None`) fit below the caller's `RLIMIT_FSIZE`.
///
/// # Errors
/// `EFBIG`, with SIGXFSZ, if none does.
pub(super) fn within_limit(task: &Arc<Task>, file: &File, at: Option<u64>, count: usize) -> Result<usize> {
    let limit = task.process().limit(RLIMIT_FSIZE);
    if limit == u64::MAX || count == 0 || !file.inode().is_some_and(|inode| inode.kind() == Kind::Regular) {
        return Ok(count);
    }
    let at = match at {
        _ if file.flags().contains(OpenFlags::APPEND) => file.attr()?.size,
        Some(at) => at,
        None => file.position(),
    };
    check_size_limit(task, limit, at.saturating_add(1))?;
    Ok(count.min(usize::try_from(limit - at).unwrap_or(usize::MAX)))
}

/// Refuses a file of `size` bytes under `limit` (`RLIMIT_FSIZE`).
///
/// # Errors
/// `EFBIG`, with SIGXFSZ.
pub(super) fn check_size_limit(task: &Arc<Task>, limit: u64, size: u64) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    let cred = task.cred();
    let own = signal::SigInfo::kill(signal::SIGXFSZ, task.process().pid().0, cred.uid);
    signal::send_to_task(task, own);
    Err(Errno::EFBIG)
}

fn pread64(task: &Arc<Task>, fd: Fd, buf: UserAddr, count: usize, at: i64) -> Result<usize> {
    non_negative(at)?;
    let file = file(task, fd)?;
    let at = span(seekable(&file).map(|_| at)?, count)?;
    let result = file.read_at(&mut user_dst(buf, count)?, at);
    note_read(task, result)
}

fn pwrite64(task: &Arc<Task>, fd: Fd, buf: UserAddr, count: usize, at: i64) -> Result<usize> {
    non_negative(at)?;
    let file = file(task, fd)?;
    let at = span(seekable(&file).map(|_| at)?, count)?;
    let count = within_limit(task, &file, Some(at), count)?;
    let result = file.write_at(&mut user_src(buf, count)?, at);
    note_write(task, result)
}

/// A position from which `count` bytes are below the end of positions.
///
/// # Errors
/// `EINVAL`.
pub(super) fn span(at: i64, count: usize) -> Result<u64> {
    let at = non_negative(at)?;
    let end = i64::try_from(count).ok().and_then(|count| count.checked_add(at as i64));
    if end.is_some() { Ok(at) } else { Err(Errno::EINVAL) }
}

fn seekable(file: &File) -> Result<&File> {
    if file.ops().seekable() { Ok(file) } else { Err(Errno::ESPIPE) }
}

fn readv(task: &Arc<Task>, fd: Fd, iov: UserAddr, count: usize) -> Result<usize> {
    let file = file(task, fd)?;
    let result = file.read(&mut IoDst::user_pieces(read_iovecs(iov, count)?));
    note_read(task, result)
}

fn writev(task: &Arc<Task>, fd: Fd, iov: UserAddr, count: usize) -> Result<usize> {
    let file = file(task, fd)?;
    let pieces = clipped(task, &file, None, read_iovecs(iov, count)?)?;
    let result = file.write(&mut IoSrc::user_pieces(pieces));
    note_write(task, result)
}

/// The pieces of a write at `at` (the position if `None`) that fit below the caller's `RLIMIT_FSIZE`.
pub(super) fn clipped(task: &Arc<Task>, file: &File, at: Option<u64>, mut pieces: Vec<IoVec>) -> Result<Vec<IoVec>> {
    let total: u64 = pieces.iter().map(|piece| piece.len).sum();
    let mut room = within_limit(task, file, at, total as usize)? as u64;
    for piece in &mut pieces {
        piece.len = piece.len.min(room);
        room -= piece.len;
    }
    Ok(pieces)
}

fn preadv(task: &Arc<Task>, fd: Fd, iov: UserAddr, count: usize, at: i64) -> Result<usize> {
    let (file, at) = (file(task, fd)?, non_negative(at)?);
    let result = seekable(&file)?.read_at(&mut IoDst::user_pieces(read_iovecs(iov, count)?), at);
    note_read(task, result)
}

fn pwritev(task: &Arc<Task>, fd: Fd, iov: UserAddr, count: usize, at: i64) -> Result<usize> {
    let (file, at) = (file(task, fd)?, non_negative(at)?);
    let pieces = clipped(task, seekable(&file)?, Some(at), read_iovecs(iov, count)?)?;
    let result = file.write_at(&mut IoSrc::user_pieces(pieces), at);
    note_write(task, result)
}

fn preadv2(task: &Arc<Task>, fd: Fd, iov: UserAddr, count: usize, at: i64, _high: u64, flags: u32) -> Result<usize> {
    let file = file(task, fd)?;
    if flags & !(RWF_HARMLESS | RWF_NOWAIT | RWF_DONTCACHE) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags & RWF_NOWAIT != 0 && would_wait(&file)? {
        return Err(Errno::EAGAIN);
    }
    if at == -1 { readv(task, fd, iov, count) } else { preadv(task, fd, iov, count, at) }
}

/// Whether a read would have to wait. Files are in memory, or as good as; the rest is asked.
pub(super) fn would_wait(file: &File) -> Result<bool> {
    let regular = file.attr()?.kind == Kind::Regular;
    Ok(!regular && !file.poll(None).intersects(PollEvents::IN | PollEvents::HUP))
}

fn pwritev2(task: &Arc<Task>, fd: Fd, iov: UserAddr, count: usize, at: i64, _high: u64, flags: u32) -> Result<usize> {
    let file = file(task, fd)?;
    if flags & !(RWF_HARMLESS | RWF_APPEND | RWF_NOAPPEND | RWF_DONTCACHE) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let both = flags & RWF_APPEND != 0 && flags & RWF_NOAPPEND != 0;
    if at < -1 || both {
        return Err(Errno::EINVAL);
    }
    if flags & (RWF_APPEND | RWF_NOAPPEND) == 0 {
        return if at == -1 { writev(task, fd, iov, count) } else { pwritev(task, fd, iov, count, at) };
    }
    let append = flags & RWF_APPEND != 0;
    let start = match at {
        _ if append => Some(file.attr()?.size),
        -1 => None,
        at => Some(non_negative(at)?),
    };
    let pieces = clipped(task, &file, start, read_iovecs(iov, count)?)?;
    file.write_placed(&mut IoSrc::user_pieces(pieces), u64::try_from(at).ok(), append)
}

fn lseek(task: &Arc<Task>, fd: Fd, at: i64, whence: u32) -> Result<u64> {
    let file = file(task, fd)?;
    let whence = Whence::from_raw(whence).ok_or(Errno::EINVAL)?;
    file.ops().seek(&file, whence, at)
}
