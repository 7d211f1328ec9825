//! The cache of names: a tree of dentries, each a name in a directory with its inode, or the knowledge that there is none.
//!
//! # Invariants
//! * A dentry holds its parent; a parent knows its children weakly. [`super::dcache`] keeps recently used dentries
//!   alive, everything else is kept by whoever uses it. A dentry that is not in its parent's map any more is *unhashed*: its
//!   name was removed, or it is one of a volatile directory.
//! * The inode is set at most once: a removed name gets a new dentry.
//! * Names in a directory change, and are looked up in the file system, under the directory's `dir` lock.
//!
//! Locks: `dir` (sleeping, Directory; parent before child), then `place` and `children` (spinning, Dentry; never nested).

use super::dcache;
use super::inode::{Inode, InodeRef, Seen};
use super::types::Attr;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use umbel_mm::heap;
use umbel_smp::lock::{Mutex, MutexGuard, Once, Rank, SpinLock};

/// A name in a directory.
pub struct Dentry {
    /// Empty = negative.
    inode: Once<InodeRef>,
    place: SpinLock<Place>,
    children: SpinLock<BTreeMap<Box<[u8]>, Weak<Dentry>>>,
    dir: Mutex<()>,
    /// Number of mounts on it.
    pub(super) mounts: AtomicU32,
    unhashed: AtomicBool,
    /// Used since the cache last looked, and its place there; see [`super::dcache`].
    pub(super) used: AtomicBool,
    pub(super) kept_at: AtomicUsize,
    /// When a negative one was made.
    made_ns: u64,
}

#[derive(Default)]
struct Place {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
}

/// What [`Dentry::look`] finds.
pub enum Look {
    /// Perhaps negative.
    Dentry(Arc<Dentry>),
    /// As [`Seen::Attr`].
    Attr(Attr),
}

impl Dentry {
    /// The dentry of a file system's root.
    pub fn root(inode: InodeRef) -> Arc<Dentry> {
        Arc::new(Self::build(Some(inode), Place::default()))
    }

    fn build(inode: Option<InodeRef>, place: Place) -> Dentry {
        let cell = Once::new();
        if let Some(inode) = inode {
            // A new cell takes its first value.
            let _ = cell.set(inode);
        }
        let made_ns = if cell.get().is_none() { crate::time::monotonic_ns() } else { 0 };
        Dentry {
            inode: cell,
            made_ns,
            place: SpinLock::new(Rank::Dentry, place),
            children: SpinLock::new(Rank::Dentry, BTreeMap::new()),
            dir: Mutex::new(Rank::Directory, ()),
            mounts: AtomicU32::new(0),
            unhashed: AtomicBool::new(false),
            used: AtomicBool::new(true),
            kept_at: AtomicUsize::new(usize::MAX),
        }
    }

    /// The dentry of a file that has no name in `parent`, but may get one by link(2). `name` is for display.
    pub fn unnamed(parent: &Arc<Dentry>, name: &[u8], inode: InodeRef) -> Arc<Dentry> {
        let place = Place { parent: Some(parent.clone()), name: name.into() };
        let dentry = Self::build(Some(inode), place);
        dentry.unhashed.store(true, Relaxed);
        heap::cold(|| Arc::new(dentry))
    }

    /// The inode, unless negative.
    pub fn inode(&self) -> Option<&InodeRef> {
        self.inode.get()
    }

