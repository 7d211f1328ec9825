//! Building blocks of procfs and sysfs: directories whose children, and text files whose contents, are made on demand.
//!
//! A [`DirSource`] lists and finds children; a [`TextFile`] gets its bytes from a closure at the first read after an
//! open (or after a seek to 0), and may take writes; a [`Link`] makes its target when it is read. Nothing here is cached:
//! all directories are volatile.

use super::inode::{DirEntry, DirSink, FileSystem, Inode, InodeRef, LinkTarget};
use super::types::{Attr, Kind, Mode, SetAttr, StatFs, Time};
use super::{File, FileOps, OpenContext, Whence};
use super::{IoDst, IoSrc, PollEvents, PollTable, next_dev, next_ino};
use crate::task::{self, Cred, Task};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Mutex, Once, Rank};
use umbel_smp::wait::WaitQueue;

/// What all pseudo inodes have.
pub struct Meta {
    fs: Weak<PseudoFs>,
    pub ino: u64,
    pub mode: Mode,
    pub uid: u32,
    pub gid: u32,
    /// Where a file ends for lseek(2) and stat(2); most have no end until they are read.
    end: Option<u64>,
}

impl Meta {
    /// Root's, with a new inode number.
    pub fn new(fs: &Arc<PseudoFs>, mode: Mode) -> Meta {
        Meta { fs: Arc::downgrade(fs), ino: next_ino(), mode, uid: 0, gid: 0, end: fs.end }
    }

    /// The same of a file that ends at `end`, whatever it holds.
    pub fn ending(mut self, end: u64) -> Meta {
        self.end = Some(end);
        self
    }

    /// The same, owned by others.
    pub fn owned(mut self, uid: u32, gid: u32) -> Meta {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// The same with a fixed inode number.
    pub fn numbered(mut self, ino: u64) -> Meta {
        self.ino = ino;
        self
    }

    pub(super) fn attr(&self, kind: Kind) -> Attr {
        let now = Time::now();
        let mut attr = Attr::new(kind, self.mode, self.ino);
        (attr.uid, attr.gid, attr.blksize) = (self.uid, self.gid, 1024);
        (attr.atime, attr.mtime, attr.ctime) = (now, now, now);
        if kind == Kind::Regular {
            attr.size = self.end.unwrap_or(0);
        }
        attr
    }

    pub(super) fn fs(&self) -> Arc<dyn FileSystem> {
        match self.fs.upgrade() {
            Some(fs) => fs,
            None => PseudoFs::new("none", 0),
        }
    }
}

/// A file system of pseudo inodes.
pub struct PseudoFs {
    name: &'static str,
    magic: u32,
    dev: u64,
    root: Once<InodeRef>,
    /// Where its files end, if they all do at one place.
    end: Option<u64>,
}

impl PseudoFs {
    /// An instance without a root.
    pub fn new(name: &'static str, magic: u32) -> Arc<PseudoFs> {
        Self::with_files(name, magic, None)
    }

    /// The same; its files end at `end`.
    pub fn with_files(name: &'static str, magic: u32, end: Option<u64>) -> Arc<PseudoFs> {
        Arc::new(PseudoFs { name, magic, dev: next_dev(), root: Once::new(), end })
    }

    /// Sets the root, once.
    pub fn set_root(&self, root: InodeRef) {
        // A second root changes nothing.
        let _ = self.root.set(root);
    }
}

impl FileSystem for PseudoFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> InodeRef {
        match self.root.get() {
            Some(root) => root.clone(),
            None => empty_dir(),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: self.magic, block_size: 4096, fsid: self.dev, ..StatFs::default() })
    }
}

/// The children of a generated directory.
pub trait DirSource: Send + Sync + 'static {
    /// Finds a child.
    fn lookup(&self, name: &[u8]) -> Result<InodeRef>;

    /// Directories in it that are counted as links.
    fn subdirs(&self) -> u32 {
        0
    }

    /// Lets the running task in whoever owns it.
    fn admits_caller(&self) -> bool {
        false
    }

    /// Calls `emit(position, name, ino, kind)` for each child whose position is at least `from`, ascending, until it says
    /// false. Positions are the source's own choice (an index, a pid).
    #[allow(clippy::type_complexity)] // A name for the closure's type would hide what it takes.
    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()>;
}

/// A directory without entries.
pub fn empty_dir() -> InodeRef {
    Dir::new(Meta::new(&PseudoFs::new("none", 0), 0o555), Empty)
}

struct Empty;

impl DirSource for Empty {
    fn lookup(&self, _: &[u8]) -> Result<InodeRef> {
        Err(Errno::ENOENT)
    }

    fn list(&self, _: u64, _: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        Ok(())
    }
}

/// A fixed list of children; [`StaticDir::add`] while building.
#[derive(Default)]
pub struct StaticDir(Vec<(String, InodeRef)>);

impl StaticDir {
    /// No children.
    pub fn new() -> StaticDir {
        StaticDir::default()
    }

    /// With one more child.
    pub fn add(mut self, name: &str, inode: InodeRef) -> StaticDir {
        self.0.push((String::from(name), inode));
        self
    }
}

