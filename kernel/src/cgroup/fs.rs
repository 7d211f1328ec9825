//! The file system of the tree (`cgroup2`): a directory a group, with its files ([`super::control`]) in it.
//!
//! There is one, however often it is mounted; a mount shows what lies below the root of the mounter's cgroup namespace. A group is
//! the inode of its directory. An inode of a file lives as long as somebody has it; its owner and mode, once changed, as long as the
//! group. Locks (spinning): a group's owner and files (Leaf).

use super::control::{self, FILES, File as Control};
use super::enter::Writer;
use super::{Cgroup, Notice};
use crate::fs::xattr::{Put, Store};
use crate::fs::{
    Attr, DirEntry, DirSink, File, FileOps, FileSystem, Inode, InodeRef, IoDst, IoSrc, Kind, Mode, Mount, MountFlags,
    NewNode, OpenContext, Owner, PollEvents, PollTable, SetAttr, StatFs,
};
use crate::task::{self, Cred, ids};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Mutex, Once, Rank, SpinLock};

/// `CGROUP2_SUPER_MAGIC`.
const MAGIC: u32 = 0x6367_7270;
/// Longest write.
const WRITE_MAX: usize = 4096;
/// Inode numbers of files: above those of all groups, so many a group.
const FILE_INO: u64 = 1 << 48;
const FILES_EACH: u64 = 64;

/// Options by name. Those of the memory controller, of which there is none, change nothing.
const OPTIONS: [(&str, u32); 6] = [
    ("nsdelegate", NSDELEGATE),
    ("favordynmods", 1 << 1),
    ("memory_localevents", 1 << 2),
    ("memory_recursiveprot", 1 << 3),
    ("memory_hugetlb_accounting", 1 << 4),
    ("pids_localevents", PIDS_LOCAL),
];
const NSDELEGATE: u32 = 1;
const PIDS_LOCAL: u32 = 1 << 5;

/// Those in force.
static SET: AtomicU32 = AtomicU32::new(0);

/// Whether the root of a namespace is a border of delegation.
pub(super) fn delegates() -> bool {
    SET.load(Relaxed) & NSDELEGATE != 0
}

/// Whether `pids.events` counts what the group itself refused, only.
pub(super) fn counts_locally() -> bool {
    SET.load(Relaxed) & PIDS_LOCAL != 0
}

/// Takes options from the first cgroup namespace; others' are checked and ignored.
fn set_options(data: &[u8]) -> Result<()> {
    let mut set = 0;
    for word in data.split(|byte| *byte == b',').filter(|word| !word.is_empty()) {
        let known = OPTIONS.iter().find(|(name, _)| name.as_bytes() == word);
        set |= known.ok_or(Errno::EINVAL)?.1;
    }
    if task::current().ns().cgroup.root.is_root() {
        SET.store(set, Relaxed);
    }
    Ok(())
}

/// The file system.
struct CgroupFs {
    dev: u64,
}

impl FileSystem for CgroupFs {
    fn name(&self) -> &'static str {
        "cgroup2"
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> InodeRef {
        super::root().clone()
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: MAGIC, block_size: 4096, fsid: self.dev, ..StatFs::default() })
    }

    fn reconfigure(&self, data: &[u8]) -> Result<()> {
        set_options(data)
    }

    fn options(&self) -> String {
        let set = SET.load(Relaxed);
        let names = OPTIONS.iter().filter(|(_, bit)| set & bit != 0).flat_map(|(name, _)| [",", name]);
        names.collect()
    }

    fn shown_root(&self, root: &InodeRef) -> Option<Vec<u8>> {
        let group = root.as_any().downcast_ref::<Cgroup>()?;
        Some(group.path_from(&task::current().ns().cgroup.root))
    }
}

/// The kernel's own mount, which all others show again.
fn own_mount() -> &'static Arc<Mount> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    MOUNT.call_once(|| {
        let fs = Arc::new(CgroupFs { dev: crate::fs::next_dev() });
        Mount::new(fs, b"cgroup2", MountFlags::INTERNAL)
    })
}

