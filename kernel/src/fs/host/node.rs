//! Inodes of the host directory.
//!
//! A node knows its parent and name; its descriptor (O_PATH for a directory, readable for a regular file) is opened when
//! first needed and may be closed again by [`super::descriptors`]. What a descriptor opens onto is compared with what
//! the node stands for: if the host replaced it meanwhile, the node is stale (`ESTALE` becomes `ENOENT` to the guest).
//!
//! Locks, all `Rank::Leaf`, one at a time: `open`, `data`, `facts`, `list`. No host call is made under any of them.

use super::super::file::DirOps;
use super::super::inode::{DirEntry, DirSink, FileSystem, Inode, InodeRef};
use super::super::types::{Attr, Dev, Kind, Owner, Time};
use super::super::{FileOps, OpenContext};
use super::data::{HostData, HostFile};
use super::glances::{Found, Key};
use super::listing::{self, Entry, Listing};
use super::order::{Following, Order, Step};
use super::{Glance, HostFs, TRUST_NS, descriptors, is_refused};
use crate::{Errno, Result, time};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use umbel_abi::linux::uapi;
use umbel_host::file::{self, HostFd, OwnedFd};
use umbel_mm::heap;
use umbel_smp::lock::{Rank, SpinLock};

/// Longest symbolic link (`PATH_MAX`).
const LINK_MAX: usize = 4096;

/// A node's descriptor.
pub struct Descriptor {
    fd: OwnedFd,
    /// Open for reading, of a directory whose records nobody has read through it.
    unread: AtomicBool,
}

impl Descriptor {
    /// The number, valid while `self` lives.
    pub fn fd(&self) -> HostFd {
        self.fd.fd()
    }
}

/// One object of the host's tree.
pub struct HostNode {
    fs: Arc<HostFs>,
    /// No other node has it.
    serial: u64,
    /// `None` for the root.
    parent: Option<Arc<HostNode>>,
    name: Box<[u8]>,
    kind: Kind,
    /// Device and inode on the host: what the name must still lead to.
    identity: (u64, u64),
    /// A file system that is not shown: an empty directory.
    refused: bool,
    /// The root's descriptor, which is the machine's.
    fixed: Option<HostFd>,
    /// Set by each use of the descriptor; taken back by the second chance.
    pub(super) used: AtomicBool,
    /// The name was found to lead elsewhere, or nowhere.
    gone: AtomicBool,
    open: SpinLock<Option<Arc<Descriptor>>>,
    data: SpinLock<Weak<HostData>>,
    facts: SpinLock<Attr>,
    /// When the host told them.
    looked_ns: AtomicU64,
    /// The names and when they were read.
    list: SpinLock<Option<(u64, Arc<Listing>)>>,
    me: Weak<HostNode>,
}

impl HostNode {
    /// The root of the tree.
    pub(super) fn root(fs: Arc<HostFs>, fd: HostFd, found: &uapi::statx) -> Arc<HostNode> {
        Self::build(fs, None, b"", &told(found), Some(fd), false)
    }

