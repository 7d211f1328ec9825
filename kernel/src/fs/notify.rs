//! Who watches which inode, and telling them what happens to it or to a name in it.
//!
//! Watches are in one table by the inode's address; a watch keeps its inode, so that an address stays one inode's. It
//! keeps the dentry too until the name is removed: what lies on the host is found again through it. When the last
//! user of a removed name is gone and no other name is left, the watch is told and ends.
//!
//! With no watch in the whole machine each event costs one load. Locks: `TABLE` (spinning, Leaf), nothing under it;
//! watchers are told after it is released. Users: `names`, `file`, `syscall`; [`super::inotify`] watches.
//! Source: inotify(7); the order of events is Linux's.

use super::Path;
use super::dentry::Dentry;
use super::fanotify;
use super::inode::{Inode, InodeRef};
use super::types::Kind;
use crate::Result;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use umbel_smp::lock::{Rank, SpinLock};

bitflags::bitflags! {
    /// What happened, with inotify's values.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Events: u32 {
        const ACCESS = 0x1;
        const MODIFY = 0x2;
        const ATTRIB = 0x4;
        const CLOSE_WRITE = 0x8;
        const CLOSE_NOWRITE = 0x10;
        const OPEN = 0x20;
        const MOVED_FROM = 0x40;
        const MOVED_TO = 0x80;
        const CREATE = 0x100;
        const DELETE = 0x200;
        const DELETE_SELF = 0x400;
        const MOVE_SELF = 0x800;
        const UNMOUNT = 0x2000;
        const Q_OVERFLOW = 0x4000;
        const IGNORED = 0x8000;
        const ISDIR = 0x4000_0000;
    }
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub events: Events,
    /// Ties the two halves of a rename together.
    pub cookie: u32,
    /// The name in a watched directory; empty for the watched inode itself.
    pub name: &'a [u8],
    /// The name was removed before this happened.
    pub unlinked: bool,
    /// A rename that stays in its directory.
    pub within: bool,
}

/// Who is told.
pub trait Watch: Send + Sync {
    /// Something happened. Must not sleep.
    fn tell(&self, event: &Event<'_>);
    /// The inode is gone, or its file system was unmounted: the watch is over. Must not sleep.
    fn ended(&self);
}

/// A watch in the table.
struct Entry {
    watch: Arc<dyn Watch>,
    inode: InodeRef,
    /// Until the name is removed.
    dentry: Option<Arc<Dentry>>,
}

type Table = BTreeMap<usize, Vec<Entry>>;

static TABLE: SpinLock<Table> = SpinLock::new(Rank::Leaf, BTreeMap::new());
/// Entries in the table.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn key(inode: &InodeRef) -> usize {
    Arc::as_ptr(inode).cast::<()>().addr()
}

fn nobody() -> bool {
    COUNT.load(Relaxed) == 0
}

/// Watches what is at `path`.
pub fn add(path: &Path, watch: Arc<dyn Watch>) {
    let entry = Entry { watch, inode: path.inode().clone(), dentry: Some(path.dentry().clone()) };
    TABLE.lock().entry(key(path.inode())).or_default().push(entry);
    COUNT.fetch_add(1, Relaxed);
}

/// Ends the watch `watch` of `inode`.
pub fn remove(inode: &InodeRef, watch: &Arc<dyn Watch>) {
    let gone = take(key(inode), |entry| core::ptr::addr_eq(Arc::as_ptr(&entry.watch), Arc::as_ptr(watch)));
    drop(gone);
}

/// Takes the entries of `key` that `test` accepts out of the table.
fn take(key: usize, test: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let mut table = TABLE.lock();
    let Some(list) = table.get_mut(&key) else { return Vec::new() };
    let mut gone = Vec::new();
    let mut index = 0;
    while let Some(entry) = list.get(index) {
        if test(entry) {
            gone.push(list.remove(index));
        } else {
            index += 1;
        }
    }
    if list.is_empty() {
        table.remove(&key);
    }
    drop(table);
    COUNT.fetch_sub(gone.len(), Relaxed);
    gone
}

fn watches(inode: &InodeRef) -> Vec<Arc<dyn Watch>> {
    let table = TABLE.lock();
    table.get(&key(inode)).map_or_else(Vec::new, |list| list.iter().map(|entry| entry.watch.clone()).collect())
}

fn tell(inode: &InodeRef, event: &Event<'_>) {
    for watch in watches(inode) {
        watch.tell(event);
    }
}

fn of_kind(inode: &InodeRef, events: Events) -> Events {
    if inode.kind() == Kind::Directory { events | Events::ISDIR } else { events }
}

