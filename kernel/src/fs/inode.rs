//! The interface between the name space and the file systems.
//!
//! An [`Inode`] is one object of a [`FileSystem`]. Operations on names are called under the directory's lock (see
//! [`super::dentry`]), so a file system sees no two changes of one directory at once. Permissions, read-only mounts
//! and sticky bits have been checked by the caller. Names are bytes without slash, 1 to 255 of them, never `.` or `..`.

use super::types::{Attr, Dev, InodeFlags, Kind, Mode, Owner, SetAttr, StatFs};
use super::{FileOps, OpenContext};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// A shared inode.
pub type InodeRef = Arc<dyn Inode>;

/// What to make: the argument of [`Inode::create`].
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    pub kind: Kind,
    /// Permission bits, umask applied.
    pub mode: Mode,
    pub uid: u32,
    pub gid: u32,
    /// For devices.
    pub rdev: Dev,
    /// For symbolic links.
    pub target: &'a [u8],
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    pub kind: Kind,
    /// Position from which a later call goes on after this entry.
    pub next: u64,
}

/// Takes entries; false = full, the entry was not taken.
pub type DirSink<'a> = dyn FnMut(&DirEntry<'_>) -> bool + 'a;

/// What the last component of a walk through a symbolic link leads to.
pub enum LinkTarget {
    /// Text, walked as any path.
    Text(Vec<u8>),
    /// An object itself (`/proc/PID/fd/N`, `exe`, `cwd`, `root`).
    Jump(super::Path),
}

/// What [`Inode::look`] finds.
pub enum Seen {
    Inode(InodeRef),
    /// All that was asked for: neither a directory nor a symbolic link.
    Attr(Attr),
}

/// Where a renamed object goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces what is there.
    Replace,
    /// `RENAME_EXCHANGE`.
    Exchange,
}

/// An object of a file system.
#[allow(unused_variables)]
pub trait Inode: Send + Sync + Any {
    /// What it is; never changes.
    fn kind(&self) -> Kind;

    /// Its file system.
    fn fs(&self) -> Arc<dyn FileSystem>;

    /// All attributes. `dev` is filled in by the caller if left 0.
    fn attr(&self) -> Result<Attr>;

    /// Mode and owner only: cheap, called for each component of a walk.
    fn owner(&self) -> Result<Owner> {
        Ok(self.attr()?.owner())
    }

    /// Its count of writers and programs, if it can be both.
    fn busy(&self) -> Option<&super::Busy> {
        None
    }

    /// Lets the running task in whoever owns it.
    fn admits_caller(&self) -> bool {
        false
    }

    /// What else restricts it.
    fn flags(&self) -> InodeFlags {
        InodeFlags::empty()
    }

    /// Changes [`Self::flags`]; `ENOTTY` where there are none. The caller has checked permissions.
    fn set_flags(&self, flags: InodeFlags) -> Result<()> {
        Err(Errno::ENOTTY)
    }

