//! Open files: the description that descriptors refer to; what is behind it is in [`super::ops`].
//!
//! A [`File`] is what POSIX calls an open file description: flags and position, shared by all descriptors that came
//! from one open(2). Files without a name (pipes, sockets) are made by [`File::anonymous`].
//!
//! Locks: `pos` (sleeping, rank FilePosition) is held during reads and writes at the position of seekable files.

use super::fanotify::{self, mask};
use super::inode::{DirEntry, DirSink};
use super::notify::{self, Events};
use super::sigio::Owner;
use super::types::{Attr, Kind, OpenFlags, PollEvents};
use super::{FileOps, IoDst, IoSrc, Path, Whence};
use crate::vm::Mappable;
use crate::{Errno, Result};
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use umbel_smp::lock::{Mutex, Once, Rank};
use umbel_smp::wait::PollTable;

/// An open file description.
pub struct File {
    ops: Arc<dyn FileOps>,
    /// Immutable; `None` for files without a name.
    path: Option<Path>,
    /// Status flags ([`OpenFlags`]) without the creation flags.
    flags: AtomicU32,
    /// The position, and the directory's record position for directories.
    pub(crate) pos: Mutex<u64>,
    /// Who gets SIGIO.
    owner: Owner,
    /// The open made the file (`F_CREATED_QUERY`).
    created: AtomicBool,
    id: u64,
    /// See [`Self::hush`].
    quiet: AtomicBool,
    /// Rights that the opener's sandbox does not have to it, of those that are asked for later.
    forbidden: AtomicU32,
    /// Held by files open for writing that could run.
    _writing: Option<super::Writing>,
}

/// Flags that are not kept after the open.
const CREATION: OpenFlags =
    OpenFlags::CREAT.union(OpenFlags::EXCL).union(OpenFlags::NOCTTY).union(OpenFlags::TRUNC).union(OpenFlags::CLOEXEC);

/// Flags that `F_SETFL` changes.
const SETTABLE: OpenFlags = OpenFlags::APPEND
    .union(OpenFlags::NONBLOCK)
    .union(OpenFlags::ASYNC)
    .union(OpenFlags::DIRECT)
    .union(OpenFlags::NOATIME);

impl File {
    /// An open file of `path`.
    pub fn new(path: Path, ops: Arc<dyn FileOps>, flags: OpenFlags) -> Arc<File> {
        Self::build(Some(path), ops, flags, None)
    }

    /// As [`Self::new`], noted as a writer.
    pub(super) fn for_writing(
        path: Path,
        ops: Arc<dyn FileOps>,
        flags: OpenFlags,
        writing: Option<super::Writing>,
    ) -> Arc<File> {
        Self::build(Some(path), ops, flags, writing)
    }

    /// An open file without a name: a pipe's end, a socket, an eventfd.
    pub fn anonymous(ops: Arc<dyn FileOps>, flags: OpenFlags) -> Arc<File> {
        Self::build(None, ops, flags, None)
    }

    fn build(
        path: Option<Path>,
        ops: Arc<dyn FileOps>,
        flags: OpenFlags,
        writing: Option<super::Writing>,
    ) -> Arc<File> {
        OPEN.fetch_add(1, Relaxed);
        if let Some(path) = &path {
            path.mount().used();
            path.inode().busy().filter(|_| !flags.contains(OpenFlags::PATH)).into_iter().for_each(super::Busy::opened);
        }
        if let Some(mount) = written_mount(path.as_ref(), flags) {
            mount.writers.fetch_add(1, Relaxed);
        }
        Arc::new(File {
            ops,
            path,
            flags: AtomicU32::new(flags.difference(CREATION).bits()),
            pos: Mutex::new(Rank::FilePosition, 0),
            owner: Owner::new(),
            created: AtomicBool::new(false),
            id: super::next_ino(),
            quiet: AtomicBool::new(false),
            forbidden: AtomicU32::new(0),
            _writing: writing,
        })
    }

    /// Whoever has it may not use it in these ways ([`crate::landlock::right`]).
    pub(super) fn forbid(&self, rights: u32) {
        self.forbidden.fetch_or(rights, Relaxed);
    }