/// Something was done with what is at `path`.
pub fn used(path: &Path, events: Events) {
    fanotify::event(path, events.bits());
    spread(path.dentry(), events);
}

/// Something happened to the object called `dentry`: its directory is told, and it itself.
pub fn changed(dentry: &Arc<Dentry>, events: Events) {
    fanotify::of_dentry(dentry, events.bits());
    spread(dentry, events);
}

fn spread(dentry: &Arc<Dentry>, events: Events) {
    if nobody() {
        return;
    }
    let Some(inode) = dentry.inode() else { return };
    let events = of_kind(inode, events);
    if let Some(parent) = dentry.parent()
        && let Some(dir) = parent.inode()
    {
        let unlinked = dentry.is_unhashed();
        tell(dir, &Event { events, cookie: 0, name: &dentry.name(), unlinked, within: false });
    }
    tell(inode, &Event { events, cookie: 0, name: b"", unlinked: false, within: false });
}

/// Something happened to `inode` that its directory is not told.
pub fn inode(inode: &InodeRef, events: Events) {
    fanotify::own(inode, events.bits());
    if !nobody() {
        tell(inode, &Event { events: of_kind(inode, events), cookie: 0, name: b"", unlinked: false, within: false });
    }
}

/// Something happened to `name`, which is `child`, in the directory `dir`.
pub fn name(dir: &Arc<Dentry>, name: &[u8], child: &InodeRef, events: Events) {
    fanotify::entry(dir, name, child, events.bits());
    if let Some(dir) = dir.inode().filter(|_| !nobody()) {
        tell(dir, &Event { events: of_kind(child, events), cookie: 0, name, unlinked: false, within: false });
    }
}

/// `child` moved from one name to another.
pub fn moved(from: (&Arc<Dentry>, &[u8]), to: (&Arc<Dentry>, &[u8]), child: &InodeRef) {
    static COOKIE: AtomicU32 = AtomicU32::new(1);
    fanotify::moved(from, to, child);
    if let (Some(old), Some(new)) = (from.0.inode(), to.0.inode())
        && !nobody()
    {
        let cookie = COOKIE.fetch_add(1, Relaxed);
        let within = Arc::ptr_eq(old, new);
        let half = |events, name| Event { events: of_kind(child, events), cookie, name, unlinked: false, within };
        tell(old, &half(Events::MOVED_FROM, from.1));
        tell(new, &half(Events::MOVED_TO, to.1));
    }
    inode(child, Events::MOVE_SELF);
}

/// A name of `inode` was removed: watches keep its dentry no longer.
pub fn unhashed(inode: &InodeRef) {
    if nobody() {
        return;
    }
    let mut dropped = Vec::new();
    if let Some(list) = TABLE.lock().get_mut(&key(inode)) {
        dropped.extend(list.iter_mut().filter_map(|entry| entry.dentry.take_if(|dentry| dentry.is_unhashed())));
    }
    drop(dropped);
}

/// The last user of a removed name of `inode` is gone: if it was the last name, so is the inode.
pub fn forgotten(inode: &InodeRef) {
    let unseen = nobody() && !fanotify::is_used();
    if unseen || inode.attr().is_ok_and(|attr| attr.nlink > 0) {
        return;
    }
    fanotify::own(inode, Events::DELETE_SELF.bits());
    for entry in take(key(inode), |_| true) {
        let events = of_kind(inode, Events::DELETE_SELF);
        entry.watch.tell(&Event { events, cookie: 0, name: b"", unlinked: false, within: false });
        entry.watch.ended();
    }
}

/// The file system of device `dev` was unmounted.
pub fn unmounted(dev: u64) {
    if nobody() {
        return;
    }
    let keys: Vec<usize> = TABLE.lock().keys().copied().collect();
    for key in keys {
        for entry in take(key, |entry| entry.inode.fs().dev() == dev) {
            let events = of_kind(&entry.inode, Events::UNMOUNT);
            entry.watch.tell(&Event { events, cookie: 0, name: b"", unlinked: false, within: false });
            entry.watch.ended();
        }
    }
}

/// Takes a removed name out of the cache, which would keep its inode, and tells watches.
pub fn removed(dentry: Arc<Dentry>) {
    super::dcache::evict(&dentry);
    super::handle::forget(&dentry);
    if let Some(inode) = dentry.inode() {
        unhashed(inode);
    }
}

/// Whether `inode` may be watched by who has `cred`.
pub fn check(inode: &dyn Inode, cred: &crate::task::Cred) -> Result<()> {
    super::perm::check(inode, cred, super::perm::Want::READ)
}
