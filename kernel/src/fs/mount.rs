//! Mounts and paths: which file system is where, and a place in that tree.
//!
//! [`TABLE`] maps (mount, dentry) to the mount on top of it. A mount belongs to one name space, or to none while it is
//! detached; [`super::tree`] changes all this. Locks (spinning, rank Dentry, nothing taken under them): `TABLE`, `ALL`.

use super::dentry::Dentry;
use super::inode::{FileSystem, InodeRef};
use super::types::{Attr, Kind};
use crate::task::Cred;
use crate::task::ns::UserNs;
use crate::task::ns::user::Which;
use crate::{Errno, Result, room};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use umbel_smp::lock::{Once, Rank, RwLock, SpinLock};

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

/// A file system that is mounted at least once, and what is the same for all its mounts.
pub struct Super {
    fs: Arc<dyn FileSystem>,
    source: Vec<u8>,
    read_only: AtomicBool,
    /// The user namespace that it was made in; the first one, unless that was said.
    owner: Once<Arc<UserNs>>,
}

impl Drop for Super {
    /// The last mount of it, and the last user of that, is gone.
    fn drop(&mut self) {
        super::notify::unmounted(self.fs.dev());
        self.fs.unmounted();
    }
}

/// How changes below a mount reach others. Groups are numbers; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// Whose members see each other's changes (shared).
    pub group: u32,
    /// Whose changes it sees (slave).
    pub master: u32,
    pub unbindable: bool,
}

impl Propagation {
    /// A member of a group sees its changes from now on, and no more.
    pub(super) fn enslave(&mut self) {
        if self.group != 0 {
            (self.master, self.group) = (self.group, 0);
        }
    }
}

/// A file system, or a part of it, in the tree.
pub struct Mount {
    id: u32,
    shared: Arc<Super>,
    pub(super) root: Arc<Dentry>,
    /// Where it is mounted; `None` for the first of a name space and for detached ones. Changed by `tree` only.
    pub(super) at: RwLock<Option<Path>>,
    flags: AtomicU32,
    pub(super) propagation: SpinLock<Propagation>,
    /// The name space; 0 = detached.
    pub(super) namespace: AtomicU64,
    /// `MNT_EXPIRE` was asked for, and nobody came by since.
    pub(super) expiring: AtomicBool,
    /// Files open for writing.
    pub(super) writers: AtomicUsize,
    /// It came from a more privileged name space as part of a tree: it is not taken out of that (`MNT_LOCKED`).
    pub(super) locked: AtomicBool,
    /// Flags that came from there and stay; [`KEPT_TIMES`] with them.
    kept: AtomicU32,
}

/// Flags that a less privileged name space does not clear.
const KEEPS: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// What is done about access times; and that it stays.
const TIMES: MountFlags = MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::STRICTATIME);
const KEPT_TIMES: u32 = 1 << 31;

/// A place: a dentry as seen through a mount. Its dentry has an inode.
#[derive(Clone)]
pub struct Path {
    mount: Arc<Mount>,
    dentry: Arc<Dentry>,
    inode: InodeRef,
}

type Table = BTreeMap<(u32, usize), Arc<Mount>>;

pub(super) static TABLE: RwLock<Table> = RwLock::new(Rank::Dentry, BTreeMap::new());
/// Every mount, attached or not.
static ALL: SpinLock<BTreeMap<u32, Weak<Mount>>> = SpinLock::new(Rank::Dentry, BTreeMap::new());
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

impl Mount {
    /// A mount of all of `fs`, not yet in the tree.
    pub fn new(fs: Arc<dyn FileSystem>, source: &[u8], flags: MountFlags) -> Arc<Mount> {
        let root = Dentry::root(fs.root());
        let shared = Super { fs, source: source.to_vec(), read_only: AtomicBool::new(false), owner: Once::new() };
        Self::build(Arc::new(shared), root, flags, Propagation::default())
    }

    /// Another mount of the same file system, or of the part of it below `root`, that propagates as this one does.
    pub fn again(&self, root: &Arc<Dentry>) -> Arc<Mount> {
        let mut propagation = *self.propagation.lock();
        propagation.unbindable = false;
        let copy = Self::build(self.shared.clone(), root.clone(), self.flags(), propagation);
        copy.locked.store(self.locked.load(Relaxed), Relaxed);
        copy.kept.store(self.kept.load(Relaxed), Relaxed);
        copy
    }

