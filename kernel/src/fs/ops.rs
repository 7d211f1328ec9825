//! What is behind an open file: the operations that a subsystem implements, a tmpfs file as a pipe or a terminal.
//!
//! Users: [`super::File`], which calls them. Locks: none; each operation says whether it may sleep.

use super::inode::DirSink;
use super::types::{Attr, Kind, OpenFlags, PollEvents, StatFs};
use super::{File, IoDst, IoSrc, Path};
use crate::room::Text;
use crate::task::Task;
use crate::vm::Mappable;
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use umbel_abi::linux::uapi;
use umbel_smp::wait::PollTable;

/// What an open knows, for those who make [`FileOps`].
pub struct OpenContext<'a> {
    /// What is opened.
    pub path: &'a Path,
    pub flags: OpenFlags,
    /// Who opens; `None` for the kernel.
    pub task: Option<&'a Arc<Task>>,
}

/// The operations of an open file. All may sleep unless they say otherwise.
#[allow(unused_variables)]
pub trait FileOps: Send + Sync + Any {
    /// Reads at the file's position; 0 = end of file. Streams override this, seekable files [`Self::read_at`].
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        let mut pos = file.pos.lock();
        let count = self.read_at(file, dst, *pos)?;
        *pos += count as u64;
        Ok(count)
    }

    /// Writes at the file's position, or at the end with `O_APPEND`.
    fn write(&self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut pos = file.pos.lock();
        let (count, end) = if file.flags().contains(OpenFlags::APPEND) {
            self.append(file, src)?
        } else {
            let count = self.write_at(file, src, *pos)?;
            (count, *pos + count as u64)
        };
        *pos = end;
        Ok(count)
    }

    /// Reads at `offset`. Not called for files without a position by those who name one.
    fn read_at(&self, file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at `offset`, as [`Self::read_at`].
    fn write_at(&self, file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at the end; returns the count and the new end.
    fn append(&self, file: &File, src: &mut IoSrc<'_>) -> Result<(usize, u64)> {
        let end = self.attr(file)?.size;
        let count = self.write_at(file, src, end)?;
        Ok((count, end + count as u64))
    }

    /// Whether the file has a position: false for pipes, sockets and ttys, whose seeks are `ESPIPE`.
    fn seekable(&self) -> bool {
        false
    }

    /// Moves the position.
    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        if !self.seekable() {
            return Err(Errno::ESPIPE);
        }
        let size = match whence {
            Whence::End | Whence::Data | Whence::Hole => self.attr(file)?.size,
            Whence::Set | Whence::Current => 0,
        };
        file.seek_within(whence, offset, size)
    }

    /// Registers with `table`, if there is one, and then says what is ready now.
    fn poll(&self, file: &File, table: Option<&mut PollTable>) -> PollEvents {
        PollEvents::READABLE | PollEvents::WRITABLE
    }

    /// Whether there is anything to wait for (epoll(7)).
    fn pollable(&self, file: &File) -> bool {
        !file.inode().is_some_and(|inode| matches!(inode.kind(), Kind::Regular | Kind::Directory | Kind::Block))
    }

    /// Whether splice(2) moves data from and to it.
    fn splices(&self) -> bool {
        self.seekable()
    }

    /// The open file that opening `/proc/PID/fd/N` of `file` gives, if it has no name. `ENXIO` for what cannot be opened.
    fn reopen(&self, _file: &Arc<File>, _flags: OpenFlags) -> Result<Arc<File>> {
        Err(Errno::ENXIO)
    }

    /// A request of ioctl(2) that is not common to all files.
    fn ioctl(&self, task: &Arc<Task>, file: &File, cmd: u32, arg: u64) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// A command of fcntl(2) that is not common to all files: pipe sizes, seals.
    fn fcntl(&self, task: &Arc<Task>, file: &File, command: u32, arg: u64) -> Result<u64> {
        Err(Errno::EINVAL)
    }

    /// Lists entries of a directory, `.` and `..` excluded; see [`super::Inode::readdir`].
    fn readdir(&self, file: &File, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        file.inode().ok_or(Errno::ENOTDIR)?.readdir(pos, sink)
    }

    /// What mmap(2) maps.
    fn mappable(&self, file: &File) -> Result<Arc<dyn Mappable>> {
        Err(Errno::ENODEV)
    }

    /// Attributes, for fstat(2).
    fn attr(&self, file: &File) -> Result<Attr> {
        match file.path() {
            Some(path) => path.attr(),
            None => Ok(Attr::new(Kind::Fifo, 0o600, file.id())),
        }
    }

    /// Facts of the file system, for fstatfs(2).
    fn statfs(&self, file: &File) -> Result<StatFs> {
        file.path().map_or_else(|| Ok(StatFs::default()), |path| path.mount().fs().statfs())
    }

    /// Preallocates or punches (fallocate(2)); `mode` has Linux's `FALLOC_FL_*` bits.
    fn allocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        Err(if self.seekable() { Errno::EOPNOTSUPP } else { Errno::ESPIPE })
    }

    /// Changes the size (ftruncate(2)).
    fn truncate(&self, file: &File, size: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// Makes changes durable.
    fn fsync(&self, file: &File) -> Result<()> {
        Ok(())
    }

    /// Called when a descriptor is closed, before its reference goes.
    fn flush(&self, file: &File) -> Result<()> {
        Ok(())
    }

    /// Whether nobody waits for the last close of one that is open for reading: see [`super::plain`].
    fn closes_plainly(&self) -> bool {
        false
    }

    /// Called when what a descriptor closes is the last reference, which goes then. May sleep.
    fn last_close(&self, file: &File) {}

    /// Called when the last reference goes. Must not sleep.
    fn release(&self, file: &File) {}

    /// Called when the flags change by fcntl(2).
    fn flags_changed(&self, file: &File, flags: OpenFlags) {}

    /// What /proc/PID/fd/N shows for a file without a name: `pipe:[4026]`.
    fn describe(&self, file: &File) -> String {
        String::from("anon_inode:[file]")
    }

    /// Lines of /proc/PID/fdinfo/N after those of all files.
    fn fdinfo(&self, file: &File, out: &mut Text) {}

    /// For subsystems to find their own type again (see [`File::ops_as`]).
    fn as_any(&self) -> &dyn Any;
}

/// `whence` of lseek(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    Set,
    Current,
    End,
    Data,
    Hole,
}

impl Whence {
    /// From the argument of lseek(2).
    pub const fn from_raw(raw: u32) -> Option<Whence> {
        Some(match raw {
            uapi::SEEK_SET => Whence::Set,
            uapi::SEEK_CUR => Whence::Current,
            uapi::SEEK_END => Whence::End,
            uapi::SEEK_DATA => Whence::Data,
            uapi::SEEK_HOLE => Whence::Hole,
            _ => return None,
        })
    }
}
