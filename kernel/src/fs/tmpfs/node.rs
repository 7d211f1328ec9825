//! An object in RAM: its attributes, and the operations on names.

use super::TmpFs;
use super::content::Content;
use super::dir::{Dir, Entry};
use super::file::LowerFile;
use crate::fs::acl::{Acl, Which};
use crate::fs::host::{Following, Glance, HostNode};
use crate::fs::inode::{DirSink, FileSystem, Inode, InodeRef, NewNode, RenameMode, Seen};
use crate::fs::types::{Attr, Dev, InodeFlags, Kind, Mode, Owner, SetAttr, Time};
use crate::fs::xattr::{self, Put};
use crate::fs::{Busy, Extra, FileOps, OpenContext, ahead};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::LinkedList;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use umbel_mm::heap;
use umbel_smp::lock::{Rank, SpinLock};

/// How long attributes of a host object are believed, ns.
const FRESH_NS: u64 = 1_000_000_000;

/// An object of a [`TmpFs`].
pub struct Node {
    pub(super) me: Weak<Node>,
    pub(super) fs: Weak<TmpFs>,
    kind: Kind,
    ino: u64,
    rdev: Dev,
    state: SpinLock<State>,
    pub(super) body: Body,
    /// What it was made from; `None` for objects made by the guest.
    pub(super) lower: Option<Arc<HostNode>>,
    /// Where to pin it; `None` for objects that are pinned, or whose name was removed.
    place: SpinLock<Option<Place>>,
    pinned: AtomicBool,
    /// Has never had a name, and may get one.
    linkable: AtomicBool,
    /// When `state` was read from the host.
    read_ns: AtomicU64,
    extra: Extra,
    xattrs: xattr::Store,
    busy: Busy,
    flags: AtomicU32,
}

/// A name in a directory.
pub(super) struct Place {
    pub parent: Weak<Node>,
    pub name: Box<[u8]>,
}

struct State {
    mode: Mode,
    uid: u32,
    gid: u32,
    nlink: u32,
    atime: Time,
    mtime: Time,
    ctime: Time,
    btime: Time,
}

pub(super) enum Body {
    Dir(Dir),
    File(Content),
    Link(Box<[u8]>),
    Special,
}

impl Node {
    /// A new object without a name.
    pub(super) fn new(fs: &Arc<TmpFs>, node: &NewNode<'_>) -> Arc<Node> {
        let now = Time::now();
        let mut attr = Attr::new(node.kind, node.mode, fs.new_ino());
        (attr.uid, attr.gid, attr.rdev) = (node.uid, node.gid, node.rdev);
        (attr.atime, attr.mtime, attr.ctime, attr.btime) = (now, now, now, now);
        if node.kind == Kind::Directory {
            attr.nlink = 2;
        }
        let body = match node.kind {
            Kind::Directory => Body::Dir(Dir::new()),
            Kind::Regular => Body::File(Content::new(0, false)),
            Kind::Symlink => Body::Link(node.target.into()),
            _ => Body::Special,
        };
        Self::build(fs, &attr, body, None, None)
    }

    /// The object that shows `lower`, found at `place`.
    pub(super) fn over(fs: &Arc<TmpFs>, lower: Arc<HostNode>, place: Option<Place>) -> Result<Arc<Node>> {
        let attr = lower.attr()?;
        let body = match attr.kind {
            Kind::Directory => Body::Dir(Dir::new()),
            Kind::Regular => Body::File(Content::new(attr.size, true)),
            Kind::Symlink => Body::Link(lower.readlink()?.into()),
            _ => Body::Special,
        };
        let mut attr = attr;
        attr.ino = fs.lower_ino(attr.dev, attr.ino);
        Ok(Self::build(fs, &attr, body, Some(lower), place))
    }

    fn build(
        fs: &Arc<TmpFs>,
        attr: &Attr,
        body: Body,
        lower: Option<Arc<HostNode>>,
        place: Option<Place>,
    ) -> Arc<Node> {
        fs.inodes.fetch_add(1, Relaxed);
        let build = |me: &Weak<Node>| Node {
            me: me.clone(),
            fs: Arc::downgrade(fs),
            kind: attr.kind,
            ino: attr.ino,
            rdev: attr.rdev,
            state: SpinLock::new(Rank::InodeState, State::from_attr(attr)),
            body,
            lower,
            pinned: AtomicBool::new(place.is_none()),
            linkable: AtomicBool::new(false),
            place: SpinLock::new(Rank::Dentry, place),
            read_ns: AtomicU64::new(crate::time::monotonic_ns()),
            extra: Extra::new(),
            xattrs: xattr::Store::new(),
            busy: Busy::default(),
            flags: AtomicU32::new(0),
        };
        heap::cold(|| Arc::new_cyclic(build))
    }

