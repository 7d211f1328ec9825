//! Linux's asynchronous I/O: requests as guests write them. Source: io_submit(2) and its companions.

use super::io::{self, RWF_APPEND, RWF_DONTCACHE, RWF_HARMLESS, RWF_NOAPPEND, RWF_NOWAIT};
use super::poll::with_mask;
use super::{Fd, args};
use crate::fs::{File, IoDst, IoSrc, Kind, PollEvents};
use crate::ipc::aio::{self, Event, Place};
use crate::ipc::eventfd::EventFd;
use crate::task::Task;
use crate::vm::Space;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use umbel_abi::linux::uapi as nr;
use umbel_mm::io::{IoVec, MAX_RW, read_iovecs};
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_io_setup, io_setup(count: u32, context: UserAddr) => io_setup, Full;
    nr::__NR_io_destroy, io_destroy(context: u64) => io_destroy, Full;
    nr::__NR_io_submit, io_submit(context: u64, count: i64, requests: UserAddr) => io_submit, Partial("IOCB_CMD_POLL does not see what a signalfd would read");
    nr::__NR_io_cancel, io_cancel(context: u64, request: UserAddr, result: UserAddr) => io_cancel, Full;
    nr::__NR_io_getevents, io_getevents(context: u64, min: i64, max: i64, events: UserAddr, timeout: UserAddr) => io_getevents, Full;
    nr::__NR_io_pgetevents, io_pgetevents(context: u64, min: i64, max: i64, events: UserAddr, timeout: UserAddr, mask: UserAddr) => io_pgetevents, Full;
}

const CMD_PREAD: u16 = 0;
const CMD_PWRITE: u16 = 1;
const CMD_FSYNC: u16 = 2;
const CMD_FDSYNC: u16 = 3;
const CMD_POLL: u16 = 5;
const CMD_PREADV: u16 = 7;
const CMD_PWRITEV: u16 = 8;
/// `IOCB_FLAG_RESFD`, `IOCB_FLAG_IOPRIO`.
const FLAG_RESFD: u32 = 1;
const FLAG_IOPRIO: u32 = 2;

/// `struct iocb`.
#[derive(Clone, Copy, Debug)]
struct Request {
    addr: u64,
    data: u64,
    rw_flags: u32,
    command: u16,
    priority: u16,
    fd: Fd,
    buf: UserAddr,
    len: u64,
    offset: i64,
    flags: u32,
    notify: Fd,
}

impl Request {
    fn read(addr: u64) -> Result<Request> {
        let [data, key, what, buf, len, offset, reserved, last]: [u64; 8] = user::read_val(UserAddr(addr))?;
        // The key is the kernel's, the reserved word nobody's yet.
        if reserved != 0 || len > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        Ok(Request {
            addr,
            data,
            rw_flags: (key >> 32) as u32,
            command: what as u16,
            priority: (what >> 16) as u16,
            fd: Fd((what >> 32) as i32),
            buf: UserAddr(buf),
            len,
            offset: offset as i64,
            flags: last as u32,
            notify: Fd((last >> 32) as i32),
        })
    }

    /// The guest memory that is read or written.
    fn pieces(&self, vectored: bool) -> Result<Vec<IoVec>> {
        if vectored {
            return read_iovecs(self.buf, usize::try_from(self.len).map_err(|_| Errno::EINVAL)?);
        }
        let len = (self.len as usize).min(MAX_RW);
        user::access_ok(self.buf, len)?;
        Ok(vec![IoVec { addr: self.buf, len: len as u64 }])
    }