/// A mount for the caller.
///
/// # Errors
/// `EINVAL` for options that are not understood, `ENOENT` where the namespace's root was removed.
pub fn mount(data: &[u8], flags: MountFlags) -> Result<Arc<Mount>> {
    set_options(data)?;
    let base = task::current().ns().cgroup.root.clone();
    let own = own_mount();
    let mut dentry = own.root_path()?.dentry().clone();
    let mut names: Vec<&Cgroup> = base.lineage().filter(|group| !group.is_root()).collect();
    while let Some(group) = names.pop() {
        dentry = dentry.lookup(&group.name)?;
    }
    dentry.inode().ok_or(Errno::ENOENT)?;
    Ok(own.fresh_at(&dentry, flags))
}

/// The group that an open file is the directory of.
pub(super) fn group_of(file: &File) -> Option<Arc<Cgroup>> {
    file.inode()?.as_any().downcast_ref::<Cgroup>()?.me.upgrade()
}

/// The inode of `cgroup.procs`.
pub(super) fn procs_file(group: &Arc<Cgroup>) -> Result<InodeRef> {
    let index = FILES.iter().position(|file| file.name == control::PROCS).ok_or(Errno::ENOENT)?;
    Ok(group.node.file(group, index))
}

/// What a group has of the file system.
pub struct Node {
    owner: SpinLock<Owner>,
    /// Who owns its files at first: user and group. Immutable.
    maker: (u32, u32),
    files: SpinLock<BTreeMap<usize, Known>>,
    xattrs: Store,
}

/// A file that somebody has, or changed.
#[derive(Default)]
struct Known {
    owner: Option<Owner>,
    inode: Weak<FileNode>,
}

impl Node {
    pub(super) fn new(mode: Mode, uid: u32, gid: u32) -> Node {
        Node {
            owner: SpinLock::new(Rank::Leaf, Owner { mode, uid, gid }),
            maker: (uid, gid),
            files: SpinLock::new(Rank::Leaf, BTreeMap::new()),
            xattrs: Store::new(),
        }
    }

    /// The inode of a file.
    fn file(&self, group: &Arc<Cgroup>, index: usize) -> Arc<FileNode> {
        let mut files = self.files.lock();
        let known = files.entry(index).or_default();
        if let Some(inode) = known.inode.upgrade() {
            return inode;
        }
        let inode = Arc::new(FileNode { group: group.clone(), index });
        known.inode = Arc::downgrade(&inode);
        inode
    }

    /// The same, if somebody has it.
    pub(super) fn open_file(&self, index: usize) -> Option<Arc<FileNode>> {
        self.files.lock().get(&index)?.inode.upgrade()
    }

    /// Owner and mode of a file.
    fn file_owner(&self, index: usize) -> Owner {
        let changed = self.files.lock().get(&index).and_then(|known| known.owner);
        let (uid, gid) = self.maker;
        changed.unwrap_or_else(|| Owner { mode: FILES.get(index).map_or(0, |file| file.mode), uid, gid })
    }
}

impl Cgroup {
    fn file_named(self: &Arc<Self>, name: &[u8]) -> Option<InodeRef> {
        let named = |file: &Control| file.name.as_bytes() == name && file.is_in(self);
        let index = FILES.iter().position(named)?;
        Some(self.node.file(self, index))
    }

    fn this(&self) -> Result<Arc<Cgroup>> {
        self.me.upgrade().ok_or(Errno::ENOENT)
    }
}

fn change(owner: &mut Owner, with: &SetAttr) {
    owner.mode = with.mode.unwrap_or(owner.mode);
    owner.uid = with.uid.unwrap_or(owner.uid);
    owner.gid = with.gid.unwrap_or(owner.gid);
}