impl DirSource for StaticDir {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let found = self.0.iter().find(|(own, _)| own.as_bytes() == name);
        found.map(|(_, inode)| inode.clone()).ok_or(Errno::ENOENT)
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        for (index, (name, inode)) in self.0.iter().enumerate().skip(from as usize) {
            if !emit(index as u64, name.as_bytes(), inode.attr()?.ino, inode.kind()) {
                break;
            }
        }
        Ok(())
    }
}

/// A directory with generated children.
pub struct Dir<S: DirSource> {
    meta: Meta,
    source: S,
}

impl<S: DirSource> Dir<S> {
    /// A directory of what `source` has.
    #[allow(clippy::new_ret_no_self)] // All constructors here make what a DirSource hands out.
    pub fn new(meta: Meta, source: S) -> InodeRef {
        Arc::new(Dir { meta, source })
    }
}

impl<S: DirSource> Dir<S> {
    /// What it shows.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: DirSource> Inode for Dir<S> {
    fn kind(&self) -> Kind {
        Kind::Directory
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        self.meta.fs()
    }

    fn attr(&self) -> Result<Attr> {
        let mut attr = self.meta.attr(Kind::Directory);
        attr.nlink = 2 + self.source.subdirs();
        Ok(attr)
    }

    fn admits_caller(&self) -> bool {
        self.source.admits_caller()
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        self.source.lookup(name)
    }

    fn readdir(&self, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        let mut next = pos;
        self.source.list(pos.saturating_sub(2), &mut |at, name, ino, kind| {
            let taken = sink(&DirEntry { name, ino, kind, next: at + 3 });
            if taken {
                next = at + 3;
            }
            taken
        })?;
        Ok(next)
    }

    fn open(self: Arc<Self>, _: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        Ok(super::file::DirOps::shared())
    }

