//! Mounts and paths: which file system is where, and a place in that tree.
//!
//! One name space for all. [`TABLE`] maps (mount, dentry) to the mount on top of it. Lock: `TABLE` (spinning, rank
//! Dentry, nothing taken under it).

use super::dentry::Dentry;
use super::inode::{FileSystem, InodeRef};
use super::types::{Attr, Kind};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_smp::lock::{Rank, RwLock};

bitflags::bitflags! {
    /// Flags of a mount, as mount(2) has them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        const RDONLY = 1;
        const NOSUID = 2;
        const NODEV = 4;
        const NOEXEC = 8;
        const NOSYMFOLLOW = 256;
        const NOATIME = 1024;
        const NODIRATIME = 2048;
        const STRICTATIME = 1 << 24;
        /// Not part of the tree: names in it are shown without their place.
        const INTERNAL = 1 << 26;
    }
}

/// A file system, or a part of it, in the tree.
pub struct Mount {
    id: u32,
    fs: Arc<dyn FileSystem>,
    root: Arc<Dentry>,
    /// Where it is mounted; `None` for the first. Protected by `TABLE`.
    at: RwLock<Option<Path>>,
    flags: AtomicU32,
    source: Vec<u8>,
}

/// A place: a dentry as seen through a mount. Its dentry has an inode.
#[derive(Clone)]
pub struct Path {
    mount: Arc<Mount>,
    dentry: Arc<Dentry>,
    inode: InodeRef,
}

type Table = BTreeMap<(u32, usize), Arc<Mount>>;

static TABLE: RwLock<Table> = RwLock::new(Rank::Dentry, BTreeMap::new());
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl Mount {
    /// A mount of all of `fs`, not yet in the tree.
    pub fn new(fs: Arc<dyn FileSystem>, source: &[u8], flags: MountFlags) -> Arc<Mount> {
        let root = Dentry::root(fs.root());
        Self::of(fs, root, source, flags)
    }

    /// A mount of the part of `fs` below `root` (bind mounts).
    pub fn of(fs: Arc<dyn FileSystem>, root: Arc<Dentry>, source: &[u8], flags: MountFlags) -> Arc<Mount> {
        Arc::new(Mount {
            id: NEXT_ID.fetch_add(1, Relaxed),
            fs,
            root,
            at: RwLock::new(Rank::Leaf, None),
            flags: AtomicU32::new(flags.bits()),
            source: source.to_vec(),
        })
    }

    /// Its number, as in /proc/PID/mountinfo.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its file system.
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }

    /// Its flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Changes its flags (`MS_REMOUNT`).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Relaxed);
    }

    /// What was given as the source.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Its root.
    pub fn root_path(self: &Arc<Self>) -> Result<Path> {
        Path::new(self.clone(), self.root.clone())
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> Option<Path> {
        self.at.read().clone()
    }

    /// `EROFS` on a read-only mount.
    pub fn check_writable(&self) -> Result<()> {
        if self.flags().contains(MountFlags::RDONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }
}

impl Path {
    /// A place with an inode; `ENOENT` if the dentry is negative.
    pub fn new(mount: Arc<Mount>, dentry: Arc<Dentry>) -> Result<Path> {
        let inode = dentry.inode().ok_or(Errno::ENOENT)?.clone();
        Ok(Path { mount, dentry, inode })
    }

    /// The mount.
    pub fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }

    /// The dentry.
    pub fn dentry(&self) -> &Arc<Dentry> {
        &self.dentry
    }

    /// The inode.
    pub fn inode(&self) -> &InodeRef {
        &self.inode
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.inode.kind() == Kind::Directory
    }

    /// All attributes.
    pub fn attr(&self) -> Result<Attr> {
        let mut attr = self.inode.attr()?;
        if attr.dev == 0 {
            attr.dev = self.mount.fs.dev();
        }
        Ok(attr)
    }

    /// Whether it is what its mount shows at its place.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, &self.mount.root)
    }

    /// What is here was read: the access time follows as the mount's flags say.
    pub fn accessed(&self) {
        let flags = self.mount.flags();
        let none = flags.intersects(MountFlags::NOATIME | MountFlags::RDONLY)
            || flags.contains(MountFlags::NODIRATIME) && self.is_dir();
        if !none {
            self.inode.accessed(flags.contains(MountFlags::STRICTATIME));
        }
    }

    /// Whether both are the same place.
    pub fn same(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// The same place seen through what is mounted on it, if anything.
    pub fn top(mut self) -> Path {
        while self.dentry.is_mountpoint() {
            let Some(mount) = TABLE.read().get(&self.key()).cloned() else { break };
            let Ok(path) = mount.root_path() else { break };
            self = path;
        }
        self
    }

    /// The directory above, not above `root`.
    pub fn parent(&self, root: &Path) -> Path {
        let mut at = self.clone();
        loop {
            if at.same(root) {
                return at;
            }
            if !Arc::ptr_eq(&at.dentry, &at.mount.root) {
                let Some(parent) = at.dentry.parent() else { return at };
                return match Path::new(at.mount.clone(), parent) {
                    Ok(path) => path.top(),
                    Err(_) => at,
                };
            }
            match at.mount.mountpoint() {
                Some(mountpoint) => at = mountpoint,
                None => return at,
            }
        }
    }

    /// The absolute name below `root`: what getcwd(2) and /proc/PID/fd show. `(unreachable)` is put before a place not below
    /// `root`, ` (deleted)` behind a removed one.
    pub fn display(&self, root: &Path) -> Vec<u8> {
        let (mut names, reached) = self.names_to(root);
        let mut out = Vec::new();
        if !reached && !self.mount.flags().contains(MountFlags::INTERNAL) {
            out.extend_from_slice(b"(unreachable)");
        }
        if names.is_empty() {
            out.push(b'/');
        }
        while let Some(name) = names.pop() {
            out.push(b'/');
            out.extend_from_slice(&name);
        }
        if self.is_deleted() {
            out.extend_from_slice(b" (deleted)");
        }
        out
    }

    /// Whether `root` is at or above.
    pub fn is_below(&self, root: &Path) -> bool {
        self.names_to(root).1
    }

    /// Whether its name was removed.
    pub fn is_deleted(&self) -> bool {
        self.dentry.is_unhashed()
            && self.dentry.parent().and_then(|parent| parent.inode().map(|dir| !dir.volatile())).unwrap_or(false)
    }

    /// Names from here up to `root`, and whether `root` was met.
    fn names_to(&self, root: &Path) -> (Vec<Vec<u8>>, bool) {
        let mut names = Vec::new();
        let mut at = self.clone();
        loop {
            if at.same(root) {
                return (names, true);
            }
            if Arc::ptr_eq(&at.dentry, &at.mount.root) {
                match at.mount.mountpoint() {
                    Some(mountpoint) => at = mountpoint,
                    None => return (names, false),
                }
                continue;
            }
            names.push(at.dentry.name());
            let Some(Ok(up)) = at.dentry.parent().map(|parent| Path::new(at.mount.clone(), parent)) else {
                return (names, false);
            };
            at = up;
        }
    }

    fn key(&self) -> (u32, usize) {
        (self.mount.id, Arc::as_ptr(&self.dentry) as usize)
    }
}