    /// As [`Self::again`], private and with flags of its own: what mount(2) of the same file system makes.
    pub fn fresh(&self, flags: MountFlags) -> Arc<Mount> {
        self.fresh_at(&self.root, flags)
    }

    /// The same of the part below `root`.
    pub fn fresh_at(&self, root: &Arc<Dentry>, flags: MountFlags) -> Arc<Mount> {
        Self::build(self.shared.clone(), root.clone(), flags, Propagation::default())
    }

    fn build(shared: Arc<Super>, root: Arc<Dentry>, flags: MountFlags, propagation: Propagation) -> Arc<Mount> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let mount = Arc::new(Mount {
            id,
            shared,
            root,
            at: RwLock::new(Rank::Leaf, None),
            flags: AtomicU32::new(flags.bits()),
            propagation: SpinLock::new(Rank::Leaf, propagation),
            namespace: AtomicU64::new(0),
            expiring: AtomicBool::new(false),
            writers: AtomicUsize::new(0),
            locked: AtomicBool::new(false),
            kept: AtomicU32::new(0),
        });
        ALL.lock().insert(id, Arc::downgrade(&mount));
        mount
    }

    /// Its number, as in /proc/PID/mountinfo.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What [`Self::unique_id`] is above of.
    pub const UNIQUE_BASE: u64 = 1 << 31;

    /// Its number, as statx(2) and statmount(2) have it: never used again, and never mistaken for [`Self::id`].
    pub fn unique_id(&self) -> u64 {
        Self::UNIQUE_BASE + u64::from(self.id)
    }

    /// Its file system.
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.shared.fs
    }

    /// The user namespace that its file system was made in: who is privileged there may change it.
    pub fn fs_owner(&self) -> Arc<UserNs> {
        self.shared.owner.get().cloned().unwrap_or_else(UserNs::first)
    }

    /// Its file system, which is new, was made in `owner`.
    pub(super) fn set_fs_owner(&self, owner: &Arc<UserNs>) {
        // That of a file system that there was before stays.
        let _ = self.shared.owner.set(owner.clone());
    }

    /// Its flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Changes its flags.
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Relaxed);
    }

    /// A less privileged name space has it from now on: what restricts it stays.
    pub(super) fn keep_flags(&self) {
        self.kept.fetch_or((self.flags() & KEEPS).bits() | KEPT_TIMES, Relaxed);
    }

    /// Whether it came from a more privileged name space, as its file system then did.
    pub fn is_foreign(&self) -> bool {
        self.kept.load(Relaxed) & KEPT_TIMES != 0
    }

    /// Whether its flags may become `new`.
    ///
    /// # Errors
    /// `EPERM` if a more privileged name space set what they lack.
    pub fn check_flags(&self, new: MountFlags) -> Result<()> {
        let kept = self.kept.load(Relaxed);
        let less = kept & !KEPT_TIMES & !new.bits() != 0;
        let times = kept & KEPT_TIMES != 0 && (new ^ self.flags()).intersects(TIMES);
        if less || times { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Whether one with the flags `new` is as strict as this must stay.
    pub(super) fn admits(&self, new: MountFlags) -> bool {
        let kept = self.kept.load(Relaxed);
        let read_only = kept & MountFlags::RDONLY.bits() != 0 || self.fs_read_only();
        let times = kept & KEPT_TIMES != 0 && (new ^ self.flags()).intersects(TIMES);
        (new.contains(MountFlags::RDONLY) || !read_only) && !times
    }

    /// It stays as strict as `other` must: a mount of the same in a less privileged name space.
    pub(super) fn keep_as(&self, other: &Mount) {
        let read_only = if other.fs_read_only() { MountFlags::RDONLY.bits() } else { 0 };
        let kept = other.kept.load(Relaxed) & MountFlags::RDONLY.bits();
        self.kept.fetch_or(kept | read_only, Relaxed);
    }

    /// Whether no mount of the file system may be written to.
    pub fn fs_read_only(&self) -> bool {
        self.shared.read_only.load(Relaxed)
    }

    /// Changes whether the file system may be written to, through whatever mount.
    pub fn set_fs_read_only(&self, read_only: bool) {
        self.shared.read_only.store(read_only, Relaxed);
    }

    /// Somebody came by: `MNT_EXPIRE` starts over.
    pub fn used(&self) {
        if self.expiring.load(Relaxed) {
            self.expiring.store(false, Relaxed);
        }
    }

    /// `attr`, of something in it, as a caller sees that who has just come by.
    pub fn shown(&self, attr: Attr) -> Attr {
        self.used();
        Attr { dev: if attr.dev == 0 { self.fs().dev() } else { attr.dev }, ..attr }
    }

    /// Whether a file is open for writing.
    pub fn has_writers(&self) -> bool {
        self.writers.load(Relaxed) != 0
    }

    /// What was given as the source.
    pub fn source(&self) -> &[u8] {
        &self.shared.source
    }

    /// How changes below it reach others.
    pub fn propagation(&self) -> Propagation {
        *self.propagation.lock()
    }

    /// The name space it belongs to; 0 = none.
    pub fn namespace(&self) -> u64 {
        self.namespace.load(Relaxed)
    }

    /// Its root.
    pub fn root_path(self: &Arc<Self>) -> Result<Path> {
        Path::new(self.clone(), self.root.clone())
    }

    /// Whether `dentry`, of its file system, lies in the part that it shows.
    fn shows(&self, dentry: &Arc<Dentry>) -> bool {
        self.root.parent().is_none() || self.root.is_ancestor_of(dentry)
    }

    /// The part of the file system that it shows, as a name within it.
    pub fn root_name(&self) -> Vec<u8> {
        let shown = self.root.inode().and_then(|root| self.fs().shown_root(root));
        shown.unwrap_or_else(|| self.root.name_below_root())
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> Option<Path> {
        self.at.read().clone()
    }

    /// `EROFS` where nothing may be written.
    pub fn check_writable(&self) -> Result<()> {
        let read_only = self.flags().contains(MountFlags::RDONLY) || self.fs_read_only();
        if read_only { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// `EOVERFLOW` for those who are nobody where its file system was made: what they make would belong to nobody.
    pub fn check_known(&self, cred: &Cred) -> Result<()> {
        let owner = self.fs_owner();
        let known = owner.find(Which::Users, cred.fsuid).is_some() && owner.find(Which::Groups, cred.fsgid).is_some();
        if known { Ok(()) } else { Err(Errno::EOVERFLOW) }
    }
}

impl core::fmt::Debug for Path {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "mount {}: {}", self.mount.id, alloc::string::String::from_utf8_lossy(&self.dentry.name()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        ALL.lock().remove(&self.id);
        super::dcache::mount_gone();
    }
}

/// Every mount, by number: each as it is when its turn comes. Takes no memory.
pub(super) fn all() -> impl Iterator<Item = Arc<Mount>> {
    room::one_by_one(&ALL)
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
        Ok(self.mount.shown(self.inode.attr()?))
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
    ///
    /// # Errors
    /// `ENOENT` if that is nowhere below what the mount shows: the directory was moved out of it.
    pub fn parent(&self, root: &Path) -> Result<Path> {
        let mut at = self.clone();
        loop {
            if at.same(root) {
                return Ok(at);
            }
            if !Arc::ptr_eq(&at.dentry, &at.mount.root) {
                let Some(parent) = at.dentry.parent() else { return Ok(at) };
                if !at.mount.shows(&parent) {
                    return Err(Errno::ENOENT);
                }
                return Ok(Path::new(at.mount.clone(), parent).map_or(at, Path::top));
            }
            match at.mount.mountpoint() {
                Some(mountpoint) => at = mountpoint,
                None => return Ok(at),
            }
        }
    }

    /// The absolute name below `root`, or below the top of its own tree if it is not there: what /proc/PID/fd shows. ` (deleted)` is put
    /// behind a removed one.
    pub fn display(&self, root: &Path) -> Vec<u8> {
        let (mut names, _) = self.names_to(root);
        let mut out = Vec::new();
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

    pub(super) fn key(&self) -> (u32, usize) {
        (self.mount.id, Arc::as_ptr(&self.dentry) as usize)
    }
}