    /// Changes attributes.
    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Finds `name`. `ENOENT` may be remembered unless [`Self::volatile`].
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        Err(Errno::ENOTDIR)
    }

    /// As [`Self::lookup`], for somebody who wants attributes: these alone where an inode would be made for them only.
    fn look(&self, name: &[u8]) -> Result<Seen> {
        self.lookup(name).map(Seen::Inode)
    }

    /// The names of this directory that are likely to be looked at after `name`, if somebody looks at them in order.
    fn following(&self, name: &[u8]) -> Option<super::host::Following> {
        None
    }

    /// The attributes of what `name` is, neither a directory nor a link, that hold as long as nobody changes anything: see
    /// [`super::ahead`]. `known`: what the cache has.
    fn peek(&self, name: &[u8], known: Option<&InodeRef>) -> Option<Attr> {
        None
    }

    /// Makes a node named `name`, which does not exist.
    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<InodeRef> {
        Err(Errno::EPERM)
    }

    /// Makes a regular file without a name (`O_TMPFILE`), which may be given one if `linkable`.
    fn create_unnamed(&self, node: &NewNode<'_>, linkable: bool) -> Result<InodeRef> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives `target`, of the same file system, the further name `name`.
    fn link(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes a name that is not a directory's.
    fn unlink(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes an empty directory.
    fn rmdir(&self, name: &[u8], target: &InodeRef) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Moves `name`, which is `source`, to `new_name` in `new_dir` of the same file system, where `replaced` is now.
    fn rename(
        &self,
        name: &[u8],
        source: &InodeRef,
        new_dir: &InodeRef,
        new_name: &[u8],
        replaced: Option<&InodeRef>,
        mode: RenameMode,
    ) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// The text of a symbolic link.
    fn readlink(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// What a walk through this symbolic link continues with.
    fn follow(&self) -> Result<LinkTarget> {
        self.readlink().map(LinkTarget::Text)
    }

    /// Lists entries from `pos` on (`.` and `..` are positions 0 and 1 and not this function's); returns the position
    /// after the last entry taken.
    fn readdir(&self, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        Err(Errno::ENOTDIR)
    }

    /// Makes the operations of a new open file. Devices and fifos are opened by the caller, not by this.
    fn open(self: Arc<Self>, context: &OpenContext<'_>) -> Result<Arc<dyn FileOps>> {
        Err(Errno::ENXIO)
    }

    /// Its contents were read: the access time follows, at most once a day unless it changed since, or each time if
    /// `strict`.
    fn accessed(&self, strict: bool) {}

    /// Whether lookups must be repeated each time (procfs: the children come and go by themselves).
    fn volatile(&self) -> bool {
        false
    }

    /// Whether the name that led here may lead elsewhere by now, so that the cache must ask again: what lies on the host
    /// changes by itself.
    fn stale(&self) -> bool {
        false
    }

    /// Whether a name found missing in this directory at `since_ns` must be looked up again.
    fn stale_negative(&self, since_ns: u64) -> bool {
        false
    }

    /// The value of an extended attribute. `ENODATA` if there is none of the name.
    fn get_xattr(&self, name: &[u8]) -> Result<Arc<[u8]>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives an extended attribute a value.
    fn set_xattr(&self, name: &[u8], value: &[u8], put: super::xattr::Put) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Takes an extended attribute away.
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The names of all extended attributes.
    fn list_xattr(&self) -> Result<Vec<Box<[u8]>>> {
        Ok(Vec::new())
    }

    /// An access control list. `EOPNOTSUPP` where there can be none.
    fn acl(&self, which: super::acl::Which) -> Result<Option<super::acl::Acl>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Gives or takes away an access control list, and changes the mode with it. The caller has checked everything.
    fn set_acl(&self, which: super::acl::Which, acl: Option<super::acl::Acl>, mode: Option<Mode>) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// A place for what others attach to an inode: the pipe behind a fifo, a listening socket, locks.
    fn extra(&self) -> Option<&super::Extra> {
        None
    }

    /// For file systems to find their own type again.
    fn as_any(&self) -> &dyn Any;
}

/// A file system instance.
pub trait FileSystem: Send + Sync {
    /// Its type, as in /proc/filesystems.
    fn name(&self) -> &'static str;
    /// `st_dev` of its inodes.
    fn dev(&self) -> u64;
    /// Its root directory.
    fn root(&self) -> InodeRef;
    /// Facts.
    fn statfs(&self) -> Result<StatFs>;
    /// Changes options (remount).
    fn reconfigure(&self, _data: &[u8]) -> Result<()> {
        Ok(())
    }
    /// Options as /proc/PID/mounts shows them, each with a comma before it.
    fn options(&self) -> String {
        String::new()
    }
    /// How mountinfo shows a mount of the directory `root`, if not by its name.
    fn shown_root(&self, _root: &InodeRef) -> Option<Vec<u8>> {
        None
    }
    /// Called when the last mount of it goes.
    fn unmounted(&self) {}
}