    fn build(
        fs: Arc<HostFs>,
        parent: Option<Arc<HostNode>>,
        name: &[u8],
        found: &Found,
        fixed: Option<HostFd>,
        refused: bool,
    ) -> Arc<HostNode> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let build = |me: &Weak<HostNode>| HostNode {
            fs,
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            parent,
            name: name.into(),
            kind: found.attr.kind,
            identity: (found.attr.dev, found.attr.ino),
            refused,
            fixed,
            used: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            open: SpinLock::new(Rank::Leaf, None),
            data: SpinLock::new(Rank::Leaf, Weak::new()),
            facts: SpinLock::new(Rank::Leaf, found.attr),
            looked_ns: AtomicU64::new(found.at_ns),
            list: SpinLock::new(Rank::Leaf, None),
            me: me.clone(),
        };
        heap::cold(|| Arc::new_cyclic(build))
    }

    /// Closes the descriptor as soon as nobody uses it.
    pub(super) fn forget_descriptor(&self) -> Option<Arc<Descriptor>> {
        self.open.lock().take()
    }

    /// Does `work` with the node's descriptor.
    fn with_descriptor<R>(&self, work: impl FnOnce(HostFd) -> Result<R>) -> Result<R> {
        match self.fixed {
            Some(fd) => work(fd),
            None => {
                let fd = self.descriptor()?;
                work(fd.fd())
            }
        }
    }

    /// The descriptor, opened if it is not.
    fn descriptor(&self) -> Result<Arc<Descriptor>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(fd) = self.open.lock().clone() {
            return Ok(fd);
        }
        let parent = self.parent.as_ref().ok_or(Errno::EIO)?;
        let open = || parent.with_descriptor(|dir| self.open_in(dir));
        let fd = match open() {
            // The table is full: others' idle descriptors make room.
            Err(Errno::EMFILE | Errno::ENFILE) => {
                descriptors::evict();
                open().map_err(|errno| if errno == Errno::EMFILE { Errno::ENFILE } else { errno })?
            }
            opened => opened?,
        };
        let fd = Arc::new(fd);
        if identity_of(&file::stat_at(fd.fd(), b"")?) != self.identity {
            return Err(Errno::ENOENT);
        }
        // Two openers at once: the later one's stays, the other is closed when its user is done.
        let before = self.open.lock().replace(fd.clone());
        if before.is_none()
            && let Some(me) = self.me.upgrade()
        {
            descriptors::opened(&me);
        }
        Ok(fd)
    }

    /// Opens the node in its parent: a directory for reading, so that its names need no further description, or just as a
    /// place where that is all the machine's user may do.
    fn open_in(&self, dir: HostFd) -> Result<Descriptor> {
        let open = |flags| file::open_beneath(dir, &self.name, flags);
        // NONBLOCK: the host may have put a fifo there meanwhile.
        let reading = uapi::O_RDONLY | uapi::O_NONBLOCK;
        let (fd, unread) = match self.kind {
            Kind::Directory => match open(reading | uapi::O_DIRECTORY) {
                Err(Errno::EACCES | Errno::EPERM) => (open(uapi::O_PATH | uapi::O_DIRECTORY)?, false),
                opened => (opened?, true),
            },
            Kind::Regular => (open(reading)?, false),
            _ => return Err(Errno::ENXIO),
        };
        Ok(Descriptor { fd, unread: AtomicBool::new(unread) })
    }

    /// Reads the names: through the node's own descriptor once, then through others, as its position is at the end.
    fn read_names(&self) -> Result<Listing> {
        if self.fixed.is_none() {
            let own = self.descriptor()?;
            if own.unread.swap(false, Ordering::Relaxed) {
                return listing::read(own.fd());
            }
        }
        let other = self.with_descriptor(file::reopen_dir)?;
        listing::read(other.fd())
    }

    /// What the host says about the node now, or said lately.
    fn facts(&self) -> Result<Attr> {
        let now = time::monotonic_ns();
        let fresh = self.is_fresh(now);
        let known = *self.facts.lock();
        if fresh {
            return Ok(known);
        }
        let found = match &self.parent {
            Some(parent) if !self.refused => parent.with_descriptor(|dir| file::stat_at(dir, &self.name)),
            _ => self.with_descriptor(|fd| file::stat_at(fd, b"")),
        };
        let found = match found {
            Ok(found) if identity_of(&found) == self.identity => attributes(&found),
            // Gone or replaced on the host: whoever has it open still has what it was.
            _ => {
                self.gone.store(true, Ordering::Relaxed);
                known
            }
        };
        *self.facts.lock() = found;
        self.looked_ns.store(now, Ordering::Release);
        Ok(found)
    }

    /// Whether what the host said is young enough to be believed at `now`. Look at it afterwards: it is as young at least.
    fn is_fresh(&self, now: u64) -> bool {
        now.saturating_sub(self.looked_ns.load(Ordering::Acquire)) < TRUST_NS
    }

    /// The contents, shared by all who have the file open.
    pub fn contents(&self) -> Result<Arc<HostData>> {
        if let Some(data) = self.data.lock().upgrade() {
            return Ok(data);
        }
        let fd = self.descriptor()?;
        let me = self.me.upgrade().ok_or(Errno::EIO)?;
        let new = Arc::new(HostData::new(me, fd));
        let mut data = self.data.lock();
        if let Some(other) = data.upgrade() {
            drop(data);
            return Ok(other);
        }
        *data = Arc::downgrade(&new);
        drop(data);
        Ok(new)
    }

    /// Device and inode number on the host.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Whether the name was found, lately, to lead elsewhere or nowhere.
    pub fn is_gone(&self) -> bool {
        // Asks the host again if its last answer is old.
        (!self.is_fresh(time::monotonic_ns()) && self.facts().is_err()) || self.gone.load(Ordering::Relaxed)
    }

    /// Finds a child.
    pub fn find(&self, name: &[u8]) -> Result<Arc<HostNode>> {
        self.child(name, &self.ask(&Key::new(self.serial, name))?)
    }

    /// The attributes of a child that is neither a directory nor a link and was not looked at lately, else the child.
    pub fn glance(&self, name: &[u8]) -> Result<Glance> {
        let key = Key::new(self.serial, name);
        let found = self.ask(&key)?;
        if !self.is_lone(&found) || self.fs.glances.seen_before(&key) {
            return Ok(Glance::Node(self.child(name, &found)?));
        }
        self.fs.glances.keep(&key, &found);
        Ok(Glance::Attr(found.attr))
    }

    /// The names that are likely to be looked at after `name`.
    pub fn following(&self, name: &[u8]) -> Option<Following> {
        let now_ns = time::monotonic_ns();
        match self.fs.orders.step(self.serial, name, now_ns) {
            Step::None => None,
            Step::Known(order) => Following::behind(order, name),
            Step::Wanted => {
                let order = Order::new(self.names(false).ok()?, now_ns)?;
                self.fs.orders.keep(self.serial, &order);
                Following::behind(order, name)
            }
        }
    }

    /// The attributes of a child that is neither a directory nor a link.
    pub fn peek(&self, name: &[u8]) -> Option<Attr> {
        let key = Key::new(self.serial, name);
        if self.refused || self.directory().is_err() {
            return None;
        }
        let found = self.with_descriptor(|dir| file::stat_at(dir, name)).map(|found| told(&found));
        let found = found.ok().filter(|found| self.is_lone(found))?;
        self.fs.glances.keep(&key, &found);
        Some(found.attr)
    }

    /// Neither a directory nor a link, and of this file system.
    fn is_lone(&self, found: &Found) -> bool {
        !matches!(found.attr.kind, Kind::Directory | Kind::Symlink) && found.attr.dev == self.identity.0
    }

    /// What the host says of a name, or said just now.
    fn ask(&self, key: &Key<'_>) -> Result<Found> {
        self.directory()?;
        if self.refused {
            return Err(Errno::ENOENT);
        }
        match self.fs.glances.recall(key, time::monotonic_ns()) {
            Some(found) => Ok(found),
            None => self.with_descriptor(|dir| file::stat_at(dir, key.name)).map(|found| told(&found)),
        }
    }

    fn child(&self, name: &[u8], found: &Found) -> Result<Arc<HostNode>> {
        let me = self.me.upgrade().ok_or(Errno::EIO)?;
        // Only a mount point can lead to another kind of file system.
        let mut refused = false;
        if found.attr.dev != self.identity.0 {
            let fd = self.with_descriptor(|dir| file::open_beneath(dir, name, uapi::O_PATH))?;
            refused = is_refused(fd.fd())?;
            if refused && found.attr.kind != Kind::Directory {
                return Err(Errno::EACCES);
            }
        }
        Ok(HostNode::build(self.fs.clone(), Some(me), name, found, None, refused))
    }

    /// The kind of an entry of this directory.
    pub fn kind_of_entry(&self, entry: &Entry<'_>) -> Kind {
        let ask = || self.with_descriptor(|dir| file::stat_at(dir, entry.name));
        entry.kind.unwrap_or_else(|| ask().map_or(Kind::Regular, |found| kind_of(&found)))
    }

    /// The names in this directory; read again at the start of a listing and when too old.
    pub fn names(&self, fresh: bool) -> Result<Arc<Listing>> {
        if self.refused {
            return Ok(Arc::new(Listing::default()));
        }
        let now = time::monotonic_ns();
        let known = self.list.lock().clone();
        if let Some((when, names)) = known
            && (!fresh || now.saturating_sub(when) < TRUST_NS)
        {
            return Ok(names);
        }
        let names = Arc::new(self.read_names()?);
        *self.list.lock() = Some((now, names.clone()));
        Ok(names)
    }

    /// Frees the list of names: a listing is done.
    pub fn forget_names(&self) {
        let list = self.list.lock().take();
        drop(list);
    }

    fn directory(&self) -> Result<()> {
        if self.kind == Kind::Directory { Ok(()) } else { Err(Errno::ENOTDIR) }
    }
}

