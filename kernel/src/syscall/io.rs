//! System calls on descriptors: reading, writing, positions, duplicates, locks, flags.
//!
//! Sources: the man pages of the calls.

use super::Fd;
use super::Pid;
use crate::fs::lease::Lease;
use crate::fs::notify::Events;
use crate::fs::{
    File, InodeFlags, IoDst, IoSrc, Kind, OnExec, OpenFlags, PollEvents, Whence, dnotify, lease, lock, sigio,
};
use crate::signal;
use crate::task::Task;
use crate::task::ns::pid::{caller_sees, of_caller};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec;
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
    nr::__NR_close, close(fd: Fd) => close, Full;
    nr::__NR_close_range, close_range(first: u32, last: u32, flags: u32) => close_range, Full;
    nr::__NR_dup, dup(fd: Fd) => dup, Full;
    nr::__NR_dup2, dup2(fd: Fd, new: Fd) => dup2, Full;
    nr::__NR_dup3, dup3(fd: Fd, new: Fd, flags: u32) => dup3, Full;
    nr::__NR_fcntl, fcntl(fd: Fd, command: u32, arg: u64) => fcntl, Full;
    nr::__NR_flock, flock(fd: Fd, operation: u32) => flock, Full;
    nr::__NR_ioctl, ioctl(fd: Fd, request: u32, arg: u64) => ioctl, Full;
    nr::__NR_fsync, fsync(fd: Fd) => fsync, Full;
    nr::__NR_fdatasync, fdatasync(fd: Fd) => fsync, Full;
    nr::__NR_ftruncate, ftruncate(fd: Fd, length: i64) => ftruncate, Full;
    nr::__NR_fallocate, fallocate(fd: Fd, mode: u32, offset: i64, length: i64) => fallocate, Full;
    nr::__NR_fadvise64, fadvise64(fd: Fd, offset: i64, length: i64, advice: u32) => fadvise64, Full;
    nr::__NR_readahead, readahead(fd: Fd, offset: i64, count: usize) => readahead, Full;
    nr::__NR_sendfile, sendfile(out: Fd, input: Fd, offset: UserAddr, count: usize) => sendfile, Full;
    nr::__NR_copy_file_range, copy_file_range(input: Fd, in_offset: UserAddr, out: Fd, out_offset: UserAddr, count: usize, flags: u32) => copy_file_range, Full;
}

/// Bytes that sendfile(2) and copy_file_range(2) move at once.
const CHUNK: usize = 64 << 10;
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

fn offset(raw: i64) -> Result<u64> {
    u64::try_from(raw).map_err(|_| Errno::EINVAL)
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
fn within_limit(task: &Arc<Task>, file: &File, at: Option<u64>, count: usize) -> Result<usize> {
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
    signal::send_to_task(task, signal::SigInfo::kernel(signal::SIGXFSZ));
    Err(Errno::EFBIG)
}

fn pread64(task: &Arc<Task>, fd: Fd, buf: UserAddr, count: usize, at: i64) -> Result<usize> {
    let at = offset(at)?;
    let result = seekable(&*file(task, fd)?)?.read_at(&mut user_dst(buf, count)?, at);
    note_read(task, result)
}

fn pwrite64(task: &Arc<Task>, fd: Fd, buf: UserAddr, count: usize, at: i64) -> Result<usize> {
    let at = offset(at)?;
    let file = file(task, fd)?;
    let count = within_limit(task, seekable(&file)?, Some(at), count)?;
    let result = file.write_at(&mut user_src(buf, count)?, at);
    note_write(task, result)
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
    let (file, at) = (file(task, fd)?, offset(at)?);
    let result = seekable(&file)?.read_at(&mut IoDst::user_pieces(read_iovecs(iov, count)?), at);
    note_read(task, result)
}

fn pwritev(task: &Arc<Task>, fd: Fd, iov: UserAddr, count: usize, at: i64) -> Result<usize> {
    let (file, at) = (file(task, fd)?, offset(at)?);
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
        at => Some(offset(at)?),
    };
    let pieces = clipped(task, &file, start, read_iovecs(iov, count)?)?;
    file.write_placed(&mut IoSrc::user_pieces(pieces), u64::try_from(at).ok(), append)
}