    pub(super) fn fs(&self) -> Result<Arc<TmpFs>> {
        self.fs.upgrade().ok_or(Errno::EIO)
    }

    pub(super) fn this(&self) -> Result<Arc<Node>> {
        self.me.upgrade().ok_or(Errno::EIO)
    }

    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    /// The node behind an inode of the same file system.
    fn of(inode: &InodeRef) -> Result<&Node> {
        inode.as_any().downcast_ref().ok_or(Errno::EXDEV)
    }

    fn dir(&self) -> Result<&Dir> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    pub(super) fn content(&self) -> Result<&Content> {
        match &self.body {
            Body::File(content) => Ok(content),
            Body::Dir(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Keeps this object, and the directories above it, in the tree from now on: it differs from the host's.
    pub(super) fn pin(&self) {
        let mut at = self.me.upgrade();
        while let Some(node) = at {
            if node.pinned.load(Relaxed) {
                return;
            }
            // The place is held meanwhile, so that a removal comes before or after.
            let mut place = node.place.lock();
            node.pinned.store(true, Relaxed);
            let Some(Place { parent, name }) = place.take() else { return };
            let Some(parent) = parent.upgrade() else { return };
            if let Body::Dir(dir) = &parent.body {
                dir.insert_if_vacant(&name, &node);
            }
            drop(place);
            at = Some(parent);
        }
    }

    /// The name is removed, or gets another place in the tree: nothing pins it there any more.
    fn unplace(&self) {
        let mut place = self.place.lock();
        self.pinned.store(true, Relaxed);
        *place = None;
    }

    /// Sets modification and change time to now.
    pub(super) fn modified(&self) {
        let now = Time::now();
        let mut state = self.state.lock();
        (state.mtime, state.ctime) = (now, now);
    }

    /// As [`Self::modified`]; a write by an ordinary user takes set-user-id bits away.
    pub(super) fn written(&self) {
        self.drop_capabilities();
        let now = Time::now();
        let mut state = self.state.lock();
        (state.mtime, state.ctime) = (now, now);
        if state.mode & 0o6000 != 0 && !keeps_set_id() {
            let group_exec = state.mode & 0o010 != 0;
            state.mode &= if group_exec { !0o6000 } else { !0o4000 };
        }
    }

    /// Whoever changes a program takes the capabilities away that it gives.
    fn drop_capabilities(&self) {
        // Most have none.
        let _ = self.xattrs.remove(b"security.capability");
    }

    fn change_links(&self, change: i32) {
        let now = Time::now();
        let mut state = self.state.lock();
        state.nlink = state.nlink.saturating_add_signed(change);
        state.ctime = now;
    }

    /// Reads the attributes of an unchanged host object again if they are old.
    fn refresh(&self) {
        let Some(lower) = self.lower.as_ref().filter(|_| !self.pinned.load(Relaxed)) else { return };
        let now = crate::time::monotonic_ns();
        if now.saturating_sub(self.read_ns.load(Relaxed)) < FRESH_NS {
            return;
        }
        self.read_ns.store(now, Relaxed);
        let Ok(attr) = lower.attr() else { return };
        if attr.kind != self.kind {
            return;
        }
        *self.state.lock() = State::from_attr(&attr);
        if let Body::File(content) = &self.body {
            content.lower_size_changed(attr.size);
        }
    }

    /// The object that shows `lower`, of this name in this directory.
    fn child_over(&self, name: &[u8], lower: Arc<HostNode>) -> Result<Arc<Node>> {
        let place = Place { parent: self.me.clone(), name: name.into() };
        Node::over(&self.fs()?, lower, Some(place))
    }

    /// Whether directory `self` shows no names.
    fn check_empty(&self) -> Result<()> {
        let dir = self.dir()?;
        if dir.has_nodes() {
            return Err(Errno::ENOTEMPTY);
        }
        let Some(lower) = &self.lower else { return Ok(()) };
        for entry in lower.names(true)?.iter() {
            if dir.find(entry.name).is_none() {
                return Err(Errno::ENOTEMPTY);
            }
        }
        lower.forget_names();
        Ok(())
    }

    /// Adds `node` as `name` to this directory.
    fn add(&self, name: &[u8], node: Arc<Node>) -> Result<()> {
        self.dir()?.insert(name, Entry::Node(node))?;
        self.pin();
        self.modified();
        Ok(())
    }

    /// Removes `name`; over the host's directory a whiteout takes its place.
    fn take(&self, name: &[u8]) -> Result<()> {
        let dir = self.dir()?;
        if self.lower.is_some() {
            dir.insert(name, Entry::Whiteout)?;
            self.pin();
        } else {
            dir.remove(name);
        }
        self.modified();
        Ok(())
    }

    fn make(&self, node: &NewNode<'_>) -> Result<Arc<Node>> {
        if self.state.lock().nlink == 0 {
            return Err(Errno::ENOENT);
        }
        // Files stop before everything else does.
        umbel_mm::heap::room_for(super::HEAP_MARGIN).map_err(|_| Errno::ENOSPC)?;
        let fs = self.fs()?;
        if fs.inodes.load(Relaxed) >= fs.inode_limit.load(Relaxed) {
            return Err(Errno::ENOSPC);
        }
        let Some(default) = self.xattrs.acl(Which::Default).filter(|_| node.kind != Kind::Symlink) else {
            return Ok(Node::new(&fs, node));
        };
        let (mode, access) = default.inherited(node.mode);
        let made = Node::new(&fs, &NewNode { mode, ..*node });
        made.xattrs.set_acl(Which::Access, access)?;
        if node.kind == Kind::Directory {
            made.xattrs.set_acl(Which::Default, Some(default))?;
        }
        Ok(made)
    }

    /// Forgets all entries below: the tree holds itself by its parents.
    pub(super) fn clear(&self) {
        let Body::Dir(dir) = &self.body else { return };
        // As deep as the tree, in small pieces: memory may be short.
        let mut levels = LinkedList::from([dir.drain()]);
        while let Some(level) = levels.back_mut() {
            let Some(node) = level.next() else {
                levels.pop_back();
                continue;
            };
            if let Body::Dir(dir) = &node.body {
                levels.push_back(dir.drain());
            }
        }
    }
}

impl Inode for Node {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        match self.fs.upgrade() {
            Some(fs) => fs,
            None => TmpFs::new("tmpfs", 0o755, 0),
        }
    }

    fn busy(&self) -> Option<&Busy> {
        (self.kind == Kind::Regular).then_some(&self.busy)
    }

    fn attr(&self) -> Result<Attr> {
        self.refresh();
        let (size, blocks) = match &self.body {
            Body::File(content) => content.size_and_blocks(),
            Body::Link(target) => (target.len() as u64, 0),
            Body::Dir(dir) => match &self.lower {
                Some(lower) => lower.attr().map_or((0, 0), |attr| (attr.size, attr.blocks)),
                None => (dir.len() as u64 * 20 + 40, 0),
            },
            Body::Special => (0, 0),
        };
        let state = self.state.lock();
        let mut attr = Attr::new(self.kind, state.mode, self.ino);
        (attr.uid, attr.gid, attr.nlink, attr.rdev) = (state.uid, state.gid, state.nlink, self.rdev);
        (attr.atime, attr.mtime, attr.ctime, attr.btime) = (state.atime, state.mtime, state.ctime, state.btime);
        (attr.size, attr.blocks) = (size, blocks);
        Ok(attr)
    }

    fn owner(&self) -> Result<Owner> {
        let state = self.state.lock();
        Ok(Owner { mode: state.mode, uid: state.uid, gid: state.gid })
    }

    fn flags(&self) -> InodeFlags {
        InodeFlags::from_bits_truncate(self.flags.load(Relaxed))
    }

    fn set_flags(&self, flags: InodeFlags) -> Result<()> {
        self.pin();
        self.flags.store(flags.bits(), Relaxed);
        self.state.lock().ctime = Time::now();
        Ok(())
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let _change = self.is_dir().then(ahead::change);
        if let Some(size) = change.size {
            self.truncate(size)?;
        }
        if change.size.is_some() || change.uid.is_some() || change.gid.is_some() {
            self.drop_capabilities();
        }
        self.pin();
        if let (Some(mode), Some(acl)) = (change.mode, self.xattrs.acl(Which::Access)) {
            self.xattrs.set_acl(Which::Access, Some(acl.with_mode(mode)))?;
        }
        let now = Time::now();
        // Seals are added under the same lock.
        let _write = self.content().ok().filter(|_| change.mode.is_some()).map(|content| content.write.lock());
        let mut state = self.state.lock();
        if let (Some(mode), Body::File(content)) = (change.mode, &self.body) {
            content.seals.check_mode(state.mode, mode)?;
        }
        state.mode = change.mode.unwrap_or(state.mode);
        state.uid = change.uid.unwrap_or(state.uid);
        state.gid = change.gid.unwrap_or(state.gid);
        state.atime = change.atime.unwrap_or(state.atime);
        state.mtime = change.mtime.unwrap_or(state.mtime);
        state.ctime = now;
        Ok(())
    }

    fn accessed(&self, strict: bool) {
        if self.flags().contains(InodeFlags::NOATIME) {
            return;
        }
        if self.lower.is_some() && !self.pinned.load(Relaxed) {
            return;
        }
        let now = Time::now();
        let mut state = self.state.lock();
        let old = state.atime <= state.mtime || state.atime <= state.ctime || now.sec - state.atime.sec > 86_400;
        if strict || old {
            state.atime = now;
        }
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        match self.dir()?.find(name) {
            Some(Entry::Node(node)) => return Ok(node),
            Some(Entry::Whiteout) => return Err(Errno::ENOENT),
            None => {}
        }
        let lower = self.lower.as_ref().ok_or(Errno::ENOENT)?.find(name)?;
        Ok(self.child_over(name, lower)?)
    }

    fn look(&self, name: &[u8]) -> Result<Seen> {
        match (&self.lower, self.dir()?.find(name)) {
            (_, Some(Entry::Node(node))) => Ok(Seen::Inode(node)),
            (None, None) | (_, Some(Entry::Whiteout)) => Err(Errno::ENOENT),
            (Some(lower), None) => match lower.glance(name)? {
                Glance::Node(lower) => Ok(Seen::Inode(self.child_over(name, lower)?)),
                Glance::Attr(attr) => Ok(Seen::Attr(shown_over(&*self.fs()?, &attr))),
            },
        }
    }

    fn following(&self, name: &[u8]) -> Option<Following> {
        self.lower.as_ref()?.following(name)
    }

    fn peek(&self, name: &[u8], known: Option<&InodeRef>) -> Option<Attr> {
        if self.dir().ok()?.find(name).is_some() {
            return None;
        }
        match known {
            // Not in the tree: it is as on the host.
            Some(inode) if inode.kind() == Kind::Regular => inode.attr().ok(),
            Some(_) => None,
            None => Some(shown_over(&*self.fs().ok()?, &self.lower.as_ref()?.peek(name)?)),
        }
    }

    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<InodeRef> {
        let made = self.make(node)?;
        self.add(name, made.clone())?;
        if node.kind == Kind::Directory {
            self.change_links(1);
        }
        Ok(made)
    }

    fn create_unnamed(&self, node: &NewNode<'_>, linkable: bool) -> Result<InodeRef> {
        let made = self.make(node)?;
        made.linkable.store(linkable, Relaxed);
        made.change_links(-1);
        Ok(made)
    }

    fn link(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let node = Node::of(target)?;
        if node.state.lock().nlink == 0 && !node.linkable.swap(false, Relaxed) {
            return Err(Errno::ENOENT);
        }
        node.pin();
        self.add(name, node.this()?)?;
        node.change_links(1);
        Ok(())
    }

    fn unlink(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let node = Node::of(target)?;
        node.unplace();
        self.take(name)?;
        node.change_links(-1);
        Ok(())
    }

    fn rmdir(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        let node = Node::of(target)?;
        node.check_empty()?;
        node.unplace();
        self.take(name)?;
        node.change_links(i32::MIN);
        self.change_links(-1);
        Ok(())
    }

    fn rename(
        &self,
        name: &[u8],
        source: &InodeRef,
        new_dir: &InodeRef,
        new_name: &[u8],
        replaced: Option<&InodeRef>,
        mode: RenameMode,
    ) -> Result<()> {
        let (source, new_dir) = (Node::of(source)?, Node::of(new_dir)?);
        let replaced = replaced.map(Node::of).transpose()?;
        if let (RenameMode::Replace, Some(old)) = (mode, replaced)
            && old.kind == Kind::Directory
        {
            old.check_empty()?;
        }
        source.unplace();
        if let Some(old) = replaced {
            old.unplace();
        }
        new_dir.add(new_name, source.this()?)?;
        match (mode, replaced) {
            (RenameMode::Exchange, Some(other)) => self.add(name, other.this()?)?,
            _ => self.take(name)?,
        }
        if let (RenameMode::Replace, Some(old)) = (mode, replaced) {
            let gone = if old.kind == Kind::Directory { i32::MIN } else { -1 };
            old.change_links(gone);
        }
        source.change_links(0);
        count_subdirectories(self, source, new_dir, replaced, mode);
        Ok(())
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Link(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn readdir(&self, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        self.dir()?.list(self.lower.as_ref(), pos, sink)
    }

    fn open(self: Arc<Self>, context: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        let content = self.content()?;
        if !content.is_lower() {
            return Ok(self);
        }
        if context.flags.writable() {
            let discard = context.flags.contains(crate::fs::OpenFlags::TRUNC);
            self.copy_up(if discard { 0 } else { u64::MAX })?;
            return Ok(self);
        }
        Ok(Arc::new(LowerFile::open(self)?))
    }

    fn stale(&self) -> bool {
        self.lower.as_ref().is_some_and(|lower| !self.pinned.load(Relaxed) && lower.is_gone())
    }

    fn stale_negative(&self, since_ns: u64) -> bool {
        self.lower.is_some() && crate::time::monotonic_ns().saturating_sub(since_ns) > FRESH_NS
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Arc<[u8]>> {
        self.xattrs.get(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], put: Put) -> Result<()> {
        self.xattrs.set(name, value, put)?;
        self.pin();
        self.state.lock().ctime = Time::now();
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.xattrs.remove(name)?;
        self.state.lock().ctime = Time::now();
        Ok(())
    }

    fn list_xattr(&self) -> Result<Vec<Box<[u8]>>> {
        Ok(self.xattrs.names())
    }

    fn acl(&self, which: Which) -> Result<Option<Acl>> {
        if self.kind == Kind::Symlink { Err(Errno::EOPNOTSUPP) } else { Ok(self.xattrs.acl(which)) }
    }

    fn set_acl(&self, which: Which, acl: Option<Acl>, mode: Option<Mode>) -> Result<()> {
        let _change = self.is_dir().then(ahead::change);
        self.xattrs.set_acl(which, acl)?;
        self.pin();
        let mut state = self.state.lock();
        state.mode = mode.unwrap_or(state.mode);
        state.ctime = Time::now();
        Ok(())
    }

    fn extra(&self) -> Option<&Extra> {
        Some(&self.extra)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The attributes of the object over one of the host that is neither a directory nor a link.
fn shown_over(fs: &TmpFs, lower: &Attr) -> Attr {
    let file = lower.kind == Kind::Regular;
    let (size, blocks) = if file { (lower.size, Content::lower_blocks(lower.size)) } else { (0, 0) };
    let own = Attr::new(lower.kind, lower.mode, fs.lower_ino(lower.dev, lower.ino));
    Attr { ino: own.ino, dev: own.dev, blksize: own.blksize, size, blocks, ..*lower }
}

/// Whether the writer may leave set-id bits as they are.
fn keeps_set_id() -> bool {
    // Unit tests have no tasks.
    #[cfg(test)]
    return false;
    #[cfg(not(test))]
    crate::task::current().capable(crate::task::cap::FSETID)
}

/// A directory counts its subdirectories' `..` among its links.
fn count_subdirectories(old_dir: &Node, source: &Node, new_dir: &Node, replaced: Option<&Node>, mode: RenameMode) {
    let is_dir = |node: &Node| i32::from(node.kind == Kind::Directory);
    let moved = is_dir(source);
    let back = replaced.map_or(0, is_dir);
    if core::ptr::eq(old_dir, new_dir) {
        if mode == RenameMode::Replace && back != 0 {
            old_dir.change_links(-back);
        }
        return;
    }
    let returned = if mode == RenameMode::Exchange { back } else { 0 };
    old_dir.change_links(returned - moved);
    new_dir.change_links(moved - back);
}

impl State {
    fn from_attr(attr: &Attr) -> State {
        State {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pages = match &mut self.body {
            Body::File(content) => content.drop_all(),
            _ => 0,
        };
        if let Some(fs) = self.fs.upgrade() {
            fs.uncharge(pages);
            fs.inodes.fetch_sub(1, Relaxed);
        }
    }
}
