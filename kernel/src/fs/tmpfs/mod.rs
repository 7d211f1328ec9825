//! Files in RAM, with or without a directory of the host under them.
//!
//! A [`TmpFs`] is a tree of [`Node`]s. Without a lower layer it is tmpfs. With one it is the layered root: directories
//! show the host's entries where they have none of their own and whiteouts where names were removed; files read from
//! the host until the first write, which copies them whole. A node made from the host's is *unpinned*: it may be forgotten
//! and made again. Its first change pins it, and the directories above it, into the tree.
//!
//! * [`Node`]: attributes and names. `dir`: entries. `content`: file pages. `file`: open files and mappings.
//!   `seals`: what nobody may do to a file any more.
//!
//! Locks: `Node::place` (Dentry), then `entries` or `state` or `pages` (InodeState; never nested); sleeping: `write`
//! (Inode) for everything that changes a file's contents. Source: tmpfs(5), Linux's overlayfs documentation.

mod content;
mod dir;
mod file;
mod node;
mod options;
mod pages;
mod seals;

pub use node::Node;
pub use options::Options;

use super::dentry::Dentry;
use super::host::HostNode;
use super::inode::{FileSystem, InodeRef};
use super::types::{Kind, Mode, StatFs};
use super::{File, Mount, MountFlags, Names, NewNode, OpenFlags, Path, next_dev, next_ino};
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Once, Rank, SpinLock};

/// Bytes of the kernel's heap that new files leave to others.
const HEAP_MARGIN: u64 = 2 << 20;

const TMPFS_MAGIC: u32 = 0x0102_1994;
const OVERLAYFS_MAGIC: u32 = 0x794c_7630;

/// A file system in RAM.
pub struct TmpFs {
    name: &'static str,
    dev: u64,
    root: Once<Arc<Node>>,
    /// Most pages of data; `u64::MAX` = as RAM allows.
    limit: AtomicU64,
    /// Most inodes; `u64::MAX` = as memory allows.
    inode_limit: AtomicU64,
    /// What it was mounted with; limits that a remount changed included.
    options: SpinLock<Options>,
    /// The host's device of the lower layer's root.
    lower_dev: Option<u64>,
    pages: AtomicU64,
    inodes: AtomicU64,
}

impl TmpFs {
    /// An empty file system whose root has `mode`; at most `limit` pages of data.
    pub fn new(name: &'static str, mode: Mode, limit: u64) -> Arc<TmpFs> {
        let pages = if limit == u64::MAX { 0 } else { limit };
        Self::with(name, &Options { mode: Some(mode), pages: Some(pages), ..Options::default() }, (0, 0))
    }

    /// An empty file system as a mount wants it: half of RAM and one inode for each two pages of it unless told otherwise.
    /// Its root is `owner`'s, who mounts it.
    pub fn with(name: &'static str, options: &Options, owner: (u32, u32)) -> Arc<TmpFs> {
        let half = umbel_mm::frame::usage().total / 2;
        let fs = Self::build(name, limit_of(options.pages, half), None);
        fs.inode_limit.store(limit_of(options.inodes, u64::MAX), Relaxed);
        *fs.options.lock() = *options;
        let (uid, gid) = (options.uid.unwrap_or(owner.0), options.gid.unwrap_or(owner.1));
        let mode = options.mode.unwrap_or(0o1777);
        let root = NewNode { kind: Kind::Directory, mode, uid, gid, rdev: Default::default(), target: &[] };
        let node = Node::new(&fs, &root);
        // A new cell takes its first value.
        let _ = fs.root.set(node);
        fs
    }

    /// The layered root over the host's directory `lower`.
    pub fn layered(lower: Arc<HostNode>) -> Result<Arc<TmpFs>> {
        let fs = Self::build("overlay", u64::MAX, Some(lower.identity().0));
        let root = Node::over(&fs, lower, None)?;
        let _ = fs.root.set(root);
        Ok(fs)
    }

    fn build(name: &'static str, limit: u64, lower_dev: Option<u64>) -> Arc<TmpFs> {
        Arc::new(TmpFs {
            name,
            dev: next_dev(),
            root: Once::new(),
            limit: AtomicU64::new(limit),
            inode_limit: AtomicU64::new(u64::MAX),
            options: SpinLock::new(Rank::Leaf, Options::default()),
            lower_dev,
            pages: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
        })
    }

    /// The inode number that stands for the host's `ino` on `dev`: its own on the root's device.
    fn lower_ino(&self, dev: u64, ino: u64) -> u64 {
        if self.lower_dev == Some(dev) { ino } else { ino ^ dev.rotate_left(40) }
    }

