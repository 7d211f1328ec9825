//! Groups that are told what happens to files, and asked whether it may: the queue of events behind a descriptor.
//! Source: fanotify(7), fanotify_init(2), fanotify_mark(2); which marks and which records an event has is Linux's.
//!
//! A [`Group`] has marks on inodes, mounts and file systems ([`marks`]). What happens is shown to each group as an [`Origin`]: what
//! is opened, read, written or closed by a [`Path`] ([`event`]), what is done to a name in a directory ([`entry`], [`moved`]), and to an
//! inode without a path ([`of_dentry`], [`own`]); for some it must be allowed first ([`permit`]): the thread waits until the listener
//! has answered or is gone. A listener gets each object as a descriptor of its own, whose use nobody is told ([`File::hush`]), or,
//! if it asked for them, as file handles ([`record`]), which keep nothing.
//!
//! Inode marks are [`notify::Watch`]es too, so that they end with their inode; what [`super::notify`] tells them is not theirs.
//!
//! With no mark in the whole machine each event costs one load. Locks: [`GROUPS`] (rank `Leaf`), a group's state (rank
//! `Endpoint`), never both; no path is dropped under them.

mod group;
mod marks;
mod record;

pub use group::{Group, new};
pub use marks::{Change, Object};

use super::dentry::Dentry;
use super::{InodeRef, Kind, Path};
use crate::Result;
use crate::setting::Setting;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use umbel_smp::lock::{Rank, SpinLock};

/// Events that a queue holds, groups and marks of the machine (fs.fanotify.*).
pub static MAX_QUEUED: Setting = Setting::new(16384, 1, i32::MAX as u64);
pub static MAX_GROUPS: Setting = Setting::new(128, 0, i32::MAX as u64);
pub static MAX_MARKS: Setting = Setting::new(8192, 0, i32::MAX as u64);
/// Bytes of the kernel's heap that queues and marks leave to others.
const HEAP_MARGIN: u64 = 2 << 20;

/// Events and options in a mark's mask, with Linux's values.
pub mod mask {
    pub const ACCESS: u32 = 0x1;
    pub const MODIFY: u32 = 0x2;
    pub const ATTRIB: u32 = 0x4;
    pub const CLOSE_WRITE: u32 = 0x8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const OPEN_EXEC: u32 = 0x1000;
    pub const Q_OVERFLOW: u32 = 0x4000;
    /// File systems in RAM have no errors to tell of.
    pub const FS_ERROR: u32 = 0x8000;
    pub const OPEN_PERM: u32 = 0x1_0000;
    pub const ACCESS_PERM: u32 = 0x2_0000;
    pub const OPEN_EXEC_PERM: u32 = 0x4_0000;
    pub const EVENT_ON_CHILD: u32 = 0x0800_0000;
    pub const RENAME: u32 = 0x1000_0000;
    pub const ONDIR: u32 = 0x4000_0000;
    pub const PERMISSIONS: u32 = OPEN_PERM | ACCESS_PERM | OPEN_EXEC_PERM;
    /// What is done with a path.
    pub const PATHS: u32 = ACCESS | MODIFY | CLOSE_WRITE | CLOSE_NOWRITE | OPEN | OPEN_EXEC;
    /// What is done to names in a directory.
    pub const ENTRIES: u32 = MOVED_FROM | MOVED_TO | CREATE | DELETE | RENAME;
    pub const EVENTS: u32 = PATHS | ENTRIES | ATTRIB | DELETE_SELF | MOVE_SELF | FS_ERROR;
    /// What is no event.
    pub const OPTIONS: u32 = EVENT_ON_CHILD | ONDIR;
    /// What only directories have.
    pub const DIRECTORIES: u32 = ENTRIES | OPTIONS;
    pub const VALID: u32 = EVENTS | PERMISSIONS | OPTIONS;
}

