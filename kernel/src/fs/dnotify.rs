//! Watching directories by signals (`F_NOTIFY`). Source: fcntl(2), "File and directory change notification (dnotify)".
//!
//! One watch belongs to an open directory, and goes with the first close of a descriptor of it by its process.
//! Lock: `WATCHES` (rank Leaf, spinning); the table of [`super::notify`] is not touched under it.

use super::notify::{self, Event, Events, Watch};
use super::{File, sigio};
use crate::task::Task;
use crate::{Errno, Fd, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

/// `DN_MULTISHOT`: more than once.
pub const MULTISHOT: u32 = 0x8000_0000;
/// `DN_*` with the events that each stands for.
const MEANINGS: [(u32, Events); 5] = [
    (0x01, Events::ACCESS),
    (0x02, Events::MODIFY),
    (0x04, Events::CREATE.union(Events::MOVED_TO)),
    (0x08, Events::DELETE.union(Events::MOVED_FROM)),
    (0x20, Events::ATTRIB),
];

/// `DN_RENAME`: within the directory.
const RENAME: u32 = 0x10;

/// Watches by the number of the open file.
static WATCHES: SpinLock<BTreeMap<u64, Arc<DirWatch>>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

struct DirWatch {
    file: Weak<File>,
    fd: Fd,
    /// `DN_*`; 0 = over.
    wanted: AtomicU32,
}

impl Watch for DirWatch {
    fn tell(&self, event: &Event<'_>) {
        let wanted = self.wanted.load(Relaxed);
        // What happens to a subdirectory or a file in it counts, and so does the directory itself being read.
        let meant = MEANINGS.iter().any(|(bit, events)| wanted & bit != 0 && event.events.intersects(*events))
            || wanted & RENAME != 0 && event.within && event.events.contains(Events::MOVED_FROM);
        if !meant || event.unlinked {
            return;
        }
        if wanted & MULTISHOT == 0 && self.wanted.swap(0, Relaxed) == 0 {
            return;
        }
        if let Some(file) = self.file.upgrade() {
            sigio::send(&file, self.fd, sigio::code::POLL_MSG);
        }
    }

    fn ended(&self) {
        self.wanted.store(0, Relaxed);
    }
}

/// Asks for signals about the directory `file`, open as `fd`, beside what was asked for already; 0 = for none any more.
///
/// # Errors
/// `ENOTDIR`, `ENOMEM`.
pub fn set(task: &Arc<Task>, file: &Arc<File>, fd: Fd, wanted: u32) -> Result<()> {
    if wanted & !MULTISHOT == 0 {
        forget(file);
        return Ok(());
    }
    let path = file.path().filter(|path| path.is_dir()).ok_or(Errno::ENOTDIR)?;
    umbel_mm::heap::room()?;
    sigio::claim(task, file);
    let known = WATCHES.lock().get(&file.id()).cloned();
    let before = known.map_or(0, |watch| watch.wanted.load(Relaxed));
    forget(file);
    let wanted = AtomicU32::new(before | wanted);
    let watch = Arc::new(DirWatch { file: Arc::downgrade(file), fd, wanted });
    WATCHES.lock().insert(file.id(), watch.clone());
    notify::add(path, watch);
    Ok(())
}

/// The watch of `file` is over.
pub fn forget(file: &File) {
    let gone = WATCHES.lock().remove(&file.id());
    if let (Some(watch), Some(inode)) = (gone, file.inode()) {
        let watch: Arc<dyn Watch> = watch;
        notify::remove(&inode, &watch);
    }
}

/// Whether there is any watch: closing a directory looks no further when there is none.
pub fn is_used() -> bool {
    !WATCHES.lock().is_empty()
}