    /// A new inode number, far from the host's.
    fn new_ino(&self) -> u64 {
        let ino = next_ino();
        if self.lower_dev.is_some() { ino | 1 << 60 } else { ino }
    }

    /// Whether a directory of the host lies below.
    fn is_layered(&self) -> bool {
        self.lower_dev.is_some()
    }

    /// Whether its limit leaves no page.
    fn is_full(&self) -> bool {
        self.pages.load(Relaxed) >= self.limit.load(Relaxed)
    }

    /// Accounts for up to `want` more pages, at least one. `ENOSPC`.
    fn charge(&self, want: u64) -> Result<u64> {
        // A sixteenth of RAM is never a file's: programs must be able to remove one.
        let ram = umbel_mm::frame::usage();
        let spare = ram.free.saturating_sub(ram.total / 16);
        let limit = self.limit.load(Relaxed);
        let room = |used: u64| limit.saturating_sub(used).min(want).min(spare);
        let more = |used: u64| Some(used + room(used)).filter(|_| room(used) > 0);
        self.pages.fetch_update(Relaxed, Relaxed, more).map(room).map_err(|_| Errno::ENOSPC)
    }

    fn uncharge(&self, count: u64) {
        self.pages.fetch_sub(count, Relaxed);
    }
}

/// A limit as an option gives it: 0 = none.
fn limit_of(option: Option<u64>, usual: u64) -> u64 {
    match option {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None => usual,
    }
}

/// A file without a name (memfd_create(2)), open for reading and writing, with this mode and these seals.
pub fn memory_file(name: &[u8], owner: &Names<'_>, mode: Mode, seals: u32) -> Result<Arc<File>> {
    static MOUNT: Once<Arc<Mount>> = Once::new();
    let mount = MOUNT.call_once(|| Mount::new(TmpFs::new("tmpfs", 0o700, u64::MAX), b"tmpfs", MountFlags::INTERNAL));
    let root = mount.root_path()?;
    let inode = root.inode().create_unnamed(&NewNode { mode, ..owner.node(Kind::Regular, 0) }, false)?;
    let node = inode.as_any().downcast_ref::<Node>().ok_or(Errno::EIO)?.this()?;
    node.content()?.seals.start(seals);
    let name = [b"memfd:".as_slice(), name].concat();
    let path = Path::new(mount.clone(), Dentry::unnamed(root.dentry(), &name, inode))?;
    // Not counted as a writer, as on Linux: the file can be run while this descriptor is open.
    Ok(File::new(path, node, OpenFlags::RDWR | OpenFlags::LARGEFILE))
}

/// Pages that all file systems in RAM hold, for /proc/meminfo's `Shmem`.
pub fn total_pages() -> u64 {
    content::TOTAL.load(Relaxed)
}

impl FileSystem for TmpFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> InodeRef {
        match self.root.get() {
            Some(root) => root.clone(),
            // Never: both constructors set it.
            None => super::pseudo::empty_dir(),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        let ram = umbel_mm::frame::usage();
        let used = self.pages.load(Relaxed);
        let blocks = self.limit.load(Relaxed).min(ram.total);
        let files = self.inode_limit.load(Relaxed).min(ram.total);
        let layered = self.name == "overlay";
        Ok(StatFs {
            magic: if layered { OVERLAYFS_MAGIC } else { TMPFS_MAGIC },
            block_size: 4096,
            blocks,
            free: blocks.saturating_sub(used).min(ram.free),
            files,
            files_free: files.saturating_sub(self.inodes.load(Relaxed)),
            fsid: self.dev,
        })
    }

    fn reconfigure(&self, data: &[u8]) -> Result<()> {
        let new = Options::parse(data)?;
        for (option, used, limit) in
            [(new.pages, &self.pages, &self.limit), (new.inodes, &self.inodes, &self.inode_limit)]
        {
            if option.is_some() {
                let wanted = limit_of(option, u64::MAX);
                if wanted < used.load(Relaxed) {
                    return Err(Errno::EINVAL);
                }
                limit.store(wanted, Relaxed);
            }
        }
        let mut options = self.options.lock();
        options.pages = new.pages.or(options.pages);
        options.inodes = new.inodes.or(options.inodes);
        Ok(())
    }

    fn options(&self) -> String {
        self.options.lock().describe()
    }

    fn unmounted(&self) {
        if let Some(root) = self.root.get() {
            root.clear();
        }
    }
}