fn lseek(task: &Arc<Task>, fd: Fd, at: i64, whence: u32) -> Result<u64> {
    let file = file(task, fd)?;
    let whence = Whence::from_raw(whence).ok_or(Errno::EINVAL)?;
    file.ops().seek(&file, whence, at)
}

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
            file.set_flags(OpenFlags::from_bits_truncate(arg as u32));
            sigio::update(&file, fd).map(|()| 0)
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
            if !(sigio::OWNER_TID..=sigio::OWNER_PGRP).contains(&kind) || id < 0 {
                return Err(Errno::EINVAL);
            }
            let id = of_caller(id).0;
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
            lease::set(task, &file, fd, wanted).map(|()| 0)
        }
        F_NOTIFY => dnotify::set(task, &file, fd, arg as u32).map(|()| 0),
        F_GETOWN => Ok(i64::from(shown_owner(&file)) as u64),
        F_SETOWN => set_owner(&file, arg as i32).map(|()| 0),
        F_GETLK | F_OFD_GETLK => get_lock(task, &file, command, UserAddr(arg)),
        F_SETLK | F_SETLKW | F_OFD_SETLK | F_OFD_SETLKW => set_lock(task, &file, command, UserAddr(arg)),
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
fn only_grows(file: &File) -> bool {
    file.inode().is_some_and(|inode| inode.flags().contains(InodeFlags::APPEND))
}

/// Sets who is told of `file`, a group if negative.
///
/// # Errors
/// `EINVAL`.
pub(crate) fn set_owner(file: &File, owner: i32) -> Result<()> {
    if owner == i32::MIN {
        return Err(Errno::EINVAL);
    }
    let id = of_caller(owner.abs()).0;
    let kind = if owner < 0 { sigio::OWNER_PGRP } else { sigio::OWNER_PID };
    file.async_owner().set(id * owner.signum(), kind);
    Ok(())
}

fn lease_number(lease: Option<Lease>) -> u32 {
    lease.map_or(F_UNLCK, |lease| if lease == Lease::Read { F_RDLCK } else { F_WRLCK })
}

/// Highest signal number.
const SIGNALS: u32 = 64;

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
    Ok((offset(first)?, offset(last)?))
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

fn get_lock(task: &Arc<Task>, file: &File, command: u32, at: UserAddr) -> Result<u64> {
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

fn set_lock(task: &Arc<Task>, file: &File, command: u32, at: UserAddr) -> Result<u64> {
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

fn flock(task: &Arc<Task>, fd: Fd, operation: u32) -> Result<()> {
    /// `LOCK_MAND`, which Linux takes and ignores.
    const MANDATORY: u32 = 32;
    let file = file(task, fd)?;
    if operation & MANDATORY != 0 {
        return Ok(());
    }
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
        file.set_flags(if on { flags | flag } else { flags - flag });
        Ok(0)
    };
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
        FICLONE => clone_blocks(task, &file, Fd(arg as i32)),
        FICLONERANGE => clone_blocks(task, &file, Fd(user::read_val::<i64>(UserAddr(arg))? as i32)),
        _ => file.ops().ioctl(task, &file, request, arg),
    }
}