    /// Checks that it may be used in this way, which the open did not ask for.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check_right(&self, right: u32) -> Result<()> {
        if self.forbidden.load(Relaxed) & right == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Its operations.
    pub fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// Its operations, if they are of type `T`.
    pub fn ops_as<T: FileOps>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    /// Where it was opened.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_ref()
    }

    /// The inode it was opened from.
    pub fn inode(&self) -> Option<super::InodeRef> {
        self.path.as_ref().map(|path| path.inode().clone())
    }

    /// The status flags now.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Whether `O_NONBLOCK` is set now.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// Changes the flags that `F_SETFL` may change.
    pub fn set_flags(&self, flags: OpenFlags) {
        let new = self.flags().difference(SETTABLE) | flags.intersection(SETTABLE);
        self.flags.store(new.bits(), Relaxed);
        self.ops.flags_changed(self, new);
    }

    /// Who is told when it can be read or written.
    pub fn async_owner(&self) -> &Owner {
        &self.owner
    }

    /// Whether the open(2) that it comes from made the file.
    pub fn is_created(&self) -> bool {
        self.created.load(Relaxed)
    }

    /// Notes that its open made the file.
    pub(super) fn mark_created(&self) {
        self.created.store(true, Relaxed);
    }

    /// The position now.
    pub fn position(&self) -> u64 {
        *self.pos.lock()
    }

    /// A number no other file of this boot has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.path.as_ref().is_some_and(|path| path.inode().kind() == Kind::Directory)
    }

    /// Whether nobody waits for its close, if nobody else knows it: see [`super::plain`].
    pub(super) fn is_plain(&self) -> bool {
        !self.flags().writable() && self.ops.closes_plainly()
    }

    /// Reads at the position. `EBADF` unless open for reading.
    pub fn read(&self, dst: &mut IoDst<'_>) -> Result<usize> {
        self.require(self.flags().readable())?;
        self.permit_read()?;
        let wanted = dst.remaining();
        let count = self.ops.read(self, dst)?;
        self.was_read(wanted, count);
        Ok(count)
    }

    /// Writes at the position or the end. `EBADF` unless open for writing.
    pub fn write(&self, src: &mut IoSrc<'_>) -> Result<usize> {
        self.require(self.flags().writable())?;
        let count = self.ops.write(self, src)?;
        self.notify(count, Events::MODIFY);
        Ok(count)
    }

    /// Reads at `offset`.
    pub fn read_at(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        self.require(self.flags().readable())?;
        self.permit_read()?;
        let wanted = dst.remaining();
        let count = self.ops.read_at(self, dst, offset)?;
        self.was_read(wanted, count);
        Ok(count)
    }

    /// Writes at `offset`; at the end with `O_APPEND`, as Linux's pwrite(2) does.
    pub fn write_at(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize> {
        self.require(self.flags().writable())?;
        let count = if self.flags().contains(OpenFlags::APPEND) && self.ops.seekable() {
            self.ops.append(self, src)?.0
        } else {
            self.ops.write_at(self, src, offset)?
        };
        self.notify(count, Events::MODIFY);
        Ok(count)
    }

    /// Writes at the end (`RWF_APPEND`), or at `at` or the position whatever the flags say (`RWF_NOAPPEND`).
    pub fn write_placed(&self, src: &mut IoSrc<'_>, at: Option<u64>, append: bool) -> Result<usize> {
        self.require(self.flags().writable())?;
        if !self.ops.seekable() {
            return self.write(src);
        }
        let count = match at {
            Some(_) if append => self.ops.append(self, src)?.0,
            Some(at) => self.ops.write_at(self, src, at)?,
            None => {
                let mut pos = self.pos.lock();
                let (count, end) = if append {
                    self.ops.append(self, src)?
                } else {
                    let count = self.ops.write_at(self, src, *pos)?;
                    (count, *pos + count as u64)
                };
                *pos = end;
                count
            }
        };
        self.notify(count, Events::MODIFY);
        Ok(count)
    }

    /// Reads all of `buf` at `offset` unless the file ends; for the program loader.
    pub fn read_kernel(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let count = self.ops.read_at(self, &mut IoDst::kernel(rest), offset + done as u64)?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    /// Lists a directory from the position on, `.` and `..` first; `root` is the caller's root directory.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOENT` for a removed directory.
    pub fn list(&self, root: &Path, sink: &mut DirSink<'_>) -> Result<()> {
        let path = self.path.as_ref().filter(|path| path.is_dir()).ok_or(Errno::ENOTDIR)?;
        self.require(self.flags().readable())?;
        if path.is_deleted() {
            return Err(Errno::ENOENT);
        }
        self.permit_read()?;
        let mut pos = self.pos.lock();
        while let Some(name) = [b".".as_slice(), b".."].get(*pos as usize) {
            let ino = if *pos == 0 {
                path.attr()?.ino
            } else {
                path.parent(root).unwrap_or_else(|_| path.clone()).attr()?.ino
            };
            if !sink(&DirEntry { name, ino, kind: Kind::Directory, next: *pos + 1 }) {
                return Ok(());
            }
            *pos += 1;
        }
        *pos = self.ops.readdir(self, *pos, sink)?;
        self.was_read(1, 1);
        Ok(())
    }

    /// Attributes.
    pub fn attr(&self) -> Result<Attr> {
        self.ops.attr(self)
    }

    /// What is ready, after registering with `table`.
    pub fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if self.flags().contains(OpenFlags::PATH) {
            return PollEvents::NVAL;
        }
        self.ops.poll(self, table)
    }

    /// What mmap(2) maps.
    pub fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        self.ops.mappable(self)
    }

    /// Moves the position of a seekable file of `size` bytes; holes are not told from data.
    pub fn seek_within(&self, whence: Whence, offset: i64, size: u64) -> Result<u64> {
        let mut pos = self.pos.lock();
        let size = i64::try_from(size).map_err(|_| Errno::EOVERFLOW)?;
        let new = match whence {
            Whence::Set => offset,
            Whence::Current => offset.checked_add(*pos as i64).ok_or(Errno::EINVAL)?,
            Whence::End => offset.checked_add(size).ok_or(Errno::EINVAL)?,
            Whence::Data if offset < 0 || offset >= size => return Err(Errno::ENXIO),
            Whence::Data => offset,
            Whence::Hole if offset < 0 || offset >= size => return Err(Errno::ENXIO),
            Whence::Hole => size,
        };
        *pos = u64::try_from(new).map_err(|_| Errno::EINVAL)?;
        Ok(*pos)
    }

    /// The same of a file that has no end until it is read.
    pub fn seek_endless(&self, whence: Whence, offset: i64) -> Result<u64> {
        match whence {
            Whence::Set | Whence::Current => self.seek_within(whence, offset, 0),
            Whence::End | Whence::Data | Whence::Hole => Err(Errno::EINVAL),
        }
    }

    /// Moves the access time: the file is read, or mapped.
    pub fn accessed(&self) {
        if let Some(path) = self.path.as_ref().filter(|_| !self.flags().contains(OpenFlags::NOATIME)) {
            path.accessed();
        }
    }

    /// Moves the access time, at the end of the file too, and tells watches of bytes that were read.
    fn was_read(&self, wanted: usize, count: usize) {
        if wanted > 0 {
            self.accessed();
        }
        self.notify(count, Events::ACCESS);
    }

    /// Nobody is told what is done with this file: a listener of fanotify(7) looks at what it was told of.
    pub(super) fn hush(&self) {
        self.quiet.store(true, Relaxed);
    }

    /// Asks listeners whether the file may be read.
    fn permit_read(&self) -> Result<()> {
        match &self.path {
            Some(path) if !self.quiet.load(Relaxed) => fanotify::permit(path, mask::ACCESS_PERM),
            _ => Ok(()),
        }
    }

    /// Tells watches, if `count` bytes were moved.
    pub fn notify(&self, count: usize, events: Events) {
        if count > 0
            && !self.quiet.load(Relaxed)
            && let Some(path) = &self.path
        {
            notify::used(path, events);
        }
    }

    fn require(&self, allowed: bool) -> Result<()> {
        if allowed { Ok(()) } else { Err(Errno::EBADF) }
    }
}