/// Puts `mount` on `place`.
pub fn attach(mount: &Arc<Mount>, place: Path) -> Result<()> {
    if place.is_dir() != mount.root_path()?.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let place = place.top();
    *mount.at.write() = Some(place.clone());
    place.dentry.mounts.fetch_add(1, Relaxed);
    TABLE.write().insert(place.key(), mount.clone());
    Ok(())
}

/// Takes the mount whose root is `path` away; `EBUSY` if something is mounted below it and not `lazy`.
pub fn detach(path: &Path, lazy: Lazy) -> Result<()> {
    let mount = &path.mount;
    if !Arc::ptr_eq(&path.dentry, &mount.root) {
        return Err(Errno::EINVAL);
    }
    let place = mount.mountpoint().ok_or(Errno::EBUSY)?;
    let mut table = TABLE.write();
    if lazy == Lazy::No && table.keys().any(|key| key.0 == mount.id) {
        return Err(Errno::EBUSY);
    }
    let removed = table.remove(&place.key());
    drop(table);
    if removed.is_none() {
        return Err(Errno::EINVAL);
    }
    place.dentry.mounts.fetch_sub(1, Relaxed);
    *mount.at.write() = None;
    if !list().iter().any(|other| Arc::ptr_eq(&other.fs, &mount.fs)) {
        super::notify::unmounted(mount.fs.dev());
        mount.fs.unmounted();
    }
    Ok(())
}

/// Whether umount(2) waits for users (`MNT_DETACH`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lazy {
    No,
    Yes,
}

/// All mounts in the tree but the first, by number: for /proc/mounts.
pub fn list() -> Vec<Arc<Mount>> {
    let mut list: Vec<_> = TABLE.read().values().cloned().collect();
    list.sort_by_key(|mount| mount.id);
    list
}