fn attr_of(group: &Cgroup, kind: Kind, owner: Owner, ino: u64) -> Attr {
    let mut attr = Attr::new(kind, owner.mode, ino);
    (attr.uid, attr.gid, attr.nlink) = (owner.uid, owner.gid, 1);
    (attr.atime, attr.mtime, attr.ctime) = (group.made, group.made, group.made);
    attr
}

impl Inode for Cgroup {
    fn kind(&self) -> Kind {
        Kind::Directory
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        own_mount().fs().clone()
    }

    fn attr(&self) -> Result<Attr> {
        let mut attr = attr_of(self, Kind::Directory, *self.node.owner.lock(), self.id);
        attr.nlink = 2 + self.children.lock().by_id.len() as u32;
        Ok(attr)
    }

    fn owner(&self) -> Result<Owner> {
        Ok(*self.node.owner.lock())
    }

    fn set_attr(&self, with: &SetAttr) -> Result<()> {
        change(&mut self.node.owner.lock(), with);
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        if self.is_dead() {
            return Err(Errno::ENOENT);
        }
        if let Some(child) = self.child(name) {
            return Ok(child);
        }
        self.this()?.file_named(name).ok_or(Errno::ENOENT)
    }

    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<InodeRef> {
        if node.kind != Kind::Directory {
            return Err(if node.kind == Kind::Regular { Errno::EACCES } else { Errno::EPERM });
        }
        let this = self.this()?;
        let child = this.make_child(&mut ids::table(), name, Node::new(node.mode, node.uid, node.gid))?;
        Ok(child)
    }

    fn rmdir(&self, name: &[u8], _: &InodeRef) -> Result<()> {
        let this = self.this()?;
        let removed = this.remove_child(&mut ids::table(), name)?;
        // Those who wait for news of it look, and find it gone.
        control::end(&removed);
        this.tell();
        Ok(())
    }

    fn readdir(&self, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        /// `.` and `..`.
        const FIRST: u64 = 2;
        let mut at = pos.max(FIRST);
        while let Some(file) = FILES.get((at - FIRST) as usize) {
            let ino = file_ino(self, (at - FIRST) as usize);
            let entry = DirEntry { name: file.name.as_bytes(), ino, kind: Kind::Regular, next: at + 1 };
            if !self.is_dead() && file.is_in(self) && !sink(&entry) {
                return Ok(at);
            }
            at += 1;
        }
        let base = FIRST + FILES.len() as u64;
        while let Some(child) = self.child_from(at - base) {
            let next = base + child.id + 1;
            if !sink(&DirEntry { name: &child.name, ino: child.id, kind: Kind::Directory, next }) {
                break;
            }
            at = next;
        }
        Ok(at)
    }

    fn stale(&self) -> bool {
        self.is_dead()
    }