    /// Nothing but a descriptor, and for a poll what is asked of it, may be given.
    fn check_bare(&self) -> Result<()> {
        if self.len != 0 || self.offset != 0 || self.rw_flags != 0 { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

fn space(task: &Task) -> Result<Arc<Space>> {
    task.space().ok_or(Errno::EINVAL)
}

fn io_setup(task: &Arc<Task>, count: u32, out: UserAddr) -> Result<()> {
    let old: u64 = user::read_val(out)?;
    if old != 0 || count == 0 {
        return Err(Errno::EINVAL);
    }
    let space = space(task)?;
    let name = aio::create(&space, count)?;
    user::write_val(out, &name).inspect_err(|_| {
        // Made just now; whoever else destroyed it did the work.
        let _ = aio::destroy(&space, name);
    })
}

fn io_destroy(task: &Arc<Task>, context: u64) -> Result<()> {
    aio::destroy(&*space(task)?, context)
}

fn io_submit(task: &Arc<Task>, context: u64, count: i64, requests: UserAddr) -> Result<u64> {
    let count = args::non_negative(count)?;
    let context = aio::find(&*space(task)?, context)?;
    for index in 0..count.min(context.capacity() as u64) {
        let submit = || {
            let addr: u64 = user::read_val(UserAddr(requests.0.wrapping_add(8 * index)))?;
            let request = Request::read(addr)?;
            submit(task, &request, context.begin(request.data, addr)?)
        };
        match submit() {
            Err(errno) if index == 0 => return Err(errno),
            Err(_) => return Ok(index),
            Ok(()) => {}
        }
    }
    Ok(count.min(context.capacity() as u64))
}

fn submit(task: &Arc<Task>, request: &Request, place: Place) -> Result<()> {
    let file = io::file(task, request.fd)?;
    let notify = match request.flags & FLAG_RESFD {
        0 => None,
        _ => Some(task.files()?.get(request.notify)?),
    };
    if notify.as_ref().is_some_and(|file| file.ops_as::<EventFd>().is_none()) {
        return Err(Errno::EINVAL);
    }
    // The key that io_cancel(2) asks for.
    user::write_val(UserAddr(request.addr.wrapping_add(8)), &0_u32)?;
    if request.command == CMD_POLL {
        return submit_poll(request, place, file, notify);
    }
    let result = match request.command {
        CMD_PREAD | CMD_PREADV => read(task, &file, request)?,
        CMD_PWRITE | CMD_PWRITEV => write(task, &file, request)?,
        CMD_FSYNC | CMD_FDSYNC => sync(&file, request)?,
        _ => return Err(Errno::EINVAL),
    };
    place.complete(result.map_err(final_errno), notify.as_ref());
    Ok(())
}

/// A request is not made again: what would restart a call has been interrupted for good.
fn final_errno(errno: Errno) -> Errno {
    match errno {
        Errno::ERESTARTSYS | Errno::ERESTARTNOINTR | Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK => {
            Errno::EINTR
        }
        errno => errno,
    }
}

fn submit_poll(request: &Request, place: Place, file: Arc<File>, notify: Option<Arc<File>>) -> Result<()> {
    request.check_bare()?;
    let wanted = u16::try_from(request.buf.0).map_err(|_| Errno::EINVAL)?;
    aio::poll::submit(place, file, PollEvents::from_bits_truncate(u32::from(wanted)), notify)
}

/// What a submission of reading or writing checks first.
fn check_transfer(request: &Request, file: &File, allowed: bool, flags: u32) -> Result<()> {
    if !allowed {
        return Err(Errno::EBADF);
    }
    if file.is_dir() || request.offset < 0 {
        return Err(Errno::EINVAL);
    }
    // Classes above "idle" do not exist; who may be real-time is not asked, for no class has an effect.
    if request.flags & FLAG_IOPRIO != 0 && request.priority >> 13 > 3 {
        return Err(Errno::EINVAL);
    }
    if request.rw_flags & !flags != 0 { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

/// Reads: what is wrong with the request, or what it comes to.
fn read(task: &Arc<Task>, file: &File, request: &Request) -> Result<Result<usize>> {
    check_transfer(request, file, file.flags().readable(), RWF_HARMLESS | RWF_NOWAIT | RWF_DONTCACHE)?;
    let mut dst = IoDst::user_pieces(request.pieces(request.command == CMD_PREADV)?);
    if request.rw_flags & RWF_NOWAIT != 0 && io::would_wait(file)? {
        return Ok(Err(Errno::EAGAIN));
    }
    let seekable = file.ops().seekable();
    let result = if seekable { file.read_at(&mut dst, request.offset as u64) } else { file.read(&mut dst) };
    Ok(io::note_read(task, result))
}

/// Writes, as [`read`].
fn write(task: &Arc<Task>, file: &File, request: &Request) -> Result<Result<usize>> {
    let flags = RWF_HARMLESS | RWF_APPEND | RWF_NOAPPEND | RWF_DONTCACHE;
    check_transfer(request, file, file.flags().writable(), flags)?;
    let append = request.rw_flags & RWF_APPEND != 0;
    let placed = request.rw_flags & (RWF_APPEND | RWF_NOAPPEND) != 0;
    if append && request.rw_flags & RWF_NOAPPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let pieces = request.pieces(request.command == CMD_PWRITEV)?;
    let at = request.offset as u64;
    let seekable = file.ops().seekable();
    let write = || {
        let start = if append { file.attr()?.size } else { at };
        let mut src = IoSrc::user_pieces(io::clipped(task, file, Some(start), pieces)?);
        match seekable {
            true if placed => file.write_placed(&mut src, Some(at), append),
            true => file.write_at(&mut src, at),
            false => file.write(&mut src),
        }
    };
    Ok(io::note_write(task, write()))
}

fn sync(file: &File, request: &Request) -> Result<Result<usize>> {
    request.check_bare()?;
    let synced =
        file.inode().is_some_and(|inode| matches!(inode.kind(), Kind::Regular | Kind::Directory | Kind::Block));
    if request.buf.0 != 0 || !synced {
        return Err(Errno::EINVAL);
    }
    Ok(file.ops().fsync(file).map(|()| 0))
}

fn io_cancel(task: &Arc<Task>, context: u64, request: UserAddr, _result: UserAddr) -> Result<()> {
    let key: u32 = user::read_val(UserAddr(request.0.wrapping_add(8)))?;
    if key != 0 {
        return Err(Errno::EINVAL);
    }
    aio::find(&*space(task)?, context)?.cancel(request.0)
}

/// The deadline that a timeout gives; none = for ever.
fn read_timeout(timeout: UserAddr) -> Result<Option<u64>> {
    if timeout.is_null() {
        return Ok(None);
    }
    Ok(Some(aio::deadline(user::read_val(timeout)?)))
}

fn events(task: &Arc<Task>, context: u64, [min, max]: [i64; 2], to: UserAddr, deadline_ns: Option<u64>) -> Result<u64> {
    const _: () = assert!(size_of::<Event>() == 32);
    let context = aio::find(&*space(task)?, context)?;
    if min > max {
        return Err(Errno::EINVAL);
    }
    let (min, max) = (args::non_negative(min)?, args::non_negative(max)?);
    context.events(task, to, [min, max], deadline_ns)
}

fn io_getevents(task: &Arc<Task>, context: u64, min: i64, max: i64, to: UserAddr, timeout: UserAddr) -> Result<u64> {
    events(task, context, [min, max], to, read_timeout(timeout)?)
}

fn io_pgetevents(
    task: &Arc<Task>,
    context: u64,
    min: i64,
    max: i64,
    to: UserAddr,
    timeout: UserAddr,
    mask: UserAddr,
) -> Result<u64> {
    let deadline_ns = read_timeout(timeout)?;
    let [mask, size]: [u64; 2] = if mask.is_null() { [0, 0] } else { user::read_val(mask)? };
    with_mask(task, mask, size, || match events(task, context, [min, max], to, deadline_ns) {
        Err(Errno::EINTR) => Err(Errno::ERESTARTNOHAND),
        result => result,
    })
}
