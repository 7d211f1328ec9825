//! Files: the name space, open files, descriptor tables, and the file systems.
//!
//! * [`Inode`], [`FileSystem`]: what a file system implements. [`FileOps`]: what an open file does.
//! * [`Path`] in a tree of [`Mount`]s and cached dentries; `walk` turns names into paths.
//! * [`File`], [`FdTable`], [`FsContext`]: what a task holds.
//! * File systems: `tmpfs` (with the host's directory under it: the layered root), `host`, `devtmpfs`, [`pseudo`],
//!   `overlay` (what guests stack themselves).
//!
//! Users: the system calls in `syscall::{fs, io}`, the loader, `task`. Sources: path_resolution(7), inode(7).

pub mod acl;
pub mod ahead;
pub mod anon;
mod busy;
mod context;
pub mod dcache;
pub mod dentry;
pub mod devtmpfs;
pub mod dnotify;
pub mod fanotify;
mod fdtable;
mod file;
pub mod fsmount;
pub mod handle;
pub mod host;
mod init;
mod inode;
pub mod inotify;
pub mod lease;
pub mod lock;
mod mount;
pub mod mounting;
mod names;
pub mod notify;
pub mod ops;
mod overlay;
pub mod perm;
pub mod plain;
pub mod proc;
pub mod pseudo;
pub mod secret;
pub mod sigio;
pub mod sys;
pub mod tmpfs;
pub mod tree;
mod types;
pub mod walk;
pub mod xattr;

pub use busy::{Busy, Running, Writing};
pub use context::FsContext;
pub use dcache::settle;
pub use dentry::Dentry;
pub use fdtable::{FdTable, NR_OPEN, OnExec};
pub use file::{File, open_files};
pub use init::{init, mount_at, root, with_kernel_names};
pub use inode::{DirEntry, DirSink, FileSystem, Inode, InodeRef, LinkTarget, NewNode, RenameMode, Seen};
pub use mount::{Mount, MountFlags, Path};
pub use mounting::{MountRequest, mount};
pub use names::{Existing, Name, Names, Removal, register_fifo};
pub use ops::{FileOps, OpenContext, Whence};
pub use tree::{MountNamespace, attach};
pub use types::{Attr, Dev, InodeFlags, Kind, Mode, OpenFlags, Owner, PollEvents, SetAttr, StatFs, Time, check_name};
pub use umbel_mm::io::{IoDst, IoSrc};
pub use umbel_smp::wait::PollTable;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::any::{Any, TypeId};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

/// Things that other subsystems attach to an inode, one of a type.
pub struct Extra(SpinLock<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl Extra {
    /// Nothing attached.
    pub const fn new() -> Extra {
        Extra(SpinLock::new(Rank::InodeState, BTreeMap::new()))
    }

    /// The attached `T`, made by `make` if there is none.
    pub fn get_or_insert<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(found) = self.get() {
            return found;
        }
        let made = make();
        let mut map = self.0.lock();
        let entry: Arc<dyn Any + Send + Sync> = map.entry(TypeId::of::<T>()).or_insert(made.clone()).clone();
        drop(map);
        entry.downcast().unwrap_or(made)
    }

    /// The attached `T`.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let found = self.0.lock().get(&TypeId::of::<T>()).cloned();
        found?.downcast().ok()
    }
}

impl Default for Extra {
    fn default() -> Self {
        Self::new()
    }
}

/// An inode number no other in-memory object has.
pub fn next_ino() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(2);
    NEXT.fetch_add(1, Relaxed)
}

/// A device number for a file system without a device (major 0).
pub fn next_dev() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(20);
    Dev::new(0, NEXT.fetch_add(1, Relaxed) as u32).encode()
}

#[cfg(test)]
mod tests;