    /// The parent; `None` for a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.lock().parent.clone()
    }

    /// The name; empty for a root.
    pub fn name(&self) -> Vec<u8> {
        self.place.lock().name.to_vec()
    }

    /// The name from the file system's root on: what mountinfo shows of bind mounts.
    pub fn name_below_root(&self) -> Vec<u8> {
        let (mut names, mut at) = (Vec::from([self.name()]), self.parent());
        while let Some(dentry) = at {
            names.push(dentry.name());
            at = dentry.parent();
        }
        // The last one is the root's, which is empty.
        names.pop();
        if names.is_empty() {
            return Vec::from(b"/");
        }
        names.iter().rev().flat_map(|name| [b"/".as_slice(), name].concat()).collect()
    }

    /// Whether its name was removed.
    pub fn is_unhashed(&self) -> bool {
        self.unhashed.load(Relaxed)
    }

    /// Whether something is mounted on it.
    pub fn is_mountpoint(&self) -> bool {
        self.mounts.load(Relaxed) != 0
    }

    /// Something is mounted on it. In directories that make their names anew at each look, this one is found as long as it is.
    pub fn mount_on(self: &Arc<Self>) {
        let _change = super::ahead::change();
        self.mounts.fetch_add(1, Relaxed);
        let mut at = self.clone();
        while let Some(parent) = at.parent()
            && parent.inode().is_some_and(|dir| dir.volatile())
        {
            let name = at.name();
            heap::cold(|| {
                let mut children = parent.children.lock();
                if children.get(&name[..]).is_none_or(|known| known.strong_count() == 0) {
                    children.insert((&name[..]).into(), Arc::downgrade(&at));
                }
            });
            at = parent;
        }
    }

    /// Locks the directory's names.
    pub fn lock_dir(&self) -> MutexGuard<'_, ()> {
        self.dir.lock()
    }

    /// Locks the names of a second or third directory.
    pub fn lock_dir_nested(&self) -> MutexGuard<'_, ()> {
        self.dir.lock_nested()
    }

    /// The child `name`, perhaps negative. `self` is a directory that the caller may search.
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Dentry>> {
        if let Some(child) = self.cached(name) {
            return Ok(child);
        }
        let _dir = self.dir.lock();
        self.lookup_locked(name)
    }

    /// As [`Self::lookup`], under the directory's lock.
    pub fn lookup_locked(self: &Arc<Self>, name: &[u8]) -> Result<Arc<Dentry>> {
        if let Some(child) = self.cached(name) {
            return Ok(child);
        }
        let found = self.ask(name, |dir| dir.lookup(name))?;
        Ok(self.add(name, found))
    }

    /// As [`Self::lookup`], for somebody who wants attributes only.
    pub fn look(self: &Arc<Self>, name: &[u8]) -> Result<Look> {
        if let Some(child) = self.cached(name) {
            return Ok(Look::Dentry(child));
        }
        let _dir = self.dir.lock();
        if let Some(child) = self.cached(name) {
            return Ok(Look::Dentry(child));
        }
        let inode = match self.ask(name, |dir| dir.look(name))? {
            Some(Seen::Attr(attr)) => return Ok(Look::Attr(attr)),
            Some(Seen::Inode(inode)) => Some(inode),
            None => None,
        };
        Ok(Look::Dentry(self.add(name, inode)))
    }

    /// What the file system finds as `name`, if anything. Under the directory's lock.
    fn ask<R>(&self, name: &[u8], find: impl FnOnce(&dyn Inode) -> Result<R>) -> Result<Option<R>> {
        super::check_name(name)?;
        let dir = self.inode().ok_or(Errno::ENOENT)?;
        if heap::room().is_err() {
            dcache::shrink();
            heap::room()?;
        }
        match find(&**dir) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The new child `name`, negative without an inode. Under the directory's lock.
    fn add(self: &Arc<Self>, name: &[u8], found: Option<InodeRef>) -> Arc<Dentry> {
        let child = heap::cold(|| {
            let place = Place { parent: Some(self.clone()), name: name.into() };
            Arc::new(Self::build(found, place))
        });
        let volatile = self.inode().is_some_and(|dir| dir.volatile());
        if volatile || self.is_unhashed() {
            child.unhashed.store(true, Relaxed);
        } else {
            heap::cold(|| self.children.lock().insert(name.into(), Arc::downgrade(&child)));
            dcache::keep(child.clone());
        }
        child
    }

    /// The child `name`, if the cache has it.
    pub(super) fn cached(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        let child = self.children.lock().get(name)?.upgrade()?;
        let stale = match child.inode() {
            Some(inode) => inode.stale() && !child.is_mountpoint(),
            None => self.inode().is_some_and(|dir| dir.stale_negative(child.made_ns)),
        };
        if stale {
            self.forget(name, Arc::as_ptr(&child));
            return None;
        }
        if !child.used.load(Relaxed) {
            child.used.store(true, Relaxed);
        }
        Some(child)
    }

    /// Gives a negative dentry the inode that was just made. Under the parent's lock.
    pub fn instantiate(&self, inode: InodeRef) {
        // Negative under the lock, so nobody else sets it.
        let _ = self.inode.set(inode);
    }

    /// Removes the name. Under the parent's lock.
    pub fn unhash(self: &Arc<Self>) {
        let (parent, name) = {
            let place = self.place.lock();
            (place.parent.clone(), place.name.clone())
        };
        if let Some(parent) = parent {
            parent.forget(&name, Arc::as_ptr(self));
        }
        self.unhashed.store(true, Relaxed);
    }

    /// Moves to `name` in `parent`. Under both parents' locks; what was there has been unhashed.
    pub fn move_to(self: &Arc<Self>, parent: &Arc<Dentry>, name: &[u8]) {
        let new = Place { parent: Some(parent.clone()), name: name.into() };
        let old = core::mem::replace(&mut *self.place.lock(), new);
        if let Some(old_parent) = &old.parent {
            old_parent.forget(&old.name, Arc::as_ptr(self));
        }
        parent.children.lock().insert(name.into(), Arc::downgrade(self));
    }

    /// Whether `self` is `other` or above it.
    pub fn is_ancestor_of(self: &Arc<Self>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(other.clone());
        while let Some(dentry) = at {
            if Arc::ptr_eq(self, &dentry) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    /// The children that somebody, or the cache, keeps alive.
    pub(super) fn live_children(&self) -> Vec<Arc<Dentry>> {
        self.children.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Takes `child` out of the map if the map's entry is it.
    fn forget(&self, name: &[u8], child: *const Dentry) {
        let mut children = self.children.lock();
        if children.get(name).is_some_and(|entry| entry.as_ptr() == child) {
            children.remove(name);
        }
    }

    fn unhook(&mut self) -> Option<Arc<Dentry>> {
        let this: *const Dentry = self;
        let place = core::mem::take(self.place.get_mut());
        if let Some(parent) = &place.parent {
            parent.forget(&place.name, this);
        }
        place.parent
    }
}

impl Drop for Dentry {
    /// Drops a chain of parents without recursion: paths may be thousands deep, kernel stacks are not.
    fn drop(&mut self) {
        if *self.unhashed.get_mut()
            && let Some(inode) = self.inode.get()
        {
            super::notify::forgotten(inode);
        }
        let mut parent = self.unhook();
        while let Some(mut last) = parent.and_then(Arc::into_inner) {
            parent = last.unhook();
        }
    }
}
