//! The marks of a group: what they are put on, what they ask for, and which of them an event meets.

use super::super::notify::{self, Watch};
use super::super::{InodeRef, Mount, Path};
use super::group::Group;
use super::{HEAP_MARGIN, MARKS, MAX_MARKS, Origin, flag, mask};
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

/// What a mark asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    mask: u32,
    ignored: u32,
    /// A modification does not end what is ignored.
    survives: bool,
    /// `ignored` has options of its own (`FAN_MARK_IGNORE`).
    options: bool,
    /// The inode need not be kept for its sake (`FAN_MARK_EVICTABLE`).
    evictable: bool,
}

/// What is marked.
#[derive(Clone)]
pub enum Object {
    Inode(Path),
    Mount(Arc<Mount>),
    System(u64),
}

/// How a mark changes.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub add: bool,
    pub mask: u32,
    /// It is about what is ignored.
    pub ignored: bool,
    pub survives: bool,
    /// See [`Bits::options`].
    pub options: bool,
    pub evictable: bool,
}

/// Inode, mount or file system, by address or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Inode(usize),
    Mount(usize),
    System(u64),
}

/// Keeps what a key names from becoming something else.
pub(super) enum Held {
    Inode(Arc<Marker>),
    Mount { _mount: Weak<Mount> },
    System,
}

/// The marks of a group.
pub(super) type Marks = BTreeMap<Key, (Bits, Held)>;

/// Ends an inode's mark with the inode.
pub(super) struct Marker {
    group: Weak<Group>,
    inode: InodeRef,
}

impl Watch for Marker {
    fn tell(&self, _: &notify::Event<'_>) {}

    fn ended(&self) {
        if let Some(group) = self.group.upgrade() {
            let gone = group.state.lock().marks.remove(&inode_key(&self.inode));
            MARKS.fetch_sub(usize::from(gone.is_some()), Relaxed);
            drop(gone);
        }
    }
}

/// Which marks of a group an event has met.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    /// What of the event is wanted; with `ONDIR` if it is about a directory.
    pub mask: u32,
    /// Of a rename: a mark on the old directory, the new one, or the file system.
    pub old: bool,
    pub new: bool,
    pub system: bool,
}

/// As what a mark is met.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Own,
    /// The directory that the object is in.
    Parent,
    /// The directory that it is renamed into.
    Target,
    Mount,
    System,
}

fn inode_key(inode: &InodeRef) -> Key {
    Key::Inode(Arc::as_ptr(inode).cast::<()>().addr())
}

fn key(object: &Object) -> Key {
    match object {
        Object::Inode(path) => inode_key(path.inode()),
        Object::Mount(mount) => Key::Mount(Arc::as_ptr(mount).addr()),
        Object::System(dev) => Key::System(*dev),
    }
}

/// Where marks may be that an event meets.
fn places(origin: &Origin<'_>, what: u32) -> [Option<(Key, Role)>; 4] {
    let of = |dir: Option<(&Arc<super::Dentry>, &[u8])>| dir.and_then(|(dir, _)| dir.inode().map(inode_key));
    let system = Some((Key::System(origin.inode.fs().dev()), Role::System));
    let parent = of(origin.parent);
    if what & mask::ENTRIES != 0 {
        let target = of(origin.target).map(|key| (key, Role::Target));
        return [parent.map(|key| (key, Role::Own)), target, None, system];
    }
    let mount = origin.path.map(|path| (Key::Mount(Arc::as_ptr(path.mount()).addr()), Role::Mount));
    [Some((inode_key(origin.inode), Role::Own)), parent.map(|key| (key, Role::Parent)), mount, system]
}

/// Whether options let a mask apply.
fn applies(mask: u32, directory: bool, role: Role) -> bool {
    (!directory || mask & mask::ONDIR != 0) && (role != Role::Parent || mask & mask::EVENT_ON_CHILD != 0)
}

impl Bits {
    /// What is ignored of what a mark meets in `role`.
    fn ignored_of(&self, directory: bool, role: Role) -> u32 {
        // Without options of its own: directories too, and children where the mark is about these.
        let mask = match self.options {
            true => self.ignored,
            false => self.ignored | mask::ONDIR | self.mask & mask::EVENT_ON_CHILD,
        };
        if applies(mask, directory, role) { mask & !mask::OPTIONS } else { 0 }
    }
}