impl Drop for HostNode {
    /// Drops a chain of parents without recursion, as kernel stacks are small.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut last) = parent.and_then(Arc::into_inner) {
            parent = last.parent.take();
        }
    }
}

impl Inode for HostNode {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }

    fn attr(&self) -> Result<Attr> {
        self.facts()
    }

    fn owner(&self) -> Result<Owner> {
        Ok(self.facts.lock().owner())
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        Ok(self.find(name)?)
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        if self.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        let parent = self.parent.as_ref().ok_or(Errno::EIO)?;
        let mut text = vec![0; LINK_MAX];
        let len = parent.with_descriptor(|dir| file::readlink_at(dir, &self.name, &mut text))?;
        text.truncate(len);
        Ok(text)
    }

    fn readdir(&self, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        /// Positions 0 and 1 are `.` and `..`.
        const FIRST: u64 = 2;
        self.directory()?;
        let names = self.names(pos <= FIRST)?;
        let mut pos = pos.max(FIRST);
        while let Some(entry) = usize::try_from(pos - FIRST).ok().and_then(|index| names.get(index)) {
            let kind = self.kind_of_entry(&entry);
            if !sink(&DirEntry { name: entry.name, ino: entry.ino, kind, next: pos + 1 }) {
                break;
            }
            pos += 1;
        }
        Ok(pos)
    }

    fn open(self: Arc<Self>, context: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        if context.flags.writable() {
            return Err(Errno::EROFS);
        }
        match self.kind {
            Kind::Regular => Ok(Arc::new(HostFile(self.contents()?))),
            Kind::Directory => Ok(DirOps::shared()),
            _ => Err(Errno::ENXIO),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn kind_of(found: &uapi::statx) -> Kind {
    Kind::from_mode(u32::from(found.stx_mode)).unwrap_or(Kind::Regular)
}

fn identity_of(found: &uapi::statx) -> (u64, u64) {
    (Dev::new(found.stx_dev_major, found.stx_dev_minor).encode(), found.stx_ino)
}

/// What the host says now.
fn told(found: &uapi::statx) -> Found {
    Found { attr: attributes(found), at_ns: time::monotonic_ns() }
}

fn attributes(found: &uapi::statx) -> Attr {
    let time = |t: &uapi::statx_timestamp| Time { sec: t.tv_sec, ns: t.tv_nsec };
    let (dev, ino) = identity_of(found);
    Attr {
        kind: kind_of(found),
        mode: u32::from(found.stx_mode) & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        ino,
        nlink: found.stx_nlink,
        dev,
        rdev: Dev::new(found.stx_rdev_major, found.stx_rdev_minor),
        size: found.stx_size,
        blocks: found.stx_blocks,
        blksize: found.stx_blksize,
        atime: time(&found.stx_atime),
        mtime: time(&found.stx_mtime),
        ctime: time(&found.stx_ctime),
        btime: time(&found.stx_btime),
    }
}