    fn volatile(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes the text of a file.
pub type Generate = Box<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;
/// Takes what one write(2) wrote, and who opened the file.
pub type Accept = Box<dyn Fn(&Cred, &[u8]) -> Result<()> + Send + Sync>;

/// Answers a request of ioctl(2), given its number and argument.
pub type Request = fn(&Task, u32, u64) -> Result<u64>;

/// Refuses an open.
pub type Guard = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// Says how often what a file shows has changed.
pub type Changes = Box<dyn Fn() -> u64 + Send + Sync>;

/// How to wait for changes of a file: `POLLPRI` says that there was one since the last look.
pub struct Watched {
    pub changes: Changes,
    /// Woken after each.
    pub queue: Arc<WaitQueue>,
}

/// A file whose contents are made on demand.
pub struct TextFile {
    meta: Meta,
    generate: Arc<Generate>,
    accept: Option<Arc<Accept>>,
    watched: Option<Arc<Watched>>,
    request: Option<(Request, Whom)>,
    /// Says who may open it.
    guard: Option<Guard>,
}

/// Finds the task that a file is about.
pub type Whom = Arc<dyn Fn() -> Result<Arc<Task>> + Send + Sync>;

impl TextFile {
    /// A file that reads as what `generate` makes.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(meta: Meta, generate: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> InodeRef {
        Arc::new(Self::plain(meta, generate))
    }

    fn plain(meta: Meta, generate: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> TextFile {
        TextFile {
            meta,
            generate: Arc::new(Box::new(generate)),
            accept: None,
            watched: None,
            request: None,
            guard: None,
        }
    }

    /// The same, that also answers requests about a task, and which `guard` lets some open.
    pub fn answering(
        meta: Meta,
        generate: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        request: (Request, Whom),
        guard: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) -> InodeRef {
        let guard: Option<Guard> = Some(Box::new(guard));
        Arc::new(TextFile { request: Some(request), guard, ..Self::plain(meta, generate) })
    }

    /// The same, which `guard` lets some open.
    pub fn guarded(
        meta: Meta,
        generate: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        guard: impl Fn() -> Result<()> + Send + Sync + 'static,
    ) -> InodeRef {
        let guard: Option<Guard> = Some(Box::new(guard));
        Arc::new(TextFile { guard, ..Self::plain(meta, generate) })
    }

    /// The same, whose changes can be waited for.
    pub fn watched(
        meta: Meta,
        generate: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        watched: Watched,
    ) -> InodeRef {
        Arc::new(TextFile { watched: Some(Arc::new(watched)), ..Self::plain(meta, generate) })
    }

    /// The same, that also takes writes and whose changes can be waited for.
    pub fn watched_writable(
        meta: Meta,
        generate: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        accept: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
        watched: Watched,
    ) -> InodeRef {
        let accept: Accept = Box::new(move |_, text| accept(text));
        let (accept, watched) = (Some(Arc::new(accept)), Some(Arc::new(watched)));
        Arc::new(TextFile { accept, watched, ..Self::plain(meta, generate) })
    }

    /// A file that also takes writes.
    pub fn writable(
        meta: Meta,
        generate: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        accept: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> InodeRef {
        Self::judging(meta, generate, move |_, text| accept(text))
    }

    /// The same, where it matters who opened it.
    pub fn judging(
        meta: Meta,
        generate: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        accept: impl Fn(&Cred, &[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> InodeRef {
        let accept: Accept = Box::new(accept);
        Arc::new(TextFile { accept: Some(Arc::new(accept)), ..Self::plain(meta, generate) })
    }
}

impl Inode for TextFile {
    fn kind(&self) -> Kind {
        Kind::Regular
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        self.meta.fs()
    }

    fn attr(&self) -> Result<Attr> {
        Ok(self.meta.attr(Kind::Regular))
    }

    /// Truncation is accepted and means nothing, so that `echo x > /proc/…` works.
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let only_size = change.mode.is_none() && change.uid.is_none() && change.gid.is_none();
        if only_size { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn open(self: Arc<Self>, context: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        if let Some(guard) = &self.guard {
            guard()?;
        }
        Ok(Arc::new(TextOps {
            text: Mutex::new(Rank::SleepLeaf, None),
            generate: self.generate.clone(),
            accept: self.accept.clone(),
            opener: context.task.map(|task| task.cred()),
            seen: AtomicU64::new(self.watched.as_ref().map_or(0, |watched| (watched.changes)())),
            watched: self.watched.clone(),
            request: self.request.clone(),
            end: self.meta.end,
        }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open text file.
struct TextOps {
    /// Made at the first read at 0 and kept until the next one, so that a file read in pieces is consistent.
    text: Mutex<Option<Arc<Vec<u8>>>>,
    generate: Arc<Generate>,
    accept: Option<Arc<Accept>>,
    /// Who opened it, unless that was the kernel.
    opener: Option<Arc<Cred>>,
    /// The change that poll(2) has told of.
    seen: AtomicU64,
    watched: Option<Arc<Watched>>,
    request: Option<(Request, Whom)>,
    /// See [`Meta`].
    end: Option<u64>,
}

impl FileOps for TextOps {
    fn ioctl(&self, _: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        let (request, whom) = self.request.as_ref().ok_or(Errno::ENOTTY)?;
        request(&*whom()?, cmd, arg)
    }

    fn pollable(&self, _: &File) -> bool {
        self.watched.is_some()
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        let ready = PollEvents::READABLE | PollEvents::WRITABLE;
        let Some(watched) = &self.watched else { return ready };
        if table.is_some_and(|table| table.register(&watched.queue).is_err()) {
            return PollEvents::ERR;
        }
        let now = (watched.changes)();
        let news = self.seen.swap(now, Relaxed) != now;
        if news { PollEvents::READABLE | PollEvents::ERR | PollEvents::PRI } else { PollEvents::READABLE }
    }

    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        let missing = self.text.lock().is_none();
        if offset == 0 || missing {
            // Outside the lock: generating takes others' locks.
            drop(self.text.lock().take());
            umbel_mm::heap::room()?;
            let made = (self.generate)()?;
            *self.text.lock() = Some(Arc::new(made));
        }
        // Copied to the guest outside the lock, too: that may fault.
        let text = self.text.lock().clone();
        let rest = text.as_deref().and_then(|text| text.get(offset as usize..)).unwrap_or(&[]);
        dst.write(rest)
    }

    fn write_at(&self, _: &File, src: &mut IoSrc<'_>, _offset: u64) -> Result<usize> {
        let accept = self.accept.as_ref().ok_or(Errno::EINVAL)?;
        let mut bytes = alloc::vec![0; src.remaining().min(4096)];
        let count = src.read(&mut bytes)?;
        bytes.truncate(count);
        let opener = self.opener.clone().unwrap_or_else(|| task::current().cred());
        accept(&opener, &bytes)?;
        Ok(count)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, whence: Whence, offset: i64) -> Result<u64> {
        match self.end {
            Some(end) => file.seek_within(whence, offset, end),
            None => file.seek_endless(whence, offset),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A symbolic link made on demand.
pub struct Link<F> {
    meta: Meta,
    target: F,
}

impl<F: Fn() -> Result<Target> + Send + Sync + 'static> Link<F> {
    /// A link to what `target` says now.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(meta: Meta, target: F) -> InodeRef {
        Arc::new(Link { meta, target })
    }
}

/// What a [`Link`] shows and leads to.
pub struct Target {
    /// What readlink(2) returns.
    pub text: Vec<u8>,
    /// Where a walk goes instead of following the text.
    pub jump: Option<super::Path>,
}

impl Target {
    /// A plain link.
    pub fn text(text: impl Into<Vec<u8>>) -> Target {
        Target { text: text.into(), jump: None }
    }
}

impl<F: Fn() -> Result<Target> + Send + Sync + 'static> Inode for Link<F> {
    fn kind(&self) -> Kind {
        Kind::Symlink
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        self.meta.fs()
    }

    fn attr(&self) -> Result<Attr> {
        Ok(self.meta.attr(Kind::Symlink))
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        (self.target)().map(|target| target.text)
    }

    fn follow(&self) -> Result<LinkTarget> {
        let target = (self.target)()?;
        Ok(target.jump.map_or(LinkTarget::Text(target.text), LinkTarget::Jump))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