/// `FICLONE` and `FICLONERANGE`: no file system here shares blocks between files.
fn clone_blocks(task: &Arc<Task>, to: &File, from: Fd) -> Result<u64> {
    let from = file(task, from)?;
    if !from.flags().readable() || !to.flags().writable() || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    match (from.attr()?.kind, to.attr()?.kind) {
        (Kind::Directory, _) | (_, Kind::Directory) => Err(Errno::EISDIR),
        (Kind::Regular, Kind::Regular) if !same_file_system(&from, to) => Err(Errno::EXDEV),
        (Kind::Regular, Kind::Regular) => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

fn fsync(task: &Arc<Task>, fd: Fd) -> Result<()> {
    let file = file(task, fd)?;
    let device = file.inode().is_some_and(|inode| inode.kind() == Kind::Char);
    if device || !file.ops().seekable() && !file.is_dir() {
        return Err(Errno::EINVAL);
    }
    file.ops().fsync(&file)
}

fn ftruncate(task: &Arc<Task>, fd: Fd, length: i64) -> Result<()> {
    let (file, length) = (file(task, fd)?, offset(length)?);
    if !file.flags().writable() {
        return Err(Errno::EINVAL);
    }
    if only_grows(&file) {
        return Err(Errno::EPERM);
    }
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

/// Where a transfer reads or writes: at a position of its own, given and taken back by address, or the file's.
enum Place {
    Own(u64),
    File,
}

impl Place {
    fn read(at: UserAddr) -> Result<Place> {
        if at.is_null() { Ok(Place::File) } else { offset(user::read_val(at)?).map(Place::Own) }
    }

    fn write_back(&self, at: UserAddr) -> Result<()> {
        match self {
            Place::Own(position) => user::write_val(at, &(*position as i64)),
            Place::File => Ok(()),
        }
    }

    fn input(&mut self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        match self {
            Place::File => file.read(dst),
            Place::Own(position) => {
                let count = file.read_at(dst, *position)?;
                *position += count as u64;
                Ok(count)
            }
        }
    }

    fn output(&mut self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        match self {
            Place::File => file.write(src),
            Place::Own(position) => {
                let count = file.write_at(src, *position)?;
                *position += count as u64;
                Ok(count)
            }
        }
    }

    /// Un-reads bytes that could not be written.
    fn step_back(&mut self, file: &File, count: usize) {
        match self {
            Place::Own(position) => *position -= count as u64,
            // A seekable file takes it; of a stream the bytes are gone, as on Linux.
            Place::File => drop(file.ops().seek(file, Whence::Current, -(count as i64))),
        }
    }
}

/// Moves up to `count` bytes. An error counts only if nothing was moved.
fn transfer(input: &File, from: &mut Place, output: &File, to: &mut Place, count: usize) -> Result<usize> {
    let mut chunk = vec![0; CHUNK.min(count)];
    let mut done = 0;
    while done < count {
        let want = chunk.len().min(count - done);
        let got = match from.input(input, &mut IoDst::kernel(&mut chunk[..want])) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let result = to.output(output, &mut IoSrc::kernel(&chunk[..got]));
        let put = *result.as_ref().unwrap_or(&0);
        done += put;
        crate::sched::cond_resched();
        if put < got {
            from.step_back(input, got - put);
            match result {
                Err(error) if done == 0 => return Err(error),
                _ => break,
            }
        }
    }
    Ok(done)
}

fn sendfile(task: &Arc<Task>, out: Fd, input: Fd, at: UserAddr, count: usize) -> Result<usize> {
    let (input, out) = (file(task, input)?, file(task, out)?);
    if !input.flags().readable() || !out.flags().writable() {
        return Err(Errno::EBADF);
    }
    if !input.ops().seekable() || out.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut from = Place::read(at)?;
    let count = within_limit(task, &out, None, count.min(MAX_RW))?;
    let moved = transfer(&input, &mut from, &out, &mut Place::File, count)?;
    from.write_back(at)?;
    Ok(moved)
}

fn copy_file_range(
    task: &Arc<Task>,
    input: Fd,
    in_at: UserAddr,
    out: Fd,
    out_at: UserAddr,
    count: usize,
    flags: u32,
) -> Result<usize> {
    let (input, out) = (file(task, input)?, file(task, out)?);
    if !input.flags().readable() || !out.flags().writable() || out.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    match (input.attr()?.kind, out.attr()?.kind) {
        (Kind::Directory, _) | (_, Kind::Directory) => return Err(Errno::EISDIR),
        (Kind::Regular, Kind::Regular) if flags == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    if !same_file_system(&input, &out) {
        return Err(Errno::EXDEV);
    }
    let (mut from, mut to) = (Place::read(in_at)?, Place::read(out_at)?);
    check_overlap(&input, &from, &out, &to, count)?;
    let start = if let Place::Own(at) = to { Some(at) } else { None };
    let count = within_limit(task, &out, start, count.min(MAX_RW))?;
    let moved = transfer(&input, &mut from, &out, &mut to, count)?;
    from.write_back(in_at)?;
    to.write_back(out_at)?;
    Ok(moved)
}

fn same_file_system(one: &File, other: &File) -> bool {
    match (one.path(), other.path()) {
        (Some(one), Some(other)) => one.mount().fs().dev() == other.mount().fs().dev(),
        _ => false,
    }
}

/// Within one file the ranges may not overlap, and neither may pass the largest offset.
fn check_overlap(input: &File, from: &Place, out: &File, to: &Place, count: usize) -> Result<()> {
    let start = |place: &Place, file: &File| match place {
        Place::Own(at) => *at,
        Place::File => file.position(),
    };
    let (from, to, count) = (start(from, input), start(to, out), count as u64);
    if from.checked_add(count).is_none() || to.checked_add(count).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let same = match (input.inode(), out.inode()) {
        (Some(one), Some(other)) => Arc::ptr_eq(&one, &other),
        _ => false,
    };
    let rest = input.attr()?.size.saturating_sub(from).min(count);
    if same && from < to + rest && to < from + rest { Err(Errno::EINVAL) } else { Ok(()) }
}