/// What of `what` the marks want to know.
pub(super) fn met(marks: &mut Marks, origin: &Origin<'_>, what: u32) -> Met {
    let directory = origin.is_dir();
    let (mut met, mut wanted, mut ignored) = (Met::default(), 0, 0);
    for (key, role) in places(origin, what).into_iter().flatten() {
        let Some((bits, _)) = marks.get_mut(&key) else { continue };
        if what & mask::MODIFY != 0 && !bits.survives {
            bits.ignored = 0;
        }
        ignored |= bits.ignored_of(directory, role);
        if !applies(bits.mask, directory, role) {
            continue;
        }
        wanted |= bits.mask;
        met.old |= role == Role::Own;
        met.new |= role == Role::Target;
        met.system |= role == Role::System;
    }
    met.mask = what & wanted & !ignored;
    if met.mask != 0 && directory {
        met.mask |= mask::ONDIR;
    }
    met
}

/// Whether a mark may become what `change` asks for.
fn check_change(bits: &Bits, change: &Change) -> Result<()> {
    let less = change.evictable && !bits.evictable
        || change.ignored && !change.options && bits.options
        || change.options && !change.survives && bits.survives;
    if less { Err(Errno::EEXIST) } else { Ok(()) }
}

impl Group {
    /// Changes the mark of `object`.
    ///
    /// # Errors
    /// `ENOENT` if there is none to take from, `ENOSPC` if there are too many, `EEXIST` if it would become weaker.
    pub fn mark(&self, object: &Object, change: Change) -> Result<()> {
        let key = key(object);
        if change.add && !self.state.lock().marks.contains_key(&key) {
            self.insert(object, key, change.evictable)?;
        }
        let mut state = self.state.lock();
        let (bits, _) = state.marks.get_mut(&key).ok_or(Errno::ENOENT)?;
        if change.add {
            check_change(bits, &change)?;
            bits.options |= change.options;
            bits.survives |= change.ignored && change.survives;
            bits.evictable &= change.evictable;
        }
        let field = if change.ignored { &mut bits.ignored } else { &mut bits.mask };
        *field = if change.add { *field | change.mask } else { *field & !change.mask };
        let empty = (bits.mask | bits.ignored) & !mask::OPTIONS == 0;
        let gone = if empty { state.marks.remove(&key) } else { None };
        drop(state);
        self.unmark(gone.into_iter().collect());
        Ok(())
    }

    fn insert(&self, object: &Object, key: Key, evictable: bool) -> Result<()> {
        umbel_mm::heap::room_for(HEAP_MARGIN).map_err(|_| Errno::ENOMEM)?;
        let limit = if self.flags & flag::UNLIMITED_MARKS != 0 { usize::MAX } else { MAX_MARKS.get() as usize };
        if MARKS.fetch_add(1, Relaxed) >= limit {
            MARKS.fetch_sub(1, Relaxed);
            return Err(Errno::ENOSPC);
        }
        let held = match object {
            Object::Inode(path) => {
                let marker = Arc::new(Marker { group: self.me.clone(), inode: path.inode().clone() });
                notify::add(path, marker.clone());
                Held::Inode(marker)
            }
            Object::Mount(mount) => Held::Mount { _mount: Arc::downgrade(mount) },
            Object::System(_) => Held::System,
        };
        let bits = Bits { evictable, ..Bits::default() };
        let old = self.state.lock().marks.insert(key, (bits, held));
        self.unmark(old.into_iter().collect());
        Ok(())
    }

    /// Removes all marks of one kind.
    pub fn flush(&self, kind: &Object) {
        let same = |key: &Key| match kind {
            Object::Inode(_) => matches!(key, Key::Inode(_)),
            Object::Mount(_) => matches!(key, Key::Mount(_)),
            Object::System(_) => matches!(key, Key::System(_)),
        };
        let mut gone = Vec::new();
        {
            let mut state = self.state.lock();
            let keys: Vec<Key> = state.marks.keys().copied().filter(same).collect();
            gone.extend(keys.iter().filter_map(|key| state.marks.remove(key)));
        }
        self.unmark(gone);
    }

    /// Marks that are in the table no more.
    pub(super) fn unmark(&self, gone: Vec<(Bits, Held)>) {
        MARKS.fetch_sub(gone.len(), Relaxed);
        for (_, held) in gone {
            if let Held::Inode(marker) = held {
                let inode = marker.inode.clone();
                let watch: Arc<dyn Watch> = marker;
                notify::remove(&inode, &watch);
            }
        }
    }
}