/// Open files of the machine.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// How many files are open (fs.file-nr).
pub fn open_files() -> usize {
    OPEN.load(Relaxed)
}

/// The mount that an open file of `path` keeps writable.
fn written_mount(path: Option<&Path>, flags: OpenFlags) -> Option<&Arc<super::Mount>> {
    let writes = |path: &&Path| flags.writable() && path.inode().kind() == Kind::Regular;
    path.filter(writes).map(Path::mount)
}

impl Drop for File {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Relaxed);
        let flags = self.flags();
        if !flags.contains(OpenFlags::PATH) {
            self.notify(1, if flags.writable() { Events::CLOSE_WRITE } else { Events::CLOSE_NOWRITE });
        }
        if let Some(mount) = written_mount(self.path.as_ref(), flags) {
            mount.writers.fetch_sub(1, Relaxed);
        }
        super::lock::release_description(self);
        super::lease::release(self);
        if let Some(path) = self.path.as_ref().filter(|_| !flags.contains(OpenFlags::PATH)) {
            path.inode().busy().into_iter().for_each(super::Busy::closed);
        }
        let ops = self.ops.clone();
        ops.release(self);
    }
}

/// The operations of an open directory: all of them are the inode's.
pub struct DirOps;

impl FileOps for DirOps {
    fn closes_plainly(&self) -> bool {
        true
    }

    fn read(&self, _: &File, _: &mut IoDst<'_>) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn read_at(&self, _: &File, _: &mut IoDst<'_>, _: u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn splices(&self) -> bool {
        false
    }

    /// Positions are those that readdir gave out; the end is not known.
    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        file.seek_within(whence, offset, i64::MAX as u64)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DirOps {
    /// The one instance: it has no state.
    pub fn shared() -> Arc<dyn FileOps> {
        static SHARED: Once<Arc<dyn FileOps>> = Once::new();
        SHARED.call_once(|| Arc::new(DirOps)).clone()
    }
}

/// The operations of a file opened with `O_PATH`: it is a place and nothing else.
pub struct PathOps;

impl PathOps {
    /// The one instance: it has no state.
    pub fn shared() -> Arc<dyn FileOps> {
        static SHARED: Once<Arc<dyn FileOps>> = Once::new();
        SHARED.call_once(|| Arc::new(PathOps)).clone()
    }
}

impl FileOps for PathOps {
    fn seek(&self, _: &File, _: Whence, _: i64) -> Result<u64> {
        Err(Errno::EBADF)
    }

    fn readdir(&self, _: &File, _: u64, _: &mut DirSink<'_>) -> Result<u64> {
        Err(Errno::EBADF)
    }

    fn mappable(&self, _: &File) -> Result<Arc<dyn Mappable>> {
        Err(Errno::EBADF)
    }

    fn fsync(&self, _: &File) -> Result<()> {
        Err(Errno::EBADF)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