/// Flags of a group (fanotify_init(2)) that it keeps, with Linux's values.
pub mod flag {
    /// The class: who is asked first. 0 is only told.
    pub const CLASS: u32 = 0xc;
    pub const UNLIMITED_QUEUE: u32 = 0x10;
    pub const UNLIMITED_MARKS: u32 = 0x20;
    pub const REPORT_PIDFD: u32 = 0x80;
    pub const REPORT_TID: u32 = 0x100;
    pub const REPORT_FID: u32 = 0x200;
    pub const REPORT_DIR_FID: u32 = 0x400;
    pub const REPORT_NAME: u32 = 0x800;
    pub const REPORT_TARGET_FID: u32 = 0x1000;
    pub const REPORT_FD_ERROR: u32 = 0x2000;
    /// Handles instead of descriptors.
    pub const FIDS: u32 = REPORT_FID | REPORT_DIR_FID | REPORT_NAME | REPORT_TARGET_FID;
    /// Who made it has no privilege: it is not told who does something.
    pub const UNPRIVILEGED: u32 = 1 << 31;
}

static GROUPS: SpinLock<Vec<Weak<Group>>> = SpinLock::new(Rank::Leaf, Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);
static MARKS: AtomicUsize = AtomicUsize::new(0);

/// What something happened to.
struct Origin<'a> {
    /// As what it was reached, if it was by a path.
    path: Option<&'a Path>,
    inode: &'a InodeRef,
    /// The directory of its name, and that.
    parent: Option<(&'a Arc<Dentry>, &'a [u8])>,
    /// Where a rename takes it.
    target: Option<(&'a Arc<Dentry>, &'a [u8])>,
}

impl Origin<'_> {
    fn is_dir(&self) -> bool {
        self.inode.kind() == Kind::Directory
    }
}

/// Whether anybody has a mark.
pub(super) fn is_used() -> bool {
    MARKS.load(Relaxed) != 0
}

fn groups() -> Vec<Arc<Group>> {
    GROUPS.lock().iter().filter_map(Weak::upgrade).collect()
}

fn tell(origin: &Origin<'_>, what: u32) {
    for group in groups() {
        group.tell(origin, what);
    }
}

/// Calls `act` with what is at `path`, and the name that it has there.
fn with_path<T>(path: &Path, act: impl FnOnce(&Origin<'_>) -> T) -> T {
    let (parent, name) = (path.dentry().parent(), path.dentry().name());
    let parent = parent.as_ref().map(|dir| (dir, name.as_slice()));
    act(&Origin { path: Some(path), inode: path.inode(), parent, target: None })
}

/// Something was done with `path`: one of [`mask::PATHS`]. Does not sleep.
pub fn event(path: &Path, what: u32) {
    if is_used() {
        with_path(path, |origin| tell(origin, what));
    }
}

/// Asks whether `path` may be opened or read (one of [`mask::PERMISSIONS`]); waits for the answers.
///
/// # Errors
/// `EPERM` if a listener says no, `EINTR` if the thread is being ended.
pub fn permit(path: &Path, what: u32) -> Result<()> {
    if !is_used() {
        return Ok(());
    }
    let mut groups = groups();
    groups.sort_by_key(|group| core::cmp::Reverse(group.class()));
    with_path(path, |origin| groups.iter().try_for_each(|group| group.permit(origin, what)))
}

/// Something happened to the object called `dentry` that no path leads to: its attributes, its size.
pub(super) fn of_dentry(dentry: &Arc<Dentry>, what: u32) {
    let Some(inode) = dentry.inode().filter(|_| is_used()) else { return };
    let (parent, name) = (dentry.parent(), dentry.name());
    let parent = parent.as_ref().map(|dir| (dir, name.as_slice()));
    tell(&Origin { path: None, inode, parent, target: None }, what);
}

/// Something happened to `inode` whatever its name.
pub(super) fn own(inode: &InodeRef, what: u32) {
    if is_used() {
        tell(&Origin { path: None, inode, parent: None, target: None }, what);
    }
}

/// Something happened to `name`, which is `child`, in the directory `dir`.
pub(super) fn entry(dir: &Arc<Dentry>, name: &[u8], child: &InodeRef, what: u32) {
    if is_used() {
        tell(&Origin { path: None, inode: child, parent: Some((dir, name)), target: None }, what);
    }
}

/// `child` moved from one name to another.
pub(super) fn moved(from: (&Arc<Dentry>, &[u8]), to: (&Arc<Dentry>, &[u8]), child: &InodeRef) {
    if is_used() {
        tell(&Origin { path: None, inode: child, parent: Some(from), target: Some(to) }, mask::RENAME);
        entry(from.0, from.1, child, mask::MOVED_FROM);
        entry(to.0, to.1, child, mask::MOVED_TO);
    }
}
