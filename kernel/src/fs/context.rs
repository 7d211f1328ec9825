//! What a process's paths start from: current directory, root, umask. Shared by tasks made with `CLONE_FS`.

use super::Path;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

#[derive(Clone)]
struct Places {
    cwd: Path,
    root: Path,
}

/// Current directory, root directory and file mode mask.
pub struct FsContext {
    places: SpinLock<Places>,
    umask: AtomicU32,
}

impl FsContext {
    /// A context that starts in `cwd` under `root`, with the umask 022.
    pub fn new(cwd: Path, root: Path) -> Arc<FsContext> {
        Arc::new(FsContext {
            places: SpinLock::new(Rank::FsContext, Places { cwd, root }),
            umask: AtomicU32::new(0o022),
        })
    }

    /// A copy, for fork(2).
    pub fn duplicate(&self) -> Arc<FsContext> {
        let places = self.places.lock().clone();
        Arc::new(FsContext { places: SpinLock::new(Rank::FsContext, places), umask: AtomicU32::new(self.umask()) })
    }

    /// The current directory.
    pub fn cwd(&self) -> Path {
        self.places.lock().cwd.clone()
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        self.places.lock().root.clone()
    }

    /// Changes the current directory.
    pub fn set_cwd(&self, cwd: Path) {
        // The old one is dropped after the lock.
        let _old = core::mem::replace(&mut self.places.lock().cwd, cwd);
    }

    /// Changes the root directory.
    pub fn set_root(&self, root: Path) {
        let _old = core::mem::replace(&mut self.places.lock().root, root);
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