    /// Files come with controllers.
    fn stale_negative(&self, _: u64) -> bool {
        true
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Arc<[u8]>> {
        self.node.xattrs.get(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], put: Put) -> Result<()> {
        self.node.xattrs.set(name, value, put)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.node.xattrs.remove(name)
    }

    fn list_xattr(&self) -> Result<Vec<Box<[u8]>>> {
        Ok(self.node.xattrs.names())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn file_ino(group: &Cgroup, index: usize) -> u64 {
    FILE_INO + group.id * FILES_EACH + index as u64
}

/// A file of a group.
pub struct FileNode {
    group: Arc<Cgroup>,
    /// Which of [`FILES`].
    index: usize,
}

impl FileNode {
    fn control(&self) -> Result<&'static Control> {
        FILES.get(self.index).ok_or(Errno::ENODEV)
    }

    /// Whether the group still has it.
    fn is_there(&self) -> bool {
        !self.group.is_dead() && self.control().is_ok_and(|file| file.is_in(&self.group))
    }

    fn notice(&self) -> Option<&Notice> {
        self.control().ok()?.notice.map(|of| of(&self.group))
    }
}

impl Inode for FileNode {
    fn kind(&self) -> Kind {
        Kind::Regular
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        own_mount().fs().clone()
    }

    fn attr(&self) -> Result<Attr> {
        Ok(attr_of(&self.group, Kind::Regular, self.owner()?, file_ino(&self.group, self.index)))
    }

    fn owner(&self) -> Result<Owner> {
        Ok(self.group.node.file_owner(self.index))
    }

    /// Truncation is accepted and means nothing, so that `echo x > FILE` works.
    fn set_attr(&self, with: &SetAttr) -> Result<()> {
        let mut owner = self.owner()?;
        change(&mut owner, with);
        self.group.node.files.lock().entry(self.index).or_default().owner = Some(owner);
        Ok(())
    }

    fn open(self: Arc<Self>, context: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        let task = context.task.cloned().unwrap_or_else(task::current);
        Ok(Arc::new(Open {
            node: self,
            text: Mutex::new(Rank::SleepLeaf, None),
            seen: AtomicU64::new(0),
            cred: task.cred(),
            base: task.ns().cgroup.root.clone(),
        }))
    }

    fn stale(&self) -> bool {
        !self.is_there()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open file, with who opened it.
struct Open {
    node: Arc<FileNode>,
    /// Made at the first read at 0 and kept until the next one, so that a file read in pieces is consistent.
    text: Mutex<Option<Arc<[u8]>>>,
    /// The change that was there when it was read.
    seen: AtomicU64,
    cred: Arc<Cred>,
    /// The root of the opener's cgroup namespace.
    base: Arc<Cgroup>,
}

impl FileOps for Open {
    fn read_at(&self, _: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize> {
        if !self.node.is_there() {
            return Err(Errno::ENODEV);
        }
        let missing = self.text.lock().is_none();
        if offset == 0 || missing {
            umbel_mm::heap::room()?;
            let show = self.node.control()?.show.ok_or(Errno::EINVAL)?;
            // Before it is looked at: what comes later is news.
            let seen = self.node.notice().map_or(0, |notice| notice.count.load(Relaxed));
            let made = show(&self.node.group)?;
            self.seen.store(seen, Relaxed);
            let old = self.text.lock().replace(made.into());
            drop(old);
        }
        // Copied to the guest outside the lock: that may fault.
        let text = self.text.lock().clone();
        let rest = text.as_deref().and_then(|text| text.get(offset as usize..)).unwrap_or(&[]);
        dst.write(rest)
    }

    fn write_at(&self, _: &File, src: &mut IoSrc<'_>, _: u64) -> Result<usize> {
        let file = self.node.control()?;
        let store = file.store.ok_or(Errno::EINVAL)?;
        let group = &self.node.group;
        if src.remaining() > WRITE_MAX {
            return Err(Errno::E2BIG);
        }
        let mut bytes = alloc::vec![0; src.remaining()];
        let count = src.read(&mut bytes)?;
        let text = bytes.get(..count).unwrap_or(&[]).trim_ascii();
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        if delegates() && !file.delegated && !self.base.is_root() && Arc::ptr_eq(&self.base, group) {
            return Err(Errno::EPERM);
        }
        if !self.node.is_there() {
            return Err(Errno::ENODEV);
        }
        store(group, &task::current(), text, &Writer { cred: &self.cred, base: &self.base })?;
        Ok(count)
    }

    /// Every file tells of changes, though most never change.
    fn pollable(&self, _: &File) -> bool {
        true
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        let ready = PollEvents::READABLE | PollEvents::WRITABLE;
        let news = ready | PollEvents::ERR | PollEvents::PRI;
        if !self.node.is_there() {
            return news;
        }
        let Some(notice) = self.node.notice() else {
            // Nothing was read yet: that is news, too.
            return if self.text.lock().is_none() { news } else { ready };
        };
        if table.is_some_and(|table| table.register(&notice.queue).is_err()) {
            return PollEvents::ERR;
        }
        if self.seen.load(Relaxed) == notice.count.load(Relaxed) { ready } else { news }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
