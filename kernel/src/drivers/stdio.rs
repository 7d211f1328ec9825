//! Standard streams of the host that are no terminal: byte streams over rings, and regular files.

use super::ring::{InRing, OutRing};
use crate::fs::{Attr, File, FileOps, IoDst, IoSrc, Kind, OpenFlags, PollEvents, PollTable, Time, Whence, anon};
use crate::signal::{self, SIGPIPE, SigInfo};
use crate::{Errno, Result, task};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use umbel_abi::linux::uapi;
use umbel_abi::machine::StdioStat;
use umbel_host::file::{self as host, HostFd};
use umbel_smp::ring::Input;

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;

fn buffer(len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// What fstat(2) shows of a stream: the kind it has on the host.
fn stream_attr(mode: u32, file: &File) -> Attr {
    let kind = Kind::from_mode(mode).unwrap_or(Kind::Fifo);
    let mut attr = Attr::new(kind, mode & 0o7777, file.id());
    (attr.atime, attr.mtime, attr.ctime) = (Time::now(), Time::now(), Time::now());
    attr
}

fn describe(mode: u32, file: &File) -> String {
    let kind = if Kind::from_mode(mode) == Some(Kind::Socket) { "socket" } else { "pipe" };
    alloc::format!("{kind}:[{}]", file.id())
}

/// Standard input as a stream.
pub struct StreamIn {
    pub ring: &'static InRing,
    pub mode: u32,
}

impl FileOps for StreamIn {
    fn reopen(&self, file: &Arc<File>, flags: OpenFlags) -> Result<Arc<File>> {
        anon::same(file, flags)
    }

    fn splices(&self) -> bool {
        true
    }

    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let mut bytes = buffer(dst.remaining().min(CHUNK))?;
        loop {
            match self.ring.look() {
                Input::Ready(_) => {
                    let count = self.ring.pop(&mut bytes);
                    // Another reader may have been faster.
                    if count > 0 {
                        return dst.write(bytes.get(..count).unwrap_or_default());
                    }
                }
                Input::End => return Ok(0),
                Input::Failed(errno) => return Err(errno),
                Input::Empty if file.nonblocking() => return Err(Errno::EAGAIN),
                Input::Empty => self
                    .ring
                    .readers
                    .wait_interruptible(None, || (self.ring.look() != Input::Empty).then_some(()))
                    .map_err(|_| Errno::ERESTARTSYS)?,
            }
        }
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table
            && table.register(&self.ring.readers).is_err()
        {
            return PollEvents::ERR;
        }
        match self.ring.look() {
            Input::Ready(_) => PollEvents::READABLE,
            Input::Empty => PollEvents::empty(),
            Input::End => PollEvents::HUP,
            Input::Failed(_) => PollEvents::READABLE | PollEvents::ERR,
        }
    }

    fn ioctl(&self, _: &Arc<task::Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        if cmd != umbel_abi::linux::ioctl::FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let count = if let Input::Ready(count) = self.ring.look() { count as i32 } else { 0 };
        umbel_mm::user::write_val(umbel_mm::user::UserAddr(arg), &count).map(|()| 0)
    }

    fn attr(&self, file: &File) -> Result<Attr> {
        Ok(stream_attr(self.mode, file))
    }

    fn release(&self, _: &File) {
        self.ring.close();
    }

    fn describe(&self, file: &File) -> String {
        describe(self.mode, file)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Standard output or error as a stream.
pub struct StreamOut {
    pub ring: &'static OutRing,
    pub mode: u32,
}

impl StreamOut {
    /// Sends all of `bytes` or as much as goes; an error only if nothing went.
    fn send(&self, file: &File, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let step = match self.ring.push(bytes.get(done..).unwrap_or_default()) {
                Ok(0) if file.nonblocking() => Err(Errno::EAGAIN),
                Ok(0) => self.ring.wait_room().map_err(|_| Errno::ERESTARTSYS),
                Ok(count) => {
                    done += count;
                    Ok(())
                }
                Err(errno) => Err(errno),
            };
            match step {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

impl FileOps for StreamOut {
    fn reopen(&self, file: &Arc<File>, flags: OpenFlags) -> Result<Arc<File>> {
        anon::same(file, flags)
    }

    fn splices(&self) -> bool {
        true
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut bytes = buffer(src.remaining().min(CHUNK))?;
        let mut done = 0;
        while src.remaining() > 0 {
            let result = src.read(&mut bytes).and_then(|count| {
                let sent = self.send(file, bytes.get(..count).unwrap_or_default())?;
                Ok((sent, sent == count))
            });
            match result {
                Ok((sent, true)) => done += sent,
                Ok((sent, false)) => return Ok(done + sent),
                Err(Errno::EPIPE) => {
                    signal::send_to_task(&task::current(), SigInfo::kernel(SIGPIPE));
                    return if done > 0 { Ok(done) } else { Err(Errno::EPIPE) };
                }
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table
            && table.register(&self.ring.writers).is_err()
        {
            return PollEvents::ERR;
        }
        match self.ring.room() {
            Ok(0) => PollEvents::empty(),
            Ok(_) => PollEvents::WRITABLE,
            Err(_) => PollEvents::WRITABLE | PollEvents::ERR,
        }
    }

    fn attr(&self, file: &File) -> Result<Attr> {
        Ok(stream_attr(self.mode, file))
    }

    fn release(&self, _: &File) {
        self.ring.close();
    }

    fn describe(&self, file: &File) -> String {
        describe(self.mode, file)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A regular file of the host at its own position, which it shares with whoever else has it open there.
pub struct HostFile {
    fd: HostFd,
}

impl HostFile {
    /// The file of `stream`.
    pub fn new(stream: &StdioStat) -> HostFile {
        HostFile { fd: HostFd(stream.fd) }
    }
}

impl FileOps for HostFile {
    fn reopen(&self, file: &Arc<File>, flags: OpenFlags) -> Result<Arc<File>> {
        anon::same(file, flags)
    }

    fn read(&self, _: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        let mut bytes = buffer(dst.remaining().min(CHUNK))?;
        let mut done = 0;
        while dst.remaining() > 0 {
            let want = bytes.len().min(dst.remaining());
            let part = bytes.get_mut(..want).unwrap_or_default();
            match host::read(self.fd, part).and_then(|count| dst.write(part.get(..count).unwrap_or_default())) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn write(&self, _: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut bytes = buffer(src.remaining().min(CHUNK))?;
        let mut done = 0;
        while src.remaining() > 0 {
            let count = src.read(&mut bytes)?;
            match host::write(self.fd, bytes.get(..count).unwrap_or_default()) {
                Ok(written) if written == count => done += written,
                Ok(written) => return Ok(done + written),
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let mut bytes = buffer(dst.remaining().min(CHUNK))?;
        let count = host::read_at(self.fd, &mut bytes, offset)?;
        dst.write(bytes.get(..count).unwrap_or_default())
    }

    fn write_at(&self, _: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<usize> {
        let mut bytes = buffer(src.remaining().min(CHUNK))?;
        let count = src.read(&mut bytes)?;
        host::write_at(self.fd, bytes.get(..count).unwrap_or_default(), offset)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _: &File, whence: Whence, offset: i64) -> Result<u64> {
        let whence = match whence {
            Whence::Set => uapi::SEEK_SET,
            Whence::Current => uapi::SEEK_CUR,
            Whence::End => uapi::SEEK_END,
            Whence::Data => uapi::SEEK_DATA,
            Whence::Hole => uapi::SEEK_HOLE,
        };
        host::seek(self.fd, offset, whence)
    }

    fn attr(&self, file: &File) -> Result<Attr> {
        let stat = host::stat_at(self.fd, b"")?;
        let time = |t: uapi::statx_timestamp| Time { sec: t.tv_sec, ns: t.tv_nsec };
        let mut attr = Attr::new(Kind::Regular, u32::from(stat.stx_mode) & 0o7777, file.id());
        (attr.uid, attr.gid, attr.nlink) = (stat.stx_uid, stat.stx_gid, stat.stx_nlink);
        (attr.size, attr.blocks, attr.blksize) = (stat.stx_size, stat.stx_blocks, stat.stx_blksize);
        (attr.atime, attr.mtime, attr.ctime) = (time(stat.stx_atime), time(stat.stx_mtime), time(stat.stx_ctime));
        Ok(attr)
    }

    fn describe(&self, _: &File) -> String {
        String::from("/dev/host-file")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
