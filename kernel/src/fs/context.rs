//! What a process's paths start from: current directory, root, mounts, umask. Shared by tasks made with `CLONE_FS`.

use super::Path;
use super::ahead;
use super::tree::{self, MountNamespace};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

#[derive(Clone)]
struct Places {
    cwd: Path,
    root: Path,
    /// The tree of mounts that mount(2) changes and /proc shows; `None` where there is no tree (unit tests).
    namespace: Option<Arc<MountNamespace>>,
}

/// Current directory, root directory and file mode mask.
pub struct FsContext {
    places: SpinLock<Places>,
    umask: AtomicU32,
    /// Threads that have it.
    users: AtomicUsize,
}

impl FsContext {
    /// A context that starts in `cwd` under `root`, with the umask 022.
    pub fn new(cwd: Path, root: Path) -> Arc<FsContext> {
        let namespace = tree::namespace_of(root.mount());
        Arc::new(FsContext {
            places: SpinLock::new(Rank::FsContext, Places { cwd, root, namespace }),
            umask: AtomicU32::new(0o022),
            users: AtomicUsize::new(0),
        })
    }

    /// A copy, for fork(2).
    pub fn duplicate(&self) -> Arc<FsContext> {
        let places = self.places.lock().clone();
        let (places, umask) = (SpinLock::new(Rank::FsContext, places), AtomicU32::new(self.umask()));
        Arc::new(FsContext { places, umask, users: AtomicUsize::new(0) })
    }

    /// Threads that have it.
    pub fn users(&self) -> usize {
        self.users.load(Relaxed)
    }

    /// A thread has it from now on.
    pub fn join(&self) {
        self.users.fetch_add(1, Relaxed);
    }

    /// A thread that had it has it no more.
    pub fn leave(&self) {
        self.users.fetch_sub(1, Relaxed);
    }

    /// The current directory.
    pub fn cwd(&self) -> Path {
        self.places.lock().cwd.clone()
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        self.places.lock().root.clone()
    }

    /// Whether the root directory is not that of all mounts.
    pub fn is_chrooted(&self) -> bool {
        let top = self.namespace().and_then(|space| space.root().root_path().ok());
        top.is_none_or(|top| !top.top().same(&self.root()))
    }

    /// Changes the current directory.
    pub fn set_cwd(&self, cwd: Path) {
        let _change = ahead::change();
        // The old one is dropped after the lock.
        let _old = core::mem::replace(&mut self.places.lock().cwd, cwd);
    }

    /// Changes the root directory.
    pub fn set_root(&self, root: Path) {
        let _change = ahead::change();
        let _old = core::mem::replace(&mut self.places.lock().root, root);
    }

    /// The tree of mounts.
    pub fn namespace(&self) -> Option<Arc<MountNamespace>> {
        self.places.lock().namespace.clone()
    }

    /// Changes all places at once: another tree of mounts, and where in it (unshare(2), setns(2)).
    pub fn set_places(&self, cwd: Path, root: Path, namespace: Option<Arc<MountNamespace>>) {
        let _change = ahead::change();
        let _old = core::mem::replace(&mut *self.places.lock(), Places { cwd, root, namespace });
    }

    /// Root and current directory `old` become `new` (pivot_root(2)).
    pub fn replace(&self, old: &Path, new: &Path) {
        let (cwd, root) = (self.cwd(), self.root());
        if cwd.same(old) {
            self.set_cwd(new.clone());
        }
        if root.same(old) {
            self.set_root(new.clone());
        }
    }

    /// The file mode mask.
    pub fn umask(&self) -> u32 {
        self.umask.load(Relaxed)
    }

    /// Sets the mask; returns the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Relaxed)
    }
}
